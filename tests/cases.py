"""The table of adjacencies that every kernel and conversion is tested on, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp


@dataclass(frozen=True, eq=False)  # matrices have no equality of their own
class Case:
    name: str
    reason: str
    adjacency: Any  # (out_features, in_features), in the form a user would pass it


def _random(rows: int, columns: int, density: float, seed: int = 0) -> sp.csr_array:
    rng = np.random.default_rng(seed)
    matrix = sp.random_array((rows, columns), density=density, format="csr", rng=rng)
    return sp.csr_array(matrix)


def _without(matrix: sp.csr_array, *, row: int | None = None, column: int | None = None) -> sp.csr_array:
    coo = sp.coo_array(matrix)
    keep = (coo.row != row) & (coo.col != column)
    return sp.csr_array((coo.data[keep], (coo.row[keep], coo.col[keep])), shape=coo.shape)


def _int64() -> sp.csr_array:
    matrix = _random(7, 5, 0.4)
    matrix.indptr, matrix.indices = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
    return matrix


def _unsorted() -> sp.csr_array:
    indptr, indices = np.array([0, 3, 3, 5]), np.array([4, 0, 2, 3, 1])
    return sp.csr_array((np.array([1.0, 2, 3, 4, 5]), indices, indptr), shape=(3, 5))


def _duplicates() -> sp.coo_array:
    rows, columns = np.array([2, 0, 2, 1, 2, 0]), np.array([1, 3, 1, 0, 1, 3])
    return sp.coo_array((np.array([1.0, 2, 3, 4, -4, -2]), (rows, columns)), shape=(3, 4))


def _explicit_zeros() -> sp.csr_array:
    matrix = _random(5, 6, 0.5)
    matrix.data[::2] = 0
    return matrix


def _arrow() -> sp.csr_array:
    matrix = sp.lil_array(sp.eye_array(9))
    matrix[4, :] = matrix[:, 4] = 1
    return sp.csr_array(matrix)


def _full_row() -> sp.csr_array:
    matrix = sp.lil_array((6, 11))
    matrix[2, :] = 1
    matrix[4, 7] = 1
    return sp.csr_array(matrix)


CASES = [
    Case("random", "nothing special", _random(6, 9, 0.4)),
    Case("prime sizes", "no size is a multiple of a vector, a tile or a cache line", _random(37, 53, 0.1)),
    Case(
        "empty row", "an output without connections gets the bias alone", _without(_random(6, 9, 0.6), row=2)
    ),
    Case("empty last row", "no index follows the last offset", _without(_random(6, 9, 0.6), row=5)),
    Case(
        "empty column", "an input without connections has gradient 0", _without(_random(6, 9, 0.6), column=3)
    ),
    Case("no connections", "nnz = 0: products over nothing", sp.csr_array((4, 3))),
    Case("1 x n", "one output", _random(1, 13, 0.5)),
    Case("n x 1", "one input", _random(13, 1, 0.5)),
    Case("1 x 1", "the smallest layer", sp.csr_array(np.ones((1, 1)))),
    Case("full", "must be what a dense layer is", sp.csr_array(np.ones((5, 4)))),
    Case("one full row", "all work of one row", _full_row()),
    Case("one full column", "all work of one column, in the transpose", sp.csr_array(_full_row().T)),
    Case("arrow", "a full row and a full column between short ones", _arrow()),
    Case("duplicates", "are summed to one connection, even where they cancel", _duplicates()),
    Case("unsorted", "columns in any order within a row", _unsorted()),
    Case("explicit zeros", "a stored zero is a connection", _explicit_zeros()),
    Case("int64 indices", "scipy makes them for large matrices", _int64()),
    Case("diagonal", "every row and column once", sp.dia_array((np.ones((1, 8)), [0]), shape=(8, 8))),
]

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
