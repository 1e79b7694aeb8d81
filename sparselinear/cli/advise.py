"""``sparselinear advise``: sparse or dense, predicted in a moment, without running either."""

from __future__ import annotations

import argparse
import json

from ..profiling.cost import Advice, advise, calibrated, render_advice
from .arguments import DTYPES, add_layers, read_adjacency
from .output import Output, check_outputs, progress_bar, write

DESCRIPTION = """\
Whether a sparse or a dense layer should be the faster one, how large both are, and at which density and
batch that would change. Nothing of the layer is run: times follow from its sizes, from how unequal its
rows and columns are, and from rates of this machine, which are measured once, in about ten seconds.
"""
EXAMPLES = """\
examples:
  sparselinear advise A.npz --batch 64
  sparselinear advise A.npz B.smtx --batch 1,32,1024 --json advice.json
"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "advise",
        prog="sparselinear advise",
        help="sparse or dense: a prediction in a moment, for a CPU",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_layers(command)
    add = command.add_argument
    add("--measure", action="store_true", help="measure the rates of this machine anew")
    add("--json", metavar="FILE", help="write everything there too, as a list; - is the standard output")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Read all, predict, print, write the file that was asked for."""
    outputs = {} if options.json is None else {"--json": options.json}
    check_outputs(outputs, options.files)
    read = [read_adjacency(path) for path in options.files or [None]]
    console = Output(highlight=False, stderr=options.json == "-")
    what = DTYPES[options.dtype]
    with progress_bar() as progress:  # once for all, also where the rates cannot be kept
        rates = calibrated(what, threads=options.threads, again=options.measure, progress=progress)
    found: list[Advice] = []
    for name, pattern in read:
        for batch in options.batch:
            if found:
                console.print()
            found.append(advise(pattern, batch=batch, rates=rates, name=name))
            render_advice(found[-1], console)
    if options.json is not None:
        content = [advice.to_dict() for advice in found]
        write({options.json: json.dumps(content, indent=2, allow_nan=False) + "\n"})
