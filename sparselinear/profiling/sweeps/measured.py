"""One measured cell of a sweep, as it stands in the journal, and how long another cell would take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..baselines import OURS
from ..result import Profile, Row
from ..timing import KINDS, Timing
from .breakeven import Point
from .grid import Cell

# A sample of a kind lasts 10 ms, and up to twice that as its repeats are rounded up.
_SHORTEST_S = 0.02
# Systems whose time grows with the connections; that of the others grows with the cells of the matrix.
_BY_CONNECTIONS = (OURS.name, "csr")


@dataclass(frozen=True)
class Taken:
    """What became of a system in a cell.

    Attributes:
        status: ``"measured"``, ``"too large"`` or ``"refused"``, as in :class:`Row`.
        needed_bytes: what a training step has to find free, predicted.
        times: the timings by kind, None where it was not run.
        refusals: what torch said, by kind.
    """

    status: str
    needed_bytes: int
    times: dict[str, Timing | None]
    refusals: dict[str, str]

    @classmethod
    def of(cls, row: Row) -> Taken:
        """What a row of a profile says."""
        return cls(row.status, row.needed_bytes, row.times, dict(row.refusals))

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Taken:
        """What :meth:`to_dict` gave."""
        times = {kind: told[kind] and _timing(told[kind]) for kind in KINDS}
        return cls(told["status"], int(told["needed_bytes"]), times, dict(told["refusals"]))

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        times = {kind: timing and timing.to_dict() for kind, timing in self.times.items()}
        return {
            "status": self.status, "needed_bytes": self.needed_bytes, **times, "refusals": self.refusals,
        }  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A cell and what was measured there.

    Attributes:
        cell: which one.
        seconds: how long measuring it took, with making the pattern and warming up.
        disturbed: whether other programs wanted the cores meanwhile, so that times are too long.
        systems: what became of ours and of the baselines, by name.
    """

    cell: Cell
    seconds: float
    disturbed: bool
    systems: dict[str, Taken]

    @classmethod
    def of(cls, cell: Cell, profile: Profile, seconds: float) -> Measured:
        """What a profile of the cell found."""
        return cls(cell, seconds, profile.disturbed, {row.name: Taken.of(row) for row in profile.rows})

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Measured:
        """What :meth:`to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        cell = Cell(told["out_features"], told["in_features"], told["density"], told["batch"])
        systems = {name: Taken.from_dict(taken) for name, taken in told["systems"].items()}
        return cls(cell, float(told["seconds"]), bool(told["disturbed"]), systems)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            **asdict(self.cell),
            "nnz": self.cell.nnz,
            "seconds": self.seconds,
            "disturbed": self.disturbed,
            "systems": {name: taken.to_dict() for name, taken in self.systems.items()},
        }

    def compared(self, baseline: str, kind: str) -> Point | None:
        """How ours compares with a baseline; None if one of them was not run."""
        ours, theirs = (self.systems[name].times[kind] for name in (OURS.name, baseline))
        if ours is None or theirs is None:
            return None
        density = self.cell.nnz / math.prod(self.cell.size)  # a whole number of connections
        return Point.of(density, ours, theirs)

    def seconds_at(self, cell: Cell) -> float:
        """How long this measurement would have taken in another cell: the times grow with the work."""
        return self.seconds * self._timed_s(cell) / self._timed_s(self.cell)

    def _timed_s(self, cell: Cell) -> float:
        """Seconds of one round in a cell, if the work of each system is all that matters."""
        batches = cell.batch / self.cell.batch
        dense = batches * math.prod(cell.size) / math.prod(self.cell.size)
        ours = batches * cell.nnz / self.cell.nnz
        return sum(
            max(_SHORTEST_S, timing.median_s * (ours if name in _BY_CONNECTIONS else dense))
            for name, taken in self.systems.items()
            for timing in taken.times.values()
            if timing
        )


def predicted_s(cell: Cell, measured: Iterable[Measured]) -> float | None:
    """Seconds that a cell will take, from the nearest one that was measured; None if there is none."""
    nearest = min(measured, key=lambda found: _distance(found.cell, cell), default=None)
    return nearest.seconds_at(cell) if nearest else None


def _distance(one: Cell, other: Cell) -> float:
    """How many times apart the sizes, the densities and the batches are, together, as a logarithm."""
    sides = [(math.prod(cell.size), cell.density, cell.batch) for cell in (one, other)]
    return sum(abs(math.log(a / b)) for a, b in zip(*sides, strict=True))


def _timing(told: Mapping[str, Any]) -> Timing:
    samples = tuple(float(sample) for sample in told["samples_s"])
    if not samples or min(samples) <= 0:
        raise ValueError(f"samples_s: expected seconds above 0, got {samples}")
    return Timing(samples, int(told["repeats"]))
