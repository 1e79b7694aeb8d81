"""What a call costs where there is next to nothing to compute: a step and inference beside nn.Linear's.

    python -m bench.overhead [--rounds N]

64 x 64 at a density of 1 %, batch 1, one thread, eager, the two sides in turns. Ends with status 1 if the bar
of a step, forward and backward, is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial

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
    ratio = _compare("step", [partial(_step, side, x, grad_output) for side in sides], rounds)
    print(f"at most {BAR}")
    with torch.inference_mode():
        _compare("inference", [partial(side, x) for side in sides], rounds)
    return int(ratio > BAR)


def _step(module: nn.Module, x: Tensor, grad_output: Tensor) -> None:
    module(x).backward(grad_output)


def _compare(what: str, sides: Sequence[Callable[[], object]], rounds: int) -> float:
    """Print the median times of both; how many times as long ours takes."""
    for side in sides:
        CPU.sample(side, REPEATS)  # compiles, allocates
    pairs = [[CPU.sample(side, REPEATS) for side in sides] for _ in range(rounds)]
    ratios = [ours / dense for ours, dense in pairs]
    ours, dense = (1e6 * statistics.median(taken) for taken in zip(*pairs, strict=True))
    ratio = statistics.median(ratios)
    print(f"{what}: SparseLinear {ours:.1f} us, nn.Linear {dense:.1f} us: {ratio:.2f} times as long")
    print(f"over {rounds} rounds {min(ratios):.2f} to {max(ratios):.2f}")
    return ratio


if __name__ == "__main__":
    sys.exit(main())
