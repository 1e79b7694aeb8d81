"""What a state_dict says of a sparse layer: its pattern and numbers, and whether they are a layer's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from . import shards
from .checks import message
from .pattern import SparsityPattern

# The pattern in a state_dict. The shape is there because indices do not tell the number of inputs.
PATTERN_BUFFERS = ("pattern_shape", "crow_indices", "col_indices")


def parts_of(state_dict: Mapping[str, Any], prefix: str) -> tuple[SparsityPattern, Tensor, Tensor | None]:
    """Pattern, values and bias of the layer that a state_dict describes, the numbers copied.

    Raises:
        KeyError, ValueError, RuntimeError: as :meth:`sparselinear.SparseLinear.from_state_dict` does.
    """
    names = ("values", *PATTERN_BUFFERS)
    missing = [prefix + name for name in names if prefix + name not in state_dict]
    if missing:
        got = f"none of {', '.join(missing)}"
        advice = "prefix is what stands before these names."
        raise KeyError(message("state_dict", "the entries of a SparseLinear", got, advice))
    values, shape, crow_indices, col_indices = (state_dict[prefix + name] for name in names)
    out_features, in_features = shape.tolist()
    pattern = SparsityPattern(
        crow_indices, col_indices, (out_features, in_features), index_dtype=col_indices.dtype
    )
    bias = state_dict.get(prefix + "bias")
    for argument, tensor, length in (("values", values, pattern.nnz), ("bias", bias, out_features)):
        if tensor is not None and tuple(tensor.shape) != (length,):
            raise ValueError(message(prefix + argument, f"shape ({length},)", str(tuple(tensor.shape))))
        if tensor is not None:
            shards.refuse(prefix + argument, tensor)
    return pattern, values.clone(), None if bias is None else bias.clone()


def misfit(
    state_dict: Mapping[str, Any],
    prefix: str,
    pattern: SparsityPattern,
    parameters: Mapping[str, Tensor],
    layer: object,
) -> str | None:
    """Why a state_dict cannot be that of a layer; None if it can, missing entries apart.

    Args:
        state_dict: of the layer, or of a model that contains it.
        prefix: what stands before the layer's names in it.
        pattern: of the layer.
        parameters: its own, by name.
        layer: whose text an error gives.
    """
    shape, crow_indices, col_indices = (state_dict.get(prefix + name) for name in PATTERN_BUFFERS)
    difference = None
    if shape is not None and crow_indices is not None and col_indices is not None:
        difference = _difference(pattern, shape, crow_indices, col_indices)
    if difference:
        advice = "SparseLinear.from_state_dict builds the layer that a state_dict describes."
        return message(f"{prefix}pattern", f"that of {layer!r}", difference, advice)
    for name, parameter in parameters.items():
        entry = state_dict.get(prefix + name)
        if isinstance(entry, Tensor) and entry.shape != parameter.shape:
            return message(prefix + name, f"shape {tuple(parameter.shape)}", str(tuple(entry.shape)))
    return None


def _difference(
    pattern: SparsityPattern, shape: Tensor, crow_indices: Tensor, col_indices: Tensor
) -> str | None:
    """How the pattern in a state_dict differs from another; None if it does not."""
    if tuple(shape.tolist()) != pattern.shape:
        return f"shape (out_features, in_features) = {tuple(shape.tolist())}"
    if col_indices.numel() != pattern.nnz:
        return f"nnz = {col_indices.numel()}"
    stored = SparsityPattern._trusted(crow_indices, col_indices, pattern.shape)
    return None if pattern.equals(stored) else "the same number of connections in other places"
