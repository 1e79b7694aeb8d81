"""Models with zeros in their weights, and what must not change when converting them fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

MASK = (np.arange(12).reshape(4, 3) % 2).astype(bool)


def pruned_mlp(device: str = "cpu") -> nn.Sequential:
    """An MLP that prune.global_unstructured has taken 90 % of the weights from."""
    torch.manual_seed(1)
    mlp = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)).to(
        device
    )
    weights = [(layer, "weight") for layer in mlp if isinstance(layer, nn.Linear)]
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=0.9)
    return mlp


def holed(linear: nn.Linear, density: float = 0.2) -> nn.Linear:
    """The layer, with zeros in its weight."""
    with torch.no_grad():
        linear.weight.mul_(torch.rand_like(linear.weight) < density)
    return linear


class Block(nn.Module):
    """Layers at two depths, one of them without zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"first": holed(nn.Linear(12, 9)), "second": nn.Linear(9, 9)})
        self.head = holed(nn.Linear(9, 5, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body["second"](torch.tanh(self.body["first"](x))))
        return y


def snapshot(model: nn.Module) -> tuple[Any, ...]:
    """What must not change on an error: modules, Parameters, entries, hooks."""
    return (
        {name: id(module) for name, module in model.named_modules()},
        {name: id(parameter) for name, parameter in model.named_parameters()},
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        {name: dict(module._forward_pre_hooks) for name, module in model.named_modules()},
    )


def assert_same(before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    assert before[:2] == after[:2]
    assert before[3] == after[3]
    for (name, old), new in zip(before[2].items(), after[2].values(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0, msg=name)
