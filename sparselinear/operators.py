"""The products as operators of torch, for torch.compile and torch.export: these trace tensors and numbers.

``torch.ops.sparselinear.linear`` and its gradients take the indices of a pattern as tensors, and the
pattern they belong to is found again when they run; with it come its transpose and the choice of the kernel.
Eager code does not pass here: an operator registered from Python costs tens of microseconds a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction

from . import kernels
from .kernels.base import Kernel
from .kernels.torch_sparse import accumulation_dtype
from .pattern import SparsityPattern
from .products import is_transformed, one_by_one, over_batches, tangent_of, with_bias

_OVER = "Tensor crow_indices, Tensor col_indices, int in_features"
_library = torch.library.Library("sparselinear", "FRAGMENT")
_library.define(f"linear(Tensor input, Tensor values, Tensor? bias, {_OVER}) -> Tensor")
_library.define(f"grad_input(Tensor grad_output, Tensor values, {_OVER}) -> Tensor")
_library.define(f"grad_values(Tensor grad_output, Tensor input, {_OVER}) -> Tensor")
_library.define(f"grad_both(Tensor grad_output, Tensor input, Tensor values, {_OVER}) -> (Tensor, Tensor)")

_LINEAR, _GRAD_INPUT, _GRAD_VALUES, _GRAD_BOTH = (
    getattr(torch.ops.sparselinear, name).default
    for name in ("linear", "grad_input", "grad_values", "grad_both")
)


def linear(input: Tensor, values: Tensor, bias: Tensor | None, pattern: SparsityPattern) -> Tensor:
    """(batch, in_features), (nnz,), (out_features,) or None -> (batch, out_features)."""
    run = decomposed if torch.onnx.is_in_onnx_export() else torch.ops.sparselinear.linear
    output: Tensor = run(input, values, bias, pattern.crow_indices, pattern.col_indices, pattern.in_features)
    return output


def decomposed(
    input: Tensor,
    values: Tensor,
    bias: Tensor | None,
    crow_indices: Tensor,
    col_indices: Tensor,
    in_features: int,
) -> Tensor:
    """The operator ``linear`` by those of torch, for where ours do not exist; holds a (batch, nnz)."""
    starts = crow_indices[1:-1].long()
    marks = starts.new_zeros(col_indices.shape[0] + 1).scatter_add(0, starts, torch.ones_like(starts))
    rows = marks.cumsum(0)[:-1]  # (nnz,): how many rows have begun by there
    wide = accumulation_dtype(values.dtype)
    products = input.index_select(1, col_indices).to(wide) * values.to(wide)  # (batch, nnz)
    output = products.new_zeros(input.shape[0], crow_indices.shape[0] - 1).index_add(1, rows, products)
    if bias is not None:
        output = output + bias
    return _laid_out(input, output.to(values.dtype))


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


class _Product(_SingleLevelFunction):
    """The autograd of the operators, each of which is linear in its first two arguments.

    torch.library.register_autograd has no forward mode, and torch.func refuses it in a graph. Here torch has
    unwrapped the tensors to those of one transform before, hence a Function of a single level.
    """

    @staticmethod
    def forward(operator: Any, keyset: Any, *args: Any) -> Tensor:
        """What is below autograd, be it another transform that needs its own derivatives."""
        with torch.enable_grad(), _set_fwd_grad_enabled(True):
            return _below_autograd(operator, keyset, *args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the derivatives that are asked for need."""
        ctx.operator, _, first, second, *_, crow_indices, col_indices, in_features = inputs
        ctx.over = crow_indices, col_indices, in_features
        needs_first, needs_second = ctx.needs_input_grad[2:4]
        ctx.save_for_backward(first if needs_second else None, second if needs_first else None)
        ctx.save_for_forward(first, second)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of both arguments, and of a bias."""
        first, second = ctx.saved_tensors
        needs_first, needs_second, needs_bias = ctx.needs_input_grad[2:5]
        by_first, by_second = _DERIVATIVES[ctx.operator]
        if ctx.operator is _LINEAR and needs_first and needs_second and not is_transformed():
            grads = _GRAD_BOTH(grad, first, second, *ctx.over)
        else:
            grads = (
                by_first(grad, second, *ctx.over) if needs_first else None,
                by_second(grad, first, *ctx.over) if needs_second else None,
            )
        if ctx.operator is _LINEAR:
            grads = *grads, grad.sum(0) if needs_bias else None
        return None, None, *grads, None, None, None

    @staticmethod
    def jvp(
        ctx: Any, operator: None, keyset: None, first_t: Any, second_t: Any, bias_t: Any, *_: None
    ) -> Tensor | None:
        """Tangent of the result; where there is no bias, its place has indices, and None."""
        bias = (None,) * (ctx.operator is _LINEAR)

        def product(first: Tensor, second: Tensor) -> Tensor:
            result: Tensor = ctx.operator(first, second, *bias, *ctx.over)
            return result

        return tangent_of(ctx, first_t, second_t, product, bias_t)


# Of each operator, its derivatives by its two arguments: functions of a gradient and the other argument.
_DERIVATIVES: dict[Any, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    _LINEAR: (
        lambda grad, values, *over: _GRAD_INPUT(grad, values, *over),
        lambda grad, input, *over: _GRAD_VALUES(grad, input, *over),
    ),
    _GRAD_INPUT: (
        lambda grad, values, *over: _LINEAR(grad, values, None, *over),
        lambda grad, grad_output, *over: _GRAD_VALUES(grad_output, grad, *over),
    ),
    _GRAD_VALUES: (
        lambda grad, input, *over: _LINEAR(input, grad, None, *over),
        lambda grad, grad_output, *over: _GRAD_INPUT(grad_output, grad, *over),
    ),
}


def _differentiable(operator: Any) -> Callable[..., Tensor]:
    def run(keyset: Any, *args: Any) -> Tensor:
        if not is_transformed():
            return _below_autograd(operator, keyset, *args)
        with enable_single_level_autograd_function():
            result: Tensor = _Product.apply(operator, keyset, *args)  # type: ignore[attr-defined]
        return result

    return run


def _below_autograd(operator: Any, keyset: Any, *args: Any) -> Tensor:
    with torch._C._AutoDispatchBelowAutograd():
        result: Tensor = operator.redispatch(keyset & torch._C._after_autograd_keyset, *args)
    return result


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


for _operator, _run, _shape, _map in (
    (_LINEAR, _run_linear, _fake_linear, _map_linear),
    (_GRAD_INPUT, _run_grad_input, _fake_grad_input, _map_grad_input),
    (_GRAD_VALUES, _run_grad_values, _fake_grad_values, _map_grad_values),
    (_GRAD_BOTH, _run_grad_both, _fake_grad_both, _map_grad_both),
):
    _library.impl(_operator.name(), _run, "CompositeExplicitAutograd")
    torch.library.register_fake(_operator, _shape, lib=_library)
    torch.library.register_vmap(_operator, _map, lib=_library)
    if _operator in _DERIVATIVES:
        _library.impl(_operator.name(), _differentiable(_operator), "Autograd", with_keyset=True)
