"""How a sweep looks in a terminal, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..baselines import OURS
from ..figures import NONE, quantity, ratio
from ..result import TOO_LARGE
from ..timing import KINDS
from .breakeven import EQUAL, BreakEven
from .grid import Cell, size_text
from .measured import Measured
from .result import Sweep

# Lines of one kind that are shown; the rest are counted.
_MOST_LINES = 8

_COLUMNS = (
    "out_features", "in_features", "density", "nnz", "batch", "system", "status", "kind",
    "median_s", "quartile1_s", "quartile3_s", "ratio", "ratio_low", "ratio_high",
)  # fmt: skip


def render_sweep(sweep: Sweep, console: Console | None = None) -> None:
    """Print a sweep: the ratios of a step, the break-even in words and as a table, and what is missing.

    Args:
        sweep: what :func:`sparselinear.profiling.sweep` gave.
        console: where to; None is the standard output.
    """
    console = console or Console(highlight=False)
    baseline = sweep.grid.baselines[0]
    console.print(_heading(sweep))
    for size in sweep.grid.sizes:
        title = f"\nA step of sparse against {baseline}, {size_text(size)}"
        console.print(Text(title, style="bold"))
        console.print(_ratios(sweep, size, baseline))
    legend = f"x: how many times as fast as {baseline}.  =: no difference seen.  {NONE}: not measured."
    console.print(Text(legend, style="dim"))
    console.print(Text("\nBreak-even of a step", style="bold"))
    for found in sweep.break_evens():
        console.print(f"{_where(sweep, found)}: {found.words}.")
    console.print(Text("\nBreak-even: sparse is faster below this density", style="bold"))
    console.print(_break_evens(sweep))
    for line in _notes(sweep):
        console.print(line)


def csv_text(sweep: Sweep) -> str:
    """A line for each cell, system and kind, with the ratio to sparse; times are seconds."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for found in sweep.measured:
        writer.writerows(_csv_rows(found))
    return stream.getvalue()


def _csv_rows(found: Measured) -> Iterator[dict[str, Any]]:
    cell = found.cell
    for name, taken in found.systems.items():
        for kind in KINDS:
            row: dict[str, Any] = {
                "out_features": cell.out_features,
                "in_features": cell.in_features,
                "density": cell.density,
                "nnz": cell.nnz,
                "batch": cell.batch,
                "system": name,
                "status": taken.status,
                "kind": kind,
            }
            timing, point = taken.times[kind], found.compared(name, kind)
            if timing:
                first, third = timing.quartiles_s
                row |= {"median_s": timing.median_s, "quartile1_s": first, "quartile3_s": third}
            if point and name != OURS.name:
                row |= {"ratio": point.ratio, "ratio_low": point.low, "ratio_high": point.high}
            yield row


def _heading(sweep: Sweep) -> Text:
    grid, found = sweep.grid, sweep.machine
    title = "random patterns" if grid.pattern is None else f"thinned from density {grid.pattern.density:.3g}"
    dtype = str(grid.dtype).removeprefix("torch.")
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    kernels = ", ".join(dict.fromkeys(sweep.kernels.values()))
    lines = (
        f"{dtype}, {grid.device}, {threads}, {grid.rounds} rounds, kernel {kernels}",
        f"{found.processor}, {found.capability}, torch {found.torch}",
        f"{len(sweep.measured)} of {len(grid.cells())} cells measured",
    )
    return Text.assemble((f"Sweep, {title}", "bold"), "\n", "\n".join(lines))


def _table(*headers: str, right: int) -> Table:
    """A table without lines; columns from ``right`` on are set to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="underline")
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number >= right else "left")
    return table


def _ratios(sweep: Sweep, size: tuple[int, int], baseline: str) -> Table:
    table = _table("density", *(f"batch {batch}" for batch in sweep.grid.batches), right=1)
    for density in sweep.grid.densities:
        found = [sweep.at(Cell(*size, density, batch)) for batch in sweep.grid.batches]
        table.add_row(f"{density:.3g}", *(_ratio(one, baseline) for one in found))
    return table


def _ratio(found: Measured | None, baseline: str) -> str:
    if found is None:
        return NONE
    point = found.compared(baseline, "step")
    if point is None:
        return found.systems[baseline].status
    return "=" if point.outcome == EQUAL else ratio(point.ratio)


def _break_evens(sweep: Sweep) -> Table:
    table = _table("against", "size", "batch", "step", "forward", right=5)
    for step, forward in zip(sweep.break_evens("step"), sweep.break_evens("forward"), strict=True):
        table.add_row(step.baseline, size_text(step.size), str(step.batch), step.short, forward.short)
    return table


def _where(sweep: Sweep, found: BreakEven) -> str:
    size = f"{size_text(found.size)}, " if len(sweep.grid.sizes) > 1 else ""
    return f"Against {found.baseline}, {size}batch {found.batch}"


def _notes(sweep: Sweep) -> list[str]:
    """What the tables cannot say: what is missing and why, and whether the times can be trusted."""
    disturbed = sum(found.disturbed for found in sweep.measured)
    lines = [
        *_few(_skipped(sweep)),
        *_few(_systems(sweep, _too_large)),
        *_few(_systems(sweep, _refused)),
    ]
    if disturbed:
        lines.append(
            f"Other programs kept cores busy during {disturbed} of {len(sweep.measured)} cells: their times "
            "are too long, those of small layers most of all. Use fewer threads, or measure anew (--fresh)."
        )
    return ["", *lines] if lines else []


def _skipped(sweep: Sweep) -> list[str]:
    """A line for each reason, with the cells it holds for."""
    cells: dict[str, list[Cell]] = {}
    for left in sweep.skipped:
        cells.setdefault(left.reason, []).append(left.cell)
    return [
        f"{f'{len(of)} cells, the first ' if len(of) > 1 else ''}{of[0]}: not measured, {reason}."
        for reason, of in cells.items()
    ]


def _systems(sweep: Sweep, tell: Callable[[Measured, str], Iterator[str]]) -> list[str]:
    """What is told of the systems of all cells, each text once."""
    told = (text for found in sweep.measured for name in found.systems for text in tell(found, name))
    return list(dict.fromkeys(told))


def _too_large(found: Measured, name: str) -> Iterator[str]:
    taken = found.systems[name]
    if taken.status == TOO_LARGE:
        yield f"{name}, {found.cell}: not tried, it would need {quantity(taken.needed_bytes)}."


def _refused(found: Measured, name: str) -> Iterator[str]:
    for kind, reason in found.systems[name].refusals.items():
        if kind != "adam":  # the tables show no time of Adam
            yield f"{name}: {kind} refused; torch says: {reason}."


def _few(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], f"And {more} more like the last."] if more > 0 else lines
