"""grad_input of small batches, which the native kernel sums up by the rows of W, and when it does."""

from __future__ import annotations

from math import inf

import compiled
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import Case
from compiled import LAYOUTS, arguments, arrow, each, pattern_of, random_matrix, sparse_oracle, threads
from native_cases import drawn_lengths, needs_native, of_lengths
from reference import assert_close
from torch import Tensor

from sparselinear import SparseLinear, SparsityPattern, interop
from sparselinear.kernels import panels
from sparselinear.kernels.native import operator, strided


def gaps(rows: int, columns: int) -> sp.csr_array:
    """No connection in the first and last rows, nor in every third, nor in the first and last columns."""
    mask = random_matrix(rows, columns, 0.4).toarray()
    mask[:40], mask[-40:], mask[::3], mask[:, :9], mask[:, -9:] = False, False, False, False, False
    return sp.csr_array(mask)


# Two pieces of rows up to 31 connections a column, four up to 127, then eight. Tasks have 4096 connections or
# more; where a piece has twice as many, more threads than pieces divide its columns.
CASES = [
    Case("one task", "too few connections for two", random_matrix(83, 61, 0.1)),
    Case("two pieces", "20 connections a column", random_matrix(2053, 1021, 0.01)),
    Case("four pieces", "67 connections a column", random_matrix(499, 601, 0.135)),
    Case("eight pieces", "560 connections a column", random_matrix(811, 131, 0.7)),
    Case("one long row", "every cut lies in it", random_matrix(1, 40009, 0.9)),
    Case("one long column", "a piece is a part of it", random_matrix(40009, 1, 0.9)),
    Case("gaps", "rows without connections between, before and after others", gaps(301, 1031)),
    Case(
        "arrow",
        "a piece holds a part of the long row; one column has a third of all",
        arrow(9001, 3000, 3000),
    ),
    Case("full", "every row has every column", random_matrix(270, 131, 1.1)),
    Case(
        "short rows",
        "by connections, and between them rows of 8 that are not; some have none",
        of_lengths(drawn_lengths(13001, 3) + [8] * 300 + [0] * 200 + drawn_lengths(13001, 3), 53),
    ),
    Case(
        "20 a row",
        "a single sample by connections, in pieces that begin and end within rows",
        of_lengths(drawn_lengths(3001, 20), 601),
    ),
    Case("fewer connections than pieces", "pieces of nothing", sp.csr_array(np.eye(3, 5))),
    Case("none", "no connection at all", sp.csr_array((41, 43))),
]


def scatter(pattern: SparsityPattern, values: Tensor, grad_output: Tensor) -> Tensor:
    found: Tensor = operator("scatter", values.dtype, pattern.index_dtype)(
        pattern.crow_indices, pattern.col_indices, values, strided(grad_output), pattern.in_features
    )
    return found


@needs_native
@each(CASES)
@pytest.mark.parametrize("batch", [1, 2, 4, 7, 8, 16, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_sums_in_every_layout_and_with_any_threads(case: Case, batch: int, dtype: torch.dtype) -> None:
    """Right, and the same bits with 1 to 19 threads: with more than pieces, columns are in groups."""
    pattern = pattern_of(case, torch.int64 if dtype == torch.float64 else torch.int32)
    given = arguments(pattern, batch, dtype)
    expected, magnitude = sparse_oracle(pattern, *given)
    for layout in LAYOUTS.values():
        runs = []
        for count in (1, 2, 3, 7, 19):
            with threads(count), compiled.new_memory_is_nan():
                runs.append(scatter(pattern, given.values, layout(given.grad_output)))
        assert_close(runs[0], expected.grad_input, magnitude.grad_input, dtype)
        assert all(torch.equal(runs[0], run) for run in runs[1:])


@needs_native
@pytest.mark.parametrize(("batch", "made"), [(16, False), (17, True)])
def test_transpose_is_made_where_it_is_needed_only(batch: int, made: bool) -> None:
    """By nothing that a step does: forward, backward, or the gradient of the input alone."""
    layer = SparseLinear.from_scipy(random_matrix(83, 61, 0.2))
    x = torch.randn(batch, 61, requires_grad=True)
    layer(x).sum().backward()
    layer.requires_grad_(False)
    layer(x).sum().backward()
    assert (layer.pattern._transpose is not None) == made


@needs_native
def test_sums_beyond_the_cache() -> None:
    """3 MB of sums in each piece, of thousands of rows."""
    matrix = sp.random_array((20011, 50021), density=2e-4, rng=np.random.default_rng(0), format="csr")
    pattern = interop.to_pattern(matrix)
    given = arguments(pattern, 16, torch.float32)
    expected, magnitude = sparse_oracle(pattern, *given)
    found = scatter(pattern, given.values, given.grad_output)
    assert_close(found, expected.grad_input, magnitude.grad_input, torch.float32)


@pytest.mark.parametrize(
    ("batch", "in_features", "itemsize", "least"),
    [
        (16, 1000, 4, 8000),  # a line of the cache holds 16 samples
        (17, 1000, 4, inf),
        (8, 1000, 8, 8000),
        (9, 1000, 8, inf),
        (0, 1000, 4, inf),
        (16, 1 << 17, 4, 8 << 17),  # 8 MiB of sums
        (9, (1 << 17) + 1, 4, inf),  # 9 samples take as many as 16
        (8, 1 << 18, 4, 8 << 18),
        (2, 1 << 19, 4, 8 << 19),  # and 2 as many as 4
        (2, (1 << 19) + 1, 4, inf),
        (1, 1 << 21, 4, 8 << 21),
        (1, 0, 4, 1),  # never without connections
    ],
)
def test_rule(batch: int, in_features: int, itemsize: int, least: float) -> None:
    assert panels.scattered_from(batch, in_features, itemsize) == least
    if least < inf:
        assert panels.scatters(batch, int(least), in_features, itemsize)
        assert not panels.scatters(batch, int(least) - 1, in_features, itemsize)


@pytest.mark.parametrize(
    ("nnz", "pieces"), [(0, 2), (31 * 50 + 49, 2), (32 * 50, 4), (127 * 50, 4), (128 * 50, 8)]
)
def test_pieces(nnz: int, pieces: int) -> None:
    assert panels.scattered_pieces(nnz, 50) == pieces
