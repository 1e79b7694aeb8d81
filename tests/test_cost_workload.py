"""What a workload counts: sums by hand, and numpy's for a real pattern."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import Case, each_case
from costs import workload

from sparselinear import interop
from sparselinear.profiling.cost import Workload
from sparselinear.profiling.cost.workload import Skew


def test_share_of_the_fullest() -> None:
    skew = Skew.of(torch.tensor([1, 0, 6, 3]))
    assert [skew.share(count) for count in (-1, 0, 1, 2, 3, 4, 9)] == [0, 0, 0.6, 0.9, 1, 1, 1]


@pytest.mark.parametrize("counts", [[], [0, 0]], ids=["no rows", "no connections"])
def test_share_of_nothing(counts: list[int]) -> None:
    """All that is asked for, which is nothing, is in the cache."""
    assert Skew.of(torch.tensor(counts, dtype=torch.int64)).share(1) == 1


def test_many_connections_are_counted_exactly() -> None:
    """Sums in float32 would stop at 2**24."""
    assert Skew.of(torch.full((3,), 2**30)).running.tolist() == [2**30, 2**31, 3 * 2**30]


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_a_pattern(index_dtype: torch.dtype) -> None:
    dense = np.array([[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]])
    pattern = interop.to_pattern(dense, index_dtype=index_dtype)
    work = Workload.of(pattern, 7, torch.bfloat16)
    assert (work.out_features, work.in_features, work.nnz, work.batch) == (3, 4, 4, 7)
    assert (work.itemsize, work.index_itemsize) == (2, index_dtype.itemsize)
    assert work.rows.running.tolist() == [3, 4, 4]
    assert work.columns.running.tolist() == [2, 3, 4, 4]
    assert work.density == 4 / 12
    assert pattern._transpose is None  # nothing was sorted for it


@each_case
def test_every_pattern_against_numpy(case: Case) -> None:
    pattern = interop.to_pattern(case.adjacency)
    dense = pattern.dense_tensor(torch.ones(pattern.nnz)).numpy()
    work = Workload.of(pattern, 1, torch.float32)
    for skew, axis in ((work.rows, 1), (work.columns, 0)):
        assert skew.running.tolist() == np.cumsum(np.sort(dense.sum(axis))[::-1]).tolist()


def test_other_batches_and_densities() -> None:
    work = workload(20, 30, 60, 8)
    assert work.at_batch(9).batch == 9
    assert work.at_batch(9).nnz == 60
    assert [work.at_density(density).nnz for density in (0, 1 / 600, 0.25, 1)] == [0, 1, 150, 600]
    assert work.at_density(0.25).density == 0.25
    assert work.at_density(0.25).rows is work.rows
    assert workload(0, 30, 0, 1).density == 0
