"""The linear layers of a model: their names, the weight that is trained, and what cannot be converted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from .. import checks
from ..checks import message
from ..linear import SparseLinear


def named(model: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Module]:
    """The layers of a kind by name, each once.

    Raises:
        TypeError: the model is no module.
        ValueError: the model is such a layer itself, or has none.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(message("model", "a torch.nn.Module", checks.type_name(model)))
    expected = f"a module that holds a {kind.__name__}"
    if isinstance(model, kind):
        advice = "A layer by itself: SparseLinear.from_linear and SparseLinear.to_linear."
        raise ValueError(message("model", expected, f"a {kind.__name__}", advice))
    found = {name: module for name, module in model.named_modules() if isinstance(module, kind)}
    if not found:
        raise ValueError(message("model", expected, f"a {type(model).__name__} without any"))
    return found


def find(model: nn.Module, known: dict[str, nn.Module], argument: str, name: object) -> str:
    """The name of a layer as ``known`` has it; a shared layer is found by each of its names.

    Raises:
        TypeError: there is a module of that name, but of another kind.
        ValueError: there is no module of that name.
    """
    if name in known:
        return str(name)
    module = dict(model.named_modules(remove_duplicate=False)).get(str(name))
    for own, layer in known.items():
        if layer is module:
            return own
    kinds = "a SparseLinear" if isinstance(next(iter(known.values())), SparseLinear) else "a torch.nn.Linear"
    if module is not None:
        raise TypeError(message(f"{argument}: {name!r}", kinds, checks.type_name(module)))
    owner = str(name).rpartition(".")[0]  # of a Parameter's name
    close = [owner] if owner in known else difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    advice = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(map(repr, known))}."
    raise ValueError(message(argument, f"names of modules, each {kinds}", repr(name), advice))


def prune_mask(linear: nn.Module) -> Tensor | None:
    """The mask of a layer whose weight torch.nn.utils.prune has pruned; None for others."""
    hooks = linear._forward_pre_hooks.values()
    return linear.weight_mask if any(map(prunes_weight, hooks)) else None  # type: ignore[return-value]


def prunes_weight(hook: object) -> bool:
    """Whether a hook is torch.nn.utils.prune's, for the weight."""
    return isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == "weight"


def trained_weight(layer: nn.Module) -> nn.Parameter:
    """The Parameter that an optimizer holds for a layer's weight."""
    name = "values" if isinstance(layer, SparseLinear) else "weight"
    return layer._parameters[name if name in layer._parameters else "weight_orig"]  # type: ignore[return-value]


def obstacles(model: nn.Module) -> dict[str, str]:
    """Why layers cannot be converted, by name; those that can are not there."""
    layers = {name: layer for name, layer in model.named_modules() if _is_linear(layer)}
    read_by_owner = {
        id(child)
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
        for child in module.children()
    }
    found = {}
    for name, layer in layers.items():
        reason = _computed(layer) or _unusual(layer)
        if id(layer) in read_by_owner:
            # Its out_proj is never called. With a sparse one forward runs, and the values get no gradient.
            reason = "nn.MultiheadAttention reads its weight as a dense tensor and never calls it"
        if reason:
            found[name] = reason
    return found


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Linear, SparseLinear))


def _computed(layer: nn.Module) -> str | None:
    """Whether the weight is no Parameter of its own that holds numbers."""
    if parametrize.is_parametrized(layer):
        advice = "torch.nn.utils.parametrize.remove_parametrizations makes it plain"
        return f"it is parametrized ({', '.join(layer.parametrizations)}); {advice}"  # type: ignore[arg-type]
    if isinstance(layer, nn.Linear) and "weight" not in layer._parameters and prune_mask(layer) is None:
        return "its weight is computed by a hook, as spectral_norm and weight_norm do; remove that first"
    weight = trained_weight(layer)
    if isinstance(weight, nn.UninitializedParameter):
        return "its weight is not there before the first forward; pass a batch through the model"
    if weight.is_meta:
        return "its weight is on the meta device and holds no numbers"
    if type(weight) is not nn.Parameter or weight.layout != torch.strided:
        return f"its weight is a {checks.type_name(weight)} of layout {weight.layout}, not a plain Parameter"
    if weight.dtype not in checks.FLOATING:
        return f"its weight is of dtype {weight.dtype}"
    return None


def _unusual(layer: nn.Module) -> str | None:
    """Whether something else than the forward of nn.Linear or SparseLinear may run."""
    if type(layer) not in (nn.Linear, SparseLinear):
        return f"it is a subclass, {checks.type_name(layer)}, whose forward may be another"
    if "forward" in layer.__dict__:
        return "its forward was replaced by another"
    return None


def refuse_hooks(name: str, layer: nn.Module) -> None:
    """Raise where a layer has what no other kind of layer can take over.

    Raises:
        ValueError: its bias is pruned, or its weight has hooks.
    """
    if "bias" not in layer._parameters:
        advice = f"torch.nn.utils.prune.remove(layer, 'bias') keeps what it is now, or leave {name!r} out."
        raise ValueError(message(f"{name}.bias", "a Parameter", "a tensor computed by a hook", advice))
    weight = trained_weight(layer)
    hooks = [*(weight._backward_hooks or ()), *(weight._post_accumulate_grad_hooks or ())]
    if hooks:
        advice = f"They take a gradient of shape {tuple(weight.shape)}: remove them, or leave {name!r} out."
        raise ValueError(message(f"{name}: weight", "no hooks of its own", str(len(hooks)), advice))


def names(argument: str, given: Iterable[str]) -> list[str]:
    """An iterable of names, which one string is not.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        got = repr(given) if isinstance(given, str) else checks.type_name(given)
        raise TypeError(message(argument, "names, or a function (name, layer, pattern) -> bool", got))
    return list(given)
