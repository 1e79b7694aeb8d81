"""Whole models: outputs, names and masks, and what sparsify and densify keep."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from devices import run_again
from pruned_models import MASK, Block, assert_same, holed, pruned_mlp, snapshot
from torch import nn

from sparselinear import SparseLinear
from sparselinear.convert import densify, magnitude_masks, sparse_layers, sparsify

pytestmark = pytest.mark.usefixtures("one_thread")


# Outputs, names, and what is where.


def test_pruned_mlp_gives_the_same_outputs(device: str) -> None:
    mlp, x = pruned_mlp(device), torch.randn(16, 40, device=device)
    expected = mlp(x)
    made = sparsify(mlp)
    assert made.converted == ("0", "2", "4")
    assert made.left == {}
    assert all(type(mlp[index]) is SparseLinear for index in (0, 2, 4))
    torch.testing.assert_close(mlp(x), expected, rtol=0, atol=1e-5)
    assert not any(layer._forward_pre_hooks for layer in mlp)
    kept = sum(layer.nnz for layer in mlp if isinstance(layer, SparseLinear))
    assert kept == round(0.1 * (40 * 64 + 64 * 48 + 48 * 10))


def test_only_layers_with_zeros_are_converted(device: str) -> None:
    model, x = Block().to(device), torch.randn(7, 12, device=device)
    expected, second = model(x), model.body["second"]
    made = sparsify(model)
    assert made.converted == ("body.first", "head")
    assert list(made.left) == ["body.second"]
    assert "2 layers converted: body.first, head\nbody.second left: no zeros" in str(made)
    assert model.body["second"] is second
    assert list(model.body) == ["first", "second"]
    torch.testing.assert_close(model(x), expected)


def test_back_again(device: str) -> None:
    model, x = Block().to(device), torch.randn(7, 12, device=device)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sparsify(model)
    made = densify(model)
    assert made.converted == ("body.first", "head")
    assert str(made) == "2 layers converted: body.first, head"
    told = model.state_dict()
    assert told.keys() == weights.keys()
    assert all(torch.equal(told[name], tensor) for name, tensor in weights.items())
    assert type(model.head) is nn.Linear
    assert model(x).shape == (7, 5)


def test_nothing_to_convert_is_said() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    before = snapshot(model)
    made = sparsify(model)
    assert made.converted == ()
    assert str(made) == "0 layers converted\n0 left: no zeros, or nothing else, in its weight"
    assert_same(before, snapshot(model))


FORMS: list[tuple[str, Callable[[], Any]]] = [
    ("numpy", lambda: MASK),
    ("scipy", lambda: sp.coo_array(MASK)),
    ("tensor", lambda: torch.from_numpy(MASK)),
    ("csr tensor", lambda: SparseLinear(3, 4, MASK).weight),
    ("pattern", lambda: SparseLinear(3, 4, MASK).pattern),
]


@pytest.mark.parametrize(("form", "make"), FORMS, ids=[form for form, _ in FORMS])
def test_masks_by_name(form: str, make: Callable[[], Any], device: str) -> None:
    """Masks of the CPU, for a model wherever it is."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)).to(device)
    weight = model[0].weight.detach().clone()
    assert sparsify(model, {"0": make()}).converted == ("0",)
    assert torch.equal(model[0].to_dense(), weight * torch.from_numpy(MASK).to(device))
    assert type(model[1]) is nn.Linear


def test_a_mask_may_be_narrower_than_pruning(device: str) -> None:
    mlp = pruned_mlp(device)
    expected = (mlp[0].weight_orig * mlp[0].weight_mask).detach()
    masks = magnitude_masks(mlp, 0.05, only=["0"])
    assert sparsify(mlp, masks).converted == ("0",)
    dense = mlp[0].to_dense()
    assert mlp[0].nnz == 128
    assert torch.equal(dense[dense != 0], expected[dense != 0])
    assert dense.abs()[dense != 0].min() >= expected[dense == 0].abs().max()


def test_only_takes_names_or_a_function() -> None:
    by_name, by_function = Block(), Block()
    made = sparsify(by_name, only=["head"])
    assert made.converted == ("head",)
    assert made.left["body.first"] == "left out by only"
    assert sparsify(by_name, {"body.first": np.eye(9, 12)}).left == {"body.second": "not in masks"}
    seen = []

    def choose(name: str, linear: nn.Linear, pattern: Any) -> bool:
        seen.append((name, linear.in_features, pattern.shape))
        return name != "head"

    assert sparsify(by_function, only=choose).converted == ("body.first",)
    assert seen == [("body.first", 12, (9, 12)), ("head", 9, (5, 9))]


