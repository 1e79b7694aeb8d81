"""The Triton kernel: on a card, or else interpreted, and compiled for a card all the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import CASES, Case, each_case
from devices import DTYPES, needs_cuda
from reference import assert_close, oracle

from sparselinear import SparsityPattern, functional, interop, kernels
from sparselinear.kernels.triton import kernel as kernel_module
from sparselinear.kernels.triton import segments, tiles

pytest.importorskip("triton")

ON_CARD = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_CARD else "cpu")
pytestmark = [pytest.mark.cuda] if ON_CARD else []
CPU = torch.device("cpu")
ARROW = next(case for case in CASES if case.name == "arrow")
PRIMES = next(case for case in CASES if case.name == "prime sizes")


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any test here imports the programs; off again after it, so that no other file runs them."""
    if not ON_CARD:
        monkeypatch.setenv("TRITON_INTERPRET", "1")


def check_against_oracle(
    pattern: SparsityPattern, dtype: torch.dtype, batch: int, feature_major: bool = False
) -> None:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape).to(DEVICE, dtype)

    x, grad_output = normal(batch, pattern.in_features), normal(batch, pattern.out_features)
    if feature_major:
        x, grad_output = x.t().contiguous().t(), grad_output.t().contiguous().t()
    values, bias = normal(pattern.nnz).requires_grad_(), normal(pattern.out_features).requires_grad_()
    x.requires_grad_()
    with kernels.use("triton"):
        output = functional.sparse_linear(x, values, pattern, bias)
        only_values = torch.autograd.grad(output, values, grad_output, retain_graph=True)
        only_input = torch.autograd.grad(output, x, grad_output, retain_graph=True)
        output.backward(grad_output)
    expected, magnitude = oracle(pattern, x, values, bias, grad_output)
    assert x.grad is not None
    assert values.grad is not None
    assert_close(output, expected.output, magnitude.output, dtype)
    for grad_input in (x.grad, *only_input):
        assert_close(grad_input, expected.grad_input, magnitude.grad_input, dtype)
    for grad_values in (values.grad, *only_values):
        assert_close(grad_values, expected.grad_values, magnitude.grad_values, dtype)
    if feature_major and batch > 1:
        assert output.t().is_contiguous()
        assert x.grad.t().is_contiguous()
    else:
        assert output.is_contiguous()


# A batch of 1; a tail; one stretch of the batch, full; three stretches, the last not full.
@each_case
@pytest.mark.parametrize("batch", [1, 5, 64, 131])
def test_against_oracle(case: Case, batch: int) -> None:
    check_against_oracle(interop.to_pattern(case.adjacency, device=DEVICE), torch.float32, batch)


@pytest.mark.parametrize("case", [ARROW, PRIMES], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [0, 7, 130])
@pytest.mark.parametrize("feature_major", [False, True], ids=["batch-major", "feature-major"])
def test_dtypes_and_layouts(case: Case, dtype: torch.dtype, batch: int, feature_major: bool) -> None:
    pattern = interop.to_pattern(case.adjacency, device=DEVICE)
    check_against_oracle(pattern, dtype, batch, feature_major)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("longest", [1, 4])
