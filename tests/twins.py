"""A sparse model and its twin, masked dense: how they are made, trained and compared."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from cases import CASES
from reference import dense_of, positions
from torch import Tensor, nn

from sparselinear import SparseLinear, interop

ADJACENCY = CASES[1].adjacency  # 37 x 53
STEPS, BATCH = 6, 24


class Masked(nn.Linear):
    """A dense layer that has the weights of a sparse one, zeros elsewhere, and multiplies by its mask."""

    def __init__(self, layer: SparseLinear) -> None:
        shape = layer.in_features, layer.out_features
        super().__init__(*shape, device=layer.values.device, dtype=layer.values.dtype)
        self.mask = dense_of(layer.pattern, torch.ones_like(layer.values.detach()))
        self.here = positions(layer.pattern)
        with torch.no_grad():
            self.weight.copy_(dense_of(layer.pattern, layer.values))
            self.bias.copy_(layer.bias)

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight * self.mask, self.bias)


def layer(**options: Any) -> SparseLinear:
    """53 -> 37, of float64."""
    return SparseLinear.from_scipy(ADJACENCY, **({"dtype": torch.float64} | options))


def model(device: str | None = None) -> nn.Sequential:
    """Two sparse layers, 53 -> 37 -> 53."""
    pattern = interop.to_pattern(ADJACENCY.T, device=device)
    last = SparseLinear(37, 53, pattern, device=device, dtype=torch.float64)
    return nn.Sequential(layer(device=device), nn.Tanh(), last)


def twin(model: nn.Sequential) -> nn.Sequential:
    """The model with its sparse layers masked dense."""
    return nn.Sequential(*(Masked(m) if isinstance(m, SparseLinear) else copy.deepcopy(m) for m in model))


def batches(device: str) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets of all steps."""
    x = torch.randn(STEPS, BATCH, 53, dtype=torch.float64).to(device)
    return list(zip(x, x.flip(2).tanh(), strict=True))


def loss(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.mse_loss(model(x), y)


def numbers(model: nn.Module, grad: bool = False) -> list[Tensor]:
    """Parameters or gradients of every layer, those of a dense one at the connections alone."""
    found: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, SparseLinear | Masked):
            weight = module.values if isinstance(module, SparseLinear) else module.weight
            for parameter in (weight, module.bias):
                assert parameter is not None
                tensor = parameter.grad if grad else parameter.detach()
                assert tensor is not None
                found.append(tensor[module.here] if tensor.dim() == 2 else tensor)
    assert found
    return found


def same(ours: nn.Module, theirs: nn.Module, grad: bool = False) -> None:
    for got, expected in zip(numbers(ours, grad), numbers(theirs, grad), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def moved(start: list[Tensor], model: nn.Module) -> bool:
    """Whether every parameter has left the numbers it began with."""
    return all(float((a - b).abs().max()) > 1e-4 for a, b in zip(start, numbers(model), strict=True))


def train(model: nn.Sequential, batches: Any, optimizer: Any = None, after: Any = None) -> None:
    """One step a batch, by SGD unless told otherwise; ``after`` is called after each backward."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for x, y in batches:
        optimizer.zero_grad()
        loss(model, x, y).backward()
        if after is not None:
            after()
        optimizer.step()
