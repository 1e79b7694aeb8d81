"""Advice on made-up machines: where sparse and dense meet is known there in closed form."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
import scipy.sparse as sp
import torch
from costs import CHIP, NO_UNIT, known_rates, only, workload
from rich.console import Console

from sparselinear import SparseLinear, interop
from sparselinear.profiling import BASELINES, Sizes
from sparselinear.profiling.baselines import OURS
from sparselinear.profiling.cost import Advice, Rates, Workload, advice, advise, predict, render_advice
from sparselinear.profiling.cost.advice import BATCHES, break_even_density, conclude
from sparselinear.profiling.cost.terms import DENSE, SPARSE, tiles_from
from sparselinear.topology import random_pattern

CONNECTION, MULTIPLY = 4e-9, 2e-11
# A step at batch 64 has a panel in forward and one in backward: 2 nnz connections against 64 multiplications
# a cell.
LINE = only(sparse_connection=CONNECTION, dense_multiply=MULTIPLY)
CROSSING = 64 * MULTIPLY / (2 * CONNECTION)


def about(rates: Rates, nnz: int = 10_000, batch: int = 64) -> Advice:
    return conclude(workload(1000, 500, nnz, batch), rates, "A layer")


def test_predictions_are_times_and_bytes() -> None:
    work = workload(1000, 500, 10_000, 64)
    found = predict(work, LINE)
    assert found[SPARSE].forward_s == pytest.approx(10_000 * CONNECTION)
    assert found[SPARSE].step_s == pytest.approx(20_000 * CONNECTION)
    assert found[DENSE].forward_s == found[DENSE].step_s == pytest.approx(64 * 500_000 * MULTIPLY)
    sizes = Sizes(1000, 500, 10_000, True, 4, 4, 64)
    assert found[SPARSE].total_bytes == OURS.bytes(sizes).total_bytes
    assert found[DENSE].total_bytes == BASELINES["dense"].bytes(sizes).total_bytes
    for prediction in found.values():
        assert prediction.needed_bytes > prediction.total_bytes
    assert found[SPARSE].to_dict().keys() == {"forward_s", "step_s", "total_bytes", "needed_bytes"}


def test_break_even_is_where_the_lines_meet() -> None:
    assert break_even_density(workload(1000, 500, 1, 64), LINE) == pytest.approx(CROSSING, rel=1e-12)
    with_calls = only(sparse_connection=CONNECTION, sparse_call=1e-4, dense_multiply=MULTIPLY)
    expected = (64 * 500_000 * MULTIPLY - 1e-4) / (2 * CONNECTION * 500_000)
    assert break_even_density(workload(1000, 500, 1, 64), with_calls) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(1000, 500, 64), (70_000, 300, 32), (300, 90_000, 1)])
def test_break_even_is_even(shape: tuple[int, int, int]) -> None:
    """With every term at work: just below it sparse is the faster one, just above it dense."""
    outputs, inputs, batch = shape
    work, rates = workload(outputs, inputs, 1, batch), known_rates(chip=NO_UNIT)
    at = break_even_density(work, rates)
    assert at is not None
    assert 0 < at < 1
    below, above = (conclude(work.at_density(at * factor), rates, "").ratio for factor in (0.98, 1.02))
    assert above < 1 < below


@pytest.mark.parametrize(
    ("tile_connection", "expected"),
    [(0.9, 1.0), (1.25, 0.8), (4.0, 0.3)],
    ids=["tiles are always faster", "up to a density", "never"],
)
def test_break_even_where_dense_layers_run_on_tiles(tile_connection: float, expected: float) -> None:
    """1000 x 1000, batch 256: tiles from a density of 0.361 on; by connections the two are even at 0.3."""
    work = workload(1000, 1000, 1, 256)
    assert tiles_from(work, CHIP) == pytest.approx(0.36094, abs=1e-5)
    full = 256 * 1e6 * MULTIPLY / 1e6  # seconds a connection, if all connections took as long as dense
    by_connections = full / 0.3 / (2 * 4)  # counted in both directions, for each of 4 panels
    rates = only(
        sparse_connection=by_connections,
        sparse_tile_connection=tile_connection * full / 3,  # of three products
        dense_multiply=MULTIPLY,
    )
    found = break_even_density(work, replace(rates, chip=CHIP))
    assert found == pytest.approx(expected, rel=1e-3)


def test_no_break_even() -> None:
    work = workload(1000, 500, 1, 64)
    assert break_even_density(work, only(sparse_connection=1e-12, dense_multiply=MULTIPLY)) == 1.0
    assert break_even_density(work, only(sparse_call=1.0, dense_multiply=MULTIPLY)) is None
    # They meet, but below a single connection.
    assert break_even_density(work, only(sparse_connection=1.0, dense_multiply=MULTIPLY)) is None
    # The same time whatever the connections: sparse is never the faster one.
    assert break_even_density(work, only(sparse_call=1e-3, dense_call=1e-3)) is None


def test_what_is_faster() -> None:
    below, above = (about(LINE, nnz=int(factor * CROSSING * 500_000)) for factor in (0.5, 2))
    assert (below.faster, above.faster) == ("sparselinear", "dense")
    assert below.ratio == pytest.approx(2, rel=1e-3)
    assert above.ratio == pytest.approx(0.5, rel=1e-3)
    assert below.break_even_density == above.break_even_density == pytest.approx(CROSSING)
    assert not below.disturbed


def test_batches() -> None:
    """Dense grows with the batch, sparse here takes as long as at 64: 64 and up, unless it is even there."""
    rates = only(sparse_call=63.5 * 500_000 * MULTIPLY, dense_multiply=MULTIPLY)
    found = about(rates)
    assert found.sparse_batches == tuple(2**k for k in range(6, 17))
    assert found.text.endswith("SparseLinear should be the faster one at batches 64 and up.")
    assert found.faster == "sparselinear"
    assert about(rates, batch=63).faster == "dense"


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ((1, 2, 4, 8), "1 to 8"),
        ((1,), "1"),
        ((2, 4, 64), "2 to 4, 64"),
        ((1, 2048, 4096, 8192), "1, 2,048 to 8,192"),
        ((1, 32_768, 65_536), "1, 32,768 and up"),
        ((65_536,), "65,536 and up"),
    ],
)
def test_words_of_batches(batches: tuple[int, ...], words: str) -> None:
    assert advice._ranges(batches) == words
    assert set(batches) <= set(BATCHES)


def test_sentences() -> None:
    found = about(LINE)
    assert found.text == (
        "Use SparseLinear: a training step should take 1/8 of the time of nn.Linear (0.080 ms against "
        "0.640 ms) and 1/27 of its memory (302 kB against 8.02 MB). At batch 64 the two should be even at a "
        "density of 16 %; here it is 2 %. At this density SparseLinear should be the faster one at batches "
        "16 and up."
    )
    dense = about(LINE, nnz=400_000).text
    assert dense.startswith("Use nn.Linear: a training step should take 1/5 of the time of SparseLinear ")
    assert "%; here it is 80 %." in dense
    slow = about(only(sparse_call=10.0, dense_multiply=MULTIPLY)).text
    assert "At batch 64 nn.Linear should be the faster one at every density." in slow
    assert "At this density nn.Linear should be the faster one at every batch up to 65,536." in slow
    fast = about(only(sparse_call=1e-4, dense_call=1.0)).text
    assert "At batch 64 SparseLinear should be the faster one at every density." in fast
    assert "At this density SparseLinear should be the faster one at every batch up to 65,536." in fast


def test_small_densities_are_told() -> None:
    rates = only(sparse_connection=1e-6, dense_multiply=MULTIPLY)
    text = conclude(workload(100_000, 50_000, 123_456, 64), rates, "").text  # panels: two and one
    assert "even at a density of 0.0427 %; here it is 0.00247 %." in text


@pytest.mark.parametrize(
    ("factor", "close"), [(0.8, False), (0.85, True), (1.0, True), (1.19, True), (1.21, False)]
)
def test_close_calls(factor: float, close: bool) -> None:
    found = about(LINE, nnz=round(factor * CROSSING * 500_000))
    assert found.text.startswith("Time does not decide: predicted steps of 0.") is close
    if close:
        assert "are too close. SparseLinear takes 1/" in found.text
        assert "of the other's memory." in found.text


def test_close_and_nearly_full() -> None:
    """Indices beside the values: above a quarter or so dense is the smaller one."""
    found = about(only(sparse_call=1e-3, dense_call=1e-3), nnz=500_000)
    assert "nn.Linear takes 57 % of the other's memory." in found.text


def test_to_dict_is_json() -> None:
    found = about(known_rates(disturbed=True))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told == {
        "name": "A layer", "out_features": 1000, "in_features": 500, "nnz": 10_000, "density": 0.02,
        "batch": 64, "dtype": "float32", "threads": 1, "kernel": "native",
        "predicted": {"sparselinear": found.sparse.to_dict(), "dense": found.dense.to_dict()},
        "faster": found.faster, "break_even_density": found.break_even_density, "disturbed": True,
        "sparse_batches": list(found.sparse_batches), "text": found.text,
    }  # fmt: skip
    never = about(only(sparse_call=9.0, dense_call=1.0)).to_dict()
    assert json.loads(json.dumps(never))["break_even_density"] is None


FORMS = {
    "pattern": lambda pattern: pattern,
    "scipy": lambda pattern: interop.to_scipy(pattern, torch.ones(pattern.nnz)),
    "layer": lambda pattern: SparseLinear(pattern.in_features, pattern.out_features, pattern, device="cpu"),
    "dense": lambda pattern: pattern.dense_tensor(torch.ones(pattern.nnz)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_adjacency(form: str) -> None:
    pattern = random_pattern((40, 30), 200, 0)
    work, rates = Workload.of(pattern, 7, torch.float32), known_rates()
    found = advise(FORMS[form](pattern), batch=7, rates=rates)
    assert found.to_dict() == conclude(work, rates, "40 x 30").to_dict()
    assert advise(pattern, rates=rates, name="A.npz").name == "A.npz"
    assert advise(pattern, rates=rates).work.batch == 256


def test_nothing_is_transposed() -> None:
    pattern = random_pattern((40, 30), 200, 0)
    advise(pattern, rates=known_rates())
    assert pattern._transpose is None


def test_another_default_device() -> None:
    rates = known_rates()
    with torch.device("meta"):
        found = advise(sp.eye_array(5, format="csr"), rates=rates)
    assert found.work.nnz == 5


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What advise asks calibrated for, which answers at once."""
    found: list[dict[str, Any]] = []

    def calibrated(dtype: torch.dtype, **options: Any) -> Rates:
        found.append({"dtype": dtype, **options})
        return known_rates(dtype=str(dtype).removeprefix("torch."), threads=options["threads"] or 1)

    monkeypatch.setattr(advice, "calibrated", calibrated)
    return found


