"""SparsityPattern: the structure is what scipy makes of it, checked once, shared and moved as one."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import CASES, Case, each_case
from reference import mask_of

from sparselinear import SparsityPattern, interop
from sparselinear import pattern as pattern_module


def _canonical(adjacency: object) -> sp.csr_array:
    csr = sp.csr_array(sp.coo_array(adjacency))
    csr.sum_duplicates()
    return csr


@each_case
def test_structure_is_that_of_scipy(case: Case, device: str) -> None:
    pattern, csr = interop.to_pattern(case.adjacency, device=device), _canonical(case.adjacency)
    assert pattern.device.type == device
    assert pattern.shape == csr.shape
    assert (pattern.out_features, pattern.in_features) == csr.shape
    assert pattern.nnz == csr.nnz
    assert pattern.density == csr.nnz / np.prod(csr.shape)
    assert pattern.index_dtype == torch.int32
    np.testing.assert_array_equal(pattern.crow_indices.cpu(), csr.indptr)
    np.testing.assert_array_equal(pattern.col_indices.cpu(), csr.indices)
    np.testing.assert_array_equal(pattern.fan_in().cpu(), np.diff(csr.indptr))


@each_case
@pytest.mark.parametrize("block", [1, 5, 1 << 20])
def test_transpose_is_that_of_scipy(
    case: Case, block: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pattern_module, "BLOCK", block)  # blocks of columns, as for huge patterns
    pattern, csr = interop.to_pattern(case.adjacency, device=device), _canonical(case.adjacency)
    csr.data = np.arange(csr.nnz)
    csc = csr.tocsc()
    np.testing.assert_array_equal(pattern.ccol_indices.cpu(), csc.indptr)
    np.testing.assert_array_equal(pattern.row_indices.cpu(), csc.indices)
    np.testing.assert_array_equal(pattern.permutation.cpu(), csc.data)
    assert pattern.transposed.shape == csc.shape[::-1]
    assert pattern.transposed is pattern.transposed  # found once


@each_case
def test_rows_of_any_range(case: Case, device: str) -> None:
    pattern = interop.to_pattern(case.adjacency, device=device)
    expected = _canonical(case.adjacency).tocoo().row
    for start in range(pattern.nnz + 1):
        for stop in range(start, pattern.nnz + 1, 3):
            np.testing.assert_array_equal(pattern.rows(start, stop).cpu(), expected[start:stop])


@each_case
def test_sparse_tensors_share_storage(case: Case, device: str) -> None:
    pattern = interop.to_pattern(case.adjacency, device=device)
    values = torch.randn(pattern.nnz, device=device)
    dense = torch.zeros(pattern.shape, device=device)
    dense[mask_of(case.adjacency).to(device)] = values
    csr, coo = pattern.csr_tensor(values), pattern.coo_tensor(values)
    assert csr.layout == torch.sparse_csr
    assert coo.layout == torch.sparse_coo
    assert coo.is_coalesced()
    torch.testing.assert_close(csr.to_dense(), dense, rtol=0, atol=0)
    torch.testing.assert_close(coo.to_dense(), dense, rtol=0, atol=0)
    assert csr.values().data_ptr() == coo.values().data_ptr() == values.data_ptr()
    assert csr.col_indices().data_ptr() == pattern.col_indices.data_ptr()


def test_indices_are_copied_unless_given_away(device: str) -> None:
    crow, col = (torch.tensor(part, dtype=torch.int32, device=device) for part in ([0, 1, 2], [1, 0]))
    kept = SparsityPattern(crow, col, (2, 2))
    taken = SparsityPattern(crow, col, (2, 2), copy=False)
    assert taken.col_indices.data_ptr() == col.data_ptr()
    col[0] = 0
    assert kept.col_indices.tolist() == [1, 0]


def test_scipy_matrix_is_not_shared() -> None:
    matrix = sp.csr_array(np.eye(3, dtype=np.float32))
    pattern = interop.to_pattern(matrix)
    matrix.indices[:] = 0
    assert pattern.col_indices.tolist() == [0, 1, 2]


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_index_dtype(index_dtype: torch.dtype, device: str) -> None:
    pattern = interop.to_pattern(CASES[0].adjacency, index_dtype=index_dtype, device=device)
    assert {pattern.crow_indices.dtype, pattern.col_indices.dtype} == {index_dtype}
    assert {pattern.row_indices.dtype, pattern.ccol_indices.dtype, pattern.permutation.dtype} == {index_dtype}
    assert interop.to_pattern(pattern, index_dtype=torch.int64).index_dtype == torch.int64


def test_int64_where_int32_does_not_reach(device: str) -> None:
    wide = sp.coo_array(([1.0], ([0], [2**31 + 5])), shape=(1, 2**31 + 6))
    pattern = interop.to_pattern(wide, device=device)
    assert pattern.index_dtype == torch.int64
    assert pattern.col_indices.tolist() == [2**31 + 5]


def test_equality_is_of_structure(device: str) -> None:
    """Wherever the indices live."""
    first, second = (
        interop.to_pattern(CASES[0].adjacency, device=device),
        interop.to_pattern(CASES[0].adjacency),
    )
    assert first.equals(second)
    assert first.equals(interop.to_pattern(first, index_dtype=torch.int64))
    moved = sp.csr_array(CASES[0].adjacency)[:, ::-1]
    assert not first.equals(interop.to_pattern(moved))
    assert not first.equals(interop.to_pattern(CASES[1].adjacency))


def test_copies_are_the_pattern_itself(device: str) -> None:
    pattern = interop.to_pattern(CASES[0].adjacency, device=device)
    assert copy.copy(pattern) is pattern
    assert copy.deepcopy([pattern])[0] is pattern
    assert pickle.loads(pickle.dumps(pattern)).equals(pattern)


def test_moves_are_shared_and_come_back(device: str) -> None:
    pattern = interop.to_pattern(CASES[0].adjacency, device=device)
    assert pattern.to(device) is pattern
    moved = pattern.to("meta")
    assert moved.device.type == "meta"
    assert pattern.to("meta") is moved
    assert moved.to(device) is pattern
    assert moved.equals(pattern)
    back = pattern.to("cpu")
    assert back.equals(pattern)
    assert pattern.to("cpu") is back


def test_repr_tells_shape_and_density() -> None:
    text = repr(interop.to_pattern(CASES[0].adjacency))
    assert "shape=(6, 9)" in text
    assert "nnz=" in text
    assert "density=" in text
