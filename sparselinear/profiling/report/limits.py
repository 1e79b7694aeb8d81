"""What was predicted beside what was measured, and how near each product comes to what the machine can do."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..cost import Prediction
from ..figures import NONE, quantity, ratio, three_digits
from ..result import Profile
from ..roofline import Position
from ..verdict import label
from . import charts
from .charts import Axis, Bar, Segment
from .markup import element
from .tables import Cell, seconds, table, three_significant


def predicted(profile: Profile) -> ET.Element | None:
    """Times and bytes of the cost model beside the measured ones; None where it was not asked."""
    if profile.predicted is None:
        return None
    columns = (
        ("system", "system"),
        ("forward_predicted_ms", "forward, predicted ms"),
        ("forward_median_ms", "measured ms"),
        ("step_predicted_ms", "step, predicted ms"),
        ("step_median_ms", "measured ms"),
        ("step_predicted_over_measured", "predicted / measured"),
        ("total_bytes", "memory kept"),
    )
    pairs = (("sparselinear", profile.predicted.sparse), ("dense", profile.predicted.dense))
    rows = [_predicted_row(profile, name, prediction) for name, prediction in pairs]
    text = (
        "The cost model counts what a layer has to do and multiplies it with rates of this machine, which "
        "were measured once, on other layers. It does not know what else the machine does."
    )
    return element(
        "section",
        element("h3", "Predicted beside measured"),
        element("p", text, class_="hint"),
        element("p", profile.predicted.change),
        table("Times of the cost model, and the medians of what was measured", columns, rows),
    )


def _predicted_row(profile: Profile, name: str, prediction: Prediction) -> list[Cell]:
    row = profile.row(name)
    forward = row.forward.median_s if row and row.forward else None
    step = row.step.median_s if row and row.step else None
    off = None if step is None else prediction.step_s / step
    times = (prediction.forward_s, forward, prediction.step_s, step)
    return [
        Cell(name, name),
        *(Cell(NONE if t is None else three_digits(t * 1e3), None if t is None else t * 1e3) for t in times),
        Cell(ratio(off), off),
        Cell(quantity(prediction.total_bytes), prediction.total_bytes),
    ]


def roofline(profile: Profile) -> ET.Element | None:
    """Each product as a part of the limit that memory or multiplication sets; None without roofs."""
    places = profile.roofline
    if not places or profile.roofs is None:
        return None
    multiplied = _operations(profile.roofs.operations_s)
    copied = f"{quantity(round(profile.roofs.bytes_s))}/s"
    text = (
        f"A product can be no faster than its operations at {multiplied} (a dense product, measured here) or "
        f"its arrays, each moved once, at {copied} (a copy in memory, measured here). A bar is the part of "
        "that limit that was reached. More than 100 % means that arrays were still in a cache."
    )
    axis = Axis.linear(max(1.0, *(place.share for place in places)))
    caption = (element("b", "Reached of the limit"), ", higher is better. Linear axis, from zero.")
    return element(
        "section",
        element("h3", "Limits of the machine"),
        element("p", text, class_="hint"),
        charts.bars(caption, axis, [_bar(place) for place in places], lambda value: f"{100 * value:.0f} %"),
        _roofline_table(places),
    )


def _bar(place: Position) -> Bar:
    ours = place.system == "sparselinear"
    text = f"{100 * place.share:.0f} % of what {place.bound} allows"
    segment = Segment(0.0, place.share, "ours" if ours else "other")
    return Bar(f"{place.product} of {label(place.system)}", text, (segment,), strong=ours)


def _roofline_table(places: tuple[Position, ...]) -> ET.Element:
    columns = (
        ("product", "product"),
        ("operations", "operations"),
        ("moved_bytes", "moved, at least"),
        ("intensity", "operations a byte"),
        ("bound", "bound by"),
        ("limit_ms", "limit"),
        ("measured_ms", "measured"),
        ("share", "reached"),
    )
    rows = [
        [
            Cell(f"{place.system} {place.product}", f"{place.system} {place.product}"),
            Cell(f"{place.operations:.3g}", place.operations),
            Cell(quantity(place.moved_bytes), place.moved_bytes),
            Cell(three_significant(place.intensity), place.intensity),
            Cell(place.bound, place.bound),
            Cell(seconds(place.limit_s), place.limit_s * 1e3),
            Cell(seconds(place.seconds), place.seconds * 1e3),
            Cell(f"{100 * place.share:.0f} %", place.share),
        ]
        for place in places
    ]
    return table(
        "Where each product stands below the roofs; backward is the step less forward", columns, rows
    )


def _operations(rate: float) -> str:
    return f"{three_digits(rate / 1e9)} GFLOP/s" if rate < 1e12 else f"{three_digits(rate / 1e12)} TFLOP/s"