def test_what_is_asked_of_the_machine(asked: list[dict[str, Any]]) -> None:
    pattern = random_pattern((40, 30), 200, 0)
    assert advise(pattern).dtype == "float32"
    assert advise(FORMS["layer"](pattern).double()).work.itemsize == 8
    found = advise(FORMS["layer"](pattern), dtype=torch.bfloat16, threads=3, again=True, progress=print)
    assert (found.dtype, found.threads, found.work.itemsize) == ("bfloat16", 3, 2)
    nothing = {"threads": None, "again": False, "progress": None}
    assert asked == [
        {"dtype": torch.float32, **nothing},
        {"dtype": torch.float64, **nothing},
        {"dtype": torch.bfloat16, "threads": 3, "again": True, "progress": print},
    ]


def test_rates_bring_their_dtype(asked: list[dict[str, Any]]) -> None:
    rates = known_rates(dtype="float64", threads=4)
    pattern = random_pattern((40, 30), 200, 0)
    assert advise(pattern, rates=rates).work.itemsize == 8
    assert advise(pattern, rates=rates, dtype=torch.float64, threads=4).threads == 4
    assert asked == []


WRONG = [
    ({"batch": 0}, ValueError, "batch: expected a whole number from 1 up, got 0."),
    ({"batch": 2.5}, TypeError, "batch: expected a whole number from 1 up, got 2.5."),
    ({"batch": True}, ValueError, "batch: expected a whole number from 1 up, got True."),
    ({"threads": -1}, ValueError, "threads: expected a whole number from 1 up, got -1."),
    ({"dtype": torch.int8}, ValueError, "dtype: expected one of torch.float32"),
    ({"dtype": "float32"}, TypeError, "dtype: expected a torch.dtype, got 'float32' (str)."),
    (
        {"rates": known_rates(), "dtype": torch.float64},
        ValueError,
        "dtype: expected torch.float32, which the rates are for, got torch.float64.",
    ),
    (
        {"rates": known_rates(), "threads": 2},
        ValueError,
        "threads: expected 1, which the rates are for, got 2.",
    ),
    (
        {"adjacency": sp.csr_array((0, 4))},
        ValueError,
        "adjacency: expected at least one output and one input, got 0 outputs and 4 inputs.",
    ),
    ({"adjacency": "A.npz"}, TypeError, "adjacency: expected a scipy.sparse matrix"),
    (
        {"adjacency": SparseLinear(3, 3, torch.eye(3), device="meta")},
        RuntimeError,
        "adjacency: expected one on the CPU, got one on meta. Predictions exist for CPUs; "
        "sparselinear.profiling.profile measures.",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "text"), WRONG, ids=[text[:40] for *_, text in WRONG])
