"""How one cell is measured: every side checked against ours, then timed in turns.

A B C A B C, so that a machine that slows down or is shared slows all of them; a sample is a number of
runs long enough for the clock, after one run that fills the caches; the result is the median over the
rounds. The means are those of ``sparselinear.profiling``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparselinear.profiling.clock import CPU, Clock, settle
from sparselinear.profiling.timing import Timing

from .adapter import Peer, array
from .cells import CSR_BATCH_MAJOR, FEATURE_MAJOR, RANDOM_ALIKE, Cell, canonical
from .peers import OWN
from .stock import Csr, Ours

KINDS = ("forward", "step")
# Largest difference of results, over the largest result: float32 sums of 10^4 terms in any order.
TOLERANCE = 1e-3
# A side that takes this long for a step takes a few turns only: its ratio is large, and its noise small.
_SLOW_S, _SLOW_TURNS = 0.5, 3
# In a run of this length, filling the caches is nothing.
_LONG_S = 0.1


@dataclass(frozen=True)
class Limits:
    """What a peer may take: seconds for a step, bytes for its large arrays (None: any)."""

    step_s: float
    scratch_bytes: int | None


@dataclass(frozen=True)
class Result:
    """The times of a cell by side and kind, and why a peer has none."""

    cell: Cell
    shape: tuple[int, int]
    nnz: int
    kernel: str
    timings: dict[str, dict[str, Timing]]
    refusals: dict[str, str]

    def ratio(self, side: str, kind: str = "step") -> float | None:
        """Median time of a side over ours; None if the side did not run."""
        if side not in self.timings:
            return None
        return self.timings[side][kind].median_s / self.timings[Ours.name][kind].median_s

    def rivals(self, kind: str = "step") -> dict[str, float]:
        """Ratio of each peer that ran, the fastest first; without sides that are ours."""
        not_peers = (*OWN, RANDOM_ALIKE, CSR_BATCH_MAJOR)
        found = {name: self.ratio(name, kind) or 0.0 for name in self.timings if name not in not_peers}
        return dict(sorted(found.items(), key=lambda pair: pair[1]))

    def noise(self) -> float:
        """Interquartile range of the steps over their median: the larger of ours and CSR autograd's."""
        steps = [self.timings[name]["step"] for name in (Ours.name, Csr.name) if name in self.timings]
        return max((step.quartiles_s[1] - step.quartiles_s[0]) / step.median_s for step in steps)


def measure(cell: Cell, peers: list[type[Peer]], rounds: int, limits: Limits) -> Result:
    """Check and time our layer and the peers on a cell.

    Raises:
        RuntimeError: our own layer does not run.
    """
    matrix = cell.matrix()
    x, grad_output = activations(matrix.shape, cell)
    ours = Ours(matrix, x, grad_output)
    admit = _Admission(ours, limits)
    sides = {Ours.name: ours, **{peer.name: admit(peer) for peer in peers}, **_beside(cell, peers, ours)}
    timed = {name: Side(side) for name, side in sides.items() if side is not None}
    for turn in range(rounds):
        for side in timed.values():
            side.take(turn)
    result = Result(
        cell,
        matrix.shape,
        matrix.nnz,
        ours.explain(),
        {name: side.timings() for name, side in timed.items()},
        admit.refusals,
    )
    del sides, timed, admit, ours
    gc.collect()  # autograd's graphs and JAX's arrays are in cycles
    return result


def activations(shape: tuple[int, int], cell: Cell) -> tuple[Tensor, Tensor]:
    """Random normal x (batch, in_features) and grad_output (batch, out_features) in the cell's layout."""
    generator = torch.Generator().manual_seed(0)
    pair = [torch.randn(cell.batch, features, generator=generator) for features in reversed(shape)]
    if cell.layout == FEATURE_MAJOR:
        pair = [tensor.t().contiguous().t() for tensor in pair]
    return pair[0], pair[1]


