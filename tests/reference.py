"""The oracle: masked dense autograd in float64, and how far each dtype may be from it.

An error is measured against the sum of the magnitudes of the terms, |x| @ |W|.T + |b|, which is what
rounding scales with; a bound relative to the result itself would fail where terms cancel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sparselinear import SparsityPattern

# In units of the dtype's epsilon. float32 and float64 lose a little in every term of a sum; half
# types accumulate in float32 and are rounded once for the product, once for the bias.
TOLERANCE = {torch.float64: 32, torch.float32: 32, torch.bfloat16: 2, torch.float16: 2}


def mask_of(adjacency: Any) -> Tensor:
    """(out_features, in_features) bool: where the adjacency stores an entry."""
    coo = sp.coo_array(adjacency)
    mask = np.zeros(coo.shape, dtype=bool)
    mask[coo.row, coo.col] = True
    return torch.from_numpy(mask)


def positions(pattern: SparsityPattern) -> tuple[Tensor, Tensor]:
    """Row and column of each connection in CSR order, as scipy reads the structure."""
    data = np.arange(1, pattern.nnz + 1)
    structure = (data, pattern.col_indices.cpu().numpy(), pattern.crow_indices.cpu().numpy())
    coo = sp.csr_array(structure, shape=pattern.shape).tocoo()
    assert (coo.data == data).all()
    return torch.from_numpy(coo.row).long(), torch.from_numpy(coo.col).long()


def dense_of(pattern: SparsityPattern, values: Tensor) -> Tensor:
    """(out_features, in_features) weight in the dtype of values, zero where no connection is."""
    return values.new_zeros(pattern.shape).index_put(positions(pattern), values)


@dataclass
class Step:
    """Forward and gradients of one call, with the magnitude that their rounding scales with."""

    output: Tensor
    grad_input: Tensor
    grad_values: Tensor
    grad_bias: Tensor | None


def oracle(
    pattern: SparsityPattern, input: Tensor, values: Tensor, bias: Tensor | None, grad_output: Tensor
) -> tuple[Step, Step]:
    """The step in float64 by masked dense autograd, and the same of the magnitudes of all terms."""
    input, values, grad_output = input.cpu(), values.cpu(), grad_output.cpu()
    bias = None if bias is None else bias.cpu()

    def step(transform: Any) -> Step:
        x = transform(input.detach().double()).requires_grad_()
        weight = transform(dense_of(pattern, values.detach().double())).requires_grad_()
        b = None if bias is None else transform(bias.detach().double()).requires_grad_()
        output = torch.nn.functional.linear(x, weight, b)
        output.backward(transform(grad_output.double()))
        assert x.grad is not None
        assert weight.grad is not None
        grad_values = weight.grad[positions(pattern)]
        return Step(output.detach(), x.grad, grad_values, None if b is None else b.grad)

    return step(lambda tensor: tensor), step(torch.abs)


def assert_close(actual: Tensor, expected: Tensor, magnitude: Tensor, dtype: torch.dtype) -> None:
    """Every entry within TOLERANCE epsilons of the magnitude of its terms."""
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    error = (actual.detach().cpu().double() - expected).abs()
    kind = torch.finfo(dtype)  # below the smallest normal number rounding is absolute
    bound = TOLERANCE[dtype] * kind.eps * magnitude.clamp(min=kind.smallest_normal)
    assert bool((error <= bound).all()), f"off by {(error - bound).max():.3g} beyond the bound"
