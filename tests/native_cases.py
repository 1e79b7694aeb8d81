"""What the tests of the native kernel share: the kernel, and cases at the edges of its panels and blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import compiled
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import Case
from compiled import arrow, random_matrix, two_densities
from devices import DTYPES

from sparselinear.kernels.native import NativeKernel

NATIVE = NativeKernel()
PROBLEM = NATIVE.unavailable(torch.device("cpu"), torch.float32)
needs_native = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
products, check = partial(compiled.products, NATIVE), partial(compiled.check, NATIVE)


def with_long_rows(lengths: dict[int, int], rows: int, columns: int) -> sp.csr_array:
    """A sparse matrix in which some rows have their first connections up to a length."""
    matrix = sp.lil_array(random_matrix(rows, columns, 0.01), dtype=np.float32)
    for row, length in lengths.items():
        matrix.rows[row], matrix.data[row] = list(range(length)), [1.0] * length
    return sp.csr_array(matrix)


def hubs(rows: int, columns: int) -> sp.csr_array:
    """Row r has columns / (r + 1) connections."""
    rng = np.random.default_rng(0)
    places = [np.sort(rng.permutation(columns)[: columns // (r + 1)]) for r in range(rows)]
    offsets = np.cumsum([0, *map(len, places)])
    indices = np.concatenate(places)
    return sp.csr_array((np.ones(indices.size), indices, offsets), shape=(rows, columns))


def of_lengths(lengths: Sequence[int], columns: int) -> sp.csr_array:
    """A sparse matrix whose rows have so many connections, anywhere."""
    rng = np.random.default_rng(0)
    places = [np.sort(rng.choice(columns, length, replace=False)) for length in lengths]
    offsets = np.cumsum([0, *lengths])
    return sp.csr_array(
        (np.ones(offsets[-1]), np.concatenate(places), offsets), shape=(len(lengths), columns)
    )


def drawn_lengths(rows: int, mean: float) -> list[int]:
    """Lengths that a processor cannot foresee, with one of 40 now and then."""
    lengths = np.random.default_rng(0).poisson(mean, rows)
    lengths[rows // 3 :: 1000] = 40
    return lengths.tolist()


# Around multiples of 2, 4, 8 and 16 lanes, of 1 to 4 vectors, and of several panels.
BATCHES = [1, 2, 3, 4, 5, 7, 8, 9]
BATCHES += [n + d for n in (16, 32, 48, 64, 128) for d in (-1, 0, 1)]
BATCHES += [255, 257, 1024, 1025]

SWEPT = [
    Case("prime sizes", "no size is a multiple of a vector", random_matrix(37, 53, 0.1)),
    Case("many chunks", "40,000 connections: several chunks at every width", random_matrix(499, 601, 0.135)),
]

# The longest chunk has 32768 connections: rows of more are cut at every width of a panel.
SKEWED = [
    Case("arrow", "a row in the middle; the first column, with nothing before it", arrow(40009, 20011, 0)),
    Case(
        "arrow, first to last",
        "the first row; the last column, with nothing after it",
        arrow(40009, 0, 40008),
    ),
    Case(
        "neighbours",
        "three cut rows in a row: a chunk ends one and begins another",
        with_long_rows({3: 40009, 4: 33333, 5: 40009}, 11, 40009),
    ),
    Case(
        "even lengths",
        "a cut falls on the end of the first, as each costs two more, and leaves an empty piece",
        with_long_rows({0: 65536, 1: 65532}, 2, 65537),
    ),
    Case("one row", "all work is one cut row", with_long_rows({0: 40009}, 1, 40009)),
    Case("hubs", "a few rows have most of the connections", hubs(300, 50021)),
]

# 128 rows of fewer than 32 connections in the mean are gone through by connections for dot products; for sums
# in memory, those of fewer than 2, of a single sample 3, and of more 8 where lengths vary and there are 2**15
# rows. With a single sample, those whose lengths vary are sums of products that were taken before.
SHORT = [
    Case("one in the mean", "empty rows, and one of 40", of_lengths(drawn_lengths(499, 1), 601)),
    Case("diagonal", "one each", sp.csr_array(np.eye(211, 307))),
    Case("lengths vary", "less than 8 in the mean, of few columns", of_lengths(drawn_lengths(2053, 4), 97)),
    Case("up to 60", "several vectors of products a row", of_lengths(drawn_lengths(1019, 20), 601)),
    Case(
        "a hub among them",
        "one row has nearly all the products that there is room for",
        of_lengths([*([0, 1] * 50), 3950, *([17, 0] * 3), 3] + [1, 0, 2] * 40, 4001),
    ),
    Case("alternately", "no room is left", of_lengths([31, 32] * 63 + [33, 31, 30, 32], 211)),
    Case("all alike", "less than 8 too, but foreseen", of_lengths([4] * 300, 97)),
    Case("many rows", "more than a processor remembers", of_lengths(drawn_lengths(33013, 5), 53)),
    Case(
        "as many as fit",
        "one connection less than 32 a row, the last of them alone; then 32; none; and up to 33",
        of_lengths([32] * 126 + [62, 1] + [32] * 128 + [0] * 100 + list(range(34)), 211),
    ),
]

NEARLY_FULL = Case("nine in ten", "written out with its zeros", random_matrix(211, 1031, 0.9))
# Rows go side by side from 4 % of all connections on, 3 to 16 of them: of each as many connections as the
# shortest has, and then the rest.
DENSE = [
    Case("half", "rows side by side, and a few more", random_matrix(211, 383, 0.5)),
    Case("half, wide", "long rows", random_matrix(67, 2053, 0.5)),
    Case(
        "a twentieth",
        "little above the density from which rows go side by side",
        random_matrix(131, 1031, 0.05),
    ),
    Case("two densities", "empty rows beside full ones: nothing in common", two_densities(97, 1031)),
    Case("full", "no connection is missing, and no rest", random_matrix(70, 1024, 1.1)),
    NEARLY_FULL,
    Case("few long rows", "fewer than go side by side", random_matrix(5, 20011, 0.3)),
]
