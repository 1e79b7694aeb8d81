"""What is printed of a sweep, and its CSV: numbers that follow a law, read back."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from sweeps import CROSSING, DENSE_S, FakeProfile

from sparselinear.profiling import Grid, Skipped, Sweep, compare, render_sweep, sweep
from sparselinear.profiling.sweeps.measured import Taken
from sparselinear.profiling.sweeps.table import csv_text


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr(compare, "profile", FakeProfile())
    densities = [0.005, CROSSING, 0.08]
    return sweep(Grid(sizes=[100], densities=densities, batches=[1, 32], baselines="dense,csr"))


def shown(sweep: Sweep, width: int = 80) -> str:
    stream = io.StringIO()
    render_sweep(sweep, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def row(text: str, start: str) -> list[str]:
    """The cells of the first line that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(start))
    return re.split(r"\s{2,}", line.strip())


def test_ratios(found: Sweep) -> None:
    text = shown(found)
    assert "A step of sparse against dense, 100 x 100" in text
    assert row(text, "density") == ["density", "batch 1", "batch 32"]
    assert row(text, "0.005") == ["0.005", "2.00x", "2.00x"]
    assert row(text, "0.02") == ["0.02", "=", "="]
    assert row(text, "0.08") == ["0.08", "0.50x", "0.50x"]
    assert "6 of 6 cells measured" in text
    assert max(map(len, text.splitlines())) <= 80


def test_break_even_in_words_and_as_a_table(found: Sweep) -> None:
    text = shown(found, 200)
    for batch in (1, 32):
        assert (
            f"Against dense, batch {batch}: break-even at 0.02 (0.019 to 0.021): sparse faster below," in text
        )
    expected = ["100 x 100", "32", "0.02 (0.019 to 0.021)", "0.02 (0.019 to 0.021)"]
    assert row(text, "csr ") != expected
    assert [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.startswith("csr ")] == [
        ["csr", "100 x 100", batch, *expected[2:]] for batch in ("1", "32")
    ]


def test_what_is_missing_is_told(found: Sweep) -> None:
    first, *rest = found.measured
    reasons = [
        Skipped(first.cell, f"over the budget, would take some {s} s") for s in (9, 10, *range(10, 20))
    ]
    text = shown(replace(found, measured=tuple(rest), skipped=tuple(reasons)), 200)
    assert row(text, "0.005") == ["0.005", "—", "2.00x"]
    told = "100 x 100, density 0.005, batch 1: not measured, over the budget, would take some"
    assert text.count(told) == 8
    assert f"\n{told} 9 s." in text
    assert f"\n2 cells, the first {told} 10 s." in text
    assert "And 3 more like the last." in text
    assert "5 of 6 cells measured" in text


def changed(found: Sweep, name: str, taken: Taken, **changes: Any) -> Sweep:
    measured = (replace(one, systems={**one.systems, name: taken}, **changes) for one in found.measured)
    return replace(found, measured=tuple(measured))


NO_TIMES: dict[str, None] = dict.fromkeys(("forward", "step", "adam"))


def test_a_baseline_that_does_not_fit(found: Sweep) -> None:
    text = shown(changed(found, "dense", Taken("too large", 5 * 10**9, dict(NO_TIMES), {})), 200)
    assert row(text, "0.08") == ["0.08", "too large", "too large"]
    assert "dense, 100 x 100, density 0.08, batch 32: not tried, it would need 5.00 GB." in text
    assert "Against dense, batch 1: not measured." in text


def test_a_baseline_that_torch_refuses(found: Sweep) -> None:
    refused = Taken("refused", 1, dict(NO_TIMES), {"forward": "no such product", "adam": "unsupported"})
    text = shown(changed(found, "csr", refused))
    assert text.count("csr: forward refused; torch says: no such product.") == 1
    assert "unsupported" not in text


def test_disturbed(found: Sweep) -> None:
    assert "Other programs" not in shown(found)
    text = shown(changed(found, "csr", found.measured[0].systems["csr"], disturbed=True), 300)
    assert "Other programs kept cores busy during 6 of 6 cells" in text


def test_csv(found: Sweep) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert len(rows) == 6 * 3 * 3  # cells, systems, kinds
    picked = [
        line for line in rows if (line["system"], line["kind"], line["batch"]) == ("dense", "step", "32")
    ]
    assert [line["nnz"] for line in picked] == ["50", "200", "800"]
    assert [float(line["median_s"]) for line in picked] == [DENSE_S] * 3
    assert [float(line["ratio"]) for line in picked] == pytest.approx([2.0, 1.0, 0.5])
    assert [float(line["ratio_low"]) for line in picked] == pytest.approx(
        [ratio * 0.99 / 1.01 for ratio in (2.0, 1.0, 0.5)]
    )
    assert {line["ratio"] for line in rows if line["system"] == "sparselinear"} == {""}
    assert {line["median_s"] for line in rows if line["kind"] == "adam"} == {""}


def test_several_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "profile", FakeProfile())
    both = sweep(Grid(sizes=[100, (50, 80)], densities=[0.01, 0.1], batches=[1], baselines="dense"))
    text = shown(both, 200)
    assert "against dense, 50 x 80\n" in text
    assert "Against dense, 100 x 100, batch 1: break-even" in text
