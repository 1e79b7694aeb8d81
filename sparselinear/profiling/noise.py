"""Whether two systems differ in time: their ratio, and the noise that it has to exceed.

The systems take turns, so the two samples of one round were taken within moments of each other. What
slows the machine slows both, and the ratio of the two in a round is steadier than either of them.

    ratio   the median, over the rounds that both took part in, of the ratio in a round
    noise   half the width of the 95 % interval of that median, as a share of the ratio:
            1.96 * 1.25 R / (1.35 sqrt(n)), where R is the range between the quartiles of the logarithms
            of the n ratios. This is the notch of a box plot for one group (McGill, Tukey and Larsen,
            Variations of Box Plots, The American Statistician 32, 1978). By the logarithm, a to b and
            b to a have the same noise. The quartiles are those of what the ratios are drawn from
            (``exclusive`` in Python's statistics). Two systems that are equal are then seen as different
            in 5 to 8 % of the cases after 3 to 21 rounds, in 12 % if one looks after 7, 14 and 21.

Two systems differ if their ratio is off 1 by more than the noise, and by more than 2 %: where the arrays
of a process happen to lie makes as much, and no number of rounds in one process can see that (Mytkowicz
et al., Producing Wrong Data Without Doing Anything Obviously Wrong, 2009).
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from .timing import Timing

# Fewer rounds have no noise figure: two ratios have no quartiles to speak of.
FEWEST_ROUNDS = 3
LEAST = 0.02
_NOTCH = 1.96 * 1.25 / 1.35


@dataclass(frozen=True)
class Difference:
    """How the times of two systems differ.

    Attributes:
        ratio: how many times as long as the second the first takes.
        noise: what the ratio has to exceed, as a share of it: 0.01 is 1 %; None below FEWEST_ROUNDS.
        rounds: how many rounds both took part in.
    """

    ratio: float
    noise: float | None
    rounds: int

    @property
    def size(self) -> float:
        """How much more time the slower one takes, as a share of the time of the faster one."""
        return max(self.ratio, 1 / self.ratio) - 1

    @property
    def needed(self) -> float:
        """What the size has to exceed to be seen: the noise, but no less than LEAST."""
        return max(LEAST, math.inf if self.noise is None else self.noise)

    @property
    def seen(self) -> bool:
        """Whether the two differ."""
        return self.size > self.needed

    @property
    def undecided(self) -> bool:
        """Whether more rounds, and so less noise, might show a difference that was not seen."""
        return self.noise is not None and self.noise > LEAST and not self.seen

    def to_dict(self) -> dict[str, object]:
        """The same, ready for JSON."""
        return {"ratio": self.ratio, "noise": self.noise, "different": self.seen, "rounds": self.rounds}


def difference(first: Timing, second: Timing) -> Difference:
    """The times of one system against those of another, paired by round.

    Args:
        first: the one whose time is divided.
        second: the one it is divided by. Where one took part in more rounds, the rounds that both
            began with count.
    """
    ratios = [a / b for a, b in zip(first.samples_s, second.samples_s, strict=False)]
    rounds = len(ratios)
    noise = None
    if rounds >= FEWEST_ROUNDS:
        low, _, high = statistics.quantiles(map(math.log, ratios), n=4, method="exclusive")
        noise = math.expm1(_NOTCH * (high - low) / math.sqrt(rounds))
    return Difference(statistics.median(ratios), noise, rounds)
