"""Sweeps without measuring: profiles whose times follow a law with a break-even that is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from sparselinear import interop
from sparselinear.profiling import Profile, Row, Sizes, compare
from sparselinear.profiling.baselines import OURS
from sparselinear.profiling.machine import Machine
from sparselinear.profiling.timing import Timing

MACHINE = Machine("A processor", 4, "AVX512", 2, 24 * 10**9, "2.13.0", "3.11.7", "Linux x86_64")

# Dense takes DENSE_S whatever the density, sparse DENSE_S * sqrt(density / CROSSING): a straight line in
# logarithms, so that interpolation has to meet the crossing exactly.
DENSE_S = 1e-3
CROSSING = 0.02


def timing(median_s: float, spread: float = 0.01) -> Timing:
    """Five samples with the quartiles this share below and above the median."""
    shares = (1 - 2 * spread, 1 - spread, 1.0, 1 + spread, 1 + 2 * spread)
    return Timing(tuple(median_s * share for share in shares), 1)


class FakeProfile:
    """Takes the place of ``compare.profile``: answers at once, and remembers what it was asked.

    Attributes:
        asked: (nnz, batch) of each call but the warming up.
        at: called before each answer but the first, with the number of the call from 1 on.
    """

    def __init__(self, at: Callable[[int], None] = lambda _: None, **changes: Any) -> None:
        self.asked: list[tuple[int, int]] = []
        self.at, self.changes = at, changes

    def __call__(
        self, adjacency: Any, *, batch: int, baselines: Iterable[str], rounds: int, **options: Any
    ) -> Profile:
        pattern = interop.to_pattern(adjacency)
        if math.prod(pattern.shape) > 1:
            self.asked.append((pattern.nnz, batch))
            self.at(len(self.asked))
        if options["progress"]:
            options["progress"](0, 1, "timing", "")
        sizes = Sizes(*pattern.shape, pattern.nnz, True, 4, 4, batch)
        ours = DENSE_S * math.sqrt(pattern.density / CROSSING)
        systems = [(OURS, ours), *((system, DENSE_S) for system in compare.select(baselines))]
        rows = [
            Row(system.name, system.letter, "", "measured", system.bytes(sizes), 10**6, timing(s), timing(s))
            for system, s in systems
        ]
        kept = {"other_cores": 0.0, **self.changes}
        return Profile(
            "", sizes, pattern.density, "float32", "cpu", rounds, "", MACHINE,
            limit_bytes=10**9, rows=tuple(rows), **kept,
        )  # fmt: skip


def connections(pattern: Any) -> set[int]:
    """Every connection as the number of its cell, counted row by row."""
    rows = pattern.rows(0, pattern.nnz)
    return set((rows * pattern.in_features + pattern.col_indices).tolist())


def full(out_features: int, in_features: int) -> torch.Tensor:
    """Every connection there can be."""
    return torch.ones(out_features, in_features)
