"""What a state_dict says of a layer; layers copied, pickled, on the meta device and filled later."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import scipy.sparse as sp
import torch
from cases import CASES, Case, each_case
from devices import DTYPES, run_again
from torch import nn

from sparselinear import SparseLinear

ADJACENCY = CASES[1].adjacency  # (37, 53)


def test_deepcopy_shares_the_pattern_alone(device: str) -> None:
    net = nn.Sequential(SparseLinear.from_scipy(ADJACENCY, device=device), nn.Tanh())
    copied = copy.deepcopy(net)
    assert copied[0].pattern is net[0].pattern
    assert copied[0].col_indices is net[0].col_indices
    assert copied[0].values.data_ptr() != net[0].values.data_ptr()
    x = torch.randn(3, 53, device=device)
    torch.testing.assert_close(copied(x), net(x), **run_again(device))
    with torch.no_grad():
        copied[0].values.zero_()
    assert net[0].values.abs().max() > 0


def test_pickle_and_torch_save_of_the_whole_layer(tmp_path: Path, device: str) -> None:
    layer = SparseLinear.from_scipy(ADJACENCY, device=device)
    x = torch.randn(3, 53, device=device)
    torch.save(layer, tmp_path / "layer.pt")
    for back in (pickle.loads(pickle.dumps(layer)), torch.load(tmp_path / "layer.pt", weights_only=False)):
        assert back.pattern.equals(layer.pattern)
        assert back.col_indices is back.pattern.col_indices
        torch.testing.assert_close(back(x), layer(x), **run_again(device))


def _through_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.shows(
    "Copies, moves and files", "a layer from its `state_dict` alone, loaded with `weights_only=True`"
)
@each_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_from_its_state_dict_alone(case: Case, dtype: torch.dtype, device: str) -> None:
    for bias in (True, False):
        layer = SparseLinear.from_scipy(case.adjacency, bias=bias, device=device, dtype=dtype)
        back = SparseLinear.from_state_dict(_through_file(layer.state_dict()))
        assert repr(back) == repr(layer)
        x = torch.randn(2, layer.in_features).to(device, dtype)
        torch.testing.assert_close(back(x), layer(x), **run_again(device))
        with torch.no_grad():
            back.values.zero_()
        assert layer.nnz == 0 or layer.values.abs().max() > 0


def test_layer_from_the_state_dict_of_a_model() -> None:
    net = nn.Sequential(nn.Linear(5, 53), SparseLinear.from_scipy(ADJACENCY))
    back = SparseLinear.from_state_dict(net.state_dict(), prefix="1.")
    torch.testing.assert_close(back.values, net[1].values, rtol=0, atol=0)


@pytest.mark.shows("Copies, moves and files", "`load_state_dict`, with `assign` and without")
@pytest.mark.parametrize("assign", [False, True])
def test_load_state_dict(assign: bool, device: str) -> None:
    layer, other = (SparseLinear.from_scipy(ADJACENCY, device=device) for _ in range(2))
    pattern = other.pattern
    result = other.load_state_dict(_through_file(layer.state_dict()), assign=assign)
    assert not result.missing_keys
    assert not result.unexpected_keys
    torch.testing.assert_close(other.values, layer.values, rtol=0, atol=0)
    assert other.pattern is pattern
    assert other.col_indices is pattern.col_indices


def test_load_state_dict_into_a_meta_layer(device: str) -> None:
    layer = SparseLinear.from_scipy(ADJACENCY, device=device)
    empty = SparseLinear.from_scipy(ADJACENCY, device="meta")
    empty.load_state_dict(layer.state_dict(), assign=True)
    x = torch.randn(2, 53, device=device)
    torch.testing.assert_close(empty(x), layer(x), **run_again(device))


@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_on_meta(dtype: torch.dtype) -> None:
    layer, linear = (
        kind(53, 37, *rest, device="meta", dtype=dtype)
        for kind, rest in ((SparseLinear, (ADJACENCY,)), (nn.Linear, ()))
    )
    x = torch.randn(2, 5, 53, device="meta", dtype=dtype, requires_grad=True)
    output, expected = layer(x), linear(x)
    assert (output.shape, output.dtype, output.device) == (expected.shape, expected.dtype, expected.device)
    output.sum().backward()
    assert x.grad is not None
    assert x.grad.is_meta
    assert layer.values.grad.shape == (layer.nnz,)


def test_skip_init_and_to_empty_keep_the_pattern(device: str) -> None:
    layer = nn.utils.skip_init(SparseLinear, 53, 37, ADJACENCY, device=device)
    assert layer.pattern.equals(SparseLinear.from_scipy(ADJACENCY).pattern)
    assert layer.col_indices is layer.pattern.col_indices
    layer.load_state_dict(SparseLinear.from_scipy(ADJACENCY).state_dict())
    layer.to_empty(device=device)
    assert layer.values.device.type == layer.pattern.device.type == device
    assert layer.pattern.equals(SparseLinear.from_scipy(ADJACENCY).pattern)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (sp.csr_array(ADJACENCY.T), "shape"),
        (sp.csr_array(ADJACENCY)[::-1], "other places"),
        (sp.csr_array(ADJACENCY + sp.eye_array(37, 53)), "nnz"),
    ],
)
def test_load_state_dict_refuses_another_pattern(other: sp.csr_array, difference: str, device: str) -> None:
    layer = SparseLinear.from_scipy(ADJACENCY, device=device)
    before = copy.deepcopy(layer.state_dict())
    state = SparseLinear.from_scipy(other).state_dict()
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=f"(?s){difference}.*from_state_dict"):
            layer.load_state_dict(state, strict=strict)
    for name, tensor in layer.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)  # nothing was half loaded


def test_load_state_dict_reports_missing_entries() -> None:
    layer = SparseLinear.from_scipy(ADJACENCY)
    state = layer.state_dict()
    del state["col_indices"]
    with pytest.raises(RuntimeError, match=r"Missing key.*col_indices"):
        layer.load_state_dict(state)
    assert layer.load_state_dict(state, strict=False).missing_keys == ["col_indices"]
