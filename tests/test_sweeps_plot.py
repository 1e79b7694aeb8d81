"""The picture of a sweep: what it shows, read back from the SVG."""

from __future__ import annotations

import builtins
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from sweeps import FakeProfile

from sparselinear.profiling import Grid, Sweep, compare, sweep
from sparselinear.profiling.sweeps import plot

pytest.importorskip("matplotlib")
SVG = "{http://www.w3.org/2000/svg}"


def found(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Sweep:
    monkeypatch.setattr(compare, "profile", FakeProfile())
    options = {"sizes": [100], "densities": [0.005, 0.08], "batches": [1, 32], "baselines": "dense"}
    return sweep(Grid(**{**options, **changes}))


def texts(svg: str) -> list[str]:
    return ["".join(text.itertext()).strip() for text in ET.fromstring(svg).iter(f"{SVG}text")]


def test_panels_lines_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    both = found(monkeypatch, sizes=[100, 200], baselines="dense,prune-removed,csr")
    svg = plot.svg_text(both)
    said = texts(svg)
    assert [text for text in said if " against " in text] == [
        f"step against {name}, {size}"
        for size in ("100 x 100", "200 x 200")
        for name in ("dense", "prune-removed", "csr")
    ]
    assert {"batch 1", "batch 32", "as fast", "density", "1x"} <= set(said)
    colours = set(re.findall(r"#[0-9a-f]{6}", svg))
    assert {colour.lower() for colour in plot._COLOURS[:2]} <= colours
    assert plot.svg_text(both) == svg


def test_a_panel_draws_the_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios of 2 and 1/2 with the noise of both as bars, on logarithmic axes, beside a line at 1."""
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    plot._panel(ax, found(monkeypatch).break_evens())
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    for container, marker in zip(ax.containers, ("o", "s"), strict=True):
        curve, _, (bars,) = container.lines
        assert curve.get_marker() == marker
        assert curve.get_xdata().tolist() == [0.005, 0.08]
        assert curve.get_ydata().tolist() == pytest.approx([2.0, 0.5])
        factor = 1.01 / 0.99
        ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
        assert ends == [pytest.approx([ratio / factor, ratio * factor]) for ratio in (2.0, 0.5)]
    (level,) = (line for line in ax.lines if line.get_label() == "as fast")
    assert list(level.get_ydata()) == [1, 1]


def test_forward_stands_in_where_there_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made = found(monkeypatch, baselines="prune-removed")
    for one in made.measured:
        one.systems["prune-removed"].times["step"] = None
    assert "forward against prune-removed, 100 x 100" in texts(plot.svg_text(made))


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r'not installed: pip install "torch-sparselinear\[plot\]"'):
        plot.require_matplotlib()
