"""The command line: arguments in, tables out. A file for each command, and here what they have in common.

Results go to the standard output, progress and errors to the standard error. The exit code is 0 when
all went well, 2 when arguments or files are wrong, 1 when the work itself failed, 130 after Ctrl-C, and
141 when the reader of a pipe went away.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

import torch

from ..interrupt import INTERRUPTED, leave_to_python
from . import advise, build, profile, sweep
from .arguments import UsageError

OK, FAILED, WRONG, NO_READER = 0, 1, 2, 141


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise, so that every error is one line and leaves by one door."""
        raise UsageError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the name of the program; None takes them from ``sys.argv``.

    Returns:
        The exit code.
    """
    try:
        leave_to_python()
        try:
            code = _run(arguments)
        except SystemExit as leave:  # --help, --version
            code = int(leave.code or 0)
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _complain(error, WRONG)
    except KeyboardInterrupt as stop:
        return _complain(str(stop) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The interpreter flushes at exit once more, into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except (RuntimeError, MemoryError, ValueError, OSError) as error:
        return _complain(error, FAILED)


def _complain(error: object, code: int) -> int:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"sparselinear: error: {text}", file=sys.stderr)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    options.run(options)
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sparselinear",
        description="Linear layers for PyTorch whose weights are a sparse graph.",
        epilog=profile.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (profile, advise, sweep, build):
        command.add_to(commands)
    return parser


def _version() -> str:
    try:
        own = version("torch-sparselinear")
    except PackageNotFoundError:
        own = "of a source tree"
    return f"sparselinear {own} (torch {torch.__version__})"
