"""How much one program does: the size of its tile, by rule, so that results are the same in every process.

A tile is rows x lanes x width: some rows of the pattern, some connections of each at a time, and a stretch
of the batch. The rules count bytes and threads; they have not been measured on a card.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

# Of a program: four warps.
THREADS = 128
# 16 numbers a thread: with four of them in one load of 16 bytes, four loads are under way at a time, and sums
# and loaded numbers still fit in registers.
_ELEMENTS = 16 * THREADS
_WIDEST = 64  # samples: 256 bytes of float32, two lines
# A sector of memory, the least that is fetched, has 32 bytes.
_SECTOR = 32
_MOST_LANES = 8
# Of a card that does not tell, or of no card, as when programs are interpreted.
_USUAL_L2 = 40 << 20


class Tile(NamedTuple):
    """The size of a tile."""

    rows: int
    lanes: int
    width: int


def tile(length: float, features: int, batch: int, dtype: torch.dtype, device: torch.device) -> Tile:
    """The tile for a product that gathers activations.

    Args:
        length: mean number of connections in a row.
        features: rows of the activations, (features, batch), that are gathered.
        batch: columns of them.
        dtype: of the activations.
        device: where they are.
    """
    # Half of the L2 cache for the stretch of the batch that all programs work on at one time.
    fits = cache_bytes(device) // 2 // max(features * dtype.itemsize, 1)
    widest = min(_WIDEST, max(_floor_power(fits), _SECTOR // dtype.itemsize))
    width = min(_power(batch), widest)
    # Where the batch is narrow, more connections at a time: their indices lie side by side.
    lanes = min(_power(length), max(_MOST_LANES, 4 * _MOST_LANES // width))
    return Tile(max(1, _ELEMENTS // (lanes * width)), lanes, width)


def fused_is_less(nnz: int, batch: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether one pass for both gradients moves fewer bytes than two.

    One pass saves the second gathering of ``batch`` activations for each connection, and writes grad_values
    out of order: a sector is fetched and written for each, unless all of them stay in the L2 cache.
    """
    if nnz * max(dtype.itemsize, 4) <= cache_bytes(device) // 2:
        return True
    return batch * dtype.itemsize > 2 * _SECTOR


@cache
def cache_bytes(device: torch.device) -> int:
    """Bytes of the L2 cache of a device."""
    if device.type != "cuda":
        return _USUAL_L2
    return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)) or _USUAL_L2


def _power(number: float) -> int:
    """The least power of two that is not below a number; 1 below 1."""
    return 1 << max(0, int(-(-number // 1)) - 1).bit_length()


def _floor_power(number: int) -> int:
    """The greatest power of two that is not above a number; 1 below 1."""
    return 1 << max(0, number.bit_length() - 1)
