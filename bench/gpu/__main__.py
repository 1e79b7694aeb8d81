"""What the layer does on a GPU: training steps, break-even, bandwidth, memory, correctness, choice, peers.

    python -m bench.gpu [--budget SECONDS] [--data DIR] [--tables NAME,NAME] [--rounds N] [--out DIR]
                        [--dry-run] [--device cpu --quick]

Tables come in the order of what matters most, and what the budget does not reach is named as such. After
every cell the results so far are written: bench/results/gpu-NAME.json, gpu.md and gpu.svg, or where --out
says. A run of some tables alone, or a quick one, is written only where --out says. Ends with status 1 if a
bar is missed or a cell failed, 2 if there is no such device. ``--device cpu --quick`` tries the run itself,
on small shapes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from sparselinear import kernels
from sparselinear.profiling import machine

from .. import real, report
from .bandwidth import Bandwidth
from .breakeven import BreakEvens
from .correctness import Correctness
from .measure import Setting
from .memory import Memory, Published
from .record import Record, line_of
from .rule import Rule
from .steps import Peers, Steps
from .table import Table

RESULTS = Path(__file__).parent.parent / "results"
TABLES: tuple[Table, ...] = (
    Steps(), Bandwidth(), BreakEvens(), Published(), Memory(), Correctness(), Rule(), Peers(),
)  # fmt: skip
# What a command that is stopped after ten minutes leaves for the start, and for the cell that is under way.
BUDGET_S = 540.0


def main(arguments: list[str] | None = None) -> int:
    begun = time.monotonic()
    options = _options(arguments)
    device = torch.device(options.device)
    end = begun + options.budget
    setting = Setting(device, options.quick, options.data, options.rounds, end)
    if options.dry_run:
        _plan(options.chosen, setting)
        return 0
    if problem := _problem(device):
        print(problem, file=sys.stderr)
        return 2
    torch.set_float32_matmul_precision("highest")  # no TF32, on either side
    torch.manual_seed(0)
    record = Record(_command(options), setting, machine.describe(device), options.chosen)
    _run(record, options.out or (None if _is_partial(options) else RESULTS))
    judged = record.verdicts()
    print("", *report.verdicts(judged), sep="\n")
    missed = [verdict for verdict in judged if verdict.met is False]
    for verdict in missed:
        print("\n  ".join(["missed:", verdict.text, *verdict.misses]), file=sys.stderr)
    failures = record.failures()
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if missed or failures else 0


def _run(record: Record, folder: Path | None) -> None:
    """Measure table after table, and write after each cell."""
    for table in record.tables:
        rows = record.rows.setdefault(table.name, [])
        print(f"\n{table.title}\n\n| | {' | '.join(table.columns)} |")
        for row in table.rows(record.setting):
            rows.append(row)
            print(line_of(table, row), flush=True)
            if folder:
                record.write(folder)
    record.complete = True
    if folder:
        record.write(folder)
        record.draw(folder)


def _plan(tables: list[Table], setting: Setting) -> None:
    for table in tables:
        cells = table.cells(setting)
        print(f"{table.name}: {table.title}, {len(cells)} cells", *cells, sep="\n  ")


def _problem(device: torch.device) -> str | None:
    """Why nothing can be measured; None if it can."""
    if device.type != "cuda":
        return None
    if not torch.cuda.is_available():
        return (
            "bench.gpu: expected a CUDA device and a torch built for it, and torch "
            f"{torch.__version__} sees none.\n"
            "--dry-run lists what would be measured, --device cpu --quick tries the run on small shapes."
        )
    return kernels.available(device)["torch"]


def _is_partial(options: argparse.Namespace) -> bool:
    return options.quick or options.device != "cuda" or len(options.chosen) < len(TABLES)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.splitlines()[0])
    names = [table.name for table in TABLES]
    add = parser.add_argument
    add("--budget", type=float, default=BUDGET_S, help=f"seconds for the whole run (default {BUDGET_S:g})")
    add("--data", type=Path, help="folder with matrices of real networks")
    add("--tables", default=",".join(names), help=f"some of {', '.join(names)} (default: all)")
    add("--rounds", type=int, default=5, help="samples of each side (default 5)")
    add("--device", default="cuda", choices=("cuda", "cpu"), help="where (default cuda)")
    add("--quick", action="store_true", help="small shapes, which say nothing: tries the run itself")
    add("--dry-run", action="store_true", help="list what would be measured, and measure nothing")
    add("--out", type=Path, help="where to write (default bench/results)")
    options = parser.parse_args(arguments)
    asked = options.tables.split(",")
    if unknown := [name for name in asked if name not in names]:
        parser.error(f"--tables: expected {', '.join(names)}, got {', '.join(unknown)}")
    if options.rounds < 1 or not options.budget > 0:
        parser.error("expected at least one round, and a budget above 0")
    try:
        real.cells(options.data)
    except FileNotFoundError as error:
        parser.error(f"--data {error}")
    options.chosen = [table for table in TABLES if table.name in asked]
    return options


def _command(options: argparse.Namespace) -> str:
    """The command as it would be given elsewhere: without the paths of this machine."""
    words = [f"--rounds {options.rounds}", f"--budget {options.budget:g}"]
    words += ["--data DIR"] if options.data else []
    words += [f"--tables {options.tables}"] if len(options.chosen) < len(TABLES) else []
    words += [f"--device {options.device}"] if options.device != "cuda" else []
    return " ".join(["python -m bench.gpu", *words, *(["--quick"] if options.quick else [])])


if __name__ == "__main__":
    sys.exit(main())
