"""The ``amx`` kernel: a W that is nearly dense, multiplied on the matrix unit of an x86 processor.

Blocks of W are written out with their zeros, a few at a time, and multiplied as tiles of bfloat16. A float32
is a sum of three bfloat16, and six products of these parts give one to the last bits of a float32
(csrc/parts.h). No array of out_features x in_features is made, but for one bit for each entry, by which the
values are put in their places. The time depends on the size of W and hardly on its connections, so this pays
where W is dense.
"""

from __future__ import annotations

from functools import cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..pattern import SparsityPattern
from .base import Kernel
from .native import NativeKernel, operator, strided
from .panels import TILE

# From this density on a training step of a large layer on a large batch takes less time over tiles than by
# connections. On few samples the blocks of W that are written out serve few, and a layer with few features
# has its tiles half empty. Native's time over that of amx, 2 cores with 2 MiB of second-level cache each:
#   float32    4096 x 4096   batch   16   20 %: 0.74  30 %: 0.98    64   20 %: 0.96  25 %: 1.11
#              4096 x 4096          256   20 %: 1.01  25 %: 1.18  1024   20 %: 0.77  30 %: 1.11
#              1024 x 1024           64         0.66  30 %: 0.97   256         0.70  30 %: 1.05
#              512 x 512             64   30 %: 0.79  50 %: 1.21   256   30 %: 0.92  50 %: 1.35
#              128 x 128             64         0.85        0.96   256         0.57        0.80
#   bfloat16   4096 x 4096           64    8 %: 0.73  12 %: 1.04   256    8 %: 1.04  12 %: 1.42
#   float16    4096 x 4096           64   12 %: 0.89  16 %: 1.10   256   12 %: 0.97  16 %: 1.22
DENSE_FROM = {torch.float32: 0.2, torch.bfloat16: 0.08, torch.float16: 0.12}
_FEW_SAMPLES, _FEW_FEATURES = 8, 400


def least_density(dense_from: float, out_features: int, in_features: int, batch: int) -> float:
    """The density from which on a layer of this size is faster on tiles, on a batch of this size.

    Args:
        dense_from: that of large layers on large batches, an entry of DENSE_FROM.
        out_features: rows of W.
        in_features: columns of W.
        batch: rows of the input.
    """
    fewest = max(1, min(out_features, in_features))
    return dense_from * (1 + _FEW_SAMPLES / max(1, batch)) * (1 + _FEW_FEATURES / fewest)


def forward_by_connections(itemsize: int, batch: int) -> bool:
    """Whether forward leaves a dense layer to the native kernel.

    On so few samples each block of W is written out for one multiplication, and three parts of each number
    are many to write. Native's time over that on tiles, 4096 x 4096, float32: batch 16: 40 %: 0.52, 90 %:
    0.76; batch 32, 30 %: 0.62; batch 64, 30 %: 0.91. Backward gains: 1.47, 1.80; 1.34; 1.50.

    Args:
        itemsize: bytes of a value, 2 or 4.
        batch: rows of the input.
    """
    return itemsize == 4 and batch <= TILE


class AmxKernel(NativeKernel):
    """Products over dense tiles, where the native kernel goes by connections.

    What cannot be split in parts, infinities among it, and a batch of nothing, is left to the native kernel.
    Float32 keeps its accuracy, and the results do not depend on the number of threads.
    """

    name = "amx"

    def unavailable(  # noqa: D102
        self, device: torch.device, dtype: torch.dtype, index_dtype: torch.dtype = torch.int32
    ) -> str | None:
        if dtype == torch.float64:  # told first, for else those loops would be compiled
            return "the matrix unit has no float64"
        problem = super().unavailable(device, dtype, index_dtype)
        if problem:
            return problem
        return (
            None
            if _has_unit(index_dtype)
            else "this processor has no matrix unit (AMX), or the system keeps it back"
        )

    backward = Kernel.backward  # a product for each gradient

    def spmm(  # noqa: D102
        self, pattern: SparsityPattern, values: Tensor, input: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        if forward_by_connections(values.itemsize, input.shape[0]):
            return super().spmm(pattern, values, input, bias)
        bias = None if bias is None else bias.contiguous()
        output, valid = operator("amx_spmm", values.dtype, pattern.index_dtype)(
            pattern.crow_indices, bits_of(pattern), values, strided(input), bias
        )
        return output if valid else super().spmm(pattern, values, input, bias)

    def spmm_transposed(self, pattern: SparsityPattern, values: Tensor, grad_output: Tensor) -> Tensor:  # noqa: D102
        grad_input, valid = operator("amx_spmm_transposed", values.dtype, pattern.index_dtype)(
            pattern.crow_indices, bits_of(pattern), values, pattern.in_features, strided(grad_output)
        )
        return grad_input if valid else super().spmm_transposed(pattern, values, grad_output)

    def sddmm(self, pattern: SparsityPattern, grad_output: Tensor, input: Tensor) -> Tensor:  # noqa: D102
        grad_values, valid = operator("amx_sddmm", input.dtype, pattern.index_dtype)(
            pattern.crow_indices, bits_of(pattern), pattern.nnz, strided(grad_output), strided(input)
        )
        return grad_values if valid else super().sddmm(pattern, grad_output, input)


_known_bits: WeakKeyDictionary[SparsityPattern, Tensor] = WeakKeyDictionary()


def bits_of(pattern: SparsityPattern) -> Tensor:
    """(out_features, in_features / 32) int32, a bit for each entry of W; found at first use, then kept."""
    bits = _known_bits.get(pattern)
    if bits is None:
        bits = operator("amx_bits", torch.float32, pattern.index_dtype)(
            pattern.crow_indices, pattern.col_indices, pattern.in_features
        )
        _known_bits[pattern] = bits
    return bits


@cache
def _has_unit(index_dtype: torch.dtype) -> bool:
    """Whether there is a matrix unit that this process may use; asks the system for it."""
    return bool(operator("amx_available", torch.float32, index_dtype)())
