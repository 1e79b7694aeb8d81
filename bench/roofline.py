"""How far the native kernel is from what the machine can do; docs/roofline.md explains the figures.

    python -m bench.roofline [--threads N] [--rounds N] [--only TEXT] [--out DIR]

Runs bench/probe.cpp, times every product of the kernel, runs the probe again, and sets the times against
what the bytes and operations of each product take at the rates that the probe found. A run over all cells
writes bench/results/roofline.md and .json; one over some, only where --out says. Ends with status 1 if a
bar is missed.
"""

from __future__ import annotations

import argparse
import json
import mmap
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sparselinear import SparseLinear
from sparselinear.kernels.native import NativeKernel
from sparselinear.profiling import machine
from sparselinear.profiling.clock import CPU

from .cells import Cell, fixed_fan_in, scale_free, uniform
from .faults import page_faults
from .roofs import (
    BARS,
    GATHER,
    MULTIPLY_ADD,
    PRODUCTS,
    STREAM,
    Bar,
    Probe,
    Product,
    Work,
    higher,
    probe,
    work,
)

RESULTS = Path(__file__).parent / "results"

CELLS = [
    *(Cell(f"4096 x 4096, {d:.1%}", partial(uniform, 4096, d), 256) for d in (0.001, 0.01, 0.1, 0.4)),
    Cell("scale-free 50,000, degree 30", partial(scale_free, 50_000, 30), 128),
    Cell("200,000 x 200,000, 20 a row", partial(fixed_fan_in, 200_000, 20), 32),
]


@dataclass
class Measured:
    """A product on a cell: seconds and page faults of a call, one sample a round.

    ``touch`` holds seconds and page faults that fresh memory of the size of its results costs by itself.
    """

    cell: Cell
    product: Product
    work: Work
    samples_s: list[float] = field(default_factory=list)
    faults: list[float] = field(default_factory=list)
    repeats: int = 0
    touch: tuple[float, float] = 0.0, 0.0

    def take(self, call: Callable[[], object]) -> None:
        """One more sample."""
        call()
        self.repeats = self.repeats or CPU.enough_repeats(call)
        before = page_faults()
        self.samples_s.append(CPU.sample(call, self.repeats))
        self.faults.append((page_faults() - before) / self.repeats)

    @property
    def seconds(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples_s)


def measure(cell: Cell, rounds: int, before: Probe) -> list[Measured]:
    """The products on a cell, timed in turns."""
    matrix, random = cell.matrix(), torch.Generator().manual_seed(0)
    layer = SparseLinear.from_scipy(matrix, bias=False, keep_values=True)
    grad_output, x = (torch.randn(cell.batch, features, generator=random) for features in matrix.shape)
    arguments = NativeKernel(), layer.pattern, layer.values.detach(), x, grad_output
    every = [Measured(cell, p, work(p, matrix.shape, matrix.nnz, cell.batch, before)) for p in PRODUCTS]
    for _ in range(rounds):
        for measured in every:
            measured.take(partial(measured.product.run, *arguments))
    for measured in every:
        measured.touch = _touch(measured.work.results)
    return every


def _touch(size: int) -> tuple[float, float]:
    """Seconds that writing to fresh memory takes beyond writing to it again, and the page faults of it."""
    seconds, faults = [], []
    for _ in range(5):
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        write = partial(torch.frombuffer(memory, dtype=torch.uint8).fill_, 1)
        before = page_faults()
        first = CPU.sample(write, 1)
        faults.append(page_faults() - before)
        seconds.append(max(0.0, first - CPU.sample(write, 1)))
    return statistics.median(seconds), statistics.median(faults)


@dataclass(frozen=True)
class Run:
    """A whole run."""

    command: str
    rounds: int
    machine: machine.Machine
    other_cores: float | None
    probe: Probe
    results: list[Measured]

    def judged(self) -> list[tuple[Bar, float, bool]]:
        """The bars whose cells were measured, with the share found and whether it is enough."""
        found = []
        for bar in BARS:
            for r in self.results:
                if (r.product.name, r.cell.label) == (bar.product, bar.cell):
                    share = r.work.gathered / self.probe.highest(bar.level) / r.seconds
                    found.append((bar, share, share >= bar.least))
        return found


def page(run: Run) -> list[str]:
    """The results as Markdown."""
    found, other = run.probe.found, run.other_cores
    lanes, clock = found["vector_bytes"] // 4, found["clock"]["best"]
    cycle = run.probe.peak / 1e9 / (2 * lanes * clock * found["threads"])
    busy = "" if other is None else f" Other programs kept {other:.2f} cores busy."
    return [
        "# The native kernel and the limits of the machine",
        "",
        f"`{run.command}`: {run.rounds} rounds in turns, medians; of the probe, which ran before and after, "
        f"the higher of both. {run.machine.processor} ({run.machine.capability}), {found['threads']} "
        f"threads, L1 {found['l1_bytes'] >> 10} KiB, L2 {found['l2_bytes'] >> 10} KiB a core.{busy} Float32, "
        "contiguous (batch, features). docs/roofline.md says what is counted.",
        "",
        "## The machine",
        "",
        f"Multiply-adds: {run.probe.peak / 1e9:.0f} GFLOP/s, which is {cycle:.2f} vectors of {lanes} a cycle "
        f"and core at {clock:.2f} GHz, the clock of simple additions.",
        "",
        *_machine(found),
        "",
        "## The kernel",
        "",
        *_products(run),
        "",
        "## Fresh results",
        "",
        *_fresh(run.results),
        "",
        "## Bars",
        "",
        *bars(run),
    ]


