"""How long forward, a training step and an update by Adam take, side by side.

The systems take turns, A B C A B C, so that a machine that slows down or is shared slows all of them.
A sample is a number of runs long enough for the clock, and the result is the median of the samples
with its quartiles. Inputs and the gradient of the output are random normal numbers, never zeros.

    forward   ``y = module(x)``, without recording for backward
    step      gradients set to None, ``y = module(x)``, ``y.backward(grad_output)``: gradients of the
              input and of every parameter; without the optimizer
    adam      ``torch.optim.Adam.step()`` on these gradients, its state already there

The output is made contiguous as a part of forward, so a transposition that a system would leave to
the next layer is counted.

The clock is that of the device the layer is on, see :mod:`.clock`.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..linear import SparseLinear
from .baselines import System
from .clock import Clock, clock_of, settle

KINDS = ("forward", "step", "adam")

# So small that however many updates are timed, the weights stay what they are.
_LEARNING_RATE = 1e-12


@dataclass(frozen=True)
class Timing:
    """Time of one run, measured several times.

    Attributes:
        samples_s: seconds a run, one for each round.
        repeats: runs that a sample is the mean of.
    """

    samples_s: tuple[float, ...]
    repeats: int

    @property
    def median_s(self) -> float:
        """Median of the samples, seconds."""
        return statistics.median(self.samples_s)

    @property
    def quartiles_s(self) -> tuple[float, float]:
        """First and third quartile of the samples, seconds."""
        if len(self.samples_s) == 1:
            return self.samples_s[0], self.samples_s[0]
        first, _, third = statistics.quantiles(self.samples_s, n=4, method="inclusive")
        return first, third

    def to_dict(self) -> dict[str, object]:
        """Median, quartiles, samples and repeats, ready for JSON."""
        first, third = self.quartiles_s
        return {
            "median_s": self.median_s,
            "quartile1_s": first,
            "quartile3_s": third,
            "samples_s": list(self.samples_s),
            "repeats": self.repeats,
        }


@dataclass
class Subject:
    """A system on one input: what is run when it is its turn.

    Attributes:
        system: which one.
        layer: what it is built from.
        x: (batch, in_features), requires a gradient.
        grad_output: (batch, out_features).
        keep: whether the module lives between turns, or is built anew for each to save memory.
        samples: seconds a run, by kind.
        repeats: runs in a sample, by kind.
        refusals: what torch said, by the kind it does not run.
    """

    system: System
    layer: SparseLinear
    x: Tensor
    grad_output: Tensor
    keep: bool = True
    samples: dict[str, list[float]] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    _module: nn.Module | None = None
    _adam: torch.optim.Adam | None = None

    @property
    def clock(self) -> Clock:
        """That of the device the input is on."""
        return clock_of(self.x.device)

    def warm_up(self) -> None:
        """Run each kind, find how many runs make a sample, and note what torch refuses."""
        for kind in KINDS if self.system.trains else KINDS[:1]:
            try:
                self._start(kind)
                run = self._runs()[kind]
                run()
                self.repeats[kind] = self.clock.enough_repeats(run)
                self.samples[kind] = []
            except (RuntimeError, ValueError, TypeError) as error:
                if not self.system.letter:  # ours: nothing to compare with is left
                    raise
                self.refusals[kind] = _reason(error)
                if kind != "adam":
                    break
        self._release()

    def turn(self) -> None:
        """Take one sample of each kind, once the threads of the system before are asleep."""
        settle()
        for kind, samples in self.samples.items():
            self._start(kind)
            run, repeats = self._runs()[kind], self.repeats[kind]
            if repeats > 1 or not self.keep:
                run()  # what the other systems left in the caches is not this one's time
            samples.append(self.clock.sample(run, repeats))
        self._release()

    def timing(self, kind: str) -> Timing | None:
        """The result for a kind; None where it was not run."""
        samples = self.samples.get(kind)
        return Timing(tuple(samples), self.repeats[kind]) if samples else None

    def _runs(self) -> dict[str, Callable[[], object]]:
        return {"forward": self._forward, "step": self._step, "adam": self._update}

    def _start(self, kind: str) -> None:
        if self._module is None:
            self._module = self.system.make(self.layer)
        if kind == "adam" and self._adam is None:
            if self.x.grad is None:
                self._step()
            self._adam = torch.optim.Adam(self._module.parameters(), lr=_LEARNING_RATE)
            self._adam.step()  # makes the state

    def _release(self) -> None:
        self._clear()
        self._adam = None
        if not self.keep:
            self._module = None
            gc.collect()

    def _clear(self) -> None:
        self.x.grad = None
        for parameter in self._module.parameters() if self._module else ():
            parameter.grad = None

    def _forward(self) -> None:
        assert self._module is not None
        with torch.no_grad():
            self._module(self.x).contiguous()

    def _step(self) -> None:
        assert self._module is not None
        self._clear()
        self._module(self.x).contiguous().backward(self.grad_output)

    def _update(self) -> None:
        assert self._adam is not None
        self._adam.step()


def _reason(error: Exception) -> str:
    """First line of what torch says."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
