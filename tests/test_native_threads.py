"""The native kernel: the same bits with any number of threads, in both layouts, from several calls."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import compiled
import pytest
import torch
from cases import Case
from compiled import LAYOUTS, arguments, arrow, each, pattern_of, random_matrix, sparse_oracle, threads
from native_cases import (
    DENSE,
    NATIVE,
    SWEPT,
    check,
    drawn_lengths,
    each_dtype,
    needs_native,
    of_lengths,
    products,
    with_long_rows,
)

from sparselinear import interop

pytestmark = needs_native

# Panels go one to a thread where there are enough of them, and else all threads share each. Backward has
# dot products of its own for each panel of a wave; a wave has as many panels as activations pay for.
SHARED = [
    Case("sparse", "every panel is in one wave", random_matrix(499, 601, 0.03)),
    Case("waves", "waves of 1 to 4 panels; shared from 4 threads on", random_matrix(499, 601, 0.25)),
    Case("dense", "too many connections for a wave of two panels", random_matrix(499, 601, 0.9)),
    Case("cut rows", "pieces of long rows are added up", with_long_rows({3: 12007, 4: 11003}, 11, 12007)),
    Case("cut columns", "and of long columns", with_long_rows({3: 12007, 4: 11003}, 11, 12007).T),
    Case("short rows", "by connections", of_lengths(drawn_lengths(33013, 4), 601)),
]


@each(SHARED)
@pytest.mark.parametrize("batch", [1, 40, 100, 300])
@each_dtype
def test_same_bits_with_any_threads(case: Case, batch: int, dtype: torch.dtype) -> None:
    wide = dtype in (torch.float64, torch.float16)
    pattern = pattern_of(case, torch.int64 if wide else torch.int32)
    compiled.check_same_bits(NATIVE, pattern, arguments(pattern, batch, dtype))


@each([SWEPT[0], SHARED[0]])
def test_same_bits_in_both_layouts(case: Case) -> None:
    """Panels that are read in place hold what packed ones hold."""
    pattern = pattern_of(case)
    given = arguments(pattern, 130, torch.float32)
    for first, again in zip(
        products(pattern, given),
        products(pattern, given.laid_out(LAYOUTS["feature-major"])),
        strict=True,
    ):
        assert torch.equal(first, again)


@pytest.mark.parametrize("batch", [64, 128])
def test_cut_rows_of_panels_in_place(batch: int) -> None:
    """Few connections a feature, feature-major, panels that are full: read in place, in many small chunks."""
    pattern = interop.to_pattern(arrow(3001, 1500, 1500))
    given = arguments(pattern, batch, torch.float32).laid_out(LAYOUTS["feature-major"])
    check(pattern, given, sparse_oracle(pattern, *given))
    with threads(1):
        alone = products(pattern, given)
    with threads(2):
        together = products(pattern, given)
    for first, again in zip(alone, together, strict=True):
        assert torch.equal(first, again)


def test_concurrent_calls() -> None:
    """Calls from several threads of Python take scratch memory from one pool."""
    jobs = [
        (pattern_of(case), arguments(pattern_of(case), batch, dtype))
        for case in (SWEPT[0], SWEPT[1], DENSE[0])
        for batch in (1, 40, 300)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    alone = [products(*job) for job in jobs]
    order = [number for number in range(len(jobs)) for _ in range(6)]
    random.Random(0).shuffle(order)

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda number: products(*jobs[number]), order))
    for number, results in zip(order, together, strict=True):
        for first, again in zip(alone[number], results, strict=True):
            assert torch.equal(first, again)