def _machine(found: dict[str, Any]) -> list[str]:
    lines = ["| loads | of | pages | fetched ahead | GB/s |", "|---|---|---|---|---|"]
    lines += [
        f"| in order | {_size(s['bytes'])} a thread | huge | | {s['median']:.1f} |" for s in found["load"]
    ]
    for g in found["gather"]:
        of = "a thread" if g["name"] == "L2" else "shared"
        rows = f"rows of {g['row_bytes']} bytes | {_size(g['bytes'])} {of}"
        lines.append(f"| {rows} | {g['pages']} | {g['ahead'] or ''} | {g['median']:.1f} |")
    return lines


def _size(count: float) -> str:
    return f"{count / 2**20:.4g} MiB" if count >= 2**20 else f"{count / 2**10:.4g} KiB"


def _products(run: Run) -> list[str]:
    lines = [
        "| cell | product | panels | gathered, GB | streamed, GB | GFLOP | gather, ms | stream, ms "
        "| multiply-add, ms | measured, ms | of the limit |",
        "|" + "---|" * 11,
    ]
    for r in run.results:
        limits, w = r.work.limits_s(run.probe), r.work
        tightest = max(limits, key=limits.__getitem__)
        panels = f"{w.panels} of {_size(w.panel_bytes)}, {w.level}"
        amounts = [f"{amount / 1e9:.3g}" for amount in (w.gathered, w.streamed, w.flops)]
        times = [f"{limits[name] * 1e3:.3g}" for name in (GATHER, STREAM, MULTIPLY_ADD)]
        reached = f"{limits[tightest] / r.seconds:.0%} ({tightest})"
        columns = [r.cell.label, r.product.name, panels, *amounts, *times, f"{r.seconds * 1e3:.3g}", reached]
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def _fresh(results: list[Measured]) -> list[str]:
    """Where calls have page faults: what these cost, at the price of those of a plain fresh array."""
    lines = [
        "| cell | product | results, MB | faults a call | such an array: faults | ms beyond writing it again "
        "| share of the call |",
        "|" + "---|" * 7,
    ]
    for r in results:
        (seconds, faults), count = r.touch, statistics.median(r.faults)
        if count < 1:
            continue
        share = count * seconds / max(faults, 1) / r.seconds
        size = f"{r.work.results / 1e6:.1f}"
        columns = [
            r.cell.label,
            r.product.name,
            size,
            f"{count:.0f}",
            f"{faults:.0f}",
            f"{seconds * 1e3:.2f}",
        ]
        lines.append(f"| {' | '.join(columns)} | {share:.0%} |")
    return lines


def bars(run: Run) -> list[str]:
    """The bars as a table."""
    lines = ["| bar | at least | found | |", "|---|---|---|---|"]
    for bar, share, met in run.judged():
        text = f"{bar.product}, {bar.cell}: of {run.probe.highest(bar.level) / 1e9:.0f} GB/s of {bar.level}"
        lines.append(f"| {text} | {bar.least:.0%} | {share:.0%} | {'met' if met else '**missed**'} |")
    return lines


def to_json(run: Run, probes: list[dict[str, Any]]) -> str:
    """Every sample, one line a product."""
    lines = []
    for r in run.results:
        measured = {"samples_s": r.samples_s, "repeats": r.repeats, "faults": r.faults, "touch": r.touch}
        limits = {"limits_s": r.work.limits_s(run.probe), "work": asdict(r.work)}
        lines.append(json.dumps({"cell": r.cell.label, "product": r.product.name, **measured, **limits}))
    judged = [{**asdict(bar), "found": share, "met": met} for bar, share, met in run.judged()]
    head = {"command": run.command, "rounds": run.rounds, "machine": run.machine.to_dict()}
    head |= {"other_cores": run.other_cores, "bars": judged, "probes": probes}
    fields = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items())
    return "{\n" + fields + ',\n"results": [\n' + ",\n".join(lines) + "\n]}\n"


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    if problem := NativeKernel().unavailable(torch.device("cpu"), torch.float32):
        print(f"the native kernel does not run: {problem}", file=sys.stderr)
        return 2
    found, others = machine.describe(torch.device("cpu")), machine.OtherWork()
    probes = [probe(options.threads, options.rounds)]
    results = [r for cell in options.cells for r in measure(cell, options.rounds, Probe(probes[0]))]
    probes.append(probe(options.threads, options.rounds))
    command = f"python -m bench.roofline --threads {options.threads} --rounds {options.rounds}"
    run = Run(command, options.rounds, found, others.cores(), Probe(higher(*probes)), results)
    print(*page(run), sep="\n")
    if folder := options.out or (None if options.only else RESULTS):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "roofline.md").write_text("\n".join(page(run)) + "\n")
        (folder / "roofline.json").write_text(to_json(run, probes))
    return 0 if all(met for _, _, met in run.judged()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of the probe and of the kernel (2)")
    parser.add_argument("--rounds", type=int, default=9, help="samples of everything (default 9)")
    parser.add_argument("--only", default="", help="only the cells whose label holds this text")
    parser.add_argument("--out", type=Path, help="where to write (default bench/results)")
    options = parser.parse_args()
    options.cells = [cell for cell in CELLS if options.only in cell.label]
    if not options.cells or options.threads < 1 or options.rounds < 1:
        parser.error("expected a cell of that name, and at least one thread and one round")
    return options


if __name__ == "__main__":
    sys.exit(main())
