"""The ``gather`` kernel: indexing in bounded chunks, for devices that have no sparse product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..checks import FLOATING
from ..pattern import SparsityPattern
from .tiled import TiledKernel
from .torch_sparse import accumulation_dtype

# Elements that a gathered (connections, width) temporary may have: 4 MiB of float32.
_CHUNK_ELEMENTS = 1 << 20


class GatherKernel(TiledKernel):
    """Gather, multiply and reduce, some thousands of connections at a time.

    Needs nothing but indexing, so it runs on every device, and is many times slower than the others.
    """

    name = "gather"

    def unavailable(  # noqa: D102
        self, device: torch.device, dtype: torch.dtype, index_dtype: torch.dtype = torch.int32
    ) -> str | None:
        return None if dtype in FLOATING else f"values are not of {dtype}"

    def operand(self, pattern: SparsityPattern, values: Tensor) -> Any:  # noqa: D102
        return pattern, values

    def product(self, operand: Any, tile: Tensor) -> Tensor:  # noqa: D102
        pattern, values = operand
        dtype = accumulation_dtype(tile.dtype)
        output = torch.zeros(pattern.out_features, tile.shape[1], dtype=dtype, device=tile.device)
        for start, stop in _chunks(pattern, tile):
            gathered = tile.index_select(0, pattern.col_indices[start:stop]).to(dtype)
            gathered.mul_(values[start:stop, None])
            output.index_add_(0, pattern.rows(start, stop), gathered)
        return output

    def accumulator(self, pattern: SparsityPattern, dtype: torch.dtype) -> tuple[Any, Tensor]:  # noqa: D102
        grad_values = torch.zeros(pattern.nnz, dtype=accumulation_dtype(dtype), device=pattern.device)
        return (pattern, grad_values), grad_values

    def sample(self, accumulator: Any, grad_tile: Tensor, tile: Tensor) -> None:  # noqa: D102
        pattern, grad_values = accumulator
        for start, stop in _chunks(pattern, tile):
            rows, columns = pattern.rows(start, stop), pattern.col_indices[start:stop]
            gathered = grad_tile.index_select(0, rows).to(grad_values.dtype)
            gathered.mul_(tile.index_select(0, columns))
            grad_values[start:stop] += gathered.sum(1)


def _chunks(pattern: SparsityPattern, tile: Tensor) -> Iterator[tuple[int, int]]:
    if tile.is_meta:  # shapes alone: nothing to gather
        return
    length = max(1, _CHUNK_ELEMENTS // tile.shape[1])
    for start in range(0, pattern.nnz, length):
        yield start, min(start + length, pattern.nnz)
