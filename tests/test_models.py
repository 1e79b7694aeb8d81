"""Profiling whole models: what is measured at which size, what is chosen, and what is said of it."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from pruned_models import Block, assert_same, holed, pruned_mlp, snapshot
from rich.console import Console
from test_profiling_table import example, row_of
from torch import Tensor, nn

from sparselinear import SparseLinear, profiling
from sparselinear.convert import sparsify
from sparselinear.profiling import (
    Call,
    LayerRow,
    ModelProfile,
    ModelTimes,
    Profile,
    Sizes,
    clock,
    compare_models,
    ledger,
    profile_model,
)
from sparselinear.profiling.models.result import PREFER
from sparselinear.profiling.timing import Timing

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run a sample."""
    monkeypatch.setattr(clock, "SAMPLE_S", 0.0)


def quick(model: nn.Module, example_input: Any, **options: Any) -> ModelProfile:
    return profile_model(model, example_input, **{"rounds": 2, **options})


class Recurrent(nn.Module):
    """Calls one layer three times, once at another size, and another layer never."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.unused = holed(nn.Linear(8, 8)), holed(nn.Linear(8, 8))

    def forward(self, x: Tensor, *, twice: bool) -> dict[str, Any]:
        y = self.cell(x)
        y = self.cell(y) if twice else y
        return {"state": y, "last": [self.cell(y[:, -1])]}


def test_layers_are_measured_at_the_size_of_their_input() -> None:
    found = quick(Recurrent(), {"x": torch.randn(4, 5, 8), "twice": True}, prefer="memory")
    cell, unused = found.rows
    assert [(call.batch, call.count) for call in cell.calls] == [(4, 1), (20, 2)]
    assert [call.profile.sizes.batch for call in cell.calls] == [4, 20]
    assert all([row.name for row in call.profile.rows] == ["sparselinear", "dense"] for call in cell.calls)
    assert all(call.profile.rounds == 2 for call in cell.calls)
    assert unused.calls == ()
    assert unused.ratio("step") is None
    assert not unused.is_faster("step")


def test_inside_an_encoder_layer_in_eval_mode() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    holed(layer.linear1)
    found = quick(layer, torch.randn(3, 7, 16), prefer="memory")
    assert [(row.name, row.calls[0].batch) for row in found.rows] == [("linear1", 21)]
    assert found.whole is not None


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = nn.Sequential(*pruned_mlp(), nn.BatchNorm1d(10)).train(training)
    model(torch.randn(5, 40)).sum().backward()
    before = snapshot(model)
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    quick(model, torch.randn(5, 40), prefer="memory")
    assert_same(before, snapshot(model))
    assert all(parameter.grad is grads[name] for name, parameter in model.named_parameters())
    assert [module.training for module in model.modules()] == modes


def test_the_names_can_be_handed_on() -> None:
    model = Block()
    masks = {"body.second": torch.eye(9), "head": torch.ones(5, 9)}
    found = quick(model, torch.randn(6, 12), masks=masks, prefer="memory")
    assert found.smaller == found.chosen == ("body.second",)
    assert found.smaller == profiling.smaller(model, masks)
    assert sparsify(model, masks, only=found.smaller).converted == ("body.second",)


@pytest.mark.parametrize(("nnz", "expected"), [(19, True), (21, False)])
def test_smaller_counts_indices_of_both_orders(nnz: int, expected: bool) -> None:
    model = nn.Sequential(nn.Linear(10, 10))
    mask = (torch.arange(100) < nnz).view(10, 10)
    # 4 bytes of value and 12 of indices a connection, 2 * 11 offsets of 4; dense 400
    assert (16 * nnz + 88 < 400) == expected
    assert profiling.smaller(model, {"0": mask}) == (("0",) if expected else ())


@pytest.mark.parametrize(("batch", "expected"), [(16, ("0",)), (17, ())])
def test_small_batches_need_indices_of_one_order(batch: int, expected: tuple[str, ...]) -> None:
    model = nn.Sequential(nn.Linear(20, 20))
    masks = {"0": (torch.arange(400) < 180).view(20, 20)}
    # 8 bytes a connection and 21 offsets of 4 make 1524, with the transpose 3048; dense 1600
    found = quick(model, torch.randn(batch, 20), masks=masks, prefer="memory")
    assert found.smaller == expected
    assert profiling.smaller(model, masks) == ()


# The arithmetic of the result, on times that are known.


def measured(ours: float, dense: float) -> Profile:
    return example(row_of("sparselinear", ours), row_of("dense", dense))


def layer_row(*calls: Call, name: str = "first") -> LayerRow:
    sizes = Sizes(2048, 512, 104858, True, 4, 4, 128)
    return LayerRow(name, sizes, 0.1, ledger.sparse(sizes), ledger.dense(sizes), calls)


def times(before: float, after: float) -> ModelTimes:
    """Quartiles at 0.95 and 1.1 of these milliseconds, as test_profiling_table has them."""
    a, b = (Timing((0.9e-3 * ms, 1e-3 * ms, 1.2e-3 * ms), 1) for ms in (before, after))
    return ModelTimes(a, b, a, b)


def found(*rows: LayerRow, prefer: str = "step", whole: ModelTimes | None = None) -> ModelProfile:
    machine = example().machine
    return ModelProfile("Net", prefer, 7, machine, rows, whole)


def test_ratio_is_over_all_calls() -> None:
    row = layer_row(Call(4, 3, measured(1.0, 2.0)), Call(64, 1, measured(5.0, 4.0)))
    assert row.ratio("step") == pytest.approx((3 * 2 + 4) / (3 * 1 + 5))
    assert row.ratio("forward") == pytest.approx(10 / 8)


def test_faster_means_beyond_the_spread() -> None:
    clear, close = layer_row(Call(4, 1, measured(1.0, 1.5))), layer_row(Call(4, 1, measured(1.0, 1.1)))
    assert clear.is_faster("step")
    assert close.ratio("step") == pytest.approx(1.1)
    assert not close.is_faster("step")  # 1.1 of ours is not below 0.95 * 1.1 of dense


def test_what_was_not_measured_is_not_faster() -> None:
    profile = example(row_of("sparselinear", 1.0), replace(row_of("dense", 9.0), step=None))
    row = layer_row(Call(4, 1, profile), Call(8, 1, measured(1.0, 9.0)))
    assert row.ratio("step") is None
    assert not row.is_faster("step")
    assert row.is_faster("forward")


@pytest.mark.parametrize(
    ("prefer", "chosen"), [("step", ()), ("forward", ("first",)), ("memory", ("first",))]
)
def test_what_is_preferred_decides(prefer: str, chosen: tuple[str, ...]) -> None:
    ours = replace(row_of("sparselinear", 1.0), step=row_of("dense", 9.0).step)
    row = layer_row(Call(4, 1, example(ours, row_of("dense", 2.0))))
    assert found(row, prefer=prefer).chosen == chosen


def test_dictionary_is_json() -> None:
    model = Recurrent()
    result = quick(model, {"x": torch.randn(4, 5, 8), "twice": False}, prefer="memory")
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert (told["schema"], told["name"], told["prefer"]) == (1, "Recurrent", "memory")
    first = told["layers"][0]
    assert first["name"] == "cell"
    assert first["versus_dense"]["step"] == result.rows[0].ratio("step")
    assert [(call["batch"], call["count"]) for call in first["calls"]] == [(4, 1), (20, 1)]
    assert first["dense"]["parameters_bytes"] == 4 * (64 + 8)
    assert told["chosen"] == list(result.chosen)
    assert result.whole is not None
    assert told["whole"]["speed_up"] == {"forward": result.whole.forward, "step": result.whole.step}


# The whole model.


class Slow(nn.Module):
    """Sleeps in front of a layer."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.layer = seconds, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        y: Tensor = self.layer(x)
        return y


