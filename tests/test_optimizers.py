"""Every optimizer of torch.optim moves a sparse layer and its masked-dense twin alike, step by step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CASES
from reference import dense_of, mask_of, positions
from torch import Tensor, nn

from sparselinear import SparseLinear

STEPS = 50

# Options beyond the defaults, so that momentum and weight decay are on wherever they exist.
SETTINGS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    "Adam": {"lr": 0.02, "weight_decay": 0.01, "amsgrad": True},
    "AdamW": {"lr": 0.02, "weight_decay": 0.05},
    "Adamax": {"lr": 0.02, "weight_decay": 0.01},
    "NAdam": {"lr": 0.02, "weight_decay": 0.01},
    "RAdam": {"lr": 0.02, "weight_decay": 0.01},
    "Adagrad": {"lr": 0.05, "weight_decay": 0.01},
    "Adadelta": {"lr": 1.0, "weight_decay": 0.01},
    "RMSprop": {"lr": 0.01, "momentum": 0.9, "centered": True, "weight_decay": 0.01},
    "Rprop": {"lr": 0.01},
    "ASGD": {"lr": 0.05, "weight_decay": 0.01},
    "LBFGS": {"lr": 0.1, "max_iter": 2, "history_size": 5},
    "Adafactor": {"lr": 0.05, "weight_decay": 0.01},
}
# Take no dense 1-D parameter: SparseAdam wants sparse gradients, Muon works on whole matrices.
REFUSING = {"SparseAdam", "Muon"}
# Adafactor treats a matrix as a matrix (row and column statistics, a mean over all entries), so that
# zeros change what it does. Its twin therefore keeps the values as a vector and scatters them.
ON_VECTORS = {"Adafactor"}
# LBFGS compares gradients of successive steps, so it wants the same batch in all of them.
FULL_BATCH = {"LBFGS"}


def _optimizers() -> list[str]:
    found = inspect.getmembers(torch.optim, inspect.isclass)
    return [
        name
        for name, kind in found
        if issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    ]


class _MaskedDense(nn.Module):
    """weight * mask in every forward, from the values of a sparse layer."""

    def __init__(self, layer: SparseLinear, mask: Tensor, on_vector: bool) -> None:
        super().__init__()
        self.pattern, self.mask = layer.pattern, mask
        values = layer.values.detach().clone()
        self.weight = nn.Parameter(values if on_vector else dense_of(layer.pattern, values))
        assert layer.bias is not None
        self.bias = nn.Parameter(layer.bias.detach().clone())

    def dense(self) -> Tensor:
        if self.weight.dim() == 1:
            return dense_of(self.pattern, self.weight)
        return self.weight * self.mask

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.dense(), self.bias)


def _train(model: nn.Module, name: str, x: Tensor, y: Tensor, record: Callable[[], Tensor]) -> list[Tensor]:
    optimizer = getattr(torch.optim, name)(model.parameters(), **SETTINGS[name])
    history = []
    for x_batch, y_batch in zip(x, y, strict=True):

        def closure(x_batch: Tensor = x_batch, y_batch: Tensor = y_batch) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = nn.functional.mse_loss(torch.tanh(model(x_batch)), y_batch)
            loss.backward()
            return loss

        loss = optimizer.step(closure)
        history.append(torch.cat([loss.detach().reshape(1), record()]))
    return history


def test_every_optimizer_is_accounted_for() -> None:
    assert set(_optimizers()) == SETTINGS.keys() | REFUSING


@pytest.mark.shows("Training", "`torch.optim.{name}`, fifty steps")
@pytest.mark.parametrize("name", list(SETTINGS))
def test_training_is_that_of_masked_dense(name: str, device: str) -> None:
    adjacency = CASES[1].adjacency  # 37 x 53
    layer = SparseLinear.from_scipy(adjacency, device=device, dtype=torch.float64)
    twin = _MaskedDense(layer, mask_of(adjacency).to(device), name in ON_VECTORS)
    # A batch of its own for each step: over one batch, NAdam with weight decay reaches points where a
    # gradient vanishes and the smallest rounding grows by a constant factor every step.
    x = torch.randn(STEPS, 24, 53, dtype=torch.float64).to(device)
    y = torch.randn(STEPS, 24, 37, dtype=torch.float64).tanh().to(device)
    if name in FULL_BATCH:
        x, y = x[:1].expand_as(x), y[:1].expand_as(y)
    here = positions(layer.pattern)
    start = layer.values.detach().clone()
    assert layer.bias is not None
    bias = layer.bias

    sparse = _train(
        layer, name, x, y, lambda: torch.cat([layer.values.detach().clone(), bias.detach().clone()])
    )
    dense = _train(
        twin, name, x, y, lambda: torch.cat([twin.dense().detach()[here], twin.bias.detach().clone()])
    )
    for step, (ours, theirs) in enumerate(zip(sparse, dense, strict=True)):
        torch.testing.assert_close(
            ours, theirs, rtol=1e-9, atol=1e-12, msg=lambda text, step=step: f"step {step}: {text}"
        )
    assert (layer.values.detach() - start).abs().max() > 1e-3  # it did train


@pytest.mark.shows("Training", "`torch.optim.{name}` takes no dense 1-D parameter, and says so")
@pytest.mark.parametrize("name", sorted(REFUSING))
def test_optimizers_that_take_no_dense_vector_say_so(name: str, device: str) -> None:
    layer = SparseLinear.from_scipy(CASES[0].adjacency, device=device)

    def step() -> None:
        optimizer = getattr(torch.optim, name)(layer.parameters(), lr=0.1)
        layer(torch.randn(2, layer.in_features, device=device)).sum().backward()
        optimizer.step()

    with pytest.raises((RuntimeError, ValueError), match=r"2D parameters|dense gradients"):
        step()


def test_optimizer_state_is_nnz_long(device: str) -> None:
    layer = SparseLinear.from_scipy(CASES[1].adjacency, bias=False, device=device)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.randn(4, layer.in_features, device=device)).sum().backward()
    optimizer.step()
    state = optimizer.state[layer.values]
    assert {tuple(t.shape) for t in state.values() if t.dim()} == {(layer.nnz,)}
