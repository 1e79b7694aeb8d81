"""The byte ledger against the tensors themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import CASES
from torch import Tensor, nn

from sparselinear import SparseLinear
from sparselinear.pattern import SparsityPattern
from sparselinear.profiling import BASELINES, Sizes
from sparselinear.profiling.baselines import OURS, System
from sparselinear.profiling.ledger import Ledger, needed_bytes

SYSTEMS = {OURS.name: OURS, **BASELINES}
SHAPES = ("random", "prime sizes", "1 x n", "full", "no connections")
LAYERS = {case.name: case.adjacency for case in CASES if case.name in SHAPES}


def nbytes(tensor: Tensor) -> tuple[int, int]:
    """Bytes of the values of a tensor, and of its indices."""
    if tensor.layout == torch.sparse_coo:
        return tensor._values().nbytes, tensor._indices().nbytes
    if tensor.layout == torch.sparse_csr:
        return tensor.values().nbytes, tensor.crow_indices().nbytes + tensor.col_indices().nbytes
    return tensor.nbytes, 0


def masks_of(module: nn.Module) -> int:
    """Masks in buffers, in the hook of prune, and the masked weight that prune leaves on the module."""
    total = sum(buffer.nbytes for buffer in module.buffers())
    for hook in module._forward_pre_hooks.values():
        for tensor in (getattr(hook, "mask"), getattr(module, "weight")):  # noqa: B009
            total += tensor.nbytes
    return total


def transpose_of(pattern: SparsityPattern) -> int:
    """Of what backward has made; nothing where it goes by rows."""
    if pattern._transpose is None:
        return 0
    return sum(tensor.nbytes for tensor in (pattern.ccol_indices, pattern.row_indices, pattern.permutation))


def measured(system: System, layer: SparseLinear) -> Ledger:
    """The kept terms, from the tensors that exist after a training step."""
    module = system.make(layer)
    x = torch.randn(3, layer.in_features, dtype=layer.values.dtype, requires_grad=True)
    adam = None
    if system.trains:
        module(x).sum().backward()
        if not system.adam_refusal:
            adam = torch.optim.Adam(module.parameters())
            adam.step()
    parameters = [nbytes(parameter) for parameter in module.parameters()]
    gradients = [nbytes(parameter.grad) for parameter in module.parameters() if parameter.grad is not None]
    ours, pattern = system is OURS, layer.pattern
    indices = sum(indices for _, indices in parameters)
    if ours:
        indices = pattern.crow_indices.nbytes + pattern.col_indices.nbytes
    return Ledger(
        parameters_bytes=sum(values for values, _ in parameters),
        mask_bytes=0 if ours else masks_of(module),
        indices_bytes=indices,
        transpose_bytes=transpose_of(pattern) if ours else 0,
        gradients_bytes=sum(map(sum, gradients)),
        adam_bytes=None if adam is None else sum(t.nbytes for s in adam.state.values() for t in s.values()),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", LAYERS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_kept_terms_are_exact(name: str, shape: str, bias: bool, dtype: torch.dtype) -> None:
    layer = SparseLinear.from_scipy(LAYERS[shape], bias=bias, dtype=dtype)
    predicted = SYSTEMS[name].bytes(Sizes.of(layer, batch=3))
    found = measured(SYSTEMS[name], layer)
    passing = "step_transient_bytes", "adam_transient_bytes", "building_bytes", "transposing_bytes"
    terms = {key: value for key, value in vars(predicted).items() if key not in passing}
    assert terms == {key: value for key, value in vars(found).items() if key not in passing}


def test_int64_pattern_and_bfloat16() -> None:
    case = next(case for case in CASES if case.name == "prime sizes")
    narrow = SparseLinear.from_scipy(case.adjacency).pattern
    wide = SparsityPattern(narrow.crow_indices, narrow.col_indices, narrow.shape, index_dtype=torch.int64)
    layer = SparseLinear(narrow.in_features, narrow.out_features, wide, dtype=torch.bfloat16)
    predicted, found = OURS.bytes(Sizes.of(layer, batch=3)), measured(OURS, layer)
    assert predicted.indices_bytes == found.indices_bytes == 8 * (37 + 1 + layer.nnz)
    assert predicted.transpose_bytes == found.transpose_bytes == 8 * (53 + 1 + 2 * layer.nnz)
    assert predicted.total_bytes == found.total_bytes


def allocated(work: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes that torch's allocator gave out during the work and has not got back; and what was made."""
    # acc_events keeps torch 2.11 from a warning about cycles, of which there is one.
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        made = work()
    return sum(event.self_cpu_memory_usage for event in profile.events()), made


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("batch", [4, 17])
def test_terms_of_a_large_layer_are_what_the_allocator_gives(batch: int) -> None:
    """5 million connections, 145 MB with Adam, 105 without a transpose: each term as it comes to be."""
    size, per_row = 200_000, 25
    every = size // per_row  # connections of a row are this far apart
    columns = (torch.arange(size) % every)[:, None] + torch.arange(0, size, every)
    offsets = torch.arange(0, size * per_row + 1, per_row, dtype=torch.int32)
    x, grad_output = torch.randn(batch, size, requires_grad=True), torch.randn(batch, size)
    found = {}
    found["indices"], pattern = allocated(
        lambda: SparsityPattern(offsets, columns.flatten().int(), (size, size))
    )
    found["values"], layer = allocated(lambda: SparseLinear(size, size, pattern))
    found["transpose"], _ = allocated(lambda: pattern.transposed) if batch > 4 else (0, None)
    found["output"], y = allocated(lambda: layer(x))
    found["gradients"], _ = allocated(lambda: y.backward(grad_output))
    adam = torch.optim.Adam(layer.parameters())
    found["optimizer"], _ = allocated(adam.step)
    sizes = Sizes.of(layer, batch)
    ledger = OURS.bytes(sizes)
    assert ledger.total_bytes > (100e6 if batch == 4 else 140e6)
    assert ledger.adam_bytes is not None
    told = {
        "indices": ledger.indices_bytes,
        "values": ledger.parameters_bytes,
        "transpose": ledger.transpose_bytes,
        "output": sizes.activations_bytes - sizes.grad_input_bytes,
        "gradients": ledger.gradients_bytes + sizes.grad_input_bytes,
        "optimizer": ledger.adam_bytes,
    }
    assert found == pytest.approx(told, rel=1e-3)


