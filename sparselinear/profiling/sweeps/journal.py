"""The journal of a sweep: a file of JSON lines that a kill at any moment leaves usable.

The first line says what sweep it is; each line after it is one result. A line is on the disk before the
next measurement begins, so that at most the one under way is lost. A last line without its end is one
that was being written, and is dropped when the journal is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from ...checks import message

if TYPE_CHECKING:
    from typing_extensions import Self

try:
    import fcntl
except ImportError:  # Windows: there, two processes on one journal are the user's own care
    fcntl = None  # type: ignore[assignment]

_TITLE = "sparselinear sweep"
_ADVICE = "Take another file, or begin this one anew with --fresh (fresh=True)."


class Journal:
    """An open journal; a context manager that closes it.

    Args:
        path: the file, made where there is none.
        header: what the results belong to, ready for JSON.
        fresh: whether results that are there are thrown away.

    Attributes:
        results: what the file held: one dictionary for each line after the first.

    Raises:
        ValueError: the file is no journal, is damaged, or is that of another header.
        RuntimeError: another process has it open.
        OSError: it cannot be opened or written.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path = Path(path)
        first = _line({"journal": _TITLE, **header})
        if self.path.exists() and not self.path.is_file():
            raise ValueError(message("journal", "a file", f"{self.path}, which is none"))
        self._file: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115
        try:
            self._lock()
            lines = self._whole_lines(first)
            if lines and not fresh:
                self._compare(json.loads(first), self._parse(1, lines[0]))
                self.results = [self._parse(number, line) for number, line in enumerate(lines[1:], 2)]
                self._file.truncate(sum(map(len, lines)))
            else:
                self.results = []
                self._file.truncate(0)
                self._write(first)
        except BaseException:
            self._file.close()
            raise

    def append(self, result: Mapping[str, Any]) -> None:
        """Add a result; it is on the disk when this returns."""
        self._write(_line(result))

    def close(self) -> None:
        """Close the file, and let others have it."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            advice = "Wait until it is done, or take another file."
            expected, got = "a file of one sweep at a time", f"{self.path}, which another one is writing"
            raise RuntimeError(message("journal", expected, got, advice)) from None

    def _whole_lines(self, first: bytes) -> list[bytes]:
        """The lines of a journal that have their end; none of a file that is new."""
        self._file.seek(0)
        text = self._file.read()
        end = text.rfind(b"\n") + 1
        if end == 0 and first.startswith(text):  # empty, or killed while the first line was written
            return []
        lines = text[:end].splitlines(keepends=True)
        if not lines or self._parse(1, lines[0]).get("journal") != _TITLE:
            advice = "Take another file; this one is left as it is."
            got = f"{self.path}, which is something else"
            raise ValueError(message("journal", "a file written by a sweep", got, advice))
        return lines

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found
        if number == 1:
            return {}
        advice = "Remove that line, or begin anew with --fresh (fresh=True)."
        got = f"{self.path}, whose line {number} is damaged"
        raise ValueError(message("journal", "lines of JSON", got, advice))

    def _compare(self, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
        differences = _differences(theirs, mine)
        if differences:
            got = f"{self.path}, which differs: {'; '.join(differences)}"
            raise ValueError(message("journal", "one of the same sweep and machine", got, _ADVICE))

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode() + b"\n"


def _differences(theirs: Any, mine: Any, name: str = "") -> list[str]:
    """What differs between two headers, one text for each entry."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        keys = list(dict.fromkeys([*mine, *theirs]))
        return [text for key in keys for text in _differences(theirs.get(key), mine.get(key), key)]
    return [] if theirs == mine else [f"{name} {_told(theirs)} there, {_told(mine)} here"]


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def kept(path: str | Path) -> int:
    """Results in a journal, those written whole; 0 where there is no file."""
    try:
        return max(0, Path(path).read_bytes().count(b"\n") - 1)
    except OSError:
        return 0
