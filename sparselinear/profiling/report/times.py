"""Forward, step and Adam of every system as bars with their spread, and as a table."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..figures import NONE, quantity, ratio, three_digits
from ..result import REFUSED, TOO_LARGE, Profile, Row
from ..timing import KINDS
from . import charts
from .charts import Axis, Bar, Segment
from .markup import element
from .tables import Cell, spread, table, time_tick

# What is timed: in a word, and in a line.
KIND_TITLES = {"forward": "Forward", "step": "Step", "adam": "Adam"}

KIND_TEXTS = {
    "forward": "the output alone",
    "step": "forward and backward, without the optimizer",
    "adam": "its update, which comes on top of a step",
}


def times(profile: Profile) -> ET.Element:
    """Forward, step and Adam of every system as bars with their spread, and as a table."""
    figures = [_time_chart(profile, kind) for kind in KINDS]
    text = (
        "The end of a bar is the median of the samples; the whisker reaches from the first to the third "
        "quartile. x: how many times as fast as dense. Systems take turns, so that a machine "
        "that slows down slows all of them."
    )
    return element(
        "section",
        element("h3", "Time"),
        element("p", text, class_="hint"),
        element("div", *figures, class_="columns"),
        _time_table(profile),
    )


def _time_chart(profile: Profile, kind: str) -> ET.Element:
    timings = [timing for row in profile.rows if (timing := row.times[kind])]
    axis = Axis.of(edge for timing in timings for edge in (timing.median_s, *timing.quartiles_s))
    lines = [_time_bar(profile, row, kind, axis) for row in profile.rows]
    scale = (
        "Logarithmic axis: compare positions, not lengths." if axis.logarithmic else "Linear axis, from zero."
    )
    caption = (
        element("b", KIND_TITLES[kind]),
        f", {KIND_TEXTS[kind]}. ",
        element("span", scale, class_="hint"),
    )
    return charts.bars(caption, axis, lines, time_tick)


def _time_bar(profile: Profile, row: Row, kind: str, axis: Axis) -> Bar:
    timing, ours = row.times[kind], not row.letter
    if timing is None:
        return Bar(row.name, _why_no_time(row, kind), strong=ours)
    compared = profile.versus_dense(row)[kind]
    text = spread(timing) + (f", {ratio(compared)}" if compared and row.name != "dense" else "")
    segment = Segment(axis.low, timing.median_s, "ours" if ours else "other")
    return Bar(row.name, text, (segment,), whisker=timing.quartiles_s, strong=ours)


def _why_no_time(row: Row, kind: str) -> str:
    if row.status == TOO_LARGE:
        return f"{TOO_LARGE}, would need {quantity(row.needed_bytes)}"
    if kind in dict(row.refusals):
        return REFUSED
    return "not run" if row.refusals else "inference only"


def _time_table(profile: Profile) -> ET.Element:
    columns = [("system", "system")]
    for kind, title in KIND_TITLES.items():
        columns += [
            (f"{kind}_median_ms", f"{title}, ms"),
            (f"{kind}_half_iqr_ms", "±"),
            (f"{kind}_times_as_fast_as_dense", "x dense"),
        ]
    columns.append(("text", "what it is"))
    rows = []
    for row in profile.rows:
        cells = [cell for kind in KINDS for cell in _time_cells(profile, row, kind)]
        rows.append([Cell(row.name, row.name), *cells, Cell(row.text, row.text)])
    return table("Time of each system; ± is half the range between the quartiles", columns, rows)


def _time_cells(profile: Profile, row: Row, kind: str) -> list[Cell]:
    """Median, spread, and how many times as fast as dense."""
    timing, compared = row.times[kind], profile.versus_dense(row)[kind]
    if timing is None:
        return [Cell(_why_no_time(row, kind).split(",")[0]), Cell(NONE), Cell(NONE)]
    first, third = timing.quartiles_s
    known = [Cell(three_digits(taken * 1e3), taken * 1e3) for taken in (timing.median_s, (third - first) / 2)]
    return [*known, Cell(ratio(compared), compared)]
