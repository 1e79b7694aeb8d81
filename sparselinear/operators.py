"""The products as operators of torch, for torch.compile and torch.export: these trace tensors and numbers.

``torch.ops.sparselinear.linear`` and its gradients take the indices of a pattern as tensors, and the
pattern they belong to is found again when they run; with it come its transpose and the choice of the kernel.
Eager code does not pass here: an operator registered from Python costs tens of microseconds a call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import kernels
from .kernels.base import Kernel
from .pattern import SparsityPattern
from .products import one_by_one, over_batches, with_bias

_OVER = "Tensor crow_indices, Tensor col_indices, int in_features"
_library = torch.library.Library("sparselinear", "FRAGMENT")
_library.define(f"linear(Tensor input, Tensor values, Tensor? bias, {_OVER}) -> Tensor")
_library.define(f"grad_input(Tensor grad_output, Tensor values, {_OVER}) -> Tensor")
_library.define(f"grad_values(Tensor grad_output, Tensor input, {_OVER}) -> Tensor")
_library.define(f"grad_both(Tensor grad_output, Tensor input, Tensor values, {_OVER}) -> (Tensor, Tensor)")

_LINEAR, _GRAD_INPUT, _GRAD_VALUES, _GRAD_BOTH = (
    f"sparselinear::{name}" for name in ("linear", "grad_input", "grad_values", "grad_both")
)


def linear(input: Tensor, values: Tensor, bias: Tensor | None, pattern: SparsityPattern) -> Tensor:
    """(batch, in_features), (nnz,), (out_features,) or None -> (batch, out_features)."""
    output: Tensor = torch.ops.sparselinear.linear(
        input, values, bias, pattern.crow_indices, pattern.col_indices, pattern.in_features
    )
    return output


def _resolve(values: Tensor, activations: Tensor, *over: Any) -> tuple[SparsityPattern, Kernel]:
    pattern = SparsityPattern.over(*over)
    return pattern, kernels.choose(pattern, values.dtype, activations.shape[0])


def _run_linear(input: Tensor, values: Tensor, bias: Tensor | None, *over: Any) -> Tensor:
    pattern, kernel = _resolve(values, input, *over)
    return _laid_out(input, kernel.spmm(pattern, values.contiguous(), input, bias))


def _run_grad_input(grad_output: Tensor, values: Tensor, *over: Any) -> Tensor:
    pattern, kernel = _resolve(values, grad_output, *over)
    return _laid_out(grad_output, kernel.spmm_transposed(pattern, values.contiguous(), grad_output))


def _run_grad_values(grad_output: Tensor, input: Tensor, *over: Any) -> Tensor:
    pattern, kernel = _resolve(input, grad_output, *over)
    return kernel.sddmm(pattern, grad_output, input)


def _run_grad_both(grad_output: Tensor, input: Tensor, values: Tensor, *over: Any) -> tuple[Tensor, Tensor]:
    pattern, kernel = _resolve(values, grad_output, *over)
    grad_input, grad_values = kernel.backward(pattern, values.contiguous(), grad_output, input)
    return _laid_out(grad_output, grad_input), grad_values


def _feature_major(activations: Tensor) -> bool:
    return not activations.is_contiguous() and activations.stride(0) == 1


def _laid_out(like: Tensor, result: Tensor) -> Tensor:
    """As the fake tensors promise: feature-major if the activations are, else contiguous."""
    return result.t().contiguous().t() if _feature_major(like) else result.contiguous()


def _fake(like: Tensor, features: Any) -> Tensor:
    if _feature_major(like):
        return like.new_empty(features, like.shape[0]).t()
    return like.new_empty(like.shape[0], features)


def _fake_linear(input: Tensor, values: Tensor, bias: Tensor | None, crow_indices: Tensor, *_: Any) -> Tensor:
    return _fake(input, crow_indices.shape[0] - 1)


def _fake_grad_input(
    grad_output: Tensor, values: Tensor, crow: Tensor, col: Tensor, in_features: Any
) -> Tensor:
    return _fake(grad_output, in_features)


def _fake_grad_values(grad_output: Tensor, input: Tensor, crow: Tensor, col: Tensor, *_: Any) -> Tensor:
    return input.new_empty(col.shape[0])


def _fake_grad_both(
    grad_output: Tensor, input: Tensor, values: Tensor, crow: Tensor, col: Tensor, in_features: Any
) -> tuple[Tensor, Tensor]:
    return _fake(grad_output, in_features), torch.empty_like(values, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, values, _, *indices, ctx.in_features = inputs
    needs_input, needs_values = ctx.needs_input_grad[:2]
    ctx.save_for_backward(input if needs_values else None, values if needs_input else None, *indices)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, values, *indices = ctx.saved_tensors
    over = *indices, ctx.in_features
    needs_input, needs_values, needs_bias = ctx.needs_input_grad[:3]
    grad_input = grad_values = None
    if needs_input and needs_values:
        grad_input, grad_values = torch.ops.sparselinear.grad_both(grad_output, input, values, *over)
    elif needs_input:
        grad_input = torch.ops.sparselinear.grad_input(grad_output, values, *over)
    elif needs_values:
        grad_values = torch.ops.sparselinear.grad_values(grad_output, input, *over)
    return grad_input, grad_values, grad_output.sum(0) if needs_bias else None, None, None, None


def _map_linear(
    info: Any, in_dims: tuple[int | None, ...], input: Tensor, values: Tensor, bias: Tensor | None, *over: Any
) -> tuple[Tensor, int]:
    def product(input: Tensor, values: Tensor) -> Tensor:
        output: Tensor = torch.ops.sparselinear.linear(input, values, None, *over)
        return output

    output = over_batches(info.batch_size, in_dims[:2], input, values, product)
    return with_bias(output, bias, in_dims[2]), 0


def _map_grad_input(
    info: Any, in_dims: tuple[int | None, ...], grad_output: Tensor, values: Tensor, *over: Any
) -> tuple[Tensor, int]:
    def product(grad_output: Tensor, values: Tensor) -> Tensor:
        grad_input: Tensor = torch.ops.sparselinear.grad_input(grad_output, values, *over)
        return grad_input

    return over_batches(info.batch_size, in_dims[:2], grad_output, values, product), 0


def _map_grad_values(
    info: Any, in_dims: tuple[int | None, ...], grad_output: Tensor, input: Tensor, *over: Any
) -> tuple[Tensor, int]:
    def product(grad_output: Tensor, input: Tensor) -> Tensor:
        grad_values: Tensor = torch.ops.sparselinear.grad_values(grad_output, input, *over)
        return grad_values

    return one_by_one(info.batch_size, in_dims[:2], grad_output, input, product), 0


def _map_grad_both(
    info: Any, in_dims: tuple[int | None, ...], grad_output: Tensor, input: Tensor, values: Tensor, *over: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    by_output, by_input, by_values = in_dims[:3]
    grad_input, _ = _map_grad_input(info, (by_output, by_values), grad_output, values, *over)
    if by_output is None and by_values is None:
        grad_input = grad_input.expand(info.batch_size, *grad_input.shape)
    grad_values, _ = _map_grad_values(info, (by_output, by_input), grad_output, input, *over)
    return (grad_input, grad_values), (0, 0)


for _name, _run, _shape, _map in (
    (_LINEAR, _run_linear, _fake_linear, _map_linear),
    (_GRAD_INPUT, _run_grad_input, _fake_grad_input, _map_grad_input),
    (_GRAD_VALUES, _run_grad_values, _fake_grad_values, _map_grad_values),
    (_GRAD_BOTH, _run_grad_both, _fake_grad_both, _map_grad_both),
):
    _library.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(_name, _shape, lib=_library)
    torch.library.register_vmap(_name, _map, lib=_library)
torch.library.register_autograd(_LINEAR, _backward, setup_context=_keep, lib=_library)
