"""The portrait of a pattern: what a picture of it needs, of a size that does not grow with the pattern.

Where the connections are (counts under a grid of pixels), and how many each row and each column has.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..pattern import SparsityPattern
from ..raster import FLATTEST, raster

# On the longer side: 120 pixels are still told apart on a telephone, and 14,400 counts are a small file.
MAX_PIXELS = 120
# Of a histogram. Twice as many as fit on a telephone would not be told apart.
MAX_BINS = 24
# A largest degree this many times the median would make bins of equal width one bar and a long nothing.
_SKEWED = 8
# Connections read at a time: bincount turns 2**21 column numbers into 16 MiB of int64.
_CHUNK = 1 << 21


@dataclass(frozen=True)
class Degrees:
    """How many connections the rows, or the columns, of a pattern have.

    Attributes:
        minimum: the smallest degree; 0 where there are no rows at all, like the other four.
        median: the middle degree, the mean of the middle two where their number is even.
        mean: connections over rows.
        maximum: the largest degree.
        empty: rows without a connection.
        edges: of the bins, whole numbers, one more than there are bins.
        counts: rows whose degree d has ``edges[k] <= d < edges[k + 1]``.
        logarithmic: whether the bins widen with the degree, as they do for a skewed distribution.
    """

    minimum: int
    median: float
    mean: float
    maximum: int
    empty: int
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    logarithmic: bool

    @classmethod
    def of(cls, degrees: NDArray[np.int64]) -> Degrees:
        """Summary of a vector of degrees, one entry for each row."""
        if not degrees.size:
            return cls(0, 0.0, 0.0, 0, 0, (0, 1), (0,), False)
        low, high, median = int(degrees.min()), int(degrees.max()), float(np.median(degrees))
        skewed = high - low >= MAX_BINS and high > _SKEWED * max(median, 1.0)
        edges = _widening_edges(low, high) if skewed else _even_edges(low, high)
        counts, _ = np.histogram(degrees, edges)  # the last edge is above the maximum
        return cls(
            minimum=low,
            median=median,
            mean=float(degrees.mean()),
            maximum=high,
            empty=int((degrees == 0).sum()),
            edges=tuple(edges),
            counts=tuple(counts.tolist()),
            logarithmic=skewed,
        )


@dataclass(frozen=True)
class Portrait:
    """What the picture of a pattern needs.

    Attributes:
        shape: (out_features, in_features).
        counts: connections that fall into each pixel, line by line, see
            :func:`sparselinear.raster.raster`.
        rows: connections of each output.
        columns: connections of each input.
    """

    shape: tuple[int, int]
    counts: tuple[tuple[int, ...], ...]
    rows: Degrees
    columns: Degrees

    @classmethod
    def of(cls, pattern: SparsityPattern) -> Portrait:
        """The portrait of a pattern on any device.

        Connections are read in pieces: beyond the pattern it takes a few integers for each row and each
        column, and a scratch that does not grow with nnz.
        """
        if pattern.device.type == "meta":
            pattern = pattern.to("cpu")
        return cls(
            shape=pattern.shape,
            counts=tuple(map(tuple, raster(pattern, *_sides(*pattern.shape)).tolist())),
            rows=Degrees.of(pattern.crow_indices.diff().long().cpu().numpy()),
            columns=Degrees.of(_column_degrees(pattern).cpu().numpy()),
        )

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON; a line of pixels is one text, its counts with spaces between them."""
        lines = [" ".join(map(str, line)) for line in self.counts]
        return {"raster": lines, "rows": asdict(self.rows), "columns": asdict(self.columns)}


def _sides(out_features: int, in_features: int) -> tuple[int, int]:
    """Pixels down and across: to scale, but for a very flat or very narrow matrix."""
    longer = max(out_features, in_features, 1)
    down, across = (max(side / longer, FLATTEST) * MAX_PIXELS for side in (out_features, in_features))
    return round(down), round(across)


def _column_degrees(pattern: SparsityPattern) -> Tensor:
    """(in_features,) int64; never from the transpose, which may not be there and is large."""
    columns, width = pattern.col_indices, pattern.in_features
    degrees = torch.zeros(width, dtype=torch.int64, device=pattern.device)
    # Each piece costs a vector of in_features: of a wide matrix the pieces are as wide.
    for part in columns.split(max(_CHUNK, width)):
        degrees += torch.bincount(part, minlength=width)
    return degrees


def _even_edges(low: int, high: int) -> list[int]:
    """Bins of one whole width over low to high."""
    width = -(-(high - low + 1) // MAX_BINS)
    bins = -(-(high - low + 1) // width)
    return [low + width * number for number in range(bins + 1)]


def _widening_edges(low: int, high: int) -> list[int]:
    """Bins that widen by one factor, rounded to whole numbers; degree 0 has one of its own."""
    first = max(low, 1)
    rounded = np.geomspace(first, high + 1, MAX_BINS).round().astype(np.int64)
    edges = sorted({first, high + 1, *rounded.tolist()})
    return [0, *edges] if low == 0 else edges
