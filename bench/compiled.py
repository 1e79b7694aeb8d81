"""What torch.compile costs or gains: forward and backward of a compiled layer beside the same in eager.

    python -m bench.compiled [--rounds N] [--depth N]

Layers of several sizes, by themselves or in a stack with ReLUs, with as many threads as torch takes, the two
sides in turns, and the same of nn.Linear: what the wrapper that torch puts around a graph costs there. Ends
with status 1 if what is compiled takes longer than in eager by more than the noise of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from sparselinear import SparseLinear
from sparselinear.profiling.clock import CPU
from sparselinear.topology import random_pattern

# Side of a square, density, batch.
LAYERS = ((64, 0.01, 1), (512, 0.05, 64), (1024, 0.05, 64), (4096, 0.01, 256), (4096, 0.10, 256))


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="samples of each side (default 15)")
    parser.add_argument("--depth", type=int, default=1, help="layers of a stack (default 1)")
    asked = parser.parse_args()
    if asked.rounds < 2:
        parser.error(f"expected at least 2 rounds, for quartiles; got {asked.rounds}")
    if asked.depth < 1:
        parser.error(f"expected at least one layer; got {asked.depth}")
    slower = False
    for size, density, batch in LAYERS:
        pattern = random_pattern((size, size), round(density * size * size), 0)
        sparse = _stack(asked.depth, partial(SparseLinear, size, size, pattern))
        ratios, eager, compiled = _compare(sparse, size, batch, asked.rounds)
        low, middle, high = statistics.quantiles(ratios, n=4)
        slower |= low > 1
        linear = _stack(asked.depth, partial(nn.Linear, size, size))
        dense = statistics.median(_compare(linear, size, batch, asked.rounds)[0])
        print(
            f"{size} squared, {density:.0%}, batch {batch}: eager {1e3 * eager:.3f} ms, compiled "
            f"{1e3 * compiled:.3f} ms, {middle:.2f} times as long ({low:.2f} to {high:.2f}); "
            f"nn.Linear {dense:.2f} times"
        )
    return int(slower)


def _stack(depth: int, make: Callable[[], nn.Module]) -> nn.Module:
    """One layer, or several, each with a ReLU after it."""
    return make() if depth == 1 else nn.Sequential(*(m for _ in range(depth) for m in (make(), nn.ReLU())))


def _compare(model: nn.Module, size: int, batch: int, rounds: int) -> tuple[list[float], float, float]:
    """Compiled over eager in each round, and the medians of both in seconds."""
    torch.compiler.reset()  # a class may be compiled for so many sizes only
    compiled = torch.compile(model, fullgraph=True)
    x = torch.randn(batch, size, requires_grad=True)
    grad_output = torch.randn(batch, size)

    def step(run: nn.Module) -> None:
        for tensor in (x, *model.parameters()):
            tensor.grad = None
        run(x).backward(grad_output)

    steps = [partial(step, run) for run in (model, compiled)]
    for each in steps:
        each()  # compiles, allocates
    repeats = [CPU.enough_repeats(each) for each in steps]
    pairs = [list(map(CPU.sample, steps, repeats)) for _ in range(rounds)]
    medians = [statistics.median(taken) for taken in zip(*pairs, strict=True)]
    return [after / before for before, after in pairs], medians[0], medians[1]


if __name__ == "__main__":
    sys.exit(main())