def test_models_take_turns_and_the_ratio_is_that_of_their_times() -> None:
    ratio = compare_models(Slow(0.03), Slow(0.01), (torch.randn(4, 3),), rounds=2)
    assert 2 < ratio.forward < 4  # sleep may take a little longer on a busy machine
    assert ratio.step is not None
    assert 2 < ratio.step < 4
    assert len(ratio.forward_before.samples_s) == 2


def test_a_model_without_gradients_has_no_step() -> None:
    frozen = nn.Sequential(holed(nn.Linear(30, 30), 0.05)).requires_grad_(False)
    result = quick(frozen, torch.randn(4, 30), prefer="memory")
    assert result.chosen == ("0",)
    assert result.whole is not None
    assert result.whole.step is None
    assert result.to_dict()["whole"]["step_before"] is None


def test_nothing_chosen() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    result = quick(model, torch.randn(2, 4))
    assert result.rows == ()
    assert result.whole is None
    assert "No layer is chosen: the model stays as it is." in shown(result)


def test_progress() -> None:
    told: list[tuple[int, int, str, str]] = []
    masks = {"0": torch.eye(30), "1": torch.eye(30)}
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
    quick(model, torch.randn(2, 30), masks=masks, prefer="memory", progress=lambda *step: told.append(step))
    assert told == [
        (0, 3, "layers", "0"),
        (1, 3, "layers", "1"),
        (2, 3, "the whole model", "2 layers converted"),
    ]


