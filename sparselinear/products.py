"""The products of a sparse layer as differentiable functions, which are the derivatives of each other.

    spmm               input @ W.T + bias         (batch, in_features), (nnz,) -> (batch, out_features)
    spmm_transposed    grad_output @ W            (batch, out_features), (nnz,) -> (batch, in_features)
    sddmm              grad_output.T @ input      (batch, out_features), (batch, in_features) -> (nnz,)
                       at the connections

Each is linear in either argument, so its derivative by one argument is one of the other two, at all orders,
in reverse and in forward mode. Where only the first derivative is asked for, backward of spmm computes both
gradients in one pass of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .kernels.base import Kernel
from .pattern import SparsityPattern


class _Product(torch.autograd.Function):
    """A product of two tensors over a pattern; the subclasses say what it is and what its derivatives are."""

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """As that of any Function, without what is not needed.

        The product alone where nothing is differentiated, which saves 3 us, a fifth of a tiny layer
        (bench/overhead.py); and outside of torch.func no binding through inspect, which saves 40 us.
        """
        if not is_transformed():
            return cls.forward(*args, **kwargs)
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args, **kwargs)
        return super(torch.autograd.Function, cls).apply(*args, **kwargs)  # type: ignore[misc]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the derivatives that are asked for need."""
        first, second, *_, ctx.pattern, ctx.kernel = inputs
        needs_first, needs_second = ctx.needs_input_grad[:2]
        ctx.save_for_backward(first if needs_second else None, second if needs_first else None)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(first, second)


class Spmm(_Product):
    """input, values, bias -> output."""

    @staticmethod
    def forward(
        input: Tensor, values: Tensor, bias: Tensor | None, pattern: SparsityPattern, kernel: Kernel
    ) -> Tensor:
        """(batch, out_features)."""
        return kernel.spmm(pattern, values.contiguous(), input, bias)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input, values and bias."""
        if autocasts(grad_output.device):  # backward was called inside of it
            with torch.autocast(grad_output.device.type, enabled=False):
                return Spmm.backward(ctx, grad_output)
        input, values = ctx.saved_tensors
        needs_input, needs_values, needs_bias = ctx.needs_input_grad[:3]
        over = ctx.pattern, ctx.kernel
        grad_input = grad_values = None
        if needs_input and needs_values and not is_transformed():
            grad_input, grad_values = ctx.kernel.backward(
                ctx.pattern, values.contiguous(), grad_output, input
            )
        else:
            grad_input = SpmmTransposed.apply(grad_output, values, *over) if needs_input else None
            grad_values = Sddmm.apply(grad_output, input, *over) if needs_values else None
        return grad_input, grad_values, grad_output.sum(0) if needs_bias else None, None, None

    @staticmethod
    def jvp(
        ctx: Any, input_t: Tensor | None, values_t: Tensor | None, bias_t: Tensor | None, *_: Any
    ) -> Tensor | None:
        """Tangent of the output."""
        over = None, ctx.pattern, ctx.kernel
        return tangent_of(ctx, input_t, values_t, lambda *pair: Spmm.apply(*pair, *over), bias_t)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        input: Tensor,
        values: Tensor,
        bias: Tensor | None,
        pattern: SparsityPattern,
        kernel: Kernel,
    ) -> tuple[Tensor, int]:
        """Samples of all inputs in one batch; values of several layers one after the other."""

        def product(input: Tensor, values: Tensor) -> Tensor:
            output: Tensor = Spmm.apply(input, values, None, pattern, kernel)
            return output

        output = over_batches(info.batch_size, in_dims[:2], input, values, product)
        return with_bias(output, bias, in_dims[2]), 0


class SpmmTransposed(_Product):
    """grad_output, values -> grad_input."""

    @staticmethod
    def forward(grad_output: Tensor, values: Tensor, pattern: SparsityPattern, kernel: Kernel) -> Tensor:
        """(batch, in_features)."""
        return kernel.spmm_transposed(pattern, values.contiguous(), grad_output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of grad_output and values."""
        grad_output, values = ctx.saved_tensors
        over = ctx.pattern, ctx.kernel
        return (
            Spmm.apply(grad, values, None, *over) if ctx.needs_input_grad[0] else None,
            Sddmm.apply(grad_output, grad, *over) if ctx.needs_input_grad[1] else None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, grad_output_t: Tensor | None, values_t: Tensor | None, *_: Any) -> Tensor | None:
        """Tangent of grad_input."""
        over = ctx.pattern, ctx.kernel
        return tangent_of(ctx, grad_output_t, values_t, lambda *pair: SpmmTransposed.apply(*pair, *over))

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        grad_output: Tensor,
        values: Tensor,
        pattern: SparsityPattern,
        kernel: Kernel,
    ) -> tuple[Tensor, int]:
        """As that of Spmm."""

        def product(grad_output: Tensor, values: Tensor) -> Tensor:
            grad_input: Tensor = SpmmTransposed.apply(grad_output, values, pattern, kernel)
            return grad_input

        return over_batches(info.batch_size, in_dims[:2], grad_output, values, product), 0


