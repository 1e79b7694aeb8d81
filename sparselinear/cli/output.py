"""What commands give: tables and progress on a terminal, files that are whole or untouched."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..profiling import compare
from .arguments import UsageError


class Output(Console):
    """A console that leaves a broken pipe to main; rich would leave the program with code 1."""

    def on_broken_pipe(self) -> None:  # noqa: D102
        raise BrokenPipeError


@contextlib.contextmanager
def progress_bar() -> Iterator[compare.Progress]:
    """A bar on a terminal; elsewhere one line for each stage. Both on the standard error."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        stages: set[str] = set()

        def tell(done: int, total: int, stage: str, detail: str) -> None:
            if stage not in stages:
                stages.add(stage)
                print(f"sparselinear: {stage}", file=sys.stderr, flush=True)

        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def draw(done: int, total: int, stage: str, detail: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{stage}: {detail}")

        yield draw


def check_writable(argument: str, path: Path) -> None:
    """Find out before the work, not after it, that the result cannot be written.

    Raises:
        UsageError: it cannot.
    """
    if path.is_dir():
        raise UsageError(f"argument {argument}: {path}: is a directory")
    if not path.parent.is_dir():
        raise UsageError(f"argument {argument}: {path}: there is no directory {path.parent}")
    if path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"argument {argument}: {path}: permission denied")
    if path.exists() and not path.is_file():  # /dev/null, a pipe
        return
    try:
        draft = _draft(path)
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise UsageError(f"argument {argument}: {path}: {error.strerror}") from error


def _draft(path: Path) -> Path:
    """The file next to the target that is written first, so that the target is whole or untouched."""
    target = path.resolve()
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def write(path: str, text: str) -> None:
    """The whole text, or nothing, into a file; ``-`` is the standard output."""
    if path == "-":
        print(text, end="")
        return
    if os.path.exists(path) and not os.path.isfile(path):
        Path(path).write_text(text)
        return
    draft = _draft(Path(path))
    try:
        draft.write_text(text)
        os.replace(draft, Path(path).resolve())
    finally:
        draft.unlink(missing_ok=True)
