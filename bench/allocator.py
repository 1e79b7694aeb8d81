"""What a model pays for memory that goes back to the system between its steps, and how to keep it.

    python -m bench.allocator [--rounds N]

Training steps of models in two processes that take turns: with glibc's allocator as it is, and told by two
environment variables to keep what is freed. Page faults of a step are counted beside its time. The models
end in the mean of the squares, and Adam updates them. Linux with glibc only.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sparselinear import SparseLinear
from sparselinear.profiling.clock import CPU
from sparselinear.topology import random_pattern

from .faults import page_faults

# Larger blocks than the first come from the system one by one, whatever is free; of what is free at the end
# of the heap the second is left. To set one fixes the other at 128 KiB.
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
STEPS = 5  # of a turn


@dataclass(frozen=True)
class Model:
    """Sparse layers with ReLUs between them: features, and the connections of an output."""

    name: str
    features: tuple[int, ...]
    connections: int
    batch: int

    def step(self) -> Callable[[], None]:
        """A training step."""
        layers: list[nn.Module] = []
        for ins, outs in zip(self.features, self.features[1:], strict=False):
            nnz = outs * min(self.connections, ins)
            layers += [SparseLinear(ins, outs, random_pattern((outs, ins), nnz, 0)), nn.ReLU()]
        model, x = nn.Sequential(*layers[:-1]), torch.randn(self.batch, self.features[0])
        adam = torch.optim.Adam(model.parameters())

        def step() -> None:
            adam.zero_grad()
            model(x).square().mean().backward()
            adam.step()

        return step


MODELS = (
    Model("784, 4096, 4096, 10", (784, 4096, 4096, 10), 40, 256),
    Model("30,000, 1000, 30,000", (30_000, 1000, 30_000), 30, 64),
    Model("200,000 three times", (200_000,) * 3, 20, 16),
    Model("1,000,000 twice", (1_000_000,) * 2, 5, 32),
)


def main() -> int:
    """Measure in turns, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each process (default 5)")
    parser.add_argument("--of", type=int, choices=range(len(MODELS)), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.of is not None:
        return _answer(MODELS[asked.of])
    if asked.rounds < 1:
        parser.error(f"expected at least one round; got {asked.rounds}")
    if platform.libc_ver()[0] != "glibc":
        parser.error("expected glibc, whose variables these are")
    print("| features | batch | as it is, ms | faults | kept, ms | faults | as it is over kept |")
    print("|---|---|---|---|---|---|---|")
    for number, model in enumerate(MODELS):
        plain, kept = _in_turns(number, asked.rounds)
        ratio = statistics.median(a / b for (a, _), (b, _) in zip(plain, kept, strict=True))
        cells = f"{_medians(plain)} | {_medians(kept)}"
        print(f"| {model.name} | {model.batch} | {cells} | {ratio:.2f} |", flush=True)
    return 0


def _medians(turns: list[tuple[float, float]]) -> str:
    """Milliseconds and page faults, as two cells."""
    seconds, faults = (statistics.median(column) for column in zip(*turns, strict=True))
    return f"{1e3 * seconds:.1f} | {faults:.0f}"


def _in_turns(number: int, rounds: int) -> tuple[list[tuple[float, float]], ...]:
    """Seconds and page faults of a step, turn by turn, of a process as it is and of one that keeps memory."""
    command = [sys.executable, "-m", "bench.allocator", "--of", str(number)]
    sides = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | variables
        )
        for variables in ({}, KEPT)
    ]
    turns: tuple[list[tuple[float, float]], ...] = ([], [])
    for turn in range(rounds + 1):
        for side, found in zip(sides, turns, strict=True):
            assert side.stdin
            assert side.stdout
            print(file=side.stdin, flush=True)
            seconds, faults = map(float, side.stdout.readline().split())
            if turn:  # the first allocates
                found.append((seconds, faults))
    for side in sides:
        side.communicate()
    return turns


def _answer(model: Model) -> int:
    """A turn for each line that comes."""
    step = model.step()
    for _ in sys.stdin:
        before = page_faults()
        seconds = CPU.sample(step, STEPS)
        print(seconds, (page_faults() - before) / STEPS, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
