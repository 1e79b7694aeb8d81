"""Argument checks that several modules share, and the one form every error message takes.

A message says which argument is meant, what was expected, what came, and what to do.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INDEXING = (torch.int32, torch.int64)


def message(argument: str, expected: str, got: str, advice: str = "") -> str:
    """Text of an error: ``argument: expected ..., got .... advice``."""
    text = f"{argument}: expected {expected}, got {got}."
    return f"{text} {advice}" if advice else text


def type_name(value: Any) -> str:
    """Name of a value's type as a user would import it."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def size(argument: str, value: Any) -> int:
    """A number of features as a non-negative int; numpy's integers are welcome, bools are not."""
    if isinstance(value, bool):
        raise TypeError(message(argument, "a non-negative int", "a bool"))
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(message(argument, "a non-negative int", f"{value!r} ({type_name(value)})")) from None
    if number < 0:
        raise ValueError(message(argument, "a non-negative int", str(number)))
    return number


def whole(argument: str, value: Any, least: int = 1) -> int:
    """A whole number of at least so much, as an int."""
    expected = f"a whole number from {least} up"
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(message(argument, expected, repr(value))) from None
    if isinstance(value, bool) or not least <= number < 1 << 63:
        raise ValueError(message(argument, expected, repr(value)))
    return number


def shape(argument: str, value: Any) -> tuple[int, int]:
    """A pair (out_features, in_features)."""
    try:
        out_features, in_features = value
    except (TypeError, ValueError):
        raise ValueError(message(argument, "a pair (out_features, in_features)", repr(value))) from None
    return size(f"{argument}[0]", out_features), size(f"{argument}[1]", in_features)


def floating_dtype(argument: str, dtype: torch.dtype | None) -> torch.dtype:
    """A dtype that values can have; None is torch's default dtype."""
    if dtype is None:
        dtype = torch.get_default_dtype()
    if not isinstance(dtype, torch.dtype):
        raise TypeError(message(argument, "a torch.dtype", f"{dtype!r} ({type_name(dtype)})"))
    if dtype not in FLOATING:
        names = ", ".join(str(d) for d in FLOATING)
        raise ValueError(message(argument, f"one of {names}", str(dtype)))
    return dtype


def device(argument: str, value: torch.device | str | int | None) -> torch.device:
    """A device on which a tensor can be made; None is torch's default device."""
    if value is None:
        return torch.get_default_device()
    try:
        found = torch.empty(0, device=value).device  # 'cuda' becomes 'cuda:0'
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        reason = reason if len(reason) <= 200 else f"{reason[:200]} ..."  # some list every operator
        advice = f"torch says: {reason}."
        raise RuntimeError(message(argument, "a device of this machine", repr(value), advice)) from error
    return found


def index_vector(argument: str, value: Any) -> Tensor:
    """A 1-D tensor of int32 or int64 that holds data."""
    if not isinstance(value, Tensor):
        raise TypeError(message(argument, "a torch.Tensor", type_name(value), "Use torch.as_tensor."))
    if value.layout != torch.strided or value.dim() != 1:
        got = f"shape {tuple(value.shape)}, layout {value.layout}"
        raise ValueError(message(argument, "a dense 1-D tensor", got))
    if value.dtype not in INDEXING:
        raise TypeError(message(argument, "dtype torch.int32 or torch.int64", str(value.dtype)))
    if value.is_meta:
        raise ValueError(message(argument, "a tensor that holds data", "one on the meta device"))
    return value
