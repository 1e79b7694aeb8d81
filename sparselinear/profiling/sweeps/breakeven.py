"""Break-even: the density at which a sparse layer takes as long as a baseline.

Between two densities that were measured, the logarithm of the ratio of the times is taken as a straight
line over the logarithm of the density. Beyond the lowest and the highest nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from typing import Any

from ..timing import Timing

FASTER, SLOWER, EQUAL = "faster", "slower", "no difference"


@dataclass(frozen=True)
class Point:
    """How sparse compares with a baseline at one density.

    Attributes:
        density: nnz / (out_features * in_features).
        ratio: time of the baseline over time of sparse, of the medians; above 1 sparse is faster.
        low: the least the ratio may be: first quartile of the baseline over third of sparse.
        high: the most it may be: third quartile of the baseline over first of sparse.
    """

    density: float
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, density: float, sparse: Timing, baseline: Timing) -> Point:
        """The comparison of two timings."""
        (first, third), (base_first, base_third) = sparse.quartiles_s, baseline.quartiles_s
        return cls(density, baseline.median_s / sparse.median_s, base_first / third, base_third / first)

    @property
    def outcome(self) -> str:
        """``"faster"`` or ``"slower"``, of sparse; ``"no difference"`` where the noise hides it."""
        if self.low > 1:
            return FASTER
        return SLOWER if self.high < 1 else EQUAL


@dataclass(frozen=True)
class Crossing:
    """A density at which sparse and a baseline break even.

    Attributes:
        density: where the ratio of the medians is 1.
        low: from here on the noise no longer separates the two.
        high: up to here.
        below: ``"faster"`` or ``"slower"``: what sparse is below it; it is the other above.
    """

    density: float
    low: float
    high: float
    below: str

    def __str__(self) -> str:
        return f"{self.density:.2g} ({self.low:.2g} to {self.high:.2g})"


@dataclass(frozen=True)
class BreakEven:
    """How sparse compares with a baseline over the densities, at one size and batch.

    Attributes:
        size: (out_features, in_features).
        batch: rows of the input.
        baseline: its name.
        kind: ``"step"`` or ``"forward"``.
        points: what was measured, by rising density.
    """

    size: tuple[int, int]
    batch: int
    baseline: str
    kind: str
    points: tuple[Point, ...]

    @property
    def crossings(self) -> tuple[Crossing, ...]:
        """Every break-even that is bracketed by a density where sparse is faster and one where it is slower.

        Against a baseline that is dense there is one at most, but for the noise; against another
        sparse one there may be several.
        """
        known = [index for index, point in enumerate(self.points) if point.outcome != EQUAL]
        return tuple(
            _crossing(self.points[low : high + 1])
            for low, high in pairwise(known)
            if self.points[low].outcome != self.points[high].outcome
        )

    @property
    def words(self) -> str:
        """The whole of it in words."""
        if not self.points:
            return "not measured"
        runs = self._runs()
        outcomes = {outcome for outcome, _, _ in runs}
        if outcomes == {FASTER}:
            return f"sparse faster at every density measured (up to {runs[-1][2]:.2g})"
        if outcomes == {SLOWER}:
            return f"sparse slower at every density measured (down to {runs[0][1]:.2g})"
        if not self.crossings:
            return "; ".join(_run_words(*run) for run in runs)
        ends = [run for run in (runs[0], runs[-1]) if run[0] == EQUAL]
        return "; ".join([*map(_crossing_words, self.crossings), *(_run_words(*run) for run in ends)])

    @property
    def short(self) -> str:
        """The same for the cell of a table."""
        if not self.points:
            return "not measured"
        if self.crossings:
            return ", ".join("faster from " * (one.below == SLOWER) + str(one) for one in self.crossings)
        runs = self._runs()
        told = [run for run in runs if run[0] != EQUAL]
        if not told:
            return EQUAL
        (outcome, low, _), high = told[0], told[-1][2]
        downwards = outcome == FASTER if runs[0] == told[0] and runs[-1] == told[-1] else runs[0] == told[0]
        return f"{outcome} up to {high:.2g}" if downwards else f"{outcome} from {low:.2g}"

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "out_features": self.size[0],
            "in_features": self.size[1],
            "batch": self.batch,
            "baseline": self.baseline,
            "kind": self.kind,
            "points": [{**asdict(point), "outcome": point.outcome} for point in self.points],
            "crossings": [asdict(crossing) for crossing in self.crossings],
            "words": self.words,
        }

    def _runs(self) -> list[tuple[str, float, float]]:
        """Outcome, lowest and highest density of the neighbours that share an outcome."""
        runs = []
        for outcome, group in groupby(self.points, key=lambda point: point.outcome):
            densities = [point.density for point in group]
            runs.append((outcome, densities[0], densities[-1]))
        return runs


def _crossing(points: Sequence[Point]) -> Crossing:
    """Between a first and a last point of opposite outcomes, none of the others having any."""
    below = points[0].outcome
    # Towards slower the lowest the ratio may be is the first to reach 1; towards faster the highest.
    first, last = ("low", "high") if below == FASTER else ("high", "low")
    return Crossing(
        density=_where_one(points, "ratio"),
        low=_where_one(points, first),
        high=_where_one(points[::-1], last),
        below=below,
    )


def _where_one(points: Sequence[Point], curve: str) -> float:
    """Density at which a curve first goes through 1, seen from the first point."""
    places = [(math.log(point.density), math.log(getattr(point, curve))) for point in points]
    start = places[0][1]
    x0, y0, x1, y1 = next(
        (x0, y0, x1, y1) for (x0, y0), (x1, y1) in pairwise(places) if (y1 > 0) != (start > 0) or y1 == 0
    )
    return math.exp(x0 + (x1 - x0) * y0 / (y0 - y1))


def _crossing_words(crossing: Crossing) -> str:
    above = SLOWER if crossing.below == FASTER else FASTER
    return f"break-even at {crossing}: sparse {crossing.below} below, {above} above"


def _run_words(outcome: str, low: float, high: float) -> str:
    where = f"at {low:.2g}" if low == high else f"between {low:.2g} and {high:.2g}"
    return f"no difference seen {where}" if outcome == EQUAL else f"sparse {outcome} {where}"
