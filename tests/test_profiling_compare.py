"""profile(): what is asked, what is tried, what is reported; the caller's things stay as they were."""

from __future__ import annotations

import json
import math
import statistics
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from costs import known_rates
from devices import needs_cuda

from sparselinear import SparseLinear, interop
from sparselinear.profiling import (
    BASELINES,
    Profile,
    clock,
    compare,
    machine,
    memory,
    peak,
    profile,
    rounds,
    timing,
)
from sparselinear.profiling.baselines import OURS, System
from sparselinear.profiling.cost import Workload, predict
from sparselinear.profiling.memory import Peak

ADJACENCY = sp.random_array((40, 30), density=0.1, format="csr", rng=np.random.default_rng(0))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run a sample, and no processes; both have tests of their own."""
    monkeypatch.setattr(clock, "SAMPLE_S", 0.0)
    monkeypatch.setattr(compare, "measure_peak", lambda system, *_: Peak(1000 if system is OURS else 4000))
    monkeypatch.setattr(machine.OtherWork, "cores", lambda self: 0.0)  # whatever else runs here


def quick(layer: Any = ADJACENCY, **options: Any) -> Profile:
    return profile(layer, **{"batch": 4, "rounds": 2, **options})


def test_every_system_is_there_and_measured() -> None:
    found = quick()
    assert [row.name for row in found.rows] == ["sparselinear", *BASELINES]
    assert (found.sizes.out_features, found.sizes.in_features, found.sizes.nnz) == (40, 30, 120)
    assert found.density == pytest.approx(0.1)
    for row in found.rows:
        system = BASELINES.get(row.name, OURS)
        assert row.status == "measured"
        assert row.forward is not None
        assert len(row.forward.samples_s) == 2
        assert (row.step is not None) == system.trains
        assert (row.adam is not None) == (system.trains and not system.adam_refusal)
        assert dict(row.refusals).get("adam", "").startswith(system.adam_refusal)
        assert row.peak is not None


def test_ratios_to_dense() -> None:
    found = quick(baselines=["csr", "dense"])
    ours, dense, csr = found.rows
    assert found.versus_dense(dense) == dict.fromkeys(("forward", "step", "adam", "total", "peak"), 1)
    assert ours.step is not None
    assert dense.step is not None
    ratios = found.versus_dense(ours)
    pairs = zip(dense.step.samples_s, ours.step.samples_s, strict=True)
    assert ratios["step"] == statistics.median(theirs / own for theirs, own in pairs)
    assert ratios["peak"] == 4
    assert ratios["total"] == dense.ledger.total_bytes / ours.ledger.total_bytes
    assert found.versus_dense(csr)["adam"] is None
    assert found.versus_dense(csr)["total"] is None  # it has no Adam state to compare


def test_without_dense_there_are_no_ratios() -> None:
    found = quick(baselines="none", peak=False)
    assert [row.name for row in found.rows] == ["sparselinear"]
    assert set(found.versus_dense(found.rows[0]).values()) == {None}
    assert found.rows[0].peak is None


def test_dictionary_is_json() -> None:
    found = quick(name="a name", batch=3)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["schema"] == 2
    assert (told["name"], told["batch"], told["dtype"], told["device"]) == ("a name", 3, "float32", "cpu")
    assert told["kernel"] == found.kernel
    assert told["machine"]["torch"] == torch.__version__
    ours = told["systems"][0]
    assert ours["step"]["median_s"] == found.rows[0].step.median_s  # type: ignore[union-attr]
    assert ours["ledger"]["total_bytes"] == found.rows[0].ledger.total_bytes
    assert ours["peak"]["peak_bytes"] == 1000
    assert told["systems"][6]["step"] is None
    assert sum(int(count) for line in told["portrait"]["raster"] for count in line.split()) == 120
    measured_at = datetime.fromisoformat(told["measured_at"])
    assert timedelta(0) <= datetime.now().astimezone() - measured_at < timedelta(minutes=1)


def refuse_to_build(layer: SparseLinear) -> Any:
    pytest.fail("was built")


def test_what_cannot_fit_is_never_built(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, system in BASELINES.items():
        if name != "csr":
            kept = {key: getattr(system, key) for key in ("letter", "text", "bytes", "trains")}
            monkeypatch.setitem(BASELINES, name, System(name=name, make=refuse_to_build, **kept))
    million = 1_000_000
    diagonal = sp.dia_array((np.ones((1, million), dtype=np.int8), [0]), shape=(million, million))
    found = quick(diagonal, batch=2, rounds=1, memory_bytes=2 << 30)
    for row in found.rows:
        fits = row.name in ("sparselinear", "csr")
        assert row.status == ("measured" if fits else "too large")
        assert (row.forward is not None) == (row.peak is not None) == fits
        assert fits or row.needed_bytes >= 4 * 10**12
    dense = found.row("dense")
    assert dense is not None
    # weight, gradient and Adam's two moments are there when Adam takes two more for a moment
    assert dense.needed_bytes == pytest.approx(6 * 4 * 10**12, rel=1e-3)
    ratios = found.versus_dense(found.rows[0])
    assert ratios["step"] is None
    assert ratios["total"] == pytest.approx(dense.ledger.total_bytes / found.rows[0].ledger.total_bytes)


def test_our_layer_too_large() -> None:
    with pytest.raises(MemoryError, match=r"the sparse layer itself needs .* training step, 100 "):
        quick(memory_bytes=100)


def test_the_layer_is_left_as_it_was() -> None:
    layer = SparseLinear.from_scipy(ADJACENCY, dtype=torch.float64).eval()
    layer(torch.randn(2, 30, dtype=torch.float64)).sum().backward()
    state = [tensor.clone() for tensor in layer.state_dict().values()]
    grad = layer.values.grad
    assert grad is not None
    kept = grad.clone()
    found = quick(layer, baselines="hook", dtype=torch.float32)
    assert found.dtype == "float32"
    assert layer.values.grad is grad
    assert torch.equal(grad, kept)
    assert all(torch.equal(a, b) for a, b in zip(state, layer.state_dict().values(), strict=True))
    assert not layer.training
    assert layer.values.dtype == torch.float64


def test_values_and_missing_bias_of_a_layer_are_those_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def make(layer: SparseLinear) -> Any:
        seen.append(layer)
        return layer

    monkeypatch.setitem(BASELINES, "dense", System("dense", "a", "", make, BASELINES["dense"].bytes))
    layer = SparseLinear.from_scipy(ADJACENCY, bias=False)
    quick(layer, baselines="dense")
    assert seen[0] is not layer
    assert torch.equal(seen[0].values, layer.values)
    assert seen[0].bias is None
    assert seen[0].pattern is layer.pattern


@pytest.mark.parametrize("fails", [False, True])
def test_threads_are_set_and_set_back(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    before, seen = torch.get_num_threads(), []

    def tell(*_: object) -> None:
        seen.append(torch.get_num_threads())
        if fails:
            raise KeyboardInterrupt

    asked = before + 1
    if fails:
        with pytest.raises(KeyboardInterrupt):
            quick(threads=asked, progress=tell)
    else:
        assert quick(threads=asked, baselines="none", progress=tell).machine.threads == asked
    assert set(seen) == {asked}
    assert torch.get_num_threads() == before


def test_progress_counts_up_to_its_total() -> None:
    told: list[tuple[int, int, str, str]] = []
    quick(baselines="dense", rounds=2, progress=lambda *step: told.append(step))
    assert [done for done, *_ in told] == list(range(8))
    assert {total for _, total, *_ in told} == {8}
    assert told[2][2:] == ("timing", "round 1 of 2, sparselinear")
    assert told[-1][2:] == ("peak memory, a process each", "dense")


def test_nothing_is_measured_on_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the timed input and gradient, nor those of the process that measures the peak."""
    seen: list[torch.Tensor] = []

    class Noting(timing.Subject):
        def warm_up(self) -> None:
            seen.extend((self.x.detach(), self.grad_output, self.layer.values.detach()))
            super().warm_up()

    monkeypatch.setattr(rounds, "Subject", Noting)
    quick(baselines="dense", batch=50)
    assert len(seen) == 6
    train = peak._train

    def noting(system: System, module: Any, x: torch.Tensor, grad_output: torch.Tensor) -> None:
        seen.extend((x.detach(), grad_output))
        train(system, module, x, grad_output)

    monkeypatch.setattr(peak, "_train", noting)
    layer = SparseLinear.from_scipy(ADJACENCY)
    job = {"system": "sparselinear", "kernel": "torch", "out_features": 40, "in_features": 30, "batch": 50}
    with memory.saved(layer) as path:
        peak.measure({**job, "layer": path, "dtype": "float32", "device": "cpu", "threads": 1})
    assert len(seen) == 10
    for tensor in seen:
        assert torch.count_nonzero(tensor) == tensor.numel()
    large = [tensor for tensor in seen if tensor.numel() >= 1000 and tensor.dim() == 2]
    assert len(large) == 6
    for tensor in large:
        assert tensor.std().item() == pytest.approx(1, abs=0.1)


