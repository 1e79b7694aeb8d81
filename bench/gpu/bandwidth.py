"""How near forward comes to the time that moving its bytes takes."""

from __future__ import annotations

from functools import lru_cache

import torch

from sparselinear.profiling import Sizes
from sparselinear.profiling.roofline import copy_rate, counts_of_sparse

from ..bars import Verdict
from . import sides
from .cases import CONNECTOME, square
from .measure import Setting, compare
from .sides import OURS
from .steps import DTYPES, Cell, head
from .table import Row, Table, best_clock, mean_and_least, median_s, milliseconds


class Bandwidth(Table):
    name = "bandwidth"
    title = "Share of the limit of memory bandwidth"
    text = (
        "Bytes that forward has to move, each array once (values, indices, input, output), over the rate of "
        "a large copy on the device, over the time measured: of the device alone where there is that clock. "
        "Rows that are gathered more than once count once."
    )
    columns = ("MB", "copy, TB/s", "least, ms", "kernel", "ours, ms", "share", "share of other kernels")

    LEAST = 0.6

    def cells(self, setting: Setting) -> list[Cell]:
        case = square(256, 0.05, 8) if setting.quick else CONNECTOME
        return [Cell(case, batch, dtype) for dtype in DTYPES for batch in case.batches]

    def measure(self, cell: Cell, setting: Setting) -> Row:
        layer, x, grad_output, row = head(cell, setting)
        moved = counts_of_sparse(Sizes.of(layer, cell.batch))[1]["forward"]
        rate = _rate(setting.device)
        made = sides.ours(layer, x, grad_output, setting.family)
        row |= {"moved_bytes": moved, "copy_bytes_s": rate, "least_s": moved / rate}
        row |= compare(made, setting, ("forward",)).to_dict()
        return row | {"shares": {side: _share(row, side) for side in row["timings"]}}

    def line(self, row: Row) -> list[str]:
        others = (f"{name} {share:.0%}" for name, share in row["shares"].items() if name != OURS)
        return [
            f"{row['moved_bytes'] / 1e6:.1f}",
            f"{row['copy_bytes_s'] / 1e12:.2f}",
            milliseconds(row["least_s"]),
            row["kernel"].split(":")[0],
            milliseconds(median_s(row, OURS, "forward", best_clock(row, OURS))),
            f"{row['shares'][OURS]:.0%}" if OURS in row["shares"] else "",
            ", ".join(others),
        ]

    def judge(self, rows: list[Row]) -> list[Verdict]:
        known = [(row["shares"][OURS], row["cell"]) for row in rows if OURS in row.get("shares", {})]
        return mean_and_least("share of the bandwidth limit, forward", known, len(rows), None, self.LEAST)


@lru_cache(maxsize=1)
def _rate(device: torch.device) -> float:
    return copy_rate(torch.float32, device)


def _share(row: Row, side: str) -> float:
    seconds = median_s(row, side, "forward", best_clock(row, side))
    assert seconds is not None
    return float(row["least_s"] / seconds)
