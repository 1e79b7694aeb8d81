"""The autograd of a sparse layer: from an input and values to an output, and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from . import kernels, operators
from .checks import FLOATING, message, type_name
from .pattern import SparsityPattern
from .products import Spmm, autocasts


def sparse_linear(
    input: Tensor, values: Tensor, pattern: SparsityPattern, bias: Tensor | None = None
) -> Tensor:
    """``input @ W.T + bias`` with W given by its connections alone.

    Gradients exist for the input, the values and the bias; a connection that is not in the pattern
    has none. No array of out_features x in_features, and none of nnz x batch, is made on the way. Under
    autocast the tensors are cast as those of ``torch.nn.functional.linear`` are.

    Args:
        input: ``(*, in_features)``, of the dtype and device of values.
        values: (nnz,) one number a connection, in the CSR order of the pattern.
        pattern: the connections of W, (out_features, in_features).
        bias: (out_features,) or None.

    Returns:
        ``(*, out_features)``. Contiguous for a contiguous input; for a 2-D input whose features are the
        slow axis (``input.t()`` is contiguous) the output is of that kind too.

    Raises:
        TypeError: an argument is of another type, or dtypes differ or are not floating.
        ValueError: a shape does not fit the pattern.
        RuntimeError: the tensors are on different devices, or a kernel that was asked for by
            :func:`sparselinear.kernels.use` cannot run.
    """
    _check_pattern(pattern)
    if autocasts(pattern.device):
        dtype = torch.get_autocast_dtype(pattern.device.type)
        input, values = _autocast(input, dtype), _autocast(values, dtype)
        bias = None if bias is None else _autocast(bias, dtype)
        with torch.autocast(pattern.device.type, enabled=False):  # not within the kernels
            return sparse_linear(input, values, pattern, bias)
    _check(input, values, pattern, bias)
    if input.dim() == 2:
        return _of_matrix(input, values, pattern, bias)
    leading = input.shape[:-1]
    rows = input.reshape(math.prod(leading), pattern.in_features)
    return _of_matrix(rows, values, pattern, bias).reshape(*leading, pattern.out_features)


def _of_matrix(input: Tensor, values: Tensor, pattern: SparsityPattern, bias: Tensor | None) -> Tensor:
    """(batch, in_features) -> (batch, out_features)."""
    # Fake tensors have shapes and no numbers: nothing for a kernel, and all that an operator asks for.
    if torch.compiler.is_compiling() or FakeTensor in (type(input), type(values)):
        return operators.linear(input, values, bias, pattern)
    kernel = kernels.choose(pattern, values.dtype, input.shape[0])
    output: Tensor = Spmm.apply(input, values, bias, pattern, kernel)
    return output


def _autocast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """What autocast makes of an argument of nn.Linear: everything floating but float64 is cast."""
    wide = not isinstance(tensor, Tensor) or tensor.dtype == torch.float64
    return tensor if wide or tensor.dtype not in FLOATING else tensor.to(dtype)


def _check_pattern(pattern: SparsityPattern) -> None:
    if not isinstance(pattern, SparsityPattern):
        advice = "sparselinear.interop.to_pattern makes one."
        raise TypeError(message("pattern", "a SparsityPattern", type_name(pattern), advice))


def _check(input: Tensor, values: Tensor, pattern: SparsityPattern, bias: Tensor | None) -> None:
    device = pattern.device
    _check_tensor("values", values, FLOATING, device)
    dtypes = (values.dtype,)
    _check_tensor("input", input, dtypes, device)
    if values.shape != (pattern.nnz,):
        raise ValueError(message("values", f"shape (nnz,) = ({pattern.nnz},)", str(tuple(values.shape))))
    if input.dim() == 0 or input.shape[-1] != pattern.in_features:
        expected = f"shape (*, in_features) = (*, {pattern.in_features})"
        raise ValueError(message("input", expected, str(tuple(input.shape))))
    if bias is not None:
        _check_tensor("bias", bias, dtypes, device)
        if bias.shape != (pattern.out_features,):
            expected = f"shape (out_features,) = ({pattern.out_features},)"
            raise ValueError(message("bias", expected, str(tuple(bias.shape))))


def _check_tensor(
    argument: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], device: torch.device
) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(message(argument, "a torch.Tensor", type_name(tensor)))
    if tensor.layout != torch.strided:
        raise TypeError(message(argument, "a dense tensor", f"layout {tensor.layout}", "Use .to_dense()."))
    if tensor.dtype not in dtypes:
        expected = f"one of {', '.join(map(str, FLOATING))}"
        if tensor.dtype in FLOATING:
            expected = f"the dtype of values, {dtypes[0]}"
        raise TypeError(message(argument, expected, str(tensor.dtype), "Use .to(dtype)."))
    if tensor.device != device:
        expected = f"the device of the pattern, {device}"
        raise RuntimeError(message(argument, expected, str(tensor.device), "Use .to(device)."))
