"""How right ``sparselinear advise`` is: predicted training steps beside measured ones.

    python -m bench.advice [--data DIR] [--rounds N] [--threads N] [--only TEXT] [--out DIR]

Steps of SparseLinear and of nn.Linear on the matrices of the repository, on those of a folder and on random
ones, each at two batches, timed in turns. A run over all cells writes bench/results/advice.md and .json; one
over some, only where --out says. Ends with status 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sparselinear import SparseLinear
from sparselinear.profiling import Advice, Rates, advise, machine
from sparselinear.profiling.clock import CPU, settle
from sparselinear.profiling.cost.calibrate import calibrated, kernels_used
from sparselinear.profiling.cost.rates import path_of
from sparselinear.profiling.cost.terms import DENSE, SPARSE
from sparselinear.profiling.timing import Timing

from .patterns import Layer, layers

RESULTS = Path(__file__).parent / "results"
DTYPE = torch.float32
BATCHES = (32, 256)

# A weight that is larger is not tried: it comes with a gradient of the same size.
DENSE_BYTES = 1e9
# A step that takes this long has little noise, and is sampled less often.
_SLOW_S, _SLOW_ROUNDS = 0.5, 3

# The bars. Closer than DIFFERENT, it does not matter which one is called the faster.
DIFFERENT, NAMED = 1.2, 0.95
FACTOR, WITHIN = 1.5, 0.80


@dataclass(frozen=True)
class Cell:
    """What was predicted of a layer on a batch, and what it took; ``dense`` is None where it is too large."""

    advice: Advice
    sparse: Timing
    dense: Timing | None

    @property
    def ratio(self) -> float | None:
        """How many times as long as a step of SparseLinear one of nn.Linear took."""
        return self.dense and self.dense.median_s / self.sparse.median_s

    @property
    def named(self) -> bool | None:
        """Whether the faster one was named; None where they hardly differ, or one was not measured."""
        if self.ratio is None or 1 / DIFFERENT <= self.ratio <= DIFFERENT:
            return None
        return self.advice.faster == (SPARSE if self.ratio > 1 else DENSE)

    @property
    def off(self) -> float:
        """Predicted step of SparseLinear over the measured one."""
        return self.advice.sparse.step_s / self.sparse.median_s

    @property
    def dense_off(self) -> float | None:
        """The same of nn.Linear."""
        return self.dense and self.advice.dense.step_s / self.dense.median_s


@dataclass(frozen=True)
class Bar:
    """A share of cells that has to be reached."""

    text: str
    least: float
    right: int
    cells: int

    @property
    def met(self) -> bool | None:
        """None if no cell can tell."""
        return self.right >= self.least * self.cells if self.cells else None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "**missed**", None: "not judged"}[self.met]


@dataclass(frozen=True)
class Run:
    """A whole run; ``age_s`` is how long before it the rates were measured, 0 if within it."""

    command: str
    rounds: int
    machine: machine.Machine
    other_cores: float | None
    rates: Rates
    age_s: float
    cells: list[Cell]

    def bars(self) -> list[Bar]:
        named = [cell.named for cell in self.cells if cell.named is not None]
        near = [1 / FACTOR <= cell.off <= FACTOR for cell in self.cells]
        differ = f"names the faster, where steps differ by more than {DIFFERENT - 1:.0%}"
        return [
            Bar(differ, NAMED, sum(named), len(named)),
            Bar(f"step of SparseLinear within a factor {FACTOR}", WITHIN, sum(near), len(near)),
        ]


def measure(layer: Layer, rates: Rates, rounds: int) -> Iterator[Cell]:
    """A layer at every batch."""
    pattern = layer.make()
    modules: dict[str, nn.Module] = {SPARSE: SparseLinear(pattern.in_features, pattern.out_features, pattern)}
    if math.prod(pattern.shape) * DTYPE.itemsize < DENSE_BYTES:
        modules[DENSE] = nn.Linear(pattern.in_features, pattern.out_features)
    for batch in BATCHES:
        x = torch.randn(batch, pattern.in_features, requires_grad=True)
        grad_output = torch.randn(batch, pattern.out_features)
        steps = {name: partial(_step, module, x, grad_output) for name, module in modules.items()}
        found = _in_turns(steps, rounds)
        advice = advise(pattern, batch=batch, rates=rates, name=layer.name)
        yield Cell(advice, found[SPARSE], found.get(DENSE))


def _step(module: nn.Module, x: Tensor, grad_output: Tensor) -> None:
    for tensor in (x, *module.parameters()):
        tensor.grad = None
    module(x).backward(grad_output)


def _in_turns(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, Timing]:
    """A B A B; each begins with a run that fills the caches, once the threads of the other are asleep."""
    samples: dict[str, list[float]] = {name: [] for name in steps}
    repeats = {}
    for name, step in steps.items():
        step()
        repeats[name] = CPU.enough_repeats(step)
    for turn in range(rounds):
        for name, step in steps.items():
            slow = bool(samples[name]) and samples[name][0] > _SLOW_S
            if slow and turn >= _SLOW_ROUNDS:
                continue
            settle()
            if not slow:  # what the other one left in the caches is not this one's time
                step()
            samples[name].append(CPU.sample(step, repeats[name]))
    return {name: Timing(tuple(taken), repeats[name]) for name, taken in samples.items()}


HEADER = (
    "| layer | shape | density | batch | SparseLinear, ms | predicted | factor | nn.Linear, ms | predicted "
    "| factor | faster | predicted | |\n" + "|---" * 13 + "|"
)


def row(cell: Cell) -> str:
    """A line of the table: measured beside predicted."""
    work, predicted = cell.advice.work, cell.advice
    faster = "" if cell.ratio is None else SPARSE if cell.ratio > 1 else DENSE
    columns = [
        predicted.name,
        f"{work.out_features} x {work.in_features}",
        f"{work.density:.3%}",
        str(work.batch),
        *_beside(cell.sparse, predicted.sparse.step_s),
        *_beside(cell.dense, predicted.dense.step_s),
        "about even" if faster and cell.named is None else faster,
        predicted.faster,
        {True: "right", False: "**wrong**", None: ""}[cell.named],
    ]
    return f"| {' | '.join(columns)} |"


def _beside(measured: Timing | None, predicted_s: float) -> list[str]:
    if measured is None:
        return ["too large", f"{predicted_s * 1e3:.3g}", ""]
    times = [f"{seconds * 1e3:.3g}" for seconds in (measured.median_s, predicted_s)]
    return [*times, f"{predicted_s / measured.median_s:.2f}"]


def bars(run: Run) -> list[str]:
    """The bars as a table."""
    lines = ["| bar | at least | found | |", "|---|---|---|---|"]
    for bar in run.bars():
        share = f" ({bar.right / bar.cells:.0%})" if bar.cells else ""
        lines.append(f"| {bar.text} | {bar.least:.0%} | {bar.right} of {bar.cells}{share} | {bar.verdict} |")
    return lines


def page(run: Run) -> list[str]:
    """The results as Markdown."""
    other, found = run.other_cores, run.machine
    busy = "" if other is None else f" Other programs kept {other:.2f} cores busy."
    age = "in this run" if run.age_s == 0 else f"{run.age_s / 60:.0f} minutes before it"
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    disturbed = ", while other programs wanted the cores" if run.rates.disturbed else ""
    return [
        "# Predicted steps and measured ones",
        "",
        f"`{run.command}`: {run.rounds} rounds in turns, medians. {found.processor} ({found.capability}), "
        f"{threads}, torch {found.torch}, kernel {run.rates.kernel}.{busy} The rates were "
        f"measured {age}{disturbed}. A factor is predicted over measured. docs/advise.md says how it is "
        "predicted.",
        "",
        *bars(run),
        "",
        HEADER,
        *map(row, run.cells),
    ]


def to_json(run: Run) -> str:
    """Every sample, one line a cell."""
    lines = []
    for cell in run.cells:
        measured = {SPARSE: cell.sparse.to_dict(), DENSE: cell.dense and cell.dense.to_dict()}
        lines.append(json.dumps({"measured": measured, "advice": cell.advice.to_dict()}))
    head = {"command": run.command, "rounds": run.rounds, "machine": run.machine.to_dict()}
    head |= {"other_cores": run.other_cores, "rates_age_s": run.age_s, "rates": run.rates.to_dict()}
    head |= {"bars": [{**asdict(bar), "met": bar.met} for bar in run.bars()]}
    fields = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items())
    return "{\n" + fields + ',\n"cells": [\n' + ",\n".join(lines) + "\n]}\n"


def known_rates() -> tuple[Rates, float]:
    """The rates of this machine, and how many seconds ago they were measured; 0 if just now."""
    path, began = path_of(kernels_used(DTYPE), DTYPE), time.time()
    rates = calibrated(DTYPE)
    kept = path is not None and path.is_file() and not rates.disturbed
    return rates, max(0.0, began - path.stat().st_mtime) if kept else 0.0


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rates, age_s = known_rates()
    found, others, cells = machine.describe(torch.device("cpu")), machine.OtherWork(), []
    print(HEADER)
    for layer in options.layers:
        for cell in measure(layer, rates, options.rounds):
            cells.append(cell)
            print(row(cell), flush=True)
    chosen = (" --data DIR" if options.data else "") + (f" --only {options.only!r}" if options.only else "")
    command = f"python -m bench.advice{chosen} --threads {options.threads} --rounds {options.rounds}"
    run = Run(command, options.rounds, found, others.cores(), rates, age_s, cells)
    print("", *bars(run), sep="\n")
    if folder := options.out or (None if options.only else RESULTS):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "advice.md").write_text("\n".join(page(run)) + "\n")
        (folder / "advice.json").write_text(to_json(run))
    return 1 if any(bar.met is False for bar in run.bars()) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.advice", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with more matrices of real networks")
    parser.add_argument("--rounds", type=int, default=7, help="samples of everything (default 7)")
    parser.add_argument("--threads", type=int, default=2, help="threads of both sides (default 2)")
    parser.add_argument("--only", default="", help="only the layers whose name holds this text")
    parser.add_argument("--out", type=Path, help="where to write (default bench/results)")
    options = parser.parse_args()
    try:
        options.layers = [layer for layer in layers(options.data) if options.only in layer.name]
    except FileNotFoundError as error:
        parser.error(str(error))
    if not options.layers or options.threads < 1 or options.rounds < 1:
        parser.error("expected a layer of that name, and at least one thread and one round")
    return options


if __name__ == "__main__":
    sys.exit(main())
