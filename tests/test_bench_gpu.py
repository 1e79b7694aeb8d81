"""The benchmark of GPUs, tried on the CPU: its numbers fit each other, and its clock leaves launches out."""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

from bench.gpu import __main__ as command
from bench.gpu import correctness, measure, sides
from bench.gpu.breakeven import bisect
from bench.gpu.cases import activations, layer_on, square
from bench.gpu.measure import DeviceClock, Setting, compare
from bench.gpu.steps import Steps
from bench.gpu.table import SKIPPED
from sparselinear.profiling import clock

CPU = torch.device("cpu")
QUICK = ["--device", "cpu", "--quick", "--rounds", "2"]


@pytest.fixture(autouse=True)
def _short(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run a sample."""
    monkeypatch.setattr(clock, "SAMPLE_S", 0.0)


def results(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("gpu-*.json")
    return json.loads(path.read_text())


def test_a_whole_run_and_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*QUICK, "--out", str(tmp_path)]) == 0
    found = results(tmp_path)
    assert found["complete"]
    assert [bar["met"] for bar in found["bars"]] == [None] * len(found["bars"])  # small shapes say nothing
    compared = 0
    for table in ("steps", "bandwidth", "published", "rule", "peers"):
        for row in (row for row in found[table] if SKIPPED not in row):
            compared += check_ratios(row)
    assert compared > 50
    check_means(found)
    for row in found["bandwidth"]:
        median = row["timings"]["ours"]["loop"]["forward"]["median_s"]
        assert row["shares"]["ours"] == pytest.approx(row["moved_bytes"] / row["copy_bytes_s"] / median)
    for row in found["memory"]:
        assert row["predicted_over_peak"] == pytest.approx(row["predicted_bytes"] / row["peak_bytes"])
    for row in found["published"]:
        assert row["published_over_step"] == pytest.approx(623e6 / row["step_bytes"])
    errors = [worst for row in found["correctness"] for worst in row["errors"].values()]
    assert all(0 < max(worst.values()) < 1 for worst in errors)
    absent = [row for row in found["steps"] if SKIPPED in row]
    assert {row[SKIPPED] for row in absent} == {"not in the folder of --data"}
    page = (tmp_path / "gpu.md").read_text()
    assert page.count("\n## ") == 1 + len(command.TABLES)
    assert "not come to its end" not in page
    assert (tmp_path / "gpu.svg").exists()
    assert "Training steps against torch.sparse" in capsys.readouterr().out


def check_ratios(row: dict[str, Any]) -> int:
    """Each ratio is the quotient of two medians, and each median that of its samples."""
    ours, checked = row["timings"][row["reference"]], 0
    for side, clocks in row["timings"].items():
        for name, kinds in clocks.items():
            for kind, timing in kinds.items():
                assert timing["median_s"] == statistics.median(timing["samples_s"]) > 0
                expected = timing["median_s"] / ours[name][kind]["median_s"]
                assert row["ratios"][side][name][kind] == pytest.approx(expected)
                checked += 1
    return checked


def check_means(found: dict[str, Any]) -> None:
    """Of the first line of the summary: our choice, float32."""
    means, *_ = found["steps summary"]
    assert (means["ours"], means["dtype"], means["clock"], means["cells"]) == ("ours", "float32", "loop", 2)
    steps = [row for row in found["steps"] if row.get("dtype") == "float32"]
    ratios = [row["ratios"]["csr"]["loop"]["step"] for row in steps]
    assert means["step, mean"] == pytest.approx(math.sqrt(math.prod(ratios)))
    assert means["step, least"] == pytest.approx(min(ratios))


def test_a_spent_budget_is_told(tmp_path: Path) -> None:
    assert command.main([*QUICK, "--budget", "1e-9", "--tables", "steps", "--out", str(tmp_path)]) == 0
    found = results(tmp_path)
    assert {row[SKIPPED] for row in found["steps"]} == {"over the budget"}
    assert "over the budget" in (tmp_path / "gpu.md").read_text()


def test_a_dry_run_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--dry-run"]) == 0
    told = capsys.readouterr().out
    for cell in (
        "4,096 squared, 0.05, batch 1024, bfloat16",
        "16,384 squared, 0.01, batch 64, float32",
        "flyvis optic lobe, batch 64, float32",
        "127,978 squared, 2,600,000, batch 128, float32",
        "768 to 670,091, fan-in 32, batch 64, bfloat16",
        "1,000,000 squared, 50,000,000, batch 8, float32",
    ):
        assert cell in told


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 2
    assert "expected a CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--tables", "steps,walks"],
        ["--rounds", "0"],
        ["--budget", "0"],
        ["--data", "tests"],
        ["--data", "none"],
    ],
)
def test_wrong_options(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(wrong)
    assert ended.value.code == 2


def test_missed_bars_end_with_status_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = {"cell": "a, float32", "dtype": "float32", "kernel": "k", "timings": {}}
    ratios = [{"csr": {"loop": {"step": value}}} for value in (9.0, 0.5)]
    rows = [{**row, "ratios": found} for found in ratios]
    mean, each, *_ = Steps().judge(rows)
    assert mean.found == pytest.approx(math.sqrt(4.5))
    assert (mean.met, each.met, each.found, len(each.misses)) == (False, False, 0.5, 1)
    half_done = Steps().judge([rows[0], {"cell": "b, float32", SKIPPED: "over the budget"}])
    assert [verdict.met for verdict in half_done[:2]] == [None, None]
    monkeypatch.setattr(Steps, "rows", lambda self, setting: iter(rows))
    options = ["--device", "cpu", "--tables", "steps"]
    assert command.main([*options, "--out", str(tmp_path)]) == 1


def test_a_side_that_is_wrong_or_fails_is_not_timed() -> None:
    layer = layer_on(square(20, 0.2).make(), torch.float32)
    pair = activations(layer, 3)

    class Wrong(sides.Ours):
        def output(self) -> Tensor:
            return super().output() * 1.01

    def fails() -> sides.Ours:
        raise ImportError("not installed")

    makers = {"ours": lambda: sides.Ours(layer, *pair), "wrong": lambda: Wrong(layer, *pair), "absent": fails}
    timed = compare(makers, Setting(CPU, rounds=1))
    assert set(timed.timings) == {"ours"}
    assert timed.refusals["wrong"].startswith("wrong: Y differs from ours by 0.01")
    assert timed.refusals["absent"] == "ImportError: not installed"
    # Others are not compared with each other then: the gradients of these two are sparse tensors.
    rivals = {name: lambda: sides.TorchSparse(layer, *pair, torch.sparse_coo) for name in ("coo", "again")}
    with pytest.raises(RuntimeError, match="ours: ImportError: not installed"):
        compare({"ours": fails} | rivals, Setting(CPU, rounds=1))


def test_a_cell_that_fails_ends_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sides.Ours, "output", lambda self: self.x[:, :0].sum(0) @ self.weight)
    assert command.main([*QUICK, "--tables", "peers"]) == 1
    assert "96 squared, 0.05, batch 8, float32: failed, RuntimeError: ours" in capsys.readouterr().err


def test_sides_agree_with_the_dense_gradient() -> None:
    layer = layer_on(square(20, 0.2).make(), torch.float32)
    x, grad_output = activations(layer, 3)
    expected = layer.pattern.values_at(grad_output.t() @ x)
    made = sides.ours(layer, x, grad_output, ("torch",)) | sides.csr(layer, x, grad_output)
    made |= {
        "coo": sides.others(layer, x, grad_output)["coo"],
        "dense": lambda: sides.Dense(layer, x, grad_output),
    }
    for make in made.values():
        peer = make()
        y, grad_input, grad_values = peer.step()
        torch.testing.assert_close(y.detach(), x @ layer.to_dense().t())
        torch.testing.assert_close(grad_input, grad_output @ layer.to_dense())
        torch.testing.assert_close(peer.in_csr_order(grad_values), expected)


def test_the_oracle_is_dense_autograd() -> None:
    rng = np.random.default_rng(0)
    matrix = sp.random_array((7, 5), density=0.4, format="csr", rng=rng)
    x, grad_output = rng.standard_normal((3, 5)), rng.standard_normal((3, 7))
    y, grad_input, grad_values = correctness.step(sp.csr_array(matrix), x, grad_output)
    dense = matrix.toarray()
    np.testing.assert_allclose(y, x @ dense.T)
    np.testing.assert_allclose(grad_input, grad_output @ dense)
    rows = np.repeat(np.arange(7), np.diff(matrix.indptr))
    np.testing.assert_allclose(grad_values, (grad_output.T @ x)[rows, matrix.indices])
    assert correctness._worst(np.array([1.0, np.nan]), np.ones(2), np.ones(2), torch.float32) == math.inf
    off = 1 + 16 * torch.finfo(torch.float32).eps
    assert correctness._worst(np.array([off]), np.ones(1), np.ones(1), torch.float32) == pytest.approx(0.5)


@pytest.mark.parametrize(("true", "found"), [(0.0, None), (0.1, 0.1), (0.15, 0.1), (0.2, 0.2), (0.9, 0.4)])
def test_bisection(true: float, found: float | None) -> None:
    asked: list[float] = []
    assert bisect((0.1, 0.2, 0.3, 0.4), lambda d: asked.append(d) or d <= true) == found
    assert len(asked) <= 3


class Gpu:
    """A GPU and its host on one time line: a launch takes the host a while, and the device later."""

    def __init__(self) -> None:
        self.host_s = self.free_s = 0.0

    def launch(self, host_s: float, device_s: float) -> None:
        self.host_s += host_s
        self.free_s = max(self.free_s, self.host_s) + device_s

    def synchronize(self) -> None:
        self.host_s = max(self.host_s, self.free_s)

    def event(self, enable_timing: bool) -> Event:
        return Event(self)


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def record(self) -> None:
        self.at_s = max(self.gpu.host_s, self.gpu.free_s)

    def synchronize(self) -> None:
        self.gpu.synchronize()

    def elapsed_time(self, end: Event) -> float:
        return (end.at_s - self.at_s) * 1e3


def test_the_clock_of_the_device_leaves_launches_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 ms to launch and 0.2 ms to run: in a loop it takes 1 ms, on the device 0.2."""
    gpu, cuda = Gpu(), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "synchronize", gpu.synchronize)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(time, "perf_counter", lambda: gpu.host_s)
    monkeypatch.setattr(DeviceClock, "_flush", lambda self: gpu.launch(0.0, 0.06e-3))
    monkeypatch.setattr(DeviceClock, "_new_buffer", lambda self: torch.empty(0))

    def run() -> None:
        gpu.launch(0.5e-3, 0.1e-3)
        gpu.launch(0.5e-3, 0.1e-3)

    found = DeviceClock(cuda)
    assert clock.CudaClock(cuda).sample(run, 10) == pytest.approx(1e-3, rel=0.05)
    assert found.sample(run, 10) == pytest.approx(0.2e-3)
    assert 3 <= found.enough_repeats(run) <= measure._MOST_RUNS
