"""The machine that was measured on: its processor, its torch, and how much memory is free.

Read from what the system itself offers, without a package for it. What cannot be read is None.
"""

from __future__ import annotations

import gc
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Cache:
    """A cache that one core of the processor sees.

    Attributes:
        name: level and kind, for example ``"L1d"`` (data) or ``"L2"``.
        size_bytes: of one such cache.
        cores: logical cores that share it.
    """

    name: str
    size_bytes: int
    cores: int


@dataclass(frozen=True)
class Gpu:
    """What a measurement on a GPU depends on beside its name.

    Attributes:
        memory_bytes: all that it has.
        multiprocessors: how many.
        l2_bytes: its second-level cache, which all of them share.
        driver: version of the driver; empty where nvidia-smi does not tell.
        cuda: version of CUDA that torch was built with.
        triton: version of Triton; empty where it is not installed.
        float32_precision: of dense products of float32, as torch calls it: ``"highest"`` is float32, others
            let TF32 in.
    """

    memory_bytes: int
    multiprocessors: int
    l2_bytes: int
    driver: str
    cuda: str
    triton: str
    float32_precision: str


@dataclass(frozen=True)
class Machine:
    """What a measurement depends on beside the layer.

    Attributes:
        processor: model of the CPU, or of the GPU the layer is on.
        cores: logical cores of the machine.
        capability: the vector instructions that torch uses, for example ``"AVX512"``; of a GPU its compute
            capability.
        threads: threads that torch was allowed.
        memory_available_bytes: free memory of the device when the profile began.
        torch: version of torch.
        python: version of Python.
        system: operating system and architecture.
        caches: of the CPU, data alone, from the nearest on; empty on a GPU, or where they cannot be read.
        blas: the library that torch multiplies dense matrices with; empty where torch does not tell.
        gpu: more of the GPU; None on a CPU.
    """

    processor: str
    cores: int | None
    capability: str
    threads: int
    memory_available_bytes: int | None
    torch: str
    python: str
    system: str
    caches: tuple[Cache, ...] = ()
    blas: str = ""
    gpu: Gpu | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return asdict(self)


def describe(device: torch.device) -> Machine:
    """The machine as it is now, with the threads torch is set to."""
    cuda = device.type == "cuda"
    return Machine(
        processor=torch.cuda.get_device_name(device) if cuda else _cpu_model(),
        cores=os.cpu_count(),
        capability=_compute_capability(device) if cuda else torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        memory_available_bytes=available_bytes(device),
        torch=str(torch.__version__),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        caches=() if cuda else _caches(),
        blas=f"cuBLAS of CUDA {torch.version.cuda}" if cuda else _blas(torch.__config__.show()),
        gpu=_gpu(device) if cuda else None,
    )


class OtherWork:
    """How many cores other programs kept busy since this was made, or a virtual machine withheld."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), _own_seconds(), _busy_seconds()

    def cores(self) -> float | None:
        """Cores, on average; None where the system does not tell."""
        wall, own, busy = self._start
        now = _busy_seconds()
        if busy is None or now is None:
            return None
        return max(0.0, (now - busy - (_own_seconds() - own)) / (time.perf_counter() - wall))


def disturbs(others: float | None, cores: int | None, threads: int) -> bool:
    """Whether programs that kept ``others`` cores busy wanted some that ``threads`` of ours were using."""
    return bool(cores and others and others > 0.25 and threads + others > cores + 0.25)


def _own_seconds() -> float:
    """Seconds of work of this process, and of the programs it has run and waited for."""
    return sum(os.times()[:4])


def _busy_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """Seconds of work of all cores since the system began; Linux alone."""
    for line in _lines(stat):
        if line.startswith("cpu "):
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(n) for n in line.split()[1:9])
            return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return None


@contextmanager
def threads_set(number: int | None) -> Iterator[None]:
    """Within the block torch uses this many threads."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can still be taken on a device; None where that cannot be read.

    On CUDA this is what the driver calls free, and what torch's allocator keeps of the memory it was given
    back. Otherwise it is the smallest of what Linux calls
    available and what the control groups of the process leave; on other systems with ``sysconf``, half
    of the memory of the machine.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    known = [found for found in (_linux_available(), _cgroup_left()) if found is not None]
    return min(known) if known else _half_of_all()


def give_back(device: torch.device) -> None:
    """Give what nothing uses any more back to the device, so that another process finds it free."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _linux_available(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_left(root: Path = Path("/")) -> int | None:
    """The least that a control group (version 2 or 1) of this process, or one above it, leaves it."""
    left: list[int] = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = mount / path.strip("/")
        while True:
            found = _group_left(group, *names)
            if found is not None:
                left.append(found)
            if group == mount:
                break
            group = group.parent
    return min(left) if left else None


def _group_left(group: Path, limit: str, used: str, reclaimable: str) -> int | None:
    """Limit less use; pages of files that are not in use count as free, as the kernel drops them."""
    ceiling, use = _lines(group / limit), _lines(group / used)
    if not ceiling or not use or not ceiling[0].isdigit():  # "max": no limit
        return None
    statistics = dict(line.split()[:2] for line in _lines(group / "memory.stat"))
    return max(0, int(ceiling[0]) - int(use[0]) + int(statistics.get(reclaimable, 0)))


def _half_of_all() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _cpu_model() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
            return done.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return platform.processor() or platform.machine()


def _compute_capability(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"compute capability {major}.{minor}"


def _gpu(device: torch.device) -> Gpu:
    properties = torch.cuda.get_device_properties(device)
    return Gpu(
        memory_bytes=properties.total_memory,
        multiprocessors=properties.multi_processor_count,
        l2_bytes=properties.L2_cache_size,
        driver=_driver(),
        cuda=str(torch.version.cuda),
        triton=_triton(),
        float32_precision=torch.get_float32_matmul_precision(),
    )


def _driver() -> str:
    """Of the first GPU; all that one system has share a driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter(done.stdout.split()), "")


def _triton() -> str:
    try:
        return version("triton")
    except PackageNotFoundError:
        return ""


def _caches(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> tuple[Cache, ...]:
    """Caches of the first core; Linux alone."""
    found = []
    for index in sorted(root.glob("index[0-9]*")):
        parts = [_lines(index / name) for name in ("level", "type", "size", "shared_cpu_list")]
        if not all(parts):
            continue
        (level, *_), (kind, *_), (size, *_), (shared, *_) = parts
        if kind != "Instruction":
            name = f"L{level}d" if kind == "Data" else f"L{level}"
            found.append(Cache(name, int(size.removesuffix("K")) * 1024, _listed(shared)))
    return tuple(found)


def _listed(ranges: str) -> int:
    """How many numbers a list such as ``"0-3,8"`` names."""
    ends = [part.split("-") for part in ranges.split(",")]
    return sum(int(numbers[-1]) - int(numbers[0]) + 1 for numbers in ends)


def _blas(configuration: str) -> str:
    """The BLAS in what torch was built with: MKL and its version, or a name such as ``"open"``."""
    mkl = re.search(r"oneAPI Math Kernel Library Version ([\d.]+)", configuration)
    name = re.search(r"BLAS_INFO=(\w+)", configuration)
    if mkl:
        return f"MKL {mkl[1]}"
    return {"open": "OpenBLAS", "accelerate": "Accelerate"}.get(name[1], name[1]) if name else ""


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except OSError:
        return []
