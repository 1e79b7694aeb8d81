"""The amx kernel against the float64 oracle, at the edges of its tiles, strips, blocks and panels.

What the sizes are chosen for, from sparselinear/kernels/csrc: a tile has 16 rows or columns, a depth of 32,
and two of them are multiplied together; a task takes up to 512 rows of W, or columns, with a depth of 128 at
a time; a word holds the bits of 32 columns; a panel holds up to 512 samples, of many features as few as 32.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import compiled
import hypothesis
import pytest
import scipy.sparse as sp
import torch
from cases import Case
from compiled import (
    LAYOUTS,
    Arguments,
    arguments,
    each,
    pattern_of,
    random_matrix,
    sparse_oracle,
    threads,
    two_densities,
)
from reference import oracle
from torch import Tensor

from sparselinear import SparseLinear, SparsityPattern, interop, kernels
from sparselinear.kernels import amx
from sparselinear.kernels.amx import AmxKernel
from sparselinear.kernels.native import NativeKernel

AMX, NATIVE = AmxKernel(), NativeKernel()
PROBLEM = AMX.unavailable(torch.device("cpu"), torch.float32)
needs_unit = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
products, check = partial(compiled.products, AMX), partial(compiled.check, AMX)

CASES = [
    Case("prime sizes", "nothing is a multiple of a tile; all in one task", random_matrix(37, 53, 0.3)),
    Case(
        "several tasks", "and several blocks of columns, the last ones not full", random_matrix(331, 307, 0.4)
    ),
    Case("two densities", "empty rows and empty runs of a row between full ones", two_densities(97, 389)),
    Case("full", "no zeros; whole tiles and blocks alone", random_matrix(64, 256, 1.1)),
    Case("one output", "a single row of W", random_matrix(1, 200, 0.5)),
    Case("one input", "a single column of W", random_matrix(200, 1, 0.5)),
    Case("sparse", "far fewer connections than tiles have places", random_matrix(150, 170, 0.01)),
]


@needs_unit
@each(CASES)
@pytest.mark.parametrize("batch", [1, 15, 16, 17, 31, 32, 33, 64, 129, 513, 1025])
@each_dtype
def test_every_batch_size(case: Case, batch: int, dtype: torch.dtype) -> None:
    compiled.check_every_layout(AMX, case, batch, dtype)


@needs_unit
@each_dtype
def test_panels_of_few_samples_where_there_are_many_features(dtype: torch.dtype) -> None:
    """200,000 features: the parts of 32 samples of float32 take as much as a panel may."""
    matrix = sp.csr_array(random_matrix(3, 200_003, 0.3))
    for pattern in (interop.to_pattern(matrix), interop.to_pattern(matrix.T)):
        given = arguments(pattern, 70, dtype)
        check(pattern, given, sparse_oracle(pattern, *given))


@needs_unit
def test_tasks_of_as_many_rows_as_they_take() -> None:
    pattern = interop.to_pattern(random_matrix(2100, 1100, 0.3))
    for shape in (pattern, pattern.transposed):
        given = arguments(shape, 40, torch.float32)
        with threads(1):
            check(shape, given, oracle(shape, *given))


@needs_unit
@pytest.mark.parametrize("batch", [0, 1, 40])
@pytest.mark.parametrize("shape", [(0, 53), (37, 0), (0, 0), (37, 53)], ids=str)
@each_dtype
def test_nothing_to_multiply(shape: tuple[int, int], batch: int, dtype: torch.dtype) -> None:
    pattern = interop.to_pattern(sp.csr_array(shape))
    given = arguments(pattern, batch, dtype)
    for layout in LAYOUTS.values():
        check(pattern, given.laid_out(layout), oracle(pattern, *given))


@needs_unit
@hypothesis.settings(derandomize=True, database=None, deadline=None, max_examples=500)
@hypothesis.given(compiled.calls(DTYPES))
def test_drawn_patterns(call: tuple[SparsityPattern, Arguments, int]) -> None:
    pattern, given, count = call
    with threads(count):
        check(pattern, given, oracle(pattern, *given))


@needs_unit
@each(CASES[:3])
@pytest.mark.parametrize("batch", [40, 600])
@each_dtype
def test_same_bits_with_any_threads(case: Case, batch: int, dtype: torch.dtype) -> None:
    pattern = pattern_of(case)
    compiled.check_same_bits(AMX, pattern, arguments(pattern, batch, dtype))


@needs_unit
@pytest.mark.parametrize("path", compiled.SHIPPED, ids=compiled.name_of)
def test_matrices_that_ship(path: Path) -> None:
    compiled.check_file(AMX, path, *DTYPES)


@needs_unit
@compiled.of_a_folder
def test_matrices_of_a_folder(path: Path) -> None:
    compiled.check_file(AMX, path, torch.float32)


# -------------------------------------------------------------------------------------- the bits


@needs_unit
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("columns", [1, 31, 32, 33, 100])
def test_a_bit_for_each_entry(columns: int, index_dtype: torch.dtype) -> None:
    mask = torch.rand(70, columns, generator=torch.Generator().manual_seed(0)) < 0.4
    mask[3], mask[4] = False, True
    pattern = interop.to_pattern(mask, index_dtype=index_dtype)
    bits = amx.bits_of(pattern)
    assert bits.shape == (70, -(-columns // 32))
    every = (bits[..., None] >> torch.arange(32, dtype=torch.int32) & 1).flatten(1).bool()
    assert torch.equal(every[:, :columns], mask)
    assert not every[:, columns:].any()
    assert amx.bits_of(pattern) is bits


@needs_unit
def test_neither_the_transpose_nor_the_bits_outlive_their_use() -> None:
    """Backward goes by the bits of the rows, and these are gone with the pattern."""
    known = len(amx._known_bits)
    pattern = interop.to_pattern(random_matrix(70, 90, 0.5))
    products(pattern, arguments(pattern, 64, torch.float32))
    assert pattern._transpose is None
    assert len(amx._known_bits) == known + 1
    del pattern
    assert len(amx._known_bits) == known


@needs_unit
def test_forward_of_float32_on_few_samples_goes_by_connections() -> None:
    pattern = interop.to_pattern(random_matrix(300, 300, 0.5))
    for batch, same in ((32, True), (33, False)):
        input, values, bias, _ = arguments(pattern, batch, torch.float32)
        by_tiles, by_connections = (k.spmm(pattern, values, input, bias) for k in (AMX, NATIVE))
        assert torch.equal(by_tiles, by_connections) is same


# ------------------------------------------------------------------------------------- the parts


@needs_unit
@each_dtype
def test_parts_hold_every_bit(dtype: torch.dtype) -> None:
    """One connection of value 1 to each output: what goes in comes out."""
    pattern = interop.to_pattern(sp.eye_array(64))
    given = arguments(pattern, 64, dtype)
    ones = torch.ones(64, dtype=dtype)
    scale = torch.logspace(-18, 18, 64, dtype=torch.float64)[:, None] if dtype == torch.float32 else 1
    x = (given.input * scale).to(dtype)
    assert torch.equal(AMX.spmm(pattern, ones, x), x)
    assert torch.equal(AMX.spmm_transposed(pattern, ones, x), x)
    assert torch.equal(AMX.spmm(pattern, x[0].contiguous(), torch.eye(64, dtype=dtype)), torch.diag(x[0]))
    assert torch.equal(AMX.sddmm(pattern, torch.eye(64, dtype=dtype), x), x.diagonal())


@needs_unit
def test_products_of_whole_numbers_are_exact() -> None:
    """Of 12 bits each: their products have 24, and parts that all count."""
    generator = torch.Generator().manual_seed(0)
    pattern = interop.to_pattern(sp.eye_array(96))
    x, values = (
        torch.randint(-4095, 4096, shape, generator=generator).float() for shape in ((40, 96), (96,))
    )
    assert torch.equal(AMX.spmm(pattern, values, x), x * values)


@needs_unit
@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf, 3e38, "small"], ids=str)
def test_what_has_no_parts_is_left_to_the_native_kernel(number: float | str) -> None:
    """Not a number, infinite, next to the largest; or small numbers alone."""
    pattern = pattern_of(CASES[0])
    good = arguments(pattern, 40, torch.float32)

    def spoiled(part: Tensor) -> Tensor:
        if isinstance(number, str):
            return part * (2.0**-41 / part.abs().max())
        part = part.clone()
        part.view(-1)[part.numel() // 2] = number
        return part

    uses = {
        "output": ("input", "values"),
        "grad_input_alone": ("grad_output", "values"),
        "grad_values_alone": ("grad_output", "input"),
    }
    for name in ("input", "values", "grad_output"):
        given = good._replace(**{name: spoiled(getattr(good, name))})
        expected, found = compiled.products(NATIVE, pattern, given), products(pattern, given)
        for result in (field for field, needs in uses.items() if name in needs):
            by_native, ours = getattr(expected, result), getattr(found, result)
            torch.testing.assert_close(ours, by_native, rtol=0, atol=0, equal_nan=True)
            both = getattr(found, result.removesuffix("_alone"))
            torch.testing.assert_close(both, by_native, rtol=0, atol=0, equal_nan=True)


@needs_unit
@each(CASES[:2])
def test_small_numbers_keep_their_bits_in_products(case: Case) -> None:
    """The smallest that have parts: their products are far below, those of their last parts farther."""
    given = arguments(pattern_of(case), 40, torch.float32)
    small = Arguments(*(None if part is None else part * 2.0**-40 for part in given))
    small = small._replace(bias=None)
    check(pattern_of(case), small, oracle(pattern_of(case), *small))


@needs_unit
def test_small_numbers_beside_large_ones() -> None:
    """Parts below the smallest normal number are lost: that much, and no more."""
    pattern = interop.to_pattern(sp.eye_array(64))
    x = torch.ones(64, 64)
    x[:, 1:] = torch.logspace(-40, -20, 63)
    output = AMX.spmm(pattern, torch.ones(64), x)
    assert (output - x).abs().max() <= torch.finfo(torch.float32).smallest_normal
    assert torch.equal(output[:, x[0] > 2.0**-102], x[:, x[0] > 2.0**-102])


# ------------------------------------------------------------------------------------- the choice


def _layer(density: float, dtype: torch.dtype = torch.float32, size: int = 1000) -> SparseLinear:
    pattern = SparsityPattern.over(*_rows(size, round(density * size)), size)
    return SparseLinear(size, size, pattern, bias=False, dtype=dtype)


def _rows(size: int, connections: int) -> tuple[Tensor, Tensor]:
    """Offsets and columns of rows that have their first columns each."""
    return torch.arange(size + 1) * connections, torch.arange(connections).repeat(size)


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has one, for what chooses and runs nothing."""
    monkeypatch.setattr("sparselinear.kernels.native._problem", lambda sums, index_dtype: None)
    monkeypatch.setattr(amx, "_has_unit", lambda index_dtype: True)


