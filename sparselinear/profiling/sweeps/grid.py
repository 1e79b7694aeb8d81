"""What a sweep measures: the cells of a grid of sizes, densities and batches, and in which order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from ... import checks, interop
from ...checks import message
from ...pattern import SparsityPattern
from ...topology import random_pattern, thin
from ..compare import select

SIZES = (2048,)
DENSITIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
BATCHES = (1, 32, 256)
BASELINES = ("dense", "csr")
ROUNDS = 5

# Quartiles of fewer samples are no measure of the noise.
_FEWEST_ROUNDS = 3
# Below the density of an adjacency, half a decade each.
_THINNED = tuple(10 ** (-step / 2) for step in range(5))


@dataclass(frozen=True, order=True)
class Cell:
    """One measurement of a sweep.

    Attributes:
        out_features: rows of the weight.
        in_features: columns of the weight.
        density: the density asked for.
        batch: rows of the input.
    """

    out_features: int
    in_features: int
    density: float
    batch: int

    @property
    def size(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.out_features, self.in_features

    @property
    def nnz(self) -> int:
        """Connections: the density, rounded to whole ones."""
        return round(self.density * self.out_features * self.in_features)

    def __str__(self) -> str:
        return f"{size_text(self.size)}, density {self.density:.3g}, batch {self.batch}"


class Grid:
    """The cells of a sweep and how each is measured; everything is checked when it is made.

    Args:
        adjacency: (out_features, in_features), any form that SparseLinear takes: its connections are
            thinned to each density. None draws uniformly random patterns.
        sizes: of the random patterns: a number for a square, or a pair (out_features, in_features).
            None is 2048.
        densities: nnz / (out_features * in_features), above 0 and up to 1. None is six from 0.001 to 0.3,
            or the adjacency's own and four below it.
        batches: rows of the input.
        baselines: names out of ``BASELINES``, or ``"all"``; one at least.
        rounds: samples of each time, at least 3, as their quartiles are the noise.
        dtype: dtype of values and input; None is torch's default.
        device: ``"cpu"`` or a CUDA device; None is torch's default.
        seed: of the patterns.

    Raises:
        TypeError, ValueError: an argument is wrong.
        RuntimeError: there is no such device.
    """

    def __init__(
        self,
        adjacency: Any = None,
        *,
        sizes: Iterable[int | tuple[int, int]] | None = None,
        densities: Iterable[float] | None = None,
        batches: Iterable[int] = BATCHES,
        baselines: str | Iterable[str] = BASELINES,
        rounds: int = ROUNDS,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        self.pattern = None if adjacency is None else interop.to_pattern(adjacency, device="cpu")
        self.sizes = _sizes(self.pattern, sizes)
        self.densities = _densities(self.pattern, self.sizes, densities)
        self.batches = _several("batches", {checks.whole("batches", batch, 1) for batch in batches})
        self.baselines = tuple(system.name for system in select(baselines))
        if not self.baselines:
            raise ValueError(message("baselines", "at least one to compare with", "none"))
        self.rounds = checks.whole("rounds", rounds, _FEWEST_ROUNDS)
        self.dtype = checks.floating_dtype("dtype", dtype)
        self.device = checks.device("device", device)
        self.seed = checks.whole("seed", seed, 0)
        self._last: tuple[tuple[int, int], int, SparsityPattern] | None = None

    def cells(self) -> list[Cell]:
        """Every cell, the most telling first: what a budget cuts off is the fine detail.

        The densities come in the order of bisection: the lowest and the highest tell whether there is a
        break-even at all, and each one after them halves the widest gap that is left. Each density is
        measured at every size and batch, from the small to the large, before the next density begins, so
        that at any moment all the curves are known equally well. It also begins with the cheapest
        cell, and how long the others will take is predicted from those measured.
        """
        return [
            Cell(*size, self.densities[index], batch)
            for index in bisection(len(self.densities))
            for size in self.sizes
            for batch in self.batches
        ]

    def pattern_of(self, cell: Cell) -> SparsityPattern:
        """The pattern of a cell, the same each time; the last one is kept for the next batch."""
        if self._last is None or self._last[:2] != (cell.size, cell.nnz):
            self._last = None  # before the next one is made
            if self.pattern is None:
                made = random_pattern(cell.size, cell.nnz, self.seed)
            else:
                made = thin(self.pattern, cell.nnz, self.seed)
            self._last = cell.size, cell.nnz, made
        return self._last[2]

    def to_dict(self) -> dict[str, Any]:
        """Everything that the cells depend on, ready for JSON; a pattern is told by its digest."""
        return {
            "sizes": [list(size) for size in self.sizes],
            "densities": list(self.densities),
            "batches": list(self.batches),
            "baselines": list(self.baselines),
            "rounds": self.rounds,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "seed": self.seed,
            "pattern": "random" if self.pattern is None else f"thinned from {_digest(self.pattern)}",
        }


def bisection(count: int) -> list[int]:
    """range(count) in the order of bisection: both ends, then the middle of the widest gap, and so on."""
    order = [0, count - 1][:count]
    while len(order) < count:
        known = sorted(order)
        gaps = [(high - low, -low) for low, high in pairwise(known)]
        width, low = max(gaps)
        order.append(-low + width // 2)
    return order


def size_text(size: tuple[int, int]) -> str:
    """``"2,048 x 512"``: outputs, then inputs."""
    return f"{size[0]:,} x {size[1]:,}"


def _sizes(
    pattern: SparsityPattern | None, sizes: Iterable[int | tuple[int, int]] | None
) -> tuple[tuple[int, int], ...]:
    if pattern is not None:
        if sizes is not None:
            raise ValueError(message("sizes", "None with an adjacency, which has its own size", repr(sizes)))
        if pattern.nnz == 0:
            raise ValueError(message("adjacency", "at least one connection", "none"))
        return (pattern.shape,)
    found = set()
    for given in SIZES if sizes is None else sizes:
        sides = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
        if len(sides) != 2:
            raise ValueError(message("sizes", "numbers or pairs (out_features, in_features)", repr(given)))
        out_features, in_features = sides
        pair = checks.whole("sizes", out_features, 1), checks.whole("sizes", in_features, 1)
        if math.prod(pair) >= 1 << 63:
            raise ValueError(message("sizes", "fewer than 2**63 cells", size_text(pair)))
        found.add(pair)
    return tuple(sorted(_several("sizes", found), key=math.prod))


def _densities(
    pattern: SparsityPattern | None, sizes: Sequence[tuple[int, int]], densities: Iterable[float] | None
) -> tuple[float, ...]:
    if densities is None:
        if pattern is None:
            densities = DENSITIES
        else:
            kept = {max(1, round(pattern.nnz * share)) for share in _THINNED}
            densities = (nnz / math.prod(pattern.shape) for nnz in kept)
    found = _several("densities", {_density(given) for given in densities})
    for size in sizes:
        least = 1 / math.prod(size)
        if Cell(*size, found[0], 1).nnz < 1:
            expected = f"at least one connection of {size_text(size)}, density {least:.3g}"
            raise ValueError(message("densities", expected, f"{found[0]:.3g}"))
    if pattern is not None and Cell(*pattern.shape, found[-1], 1).nnz > pattern.nnz:
        advice = "Thinning only takes connections away."
        expected = f"at most the adjacency's own density {pattern.density:.4g}"
        raise ValueError(message("densities", expected, f"{found[-1]:.4g}", advice))
    return found


def _density(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(message("densities", "numbers above 0 and up to 1", repr(value))) from None
    if not 0 < number <= 1:  # nor NaN
        raise ValueError(message("densities", "numbers above 0 and up to 1", repr(value)))
    return number


def _several(argument: str, found: set[Any]) -> tuple[Any, ...]:
    """Each once and rising; at least one."""
    if not found:
        raise ValueError(message(argument, "at least one", "none"))
    return tuple(sorted(found))


def _digest(pattern: SparsityPattern) -> str:
    """Tells patterns apart, whatever their index dtype and the file they came from."""
    digest = hashlib.sha256(repr(pattern.shape).encode())
    for indices in (pattern.crow_indices, pattern.col_indices):
        digest.update(indices.long().numpy().tobytes())
    return digest.hexdigest()[:16]
