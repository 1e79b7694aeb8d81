"""Tables that sort and can be copied, and how a number is written."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from ..figures import quantity, three_digits
from ..timing import Timing
from .markup import Attribute, element

_UNITS = {"s": 1.0, "ms": 1e3, "µs": 1e6, "ns": 1e9}


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, and the number behind it; without one it sorts last."""

    text: str
    value: float | str | None = None


def table(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Cell]]) -> ET.Element:
    """A table that sorts and can be copied; a column is its key in the CSV and its heading."""
    heads = [
        element("th", element("button", heading, type="button"), scope="col", data_key=key)
        for key, heading in columns
    ]
    body = [element("tr", *[_cell(cell, number == 0) for number, cell in enumerate(cells)]) for cells in rows]
    drawn = element(
        "table",
        element("caption", element("span", title)),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
    )
    button = element("button", "Copy as CSV", type="button", class_="copy scripted", data_copy="csv")
    inside = element("div", drawn, class_="scroll", role="group", aria_label=title, tabindex=0)
    return element("div", inside, button, class_="table")


def _cell(cell: Cell, first: bool) -> ET.Element:
    value: Attribute = repr(cell.value) if isinstance(cell.value, float) else cell.value
    if first:
        return element("th", cell.text, scope="row", data_value=value)
    words = "words" if isinstance(cell.value, str) else None
    return element("td", cell.text, class_=words, data_value="" if value is None else value)


def seconds(taken: float) -> str:
    """A time to three digits in the unit that suits it: ``"1.41 ms"``."""
    number, unit = _scaled(taken)
    return f"{three_digits(number)} {unit}"


def spread(timing: Timing) -> str:
    """Median, and half the range between the quartiles: ``"1.41 ms ±0.05"``."""
    first, third = timing.quartiles_s
    number, unit = seconds(timing.median_s).split()
    decimals = len(number.partition(".")[2])
    return f"{number} {unit} ±{(third - first) / 2 * _UNITS[unit]:.{decimals}f}"


def _scaled(taken: float) -> tuple[float, str]:
    """A time as a number of the largest unit that makes it at least 1."""
    unit = next((unit for unit, scale in _UNITS.items() if taken * scale >= 0.9995), "ns")
    return taken * _UNITS[unit], unit


def time_tick(taken: float) -> str:
    """A time as an axis tells it: ``"10 ms"``."""
    number, unit = _scaled(taken)
    return f"{number:g} {unit}" if taken else "0"


def size_tick(size: float) -> str:
    """Bytes as an axis tells them: ``"200 MB"``."""
    number, unit = quantity(round(size)).split()
    return f"{float(number):g} {unit}"


def three_significant(value: float) -> str:
    """A density or a degree to three digits: ``"0.00177"``, ``"21.0"``, ``"1.2e-06"``."""
    return f"{value:.3g}" if value < 1 else three_digits(value)
