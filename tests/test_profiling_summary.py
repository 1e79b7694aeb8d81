"""The summary of several profiles: a line for each, its numbers, and a width that fits."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console
from test_profiling_table import SIZES, example, row_of

from sparselinear.profiling import BASELINES, Profile, Row, render_summary

TOO_LARGE = Row("dense", "a", "nn.Linear", "too large", BASELINES["dense"].bytes(SIZES), 4 * 10**12)


def shown(*profiles: Profile, width: int = 80) -> str:
    stream = io.StringIO()
    render_summary(profiles, Console(file=stream, width=width))
    return stream.getvalue()


def cells(text: str, file: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(file))
    return re.sub(r" %", "_%", line).split()


def test_a_line_for_each_profile() -> None:
    slow = example(
        row_of("sparselinear", 9.0, 10**9),
        row_of("hook", 3.0, 10**9),
        row_of("dense", 2.0, 5 * 10**8),
        name="b.npz",
        sizes=replace(SIZES, batch=32),
    )
    text = shown(example(), slow)
    ratios = ["25.0x", "25.0x", "0.0_%", "10.0x"]
    assert cells(text, "example.npz")[:7] == ["example.npz", "256", "sparselinear", *ratios]
    assert cells(text, "b.npz") == ["b.npz", "32", "dense", "0.22x", "0.22x", "0.0_%", "0.50x", "use", "hook"]


def test_dense_that_does_not_fit_is_told_with_its_bytes() -> None:
    text = shown(example(row_of("sparselinear", 2.0), TOO_LARGE), example(name="b.npz"))
    assert cells(text, "example.npz") == [
        "example.npz",
        "256",
        "sparselinear",
        *"————",
        "use",
        "sparselinear",
    ]
    assert "example.npz, batch 256: dense would need 4.00 TB, and 20.0 GB can be used." in text
    assert "b.npz, batch" not in text


def test_no_verdict_is_said() -> None:
    text = shown(example(other_cores=2.5), example(rounds=2))
    assert " ".join(text.split()).count("no verdict") == 2
    assert cells(text, "example.npz")[2] == "—"  # who is the fastest is a verdict too


@pytest.mark.parametrize("width", [80, 120])
def test_long_names_are_folded(width: int) -> None:
    name = "a/very/long/path/" + "x" * 60 + ".npz"
    text = shown(example(name=name), example(name="b.npz"), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "25.0x" in text
