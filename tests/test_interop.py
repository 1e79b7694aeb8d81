"""Every form of an adjacency becomes the same pattern; files are read, and written values come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import torch
from cases import CASES, Case, each_case

from sparselinear import SparsityPattern, interop


def _torch_csr(matrix: sp.csr_array, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return interop.to_pattern(matrix).csr_tensor(torch.from_numpy(matrix.data).to(dtype))


def _torch_coo(matrix: sp.csr_array) -> torch.Tensor:
    coo = matrix.tocoo()
    indices = torch.from_numpy(np.stack([coo.row, coo.col])).long()
    return torch.sparse_coo_tensor(indices, torch.from_numpy(coo.data), coo.shape, check_invariants=True)


def _torch_csc(matrix: sp.csr_array) -> torch.Tensor:
    csc = matrix.tocsc()
    parts = (torch.from_numpy(part) for part in (csc.indptr, csc.indices, csc.data))
    return torch.sparse_csc_tensor(*parts, size=csc.shape, check_invariants=True)


def _read_only(matrix: sp.csr_array) -> sp.csr_array:
    """As a matrix out of a memory map is, in joblib's workers for one."""
    matrix = matrix.copy()
    for part in (matrix.data, matrix.indices, matrix.indptr):
        part.flags.writeable = False
    return matrix


class _Frame:
    """Something that numpy can read, as a pandas.DataFrame is."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return self._array


FORMS: dict[str, Callable[[sp.csr_array], Any]] = {
    **{
        f"scipy {kind} array": lambda m, kind=kind: m.asformat(kind)
        for kind in ("csr", "csc", "coo", "lil", "dok")
    },
    "scipy csr array, read-only": _read_only,
    "scipy csr array of long double": lambda m: m.astype(np.longdouble),
    "numpy long double": lambda m: m.toarray().astype(np.longdouble),
    "numpy big-endian": lambda m: m.toarray().astype(">f8"),
    "scipy csr matrix": lambda m: sp.csr_matrix(m),
    "scipy coo matrix": lambda m: sp.coo_matrix(m),
    "scipy bsr array": lambda m: sp.bsr_array(m, blocksize=(1, 1)),
    "transposed view": lambda m: sp.csr_array(m.T).T,
    "torch csr": _torch_csr,
    "torch csc": _torch_csc,
    "torch coo": _torch_coo,
    "torch bfloat16 csr": lambda m: _torch_csr(m, torch.bfloat16),
    "torch dense": lambda m: torch.from_numpy(m.toarray()),
    "torch bool": lambda m: torch.from_numpy(m.toarray() != 0),
    "torch bfloat16": lambda m: torch.from_numpy(m.toarray()).bfloat16(),
    "numpy": lambda m: m.toarray(),
    "numpy float16": lambda m: m.toarray().astype(np.float16),
    "numpy fortran": lambda m: np.asfortranarray(m.toarray()),
    "numpy bool": lambda m: m.toarray() != 0,
    "numpy int": lambda m: (m.toarray() != 0).astype(np.int8),
    "array-like": lambda m: _Frame(m.toarray()),
    "pattern": lambda m: interop.to_pattern(m),
}


def _on(device: str, adjacency: Any) -> Any:
    """A tensor or a pattern there; what is no torch's stays on the CPU."""
    return adjacency.to(device) if isinstance(adjacency, torch.Tensor | SparsityPattern) else adjacency


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pattern(form: str, device: str) -> None:
    matrix = sp.csr_array(CASES[1].adjacency)
    pattern = interop.to_pattern(_on(device, FORMS[form](matrix)), device=device)
    assert pattern.device.type == device
    assert pattern.equals(interop.to_pattern(matrix))


@pytest.mark.parametrize(
    "form", [f for f in FORMS if not any(w in f for w in ("bool", "int", "16", "pattern"))]
)
def test_every_form_gives_the_same_values(form: str, device: str) -> None:
    matrix = sp.csr_array(CASES[1].adjacency)
    given = _on(device, FORMS[form](matrix))
    pattern, values = interop.to_pattern_and_values(given, device=device, dtype=torch.float64)
    assert values.device.type == pattern.device.type == device
    assert pattern.equals(interop.to_pattern(matrix))
    np.testing.assert_array_equal(values.cpu(), matrix.data)
    assert not np.shares_memory(values.cpu().numpy(), matrix.data)


@each_case
def test_values_come_back_from_scipy(case: Case, device: str) -> None:
    pattern, values = interop.to_pattern_and_values(case.adjacency, device=device, dtype=torch.float64)
    back = interop.to_scipy(pattern, values)
    assert isinstance(back, sp.csr_array)
    assert back.nnz == pattern.nnz  # a stored zero stays stored
    np.testing.assert_array_equal(back.toarray(), case.adjacency.toarray())
    assert not np.shares_memory(back.data, values.cpu().numpy())


def test_the_callers_matrix_is_left_as_it_was() -> None:
    for case in CASES:
        before = case.adjacency.copy()
        interop.to_pattern(case.adjacency)
        interop.to_pattern_and_values(case.adjacency)
        assert before.format == case.adjacency.format
        np.testing.assert_array_equal(before.data, case.adjacency.data)
        if before.format == "csr":
            np.testing.assert_array_equal(before.indices, case.adjacency.indices)


def test_half_values_go_to_scipy_as_float32(device: str) -> None:
    pattern = interop.to_pattern(CASES[0].adjacency, device=device)
    values = torch.randn(pattern.nnz, dtype=torch.bfloat16, device=device)
    back = interop.to_scipy(pattern, values)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back.data, values.float().cpu())


@pytest.mark.parametrize("suffix", [".npz", ".mtx", ".smtx", ".NPZ"])
@each_case
def test_files_are_read(case: Case, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"matrix{suffix}"
    csr = interop.to_csr(case.adjacency)
    if suffix == ".mtx":
        scipy.io.mmwrite(path, sp.coo_array(csr))
    elif suffix == ".smtx":
        rows = [
            ", ".join(map(str, (*csr.shape, csr.nnz))),
            *(" ".join(map(str, a)) for a in (csr.indptr, csr.indices)),
        ]
        path.write_text("\n".join(rows) + "\n")
    else:
        with path.open("wb") as file:
            sp.save_npz(file, csr)
    read = interop.load_adjacency(path)
    assert interop.to_pattern(read).equals(interop.to_pattern(csr))
    if suffix == ".smtx":
        assert (read.data == 1).all()
    else:
        np.testing.assert_allclose(read.data, csr.data, rtol=1e-15)


def test_submatrix_is_that_of_numpy(device: str) -> None:
    matrix = CASES[1].adjacency
    rows, columns = np.array([5, 0, 36]), np.arange(53) % 3 == 0
    cut = interop.submatrix(matrix, rows, columns, keep_values=True)
    np.testing.assert_array_equal(cut.toarray(), matrix.toarray()[rows][:, columns])
    cut = interop.submatrix(matrix, torch.tensor([1], device=device), None, keep_values=True)
    np.testing.assert_array_equal(cut.toarray(), matrix.toarray()[[1]])
