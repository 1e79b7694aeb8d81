"""The bytes of every system by term, as stacked bars with the measured peak, and as a table."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from ..figures import NONE, quantity, ratio
from ..result import TOO_LARGE, Profile, Row
from . import charts
from .charts import Axis, Bar, Segment
from .markup import element
from .tables import Cell, size_tick, table

# The terms of the memory in the order they are stacked: key, what the legend says, the lines of its pattern
# (on a tile of 8 x 8). Neighbours differ in pattern as well as in colour, which stands in page/style.css.
TERMS = (
    ("values", "values: weight and bias", ""),
    ("mask", "mask", "M2 2h1M6 6h1"),
    ("indices", "indices", "M0 4h8"),
    ("transpose", "transpose: its indices", "M-2 2L2 -2M0 8L8 0M6 10L10 6"),
    ("gradients", "gradients", ""),
    ("optimizer", "optimizer: state of Adam", "M-2 6L2 10M0 0L8 8M6 -2L10 2"),
    ("activations", "activations", "M4 0v8"),
    (
        "working",
        "working: held for a moment, an estimate",
        "M-2 2L2 -2M0 8L8 0M6 10L10 6M-2 6L2 10M0 0L8 8M6 -2L10 2",
    ),
)

# A bar this many times shorter than the longest is drawn again on a scale of its own.
_ENLARGED = 12


def memory(profile: Profile) -> ET.Element:
    """The bytes of every system by term, the measured peak beside them."""
    largest = max(_extent(row) for row in profile.rows)
    small = [row for row in profile.rows if _extent(row) * _ENLARGED <= largest]
    figures = [_memory_chart(profile, profile.rows, "What a training step needs", largest)]
    if small:
        highest = max(_extent(row) for row in small)
        figures.append(
            _memory_chart(profile, small, "The same, enlarged: the systems that need least", highest)
        )
    text = (
        "Bars are arithmetic on the sizes of the layer; the upright mark is the peak that was measured, "
        "in a process for each system, beyond torch and the inputs. Linear axes."
    )
    return element(
        "section",
        element("h3", "Memory"),
        element("p", text, class_="hint"),
        _legend(),
        *figures,
        _memory_table(profile),
    )


def _extent(row: Row) -> int:
    peak = row.peak.peak_bytes if row.peak else None
    return max(row.needed_bytes, peak or 0)


def terms(profile: Profile, row: Row) -> dict[str, int]:
    """Bytes of a row by term; together they are what it needs."""
    ledger = row.ledger
    known = {
        "values": ledger.parameters_bytes,
        "mask": ledger.mask_bytes,
        "indices": ledger.indices_bytes,
        "transpose": ledger.transpose_bytes,
        "gradients": ledger.gradients_bytes,
        "optimizer": ledger.adam_bytes or 0,
        "activations": profile.sizes.activations_bytes,
    }
    return {**known, "working": max(0, row.needed_bytes - sum(known.values()))}


def _memory_chart(profile: Profile, rows: Sequence[Row], title: str, largest: int) -> ET.Element:
    names = {key: legend for key, legend, _ in TERMS}
    lines = []
    for row in rows:
        end, segments = 0, []
        for key, size in terms(profile, row).items():
            tip = f"{names[key]}: {quantity(size)}"
            segments.append(Segment(end, end + size, "term", f"url(#term-{key})", tip))
            end += size
        peak = row.peak.peak_bytes if row.peak else None
        text = quantity(row.needed_bytes)
        text += f", peak {quantity(peak)}" if peak is not None else ""
        text += f", {TOO_LARGE}" if row.status == TOO_LARGE else ""
        lines.append(Bar(row.name, text, tuple(segments), mark=peak, strong=not row.letter))
    return charts.bars((element("b", title),), Axis.linear(largest), lines, size_tick)


def _legend() -> ET.Element:
    def swatch(key: str, legend: str) -> ET.Element:
        box = element("rect", width="100%", height="100%", class_="term", fill=f"url(#term-{key})")
        return element("li", element("svg", box, width=22, height=14, aria_hidden="true"), legend)

    mark = element("line", x1=11, x2=11, y1=0, y2=14, class_="mark")
    peak = element("li", element("svg", mark, width=22, height=14, aria_hidden="true"), "measured peak")
    return element("ul", *[swatch(key, legend) for key, legend, _ in TERMS], peak, class_="legend")


def patterns() -> ET.Element:
    """What the terms are painted with; once in a page."""
    tiles = []
    for key, _, lines in TERMS:
        ground = element("rect", width=8, height=8)
        over = element("path", d=lines) if lines else None
        tile = {"patternUnits": "userSpaceOnUse"}
        tiles.append(element("pattern", ground, over, id=f"term-{key}", width=8, height=8, **tile))
    return element("svg", element("defs", *tiles), width=0, height=0, class_="patterns", aria_hidden="true")


def _memory_table(profile: Profile) -> ET.Element:
    columns = [("system", "system"), *((f"{key}_bytes", key) for key, _, _ in TERMS)]
    columns += [("needed_bytes", "sum"), ("peak_bytes", "peak"), ("total_times_less_than_dense", "x less")]
    rows = []
    for row in profile.rows:
        peak = row.peak.peak_bytes if row.peak else None
        sizes = [*terms(profile, row).values(), row.needed_bytes, peak]
        less = profile.versus_dense(row)["total"]
        cells = [Cell(quantity(size) if size else NONE, size) for size in sizes]
        rows.append([Cell(row.name, row.name), *cells, Cell(ratio(less), less)])
    return table("Memory of each system; x less: kept in training, compared with dense", columns, rows)
