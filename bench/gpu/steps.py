"""Training steps against torch.sparse CSR autograd, and against the other packages that have a product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sparselinear import kernels

from ..bars import Verdict, geometric_mean
from . import sides
from .cases import CONNECTOME, Case, activations, layer_on, pattern_of, square, step_cases
from .measure import DEVICE, KINDS, LOOP, Setting, compare
from .sides import CSR, CSR_FLOAT32, OURS
from .table import AbsentError, Row, Table, mean_and_least, median_s, milliseconds, name_of, number, ratio

DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Cell:
    """A case at one batch, in one dtype."""

    case: Case
    batch: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.case.name}, batch {self.batch}, {name_of(self.dtype)}"


def head(cell: Cell, setting: Setting) -> tuple[Any, Any, Any, Row]:
    """Layer, x and grad_output of a cell, and what its row begins with.

    Raises:
        AbsentError: the file of the matrix is not there.
    """
    if cell.case.make is None:
        raise AbsentError("not in the folder of --data")
    pattern = pattern_of(cell.case, setting.device)
    layer = layer_on(pattern, cell.dtype)
    x, grad_output = activations(layer, cell.batch)
    row = {
        "matrix": cell.case.name,
        "shape": list(pattern.shape),
        "nnz": pattern.nnz,
        "batch": cell.batch,
        "dtype": name_of(cell.dtype),
        "kernel": kernels.explain(layer, cell.batch),
    }
    return layer, x, grad_output, row


def rival(row: Row) -> str:
    """CSR in the dtype of the row where it trains; in float32 where it does not."""
    return CSR if ratio(row, CSR) is not None else CSR_FLOAT32


class Steps(Table):
    name = "steps"
    title = "Training steps against torch.sparse"
    text = (
        "A step is forward and backward with the gradients of input and values, transpositions included; the "
        "rival is torch.sparse.mm with a CSR leaf of int32 indices, under torch's autograd. Where that does "
        "not train in bfloat16, its float32 stands in its place and is marked with an asterisk. A ratio is "
        "the time of the rival over ours: `loop` of calls one after the other, `device` of the device alone, "
        "its second-level cache cold. First the geometric means over the cells, and the least of them."
    )
    columns = (
        "kernel",
        "ours, ms",
        "device, ms",
        "forward / CSR",
        "backward / CSR",
        "step / CSR",
        "step / CSR, device",
        "other kernels, ms",
    )

    MEAN, LEAST = 3.0, 1.0

    def cells(self, setting: Setting) -> list[Cell]:
        every = step_cases(setting.data, quick=setting.quick)
        return [Cell(case, batch, dtype) for case in every for dtype in DTYPES for batch in case.batches]

    def measure(self, cell: Cell, setting: Setting) -> Row:
        layer, x, grad_output, row = head(cell, setting)
        made = sides.ours(layer, x, grad_output, setting.family) | sides.csr(layer, x, grad_output)
        return row | compare(made, setting, KINDS).to_dict()

    def line(self, row: Row) -> list[str]:
        side = rival(row)
        over = [ratio(row, side, kind) for kind in KINDS] + [ratio(row, side, clock=DEVICE)]
        others = (f"{name} {milliseconds(median_s(row, name))}" for name in _kernels_of(row))
        return [
            row["kernel"].split(":")[0],
            milliseconds(median_s(row, OURS)),
            milliseconds(median_s(row, OURS, clock=DEVICE)),
            *(number(found) + "*" * (found is not None and side == CSR_FLOAT32) for found in over),
            ", ".join(others),
        ]

    def summary(self, rows: list[Row]) -> list[Row]:
        """CSR autograd's time over ours, by kernel and clock."""
        measured = [row for row in rows if row.get("timings")]
        names = dict.fromkeys(name for row in measured for name in (OURS, *_kernels_of(row)))
        found = [
            _means([row for row in measured if row["dtype"] == dtype], dtype, name, clock)
            for dtype in map(name_of, DTYPES)
            for name in names
            for clock in (LOOP, DEVICE)
        ]
        return [means for means in found if means]

    def judge(self, rows: list[Row]) -> list[Verdict]:
        verdicts = []
        for dtype in map(name_of, DTYPES):
            group = [row for row in rows if row["cell"].endswith(dtype)]
            found = [(ratio(row, rival(row)), row["cell"]) for row in group if "ratios" in row]
            known = [(value, label) for value, label in found if value is not None]
            text = f"step over CSR autograd, {dtype}"
            verdicts += mean_and_least(text, known, len(group), self.MEAN, self.LEAST)
        return verdicts


def _means(rows: list[Row], dtype: str, side: str, clock: str) -> Row | None:
    """Geometric mean and least of the rival's time over that of a kernel; None where nothing was measured."""
    found: Row = {"ours": side, "dtype": dtype, "clock": clock, "cells": 0}
    for kind in KINDS:
        pairs = [[ratio(row, name, kind, clock) for name in (rival(row), side)] for row in rows]
        known = [theirs / own for theirs, own in pairs if theirs is not None and own is not None]
        if not known:
            return None
        found |= {"cells": len(known), f"{kind}, mean": geometric_mean(known), f"{kind}, least": min(known)}
    return found


def _kernels_of(row: Row) -> list[str]:
    """Ours by name, without the default."""
    return [name for name in row["timings"] if name not in (OURS, CSR, CSR_FLOAT32)]


class Peers(Table):
    name = "peers"
    title = "Other packages"
    text = "Float32; the time over ours, in a loop of calls. What was not run has its reason below the table."
    columns = ("ours, ms", "forward / ours", "step / ours")

    def cells(self, setting: Setting) -> list[Cell]:
        if setting.quick:
            return [Cell(square(96, 0.05, 8), 8, torch.float32)]
        return [
            Cell(square(4096, 0.01, 256), 256, torch.float32),
            Cell(CONNECTOME, 128, torch.float32),
            Cell(square(16_384, 0.01, 64), 64, torch.float32),
        ]

    def measure(self, cell: Cell, setting: Setting) -> Row:
        layer, x, grad_output, row = head(cell, setting)
        made = sides.ours(layer, x, grad_output, ()) | sides.others(layer, x, grad_output)
        return row | compare(made, setting, ("forward", "step")).to_dict()

    def line(self, row: Row) -> list[str]:
        names = [name for name in row["timings"] if name != OURS]
        return [
            milliseconds(median_s(row, OURS)),
            *(", ".join(f"{n} {number(ratio(row, n, kind))}" for n in names) for kind in ("forward", "step")),
        ]
