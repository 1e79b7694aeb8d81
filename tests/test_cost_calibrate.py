"""Measuring the machine: the clock is replaced by a made-up machine, whose rates have to be found."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from costs import CHIP, known_rates, times, workload

from sparselinear import SparseLinear, kernels
from sparselinear.kernels import build
from sparselinear.kernels.amx import DENSE_FROM
from sparselinear.profiling.clock import CPU
from sparselinear.profiling.cost import Rates, Workload, calibrate, calibrated, rates
from sparselinear.profiling.cost.terms import DENSE, FORWARD, SPARSE, STEP, terms_of
from sparselinear.profiling.machine import describe

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL_SPARSE = ((64, 64, 64, 1), (500, 400, 20_000, 64), (2000, 1000, 4000, 32))
SMALL_DENSE = ((64, 64, 1), (500, 400, 64))


class OtherWork:
    """Takes the place of the class of that name: other programs keep so many cores busy."""

    busy: float | None = 0.0

    def cores(self) -> float | None:
        return self.busy


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A made-up machine, a few small layers, and the threads it had whenever a layer was timed."""
    asked: list[int] = []

    def clock(*arguments: Any) -> dict[str, float]:
        asked.append(torch.get_num_threads())
        return times(*arguments)

    monkeypatch.setattr(calibrate, "_times", clock)
    monkeypatch.setattr(calibrate, "this_chip", lambda dense_from: CHIP)
    monkeypatch.setattr(calibrate, "OtherWork", OtherWork)
    monkeypatch.setattr(calibrate.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(calibrate, "SPARSE_LAYERS", SMALL_SPARSE)
    monkeypatch.setattr(calibrate, "DENSE_LAYERS", SMALL_DENSE)
    monkeypatch.setattr(OtherWork, "busy", 0.0)
    monkeypatch.setattr(rates, "path_of", lambda kernel, dtype: tmp_path / f"{dtype}.json")
    return asked


def test_measure_finds_the_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the layers that are measured in earnest: they tell every term apart."""
    monkeypatch.setattr(calibrate, "_times", times)
    monkeypatch.setattr(calibrate, "this_chip", lambda dense_from: CHIP)
    monkeypatch.setattr(calibrate, "_TURNS", 2)  # to be quick
    steps: list[tuple[int, int, str, str]] = []
    found = calibrate.measure(torch.float32, lambda *step: steps.append(step))
    known = known_rates(kernel=calibrate.kernels_used(torch.float32))
    assert dataclasses.replace(found, rates={}) == dataclasses.replace(known, rates={})
    for system, kinds in known.rates.items():
        for kind, expected in kinds.items():
            assert found.rates[system][kind] == pytest.approx(expected, rel=1e-4), (system, kind)
    turn = [SPARSE] * len(calibrate.SPARSE_LAYERS) + [DENSE] * len(calibrate.DENSE_LAYERS)
    assert [system for *_, system in steps] == calibrate._TURNS * turn
    total = calibrate._TURNS * len(turn)
    assert [done for done, *_ in steps] == list(range(total))
    assert {step[1:3] for step in steps} == {(total, "measuring this machine, once")}


def test_kept(made_up: list[int]) -> None:
    layers = calibrate._TURNS * (len(SMALL_SPARSE) + len(SMALL_DENSE))
    first = calibrated(torch.float32)
    assert len(made_up) == layers
    assert calibrated(torch.float32) == first
    assert len(made_up) == layers  # nothing was measured
    assert not first.disturbed
    assert calibrated(torch.float32, again=True) == first
    assert calibrated(torch.float64).dtype == "float64"
    assert len(made_up) == 3 * layers


def test_not_kept_if_disturbed(made_up: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = calibrated(torch.float32)
    monkeypatch.setattr(OtherWork, "busy", 3.5)
    assert calibrated(torch.float32) == kept
    assert calibrated(torch.float32, again=True) == dataclasses.replace(kept, disturbed=True)
    assert calibrated(torch.float32) == kept  # the undisturbed ones stay
    assert calibrated(torch.float64).disturbed
    assert os.listdir(tmp_path) == ["torch.float32.json"]
    monkeypatch.setattr(OtherWork, "busy", None)  # a system that does not tell
    assert not calibrated(torch.float64).disturbed


@pytest.mark.usefixtures("made_up")
def test_a_call_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all the time goes to the activations, a call is still not for nothing: rates divide."""

    def clock(_: object, work: Workload, *__: object) -> dict[str, float]:
        taken = work.batch * (work.in_features + work.out_features) * 4e-10
        return {FORWARD: taken, STEP: 2.4 * taken}

    monkeypatch.setattr(calibrate, "_times", clock)
    found = calibrated(torch.float32).rates
    assert {found[system][kind]["call"] for system in found for kind in found[system]} == {1e-6}


@pytest.mark.usefixtures("made_up")
def test_a_burst_of_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes all visits but one of each layer slow: the shortest time counts."""
    expected, visits = calibrated(torch.float32), iter(range(100))

    def clock(*arguments: Any) -> dict[str, float]:
        slow = next(visits) not in (0, 1, 7, 13, 14)  # of five layers in each turn
        return {kind: taken * (10 if slow else 1) for kind, taken in times(*arguments).items()}

    monkeypatch.setattr(calibrate, "_times", clock)
    assert calibrated(torch.float32, again=True) == expected


def test_threads(made_up: list[int]) -> None:
    found = calibrated(torch.float32, threads=2)
    assert set(made_up) == {2}
    assert found.threads == 2
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("made_up")
def test_another_default_device() -> None:
    """Nothing of it reaches the layers that are timed; on meta they could not be made."""
    expected = calibrated(torch.float32)
    with torch.device("meta"):
        assert calibrated(torch.float32, again=True) == expected
        assert calibrated(torch.float32) == expected  # read back


def test_nothing_slows_torch_down_while_it_is_timed(
    monkeypatch: pytest.MonkeyPatch, made_up: list[int]
) -> None:
    """A device that is set for a block makes every function of torch pass through Python."""

    def clock(*arguments: Any) -> dict[str, float]:
        assert torch._C._len_torch_function_stack() == 0
        return times(*arguments)

    monkeypatch.setattr(calibrate, "_times", clock)
    calibrated(torch.float32)
    monkeypatch.undo()
    layer, work = calibrate._sparse(SMALL_SPARSE[0], torch.float32)
    with torch.device("meta"):
        assert min(calibrate._times(layer, work, torch.float32).values()) > 0  # input and gradient on the CPU


def test_interrupted(made_up: list[int], tmp_path: Path) -> None:
    def stop(done: int, *_: object) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrated(torch.float32, progress=stop)
    assert len(made_up) == 2
    assert os.listdir(tmp_path) == []


def test_the_kernels_are_those_that_run() -> None:
    with kernels.use("torch"):
        assert calibrate.kernels_used(torch.float32) == "torch"
        forced = rates.path_of("torch", torch.float32)
    assert forced != rates.path_of(calibrate.kernels_used(torch.float32), torch.float32)


@pytest.mark.parametrize("problem", [None, "no unit"], ids=str)
def test_dense_layers_may_have_a_kernel_of_their_own(
    problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparselinear.kernels.native._problem", lambda sums, index_dtype: None)
    monkeypatch.setattr("sparselinear.kernels.amx._has_unit", lambda index_dtype: problem is None)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert calibrate.kernels_used(dtype) == ("native" if problem else "amx, native")
    assert calibrate.kernels_used(torch.float64) == "native"
    monkeypatch.setattr(calibrate, "_times", times)
    monkeypatch.setattr(calibrate, "SPARSE_LAYERS", SMALL_SPARSE)
    monkeypatch.setattr(calibrate, "DENSE_LAYERS", SMALL_DENSE)
    for dtype, dense_from in DENSE_FROM.items():
        assert calibrate.measure(dtype).chip.dense_from == (None if problem else dense_from)
    with kernels.use("native"):  # which then runs the dense layers too
        assert calibrate.measure(torch.float32).chip.dense_from is None


def test_kernels_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler the batch decides, and both names are told."""

    def refuse(*types: torch.dtype) -> None:
        raise build.BuildError("no C++ compiler was found")

    from sparselinear.kernels import native

    monkeypatch.setattr(build, "load", refuse)
    native._problem.cache_clear()
    try:
        assert calibrate.kernels_used(torch.float32) == "embedding_bag, torch"
        assert calibrate.kernels_used(torch.float64) == "torch"
    finally:
        native._problem.cache_clear()


def test_this_chip() -> None:
    """What csrc sees: the vectors that the compiler uses, and the cache that sysconf tells."""
    found, machine = calibrate.this_chip(0.5), describe(torch.device("cpu"))
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "avx512f" in flags:
        assert found.vector_bytes == 64
    assert found.cache_bytes == {c.name: c.size_bytes for c in machine.caches}.get("L2", 1 << 20)
    assert found.dense_from == 0.5


@pytest.mark.slow
def test_a_real_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers for real: what was measured is predicted again, within the noise of a busy machine."""
    monkeypatch.setattr(calibrate, "SPARSE_LAYERS", (*SMALL_SPARSE, (1000, 1000, 100_000, 64)))
    monkeypatch.setattr(calibrate, "DENSE_LAYERS", (*SMALL_DENSE, (1000, 1000, 64)))
    found: Rates = calibrate.measure(torch.float32)
    assert rates._complete(found)
    shape = (1000, 1000, 100_000, 64)
    layer, work = calibrate._sparse(shape, torch.float32)
    assert isinstance(layer, SparseLinear)
    x = torch.randn(64, 1000)
    with torch.no_grad():
        measured = min(CPU.sample(lambda: layer(x), 5) for _ in range(5))
    predicted = found.seconds(SPARSE, FORWARD, terms_of(SPARSE, FORWARD, work, found.chip))
    assert measured / 5 < predicted < measured * 5
    small = workload(64, 64, 64, 1)
    for system in (SPARSE, DENSE):
        for kind in (FORWARD, STEP):
            few, many = (found.seconds(system, kind, terms_of(system, kind, w, CHIP)) for w in (small, work))
            assert few < many