# 1000 features ask for 1.4 times the density of large layers; batch 256 for 1.03, 32 for 1.25 times.
@pytest.mark.usefixtures("unit")
@pytest.mark.parametrize(
    ("dtype", "batch", "least"),
    [
        (torch.float32, 256, 0.289),
        (torch.float32, 32, 0.35),
        (torch.bfloat16, 256, 0.1155),
        (torch.float16, 256, 0.173),
    ],
    ids=str,
)
def test_dense_layers_on_large_batches_take_it(dtype: torch.dtype, batch: int, least: float) -> None:
    for density in (least - 0.01, least + 0.01):
        chosen = "amx" if density > least else "native"
        assert kernels.explain(_layer(density, dtype), batch).startswith(f"{chosen}: ")
    assert kernels.explain(_layer(1.0, dtype), 1).startswith("native: ")
    assert kernels.explain(_layer(1.0, torch.float64), batch).startswith("native: ")


@pytest.mark.usefixtures("unit")
def test_explain_tells_the_density_and_the_bar() -> None:
    assert kernels.explain(_layer(0.5), 256) == (
        "amx: density 50%, batch 256: from 29% on the matrix unit is faster than going by connections"
    )
    assert kernels.explain(_layer(0.9, size=64), 256).startswith("native: ")  # few features


