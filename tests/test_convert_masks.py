"""Masks from zeros, from pruning and by magnitude, each against what numpy or torch says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sparselinear import SparsityPattern
from sparselinear.convert import magnitude_masks, masks_of


def net(device: str, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)).to(device, dtype)
    with torch.no_grad():
        net[2].weight.mul_(5)  # so that a global threshold is not the threshold of each
    return net


def dense(pattern: SparsityPattern) -> Tensor:
    return pattern.dense_tensor(torch.ones(pattern.nnz, device=pattern.device)).bool()


def test_zeros(device: str) -> None:
    model = net(device)
    model[0].weight.data[3, 4:7] = 0
    masks = masks_of(model)
    assert list(masks) == ["0"]
    assert torch.equal(dense(masks["0"]), model[0].weight != 0)
    assert masks["0"].nnz == 597


def test_pruning_and_not_the_weight_says_where_connections_are(device: str) -> None:
    model = net(device)
    model[0].weight.data[0, 0] = 0
    prune.ln_structured(model[0], "weight", 0.3, n=2, dim=0)
    prune.random_unstructured(model[2], "weight", 0.5)
    with torch.no_grad():
        model[2].weight_orig[0].zero_()  # a connection may be zero
    masks = masks_of(model)
    for name, layer in (("0", model[0]), ("2", model[2])):
        assert torch.equal(dense(masks[name]), layer.weight_mask.bool())


def test_zero_everywhere_is_a_beginning_and_no_mask(device: str) -> None:
    model = net(device)
    nn.init.zeros_(model[0].weight)
    assert masks_of(model) == {}
    prune.random_unstructured(model[0], "weight", 1.0)
    assert masks_of(model)["0"].nnz == 0


def test_a_pruned_bias_is_no_mask(device: str) -> None:
    model = net(device)
    prune.random_unstructured(model[0], "bias", 0.5)
    assert masks_of(model) == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("density", [0.25, 1.0])
def test_magnitude_by_layer(dtype: torch.dtype, density: float, device: str) -> None:
    model = net(device, dtype)
    masks = magnitude_masks(model, density)
    for name, pattern in masks.items():
        weight, mask = model.get_submodule(name).weight.detach().abs(), dense(pattern)
        assert pattern.nnz == round(density * weight.numel())
        if density < 1:
            assert weight[mask].min() >= weight[~mask].max()


@pytest.mark.parametrize("pruned", [False, True])
def test_magnitude_over_all_is_that_of_torch(pruned: bool, device: str) -> None:
    model = net(device)
    weights = [(model[0], "weight"), (model[2], "weight")]
    if pruned:  # what is gone already counts among the entries
        prune.global_unstructured(weights, prune.L1Unstructured, amount=0.3)
    masks = magnitude_masks(model, 0.25, scope="global")
    prune.global_unstructured(weights, prune.L1Unstructured, amount=405 if pruned else 675)
    for name, pattern in masks.items():
        assert torch.equal(dense(pattern), model.get_submodule(name).weight_mask.bool())
    assert sum(pattern.nnz for pattern in masks.values()) == 225


def test_equal_magnitudes_and_zeros(device: str) -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10)).to(device)
    nn.init.ones_(model[0].weight)
    nn.init.zeros_(model[1].weight)
    model[1].weight.data[0, :7] = 2
    masks = magnitude_masks(model, 0.3)
    assert [pattern.nnz for pattern in masks.values()] == [30, 7]


def test_magnitude_of_named_layers() -> None:
    assert list(magnitude_masks(net("cpu"), 0.5, only=["2"])) == ["2"]


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"density": 0}, ValueError, r"density: expected a number in \(0, 1\], got 0"),
    ({"density": -0.1}, ValueError, "density: expected a number"),
    ({"density": 1.5}, ValueError, "the share of the entries that is kept"),
    ({"density": 90}, ValueError, "the share of the entries that is kept"),
    ({"density": float("nan")}, ValueError, "got nan"),
    ({"density": "0.1"}, TypeError, "density: expected a number"),
    ({"density": True}, TypeError, "density: expected a number"),
    ({"scope": "model"}, ValueError, "scope: expected 'layer' or 'global', got 'model'"),
    ({"only": ["1"]}, TypeError, "only: '1': expected a torch.nn.Linear"),
    ({"only": ["3"]}, ValueError, "only: expected names of modules"),
    ({"only": "0"}, TypeError, "only: expected names"),
]


@pytest.mark.parametrize(("options", "kind", "text"), BAD, ids=[text for *_, text in BAD])
def test_wrong_arguments(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        magnitude_masks(net("cpu"), **{"density": 0.5, **options})


def test_nan_cannot_be_compared(device: str) -> None:
    model = net(device)
    model[2].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"2.weight: expected numbers that can be compared, got NaN"):
        magnitude_masks(model, 0.5)