def test_wrong_arguments(
    arguments: dict[str, Any], error: type[Exception], text: str, asked: list[dict[str, Any]]
) -> None:
    with pytest.raises(error) as caught:
        advise(**{"adjacency": torch.eye(3), **arguments})
    assert str(caught.value).startswith(text)
    assert asked == []


def rendered(found: Advice) -> str:
    console = Console(file=io.StringIO(), width=100, highlight=False)
    render_advice(found, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_rendered() -> None:
    lines = rendered(about(LINE)).splitlines()
    assert lines[:3] == [
        "A layer",
        "1,000 outputs x 500 inputs, nnz 10,000, density 0.02",
        "batch 64, float32, 1 thread, kernel native",
    ]
    assert " ".join(lines[4:-1]).split() == about(LINE).text.split()
    assert lines[-1] == "Predicted, not measured: sparselinear profile measures."


def test_rendered_when_disturbed(capsys: pytest.CaptureFixture[str]) -> None:
    found = conclude(workload(10, 10, 5, 1), known_rates(disturbed=True, threads=2), "[bold] is no markup")
    text = rendered(found)
    assert text.startswith("[bold] is no markup\n")
    assert "batch 1, float32, 2 threads, kernel native\n" in text
    end = "Other programs were busy while this machine was measured: it will be measured again.\n"
    assert text.endswith(end)
    render_advice(found)
    assert capsys.readouterr().out.split() == text.split()
