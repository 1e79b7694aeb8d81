"""The pictures of the report, as inline SVG that scales with the page while its text does not.

Positions across are percentages, so one drawing serves a telephone and a wide screen. A chart of bars is
a list of lines, each with its label and its number as text: they are what a screen reader reads, and the
drawing under them is hidden from it.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .markup import Child, element

# A linear axis leaves nothing to be seen of a bar this many times shorter than the longest.
_LINEAR_RANGE = 20
_BAR = 14  # height of a bar, pixels


@dataclass(frozen=True)
class Axis:
    """A scale from ``low`` at the left to ``high`` at the right.

    Attributes:
        low: value at the left edge; 0 where it is linear.
        high: value at the right edge.
        logarithmic: whether each step multiplies.
        ticks: values that are marked.
    """

    low: float
    high: float
    logarithmic: bool
    ticks: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Axis:
        """A logarithmic axis where the values span more than a factor of 20, else a linear one from 0."""
        known = [value for value in values if value > 0] or [1.0]
        return cls._decades(known) if max(known) > _LINEAR_RANGE * min(known) else cls.linear(max(known))

    @classmethod
    def linear(cls, largest: float) -> Axis:
        """From 0 to a round number that ``largest`` fits below, in steps of 1, 2 or 5."""
        step = 10.0 ** math.floor(math.log10(largest / 2))
        step *= next(factor for factor in (1, 2, 5, 10) if largest <= 5 * factor * step)
        steps = math.ceil(largest / step - 1e-9)
        return cls(0.0, steps * step, False, tuple(number * step for number in range(steps + 1)))

    @classmethod
    def _decades(cls, values: Sequence[float]) -> Axis:
        # A tenth of a decade below the smallest: a bar has to have a length.
        first, last = math.floor(math.log10(min(values)) - 0.1), math.ceil(math.log10(max(values)))
        every = math.ceil((last - first) / 6)
        last = first + every * math.ceil((last - first) / every)  # the last tick is the right edge
        ticks = tuple(10.0**power for power in range(first, last + 1, every))
        return cls(ticks[0], ticks[-1], True, ticks)

    def at(self, value: float) -> float:
        """Position of a value in percent; what lies outside is put at the edge."""
        if self.logarithmic:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = value / self.high
        return 100 * min(max(share, 0.0), 1.0)


@dataclass(frozen=True)
class Segment:
    """A part of a bar, from ``start`` to ``end`` on the axis, painted by a class or a pattern."""

    start: float
    end: float
    class_: str = ""
    fill: str | None = None
    title: str = ""


@dataclass(frozen=True)
class Bar:
    """A line of a chart.

    Attributes:
        label: what it is of.
        text: its number, or why there is none.
        segments: what is painted, from left to right.
        whisker: range over the end of the bar; None draws none.
        mark: a value that is marked by an upright line; None draws none.
        strong: whether it stands out.
    """

    label: str
    text: str
    segments: tuple[Segment, ...] = ()
    whisker: tuple[float, float] | None = None
    mark: float | None = None
    strong: bool = False


def bars(
    caption: Sequence[Child], axis: Axis, lines: Sequence[Bar], tick: Callable[[float], str]
) -> ET.Element:
    """A chart of horizontal bars; ``tick`` writes a value of the axis."""
    items = [
        element(
            "li",
            element("span", line.label, class_="name"),
            element("span", line.text, class_="number" if line.segments else "number none"),
            _track(axis, line),
            class_="strong" if line.strong else None,
        )
        for line in lines
    ]
    return element(
        "figure",
        element("figcaption", *caption),
        element("ul", *items, class_="bars"),
        _scale(axis, tick),
    )


def _track(axis: Axis, line: Bar) -> ET.Element:
    grid = [_upright(axis.at(value), 0, _BAR + 6, class_="grid") for value in axis.ticks]
    painted = [_segment(axis, segment) for segment in line.segments]
    middle = 3 + _BAR / 2
    over: list[ET.Element] = []
    if line.whisker is not None:
        low, high = (axis.at(value) for value in line.whisker)
        left, right = f"{low:.2f}%", f"{high:.2f}%"
        over.append(element("line", x1=left, x2=right, y1=middle, y2=middle, class_="whisker"))
        over += [_upright(x, middle - 4, middle + 4, class_="whisker") for x in (low, high)]
    if line.mark is not None:
        over.append(_upright(axis.at(line.mark), 0, _BAR + 6, class_="mark"))
    children = [*grid, *painted, *over]
    return element("svg", *children, class_="track", width="100%", height=_BAR + 6, aria_hidden="true")


def _segment(axis: Axis, segment: Segment) -> ET.Element:
    start, end = axis.at(segment.start), axis.at(segment.end)
    return element(
        "rect",
        element("title", segment.title) if segment.title else None,
        x=f"{start:.2f}%",
        y=3,
        width=f"{end - start:.2f}%",
        height=_BAR,
        class_=segment.class_ or None,
        fill=segment.fill,
    )


def _upright(x: float, top: float, bottom: float, class_: str) -> ET.Element:
    at = f"{x:.2f}%"
    return element("line", x1=at, x2=at, y1=top, y2=bottom, class_=class_)


def _scale(axis: Axis, tick: Callable[[float], str]) -> ET.Element:
    """The numbers below a chart; where the page is narrow, five or more would run into each other."""
    last = len(axis.ticks) - 1
    texts = []
    for number, value in enumerate(axis.ticks):
        anchor = {0: "start", last: "end"}.get(number, "middle")
        spare = "spare" if last > 3 and (number % 2 or number == last - 1) and number != last else None
        at = f"{axis.at(value):.2f}%"
        texts.append(element("text", tick(value), x=at, y=12, text_anchor=anchor, class_=spare))
    return element("svg", *texts, class_="scale", width="100%", height=16, aria_hidden="true")
