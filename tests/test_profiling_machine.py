"""What is read about the machine, from files as Linux writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparselinear.profiling import machine

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_meminfo(tmp_path: Path) -> None:
    path = write(tmp_path, {"meminfo": "MemTotal:  100 kB\nMemAvailable:   70 kB\n"}) / "meminfo"
    assert machine._linux_available(path) == 70 * 1024
    assert machine._linux_available(tmp_path / "absent") is None


V2 = "sys/fs/cgroup/box/"
V1 = "sys/fs/cgroup/memory/"


@pytest.mark.parametrize(
    ("files", "left"),
    [
        pytest.param({}, None, id="no control groups"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/box/inner\n",
                V2 + "memory.max": "1000\n",
                V2 + "memory.current": "700\n",
                V2 + "memory.stat": "anon 600\ninactive_file 50\n",
                V2 + "inner/memory.max": "max\n",
                V2 + "inner/memory.current": "700\n",
            },
            350,
            id="version 2, limit one group up",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"},
            None,
            id="version 2, no limit",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/box\n",
                V1 + "memory.limit_in_bytes": "900\n",
                V1 + "memory.usage_in_bytes": "100\n",
                V1 + "memory.stat": "total_inactive_file 0\n",
                V1 + "box/memory.limit_in_bytes": "500\n",
                V1 + "box/memory.usage_in_bytes": "100\n",
            },
            400,
            id="version 1, the least counts",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/not/here\n",
                V1 + "memory.limit_in_bytes": "900\n",
                V1 + "memory.usage_in_bytes": "950\n",
            },
            0,
            id="version 1, mounted elsewhere, overdrawn",
        ),
    ],
)
def test_control_groups(tmp_path: Path, files: dict[str, str], left: int | None) -> None:
    assert machine._cgroup_left(write(tmp_path, files)) == left


@LINUX
def test_available_is_less_than_all() -> None:
    found = machine.available_bytes(torch.device("cpu"))
    assert found is not None
    assert 0 < found < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_description() -> None:
    found = machine.describe(torch.device("cpu"))
    assert found.torch == torch.__version__
    assert found.threads == torch.get_num_threads()
    assert found.processor
    assert found.blas == machine._blas(torch.__config__.show())
    assert set(found.to_dict()) == set(vars(found))


def test_own_work_is_not_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"wall": 100.0, "own": 7.0, "busy": 5000.0}
    monkeypatch.setattr("time.perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(machine, "_own_seconds", lambda: clock["own"])
    monkeypatch.setattr(machine, "_busy_seconds", lambda: clock["busy"])
    others = machine.OtherWork()
    clock.update(wall=110.0, own=27.0, busy=5035.0)  # 10 s, in which this process took 20 of 35 s of work
    assert others.cores() == pytest.approx(1.5)
    clock.update(busy=5019.0)  # ticks are coarser than the process's own clock
    assert others.cores() == 0
    monkeypatch.setattr(machine, "_busy_seconds", lambda: None)
    assert others.cores() is None
    assert machine.OtherWork().cores() is None


def test_work_of_programs_that_were_run_is_own_work() -> None:
    before = machine._own_seconds()
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert machine._own_seconds() - before >= 0.3 - 0.02  # a tick or two


def test_busy_seconds(tmp_path: Path) -> None:
    path = write(tmp_path, {"stat": "cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"}) / "stat"
    assert machine._busy_seconds(path) == pytest.approx(171 / os.sysconf("SC_CLK_TCK"))
    assert machine._busy_seconds(tmp_path / "absent") is None


def test_caches(tmp_path: Path) -> None:
    files = {
        "index0": ("1", "Data", "48K", "0-1"),
        "index1": ("1", "Instruction", "32K", "0-1"),
        "index2": ("2", "Unified", "2048K", "0-1"),
        "index3": ("3", "Unified", "266240K", "0-3,8,10-11"),
    }
    names = ("level", "type", "size", "shared_cpu_list")
    for index, texts in files.items():
        write(tmp_path, {f"{index}/{name}": f"{text}\n" for name, text in zip(names, texts, strict=True)})
    write(tmp_path, {"index4/level": "4\n"})  # a virtual machine that does not tell the rest
    caches = (
        machine.Cache("L1d", 48 << 10, 2),
        machine.Cache("L2", 2 << 20, 2),
        machine.Cache("L3", 260 << 20, 7),
    )
    assert machine._caches(tmp_path) == caches
    assert machine._caches(tmp_path / "absent") == ()


@pytest.mark.parametrize(
    ("configuration", "blas"),
    [
        (
            "  - Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605\n "
            "BLAS_INFO=mkl, X=1",
            "MKL 2024.2",
        ),
        ("Build settings: BLAS_INFO=open, BUILD_TYPE=Release", "OpenBLAS"),
        ("Build settings: BLAS_INFO=nvpl, BUILD_TYPE=Release", "nvpl"),
        ("PyTorch built with:", ""),
    ],
)
def test_blas(configuration: str, blas: str) -> None:
    assert machine._blas(configuration) == blas


class Properties:
    total_memory, multi_processor_count, L2_cache_size = 150 * 10**9, 132, 60 << 20


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """In the place of torch's CUDA, which need not be there."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7000, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    return torch.device("cuda")


def test_on_a_gpu_the_cpu_does_not_count(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = subprocess.CompletedProcess([], 0, stdout="580.1.2\n580.1.2\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    monkeypatch.setattr(machine, "version", lambda name: f"3.6 of {name}")
    found = machine.describe(gpu)
    assert (found.processor, found.caches, found.blas[:6]) == ("A GPU", (), "cuBLAS")
    assert found.capability == "compute capability 9.0"
    versions = "580.1.2", str(torch.version.cuda), "3.6 of triton"
    assert found.gpu == machine.Gpu(150 * 10**9, 132, 60 << 20, *versions, "highest")


def test_what_a_gpu_does_not_tell(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise machine.PackageNotFoundError(name)

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(machine, "version", absent)
    found = machine.describe(gpu).gpu
    assert found is not None
    assert (found.driver, found.triton) == ("", "")


def test_what_the_allocator_keeps_of_a_gpu_is_free(gpu: torch.device) -> None:
    assert machine.available_bytes(gpu) == 7000 + 200