def test_what_fits_is_known_before_anything_is_built() -> None:
    pattern = interop.to_pattern(ADJACENCY)
    compare.check_fits(pattern, 4, torch.float32, torch.device("cpu"))
    with pytest.raises(MemoryError, match=r"the sparse layer itself needs [\d,]{20,} bytes"):
        compare.check_fits(pattern, 10**15, torch.float32, torch.device("cpu"))


def test_no_connections() -> None:
    found = quick(sp.csr_array((5, 4)))
    assert all(row.status == "measured" for row in found.rows)


def test_bfloat16_is_refused_by_csr_alone() -> None:
    found = quick(dtype=torch.bfloat16)
    assert [row.name for row in found.rows if row.status == "refused"] == ["csr"]
    csr = found.row("csr")
    assert csr is not None
    assert csr.peak is None
    assert "not implemented for 'BFloat16'" in dict(csr.refusals)["forward"]


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"batch": 0}, ValueError, "batch: expected a whole number from 1 up, got 0"),
    ({"batch": -3}, ValueError, "batch: expected a whole number from 1 up, got -3"),
    ({"batch": 1.5}, TypeError, "batch: expected a whole number from 1 up, got 1.5"),
    ({"batch": True}, ValueError, "batch: expected a whole number from 1 up, got True"),
    ({"rounds": 0}, ValueError, "rounds: expected a whole number from 1 up, got 0"),
    ({"threads": 0}, ValueError, "threads: expected a whole number from 1 up, got 0"),
    ({"memory_bytes": 0}, ValueError, "memory_bytes: expected a whole number from 1 up, got 0"),
    ({"dtype": torch.int32}, ValueError, "dtype: expected one of .*got torch.int32"),
    ({"dtype": "float32"}, TypeError, "dtype: expected a torch.dtype"),
    ({"device": "cuda:99"}, RuntimeError, "device: expected a device of this machine, got 'cuda:99'"),
    ({"baselines": "dense,csx"}, ValueError, "got 'csx'. Did you mean 'csr'"),
    ({"baselines": ["dens"]}, ValueError, "got 'dens'. Did you mean 'dense'"),
    ({"device": "meta", "rates": known_rates()}, ValueError, "rates: expected None off the CPU, got rates"),
    ({"layer": "dense"}, TypeError, "adjacency: expected"),
    ({"layer": sp.csr_array((0, 4))}, ValueError, "at least one output and one input, got 0 outputs and 4"),
    ({"layer": np.full((2, 2), math.nan)}, ValueError, "NaN"),
]


