"""Where the connections are, as a picture, and how many each row and each column has."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import numpy as np

from ...raster import pixel_edges
from ..figures import three_digits
from ..portrait import Degrees, Portrait
from ..result import Profile
from .markup import Child, element
from .tables import three_significant

# Steps of the scale of densities; page/style.css has a shade for each.
LEVELS = 8


def pattern(profile: Profile) -> ET.Element | None:
    """Where the connections are, and how many each row and column has."""
    portrait = profile.portrait
    if portrait is None:
        return None
    children: list[Child] = []
    shades = Shades.of(portrait)
    out_features, in_features = portrait.shape
    if shades is not None:
        steps = "logarithmic" if shades.logarithmic else "even"
        description = (
            f"Density of the connections of {out_features:,} outputs, from top to bottom, and "
            f"{in_features:,} inputs, from left to right: at most {three_significant(shades.high)}."
        )
        caption = (
            f"Outputs from top to bottom ({out_features:,}), inputs from left to right ({in_features:,}). "
            f"Shade: share of the cells of a pixel that hold a connection, in {steps} steps; blank: none."
        )
        drawn = picture(shades, description)
        children.append(
            element("figure", drawn, shade_scale(shades), element("figcaption", caption, class_="hint"))
        )
    children.append(
        element(
            "div",
            _degrees(portrait.rows, "Connections of an output (row)", "rows"),
            _degrees(portrait.columns, "Connections of an input (column)", "columns"),
        )
    )
    return element("section", element("h3", "Pattern"), element("div", *children, class_="pattern"))


def _degrees(degrees: Degrees, title: str, unit: str) -> ET.Element:
    figures = (
        ("min", f"{degrees.minimum:,}"),
        ("median", f"{degrees.median:,g}"),
        ("mean", three_digits(degrees.mean)),
        ("max", f"{degrees.maximum:,}"),
        (f"empty {unit}", f"{degrees.empty:,}"),
    )
    description = f"{title}: " + ", ".join(f"{name} {text}" for name, text in figures)
    bins = "bins that widen with the degree" if degrees.logarithmic else "bins of one width"
    hint = f"{unit} by degree, {bins}; the highest bar is {max(degrees.counts):,} {unit}"
    pairs = [element("div", element("dt", name), element("dd", text)) for name, text in figures]
    caption = element("figcaption", element("b", title), ", ", element("span", hint, class_="hint"))
    return element(
        "figure", caption, histogram(degrees, description), element("dl", *pairs, class_="figures")
    )


def histogram(degrees: Degrees, description: str) -> ET.Element:
    """Upright bars, one for each bin of a distribution of degrees."""
    width, most = 100 / len(degrees.counts), max(*degrees.counts, 1)
    painted = []
    for number, count in enumerate(degrees.counts):
        low, high = degrees.edges[number], degrees.edges[number + 1] - 1
        height = 100 * count / most
        of = f"degree {low:,}" if low == high else f"degree {low:,} to {high:,}"
        painted.append(
            element(
                "rect",
                element("title", f"{of}: {count:,}"),
                x=f"{(number + 0.06) * width:.2f}%",
                y=f"{100 - height:.2f}%",
                width=f"{0.88 * width:.2f}%",
                height=f"{height:.2f}%",
            )
        )
    chart = element("svg", *painted, class_="histogram", role="img", aria_label=description)
    first, last = f"{degrees.edges[0]:,}", f"{degrees.edges[-1] - 1:,}"
    ends = element("div", element("span", first), element("span", last), class_="ends")
    return element("div", chart, ends)


@dataclass(frozen=True)
class Shades:
    """The steps that densities are shown in.

    Attributes:
        levels: of each pixel, 0 where there is no connection, else from 1 up to LEVELS.
        low: density where the first step begins; 0 where the steps are even.
        high: the largest density.
        logarithmic: whether each step multiplies, as it does over more than a factor of ten.
    """

    levels: tuple[tuple[int, ...], ...]
    low: float
    high: float
    logarithmic: bool

    @classmethod
    def of(cls, portrait: Portrait) -> Shades | None:
        """The shades of a picture; None where there is nothing to see."""
        counts = np.array(portrait.counts, dtype=np.float64)
        if not counts.any():
            return None
        sides = zip(portrait.shape, counts.shape, strict=True)
        density = counts / np.outer(*(np.diff(pixel_edges(*side)) for side in sides))
        present = density[density > 0]
        low, high = float(present.min()), float(present.max())
        logarithmic = high > 10 * low
        shares = density / high
        if logarithmic:
            shares = 1 - np.log(np.where(density > 0, density, high) / high) / math.log(low / high)
        else:
            low = 0.0
        steps = np.clip(np.ceil(shares * LEVELS), 1, LEVELS).astype(int)
        return cls(tuple(map(tuple, np.where(density > 0, steps, 0).tolist())), low, high, logarithmic)


def picture(shades: Shades, description: str) -> ET.Element:
    """The raster: for each level one path of runs of pixels, so that the page can choose the colours."""
    runs: dict[int, list[str]] = {level: [] for level in range(1, LEVELS + 1)}
    for y, line in enumerate(shades.levels):
        start = 0
        for x in range(1, len(line) + 1):
            if x == len(line) or line[x] != line[start]:
                if line[start]:
                    runs[line[start]].append(f"M{start} {y}h{x - start}v1h-{x - start}z")
                start = x
    paths = [
        element("path", d="".join(parts), class_=f"level{level}") for level, parts in runs.items() if parts
    ]
    width, height = len(shades.levels[0]), len(shades.levels)
    box = {"viewBox": f"0 0 {width} {height}", "preserveAspectRatio": "none"}
    return element("svg", *paths, class_="picture", role="img", aria_label=description, **box)


def shade_scale(shades: Shades) -> ET.Element:
    """The steps of a picture beside the densities they begin and end with."""
    steps = [element("span", class_=f"level{level}") for level in range(1, LEVELS + 1)]
    low = three_significant(shades.low) if shades.logarithmic else "0"
    return element(
        "div",
        element("span", low),
        element("span", *steps, class_="steps", aria_hidden="true"),
        element("span", three_significant(shades.high)),
        class_="shades",
    )
