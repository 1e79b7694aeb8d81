"""Optimizer state that follows a Parameter: gathered at the connections, or scattered from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..checks import message

# They treat a matrix as a matrix, so that a vector of values would be trained in another way, or not at all.
_MATRIX_OPTIMIZERS = ("Adafactor", "Muon")


@dataclass(frozen=True)
class Move:
    """A Parameter that takes the place of another.

    Attributes:
        name: of the layer it belongs to, for errors.
        old: what the optimizer holds now.
        new: what it is to hold.
        new_name: the last part of its name, ``"values"`` or ``"weight"``.
        carry: takes a tensor of the shape of the old one, gives one of the shape of the new one.
    """

    name: str
    old: nn.Parameter
    new: nn.Parameter
    new_name: str
    carry: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Replacement:
    move: Move
    group: dict[str, Any]
    position: int
    state: dict[str, Any] | None


def prepare(optimizer: torch.optim.Optimizer | None, moves: Iterable[Move]) -> list[_Replacement]:
    """All that is to be changed in an optimizer, computed and checked, with nothing changed yet.

    Raises:
        TypeError: not an optimizer.
        ValueError: it does not hold a weight that is trained, or keeps a state that cannot follow.
    """
    if optimizer is None:
        return []
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(message("optimizer", "a torch.optim.Optimizer", checks.type_name(optimizer)))
    places = {
        id(parameter): (group, position)
        for group in optimizer.param_groups
        for position, parameter in enumerate(group["params"])
    }
    replacements = []
    for move in moves:
        if id(move.old) in places:
            _check_kind(optimizer, move)
            state = _carried(optimizer.state[move.old], move) if move.old in optimizer.state else None
            replacements.append(_Replacement(move, *places[id(move.old)], state))
        elif move.old.requires_grad:
            expected = f"one that holds the weight of {move.name!r}"
            advice = "Pass the optimizer of this model, or leave the layer out by only=."
            raise ValueError(message("optimizer", expected, "one that does not", advice))
    return replacements


def commit(optimizer: torch.optim.Optimizer | None, replacements: Iterable[_Replacement]) -> None:
    """Put the new Parameters and their state in place of the old ones."""
    for replacement in replacements:
        assert optimizer is not None
        move, group, position = replacement.move, replacement.group, replacement.position
        group["params"][position] = move.new
        if "param_names" in group:  # where it was made from named_parameters()
            owner = group["param_names"][position].rpartition(".")[0]
            group["param_names"][position] = f"{owner}.{move.new_name}" if owner else move.new_name
        optimizer.state.pop(move.old, None)
        if replacement.state is not None:
            optimizer.state[move.new] = replacement.state


def _check_kind(optimizer: torch.optim.Optimizer, move: Move) -> None:
    kind = type(optimizer).__name__
    if kind in _MATRIX_OPTIMIZERS and isinstance(optimizer, getattr(torch.optim, kind, ())):
        advice = "It treats a matrix as a matrix; values are a vector."
        raise ValueError(message("optimizer", "one that works entry by entry", kind, advice))
    if isinstance(optimizer, torch.optim.LBFGS) and optimizer.state:
        got = "LBFGS after a step, whose history holds all parameters in one vector"
        raise ValueError(
            message("optimizer", "state for each Parameter", got, "Convert before its first step.")
        )


def _carried(state: dict[str, Any], move: Move) -> dict[str, Any]:
    """State for the new Parameter: what has the old one's shape is carried, counters are kept."""
    return {key: _entry(key, entry, move) for key, entry in state.items()}


def _entry(key: str, entry: Any, move: Move) -> Any:
    if isinstance(entry, Tensor) and entry.shape == move.old.shape:
        return move.carry(entry)
    if entry is None or isinstance(entry, (bool, int, float)):
        return entry
    if isinstance(entry, Tensor) and entry.dim() == 0:
        return entry
    got = f"shape {tuple(entry.shape)}" if isinstance(entry, Tensor) else checks.type_name(entry)
    expected = f"shape {tuple(move.old.shape)} or a number"
    raise ValueError(
        message(f"optimizer: state {key!r} of {move.name!r}", expected, got, "It cannot follow.")
    )
