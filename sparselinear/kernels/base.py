"""What a kernel is: the four products of a sparse layer, over one pattern.

functional.py calls these and nothing else, so a new family of kernels joins by subclassing
:class:`Kernel` and taking its place in choice.py.

Activations are logical (batch, features). Results keep the memory layout of the activations they
are made from: contiguous in, contiguous out; features as the slow axis in, the same out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ..pattern import SparsityPattern


def is_feature_major(activations: Tensor) -> bool:
    """Whether (batch, features) lie in memory with features as the slow axis, and not the other way too."""
    return not activations.is_contiguous() and activations.t().is_contiguous()


class Kernel(ABC):
    """One way to compute the products of a sparse layer W (out_features, in_features)."""

    name: ClassVar[str]

    @abstractmethod
    def unavailable(
        self, device: torch.device, dtype: torch.dtype, index_dtype: torch.dtype = torch.int32
    ) -> str | None:
        """Why this kernel cannot run with values and indices of these dtypes there; None if it can."""

    @abstractmethod
    def spmm(
        self, pattern: SparsityPattern, values: Tensor, input: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Forward, input @ W.T + bias: (batch, in_features) -> (batch, out_features)."""

    def spmm_transposed(self, pattern: SparsityPattern, values: Tensor, grad_output: Tensor) -> Tensor:
        """grad_input, grad_output @ W: (batch, out_features) -> (batch, in_features)."""
        in_csc_order = values.index_select(0, pattern.permutation)
        return self.spmm(pattern.transposed, in_csc_order, grad_output)

    @abstractmethod
    def sddmm(self, pattern: SparsityPattern, grad_output: Tensor, input: Tensor) -> Tensor:
        """grad_values, grad_output.T @ input sampled at the pattern: (nnz,) in CSR order."""

    def backward(
        self, pattern: SparsityPattern, values: Tensor, grad_output: Tensor, input: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(grad_input, grad_values), for a kernel to compute in one pass where it can."""
        grad_input = self.spmm_transposed(pattern, values, grad_output)
        return grad_input, self.sddmm(pattern, grad_output, input)
