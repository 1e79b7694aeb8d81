"""The ``native`` kernel: C++ compiled for the machine it runs on; csrc/ holds the sources, build.py compiles.

Batches are worked on in panels, (features, 16 to 64 samples), that stay in the second-level cache. Packing
a panel transposes batch-major activations on the way, and backward yields both gradients in one pass over
the columns of W, or, for a small batch, in two over its rows, which need no transpose of it. docs/roofline.md
sets it against what the machine can do.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..checks import FLOATING
from ..pattern import SparsityPattern
from . import build
from .base import Kernel
from .panels import scatters
from .torch_sparse import accumulation_dtype


class NativeKernel(Kernel):
    """Products and the fused backward in C++, on torch's own threads.

    Sums of bfloat16 and float16 are taken in float32. The results do not depend on the number of threads.
    """

    name = "native"

    def unavailable(  # noqa: D102
        self, device: torch.device, dtype: torch.dtype, index_dtype: torch.dtype = torch.int32
    ) -> str | None:
        if device.type != "cpu":
            return f"the {self.name} kernel runs on a CPU only"
        if dtype not in FLOATING:
            return f"values are not of {dtype}"
        return _problem(accumulation_dtype(dtype), index_dtype)

    def spmm(  # noqa: D102
        self, pattern: SparsityPattern, values: Tensor, input: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        bias = None if bias is None else bias.contiguous()
        output: Tensor = operator("spmm", values.dtype, pattern.index_dtype)(
            pattern.crow_indices, pattern.col_indices, values, None, strided(input), bias
        )
        return output

    def spmm_transposed(self, pattern: SparsityPattern, values: Tensor, grad_output: Tensor) -> Tensor:  # noqa: D102
        if _scatters(pattern, values, grad_output):
            scattered: Tensor = operator("scatter", values.dtype, pattern.index_dtype)(
                pattern.crow_indices,
                pattern.col_indices,
                values,
                strided(grad_output),
                pattern.in_features,
            )
            return scattered
        columns = pattern.transposed
        grad_input: Tensor = operator("spmm", values.dtype, pattern.index_dtype)(
            columns.crow_indices,
            columns.col_indices,
            values,
            pattern.permutation,
            strided(grad_output),
            None,
        )
        return grad_input

    def sddmm(self, pattern: SparsityPattern, grad_output: Tensor, input: Tensor) -> Tensor:  # noqa: D102
        grad_values: Tensor = operator("sddmm", input.dtype, pattern.index_dtype)(
            pattern.crow_indices, pattern.col_indices, strided(grad_output), strided(input)
        )
        return grad_values

    def backward(  # noqa: D102
        self, pattern: SparsityPattern, values: Tensor, grad_output: Tensor, input: Tensor
    ) -> tuple[Tensor, Tensor]:
        columns: tuple[Tensor | None, ...] = (None, None, None)
        if not _scatters(pattern, values, grad_output):
            columns = pattern.ccol_indices, pattern.row_indices, pattern.permutation
        grad_input, grad_values = operator("backward", values.dtype, pattern.index_dtype)(
            pattern.crow_indices,
            pattern.col_indices,
            *columns,
            values,
            strided(grad_output),
            strided(input),
        )
        return grad_input, grad_values


def _scatters(pattern: SparsityPattern, values: Tensor, grad_output: Tensor) -> bool:
    return scatters(grad_output.shape[0], pattern.nnz, pattern.in_features, max(values.itemsize, 4))


@cache
def _problem(sums: torch.dtype, index_dtype: torch.dtype) -> str | None:
    """Why the library cannot be had; asked and said once, as the first time may take a compiler's seconds."""
    try:
        build.load(sums, index_dtype)
    except build.BuildError as error:
        print(f"sparselinear: slower kernels run, for {error}", file=sys.stderr)
        return str(error)
    return None


@cache
def operator(name: str, dtype: torch.dtype, index_dtype: torch.dtype) -> Any:
    """The overload of an operator in the compiled library for these types of values and indices."""
    sums = accumulation_dtype(dtype)
    build.load(sums, index_dtype)
    return getattr(getattr(torch.ops.sparselinear, name), f"{build.name(sums)}_{build.name(index_dtype)}")


def strided(activations: Tensor) -> Tensor:
    """(batch, features) with one of its two strides 1."""
    batch_stride, feature_stride = activations.stride()
    return activations if feature_stride == 1 or batch_stride == 1 else activations.contiguous()
