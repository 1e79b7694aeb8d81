"""Models that are moved, copied or kept half way through a training, and go on as if they had not been."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import twins
from devices import run_again
from torch import nn

from sparselinear import SparseLinear, SparsityPattern, interop


def _by_deepcopy(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    return copy.deepcopy((model, optimizer))


def _by_pickle(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    return pickle.loads(pickle.dumps((model, optimizer)))


def _by_torch_save(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    file = io.BytesIO()
    torch.save((model, optimizer), file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _by_state_dicts(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> Any:
    fresh = twins.model(str(model[0].values.device))
    other = torch.optim.Adam(fresh.parameters(), lr=0.05)
    fresh.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # it takes the tensors over
    return fresh, other


@pytest.mark.shows(
    "Copies, moves and files",
    "a half-trained model and its optimizer: `deepcopy`, pickle, `torch.save`, `state_dict`",
)
@pytest.mark.parametrize("carry", [_by_deepcopy, _by_pickle, _by_torch_save, _by_state_dicts])
def test_half_trained_model_goes_on_as_if_never_copied(carry: Callable[..., Any], device: str) -> None:
    model, batches = twins.model(device), twins.batches(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    twins.train(model, batches[:3], optimizer)
    copied, other = carry(model, optimizer)
    half = [t.clone() for t in twins.numbers(model)]
    twins.train(copied, batches[3:], other)
    torch.testing.assert_close(twins.numbers(model), half, rtol=0, atol=0)  # the original stayed
    twins.train(model, batches[3:], optimizer)
    torch.testing.assert_close(twins.numbers(copied), twins.numbers(model), **run_again(device))
    assert twins.moved(half, model)


def _on_meta() -> nn.Module:
    with torch.device("meta"):
        return twins.model()


def _skipped_init() -> nn.Module:
    skipped = (
        nn.utils.skip_init(SparseLinear, *shape, interop.to_pattern(adjacency), dtype=torch.float64)
        for shape, adjacency in (((53, 37), twins.ADJACENCY), ((37, 53), twins.ADJACENCY.T))
    )
    return nn.Sequential(next(skipped), nn.Tanh(), next(skipped))


@pytest.mark.shows("Copies, moves and files", "meta device, `torch.nn.utils.skip_init`, `to_empty`")
@pytest.mark.parametrize("make", [_on_meta, _skipped_init])
def test_model_made_without_numbers_trains_once_it_has_some(
    make: Callable[[], nn.Module], device: str
) -> None:
    model, batches = twins.model(device), twins.batches(device)
    late = make().to_empty(device=device)
    late.load_state_dict(model.state_dict())
    for module in (model, late):
        twins.train(module, batches)
    torch.testing.assert_close(twins.numbers(late), twins.numbers(model), **run_again(device))
    late[0].reset_parameters()
    assert not torch.equal(late[0].values, model[0].values)


@pytest.mark.shows("Copies, moves and files", "safetensors")
def test_safetensors(tmp_path: Path, device: str) -> None:
    files = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    model, fresh = twins.model(device), twins.model(device)
    files.save_model(model, tmp_path / "model.safetensors")
    assert files.load_model(fresh, tmp_path / "model.safetensors") == (set(), [])
    torch.testing.assert_close(twins.numbers(fresh), twins.numbers(model), rtol=0, atol=0)
    state = files.load_file(tmp_path / "model.safetensors")
    assert SparseLinear.from_state_dict(state, "2.").pattern.equals(model[2].pattern)


@pytest.mark.shows("Copies, moves and files", "safetensors of layers that share a pattern")
def test_safetensors_of_layers_that_share_a_pattern(tmp_path: Path, device: str) -> None:
    files = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    pattern = interop.to_pattern(twins.ADJACENCY, device=device)
    model, fresh = (
        nn.Sequential(*(SparseLinear(53, 37, pattern, device=device) for _ in range(2))) for _ in range(2)
    )
    files.save_model(model, tmp_path / "model.safetensors")
    assert files.load_model(fresh, tmp_path / "model.safetensors") == (set(), [])
    torch.testing.assert_close(twins.numbers(fresh), twins.numbers(model), rtol=0, atol=0)


def _train_in_child(model: nn.Sequential, batches: Any) -> None:
    torch.set_num_threads(1)
    twins.train(model, batches)


@pytest.mark.shows("Copies, moves and files", "`share_memory()` and training in a spawned process")
def test_shared_memory_is_trained_by_a_spawned_process() -> None:
    model, batches = twins.model("cpu"), twins.batches("cpu")[:2]
    twin = twins.twin(model)
    model.share_memory()
    tensors = [*model.parameters(), *model.buffers()]
    assert all(tensor.is_shared() for tensor in tensors)
    assert model[0].col_indices is model[0].pattern.col_indices
    context = torch.multiprocessing.get_context("spawn")
    process = context.Process(target=_train_in_child, args=(model, batches))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    twins.train(twin, batches)
    twins.same(model, twin)


def test_pattern_that_went_to_shared_memory_is_not_found_where_it_was() -> None:
    arrays = np.array([0, 1, 2]), np.array([0, 1])  # their memory stays when torch has left it
    pattern = SparsityPattern(*map(torch.from_numpy, arrays), (2, 2), index_dtype=torch.int64, copy=False)
    SparseLinear(2, 2, pattern).share_memory()
    arrays[1][:] = 1, 0
    found = SparsityPattern.over(*map(torch.from_numpy, arrays), 2)
    assert found.col_indices.tolist() == [1, 0]
    assert SparsityPattern.over(pattern.crow_indices, pattern.col_indices, 2).equals(pattern)
