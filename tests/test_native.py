"""The native kernel against the float64 oracle, at the edges of its vectors, panels, chunks and blocks.

What the sizes are chosen for, from sparselinear/kernels/csrc: a vector holds 2 to 16 samples and a panel up
to 64; a chunk of rows costs up to 4096 to 32768 connections, and a row that is longer is cut; 3 to 16 rows of
a denser pattern go side by side, short ones are gone through by connections or as products, and a nearly full
W is written out with its zeros, 96 rows and 64 to 512 columns at a time, for up to 512 samples. Sizes of the
caches are those of the machine, so sizes here leave room on both sides. Threads are in
test_native_threads.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import compiled
import hypothesis
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import Case
from compiled import (
    EXPANDED,
    LAYOUTS,
    Arguments,
    arguments,
    each,
    pattern_of,
    random_matrix,
    sparse_oracle,
    threads,
)
from devices import DTYPES
from native_cases import (
    BATCHES,
    DENSE,
    NATIVE,
    NEARLY_FULL,
    SHORT,
    SKEWED,
    SWEPT,
    check,
    each_dtype,
    needs_native,
    products,
)
from reference import oracle, positions
from torch import Tensor

from sparselinear import SparsityPattern, functional, interop, kernels
from sparselinear.kernels.native import NativeKernel, operator

pytestmark = needs_native


def test_both_oracles_agree() -> None:
    pattern = interop.to_pattern(random_matrix(37, 53, 0.1))
    given = arguments(pattern, 7, torch.float64)
    for dense, sparse in zip(oracle(pattern, *given), sparse_oracle(pattern, *given), strict=True):
        torch.testing.assert_close(sparse.output, dense.output)
        torch.testing.assert_close(sparse.grad_input, dense.grad_input)
        torch.testing.assert_close(sparse.grad_values, dense.grad_values)


@each(SWEPT)
@pytest.mark.parametrize("batch", BATCHES)
@each_dtype
def test_every_batch_size(case: Case, batch: int, dtype: torch.dtype) -> None:
    compiled.check_every_layout(NATIVE, case, batch, dtype)


@each_dtype
def test_one_sample_and_rows_of_every_length(dtype: torch.dtype) -> None:
    """Numbers are gathered 4 at once (float64: 2), twice in a row: many such pairs, and all that is left."""
    matrix = sp.csr_array(np.tril(np.ones((70, 70)), -1))
    for pattern in (interop.to_pattern(matrix), interop.to_pattern(matrix).transposed):
        given = arguments(pattern, 1, dtype)
        check(pattern, given, oracle(pattern, *given))


@each([SWEPT[0], SHORT[1], SHORT[3]])
@each_dtype
def test_one_sample_of_a_feature_major_batch(case: Case, dtype: torch.dtype) -> None:
    """Its numbers are three apart."""
    pattern = pattern_of(case)
    given = arguments(pattern, 1, dtype)
    apart = given.laid_out(lambda x: x.expand(3, -1).t().contiguous().t()[:1])
    assert apart.input.stride() == (1, 3)
    check(pattern, apart, sparse_oracle(pattern, *given))


@each_dtype
def test_one_sample_keeps_the_sign_of_zero(dtype: torch.dtype) -> None:
    grad_output = torch.tensor([[-0.0, 0.0, 2.0]], dtype=dtype)
    found = NATIVE.sddmm(interop.to_pattern(np.eye(3)), grad_output, torch.ones(1, 3, dtype=dtype))
    assert torch.equal(found.signbit(), grad_output[0].signbit())


@each(SWEPT)
@pytest.mark.parametrize("expanded", EXPANDED)
@pytest.mark.parametrize("batch", [1, 5, 40, 70])
@each_dtype
def test_expanded_activations(case: Case, expanded: str, batch: int, dtype: torch.dtype) -> None:
    """As a sum over the output gives them to backward, and a broadcast to forward."""
    given = arguments(pattern_of(case), batch, dtype)
    only_grad = given._replace(grad_output=EXPANDED[expanded](given.grad_output))
    for some in (given.laid_out(EXPANDED[expanded]), only_grad):
        check(pattern_of(case), some, oracle(pattern_of(case), *some))


@pytest.mark.parametrize("batch", [1, 5, 8, 15, 33, 70])
@each_dtype
def test_samples_a_multiple_of_4_kib_apart(batch: int, dtype: torch.dtype) -> None:
    """Vectors of 16 are written in smaller blocks: all of grad_input but float64, and some of the output."""
    case = Case("powers of two", "rows of 20 connections, columns of 10", random_matrix(1024, 2048, 0.01))
    compiled.check_every_layout(NATIVE, case, batch, dtype)


@each(SKEWED)
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("batch", [3, 50, 64])
def test_rows_longer_than_a_chunk(case: Case, transposed: bool, batch: int) -> None:
    patterns = [pattern_of(case), pattern_of(case, torch.int64)]
    short, long = (pattern.transposed if transposed else pattern for pattern in patterns)
    for dtype in DTYPES if batch == 3 else (torch.float32,):
        given = arguments(short, batch, dtype)
        truth = sparse_oracle(short, *given)
        check(short, given, truth)
        with threads(2):
            check(long, given.laid_out(LAYOUTS["feature-major"]), truth)


def check_both_ways(case: Case, batch: int, dtype: torch.dtype, truth_of: Callable[..., Any]) -> None:
    """A pattern and its transpose, of either type of indices, in both layouts."""
    for pattern in (pattern_of(case), pattern_of(case, torch.int64).transposed):
        given = arguments(pattern, batch, dtype)
        truth = truth_of(pattern, *given)
        check(pattern, given, truth)
        check(pattern, given.laid_out(LAYOUTS["feature-major"]), truth)


@each(SHORT)
@pytest.mark.parametrize("batch", [1, 2, 5, 8, 15, 16, 31, 40, 64, 130])
@each_dtype
def test_short_rows(case: Case, batch: int, dtype: torch.dtype) -> None:
    check_both_ways(case, batch, dtype, sparse_oracle)


@each(DENSE)
@pytest.mark.parametrize("batch", [1, 2, 7, 16, 31, 64, 130, 600])
@each_dtype
def test_dense_patterns(case: Case, batch: int, dtype: torch.dtype) -> None:
    check_both_ways(case, batch, dtype, oracle)


@pytest.fixture(scope="module")
def millions() -> SparsityPattern:
    """Little more than 2**22 connections: 8 MiB of bfloat16 and 32 of float64.

    From 8 MiB on values are scattered to CSR order in blocks, and from 24 on gathered from it so.
    """
    pattern = interop.to_pattern(random_matrix(2053, 4103, 0.505))
    assert 2**22 < pattern.nnz < 2**22 + 2**17
    assert pattern.nnz % 3 == 2  # the last of three blocks of bfloat16 is longer
    return pattern


@pytest.mark.parametrize(
    ("batch", "dtype"),
    [
        (5, torch.float32),
        (16, torch.float32),
        (17, torch.float32),
        (17, torch.float64),
        (64, torch.float32),
        (65, torch.float32),
        (65, torch.bfloat16),
        (96, torch.float32),
    ],
    ids=str,
)
def test_millions_of_connections(millions: SparsityPattern, batch: int, dtype: torch.dtype) -> None:
    """More than 256 chunks of the least size, so that chunks grow; and the blocks of the permutation.

    Of vectors shorter than a line, indices and values are asked for ahead: panels of one to four of 8 floats.
    """
    given = arguments(millions, batch, dtype)
    check(millions, given, oracle(millions, *given))


@pytest.mark.parametrize("layout", ["batch-major", "feature-major"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_activations_larger_than_the_cache(layout: str, dtype: torch.dtype) -> None:
    """One vector of samples of 150,000 features is 9.6 MB; of the other side it fits, at least in part."""
    matrix = sp.random_array((20011, 150011), density=2e-5, rng=np.random.default_rng(0), format="csr")
    for pattern in (interop.to_pattern(matrix), interop.to_pattern(matrix.T)):
        given = arguments(pattern, 33, dtype)
        check(pattern, given.laid_out(LAYOUTS[layout]), sparse_oracle(pattern, *given))


@pytest.mark.parametrize("batch", [0, 1, 5, 70])
@pytest.mark.parametrize("shape", [(0, 53), (37, 0), (0, 0), (37, 53)], ids=str)
@each_dtype
def test_nothing_to_multiply(shape: tuple[int, int], batch: int, dtype: torch.dtype) -> None:
    """No outputs, no inputs, neither, and no connections: the bias alone, and gradients of zero."""
    pattern = interop.to_pattern(sp.csr_array(shape))
    given = arguments(pattern, batch, dtype)
    for layout in LAYOUTS.values():
        check(pattern, given.laid_out(layout), oracle(pattern, *given))


@pytest.mark.parametrize("layout", ["batch-major", "feature-major"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_rounded_once_and_to_even(dtype: torch.dtype, layout: str) -> None:
    """Sums of any two numbers, as torch rounds them; the bound of the oracle would let a cut-off pass."""
    bits = torch.randint(-(2**15), 2**15, (4111, 2), dtype=torch.int32).to(torch.int16)
    pairs = bits.view(dtype).where(bits.view(dtype).isfinite(), 1)
    pairs[:, 1] = pairs[:, 0] * torch.exp2(torch.randint(-12, 1, (4111,))).to(dtype)  # ties are frequent
    expected = (pairs[:, :1].float() + pairs[:, 1:].float()).to(dtype)
    assert expected.isinf().any()
    ones, laid_out = torch.ones(2, dtype=dtype), LAYOUTS[layout](pairs)
    adder, copier = interop.to_pattern(np.ones((1, 2))), interop.to_pattern(np.ones((2, 1)))
    for batch in (1, 3, 4111):
        assert torch.equal(NATIVE.spmm(adder, ones, laid_out[:batch]), expected[:batch])
        assert torch.equal(NATIVE.spmm_transposed(copier, ones, laid_out[:batch]), expected[:batch])


# ------------------------------------------------------------------------- patterns that are drawn


@hypothesis.settings(derandomize=True, database=None, deadline=None, max_examples=1000)
@hypothesis.given(compiled.calls(DTYPES))
def test_drawn_patterns(call: tuple[SparsityPattern, Arguments, int]) -> None:
    pattern, given, count = call
    with threads(count):
        check(pattern, given, oracle(pattern, *given))


# ------------------------------------------------------------------------- what is not a number


@each([SWEPT[0], SHORT[0], NEARLY_FULL])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("batch", [1, 5, 40, 70, 1100])
@pytest.mark.parametrize("layout", ["batch-major", "feature-major"])
@each_dtype
def test_bad_numbers_go_where_a_connection_is(
    case: Case, bad: float, batch: int, layout: str, dtype: torch.dtype
) -> None:
    pattern = pattern_of(case)
    rows, columns = positions(pattern)
    mask = torch.zeros(pattern.shape, dtype=torch.bool)
    mask[rows, columns] = True
    sample, k = batch // 2, pattern.nnz // 2
    row, column = int(rows[k]), int(columns[k])
    good = arguments(pattern, batch, dtype)

    def spoiled(part: Tensor, *place: int) -> Tensor:
        part = part.clone()
        part[place] = bad
        return part

    def check_bad(given: Arguments, output: Tensor, grad_input: Tensor, grad_values: Tensor) -> None:
        results = products(pattern, given.laid_out(LAYOUTS[layout]))
        expected = output, grad_input, grad_values, grad_input, grad_values
        for result, where in zip(results, expected, strict=True):
            assert torch.equal(~result.isfinite(), where)
            assert torch.equal(result.isnan(), where) or bad == torch.inf

    def nowhere(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.bool)

    no_output, no_input = nowhere(batch, pattern.out_features), nowhere(batch, pattern.in_features)

    output = no_output.clone()
    output[sample] = mask[:, column]
    given = good._replace(input=spoiled(good.input, sample, column))
    check_bad(given, output, no_input, columns == column)

    grad_input = no_input.clone()
    grad_input[sample] = mask[row]
    given = good._replace(grad_output=spoiled(good.grad_output, sample, row))
    check_bad(given, no_output, grad_input, rows == row)

    output, grad_input = no_output.clone(), no_input.clone()
    output[:, row], grad_input[:, column] = True, True
    given = good._replace(values=spoiled(good.values, k))
    check_bad(given, output, grad_input, nowhere(pattern.nnz))

    output = no_output.clone()
    output[:, row] = True
    given = good._replace(bias=spoiled(good.bias, row))
    check_bad(given, output, no_input, nowhere(pattern.nnz))


@each(SWEPT)
@pytest.mark.parametrize("batch", [1, 5, 40, 70])
@each_dtype
def test_scratch_memory_remembers_nothing(case: Case, batch: int, dtype: torch.dtype) -> None:
    """Panels are kept between calls: what NaN they held must not reach the next result."""
    pattern = pattern_of(case)
    given = arguments(pattern, batch, dtype)
    many = arguments(pattern, 256, dtype)
    products(pattern, Arguments(*(torch.full_like(part, torch.nan) for part in many)))
    check(pattern, given, oracle(pattern, *given))


# ----------------------------------------------------------------------------- around the kernel


@pytest.mark.parametrize(
    ("argument", "dtype"),
    [("input", torch.int64), ("input", torch.complex64), ("values", torch.bool), ("bias", torch.float64)],
    ids=str,
)
def test_wrong_dtypes_are_refused_before(
    argument: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the words of the library, and before anything native is called."""
    monkeypatch.setattr(NativeKernel, "spmm", lambda *_: pytest.fail("the kernel was called"))
    pattern = pattern_of(SWEPT[0])
    given = arguments(pattern, 3, torch.float32)._asdict()
    given[argument] = given[argument].to(dtype)
    with kernels.use("native"), pytest.raises(TypeError, match=rf"^{argument}: expected .* got {dtype}"):
        functional.sparse_linear(given["input"], given["values"], pattern, given["bias"])