def _beside(cell: Cell, peers: list[type[Peer]], ours: Ours) -> dict[str, Peer]:
    """The sides that are not peers but the other half of a ratio."""
    sides: dict[str, Peer] = {}
    x, grad_output = ours.x.detach(), ours.grad_output
    if cell.beside is not None:
        sides[RANDOM_ALIKE] = Ours(canonical(cell.beside()), x, grad_output)
    if cell.layout == FEATURE_MAJOR and Csr in peers:
        sides[CSR_BATCH_MAJOR] = Csr(ours.matrix, x.contiguous(), grad_output.contiguous())
    return sides


class _RefusedError(Exception):
    """A peer is not timed; the message says why."""


class _Admission:
    """Decides which peers take part in a cell: those that run, are right, and stay within the limits."""

    def __init__(self, ours: Ours, limits: Limits) -> None:
        self.ours, self.limits = ours, limits
        self.refusals: dict[str, str] = {}
        y, grad_input, grad_values = ours.step()
        self.expected = array(y), array(grad_input), array(grad_values)

    def __call__(self, peer: type[Peer]) -> Peer | None:
        """The peer made for the cell; None, and an entry in refusals, if it does not take part."""
        try:
            return self._try(peer)
        except _RefusedError as refused:
            reason = str(refused)
        except Exception as error:  # whatever a package raises, the others are still to be timed
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = f"{type(error).__name__}: {lines[0][:120]}"
        self.refusals[peer.name] = reason
        return None

    def _try(self, peer: type[Peer]) -> Peer:
        if problem := peer.problem():
            raise _RefusedError(problem)
        matrix, x, grad_output = self.ours.matrix, self.ours.x.detach(), self.ours.grad_output
        needed, most = peer.scratch_bytes(matrix, x.shape[0]), self.limits.scratch_bytes
        if most is not None and needed > most:
            raise _RefusedError(f"would need about {needed / 1e9:.2g} GB")
        side = peer(matrix, x, grad_output)
        # The first of each may compile or allocate; the second counts, unless the first was hopeless.
        for kind, run in (("forward", side.forward), ("step", side.step)):
            seconds, result = _timed(run)
            if seconds < 5 * self.limits.step_s:
                seconds, result = _timed(run)
            if seconds > self.limits.step_s:
                raise _RefusedError(f"{kind} took {seconds:.1f} s")
        self._check(side, result)
        return side

    def _check(self, side: Peer, result: tuple[Any, Any, Any]) -> None:
        found = array(result[0]), array(result[1]), side.in_csr_order(result[2])
        for what, got, expected in zip(("Y", "grad_input", "grad_values"), found, self.expected, strict=True):
            error = np.abs(got - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30)
            if got.shape != expected.shape or not error <= TOLERANCE:  # NaN is no more welcome
                raise _RefusedError(f"wrong: {what} differs from ours by {error:.1g} of its largest entry")


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    kept = []
    return CPU.sample(lambda: kept.append(run()), 1), kept[0]


@dataclass
class Side:
    """A side with its samples, of the kinds that it runs."""

    peer: Peer
    clock: Clock = CPU
    kinds: tuple[str, ...] = KINDS
    samples: dict[str, list[float]] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)

    def take(self, turn: int) -> None:
        """One sample of each kind; none where the side is slow and had its turns.

        The threads of the side before are asleep when it begins.
        """
        settle()
        for kind in self.kinds:
            run, samples = getattr(self.peer, kind), self.samples.setdefault(kind, [])
            if kind not in self.repeats:
                run()
                self.repeats[kind] = self.clock.enough_repeats(run)
            if turn >= _SLOW_TURNS and max(map(min, self.samples.values())) > _SLOW_S:
                continue
            if not samples or samples[-1] < _LONG_S:
                run()  # what the other sides left in the caches is not this one's time
            samples.append(self.clock.sample(run, self.repeats[kind]))

    def timings(self) -> dict[str, Timing]:
        """The result by kind."""
        return {kind: Timing(tuple(self.samples[kind]), self.repeats[kind]) for kind in self.kinds}
