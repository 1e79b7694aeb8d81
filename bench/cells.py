"""What is benchmarked: matrices and batches, each with the ratio it has to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True)
class Cell:
    """A matrix and a batch; ``bar`` is the least speed-up of a step over torch.sparse CSR autograd."""

    name: str
    make: Callable[[], sp.csr_array]
    batch: int
    bar: float | None = None


def uniform(size: int, density: float) -> sp.csr_array:
    """(size, size), entries anywhere with the same probability."""
    rng = np.random.default_rng(0)
    matrix = sp.random_array((size, size), density=density, format="csr", dtype=np.float32, rng=rng)
    return sp.csr_array(matrix)


def fixed_fan_in(size: int, per_row: int) -> sp.csr_array:
    """(size, size), the same number of entries in each row, one in each of as many equal ranges."""
    rng = np.random.default_rng(0)
    columns = rng.integers(0, size // per_row, (size, per_row), dtype=np.int32)
    columns += np.arange(per_row, dtype=np.int32) * (size // per_row)
    offsets = np.arange(0, size * per_row + 1, per_row)
    return sp.csr_array((np.ones(columns.size, np.float32), columns.ravel(), offsets), shape=(size, size))


def scale_free(size: int, degree: int) -> sp.csr_array:
    """(size, size) with hubs: both ends of a connection are drawn with probability 1 / sqrt(rank)."""
    rng = np.random.default_rng(0)
    rank = rng.permutation(size)
    ends = [rank[(size * rng.random(size * degree) ** 2).astype(np.int64)] for _ in range(2)]
    return sp.csr_array((np.ones(size * degree, np.float32), tuple(ends)), shape=(size, size))


CELLS = [
    *(
        Cell(f"4096 x 4096, {density:.1%}", partial(uniform, 4096, density), batch, bar)
        for density, bar in ((0.001, None), (0.01, 2.0), (0.1, 2.0))
        for batch in (64, 256, 1024)
    ),
    Cell("4096 x 4096, 1.0%", partial(uniform, 4096, 0.01), 1),
    Cell("4096 x 4096, 1.0%", partial(uniform, 4096, 0.01), 4),
    Cell("scale-free 50,000, degree 30", partial(scale_free, 50_000, 30), 128),
    Cell("200,000 x 200,000, 20 a row", partial(fixed_fan_in, 200_000, 20), 32, 3.0),
]
