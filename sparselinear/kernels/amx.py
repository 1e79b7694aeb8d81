"""The ``amx`` kernel: a W that is nearly dense, multiplied on the matrix unit of an x86 processor.

Blocks of W are written out with their zeros, a few at a time, and multiplied as tiles of bfloat16. A float32
is a sum of three bfloat16, and six products of these parts make one that is as exact as a product of float32
(csrc/parts.h); no array of out_features x in_features is made. The time depends on the size of W and hardly
on its connections, so this pays where W is dense.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ..pattern import SparsityPattern
from .native import NativeKernel, operator, strided

# From this density on a training step of a large layer on a large batch takes less time over tiles than by
# connections. On few samples the blocks of W that are written out serve few, and a layer with few features
# has its tiles half empty. Native's time over that of amx, 2 cores with 2 MiB of second-level cache each:
#   float32    4096 x 4096   batch   64   20 %: 0.77  30 %: 0.90    256   20 %: 0.88  25 %: 1.14  40 %: 1.33
#              4096 x 4096         1024         0.81        1.09
#              1024 x 1024           64         0.58        0.77    256         0.67        0.83        1.13
#              512 x 512            256   40 %: 1.00        128 x 128, batch 256, 50 %: 0.71
#   bfloat16   4096 x 4096           64    5 %: 0.44  10 %: 0.67    256    5 %: 0.68  10 %: 1.13
#   float16    4096 x 4096           64   10 %: 0.63  20 %: 0.84    256   10 %: 0.74  20 %: 1.25
_DENSE = {torch.float32: 0.23, torch.bfloat16: 0.085, torch.float16: 0.16}
_FEW_SAMPLES, _FEW_FEATURES = 64, 200


def dense_from(dtype: torch.dtype) -> float | None:
    """The density from which on this kernel is the faster one in large layers; None where it cannot run."""
    return None if AmxKernel().unavailable(torch.device("cpu"), dtype) else _DENSE[dtype]


def least_density(dense: float, out_features: int, in_features: int, batch: int) -> float:
    """The same, in a layer of this size on a batch of this size."""
    fewest = max(1, min(out_features, in_features))
    return dense * (1 + _FEW_SAMPLES / max(1, batch)) * (1 + _FEW_FEATURES / fewest)


class AmxKernel(NativeKernel):
    """Products over dense tiles, where the native kernel goes by connections.

    What cannot be split in parts, infinities among it, and a batch of nothing, is left to the native kernel:
    results are those of float32, not of bfloat16. They do not depend on the number of threads.
    """

    name = "amx"

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:  # noqa: D102
        problem = super().unavailable(device, dtype)
        if problem:
            return problem.replace("native", self.name, 1)
        if dtype == torch.float64:
            return "the matrix unit has no float64"
        return None if _has_unit() else "this processor has no matrix unit (AMX), or the system keeps it back"

    def spmm(  # noqa: D102
        self, pattern: SparsityPattern, values: Tensor, input: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        contiguous = None if bias is None else bias.contiguous()
        output, valid = operator("amx_spmm")(
            pattern.crow_indices, pattern.col_indices, values, None, strided(input), contiguous
        )
        return output if valid else super().spmm(pattern, values, input, bias)

    def spmm_transposed(self, pattern: SparsityPattern, values: Tensor, grad_output: Tensor) -> Tensor:  # noqa: D102
        columns = pattern.transposed
        grad_input, valid = operator("amx_spmm")(
            columns.crow_indices,
            columns.col_indices,
            values,
            pattern.permutation,
            strided(grad_output),
            None,
        )
        return grad_input if valid else super().spmm_transposed(pattern, values, grad_output)

    def sddmm(self, pattern: SparsityPattern, grad_output: Tensor, input: Tensor) -> Tensor:  # noqa: D102
        grad_values, valid = operator("amx_sddmm")(
            pattern.crow_indices, pattern.col_indices, strided(grad_output), strided(input)
        )
        return grad_values if valid else super().sddmm(pattern, grad_output, input)

    def backward(  # noqa: D102
        self, pattern: SparsityPattern, values: Tensor, grad_output: Tensor, input: Tensor
    ) -> tuple[Tensor, Tensor]:
        grad_input = self.spmm_transposed(pattern, values, grad_output)
        return grad_input, self.sddmm(pattern, grad_output, input)


@cache
def _has_unit() -> bool:
    """Whether there is a matrix unit that this process may use; asks the system for it."""
    return bool(operator("amx_available")())
