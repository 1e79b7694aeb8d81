"""The journal: killed at any byte it resumes, and it belongs to one sweep and one process."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from sparselinear.profiling.sweeps.journal import Journal, kept

HEADER = {"options": {"rounds": 5, "sizes": [[2, 3]]}, "machine": {"torch": "2.13.0"}}
RESULTS = [{"number": number, "text": "ü" * number} for number in range(3)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.jsonl"
    with Journal(path, HEADER) as journal:
        assert journal.results == []
        for result in RESULTS:
            journal.append(result)
    return path


def test_one_line_each(path: Path) -> None:
    first, *lines = map(json.loads, path.read_text().splitlines())
    assert first == {"journal": "sparselinear sweep", **HEADER}
    assert lines == RESULTS
    assert kept(path) == 3
    assert kept(path.with_name("absent")) == 0


def test_killed_after_any_byte(path: Path) -> None:
    """The lines that are whole are found again, and what follows them stands where it should."""
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        expected = RESULTS[: max(0, whole[:length].count(b"\n") - 1)]
        with Journal(path, HEADER) as journal:
            assert journal.results == expected
            journal.append({"more": 1})
        with Journal(path, HEADER) as journal:
            assert journal.results == [*expected, {"more": 1}]


def test_a_line_is_on_the_disk_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.stat().st_size))
    with Journal(path, HEADER) as journal:
        before = path.stat().st_size
        journal.append({"more": 1})
        assert synced == [before + len(b'{"more": 1}\n')]


def test_a_journal_of_another_sweep(path: Path) -> None:
    content = path.read_bytes()
    other = {"options": {"rounds": 7, "sizes": [[2, 3]]}, "machine": {"torch": "2.14.0"}, "schema": 2}
    told = (
        "which differs: rounds 5 there, 7 here; torch 2.13.0 there, 2.14.0 here; schema null there, 2 here. "
    )
    with pytest.raises(ValueError, match=re.escape(told + "Take another file, or begin this one anew")):
        Journal(path, other)
    assert path.read_bytes() == content
    with Journal(path, other, fresh=True) as journal:
        assert journal.results == []
    with Journal(path, other) as journal:
        assert journal.results == []


FOREIGN = [
    b"# a readme\n",
    b"no end of line",
    b'{"journal": "another thing"}\n',
    b"[1, 2]\n",
    b"\xff\xfe\x00\n",
    b'{"journal": "sparselinear sweep", "cut": \n',
]


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_that_is_no_journal_stays_as_it_is(tmp_path: Path, content: bytes, fresh: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"journal: expected a file written by a sweep, got .*file, which"):
        Journal(path, HEADER, fresh=fresh)
    assert path.read_bytes() == content


def test_a_damaged_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b'{"number": 1, "te\n'
    path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=r"sweep.jsonl, whose line 3 is damaged\. Remove that line, or"):
        Journal(path, HEADER)
    assert path.read_bytes() == b"".join(lines)
    with Journal(path, HEADER, fresh=True) as journal:
        assert journal.results == []
    assert path.read_bytes() == lines[0]


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"journal: expected a file, got .*, which is none"):
        Journal(tmp_path, HEADER)
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path / "absent" / "sweep.jsonl", HEADER)


@pytest.mark.skipif(sys.platform == "win32", reason="files are locked with fcntl")
@pytest.mark.parametrize("fresh", [False, True])
def test_two_on_one_journal(path: Path, fresh: bool) -> None:
    content = path.read_bytes()
    with Journal(path, HEADER):
        with pytest.raises(RuntimeError, match=r"one sweep at a time, got .*, which another one is writing"):
            Journal(path, HEADER, fresh=fresh)
        assert path.read_bytes() == content
    Journal(path, HEADER).close()
