"""What a run leaves behind: a table for people and every sample for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparselinear.profiling.machine import Machine
from sparselinear.profiling.timing import Timing

from . import bars, peers
from .bars import Verdict
from .cells import CSR_BATCH_MAJOR, RANDOM_ALIKE
from .measure import Result
from .stock import Ours

STATES = {True: "met", False: "**missed**", None: "not judged"}


@dataclass(frozen=True)
class Run:
    """A whole run: the command, the machine it ran on, and what was found."""

    command: str
    rounds: int
    machine: Machine
    other_cores: float | None
    results: list[Result]

    def judge(self) -> list[Verdict]:
        """Every bar over the cells of this run."""
        return bars.judge(self.results)


HEADER = (
    "| matrix | density | batch | ours, ms | forward / CSR | step / CSR | step / stock | best peer | noise "
    "| bars |\n|---|---|---|---|---|---|---|---|---|---|"
)


def row(result: Result) -> str:
    """A line of the table: a cell against CSR autograd, the stock Function and the best peer."""
    cell, rivals = result.cell, result.rivals()
    best = next((f"{name} {ratio:.2f}" for name, ratio in rivals.items()), "")
    missed = bars.missed(result)
    columns = [
        cell.label.removesuffix(f", batch {cell.batch}").replace(f", batch {cell.batch},", ","),
        f"{result.nnz / (result.shape[0] * result.shape[1]):.2%}",
        str(cell.batch),
        f"{result.timings[Ours.name]['step'].median_s * 1e3:.2f}",
        _number(result.ratio("csr", "forward")),
        _number(result.ratio("csr")),
        _number(result.ratio("stock")),
        best,
        f"{result.noise():.0%}",
        f"**missed**: {'; '.join(missed)}" if missed else "met" if rivals else "",
    ]
    return f"| {' | '.join(columns)} |"


def write(run: Run, folder: Path) -> None:
    """Write cpu-steps.md and cpu-steps.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu-steps.md").write_text("\n".join(_page(run)) + "\n")
    (folder / "cpu-steps.json").write_text(_json(run))


def verdicts(judged: list[Verdict]) -> list[str]:
    """The bars as a table."""
    lines = ["| bar | at least | found | where it is lowest | |", "|---|---|---|---|---|"]
    for verdict in judged:
        found = _number(verdict.found)
        columns = [verdict.text, f"{verdict.least:.3g}", found, verdict.where, STATES[verdict.met]]
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def _page(run: Run) -> list[str]:
    machine = run.machine
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    other = "" if run.other_cores is None else f" Other programs kept {run.other_cores:.2f} cores busy."
    return [
        "# Training steps on a CPU: ours and its peers",
        "",
        f"`{run.command}`: {run.rounds} rounds in turns, medians. {machine.processor} "
        f"({machine.capability}), {threads}, torch {machine.torch}.{other} Float32; a step "
        "is forward and backward with the gradients of input and values, transpositions included. Input, "
        "output and their gradients are contiguous (batch, features), but for the cells that say "
        "feature-major. A ratio is the time of the peer over ours. Noise is the interquartile range of "
        "the steps over their median, the larger of ours and CSR autograd's.",
        "",
        "![Ratios](cpu-steps.svg)",
        "",
        HEADER,
        *map(row, run.results),
        "",
        "## Bars",
        "",
        *verdicts(run.judge()),
        "",
        *_beside(run.results),
        "## Every peer",
        "",
        "Time of its step over ours; an empty field has its reason below.",
        "",
        *_matrix(run.results),
        "",
        *_peers(run.results),
        "",
        *_refusals(run.results),
    ]


def _beside(results: list[Result]) -> list[str]:
    """Sentences on the sides that are no peers."""
    lines = []
    for result in results:
        if (ratio := result.ratio(RANDOM_ALIKE)) is not None:
            lines += [f"{result.cell.label}: {1 / ratio:.2f} times as long as the random matrix.", ""]
        if (ratio := result.ratio(CSR_BATCH_MAJOR)) is not None:
            text = "CSR autograd on the same numbers in (batch, features) takes"
            lines += [f"{result.cell.label}: {text} {ratio:.2f} times as long as ours.", ""]
    return lines


def _matrix(results: list[Result]) -> list[str]:
    names = [name for name in peers.PEERS if any(name in result.timings for result in results)]
    lines = [f"| cell | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for result in results:
        ratios = (_number(result.ratio(name)) for name in names)
        lines.append(f"| {result.cell.label} | {' | '.join(ratios)} |")
    return lines


def _peers(results: list[Result]) -> list[str]:
    tried = {name for result in results for name in (*result.timings, *result.refusals)}
    lines = ["| peer | version | what it is |", "|---|---|---|"]
    for name, peer in peers.PEERS.items():
        version = peers.installed(peer) if name in tried else "left out of this run"
        lines.append(f"| {name} | {version} | {peer.text} |")
    return lines


def _refusals(results: list[Result]) -> list[str]:
    """Where a peer was not timed, and why; those not installed stand in the list of peers."""
    lines = []
    for name, peer in peers.PEERS.items():
        where = [f"{r.cell.label} ({r.refusals[name]})" for r in results if name in r.refusals]
        if where and not peer.problem():
            lines.append(f"- {name}: {'; '.join(where)}")
    return ["Not timed:", "", *lines] if lines else []


def _number(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


def _json(run: Run) -> str:
    """One line a cell: long enough to read, short enough to compare two runs by lines."""
    head = {
        "command": run.command,
        "rounds": run.rounds,
        "machine": run.machine.to_dict(),
        "other_cores": run.other_cores,
        "peers": {name: peers.installed(peer) for name, peer in peers.PEERS.items()},
        "bars": [vars(verdict) for verdict in run.judge()],
    }
    fields = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    cells = ",\n".join(json.dumps(_cell(result)) for result in run.results)
    return "{\n" + ",\n".join(fields) + ',\n"cells": [\n' + cells + "\n]}\n"


def _cell(result: Result) -> dict[str, Any]:
    cell = result.cell
    return {
        "matrix": cell.name,
        "batch": cell.batch,
        "layout": cell.layout,
        "named": cell.named,
        "shape": result.shape,
        "nnz": result.nnz,
        "kernel": result.kernel,
        "timings": {
            side: {kind: _timing(timing) for kind, timing in kinds.items()}
            for side, kinds in result.timings.items()
        },
        "refusals": result.refusals,
    }


def _timing(timing: Timing) -> dict[str, Any]:
    samples = [float(f"{sample * 1e3:.5g}") for sample in timing.samples_s]
    return {"samples_ms": samples, "repeats": timing.repeats}
