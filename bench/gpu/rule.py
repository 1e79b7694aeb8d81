"""Our two kernels side by side over connections a row, batch and dtype: what the choice is learnt from."""

from __future__ import annotations

from functools import partial

from sparselinear.topology import random_pattern

from . import sides
from .cases import Case
from .measure import DEVICE, LOOP, Setting, compare
from .sides import OURS
from .steps import DTYPES, Cell, head
from .table import Row, Table, median_s, milliseconds, number

PER_ROW, BATCHES = (4, 16, 32, 64, 128, 256, 512), (1, 8, 32, 64, 256, 1024)


class Rule(Table):
    name = "rule"
    title = "Which kernel where"
    text = (
        "16,384 squared, connections anywhere. A figure is the time of the second kernel over that of the "
        "first, of forward and of a step, in a loop of calls and of the device alone: above 1 the first is "
        "the faster."
    )
    columns = ("default", "faster", "forward", "step", "forward, device", "step, device", "steps, ms")

    def cells(self, setting: Setting) -> list[Cell]:
        size, per_row, batches = (128, (4, 16), (1, 8)) if setting.quick else (16_384, PER_ROW, BATCHES)
        cases = [
            Case(f"{k} a row", partial(random_pattern, (size, size), size * k, 0), batches) for k in per_row
        ]
        return [Cell(case, batch, dtype) for case in cases for dtype in DTYPES for batch in batches]

    def measure(self, cell: Cell, setting: Setting) -> Row:
        layer, x, grad_output, row = head(cell, setting)
        made = sides.ours(layer, x, grad_output, setting.family)
        del made[OURS]
        timed = compare(made, setting, ("forward", "step"), needed="").to_dict()
        return row | {"per_row": row["nnz"] / row["shape"][0]} | timed

    def line(self, row: Row) -> list[str]:
        names = list(row["timings"])
        ratios = [
            number(_over(row, *names, kind, clock) if len(names) == 2 else None)
            for clock in (LOOP, DEVICE)
            for kind in ("forward", "step")
        ]
        times = {name: median_s(row, name) for name in names}
        known = {name: seconds for name, seconds in times.items() if seconds is not None}
        told = ", ".join(f"{name} {milliseconds(seconds)}" for name, seconds in times.items())
        return [row["kernel"].split(":")[0], min(known, key=known.__getitem__, default=""), *ratios, told]


def _over(row: Row, first: str, second: str, kind: str, clock: str) -> float | None:
    pair = [median_s(row, name, kind, clock) for name in (second, first)]
    return pair[0] / pair[1] if pair[0] and pair[1] else None
