"""pytest-benchmark suites: forward, backward and step of our kernels and of the peers that are installed.

python -m pytest bench --benchmark-only
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from sparselinear import kernels

from . import packages
from .adapter import Peer, array
from .cells import BATCH_MAJOR, FEATURE_MAJOR, Cell, canonical, uniform
from .measure import TOLERANCE, activations
from .peers import OWN, PEERS
from .stock import Ours

SIZE, BATCH = 4096, 256
MOST_SCRATCH_BYTES = 2e9
packages.set_threads(torch.get_num_threads())


def _with_kernel(name: str) -> type[Peer]:
    return type("OursWithKernel", (Ours,), {"kernel": name})


SIDES: dict[str, type[Peer]] = {
    # gather is there for devices that have nothing better.
    f"ours: {name}": _with_kernel(name)
    for name, problem in kernels.available("cpu", torch.float32).items()
    if problem is None and name != "gather"
} | {name: peer for name, peer in PEERS.items() if name not in OWN and peer.problem() is None}


@dataclass(frozen=True)
class Problem:
    """A layer, a batch, and what float64 says of them: Y, grad_input, grad_values."""

    label: str
    matrix: sp.csr_array
    x: Tensor
    grad_output: Tensor
    expected: tuple[np.ndarray, np.ndarray, np.ndarray]


PROBLEMS = [(0.01, BATCH_MAJOR), (0.01, FEATURE_MAJOR), (0.1, BATCH_MAJOR)]


@pytest.fixture(scope="module", params=PROBLEMS, ids=lambda problem: f"{problem[0]:.0%} {problem[1]}")
def problem(request: pytest.FixtureRequest) -> Problem:
    density, layout = request.param
    matrix = canonical(uniform(SIZE, density))
    cell = Cell("", lambda: matrix, BATCH, layout=layout)
    x, grad_output = activations(matrix.shape, cell)
    return Problem(f"{density:.0%}, {layout}", matrix, x, grad_output, _oracle(matrix, x, grad_output))


def _oracle(matrix: sp.csr_array, x: Tensor, grad_output: Tensor) -> tuple[np.ndarray, ...]:
    wide, x64, grad64 = matrix.astype(np.float64), x.double().numpy(), grad_output.double().numpy()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    grad_values = (grad64.T @ x64)[rows, matrix.indices]
    return (wide @ x64.T).T, (wide.T @ grad64.T).T, grad_values


@pytest.fixture(params=list(SIDES))
def side(request: pytest.FixtureRequest, problem: Problem) -> Peer:
    peer = SIDES[request.param]
    if peer.scratch_bytes(problem.matrix, BATCH) > MOST_SCRATCH_BYTES:
        pytest.skip("its temporaries would take more than 2 GB")
    return peer(problem.matrix, problem.x, problem.grad_output)


def _assert_close(found: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(array(found), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_forward(benchmark: BenchmarkFixture, problem: Problem, side: Peer) -> None:
    benchmark.group = f"forward, {problem.label}"
    _assert_close(benchmark(side.forward), problem.expected[0])


def test_backward(benchmark: BenchmarkFixture, problem: Problem, side: Peer) -> None:
    benchmark.group = f"backward, {problem.label}"
    grad_input, grad_values = benchmark(side.backward)
    _assert_close(grad_input, problem.expected[1])
    _assert_close(side.in_csr_order(grad_values), problem.expected[2])


def test_step(benchmark: BenchmarkFixture, problem: Problem, side: Peer) -> None:
    benchmark.group = f"step, {problem.label}"
    y, grad_input, grad_values = benchmark(side.step)
    _assert_close(y, problem.expected[0])
    _assert_close(grad_input, problem.expected[1])
    _assert_close(side.in_csr_order(grad_values), problem.expected[2])