@pytest.mark.parametrize(("options", "kind", "text"), BAD, ids=[text[:20] for *_, text in BAD])
def test_wrong_arguments(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    def never(*_: object) -> None:
        pytest.fail("work began")

    with pytest.raises(kind, match=text):
        quick(**{"layer": ADJACENCY, "progress": never, **options})


def test_rates_add_predictions() -> None:
    pattern = interop.to_pattern(sp.random_array((30, 20), density=0.2, rng=np.random.default_rng(0)))
    rates = known_rates()
    found = profile(pattern, batch=4, rounds=1, baselines="none", peak=False, rates=rates, name="a")
    assert found.predicted is not None
    expected = predict(Workload.of(pattern, 4, torch.float32), rates)
    assert found.predicted.sparse == expected["sparselinear"]
    assert found.to_dict()["predicted"]["predicted"]["dense"] == expected["dense"].to_dict()
    assert {place.product for place in found.roofline} <= {"forward", "backward"}
    assert found.roofs is not None
    assert profile(pattern, batch=4, rounds=1, baselines="none", peak=False).predicted is None


@needs_cuda
def test_on_cuda() -> None:
    adjacency = sp.random_array((4000, 3000), density=0.01, format="csr", rng=np.random.default_rng(0))
    found = profile(adjacency, device="cuda", batch=32, rounds=2, baselines="dense", peak=False)
    assert found.device == "cuda:0"
    assert found.machine.gpu is not None
    assert found.machine.gpu.memory_bytes >= found.limit_bytes > 0
    for row in found.rows:
        assert row.forward is not None
        assert row.step is not None
        assert 0 < row.forward.median_s < row.step.median_s
    assert found.roofs is not None
    assert found.roofs.bytes_s > 1e10
