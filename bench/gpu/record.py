"""What a run leaves behind, written anew after every cell: all numbers as JSON, a page, and a picture."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sparselinear.profiling.machine import Machine

from .. import report
from ..bars import Verdict
from .measure import Setting
from .sides import CSR, CSR_FLOAT32, OURS
from .table import FAILED, SKIPPED, Row, Table, number, ratio


@dataclass
class Record:
    """A run as far as it is.

    Attributes:
        command: as it would be given again.
        setting: how it was made.
        machine: where.
        tables: in the order in which they are measured.
        rows: by the name of the table.
        complete: whether it came to its end.
    """

    command: str
    setting: Setting
    machine: Machine
    tables: Sequence[Table]
    rows: dict[str, list[Row]] = field(default_factory=dict)
    complete: bool = False

    def verdicts(self) -> list[Verdict]:
        """The bars of all tables; of shapes that only try the run nothing is judged."""
        judged = [verdict for table in self.tables for verdict in table.judge(self.rows.get(table.name, []))]
        if self.setting.quick:
            judged = [replace(verdict, met=None, misses=()) for verdict in judged]
        return judged

    def failures(self) -> list[str]:
        """The cells that ours did not run, or that could not be measured for another fault."""
        rows = [row for table in self.rows.values() for row in table]
        return [f"{row['cell']}: {row[SKIPPED]}" for row in rows if row.get(SKIPPED, "").startswith(FAILED)]

    def write(self, folder: Path) -> None:
        """Write JSON and page, each as a whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / f"gpu-{_slug(self.machine.processor)}.json", self._json())
        _replace(folder / "gpu.md", "\n".join(self._page()) + "\n")

    def draw(self, folder: Path) -> bool:
        """Write the picture of the training steps; False where there is no matplotlib, or nothing to draw."""
        points = [_Point(row) for row in self.rows.get("steps", []) if row.get("timings")]
        try:
            from .. import plot
        except ImportError:
            return False
        names = list(dict.fromkeys(name for point in points for name in point.row["timings"] if name != OURS))
        legends = {name: (name if name in (CSR, CSR_FLOAT32) else f"{name} (ours)", True) for name in names}
        if points:
            plot.draw(points, folder / "gpu.svg", legends)
        return bool(points)

    def _json(self) -> str:
        """One line a cell, as the other results have it."""
        head = {
            "command": self.command,
            "complete": self.complete,
            "quick": self.setting.quick,
            "rounds": self.setting.rounds,
            "machine": self.machine.to_dict(),
            "bars": [asdict(verdict) for verdict in self.verdicts()],
        }
        fields = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        for name, rows in self.rows.items():
            fields.append(f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, rows)) + "\n]")
        fields += [f'"{table.name} summary": {json.dumps(found)}' for table, found in self._summaries()]
        return "{\n" + ",\n".join(fields) + "\n}\n"

    def _summaries(self) -> list[tuple[Table, list[Row]]]:
        found = [(table, table.summary(self.rows.get(table.name, []))) for table in self.tables]
        return [(table, summary) for table, summary in found if summary]

    def _page(self) -> list[str]:
        run = f"`{self.command}`: {self.setting.rounds} rounds in turns, medians."
        run += "" if self.complete else " **The run has not come to its end.**"
        bars = report.verdicts(self.verdicts())
        lines = ["# The layer on a GPU", "", run, "", _machine(self.machine), "", "## Bars", "", *bars, ""]
        if any(row.get("timings") for row in self.rows.get("steps", [])):
            lines += ["![Ratios](gpu.svg)", ""]
        for table in self.tables:
            rows = _rows(table, self.rows.get(table.name, []))
            summary = _summary(table.summary(self.rows.get(table.name, [])))
            lines += [f"## {table.title}", "", table.text, "", *summary, *rows, ""]
        return lines[:-1]


@dataclass
class _Point:
    """A row as the picture takes it."""

    row: Row

    @property
    def cell(self) -> Any:
        return SimpleNamespace(label=self.row["cell"], named=False)

    def ratio(self, side: str) -> float | None:
        return ratio(self.row, side)


def _machine(found: Machine) -> str:
    gpu = found.gpu
    if gpu is None:
        return f"{found.processor} ({found.capability}), {found.threads} threads, torch {found.torch}."
    tf32 = "without TF32" if gpu.float32_precision == "highest" else "with TF32"
    return (
        f"{found.processor}, {found.capability}, {gpu.multiprocessors} multiprocessors, L2 of "
        f"{gpu.l2_bytes / 2**20:g} MiB, {gpu.memory_bytes / 1e9:.0f} GB; driver {gpu.driver}, "
        f"CUDA {gpu.cuda}, torch {found.torch}, Triton {gpu.triton or 'absent'}. Dense float32 {tf32}."
    )


def _rows(table: Table, rows: list[Row]) -> list[str]:
    header = ("", *table.columns)
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    lines += [line_of(table, row) for row in rows if SKIPPED not in row]
    skipped = [f"- {row['cell']}: {row[SKIPPED]}" for row in rows if SKIPPED in row]
    refused: dict[str, list[str]] = {}
    for row in rows:
        for side, said in row.get("refusals", {}).items():
            refused.setdefault(f"{side}: {said}", []).append(row["cell"])
    said = [f"- {text} ({_some(cells)})" for text, cells in refused.items()]
    return [*lines, *(["", "Not run:", "", *skipped, *said] if skipped or said else [])]


def _summary(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    lines = [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        columns = (number(found) if isinstance(found, float) else str(found) for found in row.values())
        lines.append(f"| {' | '.join(columns)} |")
    return [*lines, ""]


def line_of(table: Table, row: Row) -> str:
    """A row of a table as Markdown."""
    columns = [f"not run: {row[SKIPPED]}"] if SKIPPED in row else table.line(row)
    return f"| {' | '.join([row['cell'], *columns])} |".replace("\n", " ")


def _some(cells: list[str]) -> str:
    return "; ".join(cells) if len(cells) <= 2 else f"{cells[0]}; and {len(cells) - 1} more"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    draft.write_text(text)
    draft.replace(path)
