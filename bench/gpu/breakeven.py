"""The density at which a step of the layer takes as long as one of nn.Linear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from sparselinear.profiling.sweeps.breakeven import BreakEven, Point

from ..bars import Verdict
from .cases import activations, layer_on, pattern_of, square
from .measure import LOOP, Setting, Timed, compare
from .sides import DENSE, OURS, Dense, Ours
from .table import Row, Table, name_of

DENSITIES = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.17, 0.20, 0.25, 0.30, 0.40, 0.60)
# The least density up to which sparse is to be as fast as dense.
TARGETS = {torch.bfloat16: 0.05, torch.float32: 0.25}


@dataclass(frozen=True)
class Cell:
    """A batch in one dtype, by one clock."""

    size: int
    batch: int
    dtype: torch.dtype
    clock: str

    def __str__(self) -> str:
        return f"{self.size:,} squared, batch {self.batch}, {name_of(self.dtype)}, {self.clock}"


class BreakEvens(Table):
    name = "breakeven"
    title = "Break-even with nn.Linear"
    text = (
        "The highest density of a list at which a step takes no longer than that of nn.Linear, found by "
        "bisection; the products of nn.Linear are those of bfloat16, and of float32 without TF32."
    )
    columns = ("clock", "step as fast up to", "in words", "ratios measured: density, dense over sparse")

    def cells(self, setting: Setting) -> list[Cell]:
        size, batches = (64, (8,)) if setting.quick else (4096, (64, 256, 1024))
        clocks = setting.clock_names
        return [Cell(size, b, dtype, clock) for dtype in TARGETS for b in batches for clock in clocks]

    def measure(self, cell: Cell, setting: Setting) -> Row:
        points: dict[float, Point] = {}

        def is_faster(density: float) -> bool:
            points[density] = _point(cell, density, setting)
            return points[density].ratio >= 1

        found = bisect(DENSITIES[::5] if setting.quick else DENSITIES, is_faster)
        rising = tuple(points[density] for density in sorted(points))
        told = BreakEven((cell.size, cell.size), cell.batch, DENSE, "step", rising).to_dict()
        head = {"batch": cell.batch, "dtype": name_of(cell.dtype), "clock": cell.clock, "density": found}
        return head | told

    def line(self, row: Row) -> list[str]:
        ratios = "; ".join(f"{point['density']:g}: {point['ratio']:.2f}" for point in row["points"])
        density = "none" if row["density"] is None else f"{row['density']:g}"
        return [row["clock"], density, row["words"], ratios]

    def judge(self, rows: list[Row]) -> list[Verdict]:
        verdicts = []
        for dtype, least in TARGETS.items():
            for row in (row for row in rows if row.get("dtype") == name_of(dtype) and row["clock"] == LOOP):
                found = row["density"] or 0.0
                text = f"density up to which a step is as fast as nn.Linear's, {row['cell']}"
                verdicts.append(Verdict(text, least, found, row["words"], found >= least))
        return verdicts


def bisect(densities: Sequence[float], is_faster: Callable[[float], bool]) -> float | None:
    """The last of rising densities that is faster, where those below are and those above are not."""
    low, high = -1, len(densities)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_faster(densities[middle]) else (low, middle)
    return densities[low] if low >= 0 else None


def _point(cell: Cell, density: float, setting: Setting) -> Point:
    timed = _timed(cell.size, cell.batch, cell.dtype, density, setting)
    sparse, dense = (timed.timings[side][cell.clock]["step"] for side in (OURS, DENSE))
    return Point.of(density, sparse, dense)


@lru_cache(maxsize=64)  # both clocks at once, whichever asks first
def _timed(size: int, batch: int, dtype: torch.dtype, density: float, setting: Setting) -> Timed:
    layer = layer_on(pattern_of(square(size, density), setting.device), dtype)
    pair: Any = layer, *activations(layer, batch)
    timed = compare({OURS: lambda: Ours(*pair), DENSE: lambda: Dense(*pair)}, setting, ("step",))
    if timed.refusals:
        raise RuntimeError("; ".join(f"{side}: {reason}" for side, reason in timed.refusals.items()))
    return timed
