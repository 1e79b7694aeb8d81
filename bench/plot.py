"""The picture of a run: for every cell, how many times as long as ours each peer's step takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from . import peers

# Told apart by form as well as by colour: filled for what comes with torch, open for packages.
_MARKERS = "osD^vP<>X*dphH"
_COLOURS = mpl.colormaps["tab10"].colors


# What is drawn of a run: each side by name, how the legend calls it, and whether it comes with torch.
PEERS = {
    name: (f"{name} (ours)" if name in peers.OWN else name, not peer.package)
    for name, peer in peers.PEERS.items()
}


class Point(Protocol):
    """A cell with its ratios; a Result of measure.py, or what another run has in its place."""

    cell: Any  # with label and named

    def ratio(self, side: str) -> float | None:
        """Time of a step of a side over ours."""


def draw(results: Sequence[Point], path: Path, sides: Mapping[str, tuple[str, bool]] = PEERS) -> None:
    """Write the picture; the suffix of the path says in which format."""
    labels = [result.cell.label.replace(", batch ", " / ") for result in results]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9}):
        figure = Figure(figsize=(max(9.5, 3.2 + 0.26 * len(labels)), 8.5), layout="constrained")
        axes = figure.add_subplot()
        _dots(axes, results, sides)
        _shade_named(axes, results)
        axes.axhline(1, color="black", linewidth=1)
        axes.set_yscale("log")
        axes.set_ylabel("time of a step over ours")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_xlabel("matrix / batch; grey: the named cells, which the geometric means run over")
        axes.set_xlim(-0.6, len(labels) - 0.4)
        axes.grid(axis="y", which="major", linewidth=0.6, alpha=0.5)
        axes.grid(axis="x", linewidth=0.4, alpha=0.3)
        axes.set_axisbelow(True)
        axes.set_title("Training step of each peer over ours: below the line a peer is faster", loc="left")
        figure.legend(loc="outside right upper", frameon=False)
        # Without a date, so that equal numbers give an equal file.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata, dpi=130)


def _shade_named(axes: Axes, results: Sequence[Point]) -> None:
    """A grey ground behind the cells that the geometric means run over."""
    for x, result in enumerate(results):
        if result.cell.named:
            axes.axvspan(x - 0.5, x + 0.5, color="0.94", linewidth=0, zorder=0)


def _dots(axes: Axes, results: Sequence[Point], sides: Mapping[str, tuple[str, bool]]) -> None:
    for number, (name, (legend, filled)) in enumerate(sides.items()):
        points = [(x, result.ratio(name)) for x, result in enumerate(results)]
        points = [(x, ratio) for x, ratio in points if ratio is not None]
        if not points:
            continue
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(
            *zip(*points, strict=True),
            linestyle="none",
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            markeredgecolor=colour,
            markerfacecolor=colour if filled else "none",
            label=legend,
        )
