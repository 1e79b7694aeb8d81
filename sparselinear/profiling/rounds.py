"""Time systems in rounds, in turns, and in more rounds those that the noise does not tell from ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..linear import SparseLinear
from .baselines import System
from .ledger import Sizes, needed_bytes
from .noise import difference
from .timing import Subject

# Called with the steps done, the steps in all, the stage, and a detail of it.
Progress = Callable[[int, int, str, str], None]

# Systems that cannot be told apart take up to this many times the rounds that were asked for.
MOST_ROUNDS = 3


class Ticks:
    """Counts the steps of a profile and tells them."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def next(self, stage: str, detail: str) -> None:
        """Tell what begins now."""
        if self._progress:
            self._progress(self._done, self._total, stage, detail)
        self._done += 1

    def expect(self, more: int) -> None:
        """There is more to do than was known."""
        self._total += more


def time_in_rounds(
    systems: Sequence[System], layer: SparseLinear, sizes: Sizes, rounds: int, limit: int, ticks: Ticks
) -> list[Subject]:
    """Interleaved rounds over all systems; a system that torch refuses takes part as far as it runs."""
    options: dict[str, Any] = {"device": layer.values.device, "dtype": layer.values.dtype}
    x = torch.randn(sizes.batch, sizes.in_features, requires_grad=True, **options)
    grad_output = torch.randn(sizes.batch, sizes.out_features, **options)
    keep = _fit_together(systems, sizes, limit)
    subjects = [Subject(system, layer, x, grad_output, keep) for system in systems]
    for subject in subjects:
        ticks.next("building and warming up", subject.system.name)
        subject.warm_up()
    _rounds(subjects, "timing", rounds, ticks)
    _remeasure(subjects, rounds, ticks)
    return subjects


def _rounds(subjects: Sequence[Subject], stage: str, rounds: int, ticks: Ticks) -> None:
    for number in range(1, rounds + 1):
        for subject in subjects:
            ticks.next(stage, f"round {number} of {rounds}, {subject.system.name}")
            subject.turn()


def _remeasure(subjects: Sequence[Subject], rounds: int, ticks: Ticks) -> None:
    """More rounds of ours and of what cannot be told from it.

    Who has left does not come back, so that the samples of a system are of the same rounds as as many
    of the first samples of ours.
    """
    ours, *close = subjects
    for _ in range(MOST_ROUNDS - 1):
        close = [subject for subject in close if _undecided(ours, subject)]
        if not close:
            return
        ticks.expect(rounds * (1 + len(close)))
        _rounds((ours, *close), "timing again what is close", rounds, ticks)


def _undecided(ours: Subject, other: Subject) -> bool:
    """Whether more rounds might tell the two apart, by forward or by step."""
    pairs = [(ours.timing(kind), other.timing(kind)) for kind in ("forward", "step")]
    return any(a is not None and b is not None and difference(b, a).undecided for a, b in pairs)


def _fit_together(systems: Sequence[System], sizes: Sizes, limit: int) -> bool:
    """Whether the modules of all systems can live at once, beside the step of any one of them."""
    ledgers = [system.bytes(sizes) for system in systems]
    resident = sum(ledger.resident_bytes for ledger in ledgers)
    return resident + max(needed_bytes(ledger, sizes) - ledger.resident_bytes for ledger in ledgers) <= limit
