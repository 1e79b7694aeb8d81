"""The portrait of a pattern: degrees against numpy's, bounded size, bounded scratch."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import Case, each_case
from torch.utils._python_dispatch import TorchDispatchMode

from sparselinear import interop
from sparselinear.pattern import SparsityPattern
from sparselinear.profiling import portrait
from sparselinear.profiling.portrait import Degrees, Portrait


def drawn(matrix: Any) -> Portrait:
    return Portrait.of(interop.to_pattern(matrix))


@each_case
def test_degrees_of_rows_and_columns(case: Case) -> None:
    cells = np.zeros(case.adjacency.shape, dtype=np.int64)
    coo = sp.coo_array(case.adjacency)
    cells[coo.row, coo.col] = 1
    found = drawn(case.adjacency)
    for degrees, expected in ((found.rows, cells.sum(1)), (found.columns, cells.sum(0))):
        assert (degrees.minimum, degrees.maximum) == (expected.min(), expected.max())
        assert degrees.median == np.median(expected)
        assert degrees.mean == pytest.approx(expected.mean())
        assert degrees.empty == np.count_nonzero(expected == 0)
        assert sum(degrees.counts) == len(expected)
    assert sum(map(sum, found.counts)) == cells.sum()


SKEWED = np.random.default_rng(0).zipf(1.6, 5000).clip(max=90_000)


@pytest.mark.parametrize(
    ("values", "logarithmic", "why"),
    [
        ([3, 3, 3], False, "one degree"),
        ([0, 0], False, "all empty"),
        (range(24), False, "as many degrees as bins"),
        (range(25), False, "one more than bins"),
        (range(1000, 1700, 3), False, "far from zero"),
        (SKEWED, True, "a long tail"),
        ([0, *SKEWED], True, "a long tail and an empty row"),
        ([0] * 90 + [5000], True, "nearly all empty"),
        ([1] * 9 + [9], False, "skewed, but each degree can have its bin"),
        ([40] * 9 + [321], True, "skewed, from a large minimum"),
    ],
)
def test_histogram(values: Any, logarithmic: bool, why: str) -> None:
    degrees = np.array(list(values), dtype=np.int64)
    found = Degrees.of(degrees)
    assert found.logarithmic is logarithmic
    assert len(found.counts) <= portrait.MAX_BINS
    assert found.edges[0] == degrees.min()
    assert found.edges[-1] > degrees.max()
    bins = list(zip(found.edges, found.edges[1:], strict=False))
    assert list(found.counts) == [int(((degrees >= low) & (degrees < high)).sum()) for low, high in bins]
    widths = np.diff(found.edges)
    assert (widths >= 1).all()
    if logarithmic:
        assert (degrees == 0).sum() == (found.counts[0] if found.edges[0] == 0 else 0)
        assert widths[-1] > widths[0]
        assert (np.diff(widths[found.edges[0] == 0 :]) >= -1).all()  # rounding may take one back
    else:
        assert len(set(widths)) == 1


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        ((500, 500), (120, 120)),
        ((600, 300), (120, 60)),
        ((10_000, 300), (120, 40)),  # no flatter than a third
        ((1, 9999), (1, 120)),  # a row has one line of pixels
        ((30, 20), (30, 20)),  # cell by cell
        ((0, 7), (0, 7)),
    ],
)
def test_pixels(shape: tuple[int, int], sides: tuple[int, int]) -> None:
    found = drawn(sp.csr_array(shape))
    assert (len(found.counts), len(found.counts[0]) if found.counts else shape[1]) == sides
    assert found.shape == shape


def test_dictionary_is_small_json_with_the_same_numbers() -> None:
    found = drawn(sp.random_array((4000, 3000), density=0.01, rng=np.random.default_rng(0)))
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert len(text) < 100_000
    told = json.loads(text)
    assert tuple(tuple(map(int, line.split())) for line in told["raster"]) == found.counts
    assert told["rows"]["counts"] == list(found.rows.counts)
    assert told["columns"]["mean"] == found.columns.mean == pytest.approx(40)


class Largest(TorchDispatchMode):
    """Remembers the elements of the largest tensor that any operation returned anew."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not result._is_view():
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.parametrize("chunk", [1, 1000])
def test_columns_are_counted_in_pieces(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(portrait, "_CHUNK", chunk)
    matrix = sp.random_array((900, 700), density=0.2, format="csr", rng=np.random.default_rng(1))
    pattern = interop.to_pattern(matrix)
    with Largest() as largest:
        found = portrait._column_degrees(pattern)
    assert 700 <= largest.numel <= 1000  # of 126,000 connections
    np.testing.assert_array_equal(found.numpy(), np.bincount(matrix.indices, minlength=700))
    assert pattern._transpose is None


def test_a_pattern_on_meta_is_drawn_from_what_it_was_moved_from() -> None:
    pattern = SparsityPattern(torch.tensor([0, 2, 3]), torch.tensor([0, 2, 1]), (2, 3))
    assert Portrait.of(pattern.to("meta")) == Portrait.of(pattern)
