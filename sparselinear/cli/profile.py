"""``sparselinear profile``: sparse, dense and masked layers over an adjacency, side by side."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..pattern import SparsityPattern
from ..profiling import (
    BASELINES,
    Profile,
    Rates,
    calibrated,
    profile,
    render,
    render_html,
    render_summary,
    to_csv,
    to_json,
)
from ..profiling.compare import check_fits
from .arguments import DTYPES, UsageError, add_layers, baselines, count, device, read_adjacency
from .output import Output, check_outputs, progress_bar, write

EXAMPLES = """\
examples:
  sparselinear profile                            a real matrix that ships with the package
  sparselinear profile A.npz --batch 64           a file written by scipy.sparse.save_npz
  sparselinear profile A.mtx --baselines dense,csr --json result.json
  sparselinear profile A.npz B.smtx --batch 32,256 --csv times.csv --report report.html
"""

NOTES = """\
All files are read, and all places to write to are tried, before anything is measured. Each table is
printed when it is complete. After Ctrl-C those that were printed stay, and no file is written.
"""


# What writes the result of an option.
WRITERS: dict[str, Callable[[Sequence[Profile]], str]] = {
    "--json": to_json,
    "--csv": to_csv,
    "--report": render_html,
}


@dataclass(frozen=True)
class Cell:
    """One adjacency at one batch."""

    name: str
    pattern: SparsityPattern
    batch: int

    @property
    def title(self) -> str:
        """What it is called where there are several."""
        return f"{self.name}, batch {self.batch}"


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "profile",
        prog="sparselinear profile",
        help="time and memory of sparse, dense and masked layers over one adjacency or several",
        description="Time and memory of a sparse layer, and of the systems people use instead, side by side.",
        epilog=f"{EXAMPLES}\n{NOTES}\nbaselines:\n"
        + "".join(f"  {system.name:<15} {system.text}\n" for system in BASELINES.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Read all, measure cell by cell, print each table, then write the files that were asked for."""
    where = device(options.device)
    asked = {option: getattr(options, option.strip("-")) for option in WRITERS}
    outputs = {option: path for option, path in asked.items() if path is not None}
    check_outputs(outputs, options.files)
    cells = _cells(options, where)
    console = Output(highlight=False, stderr="-" in outputs.values())
    rates = _rates(options) if where.type == "cpu" else None
    found = []
    for cell in cells:
        found.append(_measure(cell, options, where, rates, alone=len(cells) == 1))
        if len(found) > 1:
            console.print()
        render(found[-1], console)
    if len(found) > 1:
        render_summary(found, console)
    write({path: WRITERS[option](found) for option, path in outputs.items()})


def _cells(options: argparse.Namespace, where: torch.device) -> list[Cell]:
    """Every file at every batch, read and known to fit."""
    read = [read_adjacency(path) for path in options.files or [None]]
    cells = [Cell(name, pattern, batch) for name, pattern in read for batch in options.batch]
    for cell in cells:
        try:
            check_fits(cell.pattern, cell.batch, DTYPES[options.dtype], where)
        except MemoryError as error:
            raise UsageError(f"{cell.title}: {error}") from error
    return cells


def _rates(options: argparse.Namespace) -> Rates:
    """The rates of this machine, to predict with."""
    with progress_bar() as progress:
        return calibrated(DTYPES[options.dtype], threads=options.threads, progress=progress)


def _measure(
    cell: Cell, options: argparse.Namespace, where: torch.device, rates: Rates | None, alone: bool
) -> Profile:
    try:
        with progress_bar("" if alone else cell.title) as progress:
            return profile(
                cell.pattern,
                batch=cell.batch,
                dtype=DTYPES[options.dtype],
                device=where,
                threads=options.threads,
                baselines=options.baselines,
                rounds=options.rounds,
                rates=rates,
                name=cell.name,
                progress=progress,
            )
    except (RuntimeError, MemoryError, ValueError) as error:
        if alone:
            raise
        raise RuntimeError(f"{cell.title}: {str(error) or type(error).__name__}") from error


def _add_options(command: argparse.ArgumentParser) -> None:
    add_layers(command)
    add = command.add_argument
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    add(
        "--baselines",
        type=baselines,
        default="all",
        metavar="NAMES",
        help="names out of the list below, with commas between them, or all or none (default: all)",
    )
    add(
        "--rounds",
        type=count,
        default=7,
        metavar="N",
        help="samples of each time; what is closer than the noise takes up to three times as many "
        "(default: 7)",
    )
    add(
        "--json",
        metavar="FILE",
        help="write everything there too, for several files or batches as a list; - is the standard output",
    )
    add("--csv", metavar="FILE", help="write a line for each file, batch, system and kind of time; or -")
    add("--report", metavar="FILE.html", help="write a page that needs no network, with pictures; or -")
