"""bench.models itself, on models small enough for a test: what it compares, and that it can miss a bar.

python -m pytest bench/test_models.py
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from sparselinear.convert import sparsify
from sparselinear.profiling import ModelProfile, machine
from sparselinear.profiling.models import ModelTimes
from sparselinear.profiling.timing import Timing

from . import models, pruned
from .models import AGREE, TOLERANCE, Bar, Result, Run
from .pruned import Case

Trained = tuple[nn.Module, torch.optim.Optimizer]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_encoder() -> nn.Module:
    masks = [(torch.rand(shape) < 0.1).float() for shape in ((32, 16), (16, 32))]
    return pruned.encoder_layer(*masks)


SMALL = [
    Case("encoder", small_encoder, (2, 5, 16)),
    Case("MLP", partial(pruned.mlp, (64, 96, 10)), (16, 64)),
]


def trained(case: Case) -> Trained:
    torch.manual_seed(0)
    model = case.make()
    # Not measure()'s rate: that a state was lost has to show within three steps.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    models.train(model, optimizer, case.shape, torch.Generator().manual_seed(1))
    return model, optimizer


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_measure(case: Case) -> None:
    result = models.measure(case, rounds=1)
    assert all(error <= TOLERANCE for error in result.errors.values())
    assert len(result.errors) == 3
    found = machine.describe(torch.device("cpu"))
    run = Run("python -m bench.models", 1, found, None, [result])
    assert json.loads(models.to_json(run))["models"][0]["errors"] == result.errors
    assert sum(line.startswith(f"| {case.name} |") for line in models.page(run)) == 2 + len(result.bars())


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("state_follows", [True, False])
def test_a_lost_optimizer_state_is_seen(case: Case, state_follows: bool) -> None:
    dense, optimizer = trained(case)
    x = torch.randn(case.shape)
    models.outputs(dense, x)
    sparse, moved = copy.deepcopy((dense, optimizer))
    sparsify(sparse, optimizer=moved)
    if not state_follows:
        moved = torch.optim.Adam(sparse.parameters(), lr=1e-2)
    errors = models.train_on((dense, optimizer), (sparse, moved), x)
    assert [error <= TOLERANCE for error in errors.values()] == [state_follows] * 2


def test_plain_weights_give_the_same_outputs() -> None:
    dense, _ = trained(SMALL[1])
    x = torch.randn(SMALL[1].shape)
    expected = models.outputs(dense, x)
    plain = models.without_masks(dense)
    assert torch.equal(models.outputs(plain, x), expected)
    assert not any(module._forward_pre_hooks for module in plain.modules())


def test_random_masks_are_told() -> None:
    first, second, _ = pruned.cases(None)
    assert first.name == "encoder layer 512, 2048, random masks of 90% and 90%"
    assert second.name == "encoder layer 512, 2048, random masks of 95% and 90%"
    layer = second.make()
    assert float(layer.linear1.weight_mask.mean()) == pytest.approx(0.05, rel=0.02)
    assert float(layer.linear2.weight_mask.mean()) == pytest.approx(0.1, rel=0.02)


def test_a_folder_without_the_masks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="conv1"):
        pruned.cases(tmp_path)


def test_bars() -> None:
    assert Bar("", 1e-6, TOLERANCE).met is True
    assert Bar("", 2e-5, TOLERANCE).met is False
    assert Bar("", math.nan, TOLERANCE).met is False
    assert Bar("", None, AGREE).met is None
    broken = models.largest_error([torch.tensor([1.0]), torch.tensor([math.nan])], [torch.ones(1)] * 2)
    assert math.isnan(broken)


@pytest.mark.parametrize(("told", "met"), [(2.0, True), (2.2, True), (1.8, True), (2.4, False), (1.6, False)])
def test_a_speed_up_that_is_not_there_again(told: float, met: bool) -> None:
    again = times(2.0)
    profile = ModelProfile("Net", "step", 1, machine.describe(torch.device("cpu")), (), times(told))
    result = Result("Net", profile, (), {}, again, again)
    assert [bar.met for bar in result.bars()] == [met, met]


def times(speed_up: float) -> ModelTimes:
    before, after = Timing((speed_up,), 1), Timing((1.0,), 1)
    return ModelTimes(before, after, before, after)
