"""``sparselinear profile``: sparse, dense and masked layers over one adjacency, side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..profiling import BASELINES, profile, render
from .arguments import DTYPES, baselines, count, device, dtype, read_adjacency
from .output import Output, check_writable, progress_bar, write

EXAMPLES = """\
examples:
  sparselinear profile                            a real matrix that ships with the package
  sparselinear profile A.npz --batch 64           a file written by scipy.sparse.save_npz
  sparselinear profile A.mtx --baselines dense,csr --json result.json
"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "profile",
        prog="sparselinear profile",
        help="time and memory of sparse, dense and masked layers over one adjacency",
        description="Time and memory of a sparse layer, and of the systems people use instead, side by side.",
        epilog=f"{EXAMPLES}\nbaselines:\n"
        + "".join(f"  {system.name:<15} {system.text}\n" for system in BASELINES.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure, print the table, write the file that was asked for."""
    where = device(options.device)
    if options.json not in (None, "-"):
        check_writable("--json", Path(options.json))
    name, pattern = read_adjacency(options.file)
    with progress_bar() as progress:
        result = profile(
            pattern,
            batch=options.batch,
            dtype=DTYPES[options.dtype],
            device=where,
            threads=options.threads,
            baselines=options.baselines,
            rounds=options.rounds,
            name=name,
            progress=progress,
        )
    render(result, Output(highlight=False, stderr=options.json == "-"))
    if options.json is not None:
        write(options.json, json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n")


def _add_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "file",
        metavar="FILE",
        nargs="?",
        help="adjacency, rows are outputs: .npz (scipy.sparse), .mtx or .smtx; "
        "without one, proteins to Reactome pathways",
    )
    add("--batch", type=count, default=256, metavar="N", help="rows of the input (default: 256)")
    add("--dtype", type=dtype, default="float32", help=f"{', '.join(DTYPES)} (default: float32)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    add("--threads", type=count, metavar="N", help="threads torch may use (default: torch's choice)")
    add(
        "--baselines",
        type=baselines,
        default="all",
        metavar="NAMES",
        help="names out of the list below, with commas between them, or all or none (default: all)",
    )
    add("--rounds", type=count, default=7, metavar="N", help="samples of each time (default: 7)")
    add("--json", metavar="FILE", help="write the result there too; - is the standard output")
