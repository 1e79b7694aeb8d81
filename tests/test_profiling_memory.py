"""Peak memory in a process of its own, against the bytes that are known to be there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import scipy.sparse as sp
import torch
from devices import needs_cuda

from sparselinear import SparseLinear, kernels
from sparselinear.profiling import BASELINES, Sizes, memory, peak
from sparselinear.profiling.baselines import OURS
from sparselinear.profiling.ledger import needed_bytes

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the mark is set back on Linux alone")
BATCH = 8


pytestmark = pytest.mark.usefixtures("one_thread")


def layer_of(size: int, per_row: int) -> SparseLinear:
    """size x size, per_row connections in a row, at equal distances."""
    rows = torch.arange(size).repeat_interleave(per_row)
    columns = (rows + torch.arange(per_row).repeat(size) * (size // per_row)) % size
    return SparseLinear.from_scipy(sp.coo_array(([1.0] * len(rows), (rows, columns)), shape=(size, size)))


@LINUX
@pytest.mark.parametrize(
    ("name", "size", "per_row"),
    [
        pytest.param("sparselinear", 20_000, 40, id="sparselinear"),
        pytest.param("prune", 1_500, 4, id="prune, which keeps most"),
        pytest.param("coo", 3_000, 4, id="coo, whose backward is dense"),
    ],
)
def test_peak_is_what_the_ledger_says(name: str, size: int, per_row: int) -> None:
    layer = layer_of(size, per_row)
    system = BASELINES.get(name, OURS)
    with memory.saved(layer) as path:
        found = memory.measure_peak(system, layer, path, BATCH)
    assert not Path(path).exists()
    assert found.exact, found.reason
    assert found.peak_bytes is not None, found.reason
    sizes = Sizes.of(layer, BATCH)
    ledger = system.bytes(sizes)
    # What is kept is there for certain; the rest is an estimate, and small things are left out of it.
    assert found.peak_bytes >= 0.98 * ledger.total_bytes
    assert found.peak_bytes == pytest.approx(needed_bytes(ledger, sizes), rel=0.15, abs=4e6)


@LINUX
@pytest.mark.slow
@pytest.mark.skipif(bool(kernels.available()["native"]), reason="the transients are of the native kernel")
@pytest.mark.parametrize(
    ("dtype", "batch"),
    [
        (torch.float32, 4),
        (torch.float32, 64),
        (torch.float32, 128),
        (torch.float64, 64),
        (torch.bfloat16, 4),
        (torch.float16, 64),
    ],
    ids=str,
)
def test_peak_of_a_large_layer_is_what_the_ledger_says(dtype: torch.dtype, batch: int) -> None:
    """160 to 350 MB of layer with Adam; and for batch 128 another 205 MB of activations."""
    layer = layer_of(200_000, 40).to(dtype)
    with memory.saved(layer) as path, kernels.use("native"):
        found = memory.measure_peak(OURS, layer, path, batch)
    assert found.exact, found.reason
    sizes = Sizes.of(layer, batch)
    assert found.peak_bytes == pytest.approx(needed_bytes(OURS.bytes(sizes), sizes), rel=0.05)


@needs_cuda
def test_peak_on_cuda_is_what_the_ledger_says() -> None:
    """8 million connections, some 220 MB with Adam."""
    layer = layer_of(20_000, 400).to("cuda")
    with memory.saved(layer) as path:
        found = memory.measure_peak(OURS, layer, path, BATCH)
    assert found.peak_bytes is not None, found.reason
    assert found.exact
    sizes = Sizes.of(layer, BATCH)
    ledger = OURS.bytes(sizes)
    assert 0.99 * ledger.total_bytes <= found.peak_bytes <= 1.05 * needed_bytes(ledger, sizes)


def test_a_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(10, 2)
    found = memory.measure_peak(OURS, layer, "no such file", BATCH)
    assert found.peak_bytes is None
    assert "No such file" in found.reason
    monkeypatch.setattr(sys, "executable", "no such program")
    assert "no process could be started" in memory.measure_peak(OURS, layer, "", BATCH).reason


def test_failure_texts() -> None:
    assert "no memory left" in memory._failure(-9, "")
    assert memory._failure(3, "\n") == "the process ended with code 3"
    assert memory._failure(1, "Traceback\n  ...\nValueError: x\n") == "ValueError: x"


def test_windows_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = memory.measure_peak(OURS, layer_of(10, 2), "", BATCH)
    assert found.reason == f"not measured on {sys.platform}"


def test_mark_that_cannot_be_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    meter = peak.Meter(torch.device("cpu"))
    monkeypatch.setattr(Path, "write_text", refuse)
    meter.restart()
    assert not meter.exact


def test_on_cuda_the_allocator_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    allocated = {"now": 100, "peak": 900}
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: allocated["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: allocated.update(peak=300))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    meter = peak.Meter(torch.device("cuda"))
    meter.restart()  # the 900 were those of building
    assert (meter.peak(), meter.exact) == (200, True)


def test_highest_is_in_bytes() -> None:
    mark = peak.resident_bytes("VmHWM")
    assert peak._highest() > 50e6
    assert mark is None or mark == pytest.approx(peak._highest(), rel=0.5)


@pytest.mark.parametrize("name", ["sparselinear", "csr", "prune-removed"])
def test_job_runs_in_this_process_too(name: str) -> None:
    layer = layer_of(50, 3)
    threads = torch.get_num_threads()
    with memory.saved(layer) as path:
        answer = peak.measure(
            {
                "system": name,
                "kernel": "torch",
                "layer": path,
                "out_features": 50,
                "in_features": 50,
                "batch": 4,
                "dtype": "float32",
                "device": "cpu",
                "threads": threads,
            }
        )
    assert answer["peak_bytes"] >= 0


# In processes of their own, where the allocator gives back what is freed.
METER = """
import torch
from sparselinear.profiling import peak

meter = peak.Meter(torch.device("cpu"))
gone = torch.ones(40_000_000)
del gone
meter.restart()
kept = torch.ones(25_000_000)
gone = torch.ones(10_000_000)
del gone
print(meter.peak())
"""

BUILD = """
import json, sys, torch
from sparselinear import SparseLinear, kernels
from sparselinear.profiling import BASELINES, Sizes, peak
from sparselinear.profiling.ledger import needed_bytes

layer = SparseLinear.from_state_dict(torch.load(sys.argv[1], weights_only=True))
sizes, found = Sizes.of(layer, batch=1), {}
for system in BASELINES.values():
    meter = peak.Meter(torch.device("cpu"))
    meter.restart()
    module = system.make(layer)
    found[system.name] = meter.peak(), needed_bytes(system.bytes(sizes), sizes), sizes.dense_bytes
    del module
print(json.dumps(found))
"""


def output_of(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    environment = memory._environment()
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


@LINUX
def test_meter_sees_the_highest_after_restart() -> None:
    assert int(output_of(METER)) == pytest.approx(4 * 35_000_000, abs=2e6)


@LINUX
def test_building_holds_no_more_than_is_predicted() -> None:
    """A baseline that is predicted to fit must also be built without running out of memory."""
    with memory.saved(layer_of(2000, 800)) as path:
        found = json.loads(output_of(BUILD, path))
    scratch = 1 << 25  # of the connections that are written at a time
    for name, (peaked, needed, dense_bytes) in found.items():
        assert peaked <= needed + scratch, name
        if name == "prune-removed":
            assert peaked >= 4.9 * dense_bytes
