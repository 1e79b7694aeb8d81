"""What the tables of a run have in common: cells that are measured one by one, rows of numbers, and bars.

A row is what JSON takes. One that was not measured has ``skipped``, the reason, beside its label.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

from ..bars import Verdict, geometric_mean
from .measure import LOOP, Setting

Row = dict[str, Any]

SKIPPED, FAILED = "skipped", "failed, "


class Table(ABC):
    """A table of a run."""

    name: ClassVar[str]
    title: ClassVar[str]
    text: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def cells(self, setting: Setting) -> Sequence[Any]:
        """What is measured, in order; each says as a text what it is."""

    @abstractmethod
    def measure(self, cell: Any, setting: Setting) -> Row:
        """The row of a cell."""

    @abstractmethod
    def line(self, row: Row) -> list[str]:
        """The columns of a measured row behind its label."""

    def judge(self, rows: list[Row]) -> list[Verdict]:
        """The bars over the measured rows; none by default."""
        return []

    def summary(self, rows: list[Row]) -> list[Row]:
        """Figures over several rows, each a row with the same keys; none by default."""
        return []

    def rows(self, setting: Setting) -> Iterator[Row]:
        """Row after row, until the budget is spent; a cell that fails is a row too."""
        for cell in self.cells(setting):
            label = {"cell": str(cell)}
            if setting.over:
                yield {**label, SKIPPED: "over the budget"}
                continue
            try:
                yield {**label, **self.measure(cell, setting)}
            except AbsentError as absent:
                yield {**label, SKIPPED: str(absent)}
            except Exception as error:  # the other cells are still to be measured
                yield {**label, SKIPPED: f"{FAILED}{type(error).__name__}: {str(error)[:300]}"}


class AbsentError(Exception):
    """What a cell needs is not there; the text says what."""


def name_of(dtype: torch.dtype) -> str:
    """float32 for torch.float32."""
    return str(dtype).removeprefix("torch.")


def ratio(row: Row, side: str, kind: str = "step", clock: str = LOOP) -> float | None:
    """Time of a side over that of the reference; None where it was not run."""
    found: float | None = row["ratios"].get(side, {}).get(clock, {}).get(kind)
    return found


def median_s(row: Row, side: str, kind: str = "step", clock: str = LOOP) -> float | None:
    """Median seconds of a side; None where it was not run."""
    taken = row["timings"].get(side, {}).get(clock, {}).get(kind)
    return taken and taken["median_s"]


def best_clock(row: Row, side: str) -> str:
    """That of the device alone where there is one."""
    return next(reversed(row["timings"].get(side, {LOOP: None})))


def mean_and_least(
    text: str, known: list[tuple[float, str]], total: int, mean: float | None, least: float
) -> list[Verdict]:
    """The bars of a geometric mean, if there is one, and of the least of some ratios with their labels.

    The least is missed as soon as one cell misses it, and both are met only where all cells were measured.
    """
    if not known:
        return [Verdict(text, mean or least, None, "not measured", None)]
    whole, where = len(known) == total, f"{len(known)} of {total} cells"
    lowest, label = min(known)
    misses = tuple(f"{label}: {value:.3g}" for value, label in known if value < least)
    met = False if misses else True if whole else None
    each = Verdict(f"{text}, each", least, lowest, label, met, misses)
    if mean is None:
        return [each]
    found = geometric_mean([value for value, _ in known])
    return [Verdict(f"{text}, geometric mean", mean, found, where, found >= mean if whole else None), each]


def milliseconds(seconds: float | None) -> str:
    """For a column; empty where there is no time."""
    return "" if seconds is None else f"{seconds * 1e3:.4g}"


def number(found: float | None) -> str:
    """A ratio for a column; empty where there is none."""
    return "" if found is None else f"{found:.2f}" if found < 100 else f"{found:.0f}"
