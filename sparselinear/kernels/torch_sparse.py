"""The ``torch`` kernel: torch.sparse.mm and torch.sparse.sampled_addmm. The reference of the family."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checks import FLOATING
from ..pattern import SparsityPattern
from .tiled import TiledKernel


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for bfloat16 and float16, in which sums lose digits; the dtype itself otherwise."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


class TorchKernel(TiledKernel):
    """Products by MKL on a CPU and cuSPARSE on CUDA, as torch.sparse calls them.

    On a CPU those take no bfloat16 or float16, and ``sampled_addmm`` takes them nowhere: tiles and
    values are then widened to float32, and only the results are rounded.
    """

    name = "torch"

    def unavailable(  # noqa: D102
        self, device: torch.device, dtype: torch.dtype, index_dtype: torch.dtype = torch.int32
    ) -> str | None:
        if device.type not in ("cpu", "cuda"):
            return f"torch.sparse has no CSR product on {device.type}"
        return None if dtype in FLOATING else f"torch.sparse has no CSR product of {dtype}"

    def operand(self, pattern: SparsityPattern, values: Tensor) -> Any:  # noqa: D102
        if values.device.type == "cpu":
            values = values.to(accumulation_dtype(values.dtype))
        return pattern.csr_tensor(values)

    def product(self, operand: Any, tile: Tensor) -> Tensor:  # noqa: D102
        output: Tensor = torch.sparse.mm(operand, tile.to(operand.dtype))
        return output

    def accumulator(self, pattern: SparsityPattern, dtype: torch.dtype) -> tuple[Any, Tensor]:  # noqa: D102
        # The result of sampled_addmm may be its own first argument: then it copies no indices.
        grad_values = torch.zeros(pattern.nnz, dtype=accumulation_dtype(dtype), device=pattern.device)
        return pattern.csr_tensor(grad_values), grad_values

    def sample(self, accumulator: Any, grad_tile: Tensor, tile: Tensor) -> None:  # noqa: D102
        grad_tile, tile = grad_tile.to(accumulator.dtype), tile.to(accumulator.dtype)
        if 1 < tile.shape[1] < 8 and tile.dtype == torch.float32 and tile.device.type == "cpu":
            # Zeros up to a whole vector: sampled_addmm sums less than one an element at a time. 168,000
            # connections took 0.8 ms at a width of 2, 4.1 at 7, and 0.18 at 8 (2 cores).
            missing = (0, 8 - tile.shape[1])
            grad_tile, tile = (
                torch.nn.functional.pad(grad_tile, missing),
                torch.nn.functional.pad(tile, missing),
            )
        torch.sparse.sampled_addmm(accumulator, grad_tile, tile.t(), beta=1.0, out=accumulator)