def test_without_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparselinear.kernels.native._problem", lambda sums, index_dtype: None)
    monkeypatch.setattr(amx, "_has_unit", lambda index_dtype: False)
    assert kernels.explain(_layer(0.9), 256).startswith("native: ")
    assert "no matrix unit (AMX)" in str(kernels.available()["amx"])
    assert kernels.available(dtype=torch.float64)["amx"] == "the matrix unit has no float64"
    with kernels.use("amx"), pytest.raises(RuntimeError, match=r"^kernel 'amx': expected .* no matrix unit"):
        _layer(0.9)(torch.randn(2, 1000))


@needs_unit
def test_the_layer_runs_it_in_both_directions() -> None:
    """By itself, where the density is high: other bits than native's, and near to them."""
    layer = _layer(0.5)
    x = torch.randn(256, 1000, requires_grad=True)
    results = []
    for name in (None, "amx", "native"):
        with kernels.use(name) if name else torch.enable_grad():
            output = layer(x)
        results.append((output, *torch.autograd.grad(output.square().sum(), (x, layer.values))))
    for chosen, forced, native in zip(*results, strict=True):
        assert torch.equal(chosen, forced)
        assert not torch.equal(chosen, native)
        torch.testing.assert_close(chosen, native, rtol=1e-4, atol=1e-3)
