"""Wrong files, each refused with the words a user needs; none is unpickled."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from sparselinear import interop

EYE = sp.eye_array(3, 4, format="csr")


def _truncated(path: Path) -> None:
    sp.save_npz(path, sp.random_array((50, 50), density=0.5))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _damaged_member(path: Path) -> None:
    sp.save_npz(path, sp.random_array((500, 500), density=0.5))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _pickled(path: Path) -> None:
    np.savez(path, data=np.array([_Bomb()], dtype=object), format=np.array(b"csr"), shape=np.array([1, 1]))


class _Bomb:
    """Unpickling it would be seen."""

    exploded = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (_Bomb, "exploded", True)


def _out_of_range_npz(path: Path) -> None:
    np.savez(
        path,
        format=np.array(b"csc"),
        shape=np.array([2, 2]),
        indptr=np.array([0, 1, 2]),
        indices=np.array([0, 10**6]),
        data=np.ones(2),
    )


FILES: dict[str, tuple[str, Callable[[Path], object], type[Exception], str]] = {
    "missing": ("a.npz", lambda path: None, FileNotFoundError, "a.npz"),
    "a directory": ("a.npz", lambda path: path.mkdir(), IsADirectoryError, "a.npz"),
    "other suffix": (
        "a.csv",
        lambda path: path.write_text("1,2"),
        ValueError,
        r"ending in .npz, .mtx, .smtx, got '.csv'",
    ),
    "no suffix": ("matrix", lambda path: path.write_text("1"), ValueError, "ending in"),
    "empty": ("a.npz", lambda path: path.touch(), ValueError, "an empty file"),
    "truncated npz": ("a.npz", _truncated, ValueError, "expected a sparse matrix written by"),
    "damaged npz": ("a.npz", _damaged_member, ValueError, "cannot be read"),
    "text as npz": ("a.npz", lambda path: path.write_text("hello"), ValueError, "cannot be read"),
    "npz of dense arrays": ("a.npz", lambda path: np.savez(path, a=np.ones(3)), ValueError, "save_npz"),
    "npz with pickles": ("a.npz", _pickled, ValueError, "cannot be read"),
    "a pickle": ("a.npz", lambda path: path.write_bytes(pickle.dumps(_Bomb())), ValueError, "cannot be read"),
    "zip of something else": (
        "a.npz",
        lambda path: zipfile.ZipFile(path, "w").close(),
        ValueError,
        "cannot be read",
    ),
    "npz with indices beyond": ("a.npz", _out_of_range_npz, ValueError, "within its shape"),
    "npz with NaN": ("a.npz", lambda path: sp.save_npz(path, EYE * np.nan), ValueError, "NaN"),
    "npz complex": ("a.npz", lambda path: sp.save_npz(path, EYE * 1j), ValueError, "complex"),
    "mtx without header": ("a.mtx", lambda path: path.write_text("3 3 1\n"), ValueError, "Matrix Market"),
    "mtx truncated": (
        "a.mtx",
        lambda path: path.write_text("%%MatrixMarket matrix coordinate real general\n3 3 2\n1 1 1.0\n"),
        ValueError,
        "Matrix Market",
    ),
    "mtx with indices beyond": (
        "a.mtx",
        lambda path: path.write_text("%%MatrixMarket matrix coordinate real general\n3 3 1\n9 1 1.0\n"),
        ValueError,
        "Matrix Market",
    ),
    "smtx truncated": ("a.smtx", lambda path: path.write_text("2, 2, 2\n0 1 2\n"), ValueError, "three lines"),
    "smtx of words": ("a.smtx", lambda path: path.write_text("a, b, c\nd\ne\n"), ValueError, "three lines"),
    "smtx with indices beyond": (
        "a.smtx",
        lambda path: path.write_text("1, 2, 1\n0 1\n7\n"),
        ValueError,
        "cannot be read",
    ),
    "smtx with negative sizes": (
        "a.smtx",
        lambda path: path.write_text("-1, 2, 1\n0 1\n0\n"),
        ValueError,
        "cannot be read",
    ),
    "smtx of bytes": (
        "a.smtx",
        lambda path: path.write_bytes(bytes(range(256))),
        ValueError,
        "cannot be read",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_wrong_file(what: str, tmp_path: Path) -> None:
    name, write, error, says = FILES[what]
    path = tmp_path / name
    write(path)
    with pytest.raises(error, match=f"(?s){says}") as raised:
        interop.load_adjacency(path)
    assert name in str(raised.value)
    assert not _Bomb.exploded
