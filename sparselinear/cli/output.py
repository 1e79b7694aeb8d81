"""What commands give: tables and progress on a terminal, files that are whole or untouched."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..profiling import rounds
from .arguments import UsageError


class Output(Console):
    """A console that leaves a broken pipe to main; rich would leave the program with code 1."""

    def on_broken_pipe(self) -> None:  # noqa: D102
        raise BrokenPipeError


@contextlib.contextmanager
def progress_bar(title: str = "") -> Iterator[rounds.Progress]:
    """A bar on a terminal; elsewhere one line for each stage. Both on the standard error.

    Args:
        title: what stands in front of the stage, where several things are done one after the other.
    """
    title = f"{title}: " if title else ""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        stages: set[str] = set()

        def tell(done: int, total: int, stage: str, detail: str) -> None:
            if stage not in stages:
                stages.add(stage)
                print(f"sparselinear: {title}{stage}", file=sys.stderr, flush=True)

        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def draw(done: int, total: int, stage: str, detail: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{title}{stage}: {detail}")

        yield draw


def check_outputs(outputs: Mapping[str, str], inputs: Sequence[str]) -> None:
    """Find out before the work, not after it, that a result cannot be written.

    Args:
        outputs: where the result of an option goes, by the option; ``-`` is the standard output.
        inputs: the files that are read, which no result may replace.

    Raises:
        UsageError: one of them cannot be written, or two would be the same.
    """
    taken = {os.path.realpath(path): "a file that is read" for path in inputs}
    for option, path in outputs.items():
        if path != "-":
            _check_writable(option, Path(path))
        place = path if path == "-" else os.path.realpath(path)
        if place in taken and (path == "-" or not _is_special(Path(path))):
            raise UsageError(f"argument {option}: {path}: is also {taken[place]}")
        taken[place] = f"where {option} goes"


def _check_writable(argument: str, path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"argument {argument}: {path}: is a directory")
    if not path.parent.is_dir():
        raise UsageError(f"argument {argument}: {path}: there is no directory {path.parent}")
    if path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"argument {argument}: {path}: permission denied")
    if _is_special(path):
        return
    draft = _draft(path)
    try:
        try:
            draft.touch()
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"argument {argument}: {path}: {error.strerror}") from error


def _is_special(path: Path) -> bool:
    """Whether it is a device or a pipe, which is written to and not replaced: /dev/null."""
    return path.exists() and not path.is_file()


def _draft(path: Path) -> Path:
    """The file next to the target that is written first, so that the target is whole or untouched."""
    target = path.resolve()
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def write(texts: Mapping[str, str]) -> None:
    """Each text whole into its file; if one cannot be written, none of the files is touched.

    Args:
        texts: the texts by path; ``-`` is the standard output, which comes last.
    """
    paths = {Path(path): text for path, text in texts.items() if path != "-"}
    special = {path: text for path, text in paths.items() if _is_special(path)}
    drafts = {path: _draft(path) for path in paths if path not in special}
    try:
        for path, draft in drafts.items():
            draft.write_text(paths[path], encoding="utf-8")
        for path, draft in drafts.items():
            os.replace(draft, path.resolve())
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
    for path, text in special.items():
        path.write_text(text, encoding="utf-8")
    print(texts.get("-", ""), end="")
