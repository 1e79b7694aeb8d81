"""The clocks: how long runs take on a CPU, and on a GPU.

A sample is a number of runs in a row, long enough for the clock, and what it gives is seconds a run: of
something that is called again and again, as in a training, with what the caches keep from run to run.

On a GPU two events on the stream take the time, and the calls between them follow each other without
waiting. So a sample holds what the kernels take, or, where they are shorter than their launches, what
Python and the launches take; never the wait for the device after each call.

The loop on a CPU is that of timeit. torch.utils.benchmark does not serve: ``blocked_autorange`` takes all
samples of one statement in a row, where the rounds of all systems have to alternate; ``Timer.timeit`` runs
everything twice more before each sample, which a step of 30 s does not need; and the spread that
``Measurement`` tells is that of one system, where what decides is the noise of a ratio (:mod:`.noise`).
"""

from __future__ import annotations

import gc
import time
import timeit
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# 10 ms holds the clock's own error and a wake-up of the thread pool (about 0.05 ms) below 1 %.
SAMPLE_S = 0.01
MOST_REPEATS = 1000
# How long a process may stay busy before its turn is taken all the same.
_SETTLE_S = 0.5
# A step of the wait. Linux brings the time of a thread that runs on another core up to date by its timer,
# every 10 ms at the slowest; in a shorter step such a thread may seem to rest. For 90 ms after a step JAX
# gave memory back so, unseen, and what was measured next took up to twice its time. Where the clock of the
# process is coarse (15.6 ms on Windows), a step is two of its ticks.
_STEP_S = max(0.012, 2 * time.get_clock_info("process_time").resolution)
# A thread that spins takes all of a core; what looks at the clock takes a hundredth of one.
_QUIET_CORES = 0.1


class Clock(ABC):
    """Seconds that runs take on a device."""

    @abstractmethod
    def sample(self, run: Callable[[], object], repeats: int) -> float:
        """Seconds a run, over a number of runs; without the garbage collector."""

    def enough_repeats(self, run: Callable[[], object]) -> int:
        """How many runs make a sample that is long enough for the clock."""
        repeats = 1
        while repeats < MOST_REPEATS:
            taken = self.sample(run, repeats) * repeats
            if taken >= SAMPLE_S:
                return repeats
            missing = SAMPLE_S / max(taken, 1e-9)
            repeats = min(MOST_REPEATS, int(repeats * min(max(missing * 1.1, 2), 10)))
        return repeats


class CpuClock(Clock):
    """Of what is done when the call returns."""

    def sample(self, run: Callable[[], object], repeats: int) -> float:  # noqa: D102
        return timeit.Timer(run, timer=time.perf_counter).timeit(repeats) / repeats


class CudaClock(Clock):
    """Of a CUDA device, by events on its current stream.

    Args:
        device: which one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def sample(self, run: Callable[[], object], repeats: int) -> float:  # noqa: D102
        with torch.cuda.device(self.device), _no_garbage_collection():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            for _ in range(repeats):
                run()
            end.record()
            end.synchronize()
        milliseconds: float = start.elapsed_time(end)
        return milliseconds * 1e-3 / repeats


CPU = CpuClock()


def clock_of(device: torch.device) -> Clock:
    """The clock that is right for a device."""
    return CudaClock(device) if device.type == "cuda" else CPU


def settle(limit_s: float = _SETTLE_S) -> bool:
    """Wait until no thread of this process runs any more.

    Thread pools spin for a while after their work, to be there at once for the next: those of Intel's
    libiomp for 200 ms. Until they sleep they take the cores from the pool of another system.

    Args:
        limit_s: seconds after which the wait is given up.

    Returns:
        Whether the process is quiet.
    """
    end = time.perf_counter() + limit_s
    while time.perf_counter() < end:
        wall, busy = time.perf_counter(), time.process_time()
        time.sleep(_STEP_S)
        if time.process_time() - busy < _QUIET_CORES * (time.perf_counter() - wall):
            return True
    return False


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """As timeit has it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