def test_sums() -> None:
    sizes = Sizes(out_features=10, in_features=20, nnz=30, bias=True, itemsize=4, index_itemsize=4, batch=5)
    ledger = Ledger(1, 10, 100, 1000, 10_000, 100_000, 7, 8)
    assert ledger.resident_bytes == 1111
    assert ledger.total_bytes == 111_111
    assert needed_bytes(ledger, sizes) == 111_111 + 7 + 5 * (10 + 20) * 4
    updating = replace(ledger, adam_transient_bytes=10_000)  # when the output is there no more
    assert needed_bytes(updating, sizes) == 111_111 + 10_000 + 5 * 20 * 4
    assert needed_bytes(replace(ledger, building_bytes=10**6), sizes) == 10**6
    assert needed_bytes(replace(ledger, transposing_bytes=10**6), sizes) == 10**6 + 5 * 10 * 4
    assert ledger.to_dict()["total_bytes"] == 111_111


def test_a_connection_costs_what_the_table_says() -> None:
    """Bytes for each connection, float32 and int32: value 4, index 4, transpose 8, gradient 4, Adam 8."""
    for batch, each in ((17, 28), (16, 20)):  # the smaller one needs no transpose
        few, more = (Sizes(1000, 1000, nnz, True, 4, 4, batch) for nnz in (10_000, 11_000))
        assert OURS.bytes(more).total_bytes - OURS.bytes(few).total_bytes == each * 1000
        assert (OURS.bytes(few).transposing_bytes > 0) == (each == 28)


def test_scratch_that_is_kept_is_what_was_used_last() -> None:
    """In 64 MiB: a panel of 51 MB makes room for two blocks of 32 MB at batch 64, and at 17 all fit."""
    for batch, kept in ((64, 2 * 32_000_000), (17, 17 * 4 * 200_000 + 32_000_000)):
        sizes = Sizes(200_000, 200_000, 8_000_000, False, 4, 4, batch)
        assert OURS.bytes(sizes).adam_transient_bytes == 2 * 32_000_000 + kept


def test_transients_on_cuda() -> None:
    """Counted by hand: 10 x 20, 30 connections, batch 5, float32 and a half type."""
    sizes = Sizes(10, 20, 30, True, 4, 4, 5, cuda_kernel="torch")
    ledger = OURS.bytes(sizes)
    # Feature-major copies of one input, one output; the values in CSC order.
    assert ledger.step_transient_bytes == 5 * (10 + 20) * 4 + 30 * 4
    # The square roots of values and bias, and no scratch that is kept.
    assert ledger.adam_transient_bytes == 4 * (30 + 10)
    half = OURS.bytes(replace(sizes, itemsize=2))
    assert half.step_transient_bytes == 5 * (10 + 20) * (2 + 4) + 30 * (2 + 4)
    # Of triton's also the gradient of the input, at the same time.
    triton = replace(sizes, cuda_kernel="triton")
    assert OURS.bytes(triton).step_transient_bytes == 5 * (10 + 2 * 20) * 4
    assert OURS.bytes(replace(triton, itemsize=2)).step_transient_bytes == 5 * (10 + 2 * 20) * 2 + 30 * 4
    assert ledger.total_bytes == OURS.bytes(replace(sizes, cuda_kernel="")).total_bytes
    dense = BASELINES["dense"].bytes(sizes)
    assert dense.adam_transient_bytes == 4 * (10 * 20 + 10)
