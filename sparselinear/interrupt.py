"""Ctrl-C while the command line is still importing torch, which takes longer than most that it does.

The package imports this file before anything else. In a program of one's own it does nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

INTERRUPTED = 130  # what shells report of a program that Ctrl-C has ended


def answer_during_imports() -> None:
    """From now until :func:`leave_to_python`, end the command line with a word and no traceback."""
    if _is_command_line() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def leave_to_python() -> None:
    """KeyboardInterrupt again, which the command line answers once it runs."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_command_line() -> bool:
    """Whether the package is imported for ``sparselinear ...`` or ``python -m sparselinear ...``."""
    if sys.argv[:1] == ["-m"]:  # so for as long as Python looks for what it has to run
        return sys.orig_argv[sys.orig_argv.index("-m") + 1] == "sparselinear"
    return bool(sys.argv) and Path(sys.argv[0]).stem == "sparselinear"


def _end(signum: int, frame: FrameType | None) -> None:
    os.write(2, b"sparselinear: error: interrupted\n")  # print may have been interrupted itself
    os._exit(INTERRUPTED)


answer_during_imports()
