"""Break-even on curves whose crossing is known, and the words for every way a curve can run."""

from __future__ import annotations

import math

import pytest
from sweeps import timing

from sparselinear.profiling import BreakEven, Point
from sparselinear.profiling.timing import Timing


def curve(*points: Point) -> BreakEven:
    return BreakEven((64, 32), 8, "dense", "step", points)


def of(outcomes: str, densities: tuple[float, ...] = (0.001, 0.01, 0.1, 0.5)) -> BreakEven:
    """+ is faster, - is slower, = is not told apart."""
    bounds = {"+": (2.0, 1.9, 2.1), "-": (0.5, 0.4, 0.6), "=": (1.0, 0.9, 1.1)}
    return curve(*(Point(d, *bounds[o]) for d, o in zip(densities, outcomes, strict=False)))


def test_point_from_timings() -> None:
    sparse, dense = Timing((1.0, 2.0, 3.0, 4.0, 5.0), 1), Timing((10.0, 12.0, 14.0, 16.0, 18.0), 1)
    assert Point.of(0.1, sparse, dense) == Point(0.1, 14 / 3, 12 / 4, 16 / 2)


@pytest.mark.parametrize("power", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("crossing", [0.0011, 0.02, 0.0317, 0.29])
def test_a_straight_line_is_met_exactly(power: float, crossing: float) -> None:
    """The ratio is (crossing / density) ** power; noise moves its ends by a factor that is known."""
    spread = 0.001
    factor = (1 + spread) / (1 - spread)
    densities = (0.001, 0.01, 0.1, 0.3)
    found = curve(
        *(Point.of(d, timing((d / crossing) ** power, spread), timing(1.0, spread)) for d in densities)
    )
    (met,) = found.crossings
    assert met.below == "faster"
    assert met.density == pytest.approx(crossing, rel=1e-9)
    assert met.low == pytest.approx(crossing * factor ** (-1 / power), rel=1e-9)
    assert met.high == pytest.approx(crossing * factor ** (1 / power), rel=1e-9)


def test_the_other_way_round() -> None:
    """Slower below and faster above, as against a baseline that slows down sooner."""
    found = curve(Point(0.01, 0.5, 0.25, 0.8), Point(1.0, 8.0, 4.0, 16.0))
    (met,) = found.crossings
    assert met.below == "slower"
    assert met.density == pytest.approx(0.01 * 100 ** (1 / 4))  # log 2 of the log 16 between them
    assert met.low == pytest.approx(0.01 * 100 ** (math.log(0.8) / math.log(0.8 / 16)))
    assert met.high == pytest.approx(0.01 * 100 ** (2 / 4))


def test_points_without_difference_widen_the_range() -> None:
    found = curve(
        Point(0.001, 4.0, 2.0, 8.0),
        Point(0.01, 1.2, 0.5, 2.0),
        Point(0.1, 0.9, 0.4, 2.0),
        Point(1, 0.2, 0.1, 0.5),
    )
    (met,) = found.crossings
    assert met.low == pytest.approx(0.001 * 10**0.5)
    assert met.high == pytest.approx(0.1 * 10**0.5)
    share = math.log(1.2) / math.log(1.2 / 0.9)
    assert met.density == pytest.approx(0.01 * 10**share)
    assert met.low < met.density < met.high


def test_a_ratio_of_one() -> None:
    found = curve(Point(0.01, 2.0, 1.5, 3.0), Point(0.1, 1.0, 1.0, 1.0), Point(0.5, 0.5, 0.4, 0.6))
    assert [(met.low, met.density, met.high) for met in found.crossings] == [pytest.approx((0.1, 0.1, 0.1))]


WORDS = [
    ("", "not measured", "not measured"),
    ("+", "sparse faster at every density measured (up to 0.001)", "faster up to 0.001"),
    ("++++", "sparse faster at every density measured (up to 0.5)", "faster up to 0.5"),
    ("----", "sparse slower at every density measured (down to 0.001)", "slower from 0.001"),
    ("====", "no difference seen between 0.001 and 0.5", "no difference"),
    ("=", "no difference seen at 0.001", "no difference"),
    (
        "++==",
        "sparse faster between 0.001 and 0.01; no difference seen between 0.1 and 0.5",
        "faster up to 0.01",
    ),
    ("=++", "no difference seen at 0.001; sparse faster between 0.01 and 0.1", "faster from 0.01"),
    (
        "==--",
        "no difference seen between 0.001 and 0.01; sparse slower between 0.1 and 0.5",
        "slower from 0.1",
    ),
    ("--=", "sparse slower between 0.001 and 0.01; no difference seen at 0.1", "slower up to 0.01"),
    (
        "+=+",
        "sparse faster at 0.001; no difference seen at 0.01; sparse faster at 0.1",
        "faster up to 0.1",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("outcomes", "words", "short"), WORDS, ids=[row[0] or "none" for row in WORDS])
def test_words(outcomes: str, words: str, short: str) -> None:
    found = of(outcomes)
    assert (found.words, found.short) == (words, short)
    assert found.crossings == ()


CROSSED = [
    ("+-", 0.0032, "sparse faster below, slower above"),
    ("-+", 0.0032, "sparse slower below, faster above"),
    ("++--", 0.032, "sparse faster below, slower above"),
    ("+-==", 0.0032, "sparse faster below, slower above; no difference seen between 0.1 and 0.5"),
    ("=+-", 0.032, "sparse faster below, slower above; no difference seen at 0.001"),
]


@pytest.mark.parametrize(("outcomes", "density", "words"), CROSSED, ids=[row[0] for row in CROSSED])
def test_words_of_a_crossing(outcomes: str, density: float, words: str) -> None:
    found = of(outcomes)
    (met,) = found.crossings
    assert found.words == f"break-even at {met}: {words}"
    assert found.short == ("faster from " if met.below == "slower" else "") + str(met)
    assert str(met).startswith(f"{density} (0.")


def test_several_crossings_are_all_told() -> None:
    found = of("+-+-")
    assert [met.below for met in found.crossings] == ["faster", "slower", "faster"]
    assert found.words.count("break-even at") == 3
    told = found.to_dict()
    assert [crossing["below"] for crossing in told["crossings"]] == ["faster", "slower", "faster"]
    assert [point["outcome"] for point in told["points"]] == ["faster", "slower", "faster", "slower"]
