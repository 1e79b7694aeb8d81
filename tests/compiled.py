"""What the tests of the compiled kernels share: products checked against the oracle, layouts and patterns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import Case
from hypothesis import strategies as st
from reference import Step, assert_close, oracle, positions
from torch import Tensor

from sparselinear import SparsityPattern, interop
from sparselinear.kernels.base import Kernel


class Arguments(NamedTuple):
    """What the four products are called with, besides the pattern."""

    input: Tensor  # (batch, in_features)
    values: Tensor  # (nnz,)
    bias: Tensor | None  # (out_features,)
    grad_output: Tensor  # (batch, out_features)

    def laid_out(self, layout: Callable[[Tensor], Tensor]) -> Arguments:
        return self._replace(input=layout(self.input), grad_output=layout(self.grad_output))


class Results(NamedTuple):
    """The four products, the gradients both from one pass and each by itself."""

    output: Tensor
    grad_input: Tensor
    grad_values: Tensor
    grad_input_alone: Tensor
    grad_values_alone: Tensor


def arguments(pattern: SparsityPattern, batch: int, dtype: torch.dtype, seed: int = 0) -> Arguments:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)

    input, values = normal(batch, pattern.in_features), normal(pattern.nnz)
    return Arguments(input, values, normal(pattern.out_features), normal(batch, pattern.out_features))


def products(kernel: Kernel, pattern: SparsityPattern, given: Arguments) -> Results:
    return Results(
        kernel.spmm(pattern, given.values, given.input, given.bias),
        *kernel.backward(pattern, given.values, given.grad_output, given.input),
        kernel.spmm_transposed(pattern, given.values, given.grad_output),
        kernel.sddmm(pattern, given.grad_output, given.input),
    )


@contextmanager
def new_memory_is_nan() -> Iterator[None]:
    """So that a result that was not written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def check(kernel: Kernel, pattern: SparsityPattern, given: Arguments, truth: tuple[Step, Step]) -> None:
    """Every product against the oracle, and every argument as it was."""
    expected, magnitude = truth
    copies = [None if argument is None else argument.clone() for argument in given]
    with new_memory_is_nan():
        results = products(kernel, pattern, given)
    dtype = given.values.dtype
    assert_close(results.output, expected.output, magnitude.output, dtype)
    for grad_input in (results.grad_input, results.grad_input_alone):
        assert_close(grad_input, expected.grad_input, magnitude.grad_input, dtype)
    for grad_values in (results.grad_values, results.grad_values_alone):
        assert_close(grad_values, expected.grad_values, magnitude.grad_values, dtype)
    for argument, copy in zip(given, copies, strict=True):
        assert argument is copy is None or torch.equal(argument, copy)


def sparse_oracle(
    pattern: SparsityPattern, input: Tensor, values: Tensor, bias: Tensor | None, grad_output: Tensor
) -> tuple[Step, Step]:
    """As ``oracle``, by scipy's products in float64, for patterns of which there can be no dense form."""
    rows, columns = (index.numpy() for index in positions(pattern))

    def step(transform: Callable[[np.ndarray], np.ndarray]) -> Step:
        x, w, g = (transform(part.double().numpy()) for part in (input, values, grad_output))
        matrix = sp.csr_array((w, columns, pattern.crow_indices.numpy()), shape=pattern.shape)
        output = (matrix @ x.T).T
        if bias is not None:
            output = output + transform(bias.double().numpy())
        grad_values = np.zeros(pattern.nnz)
        for first in range(0, pattern.nnz, 1 << 16):
            some = slice(first, first + (1 << 16))
            grad_values[some] = np.einsum("bk,bk->k", g[:, rows[some]], x[:, columns[some]])
        found = output, (matrix.T @ g.T).T, grad_values
        return Step(*(torch.from_numpy(np.ascontiguousarray(part)) for part in found), None)

    return step(lambda part: part), step(np.abs)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_matrix(rows: int, columns: int, density: float) -> sp.csr_array:
    rng = np.random.default_rng(0)
    return sp.csr_array(rng.random((rows, columns), dtype=np.float32) < density)


def arrow(size: int, row: int, column: int) -> sp.csr_array:
    """One full row, one full column, and the diagonal."""
    every = np.arange(size)
    rows = np.concatenate([every, np.full(size, row), every])
    columns = np.concatenate([every, every, np.full(size, column)])
    return sp.csr_array((np.ones(3 * size), (rows, columns)), shape=(size, size))