def test_rows_in_parts(dtype: torch.dtype, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_SHORTEST_CUT", longest)
    pattern = interop.to_pattern(ARROW.adjacency, device=DEVICE)
    check_against_oracle(pattern, dtype, 70)
    for side in (pattern, pattern.transposed):
        assert segments.division(side).parts is not None


def test_batched_gradients() -> None:
    pattern = interop.to_pattern(ARROW.adjacency, device=DEVICE)
    x = torch.randn(3, 9, device=DEVICE, requires_grad=True)
    values = torch.randn(pattern.nnz, device=DEVICE, requires_grad=True)
    vectors = torch.randn(2, 3, 9, device=DEVICE)
    with kernels.use("triton"):
        output = functional.sparse_linear(x, values, pattern)
        found = torch.autograd.grad(output, (x, values), vectors, retain_graph=True, is_grads_batched=True)
        expected = [torch.autograd.grad(output, (x, values), v, retain_graph=True) for v in vectors]
    for got, *wanted in zip(found, *expected, strict=True):
        torch.testing.assert_close(got, torch.stack(wanted))


def test_int64_indices() -> None:
    pattern = interop.to_pattern(PRIMES.adjacency, index_dtype=torch.int64, device=DEVICE)
    check_against_oracle(pattern, torch.float32, 70)


def test_places_beyond_int32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations of 2**31 entries take 8 GiB; what is chosen for them must be right for small ones too."""
    import triton.language as tl

    from sparselinear.kernels.triton import launch

    huge, small = torch.empty(2**16, 2**15, device="meta"), torch.empty(2**16, 2**15 - 1, device="meta")
    assert (launch._offset(small, huge), launch._offset(small)) == (tl.int64, tl.int32)
    monkeypatch.setattr(launch, "_offset", lambda *_: tl.int64)
    check_against_oracle(interop.to_pattern(PRIMES.adjacency, device=DEVICE), torch.float32, 70)


def test_two_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparselinear.kernels.triton import launch

    monkeypatch.setattr(kernel_module, "fused_is_less", lambda *_: False)
    monkeypatch.delattr(launch, "backward")
    check_against_oracle(interop.to_pattern(PRIMES.adjacency, device=DEVICE), torch.float32, 9)


def test_what_is_not_there_is_not_read() -> None:
    """Dead lanes load feature 0 and a full batch no mask: infinities there reach no other output."""
    pattern = interop.to_pattern(sp.csr_array(np.array([[1.0, 0], [0, 1], [0, 1]])), device=DEVICE)
    x = torch.tensor([[torch.inf, 2.0], [torch.nan, 3.0]], device=DEVICE)
    values = torch.tensor([1.0, 10, 100], device=DEVICE)
    with kernels.use("triton"):
        output = functional.sparse_linear(x, values, pattern)
    expected = torch.tensor([[torch.inf, 20, 200], [torch.nan, 30, 300]], device=DEVICE)
    torch.testing.assert_close(output, expected, equal_nan=True, rtol=0, atol=0)


# ---------------------------------------------------------------------------------- segments and tiles


def covered(found: segments.Segments) -> list[tuple[int, int]]:
    """(row, connection) of everything that the segments hold."""
    pairs = zip(found.targets.tolist(), found.owners.tolist(), strict=True)
    return [
        (owner, connection)
        for target, owner in pairs
        for connection in range(int(found.begins[target]), int(found.ends[target]))
    ]


@each_case
@pytest.mark.parametrize("longest", [1, 2, 5, 100])
def test_segments_hold_every_connection_once(case: Case, longest: int) -> None:
    pattern = interop.to_pattern(case.adjacency)
    divided = segments.divide(pattern, longest)
    lengths = pattern.fan_in()
    held = covered(divided.whole) + ([] if divided.parts is None else covered(divided.parts))
    rows = np.repeat(np.arange(pattern.out_features), lengths.numpy()).tolist()
    assert sorted(held) == list(zip(rows, range(pattern.nnz), strict=True))
    taken = lengths[divided.whole.targets.long()].tolist()
    assert taken == sorted(taken, reverse=True)
    assert max(taken, default=0) <= longest
    if divided.parts is None:
        assert len(taken) == pattern.out_features
        return
    parts = divided.parts
    sizes = (parts.ends - parts.begins).tolist()
    assert min(sizes) >= 1
    assert max(sizes) <= longest
    for row, (first, last) in zip(parts.rows.tolist(), pairwise(parts.firsts.tolist()), strict=True):
        assert parts.owners[first:last].tolist() == [row] * (last - first)
        assert int(parts.begins[first]) == int(pattern.crow_indices[row])
        assert int(parts.ends[last - 1]) == int(pattern.crow_indices[row + 1])
        assert torch.equal(parts.ends[first : last - 1], parts.begins[first + 1 : last])


def test_a_division_is_kept_with_its_pattern() -> None:
    pattern = interop.to_pattern(ARROW.adjacency)
    assert segments.division(pattern) is segments.division(pattern)
    before = len(segments._known)
    del pattern
    assert len(segments._known) == before - 1


@pytest.mark.parametrize(
    ("length", "features", "batch", "dtype", "expected", "reason"),
    [
        (41, 4096, 256, torch.float32, (4, 8, 64), "the usual"),
        (41, 4096, 256, torch.float64, (4, 8, 64), "numbers of 8 bytes: as many"),
        (41, 4096, 33, torch.float32, (4, 8, 64), "a tail"),
        (41, 4096, 8, torch.float32, (32, 8, 8), "a narrow batch: more rows"),
        (41, 4096, 1, torch.float32, (64, 32, 1), "a vector: many connections at a time"),
        (2, 4096, 256, torch.float32, (16, 2, 64), "short rows: more of them"),
        (0, 4096, 256, torch.float32, (32, 1, 64), "no connections"),
        (20, 127_978, 128, torch.float32, (8, 8, 32), "half of the cache holds 32 samples"),
        (50, 10**7, 1024, torch.float32, (32, 8, 8), "no cache holds it: a sector"),
        (50, 10**7, 1024, torch.bfloat16, (16, 8, 16), "a sector of half numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tile(
    length: float, features: int, batch: int, dtype: torch.dtype, expected: tuple[int, ...], reason: str
) -> None:
    assert tiles.tile(length, features, batch, dtype, CPU) == expected, reason


def test_when_one_pass_is_less() -> None:
    fits = tiles.cache_bytes(CPU) // 8
    assert tiles.fused_is_less(fits, 1, torch.float32, CPU)
    assert not tiles.fused_is_less(fits + 1, 16, torch.float32, CPU)
    assert tiles.fused_is_less(fits + 1, 17, torch.float32, CPU)
    assert not tiles.fused_is_less(fits + 1, 32, torch.bfloat16, CPU)


# ------------------------------------------------------------------------------------ where it can run


def test_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.available(DEVICE)["triton"] is None
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "TRITON_INTERPRET=1" in (kernels.available("cpu")["triton"] or "")
    assert kernels.available("meta")["triton"] == "the triton kernel does not run on meta"
    monkeypatch.setattr(kernel_module, "_is_installed", lambda: False)
    assert kernels.available("cpu")["triton"] == "Triton is not installed"


def test_it_is_not_chosen_unasked() -> None:
    pattern = interop.to_pattern(ARROW.adjacency, device=DEVICE)
    assert kernels.choose(pattern, torch.float32, 8).name != "triton"


# ------------------------------------------------------------------------------------- what is compiled


@pytest.fixture(scope="module", params=[80, 90], ids=["sm_80", "sm_90"])
def ptx(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The programs compiled for a card, in a process that does not interpret them."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    here = Path(__file__).resolve().parent
    environment["PYTHONPATH"] = os.pathsep.join([str(here.parent), environment.get("PYTHONPATH", "")])
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, str(here / "triton_compiling.py"), str(request.param)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_compiled_programs(ptx: list[dict[str, Any]]) -> None:
    names = ("spmm", "backward", "sddmm")
    assert {(p["program"], p["dtype"], p["batch"]) for p in ptx} > set(
        product(names, ("fp32", "bf16", "fp16", "fp64"), (64, 1))
    )
    for program in ptx:
        told = {key: program[key] for key in ("program", "dtype", "batch")}
        code = program["ptx"]
        assert not re.search(r"\b(atom|red)\.", code), f"{told}: an atomic operation"
        assert not re.search(r"\b(mma|wgmma|wmma)\.", code), f"{told}: a product of tensor cores"
        if program["batch"] == 64:
            assert re.search(r"ld\.global\S*\.v[24]\.b(32|64)", code), f"{told}: no load of 16 bytes"


# ------------------------------------------------------------------------------------- on a card alone


@needs_cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_a_card(dtype: torch.dtype) -> None:
    """Nothing waits for the card, a graph replays the step, and its bits are the same each time."""
    matrix = sp.random_array((3001, 2003), density=0.01, rng=np.random.default_rng(0))
    pattern = interop.to_pattern(matrix, device=DEVICE)
    x = torch.randn(97, 2003, device=DEVICE, dtype=dtype)
    values = torch.randn(pattern.nnz, device=DEVICE, dtype=dtype)
    grad_output = torch.randn(97, 3001, device=DEVICE, dtype=dtype)

    def step() -> tuple[torch.Tensor, ...]:
        kernel = kernels.choose(pattern, dtype, 97)
        output = kernel.spmm(pattern, values, x)
        return output, *kernel.backward(pattern, values, grad_output, x)

    with kernels.use("triton"):
        first = step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            second = step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        graph.replay()
    torch.cuda.synchronize()
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, first, captured))
