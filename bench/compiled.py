"""What torch.compile costs or gains: forward and backward of a compiled layer beside the same in eager.

    python -m bench.compiled [--rounds N]

Layers of several sizes by themselves, with as many threads as torch takes, the two sides in turns, and the
same of an nn.Linear of that size: what the wrapper that torch puts around a graph costs there. Ends with
status 1 if a compiled SparseLinear takes longer than an eager one by more than the noise of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
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
    rounds = parser.parse_args().rounds
    if rounds < 2:
        parser.error(f"expected at least 2 rounds, for quartiles; got {rounds}")
    slower = False
    for size, density, batch in LAYERS:
        sparse = SparseLinear(size, size, random_pattern((size, size), round(density * size * size), 0))
        ratios, eager, compiled = _compare(sparse, batch, rounds)
        low, middle, high = statistics.quantiles(ratios, n=4)
        slower |= low > 1
        dense = statistics.median(_compare(nn.Linear(size, size), batch, rounds)[0])
        print(
            f"{size} squared, {density:.0%}, batch {batch}: eager {1e3 * eager:.3f} ms, compiled "
            f"{1e3 * compiled:.3f} ms, {middle:.2f} times as long ({low:.2f} to {high:.2f}); "
            f"nn.Linear {dense:.2f} times"
        )
    return int(slower)


def _compare(layer: SparseLinear | nn.Linear, batch: int, rounds: int) -> tuple[list[float], float, float]:
    """Compiled over eager in each round, and the medians of both in seconds."""
    compiled = torch.compile(layer, fullgraph=True)
    x = torch.randn(batch, layer.in_features, requires_grad=True)
    grad_output = torch.randn(batch, layer.out_features)

    def step(run: nn.Module) -> None:
        for tensor in (x, *layer.parameters()):
            tensor.grad = None
        run(x).backward(grad_output)

    steps = [partial(step, run) for run in (layer, compiled)]
    for each in steps:
        each()  # compiles, allocates
    repeats = [CPU.enough_repeats(each) for each in steps]
    pairs = [list(map(CPU.sample, steps, repeats)) for _ in range(rounds)]
    medians = [statistics.median(taken) for taken in zip(*pairs, strict=True)]
    return [after / before for before, after in pairs], medians[0], medians[1]


if __name__ == "__main__":
    sys.exit(main())