def two_densities(rows: int, columns: int) -> sp.csr_array:
    """Full rows, empty ones, and rows of which one half or the other is empty."""
    mask = np.ones((rows, columns), dtype=bool)
    mask[1::4], mask[2::4, : columns // 2], mask[3::4, columns // 2 :] = False, False, False
    return sp.csr_array(mask)


def surrounded(x: Tensor) -> Tensor:
    """The same numbers as a slice of a larger tensor that holds NaN all around."""
    wide = x.new_full((x.shape[0] + 2, x.shape[1] + 5), torch.nan)
    wide[1:-1, 2:-3] = x
    return wide[1:-1, 2:-3]


def every_second(x: Tensor) -> Tensor:
    wide = x.new_full((x.shape[0], 2 * x.shape[1]), torch.nan)
    wide[:, ::2] = x
    return wide[:, ::2]


# How activations may lie in memory; each takes contiguous ones and keeps their numbers.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "batch-major": lambda x: x,
    "feature-major": lambda x: x.t().contiguous().t(),
    "slice of batch-major": surrounded,
    "slice of feature-major": lambda x: surrounded(x.t()).t(),
    "no stride of 1": every_second,
}
# These change the numbers.
EXPANDED: dict[str, Callable[[Tensor], Tensor]] = {
    "one sample": lambda x: x[:1].expand_as(x),
    "one feature": lambda x: x[:, :1].t().contiguous().t().expand_as(x),
    "one number": lambda x: x[:1, :1].expand_as(x),
}


def each(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


@cache
def pattern_of(case: Case, index_dtype: torch.dtype = torch.int32) -> SparsityPattern:
    return interop.to_pattern(case.adjacency, index_dtype=index_dtype)


@st.composite
def adjacencies(draw: st.DrawFn) -> sp.csr_array:
    """Up to 70 x 70, of any density, with rows and columns that are empty or full."""
    rows, columns = draw(st.integers(0, 70)), draw(st.integers(0, 70))
    density = draw(st.sampled_from([0.0, 0.03, 0.3, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    mask = rng.random((rows, columns)) < density
    for filled in (True, False):
        mask[draw(some_of(rows))] = filled
        mask[:, draw(some_of(columns))] = filled
    return sp.csr_array(mask)


def some_of(length: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, length - 1), max_size=3) if length else st.just([])


@st.composite
def calls(draw: st.DrawFn, dtypes: list[torch.dtype]) -> tuple[SparsityPattern, Arguments, int]:
    """A pattern, what its products are called with, and a number of threads."""
    index_dtype = draw(st.sampled_from([torch.int32, torch.int64]))
    pattern = interop.to_pattern(draw(adjacencies()), index_dtype=index_dtype)
    x, values, bias, grad_output = arguments(pattern, draw(st.integers(0, 70)), draw(st.sampled_from(dtypes)))
    layout = st.sampled_from([*LAYOUTS.values(), *EXPANDED.values()])
    x, grad_output = draw(layout)(x), draw(layout)(grad_output)
    given = Arguments(x, values, bias if draw(st.booleans()) else None, grad_output)
    return pattern, given, draw(st.sampled_from([1, 2]))


def check_every_layout(kernel: Kernel, case: Case, batch: int, dtype: torch.dtype) -> None:
    """In every memory layout, with indices of both types."""
    given = arguments(pattern_of(case), batch, dtype)
    truth = oracle(pattern_of(case), *given)
    for index_dtype in (torch.int32, torch.int64):
        for layout in LAYOUTS.values():
            check(kernel, pattern_of(case, index_dtype), given.laid_out(layout), truth)


def check_same_bits(kernel: Kernel, pattern: SparsityPattern, given: Arguments) -> None:
    """Whatever the number of threads."""
    runs = []
    for count in (1, 2, 3, 4, 8, 2, 3):
        with threads(count):
            runs.append(products(kernel, pattern, given))
    for run in runs[1:]:  # the first has its results still, whatever ran since
        for first, again in zip(runs[0], run, strict=True):
            assert torch.equal(first, again)


# ---------------------------------------------------------------------------------- real matrices

ROOT = Path(__file__).parents[1]
SHIPPED = [
    *sorted((ROOT / "sparselinear" / "data").glob("*.npz")),
    *sorted((ROOT / "examples" / "data").glob("*/L*.npz")),
    ROOT / "tests" / "data" / "graphchallenge" / "layer01.npz",
]
FOLDER = os.environ.get("SPARSELINEAR_DATA", "")
FOUND = sorted(p for p in Path(FOLDER).rglob("*") if p.suffix in interop.FORMATS) if FOLDER else []


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def of_a_folder(test: Callable[..., None]) -> Callable[..., None]:
    """The marks of a test of every matrix below the folder that SPARSELINEAR_DATA names, as a decorator."""
    reason = "SPARSELINEAR_DATA names no folder of .npz, .mtx or .smtx files"
    for mark in (
        pytest.mark.skipif(not FOUND, reason=reason),
        pytest.mark.parametrize("path", FOUND, ids=name_of),
    ):
        test = mark(test)
    return test


def check_file(kernel: Kernel, path: Path, *dtypes: torch.dtype) -> None:
    """A matrix of a file; skipped if one of FOUND holds none."""
    try:
        adjacency = interop.load_adjacency(path)
    except ValueError as error:
        if path in SHIPPED:
            raise
        pytest.skip(str(error))
    pattern = interop.to_pattern(adjacency)
    for batch in (1, 50, 64):  # 64 samples fill the vectors of every width of panel
        for dtype in dtypes:
            given = arguments(pattern, batch, dtype)
            truth = sparse_oracle(pattern, *given)
            check(kernel, pattern, given, truth)
            check(kernel, pattern, given.laid_out(LAYOUTS["feature-major"]), truth)
