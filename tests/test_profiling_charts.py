"""The drawings of the report: read back from the SVG, they say what went in."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from cases import Case, each_case
from test_profiling_table import example, row_of

from sparselinear import interop
from sparselinear.profiling import Portrait
from sparselinear.profiling.portrait import Degrees
from sparselinear.profiling.report import charts, pattern, tables
from sparselinear.profiling.report.charts import Axis, Bar, Segment
from sparselinear.profiling.report.markup import element, html
from sparselinear.profiling.report.memory import memory
from sparselinear.profiling.report.pattern import LEVELS, Shades
from sparselinear.profiling.timing import Timing


def percent(found: ET.Element, name: str) -> float:
    return float(found.attrib[name].removesuffix("%"))


@pytest.mark.parametrize(
    ("values", "ticks", "logarithmic"),
    [
        ([0.001, 0.0199], [0, 0.005, 0.01, 0.015, 0.02], False),
        ([3.0, 5.0], [0, 1, 2, 3, 4, 5], False),
        ([1.0], [0, 0.2, 0.4, 0.6, 0.8, 1.0], False),
        ([0.001, 0.03], [1e-4, 1e-3, 1e-2, 1e-1], True),  # 1e-3 has a bar of some length
        ([0.002, 3.0], [1e-3, 1e-2, 1e-1, 1, 10], True),
        ([1.5e-9, 3e3], [1e-9, 1e-6, 1e-3, 1, 1e3, 1e6], True),
        ([0.0, 0.0], [0, 0.2, 0.4, 0.6, 0.8, 1.0], False),
        ([], [0, 0.2, 0.4, 0.6, 0.8, 1.0], False),
    ],
)
def test_axis(values: list[float], ticks: list[float], logarithmic: bool) -> None:
    axis = Axis.of(values)
    assert axis.logarithmic is logarithmic
    assert axis.ticks == pytest.approx(ticks)
    assert (axis.low, axis.high) == pytest.approx((ticks[0], ticks[-1]))
    shares = [axis.at(tick) for tick in axis.ticks]
    assert shares == pytest.approx(np.linspace(0, 100, len(ticks)))  # even steps on the page
    assert all(0 < axis.at(value) <= 100 for value in values if value)
    assert axis.at(axis.high * 2) == 100
    assert axis.at(0) == 0


@pytest.mark.parametrize("largest", [1, 19, 20, 21, 4.4e6, 958e6, 3.9e12, 1e-7])
def test_a_linear_axis_is_a_little_longer_than_the_largest(largest: float) -> None:
    axis = Axis.linear(largest)
    assert largest <= axis.high * (1 + 1e-9) < 2 * largest
    assert 3 <= len(axis.ticks) <= 6


def test_a_bar_ends_at_its_value_with_its_whisker_and_mark() -> None:
    axis = Axis.linear(10.0)
    parts = (Segment(0, 2, "a"), Segment(2, 6, "b", title="the second"))
    lines = (Bar("full", "6 s", parts, whisker=(5, 8), mark=7.0, strong=True), Bar("none", "refused"))
    drawn = charts.bars(("a", "caption"), axis, lines, "{:g}".format)
    first, second = drawn.findall("ul/li")
    assert [span.text for span in first.findall("span")] == ["full", "6 s"]
    assert [(percent(r, "x"), percent(r, "width")) for r in first.findall("svg/rect")] == [(0, 20), (20, 40)]
    assert first.findtext("svg/rect/title") == "the second"
    lines_of = {name: first.findall(f"svg/line[@class='{name}']") for name in ("whisker", "mark")}
    assert [(percent(w, "x1"), percent(w, "x2")) for w in lines_of["whisker"]] == [
        (50, 80),
        (50, 50),
        (80, 80),
    ]
    assert [percent(m, "x1") for m in lines_of["mark"]] == [70]
    assert not second.findall("svg/rect")
    assert [span.text for span in second.findall("span")] == ["none", "refused"]
    scale = drawn.findall("svg/text")
    assert [(text.text, percent(text, "x")) for text in scale] == [
        (f"{tick:g}", axis.at(tick)) for tick in axis.ticks
    ]


def test_memory_bars_are_stacked_and_small_ones_enlarged() -> None:
    ours = replace(row_of("sparselinear", 2.0, 5 * 10**6), needed_bytes=10**7)
    rows = ours, row_of("dense", 50.0, 9 * 10**8)
    drawn = memory(example(*rows))
    whole, enlarged = drawn.findall("figure")
    assert [item.findtext("span") for item in whole.findall("ul/li")] == ["sparselinear", "dense"]
    assert [item.findtext("span") for item in enlarged.findall("ul/li")] == ["sparselinear"]
    ends = {}
    for chart, high in ((whole, 1e9), (enlarged, 1e7)):
        for item in chart.findall("ul/li"):
            rects = item.findall("svg/rect")
            edge = 0.0
            for rect in rects:  # each begins where the one before ends
                assert percent(rect, "x") == pytest.approx(edge, abs=0.02)
                edge = percent(rect, "x") + percent(rect, "width")
            ends[item.findtext("span"), high] = edge * high / 100
            (mark,) = item.findall("svg/line[@class='mark']")
            peak = 5e6 if item.findtext("span") == "sparselinear" else 9e8
            assert percent(mark, "x1") == pytest.approx(100 * peak / high, abs=0.01)
    assert ends["dense", 1e9] == pytest.approx(1e9, rel=1e-3)
    assert ends["sparselinear", 1e7] == pytest.approx(1e7, rel=1e-3)
    assert len(memory(example(rows[1])).findall("figure")) == 1  # nothing is small beside itself


def painted(drawn: ET.Element) -> np.ndarray:
    """The levels that the paths of a picture cover."""
    width, height = map(int, drawn.attrib["viewBox"].split()[2:])
    levels = np.zeros((height, width), dtype=int)
    for path in drawn.findall("path"):
        for x, y, run, back in re.findall(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z", path.attrib["d"]):
            assert run == back
            assert not levels[int(y), int(x) : int(x) + int(run)].any()  # nothing is painted twice
            levels[int(y), int(x) : int(x) + int(run)] = int(path.attrib["class"].removeprefix("level"))
    return levels


@each_case
def test_the_picture_shows_every_connection_and_no_other(case: Case) -> None:
    portrait = Portrait.of(interop.to_pattern(case.adjacency))
    shades = Shades.of(portrait)
    counts = np.array(portrait.counts)
    if shades is None:
        assert not counts.any()
        return
    drawn = painted(pattern.picture(shades, ""))
    np.testing.assert_array_equal(drawn > 0, counts > 0)
    assert set(drawn[drawn > 0]) == {LEVELS}  # a cell a pixel: the only density is 1
    assert (shades.high, shades.logarithmic) == (1, False)


@pytest.mark.parametrize("logarithmic", [False, True])
def test_shades_are_steps_of_the_density(logarithmic: bool) -> None:
    rng = np.random.default_rng(0)
    weights = np.geomspace(1e-4, 0.3, 700) if logarithmic else np.linspace(0.5, 0.9, 700)
    cells = rng.random((500, 700)) < weights
    portrait = Portrait.of(interop.to_pattern(sp.csr_array(cells)))
    shades = Shades.of(portrait)
    assert shades is not None
    assert shades.logarithmic is logarithmic
    shape = np.array(portrait.counts).shape
    density = np.zeros(shape)
    rows, columns = (np.arange(n) * pixels // n for n, pixels in zip(cells.shape, shape, strict=True))
    np.add.at(density, (rows[:, None], columns[None, :]), cells)
    density /= np.outer(np.bincount(rows), np.bincount(columns))
    low, high = density[density > 0].min(), density.max()
    assert (shades.low, shades.high) == pytest.approx((low if logarithmic else 0, high))
    steps = np.geomspace(low, high, LEVELS + 1) if logarithmic else np.linspace(0, high, LEVELS + 1)
    levels = np.array(shades.levels)
    for level in range(1, LEVELS + 1):
        inside = density[levels == level]
        assert (inside >= steps[level - 1] * (1 - 1e-9)).all()
        assert (inside <= steps[level] * (1 + 1e-9)).all()
    np.testing.assert_array_equal(painted(pattern.picture(shades, "")), levels)


def test_histogram_heights_are_the_counts() -> None:
    degrees = Degrees.of(np.array([1, 1, 1, 2, 2, 4]))
    chart, ends = pattern.histogram(degrees, "described")
    rects = chart.findall("rect")
    assert [percent(rect, "height") for rect in rects] == pytest.approx([100, 66.67, 0, 33.33])
    assert all(percent(rect, "y") + percent(rect, "height") == pytest.approx(100) for rect in rects)
    assert [rect.findtext("title") for rect in rects][:2] == ["degree 1: 3", "degree 2: 2"]
    assert chart.attrib["aria-label"] == "described"
    assert [span.text for span in ends] == ["1", "4"]


@pytest.mark.parametrize(
    ("taken", "text", "tick"),
    [
        (2.0, "2.00 s", "2 s"),
        (0.02, "20.0 ms", "20 ms"),
        (0.9997e-3, "1.00 ms", "0.9997 ms"),
        (1e-4, "100 µs", "100 µs"),
        (2.5e-9, "2.50 ns", "2.5 ns"),
    ],
)
def test_seconds(taken: float, text: str, tick: str) -> None:
    assert tables.seconds(taken) == text
    assert tables.time_tick(taken) == tick


def test_numbers_as_text() -> None:
    assert tables.spread(Timing((0.0010, 0.0012, 0.0016), 1)) == "1.20 ms ±0.15"
    assert tables.spread(Timing((123.0,), 1)) == "123 s ±0"
    assert tables.time_tick(0.0) == "0"
    assert [tables.size_tick(size) for size in (0.0, 2e8, 2.5e9)] == ["0 B", "200 MB", "2.5 GB"]
    assert [tables.three_significant(value) for value in (0.00177, 21.03)] == ["0.00177", "21.0"]


def test_markup_escapes_texts_and_attributes() -> None:
    made = element("p", "a < b", element("b", "&"), ' "', None, "c", class_='"><i', hidden=True, id=None)
    assert html(made) == '<p class="&quot;&gt;<i" hidden="">a &lt; b<b>&amp;</b> "c</p>'
    assert html(element("p", "\udcff")) == "<p>?</p>"
