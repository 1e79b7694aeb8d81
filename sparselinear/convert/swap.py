"""How a module takes the place of another: hooks, ties, gradients, and torch's fused forward paths."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ..checks import message
from ..linear import SparseLinear
from ..pattern import SparsityPattern
from . import linears
from .optimizers import Move

_HOOKS = tuple(key for key in nn.Module().__dict__ if "hook" in key)
# What a layer of either kind is made of; anything beyond it belongs to the user and is kept.
_OWN = {
    "weight", "weight_orig", "weight_mask", "values", "bias",
    "pattern_shape", "crow_indices", "col_indices", "_pattern",
}  # fmt: skip

# In eval mode without gradients these read linear1.weight and linear2.weight and pass them to fused operators
# that have no kernel for a sparse tensor. Each has a flag that is read there and nowhere else.
_FUSED = (
    (nn.TransformerEncoderLayer, "activation_relu_or_gelu"),
    (nn.TransformerEncoder, "use_nested_tensor"),
)
_FLAG_KEPT = "_sparselinear_kept_flag"


@dataclass(frozen=True)
class Swap:
    """A layer and what takes its place.

    Attributes:
        name: of the layer in the model.
        old: what is there; an ``nn.Linear`` or a :class:`~sparselinear.SparseLinear`.
        new: of the other kind.
        pattern: the connections of whichever is sparse.
    """

    name: str
    old: nn.Module
    new: nn.Module
    pattern: SparsityPattern

    @cached_property
    def target_name(self) -> str:
        """Name of the weight's Parameter in the new layer."""
        return "values" if isinstance(self.new, SparseLinear) else "weight"

    @property
    def source(self) -> nn.Parameter:
        """The weight's Parameter in the old layer."""
        return linears.trained_weight(self.old)

    @property
    def target(self) -> nn.Parameter:
        """The weight's Parameter in the new layer."""
        return linears.trained_weight(self.new)

    def carry(self, tensor: Tensor) -> Tensor:
        """New tensor: entries of the old weight's shape in the new one's; zero where nothing was."""
        pattern = self.pattern.to(tensor.device)
        if isinstance(self.new, SparseLinear):
            return pattern.values_at(tensor)
        return pattern.dense_tensor(tensor)

    def move(self) -> Move:
        """The same, for the optimizer."""
        return Move(self.name, self.source, self.target, self.target_name, self.carry)


def dress(swap: Swap) -> Swap:
    """Give the new layer what the old one has and that can be given without touching the old one."""
    source, target = swap.source, swap.target
    target.requires_grad_(source.requires_grad)
    if source.grad is not None:
        target.grad = swap.carry(source.grad)
    target.__dict__.update(source.__dict__)  # a user's marks, such as no_weight_decay
    swap.new._parameters["bias"] = swap.old._parameters[
        "bias"
    ]  # itself, with hooks, ties and optimizer state
    swap.new.train(swap.old.training)
    return swap


def tie(model: nn.Module, swaps: Sequence[Swap]) -> None:
    """Let layers that share a weight share the new one.

    Raises:
        ValueError: a weight is shared with something that is not converted, or not in the same way.
    """
    owners = _owners(model)
    by_layer = {id(swap.old): swap for swap in swaps}
    first: dict[int, Swap] = {}
    for swap in swaps:
        for path, layer, parameter in owners.get(_memory(swap.source), ()):
            other = by_layer.get(id(layer))
            if other is None or parameter is not swap.source or other.source is not swap.source:
                raise ValueError(_untied(swap, path, "which is not converted in the same way"))
            if not other.pattern.equals(swap.pattern):
                raise ValueError(_untied(swap, path, "which has other connections"))
        swap.new._parameters[swap.target_name] = first.setdefault(id(swap.source), swap).target


def install(model: nn.Module, swaps: Sequence[Swap]) -> None:
    """Put the new layers in the places of the old ones, under every name that these have."""
    for swap in swaps:
        _inherit(swap.new, swap.old)
    by_layer = {id(swap.old): swap.new for swap in swaps}
    for module in list(model.modules()):
        for name, child in module._modules.items():
            module._modules[name] = by_layer.get(id(child), child)
    for module in model.modules():
        for kind, flag in _FUSED:
            if isinstance(module, kind):
                _set_flag(module, flag)


def refuse_wrappers(model: nn.Module) -> None:
    """Raise for wrappers that have taken the Parameters into lists of their own.

    Raises:
        ValueError: there is one in the model.
    """
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules()):
        advice = "Convert its module, then wrap it anew."
        raise ValueError(message("model", "a module that is not wrapped", "DistributedDataParallel", advice))


def _memory(parameter: Tensor) -> tuple[torch.device, int, int]:
    """Equal for Parameters over one piece of memory; an empty one shares with itself alone."""
    return parameter.device, parameter.data_ptr(), 0 if parameter.numel() else id(parameter)


def _owners(
    model: nn.Module,
) -> dict[tuple[torch.device, int, int], list[tuple[str, nn.Module, nn.Parameter]]]:
    found: dict[tuple[torch.device, int, int], list[tuple[str, nn.Module, nn.Parameter]]] = {}
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and type(parameter) is nn.Parameter:
                path = f"{name}.{key}" if name else key
                found.setdefault(_memory(parameter), []).append((path, module, parameter))
    return found


def _untied(swap: Swap, path: str, reason: str) -> str:
    expected = "a weight of its own, or shared with layers that get the same connections"
    advice = "Untie them, or leave the layer out by only=."
    return message(f"{swap.name}: weight", expected, f"one shared with {path!r}, {reason}", advice)


def _inherit(new: nn.Module, old: nn.Module) -> None:
    """Hooks, and whatever a user put on the old layer.

    The very dictionaries of the hooks are taken over, so that handles the user holds go on working.
    """
    for key in _HOOKS:
        new.__dict__[key] = old.__dict__[key]
    hooks = new._forward_pre_hooks
    for handle in [handle for handle, hook in hooks.items() if linears.prunes_weight(hook)]:
        del hooks[handle]
    for hook in new._load_state_dict_pre_hooks.values():
        if getattr(hook, "with_module", False):  # they hold the module by a weak reference
            hook.module = weakref.ref(new)  # type: ignore[attr-defined]
    for store in ("_parameters", "_buffers", "_modules"):
        extra = {key: item for key, item in old.__dict__[store].items() if key not in _OWN}
        new.__dict__[store].update(extra)
    new._non_persistent_buffers_set.update(old._non_persistent_buffers_set - _OWN)
    kept = new.__dict__.keys() | _OWN
    new.__dict__.update({key: item for key, item in old.__dict__.items() if key not in kept})


def _set_flag(module: nn.Module, flag: str) -> None:
    """Switch the fused path off while there is a sparse layer within, and back once there is none."""
    sparse = any(isinstance(child, SparseLinear) for child in module.modules())
    if sparse and _FLAG_KEPT not in module.__dict__:
        value = module.__dict__[_FLAG_KEPT] = getattr(module, flag)
        setattr(module, flag, type(value)(0))
    elif not sparse and _FLAG_KEPT in module.__dict__:
        setattr(module, flag, module.__dict__.pop(_FLAG_KEPT))
