"""The clocks: what counts as a sample, on a CPU and by the events of a GPU, and when a process is quiet."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import threading
import time

import pytest
import torch
from devices import needs_cuda

from sparselinear.profiling import clock
from sparselinear.profiling.clock import CPU, CpuClock, CudaClock, clock_of


class Stream:
    """A GPU that takes 2 ms for each launch put on it; the host takes none, and waits when it is told to."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.busy_until_ms = 0.0

    def launch(self) -> None:
        self.told.append("launch")
        self.busy_until_ms += 2.0

    def synchronize(self) -> None:
        self.told.append("synchronize")

    def event(self, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)


class Event:
    """Takes the time when the stream comes to it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def record(self) -> None:
        self.stream.told.append("record")
        self.at_ms = self.stream.busy_until_ms

    def synchronize(self) -> None:
        self.stream.told.append("wait")

    def elapsed_time(self, end: Event) -> float:
        assert self.stream.told[-1] == "wait"
        return end.at_ms - self.at_ms


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """In the place of torch's CUDA, which need not be there."""
    fake = Stream()
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", fake.event)
    monkeypatch.setattr(torch.cuda, "synchronize", fake.synchronize)
    return fake


def test_events_stand_around_all_runs_of_a_sample(stream: Stream) -> None:
    stream.launch()  # of before: it is waited for
    assert CudaClock(torch.device("cuda")).sample(stream.launch, 3) == pytest.approx(0.002)
    assert stream.told[1:] == ["synchronize", "record", *["launch"] * 3, "record", "wait"]


def test_a_gpu_is_given_as_many_runs_as_make_a_sample(stream: Stream) -> None:
    repeats = CudaClock(torch.device("cuda")).enough_repeats(stream.launch)
    assert clock.SAMPLE_S <= 0.002 * repeats < 3 * clock.SAMPLE_S


def test_each_device_has_its_clock() -> None:
    assert isinstance(clock_of(torch.device("cpu")), CpuClock)
    found = clock_of(torch.device("cuda:1"))
    assert isinstance(found, CudaClock)
    assert found.device == torch.device("cuda:1")


@needs_cuda
def test_a_sample_is_longer_than_the_launch_of_it() -> None:
    square = torch.randn(4096, 4096, device="cuda")
    found = CudaClock(square.device).sample(lambda: square @ square, 20)
    assert 2 * 4096**3 / 2e15 < found < 1  # no GPU multiplies faster than that


def test_sample_is_long_enough_and_counts_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now, runs = [0.0], [0]

    def run() -> None:
        runs[0] += 1
        now[0] += 0.001

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    repeats = CPU.enough_repeats(run)
    assert repeats * 0.001 >= clock.SAMPLE_S
    assert repeats * 0.001 < 3 * clock.SAMPLE_S
    runs[0] = 0
    assert CPU.sample(run, 7) == pytest.approx(0.001)
    assert runs[0] == 7


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_garbage_collector_is_held_off(device: str, stream: Stream) -> None:
    seen: list[bool] = []
    clock_of(torch.device(device)).sample(lambda: seen.append(gc.isenabled()), 2)
    assert seen == [False, False]
    assert gc.isenabled()


class Process:
    """A process that is busy until a moment; both clocks stand still between sleeps."""

    def __init__(self, busy_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.busy_s = 0.0, busy_s
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "process_time", lambda: min(self.now, self.busy_s))
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("busy_s", "quiet", "waited_s"),
    [
        pytest.param(0.0, True, 0.002, id="quiet at once"),
        pytest.param(0.2, True, 0.202, id="a pool that spins for 200 ms"),
        pytest.param(60.0, False, 0.5, id="a thread that never ends"),
    ],
)
def test_settle(busy_s: float, quiet: bool, waited_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_STEP_S", 0.002)
    process = Process(busy_s, monkeypatch)
    assert clock.settle() is quiet
    assert process.now == pytest.approx(waited_s, abs=0.0021)


def test_settle_waits_for_a_thread_that_spins() -> None:
    end = time.perf_counter() + 0.05

    def spin() -> None:
        while time.perf_counter() < end:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    assert clock.settle(limit_s=20)
    assert time.perf_counter() >= end
    thread.join()


def test_settle_sees_a_thread_on_another_core() -> None:
    """One that works without Python's lock, while its time stands still between two ticks of the timer."""
    for _ in range(10):
        end = time.perf_counter() + 0.05

        def work(until: float = end) -> None:
            while time.perf_counter() < until:
                hashlib.sha256(bytes(1 << 20))

        thread = threading.Thread(target=work)
        thread.start()
        assert clock.settle(limit_s=20)
        assert time.perf_counter() >= end
        thread.join()


def test_a_run_too_short_to_measure_ends() -> None:
    assert CPU.enough_repeats(lambda: None) == clock.MOST_REPEATS
