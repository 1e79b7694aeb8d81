"""What the profile of a whole model found: rows of layers, times of the model, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from ..figures import NONE, milliseconds, ratio, three_digits
from ..ledger import Ledger, Sizes
from ..machine import Machine
from ..result import Profile
from ..table import plain_table
from ..timing import Timing

# What can decide which layers are chosen.
PREFER = ("step", "forward", "memory")
_TIMES = ("forward", "step")


@dataclass(frozen=True)
class Call:
    """A layer at one size of its input.

    Attributes:
        batch: rows of the input, all leading dimensions multiplied.
        count: how often the model calls the layer with it.
        profile: dense against sparse.
    """

    batch: int
    count: int
    profile: Profile


@dataclass(frozen=True)
class LayerRow:
    """One linear layer of the model, dense against sparse.

    Attributes:
        name: of the module.
        sizes: out_features, in_features, nnz and the sizes of entries, at its largest batch.
        density: nnz / (out_features * in_features).
        sparse: what it keeps as a SparseLinear, in bytes.
        dense: what it keeps as an nn.Linear.
        calls: the sizes of input that it was measured at; empty where the model did not call it.
    """

    name: str
    sizes: Sizes
    density: float
    sparse: Ledger
    dense: Ledger
    calls: tuple[Call, ...]

    def ratio(self, kind: str) -> float | None:
        """How many times as fast sparse is, over all calls; None where one side has no time.

        Args:
            kind: ``"forward"`` or ``"step"``.
        """
        times = [self._times(call, kind) for call in self.calls]
        pairs = [(a.median_s * n, b.median_s * n) for a, b, n in times if a and b]
        if not pairs or len(pairs) < len(times):
            return None
        return sum(theirs for _, theirs in pairs) / sum(ours for ours, _ in pairs)

    def is_faster(self, kind: str) -> bool:
        """Whether sparse is faster beyond the spread: its third quartile is below dense's first.

        Args:
            kind: ``"forward"`` or ``"step"``.
        """
        times = [self._times(call, kind) for call in self.calls]
        pairs = [(a.quartiles_s[1] * n, b.quartiles_s[0] * n) for a, b, n in times if a and b]
        complete = bool(pairs) and len(pairs) == len(times)
        return complete and sum(ours for ours, _ in pairs) < sum(theirs for _, theirs in pairs)

    @property
    def bytes_ratio(self) -> float:
        """How many times less than dense it keeps: values, indices and transpose against the weight."""
        return self.dense.resident_bytes / max(1, self.sparse.resident_bytes)

    @property
    def is_smaller(self) -> bool:
        """Whether values, indices and transpose take fewer bytes than the dense weight."""
        return self.sparse.resident_bytes < self.dense.resident_bytes

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "name": self.name,
            "out_features": self.sizes.out_features,
            "in_features": self.sizes.in_features,
            "nnz": self.sizes.nnz,
            "density": self.density,
            "versus_dense": {**{kind: self.ratio(kind) for kind in _TIMES}, "bytes": self.bytes_ratio},
            "faster": {kind: self.is_faster(kind) for kind in _TIMES},
            "smaller": self.is_smaller,
            "sparse": self.sparse.to_dict(),
            "dense": self.dense.to_dict(),
            "calls": [
                {"batch": call.batch, "count": call.count, "profile": call.profile.to_dict()}
                for call in self.calls
            ],
        }

    @staticmethod
    def _times(call: Call, kind: str) -> tuple[Timing | None, Timing | None, int]:
        ours, dense = call.profile.rows[0], call.profile.row("dense")
        return ours.times[kind], dense.times[kind] if dense else None, call.count


@dataclass(frozen=True)
class ModelTimes:
    """Two models on one input, measured in turns.

    Attributes:
        forward_before: forward without gradients, of the model as it was.
        forward_after: the same after the conversion.
        step_before: forward and backward; None where no output needs a gradient.
        step_after: the same after the conversion.
    """

    forward_before: Timing
    forward_after: Timing
    step_before: Timing | None
    step_after: Timing | None

    @property
    def forward(self) -> float:
        """How many times as fast forward is after the conversion."""
        return self.forward_before.median_s / self.forward_after.median_s

    @property
    def step(self) -> float | None:
        """How many times as fast a step is after the conversion; None where there is none."""
        if self.step_before is None or self.step_after is None:
            return None
        return self.step_before.median_s / self.step_after.median_s

    def to_dict(self) -> dict[str, Any]:
        """The timings and their ratios, ready for JSON."""
        return {
            "forward_before": self.forward_before.to_dict(),
            "forward_after": self.forward_after.to_dict(),
            "step_before": self.step_before and self.step_before.to_dict(),
            "step_after": self.step_after and self.step_after.to_dict(),
            "speed_up": {"forward": self.forward, "step": self.step},
        }


@dataclass(frozen=True)
class ModelProfile:
    """What :func:`profile_model` found.

    Attributes:
        name: of the model's class.
        prefer: what decided which layers were chosen: ``"step"``, ``"forward"`` or ``"memory"``.
        rounds: samples of each time.
        machine: what was measured on.
        rows: a row for each layer that has a mask.
        whole: the model as it is against the model with the chosen layers converted; None where none was.
    """

    name: str
    prefer: str
    rounds: int
    machine: Machine
    rows: tuple[LayerRow, ...]
    whole: ModelTimes | None

    @property
    def faster(self) -> tuple[str, ...]:
        """Names of the layers that are faster sparse: in forward if that is preferred, else in a step."""
        kind = "forward" if self.prefer == "forward" else "step"
        return tuple(row.name for row in self.rows if row.is_faster(kind))

    @property
    def smaller(self) -> tuple[str, ...]:
        """Names of the layers that keep fewer bytes when sparse."""
        return tuple(row.name for row in self.rows if row.is_smaller)

    @property
    def disturbed(self) -> bool:
        """Whether other programs wanted cores that the profile of a layer was using."""
        return any(call.profile.disturbed for row in self.rows for call in row.calls)

    @property
    def chosen(self) -> tuple[str, ...]:
        """``smaller`` where memory is preferred, otherwise ``faster``."""
        return self.smaller if self.prefer == "memory" else self.faster

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; the unit of a number is the end of its key."""
        return {
            "schema": 1,
            "name": self.name,
            "prefer": self.prefer,
            "rounds": self.rounds,
            "machine": self.machine.to_dict(),
            "disturbed": self.disturbed,
            "layers": [row.to_dict() for row in self.rows],
            "chosen": list(self.chosen),
            "whole": self.whole and self.whole.to_dict(),
        }

    def render(self, console: Console | None = None) -> None:
        """Print a table of the layers and the times of the whole model.

        Args:
            console: where to; None is the standard output.
        """
        console = console or Console(highlight=False)
        console.print(Text(f"{self.name}, by {self.prefer}", style="bold"))
        table = plain_table("layer", "out x in", "density", "batch", "forward", "step", "bytes", "choice")
        table.columns[0].no_wrap = False  # a long name takes more lines, so that no number is cut
        table.columns[0].overflow = "fold"
        for row in self.rows:
            table.add_row(*_cells(row), "sparse" if row.name in self.chosen else "dense")
        console.print(table)
        console.print(Text(_LEGEND, style="dim"))
        console.print(Text("\n".join(self._summary())))

    def _summary(self) -> list[str]:
        lines = []
        if self.disturbed:
            lines.append("Other programs kept cores busy meanwhile: these times are too long. Run it again.")
        if self.whole is None:
            return [*lines, "No layer is chosen: the model stays as it is."]
        times = self.whole
        lines += [_sentence("forward", times.forward, times.forward_before, times.forward_after)]
        if times.step is not None and times.step_before and times.step_after:
            lines.append(_sentence("training step", times.step, times.step_before, times.step_after))
        return lines


_LEGEND = """\
batch: rows of the input, *3 where it is called three times. forward, step: how
many times as fast as dense. bytes: how many times less than dense, of what the
layer keeps: values, indices and those of the transpose."""


def _cells(row: LayerRow) -> list[str]:
    batches = [f"{call.batch}" + f"*{call.count}" * (call.count > 1) for call in row.calls]
    return [
        row.name,
        f"{row.sizes.out_features}x{row.sizes.in_features}",
        f"{row.density:.3g}",
        ", ".join(batches) or NONE,
        ratio(row.ratio("forward")),
        ratio(row.ratio("step")),
        ratio(row.bytes_ratio),
    ]


def _sentence(what: str, speed_up: float, before: Timing, after: Timing) -> str:
    times = f"{milliseconds(before)} ms before, {milliseconds(after)} ms after"
    if before.quartiles_s[0] <= after.quartiles_s[1] and after.quartiles_s[0] <= before.quartiles_s[1]:
        return f"Whole model, {what}: no difference seen, {times}."
    word = "as fast" if speed_up >= 1 else "as long"
    return f"Whole model, {what}: {three_digits(max(speed_up, 1 / speed_up))} times {word}, {times}."