def test_sparse_layers_leave_the_model_alone(device: str) -> None:
    mlp = pruned_mlp(device)
    before = snapshot(mlp)
    layers = sparse_layers(mlp)
    assert_same(before, snapshot(mlp))
    assert list(layers) == ["0", "2", "4"]
    assert torch.equal(layers["2"].to_dense(), mlp[2].weight)


# What is kept.


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_mode_gradients_and_dtype_are_kept(dtype: torch.dtype, training: bool, device: str) -> None:
    model = nn.Sequential(holed(nn.Linear(6, 5)), holed(nn.Linear(5, 4))).to(device, dtype).train(training)
    model(torch.randn(3, 6, dtype=dtype, device=device)).sum().backward()
    model[0].weight.requires_grad_(False)
    model[1].bias.requires_grad_(False)
    model[1].weight.no_decay = True
    grad, bias = model[1].weight.grad.clone(), model[1].bias
    sparsify(model)
    assert [layer.training for layer in model] == [training, training]
    assert not model[0].values.requires_grad
    assert model[1].values.requires_grad
    assert model[1].values.no_decay
    assert model[1].bias is bias
    assert model[1].values.dtype == dtype
    assert torch.equal(model[1].values.grad, model[1].pattern.values_at(grad))
    densify(model)
    assert not model[0].weight.requires_grad
    assert torch.equal(model[1].weight.grad, torch.where(model[1].weight != 0, grad, 0))


def test_hooks_and_their_handles_are_kept(device: str) -> None:
    mlp, calls = pruned_mlp(device), []
    layer, x = mlp[2], torch.randn(3, 40, device=device)
    handles = [
        layer.register_forward_pre_hook(lambda *_: calls.append("pre")),
        layer.register_forward_hook(lambda *_, **__: calls.append("forward"), with_kwargs=True),
        layer.register_full_backward_pre_hook(lambda *_: calls.append("backward pre")),
        layer.register_full_backward_hook(lambda *_: calls.append("backward")),
        layer.bias.register_hook(lambda _: calls.append("bias")),
        layer.register_load_state_dict_pre_hook(lambda module, *_: calls.append(type(module).__name__)),
    ]
    del layer
    sparsify(mlp)
    mlp(x).sum().backward()
    assert sorted(calls) == ["backward", "backward pre", "bias", "forward", "pre"]
    mlp.load_state_dict(mlp.state_dict())
    assert calls.pop() == "SparseLinear"
    calls.clear()
    densify(mlp)
    mlp(x).sum().backward()
    assert sorted(calls) == ["backward", "backward pre", "bias", "forward", "pre"]
    mlp.load_state_dict(mlp.state_dict())
    assert calls.pop() == "Linear"
    calls.clear()
    for handle in handles:
        handle.remove()
    mlp(x).sum().backward()
    assert calls == []


def test_what_a_user_put_on_a_layer_is_kept() -> None:
    model = nn.Sequential(holed(nn.Linear(6, 5)))
    model[0].label = "genes"
    model[0].register_buffer("scale", torch.ones(3), persistent=False)
    model[0].extra = nn.Dropout(0.5)
    sparsify(model)
    assert model[0].label == "genes"
    assert "0.scale" in dict(model.named_buffers())
    assert "0.scale" not in model.state_dict()
    assert type(model[0].extra) is nn.Dropout


def test_tied_weights_stay_tied(device: str) -> None:
    model = nn.Sequential(holed(nn.Linear(6, 6)), nn.Linear(6, 6), nn.Linear(6, 6)).to(device)
    model[1].weight = model[0].weight
    model[2].bias = model[0].bias
    x = torch.randn(3, 6, device=device)
    expected = model(x)
    optimizer = torch.optim.Adam(model.parameters())
    sparsify(model, optimizer=optimizer)
    assert model[1].values is model[0].values
    assert model[2].bias is model[0].bias
    assert model[1].bias is not model[0].bias
    torch.testing.assert_close(model(x), expected)
    assert sum(parameter is model[0].values for parameter in optimizer.param_groups[0]["params"]) == 1
    densify(model)
    assert model[1].weight is model[0].weight


def test_a_module_in_two_places_stays_one() -> None:
    model = nn.Sequential(holed(nn.Linear(6, 6)), nn.ReLU())
    model.append(model[0])
    assert sparsify(model, {"2": model[0].weight != 0}).converted == ("0",)
    assert model[2] is model[0]
    assert type(model[0]) is SparseLinear


def test_a_converted_model_can_be_copied_and_saved(device: str) -> None:
    mlp, x = pruned_mlp(device), torch.randn(3, 40, device=device)
    sparsify(mlp)
    twin = copy.deepcopy(mlp)
    torch.testing.assert_close(twin(x), mlp(x), **run_again(device))
    other = pruned_mlp(device)
    sparsify(other)
    other.load_state_dict(mlp.state_dict())
    torch.testing.assert_close(other(x), mlp(x), **run_again(device))
