"""``sparselinear build``: compile the native kernels ahead of their first use."""

from __future__ import annotations

import argparse

from ..kernels import build

DESCRIPTION = (
    "Compile the native CPU kernels unless the cache holds them, and print the path of the library; without "
    "this command the first layer does so. The cache is the folder SPARSELINEAR_CACHE, or else sparselinear "
    "in XDG_CACHE_HOME or in ~/.cache. The library is for one kind of CPU and one torch: build the image of "
    "a container on the kind of machine that it runs on, with the same CXX and CXXFLAGS, if any."
)


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command; it has no options."""
    command = commands.add_parser(
        "build",
        prog="sparselinear build",
        help="compile the native CPU kernels now, not at first use",
        description=DESCRIPTION,
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compile unless the cache holds the library, load it, and print where it is."""
    build.load()
    print(build.build())
