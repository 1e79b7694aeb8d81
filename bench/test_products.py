"""pytest-benchmark suites of one layer: each kernel of the family beside the baselines.

python -m pytest bench --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cells import uniform
from sparselinear import SparseLinear, kernels, profiling

SIZE, BATCH = 4096, 256
OURS = [name for name, problem in kernels.available("cpu", torch.float32).items() if problem is None]
SIDES = [*(f"kernel {name}" for name in OURS if name != "gather"), "dense", "csr"]


@pytest.fixture(scope="module", params=[0.01, 0.1], ids=["1 %", "10 %"])
def layer(request: pytest.FixtureRequest) -> SparseLinear:
    return SparseLinear.from_scipy(uniform(SIZE, request.param), keep_values=True)


def _runner(side: str, layer: SparseLinear) -> Callable[[torch.Tensor], torch.Tensor]:
    if not side.startswith("kernel "):
        module = profiling.build(side, layer)
        return lambda x: module(x).contiguous()

    def run(x: torch.Tensor) -> torch.Tensor:
        with kernels.use(side.removeprefix("kernel ")):
            return layer(x)

    return run


@pytest.mark.parametrize("side", SIDES)
def test_forward(benchmark: BenchmarkFixture, layer: SparseLinear, side: str) -> None:
    benchmark.group = f"forward, density {layer.density:.0%}"
    x = torch.randn(BATCH, SIZE)
    with torch.no_grad():
        y = benchmark(_runner(side, layer), x)
        torch.testing.assert_close(y, layer(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("side", SIDES)
def test_step(benchmark: BenchmarkFixture, layer: SparseLinear, side: str) -> None:
    benchmark.group = f"step, density {layer.density:.0%}"
    x, grad_output = torch.randn(BATCH, SIZE, requires_grad=True), torch.randn(BATCH, SIZE)

    run = _runner(side, layer)

    def step() -> None:
        layer.values.grad = x.grad = None
        run(x).backward(grad_output)

    benchmark(step)
    (expected,) = torch.autograd.grad(layer(x), x, grad_output)
    torch.testing.assert_close(x.grad, expected, rtol=1e-3, atol=1e-3)
