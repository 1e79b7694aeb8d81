"""How the sides of a cell are compared: each tried, set against ours, and timed in turns by two clocks.

    loop      calls one after the other, as a training makes them: with what Python and the launches take
              where the kernels are shorter, and with what the second-level cache keeps from call to call
    device    the device alone: each call stands in the queue before the device comes to it, and finds
              nothing of its data in the second-level cache

A CPU has the first alone.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparselinear.profiling import machine
from sparselinear.profiling.clock import Clock, CudaClock, clock_of
from sparselinear.profiling.timing import Timing

from ..adapter import Peer
from ..measure import Side

LOOP, DEVICE = "loop", "device"
OURS = "ours"
KINDS = ("forward", "backward", "step")
# Largest difference from ours over the largest entry: sums of 10**4 terms in any order, and the rounding of
# two results.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
_FLUSHED_BYTES = 256 << 20
_MOST_AHEAD, _MOST_RUNS, _SAMPLE_S = 100, 20, 0.005


@dataclass(frozen=True)
class Setting:
    """How a run is made: where, how thoroughly, and until when."""

    device: torch.device
    quick: bool = False
    data: Path | None = None
    rounds: int = 5
    end: float = math.inf  # of time.monotonic

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return time.monotonic() >= self.end

    @property
    def family(self) -> tuple[str, ...]:
        """The kernels that are set against each other."""
        return ("triton", "torch") if self.device.type == "cuda" else ("native", "torch")

    @property
    def clock_names(self) -> tuple[str, ...]:
        """The clocks that the device has."""
        return (LOOP, DEVICE) if self.device.type == "cuda" else (LOOP,)

    def clocks(self) -> dict[str, Clock]:
        """The same, ready to take the time."""
        made = {LOOP: clock_of, DEVICE: _device_clock}
        return {name: made[name](self.device) for name in self.clock_names}


class DeviceClock(CudaClock):
    """Of the device alone, with the second-level cache full of other data; a sample is a median of its runs.

    In front of each run stand so many reads of a large buffer that Python has launched the run before the
    device comes to it. They are reads, as what a write leaves in the cache is written back during the run.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._buffer = self._new_buffer()
        self._flush()  # loads its kernel
        self._flush_s = super().sample(self._flush, 20)

    def sample(self, run: Callable[[], object], repeats: int) -> float:
        with torch.cuda.device(self.device):
            ahead = self._ahead(run)
            pairs = [
                tuple(torch.cuda.Event(enable_timing=True) for _ in ("start", "end")) for _ in range(repeats)
            ]
            torch.cuda.synchronize()
            for start, end in pairs:
                for _ in range(ahead):
                    self._flush()
                start.record()
                run()
                end.record()
            torch.cuda.synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in pairs) * 1e-3

    def enough_repeats(self, run: Callable[[], object]) -> int:
        return min(_MOST_RUNS, max(3, math.ceil(_SAMPLE_S / max(self.sample(run, 3), 1e-6))))

    def _ahead(self, run: Callable[[], object]) -> int:
        """Flushes that take half as long again as the launch of a run."""
        torch.cuda.synchronize()
        before = time.perf_counter()
        run()
        launch_s = time.perf_counter() - before
        return min(_MOST_AHEAD, 1 + math.ceil(1.5 * launch_s / self._flush_s))

    def _new_buffer(self) -> Tensor:
        size = max(_FLUSHED_BYTES, 4 * torch.cuda.get_device_properties(self.device).L2_cache_size)
        return torch.ones(size // 4, device=self.device)

    def _flush(self) -> None:
        torch.sum(self._buffer)


@lru_cache(maxsize=1)  # its buffer is large
def _device_clock(device: torch.device) -> DeviceClock:
    return DeviceClock(device)


@dataclass
class Timed:
    """The times of the sides of a cell, by side, clock and kind; the first side is what ratios are over."""

    reference: str
    timings: dict[str, dict[str, dict[str, Timing]]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)

    def ratio(self, side: str, kind: str, clock: str) -> float | None:
        """Median time of a side over that of the reference; None where either was not run."""
        pair = [self.timings.get(name, {}).get(clock, {}).get(kind) for name in (side, self.reference)]
        return pair[0].median_s / pair[1].median_s if pair[0] and pair[1] else None

    def to_dict(self) -> dict[str, Any]:
        """Times and ratios, ready for JSON."""
        times, ratios = {}, {}
        for side, by_clock in self.timings.items():
            times[side] = {c: {k: t.to_dict() for k, t in kinds.items()} for c, kinds in by_clock.items()}
            ratios[side] = {c: {k: self.ratio(side, k, c) for k in kinds} for c, kinds in by_clock.items()}
        found = {"timings": times, "ratios": ratios, "refusals": self.refusals}
        return {"reference": self.reference, **found}


def compare(
    makers: Mapping[str, Callable[[], Peer]],
    setting: Setting,
    kinds: tuple[str, ...] = KINDS,
    *,
    needed: str = OURS,
) -> Timed:
    """Time sides in turns, each at the kinds that it runs; what it refuses is noted.

    Args:
        makers: by name, what makes a side; the first is what the others are compared with.
        setting: where and how often.
        kinds: out of KINDS.
        needed: the side without which there is nothing to compare.

    Raises:
        RuntimeError: the needed side does not run.
    """
    timed = Timed(next(iter(makers)))
    sides: list[tuple[str, str, Side]] = []
    clocks, expected = setting.clocks(), None
    for name, make in makers.items():
        runs: tuple[str, ...] = ()
        try:
            peer = make()
        except Exception as error:  # whatever a package raises, the others are still to be timed
            timed.refusals[name] = reason(error)
        else:
            runs, result = _try(name, peer, kinds, timed.refusals)
            if expected is None:
                expected = result
            elif problem := _difference(peer, result, expected):
                timed.refusals[name], runs = problem, ()
        if failures := [
            f"{side}: {why}" for side, why in timed.refusals.items() if side.split()[0] == needed
        ]:
            raise RuntimeError("; ".join(failures))
        sides += [(name, clock, Side(peer, clocks[clock], runs)) for clock in clocks if runs]
    for turn in range(setting.rounds):
        for _, _, side in sides:
            side.take(turn)
    for name, clock, side in sides:
        timed.timings.setdefault(name, {})[clock] = side.timings()
    sides.clear()
    machine.give_back(setting.device)
    return timed


def reason(error: Exception) -> str:
    """Kind and first line of an error."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}".rstrip(".")


def _try(
    name: str, peer: Peer, kinds: tuple[str, ...], refusals: dict[str, str]
) -> tuple[tuple[str, ...], Any]:
    """The kinds that a side runs, and what the last of them gave; two calls, as the first may compile."""
    runs, result = [], None
    for kind in kinds:
        try:
            for _ in range(2):
                found = getattr(peer, kind)()
        except Exception as error:
            refusals[f"{name} {kind}"] = reason(error)
            gc.collect()  # the traceback held what the call had made
            continue
        runs.append(kind)
        result = found if kind != "backward" else result
    return tuple(runs), result


def _difference(peer: Peer, result: Any, expected: Any) -> str | None:
    """What a side computes otherwise than ours, if anything; of results that both have."""
    pairs = zip(_tensors(peer, result), _tensors(None, expected), strict=False)
    for what, (found, ours) in zip(("Y", "grad_input", "grad_values"), pairs, strict=False):
        allowed = max(_TOLERANCE.get(dtype, 1e-3) for dtype in (found.dtype, ours.dtype))
        ours, scale = ours.float(), ours.float().abs().max().clamp(min=1e-30)
        error = float((found.to(ours) - ours).abs().max() / scale)
        if not error <= allowed:  # NaN is no more welcome
            return f"wrong: {what} differs from ours by {error:.1g} of its largest entry"
    return None


def _tensors(peer: Peer | None, result: Any) -> list[Tensor]:
    """Y, grad_input and grad_values in CSR order, or Y alone; none if nothing ran."""
    if not isinstance(result, tuple):
        return [] if result is None else [_tensor(result)]
    y, grad_input, grad_values = result
    return [_tensor(y), _tensor(grad_input), _tensor(peer.in_csr_order(grad_values) if peer else grad_values)]


def _tensor(result: Any) -> Tensor:
    """A result of any package, where it lies."""
    if isinstance(result, Tensor):
        return result.detach()
    return torch.from_numpy(result.copy()) if isinstance(result, np.ndarray) else torch.from_dlpack(result)