class Sddmm(_Product):
    """grad_output, input -> grad_values."""

    @staticmethod
    def forward(grad_output: Tensor, input: Tensor, pattern: SparsityPattern, kernel: Kernel) -> Tensor:
        """(nnz,) in CSR order."""
        return kernel.sddmm(pattern, grad_output, input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of grad_output and input."""
        grad_output, input = ctx.saved_tensors
        over = ctx.pattern, ctx.kernel
        return (
            Spmm.apply(input, grad, None, *over) if ctx.needs_input_grad[0] else None,
            SpmmTransposed.apply(grad_output, grad, *over) if ctx.needs_input_grad[1] else None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, grad_output_t: Tensor | None, input_t: Tensor | None, *_: Any) -> Tensor | None:
        """Tangent of grad_values."""
        over = ctx.pattern, ctx.kernel
        return tangent_of(ctx, grad_output_t, input_t, lambda *pair: Sddmm.apply(*pair, *over))

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        grad_output: Tensor,
        input: Tensor,
        pattern: SparsityPattern,
        kernel: Kernel,
    ) -> tuple[Tensor, int]:
        """One after the other: each has gradients of its own for all values."""

        def product(grad_output: Tensor, input: Tensor) -> Tensor:
            grad_values: Tensor = Sddmm.apply(grad_output, input, pattern, kernel)
            return grad_values

        return one_by_one(info.batch_size, in_dims[:2], grad_output, input, product), 0


def autocasts(device: torch.device) -> bool:
    """Whether autocast is enabled for a device."""
    # In most programs it is for none, which is told sooner than the type of a device.
    return (
        torch._C._is_any_autocast_enabled()
        and device.type != "meta"
        and torch.is_autocast_enabled(device.type)
    )


def is_transformed() -> bool:
    """Whether what is computed now is differentiated, in reverse or forward, or mapped over."""
    return (
        torch.is_grad_enabled()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def tangent_of(
    ctx: Any,
    first_t: Tensor | None,
    second_t: Tensor | None,
    product: Callable[..., Tensor],
    bias_t: Tensor | None = None,
) -> Tensor | None:
    """The product rule, and a tangent of the bias; None where there is none."""
    first, second = ctx.saved_for_forward
    tangent = None if first_t is None else product(first_t, second)
    if second_t is not None:
        by_second = product(first, second_t)
        tangent = by_second if tangent is None else tangent + by_second
    if bias_t is not None:
        tangent = bias_t.expand(first.shape[0], -1).clone() if tangent is None else tangent + bias_t
    return tangent


def over_batches(
    size: int,
    dims: tuple[int | None, ...],
    activations: Tensor,
    values: Tensor,
    product: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """(size, batch, features): the product for each index along a new dimension of either argument."""
    if dims == (None, None):  # what is mapped over is not among these
        return product(activations, values)
    if dims[1] is None:
        assert dims[0] is not None
        every = activations.movedim(dims[0], 0)
        results = product(every.reshape(-1, every.shape[-1]), values)
        return results.reshape(*every.shape[:2], results.shape[-1])
    return one_by_one(size, dims, activations, values, product)


def one_by_one(
    size: int,
    dims: tuple[int | None, ...],
    first: Tensor,
    second: Tensor,
    product: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """(size, ...): the product for each slice of two tensors; of one without a dimension, the whole."""
    slices = [
        (tensor,) * size if dim is None else tensor.unbind(dim)
        for tensor, dim in zip((first, second), dims, strict=True)
    ]
    return torch.stack([product(*pair) for pair in zip(*slices, strict=True)])


def with_bias(output: Tensor, bias: Tensor | None, dim: int | None) -> Tensor:
    """The output of :func:`over_batches` with one bias for all, or one for each along its dimension."""
    if bias is None:
        return output
    return output + (bias if dim is None else bias.movedim(dim, 0).unsqueeze(1))
