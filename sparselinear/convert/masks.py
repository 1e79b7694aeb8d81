"""Where the connections of a model's linear layers are: from zeros, from pruning, by magnitude, as given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks, interop
from ..checks import message
from ..pattern import SparsityPattern
from . import linears

SCOPES = ("layer", "global")


def masks_of(model: nn.Module) -> dict[str, SparsityPattern]:
    """The patterns that a model's linear layers have already.

    A layer that ``torch.nn.utils.prune`` has pruned has that mask, another one the entries of its
    weight that are not zero. Layers without any zero are left out, so are those that :func:`sparsify`
    cannot convert, and so are weights that are zero everywhere without being pruned: some layers begin so,
    and without connections they could never learn.

    Args:
        model: holds ``nn.Linear`` modules; it is left as it was.

    Returns:
        Name of the module to pattern (out_features, in_features), on the device of the weight.

    Raises:
        TypeError: not a module.
        ValueError: the model has no ``nn.Linear``.
    """
    found = {}
    for name, linear in _convertible(model).items():
        pruned = linears.prune_mask(linear)
        weight = linears.trained_weight(linear) if pruned is None else pruned
        mask = weight.detach() != 0  # (out_features, in_features)
        if not bool(mask.all()) and (pruned is not None or bool(mask.any())):
            found[name] = interop.to_pattern(mask, device=weight.device)
    return found


def magnitude_masks(
    model: nn.Module, density: float, *, scope: str = "layer", only: Iterable[str] | None = None
) -> dict[str, SparsityPattern]:
    """The patterns of the weights of largest magnitude.

    That is pruning by magnitude (Han et al., Learning both weights and connections for efficient neural
    networks, 2015). An entry that is zero or pruned is never kept, so a layer that is sparse already may
    come out sparser than asked for. Of equal magnitudes as many are kept as the density wants.

    Args:
        model: holds ``nn.Linear`` modules; it is left as it was.
        density: the share of the entries to keep, in (0, 1].
        scope: ``"layer"`` keeps this share of each layer, ``"global"`` of all of them together.
        only: names of the modules; None is every ``nn.Linear`` that :func:`sparsify` can convert.

    Returns:
        Name of the module to pattern (out_features, in_features), on the device of the weight.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the model has no ``nn.Linear``, density or scope is none of these, a name is of no layer
            or of one that cannot be converted, or a weight holds NaN.
    """
    density = _density(density)
    if scope not in SCOPES:
        raise ValueError(message("scope", " or ".join(map(repr, SCOPES)), repr(scope)))
    found = _convertible(model) if only is None else _named(model, linears.names("only", only))
    magnitudes = {name: _magnitude(name, linear) for name, linear in found.items()}
    if scope == "layer":
        masks = {name: _largest(entries, density) for name, entries in magnitudes.items()}
    else:
        kept = _largest(torch.cat([entries.flatten().cpu() for entries in magnitudes.values()]), density)
        parts = kept.split([entries.numel() for entries in magnitudes.values()])
        masks = {
            name: part.view(entries.shape)
            for (name, entries), part in zip(magnitudes.items(), parts, strict=True)
        }
    return {name: interop.to_pattern(mask, device=magnitudes[name].device) for name, mask in masks.items()}


def resolve(model: nn.Module, masks: Mapping[str, Any] | None) -> dict[str, SparsityPattern]:
    """The patterns of masks that a user passed, or those of the model; every name and shape checked.

    Raises:
        TypeError: no mapping, a name of another kind of module, or a mask of a type that is not accepted.
        ValueError: no such name, a layer that cannot be converted, or a mask of another shape.
    """
    if masks is None:
        return masks_of(model)
    if not isinstance(masks, Mapping):
        expected = "a dict of names of modules to adjacencies"
        raise TypeError(message("masks", expected, checks.type_name(masks)))
    every = linears.named(model, nn.Linear)
    given = {name: linears.find(model, every, "masks", name) for name in masks}
    if len(set(given.values())) < len(given):
        got = f"several for one layer under its names {', '.join(map(repr, given))}"
        raise ValueError(message("masks", "one mask for each layer", got))
    layers = _named(model, given.values())
    return {own: _pattern(f"masks[{name!r}]", masks[name], layers[own]) for name, own in given.items()}


def _convertible(model: nn.Module) -> dict[str, nn.Module]:
    every, left = linears.named(model, nn.Linear), linears.obstacles(model)
    return {name: linear for name, linear in every.items() if name not in left}


def _named(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Layers that were asked for by name; one that cannot be converted is an error."""
    every, left = linears.named(model, nn.Linear), linears.obstacles(model)
    chosen = {}
    for given in names:
        name = linears.find(model, every, "only", given)
        if name in left:
            raise ValueError(f"{name!r} cannot be converted: {left[name]}.")
        chosen[name] = every[name]
    return chosen


def _pattern(argument: str, mask: Any, linear: nn.Module) -> SparsityPattern:
    weight = linears.trained_weight(linear)
    expected, got = tuple(weight.shape), tuple(getattr(mask, "shape", weight.shape))
    if got != expected:
        advice = f"Rows are outputs; pass {argument}.T." if got == expected[::-1] else "Rows are outputs."
        raise ValueError(
            message(argument, f"shape (out_features, in_features) = {expected}", str(got), advice)
        )
    try:
        return interop.to_pattern(mask, device=weight.device)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{argument}: {error}") from error


def _density(density: Any) -> float:
    if isinstance(density, bool) or not isinstance(density, (int, float)):
        raise TypeError(message("density", "a number in (0, 1]", f"{density!r}"))
    if not 0 < density <= 1:
        advice = "It is the share of the entries that is kept." if density > 1 else ""
        raise ValueError(message("density", "a number in (0, 1]", f"{density!r}", advice))
    return float(density)


def _magnitude(name: str, linear: nn.Module) -> Tensor:
    weight, pruned = linears.trained_weight(linear).detach(), linears.prune_mask(linear)
    entries = (weight if pruned is None else weight * pruned).abs()
    if bool(entries.isnan().any()):
        raise ValueError(message(f"{name}.weight", "numbers that can be compared", "NaN"))
    return entries


def _largest(entries: Tensor, density: float) -> Tensor:
    """Bool mask of the entries of largest magnitude, zeros apart."""
    count = max(1, round(density * entries.numel())) if entries.numel() else 0
    mask = torch.zeros(entries.numel(), dtype=torch.bool, device=entries.device)
    mask[entries.flatten().topk(count, sorted=False).indices] = True
    return mask.view(entries.shape) & (entries != 0)
