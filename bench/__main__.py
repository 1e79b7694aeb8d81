"""Training steps of our layer against every peer, on a CPU: one command, a table and a picture.

    python -m bench [--rounds N] [--threads N] [--only TEXT] [--peers all|stock|none|NAME,NAME]
                    [--data DIR] [--kernel NAME] [--out DIR]

A run over all cells and peers writes bench/results/cpu-steps.md, .json and .svg; one that leaves some
out writes only where --out says. Ends with status 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from sparselinear import kernels
from sparselinear.profiling import machine

from . import packages, peers, plot, real, report
from .cells import CELLS, SMOKE, Cell
from .measure import Limits, Result, measure
from .stock import Ours

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    options = _options()
    packages.set_threads(options.threads)
    torch.set_num_threads(options.threads)
    Ours.kernel = options.kernel
    found, others = machine.describe(torch.device("cpu")), machine.OtherWork()
    print(report.HEADER)
    results = [_measured(cell, options) for cell in options.cells]
    run = report.Run(_command(), options.rounds, found, others.cores(), results)
    judged = run.judge()
    print("", *report.verdicts(judged), sep="\n")
    missing = [peer.name for peer in options.asked if peer.problem()]
    if missing:
        print(f"\nnot installed: {', '.join(missing)}. pip install -c constraints.txt -e '.[bench]'")
    if folder := _folder(options):
        report.write(run, folder)
        plot.draw(results, folder / "cpu-steps.svg")
        print(f"\nwritten: {folder}/cpu-steps.md, .json, .svg")
    missed = [verdict for verdict in judged if verdict.met is False]
    for verdict in missed:
        print("\n  ".join(["missed:", verdict.text, *verdict.misses]), file=sys.stderr)
    return 1 if missed else 0


def _folder(options: argparse.Namespace) -> Path | None:
    """Where to write; nowhere for a partial run, unless it was told a place."""
    partial = options.only or options.kernel or options.peers != "all"
    return options.out or (None if partial else RESULTS)


def _measured(cell: Cell, options: argparse.Namespace) -> Result:
    free = machine.available_bytes(torch.device("cpu"))
    limits = Limits(options.limit, None if free is None else free // 2)
    result = measure(cell, options.asked, options.rounds, limits)
    print(report.row(result), flush=True)
    return result


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=_positive, default=9, help="samples of each side (default 9)")
    parser.add_argument("--threads", type=_positive, default=2, help="threads of every side (default 2)")
    parser.add_argument("--only", default="", help="only the cells whose label holds this text")
    parser.add_argument("--peers", default="all", help="all (default), stock, none, or names with commas")
    parser.add_argument("--data", type=Path, help="folder with more matrices of real networks")
    parser.add_argument("--kernel", help="our kernel; by default the one that the library chooses")
    parser.add_argument("--limit", type=float, default=3.0, help="most seconds a step may take (default 3)")
    parser.add_argument("--out", type=Path, help="where to write (default bench/results)")
    options = parser.parse_args()
    try:
        options.asked = peers.select(options.peers)
        every = [*CELLS, *real.cells(options.data)]
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    if "smoke" in options.only:
        every = SMOKE
    options.cells = [cell for cell in every if options.only in cell.label]
    if not options.cells:
        parser.error(f"--only {options.only}: no cell of that name")
    if options.kernel not in (None, *kernels.available()):
        parser.error(f"--kernel {options.kernel}: expected one of {', '.join(kernels.available())}")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def _command() -> str:
    """The command as it would be given elsewhere: without the paths of this machine."""
    words = ["python -m bench", *sys.argv[1:]]
    paths = [before in ("--data", "--out") for before in ["", *words]]
    return " ".join("DIR" if path else word for word, path in zip(words, paths, strict=False))


if __name__ == "__main__":
    sys.exit(main())
