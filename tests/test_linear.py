"""SparseLinear: constructors, orientation, initial values, shared patterns, dtypes, conversions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import CASES, Case, each_case
from devices import DTYPES
from reference import mask_of, positions
from torch import Tensor, nn
from torch.nn.utils import prune

from sparselinear import SparseLinear, SparsityPattern, interop

ADJACENCY = CASES[1].adjacency  # (37, 53)


def _dense_output(layer: SparseLinear, x: Tensor) -> Tensor:
    weight = torch.from_numpy(layer.to_scipy().toarray()).double()
    bias = None if layer.bias is None else layer.bias.detach().cpu().double()
    return nn.functional.linear(x.cpu().double(), weight, bias)


@each_case
@pytest.mark.parametrize("bias", [True, False])
def test_constructors_agree(case: Case, bias: bool, device: str) -> None:
    out_features, in_features = case.adjacency.shape
    mask = mask_of(case.adjacency)
    shape, graph = (in_features, out_features), sp.coo_array(case.adjacency).T
    options: dict[str, Any] = {"bias": bias, "device": device}
    layers = [
        SparseLinear(*shape, case.adjacency, **options),
        SparseLinear(*shape, mask, **options),
        SparseLinear(*shape, mask.to(device), **options),
        SparseLinear.from_scipy(case.adjacency, **options),
        SparseLinear.from_scipy(case.adjacency, keep_values=True, **options),
        SparseLinear.from_graph(graph, **options),
        SparseLinear.from_graph(graph, keep_values=True, **options),
        SparseLinear(*shape, SparseLinear.from_scipy(case.adjacency).pattern, **options),
    ]
    for layer in layers:
        assert layer.values.device.type == layer.col_indices.device.type == device
        assert (layer.out_features, layer.in_features) == case.adjacency.shape
        assert layer.nnz == layer.values.numel() == int(mask.sum())
        assert layer.density == layer.nnz / (out_features * in_features)
        assert (layer.bias is not None) == bias
        assert bool((mask_of(layer.to_scipy()) == mask).all())
        assert layer.values.dtype == torch.float32


def test_rows_are_outputs(device: str) -> None:
    """One connection, from input 2 to output 0."""
    adjacency = sp.coo_array(([5.0], ([0], [2])), shape=(2, 3))
    layer = SparseLinear.from_scipy(adjacency, keep_values=True, bias=False, device=device)
    assert layer(torch.tensor([1.0, 10.0, 100.0], device=device)).tolist() == [500.0, 0.0]


def test_graph_rows_are_sources(device: str) -> None:
    """One connection, from node 0 to node 2: what enters at 0 leaves at 2."""
    adjacency = sp.coo_array(([5.0], ([0], [2])), shape=(3, 3))
    layer = SparseLinear.from_graph(adjacency, keep_values=True, bias=False, device=device)
    assert layer(torch.tensor([1.0, 10.0, 100.0], device=device)).tolist() == [0.0, 0.0, 5.0]


def test_layer_cut_out_of_a_graph(device: str) -> None:
    graph = sp.random_array((12, 12), density=0.4, format="csr", rng=np.random.default_rng(0))
    inputs, outputs = [7, 1, 2], np.arange(12) > 8
    chosen: dict[str, Any] = {"inputs": inputs, "outputs": outputs, "keep_values": True}
    layer = SparseLinear.from_graph(graph, **chosen, bias=False, device=device, dtype=torch.float64)
    np.testing.assert_array_equal(layer.to_scipy().toarray(), graph.toarray()[inputs][:, outputs].T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_values(dtype: torch.dtype, device: str) -> None:
    layer = SparseLinear.from_scipy(ADJACENCY, keep_values=True, device=device, dtype=dtype)
    assert layer.values.dtype == dtype
    expected = torch.from_numpy(ADJACENCY.data).to(dtype)
    torch.testing.assert_close(layer.values.detach().cpu(), expected, rtol=0, atol=0)
    assert layer.values.requires_grad
    assert layer.bias is not None
    assert layer.bias.abs().max() > 0


def test_default_dtype_and_device_are_torchs(device: str) -> None:
    try:
        torch.set_default_dtype(torch.float64)
        assert SparseLinear.from_scipy(ADJACENCY).values.dtype == torch.float64
        with torch.device("meta"):
            assert SparseLinear.from_scipy(ADJACENCY).values.is_meta
        with torch.device(device):
            assert SparseLinear.from_scipy(ADJACENCY).values.device.type == device
    finally:
        torch.set_default_dtype(torch.float32)


def test_initial_values_scale_with_each_outputs_own_fan_in(device: str) -> None:
    fan_in = np.array([1, 4, 25, 100, 0, 400])
    rows = np.repeat(np.arange(6), fan_in)
    columns = np.concatenate([np.arange(count) for count in fan_in])
    adjacency = sp.csr_array((np.ones(rows.size), (rows, columns)), shape=(6, 400))
    pattern = interop.to_pattern(adjacency, device=device)
    drawn = [SparseLinear(400, 6, pattern, device=device, dtype=torch.float64) for _ in range(300)]
    values = torch.stack([layer.values.detach() for layer in drawn]).cpu()  # (300, nnz)
    bias = torch.stack([layer.bias.detach() for layer in drawn if layer.bias is not None]).cpu()
    for output, count in enumerate(fan_in):
        own = values[:, torch.from_numpy(rows == output)]
        if count == 0:
            assert not bias[:, output].any()
            continue
        bound = count**-0.5
        for sample in (own, bias[:, output]):
            assert sample.abs().max() <= bound
            # The uniform distribution on ±bound: mean 0, standard deviation bound / sqrt(3).
            error = 5 * bound / np.sqrt(3 * sample.numel())
            assert abs(sample.mean()) < error
            assert abs(sample.std() - bound / np.sqrt(3)) < 2 * error


def test_full_pattern_has_the_distribution_of_linear(device: str) -> None:
    torch.manual_seed(1)
    ours = SparseLinear(200, 3000, torch.ones(3000, 200), device=device)
    theirs = nn.Linear(200, 3000, device=device)
    assert ours.bias is not None
    for sample, reference in ((ours.values, theirs.weight), (ours.bias, theirs.bias)):
        quantiles = torch.linspace(0, 1, 9, device=device)
        a, b = (t.detach().flatten().quantile(quantiles) for t in (sample, reference))
        torch.testing.assert_close(a, b, atol=0.01, rtol=0)


def test_two_layers_share_one_pattern(device: str) -> None:
    first = SparseLinear.from_scipy(ADJACENCY, device=device)
    second = SparseLinear(53, 37, first.pattern, device=device)
    assert second.pattern is first.pattern
    assert second.col_indices is first.col_indices
    assert second.values.data_ptr() != first.values.data_ptr()
    first.pattern.transposed  # noqa: B018
    assert second.pattern.transposed is first.pattern.transposed
    net = nn.Sequential(first, nn.Linear(37, 53), second)
    for other in ("cpu", device, "meta"):
        assert net.to(other)[0].pattern is net[2].pattern


def test_indices_are_buffers_and_never_parameters() -> None:
    layer = SparseLinear.from_scipy(ADJACENCY)
    assert dict(layer.named_parameters()).keys() == {"values", "bias"}
    assert {"crow_indices", "col_indices"} <= dict(layer.named_buffers()).keys()


@pytest.mark.shows("Copies, moves and files", "`to(dtype)`")
@pytest.mark.parametrize("dtype", DTYPES)
def test_moves_between_dtypes(dtype: torch.dtype, device: str) -> None:
    layer = SparseLinear.from_scipy(ADJACENCY, device=device)
    pattern = layer.pattern
    before = layer.values.detach().clone()
    assert layer.to(dtype) is layer
    assert layer.pattern is pattern  # indices are neither converted nor copied
    assert layer.col_indices.dtype == torch.int32
    torch.testing.assert_close(layer.values.detach(), before.to(dtype), rtol=0, atol=0)
    x = torch.randn(4, 53, dtype=dtype, device=device)
    torch.testing.assert_close(layer(x).cpu().double(), _dense_output(layer, x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("method", ["double", "bfloat16", "half", "float"])
def test_dtype_methods(method: str) -> None:
    layer = getattr(SparseLinear.from_scipy(ADJACENCY), method)()
    assert layer.values.dtype == getattr(torch.empty(0), method)().dtype
    assert layer.col_indices.dtype == torch.int32


@each_case
def test_weight_shares_storage(case: Case, device: str) -> None:
    layer = SparseLinear.from_scipy(case.adjacency, device=device)
    for weight, layout in ((layer.weight, torch.sparse_csr), (layer.weight_coo, torch.sparse_coo)):
        assert weight.layout == layout
        assert weight.shape == (layer.out_features, layer.in_features)
        assert not weight.requires_grad
        assert weight.values().data_ptr() == layer.values.data_ptr()
        torch.testing.assert_close(weight.to_dense(), layer.to_dense(), rtol=0, atol=0)
    np.testing.assert_array_equal(layer.to_dense().cpu(), layer.to_scipy().toarray())


@each_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_to_linear(case: Case, dtype: torch.dtype, device: str) -> None:
    for bias in (True, False):
        layer = SparseLinear.from_scipy(case.adjacency, bias=bias, device=device, dtype=dtype).eval()
        linear = layer.to_linear()
        assert type(linear) is nn.Linear
        assert not linear.training
        assert linear.weight.dtype == dtype
        x = torch.randn(3, layer.in_features).to(device, dtype)
        torch.testing.assert_close(linear(x).double(), layer(x).double(), rtol=0.02, atol=0.02)
        torch.testing.assert_close(linear.weight.detach(), layer.to_dense(), rtol=0, atol=0)


@each_case
@pytest.mark.parametrize("bias", [True, False])
def test_from_masked_linear(case: Case, bias: bool, device: str) -> None:
    out_features, in_features = case.adjacency.shape
    linear = nn.Linear(in_features, out_features, bias=bias, device=device, dtype=torch.float64).eval()
    layer = SparseLinear.from_linear(linear, case.adjacency)
    mask = mask_of(case.adjacency).to(device)
    torch.testing.assert_close(layer.to_dense(), linear.weight.detach() * mask, rtol=0, atol=0)
    x = torch.randn(3, in_features, dtype=torch.float64, device=device)
    expected = nn.functional.linear(x, linear.weight * mask, linear.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    assert not layer.training
    with torch.no_grad():
        layer.values.zero_()
    assert linear.weight.abs().max() > 0  # a copy


@pytest.mark.shows("Models and graphs", "`from_linear` on layers pruned by `torch.nn.utils.prune`")
@pytest.mark.parametrize("removed", [False, True])
def test_from_pruned_linear(removed: bool, device: str) -> None:
    linear = nn.Linear(20, 10, device=device)
    prune.random_unstructured(linear, "weight", amount=0.8)
    with torch.no_grad():
        linear(torch.randn(2, 20, device=device))
    mask = linear.weight_mask.bool()
    expected = linear.weight.detach().clone()
    if removed:
        prune.remove(linear, "weight")
    layer = SparseLinear.from_linear(linear)
    assert layer.nnz == int(mask.sum()) == 40
    torch.testing.assert_close(layer.to_dense(), expected, rtol=0, atol=0)
    rows, columns = positions(layer.pattern)
    assert bool(mask[rows, columns].all())


def test_from_pruned_linear_keeps_connections_whose_weight_is_zero() -> None:
    linear = nn.Linear(4, 3)
    with torch.no_grad():
        linear.weight[0, 0] = 0
    mask = torch.zeros(3, 4)
    mask[0, 0] = mask[2, 1] = 1
    prune.custom_from_mask(linear, "weight", mask)
    assert SparseLinear.from_linear(linear).nnz == 2


def test_explicit_zeros_are_connections_and_duplicates_are_summed() -> None:
    adjacency = sp.coo_array(([0.0, 2.0, 3.0, 1.0, -1.0], ([0, 1, 1, 2, 2], [0, 1, 1, 0, 0])), shape=(3, 2))
    layer = SparseLinear.from_scipy(adjacency, keep_values=True)
    assert layer.values.tolist() == [0.0, 5.0, 0.0]


def test_repr_tells_nnz_and_density() -> None:
    text = repr(SparseLinear.from_scipy(sp.eye_array(4), bias=False))
    assert text == "SparseLinear(in_features=4, out_features=4, nnz=4, density=0.25, bias=False)"


def test_training_never_grows_a_connection(device: str) -> None:
    layer = SparseLinear.from_scipy(ADJACENCY, device=device)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        layer(torch.randn(8, 53, device=device)).square().sum().backward()
        optimizer.step()
    assert bool((mask_of(layer.to_scipy()) == mask_of(ADJACENCY)).all())


def test_the_example_of_the_readme(tmp_path: Path, device: str) -> None:
    sp.save_npz(tmp_path / "pathways_x_genes.npz", ADJACENCY)
    A = sp.load_npz(tmp_path / "pathways_x_genes.npz")
    net = nn.Sequential(SparseLinear.from_scipy(A), nn.Tanh(), nn.Linear(A.shape[0], 2)).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
    x = torch.randn(64, 53).to(device)
    y = (x[:, ADJACENCY.indices[0]] > 0).long()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_pattern_type_is_public() -> None:
    assert isinstance(SparseLinear.from_scipy(ADJACENCY).pattern, SparsityPattern)


def test_spy_draws_the_pattern() -> None:
    plt = pytest.importorskip("matplotlib.figure")
    ax = SparseLinear.from_scipy(ADJACENCY).spy(plt.Figure().subplots())
    assert ax.get_images()[0].get_array().shape == (37, 53)
