"""Sweep over sizes, densities and batches: from which density on is dense, or a baseline, the faster one?

Each cell of the grid is a profile of its own, so sparse and the baselines take turns there. The cells come
in an order in which a budget that runs out leaves the most useful picture, see :meth:`Grid.cells`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ... import checks, kernels
from ...checks import message
from ...linear import SparseLinear
from .. import compare, machine
from ..baselines import OURS
from ..machine import Machine
from ..result import Profile
from ..rounds import Progress
from .grid import Cell, Grid
from .journal import Journal
from .measured import Measured, predicted_s
from .result import SCHEMA, Skipped, Sweep

# Scratch for each connection while a pattern is drawn: some six numbers of int64 at once.
_DRAWING_BYTES = 48


@dataclass(frozen=True)
class Status:
    """Where a sweep stands, for a progress bar.

    Attributes:
        done: cells measured, by this run or an earlier one, and the share of the one under way.
        total: cells of the grid.
        cell: the one under way.
        left_s: seconds until the end, predicted; None while nothing has been measured.
    """

    done: float
    total: int
    cell: Cell
    left_s: float | None


def sweep(
    grid: Grid | None = None,
    *,
    journal: str | Path | None = None,
    fresh: bool = False,
    budget_s: float | None = None,
    threads: int | None = None,
    memory_bytes: int | None = None,
    progress: Callable[[Status], None] | None = None,
) -> Sweep:
    """Measure the cells of a grid, sparse beside the baselines.

    An interrupt leaves by its own exception; what was measured until then is in the journal, and the
    same call goes on from there.

    Args:
        grid: what to measure; None is ``Grid()``.
        journal: file that keeps what is measured, cell by cell, and is gone on from if it is there; None
            keeps nothing.
        fresh: whether what the journal holds is thrown away.
        budget_s: seconds this call may take. A cell is begun only if what is left is enough for it, going
            by the nearest one measured. None measures every cell.
        threads: threads torch may use meanwhile; None leaves the number as it is.
        memory_bytes: what a system may need before it counts as too large; None is nine tenths of what
            is free.
        progress: called when a cell begins, and again while it is measured.

    Raises:
        TypeError, ValueError: an argument is wrong, or the journal is of another sweep or machine;
            nothing has been measured yet.
        RuntimeError: another process writes the journal, or no cell could be measured.
        OSError: the journal cannot be written.
    """
    begun = time.monotonic()
    grid = Grid() if grid is None else grid
    end = math.inf if budget_s is None else begun + _budget(budget_s)
    memory_bytes = None if memory_bytes is None else checks.whole("memory_bytes", memory_bytes, 1)
    found, names = machine.describe(grid.device), _kernels(grid)
    if threads is not None:
        found = replace(found, threads=checks.whole("threads", threads, 1))
    with ExitStack() as stack:
        book = None
        if journal is not None:
            book = stack.enter_context(Journal(journal, _header(grid, found, names), fresh=fresh))
        run = _Run(grid, found.threads, memory_bytes, end, book, progress)
        skipped = run.all()
    measured = tuple(sorted(run.measured.values(), key=lambda one: one.cell))
    return Sweep(grid, found, names, measured, tuple(sorted(skipped, key=lambda one: one.cell)))


class _Run:
    """The cells that are measured, and those to come."""

    def __init__(
        self,
        grid: Grid,
        threads: int,
        memory_bytes: int | None,
        end: float,
        book: Journal | None,
        progress: Callable[[Status], None] | None,
    ) -> None:
        self._grid, self._threads, self._memory_bytes, self._end = grid, threads, memory_bytes, end
        self._book, self._progress = book, progress
        self._cells = grid.cells()
        kept = _read(book, grid) if book else []
        self.measured = {found.cell: found for found in kept}
        self._predicted_end: float | None = None

    def all(self) -> list[Skipped]:
        """Measure cell after cell; those that were not, and why."""
        skipped: list[Skipped] = []
        left = [cell for cell in self._cells if cell not in self.measured]
        if left:
            # The first use of torch's optimizers takes a second; it would count as the first cell's.
            self._profile(torch.ones(1, 1), 1, 1, None)
        while left:
            cell = next((cell for cell in left if self._fits(cell)), None)
            if cell is None:
                break
            self._predict_end(left)
            reason = self._measure(cell, len(self._cells) - len(left))
            left.remove(cell)
            if reason:
                skipped.append(Skipped(cell, reason))
        if skipped and not self.measured:
            raise RuntimeError(f"no cell could be measured; {skipped[0].cell}: {skipped[0].reason}")
        return skipped + [Skipped(cell, self._over_budget(cell)) for cell in left]

    def _measure(self, cell: Cell, done: int) -> str:
        """Measure a cell and keep the result; the reason why it could not be, or nothing."""
        start = time.monotonic()
        self._tell(done, cell)
        try:
            self._check_memory(cell)
            profile = self._profile(
                self._grid.pattern_of(cell),
                cell.batch,
                self._grid.rounds,
                lambda steps, total, *_: self._tell(done + steps / total, cell),
            )
        except (RuntimeError, MemoryError) as error:  # one cell that torch cannot run is not the end
            return " ".join(str(error).split()) or type(error).__name__
        found = Measured.of(cell, profile, time.monotonic() - start)
        if self._book:
            self._book.append(found.to_dict())
        self.measured[cell] = found
        return ""

    def _check_memory(self, cell: Cell) -> None:
        """Before the pattern is drawn; the profile looks at the rest."""
        free = self._memory_bytes or machine.available_bytes(torch.device("cpu"))
        needed = _DRAWING_BYTES * cell.nnz
        if free is not None and needed > free:
            raise MemoryError(f"its pattern needs {needed:,} bytes, {free:,} bytes can be used")

    def _profile(self, adjacency: Any, batch: int, rounds: int, progress: Progress | None) -> Profile:
        return compare.profile(
            adjacency,
            batch=batch,
            dtype=self._grid.dtype,
            device=self._grid.device,
            threads=self._threads,
            baselines=self._grid.baselines,
            rounds=rounds,
            peak=False,
            memory_bytes=self._memory_bytes,
            progress=progress,
        )

    def _predicted(self, cell: Cell) -> float | None:
        return predicted_s(cell, self.measured.values())

    def _fits(self, cell: Cell) -> bool:
        return time.monotonic() + (self._predicted(cell) or 0) < self._end

    def _over_budget(self, cell: Cell) -> str:
        predicted = self._predicted(cell)
        if predicted is None:
            return "the budget was spent before anything was measured"
        return f"over the budget, would take some {predicted:.2g} s"

    def _predict_end(self, left: Sequence[Cell]) -> None:
        """Once a cell and not at each step of it: the samples are not to wait for this."""
        if self.measured:
            work = sum(self._predicted(cell) or 0 for cell in left)
            self._predicted_end = min(time.monotonic() + work, self._end)

    def _tell(self, done: float, cell: Cell) -> None:
        if self._progress:
            end = self._predicted_end
            left_s = None if end is None else max(0.0, end - time.monotonic())
            self._progress(Status(done, len(self._cells), cell, left_s))


def _read(book: Journal, grid: Grid) -> list[Measured]:
    """The cells that a journal holds."""
    cells, systems, found = set(grid.cells()), {OURS.name, *grid.baselines}, []
    for number, result in enumerate(book.results, 2):
        try:
            measured = Measured.from_dict(result)
        except (KeyError, TypeError, ValueError, AttributeError):
            measured = None
        if measured is None or measured.cell not in cells or set(measured.systems) != systems:
            advice = "Remove that line, or begin anew with --fresh (fresh=True)."
            got = f"{book.path}, whose line {number} is none"
            raise ValueError(message("journal", "lines of cells of this sweep", got, advice))
        found.append(measured)
    return found


def _header(grid: Grid, found: Machine, names: dict[int, str]) -> dict[str, Any]:
    """What two runs must share for their times to stand side by side."""
    here = found.to_dict()
    del here["memory_available_bytes"]
    by_batch = {f"kernel of batch {batch}": name for batch, name in names.items()}
    return {"schema": SCHEMA, "options": grid.to_dict(), "machine": here, "kernels": by_batch}


def _kernels(grid: Grid) -> dict[int, str]:
    """The kernel that runs each batch; it depends on nothing of a pattern but its device."""
    layer = SparseLinear(1, 1, torch.ones(1, 1), device=grid.device, dtype=grid.dtype)
    return {batch: kernels.explain(layer, batch).split(":")[0] for batch in grid.batches}


def _budget(value: Any) -> float:
    expected = "seconds above 0"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(message("budget_s", expected, repr(value)))
    if not 0 < value < math.inf:
        raise ValueError(message("budget_s", expected, repr(value)))
    return float(value)