def test_a_result_without_memory() -> None:
    """More bytes than there are addresses, for an input that takes none."""
    pattern = interop.to_pattern(np.ones((100_000, 1), dtype=np.float32))
    x = torch.zeros(1, 1).expand(10**10, 1)
    expected = f"expected memory for a result of {4 * 10**15} bytes"
    with kernels.use("native"), torch.no_grad(), pytest.raises(RuntimeError, match=expected):
        functional.sparse_linear(x, torch.ones(pattern.nnz), pattern)


@pytest.mark.parametrize("path", compiled.SHIPPED, ids=compiled.name_of)
def test_matrices_that_ship(path: Path) -> None:
    compiled.check_file(NATIVE, path, *DTYPES)


@compiled.of_a_folder
def test_matrices_of_a_folder(path: Path) -> None:
    """Every matrix below the folder that SPARSELINEAR_DATA names."""
    compiled.check_file(NATIVE, path, torch.float32, torch.bfloat16)


@needs_native
@pytest.mark.parametrize(("index_dtype", "bits"), [(torch.int32, 32), (torch.int64, 64)])
def test_indices_of_the_other_type_are_refused(index_dtype: torch.dtype, bits: int) -> None:
    """Each overload reads indices of its own type only."""
    other = torch.int64 if index_dtype == torch.int32 else torch.int32
    crow_indices, col_indices = torch.tensor([0, 1]), torch.tensor([1])
    given = torch.ones(1), None, torch.ones(3, 2), None
    spmm = operator("spmm", torch.float32, index_dtype)
    right = spmm(crow_indices.to(index_dtype), col_indices.to(index_dtype), *given)
    assert torch.equal(right, torch.ones(3, 1))
    with pytest.raises(RuntimeError, match=f"expected indices of {bits} bits"):
        spmm(crow_indices.to(index_dtype), col_indices.to(other), *given)
    with pytest.raises(RuntimeError, match=f"expected indices of {bits} bits"):
        spmm(crow_indices.to(other), col_indices.to(index_dtype), *given)


@needs_native
@pytest.mark.parametrize(
    ("dtype", "others", "expected"),
    [
        (torch.float32, [torch.float64, torch.int32], "float32, bfloat16 or float16"),
        (torch.float64, [torch.float32, torch.bfloat16, torch.float16], "float64"),
    ],
)
def test_values_of_other_sums_are_refused(
    dtype: torch.dtype, others: list[torch.dtype], expected: str
) -> None:
    """Each overload takes values whose sums are of its own type only."""
    over = torch.tensor([0, 1], dtype=torch.int32), torch.tensor([1], dtype=torch.int32)
    spmm = operator("spmm", dtype, torch.int32)
    given = torch.ones(1), torch.ones(3, 2)
    right = spmm(*over, given[0].to(dtype), None, given[1].to(dtype), None)
    assert torch.equal(right, torch.ones(3, 1, dtype=dtype))
    for other in others:
        with pytest.raises(RuntimeError, match=f"expected {expected}"):
            spmm(*over, given[0].to(other), None, given[1].to(other), None)
