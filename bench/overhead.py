"""What a call costs where there is next to nothing to compute: forward and backward beside nn.Linear's.

    python -m bench.overhead [--rounds N]

64 x 64 at a density of 1 %, batch 1, one thread, eager, the two sides in turns. Ends with status 1 if the bar
is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import torch
from torch import Tensor, nn

from sparselinear import SparseLinear
from sparselinear.profiling.clock import CPU
from sparselinear.topology import random_pattern

SIZE, DENSITY, REPEATS, BAR = 64, 0.01, 1000, 2.5


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="samples of each side (default 15)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    pattern = random_pattern((SIZE, SIZE), round(DENSITY * SIZE * SIZE), 0)
    sides = SparseLinear(SIZE, SIZE, pattern), nn.Linear(SIZE, SIZE)
    x, grad_output = torch.randn(1, SIZE, requires_grad=True), torch.randn(1, SIZE)
    for side in sides:
        _seconds(side, x, grad_output)  # compiles, allocates
    pairs = [[_seconds(side, x, grad_output) for side in sides] for _ in range(rounds)]
    ratios = [ours / dense for ours, dense in pairs]
    ours, dense = (1e6 * statistics.median(taken) for taken in zip(*pairs, strict=True))
    ratio = statistics.median(ratios)
    print(f"SparseLinear {ours:.1f} us, nn.Linear {dense:.1f} us: {ratio:.2f} times as long, at most {BAR}")
    print(f"over {rounds} rounds {min(ratios):.2f} to {max(ratios):.2f}")
    return int(ratio > BAR)


def _seconds(module: nn.Module, x: Tensor, grad_output: Tensor) -> float:
    return CPU.sample(lambda: module(x).backward(grad_output), REPEATS)


if __name__ == "__main__":
    sys.exit(main())
