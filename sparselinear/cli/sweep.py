"""``sparselinear sweep``: from which density on is a dense layer, or another baseline, the faster one?"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from ..profiling import BASELINES
from ..profiling.sweeps.grid import BATCHES, DENSITIES, ROUNDS, SIZES, Grid
from ..profiling.sweeps.journal import kept
from ..profiling.sweeps.plot import require_matplotlib, svg_text
from ..profiling.sweeps.result import Sweep
from ..profiling.sweeps.run import Status, sweep
from ..profiling.sweeps.table import csv_text, render_sweep
from .arguments import DTYPES, UsageError, baselines, count, device, dtype, read_adjacency
from .output import Output, check_outputs, write

EXAMPLES = """\
examples:
  sparselinear sweep                              random patterns, 2048 x 2048, two minutes
  sparselinear sweep --sizes 1024,4096x512 --densities 0.01,0.1 --plot curves.svg
  sparselinear sweep A.npz --batches 16,64        the connections of a file, thinned

Each cell that is measured is kept in a journal at once. After Ctrl-C, or when the budget was spent, the
same command goes on; sizes, densities, batches and the like have to stay the same.
"""
BUDGET = 120.0


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "sweep",
        prog="sparselinear sweep",
        help="the density from which on dense is faster, by batch and size",
        description="Measure sparse beside its baselines over densities, batches and sizes, and\n"
        "tell at which density they break even.",
        epilog=f"{EXAMPLES}\nbaselines:\n"
        + "".join(f"  {system.name:<15} {system.text}\n" for system in BASELINES.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_grid(command)
    _add_run(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure what the journal lacks, print the tables, write the files that were asked for."""
    where = device(options.device)
    _check_paths(options)
    grid = _grid(options, where)
    path = Path(options.out or _default_journal(grid))
    if options.out is None:
        check_outputs({"--out": str(path)}, [])
    try:
        with _progress() as tell:
            result = sweep(
                grid,
                journal=path,
                fresh=options.fresh,
                budget_s=options.budget,
                threads=options.threads,
                progress=tell,
            )
    except KeyboardInterrupt:
        _interrupted(path, len(grid.cells()))
    except ValueError as error:  # of the journal: the grid is already made
        raise UsageError(error) from error
    taken = "-" in (options.json, options.csv)
    render_sweep(result, Output(highlight=False, stderr=taken))
    write(_texts(options, result))
    goes_on = "; the same command goes on" if result.skipped else ""
    print(f"sparselinear: the cells are kept in {path}{goes_on}", file=sys.stderr)


def _texts(options: argparse.Namespace, result: Sweep) -> dict[str, str]:
    """What goes into which file."""
    texts = {}
    if options.json is not None:
        texts[options.json] = json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n"
    if options.csv is not None:
        texts[options.csv] = csv_text(result)
    if options.plot is not None:
        texts[options.plot] = svg_text(result)
    return texts


def _interrupted(path: Path, total: int) -> NoReturn:
    text = f"interrupted: {kept(path)} of {total} cells are kept in {path}; the same command goes on"
    raise KeyboardInterrupt(text) from None


def _grid(options: argparse.Namespace, where: Any) -> Grid:
    pattern = None if options.file is None else read_adjacency(options.file)[1]
    try:
        return Grid(
            pattern,
            sizes=options.sizes,
            densities=options.densities,
            batches=options.batches,
            baselines=options.baselines,
            rounds=options.rounds,
            dtype=DTYPES[options.dtype],
            device=where,
            seed=options.seed,
        )
    except ValueError as error:
        raise UsageError(f"argument --{error}") from error


def _default_journal(grid: Grid) -> str:
    """A name of its own for each set of options, so that sweeps of two kinds do not meet in one file."""
    digest = hashlib.sha256(json.dumps(grid.to_dict()).encode()).hexdigest()
    return f"sparselinear-sweep-{digest[:8]}.jsonl"


def _check_paths(options: argparse.Namespace) -> None:
    """Everything that can be known before the work of the files that come after it."""
    names = {f"--{name}": getattr(options, name) for name in ("out", "json", "csv", "plot")}
    given = {name: path for name, path in names.items() if path is not None}
    for name in ("--out", "--plot"):
        if given.get(name) == "-":
            raise UsageError(f"argument {name}: expected a file, got '-'")
    check_outputs(given, [options.file] if options.file else [])
    if options.plot is not None:
        if Path(options.plot).suffix.lower() != ".svg":
            raise UsageError(f"argument --plot: expected a file ending in .svg, got {options.plot!r}")
        try:
            require_matplotlib()
        except ImportError as error:
            raise UsageError(f"argument --plot: {error}") from error


