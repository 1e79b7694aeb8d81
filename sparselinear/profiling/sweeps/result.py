"""What a sweep found: the cells measured, those left out, and where sparse and a baseline break even."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..machine import Machine
from .breakeven import BreakEven
from .grid import Cell, Grid
from .measured import Measured

SCHEMA = 1


@dataclass(frozen=True)
class Skipped:
    """A cell that was not measured, and why."""

    cell: Cell
    reason: str


@dataclass(frozen=True)
class Sweep:
    """What :func:`sparselinear.profiling.sweep` found.

    Attributes:
        grid: what was asked for.
        machine: what was measured on.
        kernels: name of the kernel of the sparse layer, by batch.
        measured: by size, density and batch.
        skipped: the other cells of the grid, likewise.
    """

    grid: Grid
    machine: Machine
    kernels: dict[int, str]
    measured: tuple[Measured, ...]
    skipped: tuple[Skipped, ...]

    def at(self, cell: Cell) -> Measured | None:
        """What was measured in a cell; None if it was not."""
        return next((found for found in self.measured if found.cell == cell), None)

    def break_even(self, size: tuple[int, int], batch: int, baseline: str, kind: str = "step") -> BreakEven:
        """How sparse compares with a baseline over the densities measured.

        Args:
            size: (out_features, in_features).
            batch: rows of the input.
            baseline: its name.
            kind: ``"step"`` or ``"forward"``.
        """
        here = [found for found in self.measured if (found.cell.size, found.cell.batch) == (size, batch)]
        points = (found.compared(baseline, kind) for found in here)
        return BreakEven(size, batch, baseline, kind, tuple(point for point in points if point))

    def break_evens(self, kind: str = "step") -> list[BreakEven]:
        """All of them, by baseline, size and batch."""
        grid = self.grid
        return [
            self.break_even(size, batch, baseline, kind)
            for baseline in grid.baselines
            for size in grid.sizes
            for batch in grid.batches
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; the unit of a number is the end of its key."""
        return {
            "schema": SCHEMA,
            "options": self.grid.to_dict(),
            "machine": self.machine.to_dict(),
            "kernels": {str(batch): name for batch, name in self.kernels.items()},
            "measured": [found.to_dict() for found in self.measured],
            "skipped": [{**asdict(left.cell), "reason": left.reason} for left in self.skipped],
            "break_even": [found.to_dict() for found in self.break_evens("step")],
            "break_even_forward": [found.to_dict() for found in self.break_evens("forward")],
        }
