"""Peak memory of a training step, against the ledger and against what another library published."""

from __future__ import annotations

import torch
from torch import Tensor

from sparselinear import SparseLinear
from sparselinear.profiling import Sizes, machine
from sparselinear.profiling.baselines import OURS
from sparselinear.profiling.ledger import needed_bytes
from sparselinear.profiling.memory import measure_peak, saved
from sparselinear.profiling.peak import Meter

from ..bars import Verdict
from . import sides
from .cases import CONNECTOME, PUBLISHED, layer_on, square
from .measure import Setting, compare
from .steps import Cell, head
from .table import Row, Table, mean_and_least, median_s, milliseconds, number


class Memory(Table):
    name = "memory"
    title = "Peak memory against the ledger"
    text = (
        "Steps with Adam, in a process of its own; what torch's allocator gave at most beyond input and "
        "gradient of the output, beside what the ledger predicts with output and gradient of the input."
    )
    columns = ("kernel", "peak, MB", "predicted, MB", "predicted / peak")

    # The peak is no more than 5 % above.
    LEAST = 1 / 1.05

    def cells(self, setting: Setting) -> list[Cell]:
        if setting.quick:
            return [Cell(square(256, 0.05, 8), 8, torch.float32)]
        cells = [Cell(square(4096, 0.10, 256), 256, torch.float32), Cell(CONNECTOME, 128, torch.float32)]
        return [
            *cells,
            Cell(CONNECTOME, 128, torch.bfloat16),
            Cell(square(16_384, 0.01, 64), 64, torch.float32),
        ]

    def measure(self, cell: Cell, setting: Setting) -> Row:
        layer, _, _, row = head(cell, setting)
        machine.give_back(setting.device)
        with saved(layer) as path:
            peak = measure_peak(OURS, layer, path, cell.batch)
        if peak.peak_bytes is None:
            raise RuntimeError(peak.reason)
        sizes = Sizes.of(layer, cell.batch)
        ledger = OURS.bytes(sizes)
        predicted = needed_bytes(ledger, sizes)
        found = {"peak_bytes": peak.peak_bytes, "predicted_bytes": predicted, "ledger": ledger.to_dict()}
        return row | found | {"predicted_over_peak": predicted / max(1, peak.peak_bytes)}

    def line(self, row: Row) -> list[str]:
        sizes = (f"{row[key] / 1e6:.1f}" for key in ("peak_bytes", "predicted_bytes"))
        return [row["kernel"].split(":")[0], *sizes, number(row["predicted_over_peak"])]

    def judge(self, rows: list[Row]) -> list[Verdict]:
        key = "predicted_over_peak"
        known = [(row[key], row["cell"]) for row in rows if key in row]
        return mean_and_least("predicted peak over the peak measured", known, len(rows), None, self.LEAST)


class Published(Table):
    name = "published"
    title = "A published case"
    text = (
        "123,440 squared, 3.09 M connections, 128 columns, float32. Another library's table has forward "
        "0.72 ms, backward 3.08 ms and 623 MB, on an RTX 4090; what its bytes hold is not said. Here: a "
        "forward and a backward without an optimizer, by the allocator of this process. Input and gradient "
        "of the output belong to who calls; the second figure has them too. The first is judged."
    )
    columns = (
        "kernel",
        "forward, ms",
        "backward, ms",
        "step, MB",
        "with input and gradient of the output, MB",
        "623 MB over step",
    )

    BYTES, LEAST = 623e6, 3.0

    def cells(self, setting: Setting) -> list[Cell]:
        case = square(256, 0.05, 8) if setting.quick else PUBLISHED
        return [Cell(case, case.batches[0], torch.float32)]

    def measure(self, cell: Cell, setting: Setting) -> Row:
        layer, x, grad_output, row = head(cell, setting)
        pattern, dtype = layer.pattern, layer.values.dtype
        row |= compare(sides.ours(layer, x, grad_output, ()), setting).to_dict()
        kept = pattern_bytes(layer) + layer.values.nbytes
        layer = layer_on(pattern, dtype)
        meter = Meter(setting.device)
        meter.restart()
        _step(layer, x.requires_grad_(), grad_output)
        peak = meter.peak() + kept
        whole = peak + x.nbytes + grad_output.nbytes
        return row | {
            "step_bytes": peak,
            "with_inputs_bytes": whole,
            "published_over_step": self.BYTES / peak,
        }

    def line(self, row: Row) -> list[str]:
        times = (milliseconds(median_s(row, sides.OURS, kind)) for kind in ("forward", "backward"))
        sizes = (f"{row[key] / 1e6:.1f}" for key in ("step_bytes", "with_inputs_bytes"))
        return [row["kernel"].split(":")[0], *times, *sizes, number(row["published_over_step"])]

    def judge(self, rows: list[Row]) -> list[Verdict]:
        known = [(row["published_over_step"], row["cell"]) for row in rows if "published_over_step" in row]
        return mean_and_least("623 MB over the bytes of a step", known, len(rows), None, self.LEAST)


def pattern_bytes(layer: SparseLinear) -> int:
    """Indices, those of the transpose, and the permutation."""
    pattern = layer.pattern
    tensors = (pattern.crow_indices, pattern.col_indices, pattern.ccol_indices, pattern.row_indices)
    return sum(tensor.nbytes for tensor in (*tensors, pattern.permutation))


def _step(layer: SparseLinear, x: Tensor, grad_output: Tensor) -> None:
    layer(x).backward(grad_output)
