"""Whether two systems differ: the ratio by round, its noise, and what has to be exceeded."""

from __future__ import annotations

import math
import random

import pytest

from sparselinear.profiling import noise
from sparselinear.profiling.noise import Difference, difference
from sparselinear.profiling.timing import Timing


def timing(*samples: float) -> Timing:
    return Timing(samples, 1)


def test_ratio_and_noise_by_hand() -> None:
    """Logarithms of the ratios 0, 0.1, 0.2, 0.3, 0.4: quartiles 0.05 and 0.35, so the range R is 0.3."""
    own = (1.0, 2.0, 3.0, 4.0, 5.0)
    other = tuple(math.exp(0.1 * place) * taken for place, taken in zip((2, 0, 4, 1, 3), own, strict=True))
    found = difference(timing(*other), timing(*own))
    assert found.ratio == pytest.approx(math.exp(0.2))
    assert found.noise == pytest.approx(math.expm1(1.96 * 1.25 * 0.3 / (1.35 * math.sqrt(5))))
    assert found.rounds == 5
    back = difference(timing(*own), timing(*other))
    assert back.ratio == pytest.approx(1 / found.ratio)
    assert back.noise == pytest.approx(found.noise)
    assert back.size == pytest.approx(found.size)


def test_what_slows_both_is_no_noise() -> None:
    slow = (1.0, 5.0, 1.1, 3.0, 2.0)
    found = difference(timing(*(1.1 * taken for taken in slow)), timing(*slow))
    assert found.noise == pytest.approx(0)
    assert found.ratio == pytest.approx(1.1)
    assert found.seen


def test_rounds_that_one_did_not_take_part_in_do_not_count() -> None:
    found = difference(timing(2, 2, 2), timing(1, 1, 1, 50, 50, 50))
    assert (found.ratio, found.rounds) == (2, 3)


@pytest.mark.parametrize("rounds", [1, 2])
def test_few_rounds_have_no_noise_figure(rounds: int) -> None:
    found = difference(timing(*[9.0] * rounds), timing(*[1.0] * rounds))
    assert found.noise is None
    assert not found.seen
    assert not found.undecided  # more of the same would be measured without end
    assert found.to_dict() == {"ratio": 9.0, "noise": None, "different": False, "rounds": rounds}


@pytest.mark.parametrize(
    ("ratio", "noise_figure", "seen", "undecided"),
    [
        pytest.param(1.5, 0.1, True, False, id="larger than the noise"),
        pytest.param(1 / 1.5, 0.1, True, False, id="the other way round"),
        pytest.param(1.05, 0.1, False, True, id="smaller than the noise"),
        pytest.param(1.015, 0.001, False, False, id="larger than the noise, but too small to matter"),
        pytest.param(1.03, 0.001, True, False, id="just large enough"),
    ],
)
def test_seen_and_undecided(ratio: float, noise_figure: float, seen: bool, undecided: bool) -> None:
    found = Difference(ratio, noise_figure, 7)
    assert (found.seen, found.undecided) == (seen, undecided)
    assert found.needed == max(noise_figure, noise.LEAST)


@pytest.mark.parametrize("rounds", [3, 5, 7, 21])
def test_equals_are_seldom_told_apart(rounds: int) -> None:
    """The interval is of 95 %: of 2000 pairs of the same distribution, few are seen as different."""
    draw = random.Random(0)

    def samples() -> Timing:
        return timing(*(math.exp(draw.gauss(0, 0.2)) for _ in range(rounds)))

    seen = sum(difference(samples(), samples()).seen for _ in range(2000)) / 2000
    assert 0.01 < seen < 0.09
