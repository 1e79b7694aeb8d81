"""What a profile found, as numbers: one row for each system, and how it compares with dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .cost import Advice
from .ledger import Ledger, Sizes
from .machine import Machine, disturbs
from .memory import Peak
from .noise import Difference, difference
from .portrait import Portrait
from .roofline import Position, Roofs, positions
from .timing import Timing
from .verdict import Verdict, judge

# Of the dictionaries and so of the JSON: 2 brought the verdict, the noise, and lists of profiles.
SCHEMA = 2
# The three things that can become of a system.
MEASURED, TOO_LARGE, REFUSED = "measured", "too large", "refused"


@dataclass(frozen=True)
class Row:
    """One system of a profile.

    Attributes:
        name: ``"sparselinear"``, or the name of a baseline.
        letter: its letter in the list of baselines; empty for ours.
        text: what it is, in a line.
        status: ``"measured"``, ``"too large"`` (never built) or ``"refused"`` (torch does not run it).
        ledger: its bytes by term, from the sizes alone.
        needed_bytes: what a training step has to find free, predicted.
        forward: time of forward, if it was run.
        step: time of a training step, if it was run.
        adam: time of an update by Adam, if it was run.
        refusals: what torch said, by ``"forward"``, ``"step"`` and ``"adam"``.
        peak: peak memory of a training step, if it was asked for and the step runs.
    """

    name: str
    letter: str
    text: str
    status: str
    ledger: Ledger
    needed_bytes: int
    forward: Timing | None = None
    step: Timing | None = None
    adam: Timing | None = None
    refusals: tuple[tuple[str, str], ...] = ()
    peak: Peak | None = None

    @property
    def times(self) -> dict[str, Timing | None]:
        """The timings by kind."""
        return {"forward": self.forward, "step": self.step, "adam": self.adam}

    @property
    def fits(self) -> bool:
        """Whether it was tried at all."""
        return self.status != TOO_LARGE


@dataclass(frozen=True)
class Profile:
    """What :func:`profile` found.

    Attributes:
        name: what was profiled, for a title.
        sizes: the numbers that every byte count depends on.
        density: nnz / (out_features * in_features).
        dtype: name of the dtype, for example ``"float32"``.
        device: name of the device.
        rounds: samples of each time that were asked for; what was close has more.
        kernel: which kernel ran the sparse layer, and why.
        machine: what was measured on.
        other_cores: cores that other programs kept busy meanwhile; None where that cannot be read.
        limit_bytes: what a system was allowed to need.
        rows: ours first, then the baselines.
        portrait: what a picture of the pattern needs; None leaves the picture out.
        roofs: what the device does at most; None leaves the roofline out.
        predicted: what the cost model said of it; None where it was not asked.
        measured_at: when, in ISO 8601 with the offset of the clock; empty where it is not known.
    """

    name: str
    sizes: Sizes
    density: float
    dtype: str
    device: str
    rounds: int
    kernel: str
    machine: Machine
    other_cores: float | None
    limit_bytes: int
    rows: tuple[Row, ...]
    portrait: Portrait | None = None
    measured_at: str = ""
    roofs: Roofs | None = None
    predicted: Advice | None = None

    def row(self, name: str) -> Row | None:
        """The row of a system; None if it was not asked for."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def disturbed(self) -> bool:
        """Whether other programs wanted cores that the profile was using."""
        return disturbs(self.other_cores, self.machine.cores, self.machine.threads)

    @property
    def roofline(self) -> tuple[Position, ...]:
        """Where our products, and those of dense, stand below the roofs."""
        if self.roofs is None:
            return ()
        return tuple(place for row in self.rows for place in positions(row, self.sizes, self.roofs))

    @property
    def verdict(self) -> Verdict:
        """What it means, in words and as data."""
        return judge(self)

    def against_dense(self, row: Row) -> dict[str, Difference | None]:
        """How many times as long as a system dense takes, with the noise; None if either has no time."""
        dense = self.row("dense")
        references: dict[str, Timing | None] = dense.times if dense else dict.fromkeys(row.times)
        return {
            kind: difference(reference, timing) if timing and reference else None
            for (kind, timing), reference in zip(row.times.items(), references.values(), strict=True)
        }

    def versus_dense(self, row: Row) -> dict[str, float | None]:
        """How many times less than dense a system takes, of time and of memory; None if not known.

        Above 1 the system is better than dense, below 1 it is worse. The ratio of a time is the median
        over the rounds. ``total`` is the ledger's, and compares also with a dense layer that does not
        fit; the others compare what was measured.
        """
        dense = self.row("dense")
        ratios: dict[str, float | None] = dict.fromkeys((*row.times, "total", "peak"))
        if dense is None:
            return ratios
        ratios.update(
            {kind: found.ratio if found else None for kind, found in self.against_dense(row).items()}
        )
        if row.ledger.adam_bytes is not None:  # otherwise the totals are not of the same things
            ratios["total"] = dense.ledger.total_bytes / max(1, row.ledger.total_bytes)
        if row.peak and row.peak.peak_bytes and dense.peak and dense.peak.peak_bytes:
            ratios["peak"] = dense.peak.peak_bytes / row.peak.peak_bytes
        return ratios

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; the unit of a number is the end of its key."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "out_features": self.sizes.out_features,
            "in_features": self.sizes.in_features,
            "nnz": self.sizes.nnz,
            "density": self.density,
            "bias": self.sizes.bias,
            "batch": self.sizes.batch,
            "dtype": self.dtype,
            "device": self.device,
            "rounds": self.rounds,
            "kernel": self.kernel,
            "limit_bytes": self.limit_bytes,
            "other_cores": self.other_cores,
            "machine": self.machine.to_dict(),
            "measured_at": self.measured_at,
            "portrait": self.portrait and self.portrait.to_dict(),
            "roofline": [place.to_dict() for place in self.roofline],
            "predicted": self.predicted and self.predicted.to_dict(),
            "verdict": self.verdict.to_dict(),
            "systems": [self._row_dict(row) for row in self.rows],
        }

    def _row_dict(self, row: Row) -> dict[str, Any]:
        return {
            "name": row.name,
            "letter": row.letter,
            "text": row.text,
            "status": row.status,
            "needed_bytes": row.needed_bytes,
            "ledger": row.ledger.to_dict(),
            **{kind: timing and timing.to_dict() for kind, timing in row.times.items()},
            "refusals": dict(row.refusals),
            "peak": row.peak and row.peak.to_dict(),
            "versus_dense": self.versus_dense(row),
            "noise": {kind: found and found.noise for kind, found in self.against_dense(row).items()},
        }
