"""Optimizer state that follows: after a conversion training goes on as that of the masked dense model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_optimizers import SETTINGS
from torch import Tensor, nn
from torch.nn.utils import prune

from sparselinear import SparseLinear
from sparselinear.convert import densify, sparsify

pytestmark = pytest.mark.usefixtures("one_thread")

# Treats a matrix as a matrix; LBFGS holds all parameters in one vector.
REFUSED = {"Adafactor", "LBFGS"}
STEPS = 3


def pruned_mlp(device: str, dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(1)
    mlp = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 10)).to(device, dtype)
    weights = [(mlp[0], "weight"), (mlp[2], "weight")]
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=0.8)
    return mlp


def make(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """Two groups, so that the layers are in different ones, with names."""
    first, *rest = model.named_parameters()
    groups = [{"params": rest}, {"params": [first], "lr": 0.01}]
    kind: Any = getattr(torch.optim, name)
    optimizer: torch.optim.Optimizer = kind(groups, **SETTINGS[name])
    return optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, dtype: torch.dtype) -> None:
    data, device = torch.Generator().manual_seed(seed), next(model.parameters()).device
    for _ in range(STEPS):
        x = torch.randn(16, 20, generator=data, dtype=dtype).to(device)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def weights(model: nn.Module) -> list[Tensor]:
    """Dense, as the forward sees them, and biases."""
    found = []
    for layer in model.modules():
        if isinstance(layer, SparseLinear):
            found += [layer.to_dense(), layer.bias]
        elif isinstance(layer, nn.Linear):
            mask = getattr(layer, "weight_mask", 1)
            found += [getattr(layer, "weight_orig", layer.weight).detach() * mask, layer.bias]
    return found


@pytest.mark.shows(
    "Models and graphs", "a pruned model converted half way through training, its optimizer too"
)
@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - REFUSED))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_training_goes_on(name: str, dtype: torch.dtype, device: str) -> None:
    dense, sparse = pruned_mlp(device, dtype), pruned_mlp(device, dtype)
    optimizers = [make(name, model) for model in (dense, sparse)]
    for model, optimizer in zip((dense, sparse), optimizers, strict=True):
        train(model, optimizer, 0, dtype)
    x = torch.randn(5, 20, dtype=dtype).to(device)
    before = dense(x)
    start = weights(dense)[0].clone()
    sparsify(sparse, optimizer=optimizers[1])
    torch.testing.assert_close(sparse(x), before, rtol=0, atol=1e-5)
    for model, optimizer in zip((dense, sparse), optimizers, strict=True):
        train(model, optimizer, 1, dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for got, expected in zip(weights(sparse), weights(dense), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)
    assert (weights(dense)[0] - start).abs().max() > 1e-4  # it did train


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_there_and_back(name: str, device: str) -> None:
    dense, there = pruned_mlp(device, torch.float64), pruned_mlp(device, torch.float64)
    optimizers = [make(name, model) for model in (dense, there)]
    for model, optimizer in zip((dense, there), optimizers, strict=True):
        train(model, optimizer, 0, torch.float64)
    sparsify(there, optimizer=optimizers[1])
    patterns = [layer.pattern for layer in there.modules() if isinstance(layer, SparseLinear)]
    densify(there, optimizer=optimizers[1])
    for layer, reference, pattern in zip((there[0], there[2]), (dense[0], dense[2]), patterns, strict=True):
        got, expected = optimizers[1].state[layer.weight], optimizers[0].state[reference.weight_orig]
        assert got.keys() == expected.keys()
        for key, entry in expected.items():
            if entry.dim() == 2:
                assert torch.equal(got[key], entry * reference.weight_mask)
            else:
                assert torch.equal(got[key], entry)
        assert pattern.shape == layer.weight.shape


def test_groups_names_and_order_are_kept() -> None:
    mlp = pruned_mlp("cpu", torch.float32)
    optimizer = make("Adam", mlp)
    names = [list(group["param_names"]) for group in optimizer.param_groups]
    assert names == [["0.weight_orig", "2.bias", "2.weight_orig"], ["0.bias"]]
    sparsify(mlp, optimizer=optimizer)
    names = [list(group["param_names"]) for group in optimizer.param_groups]
    assert names == [["0.values", "2.bias", "2.values"], ["0.bias"]]
    held = dict(mlp.named_parameters())
    for group in optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            assert parameter is held[name]
    assert not optimizer.state
    densify(mlp, optimizer=optimizer)
    assert optimizer.param_groups[0]["param_names"] == ["0.weight", "2.bias", "2.weight"]


def test_a_conversion_between_backward_and_step(device: str) -> None:
    dense, sparse = pruned_mlp(device, torch.float64), pruned_mlp(device, torch.float64)
    optimizers = [make("Adam", model) for model in (dense, sparse)]
    for model in (dense, sparse):
        model(torch.ones(2, 20, dtype=torch.float64, device=device)).sum().backward()
    sparsify(sparse, optimizer=optimizers[1])
    for optimizer in optimizers:
        optimizer.step()
    for got, expected in zip(weights(sparse), weights(dense), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_a_frozen_layer_need_not_be_held() -> None:
    mlp = pruned_mlp("cpu", torch.float32)
    mlp[0].weight_orig.requires_grad_(False)
    optimizer = torch.optim.SGD([mlp[2].weight_orig, mlp[2].bias], lr=0.1)
    assert sparsify(mlp, optimizer=optimizer).converted == ("0", "2")
    assert not mlp[0].values.requires_grad
    assert optimizer.param_groups[0]["params"][0] is mlp[2].values


def test_a_scheduler_and_a_checkpoint_go_on(device: str) -> None:
    mlp = pruned_mlp(device, torch.float32)
    optimizer = make("Adam", mlp)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    train(mlp, optimizer, 0, torch.float32)
    sparsify(mlp, optimizer=optimizer)
    scheduler.step()
    optimizer.load_state_dict(optimizer.state_dict())
    train(mlp, optimizer, 1, torch.float32)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.001)
    assert optimizer.state[mlp[0].values]["step"] == 2 * STEPS


class Nested(torch.optim.SGD):
    """Keeps what nobody knows the meaning of."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["rows"] = torch.zeros(parameter.shape[0], 1)


