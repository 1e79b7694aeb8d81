"""Whole models: sparsify puts SparseLinear where nn.Linear was, densify goes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from ..checks import message
from ..linear import SparseLinear
from ..pattern import SparsityPattern
from . import linears, optimizers, swap
from .masks import resolve
from .swap import Swap

Choose = Callable[[str, Any, SparsityPattern], bool]


@dataclass(frozen=True)
class Conversion:
    """What became of the layers of a model.

    Attributes:
        converted: names of the layers that were converted.
        left: names of the others, each with the reason.
    """

    converted: tuple[str, ...]
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        count = "1 layer" if len(self.converted) == 1 else f"{len(self.converted)} layers"
        lines = [f"{count} converted{': ' * bool(self.converted)}{', '.join(self.converted)}"]
        return "\n".join([*lines, *(f"{name} left: {reason}" for name, reason in self.left.items())])


def sparsify(
    model: nn.Module,
    masks: Mapping[str, Any] | None = None,
    *,
    only: Iterable[str] | Choose | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Conversion:
    """Put a :class:`~sparselinear.SparseLinear` in the place of each ``nn.Linear`` that has a mask.

    The model is changed in place, and on any error not at all. Names of modules, values, biases, training
    mode, ``requires_grad``, dtype, device, hooks of the modules and of the biases, gradients and ties
    between converted layers are kept. ``torch.nn.utils.prune`` is taken off the weights. In the
    ``state_dict``, ``values`` and the indices take the place of ``weight``.

    Where sparse pays depends on the machine: :func:`sparselinear.profiling.profile_model` measures
    that, and ``only=result.faster`` or ``only=result.smaller`` converts those layers.

    The ``out_proj`` of ``nn.MultiheadAttention`` and subclasses of ``nn.Linear`` are left as they are. The
    fused forward that ``nn.TransformerEncoderLayer`` and ``nn.TransformerEncoder`` take in eval mode
    without gradients cannot read sparse weights and is switched off where a layer was converted.

    Args:
        model: holds ``nn.Linear`` modules.
        masks: name of a module to its connections, (out_features, in_features), in any form that
            SparseLinear takes. None takes :func:`masks_of`: pruned weights, and zeros.
        only: which of the layers that have a mask to convert: their names, or a function
            ``(name, linear, pattern) -> bool``. None converts all of them.
        optimizer: whose state is to follow. Entries of the shape of the weight are gathered at the
            connections, counters are kept, and the new Parameter stands in the place of the old one. Its
            next step is that of the masked dense model.

    Returns:
        Which layers were converted and which were left. Where none has a mask the model is as it was.

    Raises:
        TypeError: an argument is of another type, or a name is that of another kind of module.
        ValueError: the model has no ``nn.Linear``; a name or a mask does not fit; a layer that is asked for
            by name cannot be converted; a weight has hooks, or is shared with something that is not
            converted alike; the optimizer does not hold the weights, or its state cannot follow.
    """
    layers, patterns = linears.named(model, nn.Linear), resolve(model, masks)
    chosen = _choose(model, layers, patterns, only)
    _apply(model, _sparse_swaps(model, chosen), optimizer)
    without = "no zeros, or nothing else, in its weight" if masks is None else "not in masks"
    return Conversion(tuple(chosen), _left(model, layers, chosen, patterns, without))


def sparse_layers(model: nn.Module, masks: Mapping[str, Any] | None = None) -> dict[str, SparseLinear]:
    """The layers that :func:`sparsify` would put in place, by name; the model is left as it was.

    Args:
        model: holds ``nn.Linear`` modules.
        masks: as for :func:`sparsify`.

    Returns:
        Layers with values of their own. Their biases are the model's.

    Raises:
        TypeError, ValueError: as :func:`sparsify` does.
    """
    swaps = _sparse_swaps(model, resolve(model, masks))
    return {item.name: cast("SparseLinear", item.new) for item in swaps}


def densify(
    model: nn.Module,
    *,
    only: Iterable[str] | Choose | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Conversion:
    """Put an ``nn.Linear`` in the place of each :class:`~sparselinear.SparseLinear`.

    The inverse of :func:`sparsify`, and kept is what it keeps. The new weight is zero where there was no
    connection, and nothing holds it there: trained on, these entries move.

    Args:
        model: holds ``SparseLinear`` modules.
        only: which to convert: names, or a function ``(name, layer, pattern) -> bool``. None is all.
        optimizer: whose state is to follow, scattered to the connections, zero elsewhere.

    Returns:
        Which layers were converted and which were left.

    Raises:
        TypeError, ValueError: as :func:`sparsify` does.
    """
    layers = linears.named(model, SparseLinear)
    obstacles = linears.obstacles(model)
    patterns = {
        name: cast("SparseLinear", layer).pattern for name, layer in layers.items() if name not in obstacles
    }
    chosen = _choose(model, layers, patterns, only)
    _check(model, {name: layers[name] for name in chosen})
    swaps = [
        swap.dress(Swap(name, layers[name], cast("SparseLinear", layers[name]).to_linear(), pattern))
        for name, pattern in chosen.items()
    ]
    _apply(model, swaps, optimizer)
    return Conversion(tuple(chosen), _left(model, layers, chosen, patterns, ""))


def _sparse_swaps(model: nn.Module, patterns: Mapping[str, SparsityPattern]) -> list[Swap]:
    layers = linears.named(model, nn.Linear)
    _check(model, {name: layers[name] for name in patterns})
    return [
        swap.dress(Swap(name, layers[name], _sparse(name, layers[name], pattern), pattern))
        for name, pattern in patterns.items()
    ]


def _sparse(name: str, linear: nn.Module, pattern: SparsityPattern) -> SparseLinear:
    """The sparse twin of a layer, plain or pruned, at the connections of a pattern."""
    weight, pruned = linears.trained_weight(linear), linears.prune_mask(linear)
    if pruned is not None and not bool((pattern.values_at(pruned) == 1).all()):
        expected = "connections within the mask of the pruned layer, which is 1 there"
        advice = "torch.nn.utils.prune.remove makes the layer plain."
        raise ValueError(message(f"masks[{name!r}]", expected, "others", advice))
    plain = nn.Linear(
        pattern.in_features, pattern.out_features, bias=False, device="meta", dtype=weight.dtype
    )
    plain.weight = weight
    plain.register_parameter("bias", cast("nn.Linear", linear).bias)
    return SparseLinear.from_linear(plain, pattern)


def _choose(
    model: nn.Module,
    layers: dict[str, nn.Module],
    patterns: dict[str, SparsityPattern],
    only: Iterable[str] | Choose | None,
) -> dict[str, SparsityPattern]:
    """The patterns of the layers to convert, in the order of the model."""
    if only is None:
        wanted = set(patterns)
    elif callable(only):
        wanted = {name for name, pattern in patterns.items() if only(name, layers[name], pattern)}
    else:
        wanted = {linears.find(model, layers, "only", name) for name in linears.names("only", only)}
    for name in sorted(wanted - patterns.keys()):
        reason = linears.obstacles(model).get(name)
        if reason:
            raise ValueError(f"{name!r} cannot be converted: {reason}.")
        advice = "It has no zeros and is not in masks."
        raise ValueError(message("only", "names of layers that have a mask", repr(name), advice))
    return {name: patterns[name] for name in layers if name in wanted}


def _check(model: nn.Module, layers: dict[str, nn.Module]) -> None:
    if layers:
        swap.refuse_wrappers(model)
    for name, layer in layers.items():
        linears.refuse_hooks(name, layer)


def _apply(model: nn.Module, swaps: list[Swap], optimizer: torch.optim.Optimizer | None) -> None:
    """Everything that can fail comes before the first change."""
    swap.tie(model, swaps)
    moves = {id(item.source): item.move() for item in swaps}  # a shared weight is one Parameter
    replacements = optimizers.prepare(optimizer, moves.values())
    optimizers.commit(optimizer, replacements)
    swap.install(model, swaps)


def _left(
    model: nn.Module,
    layers: Iterable[str],
    chosen: Mapping[str, SparsityPattern],
    patterns: Mapping[str, SparsityPattern],
    without: str,
) -> dict[str, str]:
    """Why each layer that was not chosen was left."""
    obstacles = linears.obstacles(model)
    return {
        name: obstacles.get(name, "left out by only" if name in patterns else without)
        for name in layers
        if name not in chosen
    }
