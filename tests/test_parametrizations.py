"""Fixed signs: the gradients of their formula, signs that training never changes, and assignments."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from cases import CASES
from devices import run_again
from reference import dense_of
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparselinear import SparseLinear
from sparselinear.parametrizations import FixedSigns

ADJACENCY = CASES[1].adjacency  # 37 x 53


def _layer(device: str) -> SparseLinear:
    return SparseLinear.from_scipy(ADJACENCY, dtype=torch.float64, device=device)


def _original(layer: SparseLinear) -> nn.Parameter:
    found: nn.Parameter = layer.parametrizations["values"].original
    return found


def _fixed(device: str) -> SparseLinear:
    layer = _layer(device)
    parametrize.register_parametrization(layer, "values", FixedSigns(layer.values))
    return layer


@pytest.mark.shows("Training", "`torch.nn.utils.parametrize` on the values: fixed signs (Dale's law)")
def test_values_and_gradients_are_those_of_the_formula(device: str) -> None:
    layer, x = _layer(device), torch.randn(5, 53, dtype=torch.float64, device=device)
    start = layer.values.detach().clone()
    plain = layer(x)
    parametrize.register_parametrization(layer, "values", FixedSigns(layer.values))
    torch.testing.assert_close(layer(x), plain, **run_again(device))  # registering changed nothing

    with torch.no_grad():  # originals of both signs, so that abs matters
        _original(layer).normal_()
    twin = _original(layer).detach().clone().requires_grad_()
    weight = dense_of(layer.pattern, start.sign() * twin.abs())
    expected = nn.functional.linear(x, weight, layer.bias)
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    output = layer(x)
    output.backward(upstream)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(_original(layer).grad, twin.grad)
    few = torch.randn(7, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradgradcheck(FixedSigns(start[:7]), few)


@pytest.mark.shows("Training", "fixed signs, through training")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"lr": 0.5, "momentum": 0.9}),
        (torch.optim.Adam, {"lr": 0.2}),
        (torch.optim.AdamW, {"lr": 0.2, "fused": True}),
    ],
    ids=["SGD", "Adam", "AdamW fused"],
)
@pytest.mark.parametrize("per_source", [False, True], ids=["connections", "sources"])
def test_no_sign_changes_in_training(
    kind: Any, options: dict[str, Any], per_source: bool, device: str
) -> None:
    layer = _layer(device)
    if per_source:
        sources = torch.randint(0, 2, (53,)) * 2 - 1  # on the CPU: they go to where the pattern is
        fixed = FixedSigns.of_sources(layer.pattern, sources)
        signs = sources.to(device)[layer.pattern.col_indices]
    else:
        fixed, signs = FixedSigns(layer.values), layer.values.detach().sign()
    parametrize.register_parametrization(layer, "values", fixed)
    before = _original(layer).detach().sign()
    optimizer = kind(layer.parameters(), **options)
    target = _layer(device)
    for _ in range(30):
        x = torch.randn(16, 53, dtype=torch.float64, device=device)
        optimizer.zero_grad()
        nn.functional.mse_loss(layer(x), 4 * target(x).detach()).backward()
        optimizer.step()
        assert bool((layer.values.sign() == signs).all())
    assert bool((_original(layer).sign() != before).any())  # some pressed against zero


def test_each_source_has_one_sign_in_the_weight(device: str) -> None:
    layer = _layer(device)
    signs = torch.where(torch.arange(53, device=device) % 5 == 0, -1.0, 1.0)  # a fifth inhibits
    magnitudes = layer.values.detach().abs()
    parametrize.register_parametrization(layer, "values", FixedSigns.of_sources(layer.pattern, signs))
    torch.testing.assert_close(layer.to_dense(), dense_of(layer.pattern, magnitudes) * signs)


def test_assigned_values_keep_their_magnitudes_and_get_the_signs(device: str) -> None:
    layer = _fixed(device)
    signs, optimizer = layer.values.detach().sign(), torch.optim.SGD(layer.parameters(), lr=0.1)
    new = torch.randn(layer.nnz, dtype=torch.float64, device=device)
    layer.values = new * signs.sign() * new.sign()  # the right signs
    torch.testing.assert_close(layer.values, signs * new.abs(), rtol=0, atol=0)
    layer.values = new
    given = new.clone()
    torch.testing.assert_close(layer.values, signs * new.abs(), rtol=0, atol=0)
    layer(torch.randn(2, 53, dtype=torch.float64, device=device)).sum().backward()
    optimizer.step()  # the optimizer still holds the parameter
    assert not torch.equal(layer.values, signs * new.abs())
    assert torch.equal(new, given)  # it is the caller's


@pytest.mark.shows("Compiling and exporting", "`torch.compile` of a parametrized layer")
def test_one_graph_under_compile(device: str) -> None:
    layer, x = _fixed(device), torch.randn(3, 53, dtype=torch.float64, device=device)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for module in (run, layer):
        layer.zero_grad()
        output = module(x)
        output.square().sum().backward()
        results.append((output.detach(), _original(layer).grad))
    torch.testing.assert_close(results[0], results[1])


def test_reset_draws_new_magnitudes(device: str) -> None:
    layer = _fixed(device)
    before = layer.values.detach().clone()
    layer.reset_parameters()
    assert bool((layer.values.sign() == before.sign()).all())
    assert bool((layer.values != before).all())
    bound = layer.pattern.fan_in().double().rsqrt()
    assert bool((layer.to_dense().abs() <= bound.unsqueeze(1)).all())


@pytest.mark.shows("Training", "`remove_parametrizations`")
def test_removed_it_leaves_the_values_it_made(device: str) -> None:
    layer = _fixed(device)
    with torch.no_grad():
        _original(layer).normal_()
    values = layer.values.detach().clone()
    parametrize.remove_parametrizations(layer, "values")
    assert type(layer) is SparseLinear
    torch.testing.assert_close(layer.values.detach(), values, rtol=0, atol=0)


@pytest.mark.shows("Copies, moves and files", "a parametrized layer: `state_dict`, `deepcopy`, `half()`")
def test_state_dict_copies_and_moves_carry_the_signs(device: str) -> None:
    layer, other = _fixed(device), _fixed(device)
    other.load_state_dict(layer.state_dict())
    for back in (other, copy.deepcopy(layer)):
        torch.testing.assert_close(back.values, layer.values, rtol=0, atol=0)
        assert back.pattern.equals(layer.pattern)
    moved = _fixed("cpu").to(device)
    assert moved.values.device.type == moved.parametrizations["values"][0].signs.device.type == device
    half = copy.deepcopy(layer).half()
    torch.testing.assert_close(half.values, layer.values.half(), rtol=0, atol=0)
    assert half.parametrizations["values"][0].signs.dtype == torch.int8


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda layer: FixedSigns([1, -1]), TypeError, "signs: expected a torch.Tensor, got list"),
        (lambda layer: FixedSigns(torch.ones(2, 2)), ValueError, r"signs: expected shape \(nnz,\)"),
        (
            lambda layer: FixedSigns(torch.tensor([1.0, 0.0, float("nan")])),
            ValueError,
            "signs: expected numbers above or below zero, got 2 that are neither",
        ),
        (
            lambda layer: FixedSigns.of_sources(layer.pattern, torch.ones(37)),
            ValueError,
            r"signs: expected shape \(in_features,\) = \(53,\), got \(37,\)",
        ),
        (
            lambda layer: parametrize.register_parametrization(layer, "values", FixedSigns(torch.ones(1))),
            ValueError,
            r"values: expected shape \(nnz,\) = \(1,\), one for each sign",
        ),
    ],
    ids=["list", "2-D", "zero and NaN", "wrong side", "another layer's"],
)
def test_bad_signs(make: Any, error: type[Exception], words: str) -> None:
    layer = _layer("cpu")
    before: Tensor = layer.values.detach().clone()
    with pytest.raises(error, match=words):
        make(layer)
    torch.testing.assert_close(layer.values.detach(), before, rtol=0, atol=0)