def test_threads_are_set_and_set_back() -> None:
    asked = torch.get_num_threads() + 1
    result = quick(Block(), torch.randn(3, 12), threads=asked)
    assert result.machine.threads == asked
    assert torch.get_num_threads() == asked - 1


# How it looks.


def shown(result: ModelProfile, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    result.render(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_table() -> None:
    rows = (
        layer_row(Call(128, 1, measured(1.0, 3.0)), name="layers.0.linear1"),
        layer_row(Call(4, 3, measured(2.0, 1.0)), name="head"),
    )
    text = shown(found(*rows, whole=times(20, 8)))
    # sparse: 16 bytes for each of 104858 connections, 4 for each offset and bias; dense 4 an entry and bias
    assert [line.rstrip() for line in text.splitlines()[:4]] == [
        "Net, by step",
        "layer             out x in  density  batch  forward   step  bytes  choice",
        "layers.0.linear1  2048x512      0.1    128    3.00x  3.00x  2.48x  sparse",
        "head              2048x512      0.1    4*3    0.50x  0.50x  2.48x   dense",
    ]
    assert all(len(line) <= 80 for line in text.splitlines())
    flat = " ".join(text.split())
    assert "Whole model, forward: 2.50 times as fast, 20.0 ±1.5 ms before, 8.00 ±0.60 ms after." in flat
    assert "Whole model, training step: 2.50 times as fast" in flat


def test_a_long_name_cuts_no_number() -> None:
    row = layer_row(Call(128, 1, measured(1.0, 3.0)), name="encoder.layer.11.intermediate.dense_to_4h")
    lines = shown(found(row)).splitlines()
    assert lines[2].rstrip().endswith("2048x512      0.1    128    3.00x  3.00x  2.48x  sparse")
    assert (lines[2].split()[0] + lines[3].strip()) == row.name
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [(4, 10, "2.50 times as long"), (4, 4.2, "no difference seen"), (10, 4, "2.50 times as fast")],
)
def test_words_for_the_whole_model(before: float, after: float, said: str) -> None:
    text = " ".join(shown(found(layer_row(), whole=times(before, after))).split())
    assert f"Whole model, forward: {said}" in text


def test_other_work_is_told() -> None:
    busy = replace(measured(1.0, 3.0), other_cores=3.5)
    result = found(layer_row(Call(4, 1, busy)))
    assert result.disturbed
    assert "Other programs kept cores busy" in shown(result)
    assert not found(layer_row(Call(4, 1, measured(1.0, 3.0)))).disturbed


def test_preferences_are_those_of_the_documentation() -> None:
    assert profile_model.__doc__ is not None
    assert all(f'"{prefer}"' in profile_model.__doc__ for prefer in PREFER)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"prefer": "time"}, ValueError, "prefer: expected one of 'step', 'forward', 'memory', got 'time'"),
    ({"rounds": 0}, ValueError, "rounds: expected a whole number from 1 up, got 0"),
    ({"threads": -1}, ValueError, "threads: expected a whole number from 1 up, got -1"),
    ({"masks": {"bod.first": torch.eye(3)}}, ValueError, "Did you mean 'body.first'"),
    ({"model": nn.Linear(3, 3)}, ValueError, "a module that holds a Linear"),
    ({"model": nn.ReLU()}, ValueError, "a module that holds a Linear"),
    ({"model": SparseLinear}, TypeError, "model: expected a torch.nn.Module"),
    ({"example_input": torch.randn(3, 11)}, RuntimeError, "shapes cannot be multiplied"),
]


@pytest.mark.parametrize(("options", "kind", "text"), BAD, ids=[text[:25] for *_, text in BAD])
def test_wrong_arguments(
    options: dict[str, Any], kind: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling.compare, "profile", lambda *_, **__: pytest.fail("work began"))
    with pytest.raises(kind, match=text):
        quick(**{"model": Block(), "example_input": torch.randn(3, 12), **options})


def test_models_to_compare_are_models() -> None:
    with pytest.raises(TypeError, match=r"after: expected a torch.nn.Module, got str"):
        compare_models(nn.ReLU(), "model", torch.randn(3))  # type: ignore[arg-type]