@pytest.mark.parametrize(
    ("name", "steps", "text"),
    [
        ("Adafactor", 0, "one that works entry by entry, got Adafactor"),
        ("Muon", 0, "one that works entry by entry, got Muon"),
        ("LBFGS", 1, "LBFGS after a step"),
        ("Nested", 1, r"state 'rows' of '0': expected shape \(30, 20\) or a number, got shape \(30, 1\)"),
    ],
)
def test_state_that_cannot_follow(name: str, steps: int, text: str) -> None:
    mlp = pruned_mlp("cpu", torch.float32)
    matrices = [mlp[0].weight_orig, mlp[2].weight_orig]
    kind: Any = Nested if name == "Nested" else getattr(torch.optim, name)
    optimizer = kind(matrices, lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = mlp(torch.ones(2, 20)).square().sum()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    with pytest.raises(ValueError, match=text):
        sparsify(mlp, optimizer=optimizer)
    assert all(a is b for a, b in zip(matrices, optimizer.param_groups[0]["params"], strict=True))
    assert mlp[0].weight_orig is matrices[0]


def test_lbfgs_before_its_first_step(device: str) -> None:
    mlp = pruned_mlp(device, torch.float32)
    optimizer = torch.optim.LBFGS(mlp.parameters(), lr=0.1, max_iter=2)
    sparsify(mlp, optimizer=optimizer)
    start = mlp[0].values.detach().clone()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = mlp(torch.ones(2, 20, device=device)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert not torch.equal(mlp[0].values, start)
