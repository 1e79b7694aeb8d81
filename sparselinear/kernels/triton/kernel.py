"""TritonKernel: where it can run, and the four products in terms of launch.py."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ...checks import FLOATING
from ...pattern import SparsityPattern
from ..base import Kernel, is_feature_major
from ..slices import by_slices
from .tiles import fused_is_less

_LEAST_CAPABILITY = (7, 0)  # of the cards that Triton compiles for


class TritonKernel(Kernel):
    """Products and the fused backward in Triton.

    Sums of bfloat16 and float16 are taken in float32, and those of float32 are never of TF32. No sum is
    taken by atomic operations: results do not change from run to run. Nothing waits for the card, so a
    CUDA graph can hold the products, once a first call has divided the rows of the pattern.
    """

    name = "triton"

    def unavailable(  # noqa: D102
        self, device: torch.device, dtype: torch.dtype, index_dtype: torch.dtype = torch.int32
    ) -> str | None:
        if not _is_installed():
            return "Triton is not installed"
        if device.type == "cpu":
            interpreted = os.environ.get("TRITON_INTERPRET") == "1"
            why = "the triton kernel runs on CUDA; on a CPU only interpreted, for tests (TRITON_INTERPRET=1)"
            if not interpreted:
                return why
        elif device.type != "cuda":
            return f"the triton kernel does not run on {device.type}"
        elif _capability(device) < _LEAST_CAPABILITY:
            return "Triton compiles for cards of compute capability 7.0 and above"
        return None if dtype in FLOATING else f"values are not of {dtype}"

    @by_slices
    def spmm(  # noqa: D102
        self, pattern: SparsityPattern, values: Tensor, input: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        output = _launch().spmm(pattern, None, values, _packed(input), bias)
        return _laid_out(output, input)

    @by_slices
    def spmm_transposed(self, pattern: SparsityPattern, values: Tensor, grad_output: Tensor) -> Tensor:  # noqa: D102
        packed = _packed(grad_output)
        grad_input = _launch().spmm(pattern.transposed, pattern.permutation, values, packed, None)
        return _laid_out(grad_input, grad_output)

    @by_slices
    def sddmm(self, pattern: SparsityPattern, grad_output: Tensor, input: Tensor) -> Tensor:  # noqa: D102
        grad_values: Tensor = _launch().sddmm(pattern, _packed(grad_output), _packed(input))
        return grad_values

    @by_slices
    def backward(  # noqa: D102
        self, pattern: SparsityPattern, values: Tensor, grad_output: Tensor, input: Tensor
    ) -> tuple[Tensor, Tensor]:
        grad_packed, packed = _packed(grad_output), _packed(input)
        if fused_is_less(pattern.nnz, input.shape[0], values.dtype, pattern.device):
            grad_input, grad_values = _launch().backward(
                pattern.transposed, pattern.permutation, values, grad_packed, packed
            )
        else:
            grad_input = _launch().spmm(pattern.transposed, pattern.permutation, values, grad_packed, None)
            grad_values = _launch().sddmm(pattern, grad_packed, packed)
        return _laid_out(grad_input, grad_output), grad_values


@cache
def _is_installed() -> bool:
    return find_spec("triton") is not None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@cache
def _launch() -> Any:
    """Imported when it is first needed: it takes triton with it."""
    from . import launch

    return launch


def _packed(activations: Tensor) -> Tensor:
    """(features, batch) contiguous; no copy where it lies so already."""
    return activations.t().contiguous()


def _laid_out(result: Tensor, like: Tensor) -> Tensor:
    """(features, batch) as (batch, features), in the memory layout of other activations."""
    return result.t() if is_feature_major(like) else result.t().contiguous()
