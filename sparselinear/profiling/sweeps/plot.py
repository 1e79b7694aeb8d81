"""The picture of a sweep: how many times as fast sparse is as each baseline, over the density."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .breakeven import BreakEven
from .grid import size_text
from .result import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The palette of Okabe and Ito, safe for colour-blind readers, without the yellow, which is too light on
# white. Markers tell the lines apart without colour.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_PANEL = 4.2, 3.4  # inches


def require_matplotlib() -> None:
    """Find out before the work that nothing can be drawn.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'a sweep is drawn with matplotlib, which is not installed: pip install "torch-sparselinear[plot]"'
        ) from error


def svg_text(sweep: Sweep) -> str:
    """The picture as SVG: a row of panels for each size, a column for each baseline, a line for each batch.

    The ratio is that of a step, or of forward against a baseline that is not trained. Bars reach as far
    as the noise does.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    grid = sweep.grid
    rows, columns = len(grid.sizes), len(grid.baselines)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for line, size in zip(panels, grid.sizes, strict=True):
        for ax, baseline in zip(line, grid.baselines, strict=True):
            _panel(ax, _curves(sweep, size, baseline))
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 2 * columns + 1))
    stream = io.StringIO()
    # Text stays text, and the same sweep gives the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sparselinear"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Title": "Sparse against its baselines"})
    return stream.getvalue()


def _curves(sweep: Sweep, size: tuple[int, int], baseline: str) -> list[BreakEven]:
    """The curves of a panel, one for each batch."""
    curves: list[BreakEven] = []
    for kind in ("step", "forward"):
        curves = [sweep.break_even(size, batch, baseline, kind) for batch in sweep.grid.batches]
        if any(curve.points for curve in curves):
            break
    return curves


def _panel(ax: Axes, curves: Sequence[BreakEven]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for number, curve in enumerate(curves):
        points = curve.points
        ratios = [point.ratio for point in points]
        down = [point.ratio - point.low for point in points]
        up = [point.high - point.ratio for point in points]
        ax.errorbar(
            [point.density for point in points],
            ratios,
            yerr=(down, up),
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            linewidth=1.4,
            capsize=2.5,
            label=f"batch {curve.batch}",
        )
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ax.axhline(1, color="0.35", linewidth=1, linestyle="--", label="as fast")
    ax.grid(which="major", color="0.9", linewidth=0.6)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    first = curves[0]
    ax.set_title(f"{first.kind} against {first.baseline}, {size_text(first.size)}", fontsize=10)
    ax.set(xlabel="density", ylabel="times as fast: above 1 sparse wins")