class _Left(ProgressColumn):
    """Counts down to the predicted end."""

    def render(self, task: Task) -> Text:
        """Minutes and seconds; a question mark while nothing is known."""
        until = task.fields["until"]
        if until is None:
            return Text("? left")
        left = max(0, round(until - time.monotonic()))
        return Text(f"{left // 60}:{left % 60:02} left")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Status], None]]:
    """A bar with the time left on a terminal; elsewhere one line for each cell. On the standard error."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), _Left())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, until=None)

        def draw(status: Status) -> None:
            until = None if status.left_s is None else time.monotonic() + status.left_s
            text = f"{int(status.done)} of {status.total}: {status.cell}"
            bar.update(task, completed=status.done, total=status.total, description=text, until=until)

        yield draw


def _lines() -> Callable[[Status], None]:
    said: set[object] = set()

    def tell(status: Status) -> None:
        if status.cell not in said:
            said.add(status.cell)
            left = "" if status.left_s is None else f", {status.left_s:.0f} s left"
            place = f"{int(status.done) + 1} of {status.total}"
            print(f"sparselinear: {place}: {status.cell}{left}", file=sys.stderr, flush=True)

    return tell


def _several(text: str, convert: Callable[[str], Any]) -> list[Any]:
    return [convert(part.strip()) for part in text.split(",")]


def _counts(text: str) -> list[int]:
    """Whole numbers from 1 up, with commas between them."""
    return _several(text, count)


def _sizes(text: str) -> list[tuple[int, int]]:
    """Sizes, each a number or OUTxIN, with commas between them."""
    return _several(text, _size)


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    try:
        out_features, in_features = (count(side) for side in (sides * 2 if len(sides) == 1 else sides))
    except (ValueError, argparse.ArgumentTypeError):
        expected = "expected sizes such as 1024 or 4096x512 (outputs x inputs)"
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}") from None
    return out_features, in_features


def _densities(text: str) -> list[float]:
    """Densities with commas between them."""
    return _several(text, _density)


def _density(text: str) -> float:
    number = _number(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"expected numbers above 0 and up to 1, got {text!r}")
    return number


def _seconds(text: str) -> float:
    """Seconds above 0."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _seed(text: str) -> int:
    """A whole number from 0 up."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 up, got {text!r}")
    return int(text)


def _listed(values: tuple[Any, ...]) -> str:
    return ",".join(map(str, values))


def _add_grid(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "file",
        metavar="FILE",
        nargs="?",
        help="adjacency to thin, rows are outputs: .npz (scipy.sparse), .mtx or .smtx; without one, random",
    )
    text = f"of random patterns: N, or outputs x inputs as MxN, with commas (default: {_listed(SIZES)})"
    add("--sizes", type=_sizes, metavar="N,MxN", help=text)
    text = f"with commas (default: {_listed(DENSITIES)}; of FILE, its own and four below)"
    add("--densities", type=_densities, metavar="D,D", help=text)
    text = f"rows of the input, with commas (default: {_listed(BATCHES)})"
    add("--batches", type=_counts, default=BATCHES, metavar="N,N", help=text)
    text = "names out of the list below, with commas, or all (default: dense,csr)"
    add("--baselines", type=baselines, default="dense,csr", metavar="NAMES", help=text)
    text = f"samples of each time, at least 3 (default: {ROUNDS})"
    add("--rounds", type=count, default=ROUNDS, metavar="N", help=text)
    add("--dtype", type=dtype, default="float32", help=f"{', '.join(DTYPES)} (default: float32)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    add("--seed", type=_seed, default=0, metavar="N", help="of the patterns (default: 0)")


def _add_run(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--threads", type=count, metavar="N", help="threads torch may use (default: torch's choice)")
    text = f"what this run may take; what is left out is listed (default: {BUDGET:.0f})"
    add("--budget", type=_seconds, default=BUDGET, metavar="SECONDS", help=text)
    text = "the journal (default: sparselinear-sweep-XXXXXXXX.jsonl here, named after the options)"
    add("--out", metavar="FILE", help=text)
    add("--fresh", action="store_true", help="throw away what the journal holds")
    add("--plot", metavar="FILE.svg", help="draw the curves (needs matplotlib)")
    add("--csv", metavar="FILE", help="write the times and ratios there; - is the standard output")
    add("--json", metavar="FILE", help="write the result there too; - is the standard output")
