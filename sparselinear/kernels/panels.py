"""What the compiled kernels do with a batch: rules of csrc once more, for predictions, and one for itself."""

from __future__ import annotations

from math import ceil, inf
from typing import NamedTuple

_MOST = 4  # vectors of a panel
_MANY_TIMES, _VERY_MANY_TIMES = 64, 256  # that a row of it is read, from which on it may be larger
_LINE = 64  # bytes
_SEVERAL_CACHES = 12  # that the widest panel takes at most, where a vector is shorter than a line


class Widths(NamedTuple):
    """Vectors of a panel.

    Attributes:
        fewest: where a second-level cache holds it, and a vector is a line of the cache.
        fewest_short: the same, where a vector is shorter.
        far: where no second-level cache holds it. Of vectors that are shorter than a line there are four
            even so if its rows are read often, or if not even two would fit and it is not much too large.
    """

    fewest: int
    fewest_short: int
    far: int


WIDTHS_FORWARD, WIDTHS_BACKWARD = Widths(1, 4, 2), Widths(2, 4, 4)
# Values, and connections of a column, from which on their gradients have a long way back to CSR order.
_MANY_BYTES, _LONG_COLUMN = 4 << 20, 256
# Where grad_input is summed up by the rows of W: samples in a line of the cache, so many connections for a
# column, and no more bytes of sums. Time of both gradients over that with grad_input by columns, 2 threads,
# Zen 5:
#   4096 x 4096, 10 %   batch 1 0.48, 4 0.48, 8 0.46, 16 0.61, 32 0.97;   1 %   0.70, 0.79, 0.83, 0.92, 1.0
#   200,000, 20 a row   batch 1 0.50, 4 0.62, 8 0.72; 16 (12.8 MB of sums) 1.18
#   50,000, degree 30   batch 1 0.52, 8 0.63, 16 0.72;   512 x 512, 5 %   batch 1 0.74, 8 0.85
_SCATTERED_DEGREE, _SCATTERED_BYTES = 8, 8 << 20
# From this density on, where there are very many panels, the native kernel multiplies the zeros of W too; the
# fewest panels, of the most vectors each, and the fewest rows.
_ZEROS, _ZEROS_PANELS, _ZEROS_ROWS = 0.4, 2, 32
# On tiles: samples, rows and columns that are multiplied together; the most samples of a panel, the bytes
# that its parts may take, and those of a number by its itemsize (of bfloat16 2: few layers are so wide).
TILE = 32
_MOST_SAMPLES, _PANEL_BYTES, _PARTS_BYTES = 512, 32 << 20, {4: 6, 2: 4}


def panel_width(
    batch: int,
    features: int,
    nnz: int,
    itemsize: int,
    widths: Widths,
    *,
    vector_bytes: int,
    cache_bytes: int,
) -> int:
    """Samples in a panel of a batch-major batch.

    Args:
        batch: rows of the input.
        features: of the activations that are gathered.
        nnz: the connections.
        itemsize: bytes of a number in the type of the sums: 4, or 8 for float64.
        widths: WIDTHS_FORWARD or WIDTHS_BACKWARD.
        vector_bytes: of a vector of the processor.
        cache_bytes: of the second-level cache of a core.
    """
    lanes = vector_bytes // itemsize
    if batch < lanes:
        width = 1 if batch <= 1 else 4
        while width < batch:
            width *= 2
        return min(width, lanes)
    row = features * lanes * itemsize
    vectors, fewest = _MOST, widths.fewest_short if vector_bytes < _LINE else widths.fewest
    if 2 * row <= cache_bytes and nnz >= _VERY_MANY_TIMES * features:
        fewest = max(fewest, 2)
    while vectors > fewest and vectors * row > cache_bytes // 2:
        vectors //= 2
    far = vectors * row > cache_bytes
    many, several = nnz >= _MANY_TIMES * features, _MOST * row <= _SEVERAL_CACHES * cache_bytes
    wide = vector_bytes < _LINE and (many if 2 * row <= cache_bytes else several)
    if far and not wide:
        vectors = widths.far
    one = far or (many and (vectors + 1) * row <= cache_bytes)
    if one and vectors < _MOST and ceil(batch / lanes) == vectors + 1:
        return (vectors + 1) * lanes
    panels = ceil(batch / (vectors * lanes))
    return ceil(ceil(batch / panels) / lanes) * lanes


def scatters(batch: int, nnz: int, in_features: int, itemsize: int) -> bool:
    """Whether the native kernel sums up grad_input by the rows of W, and needs no transpose of it."""
    return nnz >= scattered_from(batch, in_features, itemsize)


def scattered_from(batch: int, in_features: int, itemsize: int) -> float:
    """The connections from which on grad_input is summed up by the rows of W; inf if it never is.

    Args:
        batch: rows of the input.
        in_features: columns of W.
        itemsize: bytes of a number in the type of the sums.
    """
    few = 0 < batch * itemsize <= _LINE
    if not few or in_features * scattered_width(batch) * itemsize > _SCATTERED_BYTES:
        return inf
    return max(1, _SCATTERED_DEGREE * in_features)


def scattered_width(batch: int) -> int:
    """Samples of a sum over the rows of W, for so few of them."""
    return 1 if batch == 1 else max(4, 1 << (batch - 1).bit_length())


def scattered_pieces(nnz: int, in_features: int) -> int:
    """How many sums over the rows of W there are for a column, that are then added up."""
    degree = nnz // max(in_features, 1)
    return 2 if degree < 32 else 4 if degree < 128 else 8


def two_passes_from(batch: int, itemsize: int, in_features: int) -> float:
    """The connections from which on backward takes one pass for each gradient, and not one for both.

    Args:
        batch: rows of the input.
        itemsize: bytes of a number in the type of the sums.
        in_features: columns of W.
    """
    if batch * itemsize <= 2 * _LINE:
        return 0
    many = max(_MANY_BYTES // itemsize, _LONG_COLUMN * in_features)
    return many if batch * itemsize <= 4 * _LINE else inf


def zeros_from(batch: int, out_features: int, in_features: int, itemsize: int, *, vector_bytes: int) -> float:
    """The density from which on the native kernel multiplies the zeros of W too; inf if it never does.

    Args:
        batch: rows of the input.
        out_features: rows of W.
        in_features: columns of W.
        itemsize: bytes of a number in the type of the sums.
        vector_bytes: of a vector of the processor.
    """
    width = _MOST * vector_bytes // itemsize
    if batch < _ZEROS_PANELS * width or min(out_features, in_features) < _ZEROS_ROWS:
        return inf
    panels = ceil(batch / width)
    return _ZEROS * (panels + 1) / panels


def tile_panels(batch: int, features: int, itemsize: int) -> int:
    """Panels of a batch on tiles: W is written out once for each.

    Args:
        batch: rows of the input.
        features: of the activations that are split in parts.
        itemsize: bytes of an activation, 2 or 4.
    """
    row = _PARTS_BYTES[itemsize] * ceil(features / TILE) * TILE
    most = min(max(_PANEL_BYTES // row // TILE * TILE, TILE), _MOST_SAMPLES)
    return ceil(batch / most)
