"""``sparselinear build``: compile the native kernels ahead of their first use."""

from __future__ import annotations

import argparse
from itertools import product

import torch

from ..kernels import build

DESCRIPTION = (
    "Compile the native CPU kernels unless the cache holds them, and print the path of each; without "
    "this command the first layer does so. The cache is the folder SPARSELINEAR_CACHE, or else sparselinear "
    "in XDG_CACHE_HOME or in ~/.cache. The library is for one kind of CPU and one torch: build the image of "
    "a container on the kind of machine that it runs on, with the same CXX and CXXFLAGS, if any."
)


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "build",
        prog="sparselinear build",
        help="compile the native CPU kernels now, not at first use",
        description=DESCRIPTION,
    )
    command.add_argument(
        "--float64",
        action="store_true",
        help="compile those for float64 as well; without it, those for float32, bfloat16 and float16",
    )
    command.add_argument(
        "--int64",
        action="store_true",
        help="compile those for 64-bit indices as well: of patterns with more than 2**31 - 1 rows, columns "
        "or connections, or made with index_dtype=torch.int64",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compile unless the cache holds them, load the libraries, and print where they are."""
    sums = (torch.float32, torch.float64) if options.float64 else (torch.float32,)
    indices = (torch.int32, torch.int64) if options.int64 else (torch.int32,)
    for types in product(sums, indices):
        build.load(*types)
        print(build.build(*types))
