"""What is benchmarked: matrices, batches and memory layouts, each with the bars it has to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import scipy.sparse as sp

BATCH_MAJOR, FEATURE_MAJOR = "batch-major", "feature-major"
ANY_PEER = "any peer"

# Sides that one cell has and others have not, so that both halves of its ratio run in turns.
RANDOM_ALIKE = "ours on a random matrix"
CSR_BATCH_MAJOR = "csr, batch-major"


@dataclass(frozen=True)
class Bar:
    """The time of another side over ours must be at least this."""

    side: str  # a peer, or ANY_PEER: each of them
    least: float
    kind: str = "step"  # or "forward"


@dataclass(frozen=True)
class Cell:
    """A matrix on a batch.

    ``layout`` says which axis of input, output and their gradients is the slow one. ``named`` cells
    are those that the geometric means run over. ``beside`` makes a second matrix on which our layer
    takes turns too, as the side RANDOM_ALIKE.
    """

    name: str
    make: Callable[[], sp.csr_array]
    batch: int
    bars: tuple[Bar, ...] = ()
    named: bool = False
    layout: str = BATCH_MAJOR
    beside: Callable[[], sp.csr_array] | None = None

    @property
    def label(self) -> str:
        """What --only searches, and what plot and messages call the cell."""
        layout = "" if self.layout == BATCH_MAJOR else f", {self.layout}"
        return f"{self.name}, batch {self.batch}{layout}"

    def matrix(self) -> sp.csr_array:
        """(out_features, in_features), as all sides get it."""
        return canonical(self.make())


def canonical(matrix: sp.sparray) -> sp.csr_array:
    """Sorted CSR without duplicates, float32, with int32 indices where they hold it."""
    csr = sp.csr_array(matrix, dtype=np.float32)
    csr.sum_duplicates()
    narrow = np.int32 if max(*csr.shape, csr.nnz) < 2**31 else np.int64
    indices, offsets = csr.indices.astype(narrow, copy=False), csr.indptr.astype(narrow, copy=False)
    return sp.csr_array((csr.data, indices, offsets), shape=csr.shape)


@lru_cache(maxsize=1)  # cells of one matrix and several batches stand side by side
def uniform(size: int, density: float) -> sp.csr_array:
    """(size, size), entries anywhere with the same probability."""
    rng = np.random.default_rng(0)
    matrix = sp.random_array((size, size), density=density, format="csr", dtype=np.float32, rng=rng)
    return sp.csr_array(matrix)


def fixed_fan_in(rows: int, per_row: int, columns: int | None = None) -> sp.csr_array:
    """(rows, columns), the same number of entries in each row, one in each of as many equal ranges.

    It is square where the number of columns is left out.
    """
    rng, columns = np.random.default_rng(0), columns or rows
    places = rng.integers(0, columns // per_row, (rows, per_row), dtype=np.int32)
    places += np.arange(per_row, dtype=np.int32) * (columns // per_row)
    offsets = np.arange(0, rows * per_row + 1, per_row)
    return sp.csr_array((np.ones(places.size, np.float32), places.ravel(), offsets), shape=(rows, columns))


def scale_free(size: int, degree: int) -> sp.csr_array:
    """(size, size) with hubs: both ends of a connection are drawn with probability 1 / sqrt(rank)."""
    rng = np.random.default_rng(0)
    rank = rng.permutation(size)
    ends = [rank[(size * rng.random(size * degree) ** 2).astype(np.int64)] for _ in range(2)]
    return sp.csr_array((np.ones(size * degree, np.float32), tuple(ends)), shape=(size, size))


def arrow(size: int) -> sp.csr_array:
    """(size, size): one full row, one full column and the diagonal, 3 * size - 2 connections.

    All the work of one row, or of one column in backward, is that of the thread that owns it, unless a
    kernel divides rows. The full ones stand in the middle, where no kernel meets them first or last.
    """
    middle, every = size // 2, np.arange(size)
    rows = np.concatenate([np.full(size, middle), every, every])
    columns = np.concatenate([every, np.full(size, middle), every])
    csr = sp.csr_array((np.ones(rows.size, np.float32), (rows, columns)), shape=(size, size))
    csr.sum_duplicates()
    csr.data[:] = 1
    return csr


def random_alike(size: int) -> sp.csr_array:
    """(size, size) with as many connections as ``arrow(size)``, anywhere."""
    return uniform(size, (3 * size - 2) / size**2)


NEVER_BEHIND = Bar(ANY_PEER, 1.0)
_NAMED = (Bar("csr", 3.0), Bar("stock", 1.0), NEVER_BEHIND)
_SMALL_BATCH = (Bar("csr", 1.0, "forward"), Bar("csr", 2.0), NEVER_BEHIND)
_FEATURE_MAJOR = (Bar("csr", 10.0), NEVER_BEHIND)
# nnz / (out * in) -> least speed-up over nn.Linear at batch 256
_OVER_DENSE = {0.01: 40.0, 0.2: 1.0, 0.4: 1.0, 0.6: 1.0}


def _square(density: float, batch: int) -> Cell:
    bars = _NAMED if density <= 0.2 else (NEVER_BEHIND,)
    if batch == 256 and density in _OVER_DENSE:
        bars = (*bars, Bar("dense", _OVER_DENSE[density]))
    return Cell(_percent(density), partial(uniform, 4096, density), batch, bars, density <= 0.2)


def _percent(density: float) -> str:
    return f"4096 x 4096, {density:.1%}"


CELLS = [
    *(_square(density, batch) for density in (0.001, 0.01, 0.05, 0.1, 0.2) for batch in (64, 256, 1024)),
    Cell("scale-free 50,000, degree 30", partial(scale_free, 50_000, 30), 128, _NAMED, True),
    Cell("200,000 x 200,000, 20 a row", partial(fixed_fan_in, 200_000, 20), 32, _NAMED, True),
    *(_square(density, 256) for density in (0.4, 0.6)),
    *(Cell(_percent(0.01), partial(uniform, 4096, 0.01), batch, _SMALL_BATCH) for batch in (1, 4)),
    *(
        Cell("100,000 x 100,000, 2 a row", partial(uniform, 100_000, 2e-5), b, (NEVER_BEHIND,))
        for b in (1, 16)
    ),
    Cell(_percent(0.001), partial(uniform, 4096, 0.001), 256, _FEATURE_MAJOR, layout=FEATURE_MAJOR),
    Cell(
        "arrow 46,500",
        partial(arrow, 46_500),
        64,
        # Not longer than 1.5 times as long as on the random one.
        (Bar(RANDOM_ALIKE, 1 / 1.5), NEVER_BEHIND),
        beside=partial(random_alike, 46_500),
    ),
    Cell("random, as many as the arrow", partial(random_alike, 46_500), 64, (NEVER_BEHIND,)),
]

# Small enough to try the suite itself; found by --only smoke and run no other way.
SMOKE = [
    Cell("smoke 300 x 300, 5%", partial(uniform, 300, 0.05), 32, _NAMED, True),
    Cell("smoke 301 x 301, 5%", partial(uniform, 301, 0.05), 7, _NAMED, True, FEATURE_MAJOR),
    Cell(
        "smoke arrow 301",
        partial(arrow, 301),
        16,
        (Bar(RANDOM_ALIKE, 1 / 1.5),),
        beside=partial(random_alike, 301),
    ),
]
