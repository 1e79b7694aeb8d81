"""Random and thinned patterns: exactly as many connections as asked for, and every choice as likely."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
import torch
from cases import Case, each_case
from sweeps import connections

from sparselinear import interop
from sparselinear.topology import random_pattern, thin


@pytest.mark.parametrize("shape", [(1, 1), (1, 13), (13, 1), (6, 9), (37, 53)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.51, 0.9, 1.0])
def test_random_has_exactly_its_connections(shape: tuple[int, int], share: float) -> None:
    nnz = round(share * shape[0] * shape[1])
    pattern = random_pattern(shape, nnz, 3)
    assert (pattern.shape, pattern.nnz) == (shape, nnz)
    assert len(connections(pattern)) == nnz  # the pattern itself checks order and range
    assert pattern.equals(random_pattern(shape, nnz, 3))


@each_case
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_thinned_is_a_subset(case: Case, share: float, device: str) -> None:
    pattern = interop.to_pattern(case.adjacency, device=device)
    nnz = round(share * pattern.nnz)
    thinned = thin(pattern, nnz, 1)
    assert (thinned.shape, thinned.nnz) == (pattern.shape, nnz)
    assert connections(thinned) <= connections(pattern)
    assert thinned.device == pattern.device
    assert thinned.equals(thin(pattern.to("cpu"), nnz, 1))


@pytest.mark.parametrize("nnz", [2, 4], ids=["drawn", "drawn by what is left out"])
def test_every_choice_is_as_likely(nnz: int) -> None:
    """15 sets each; over 3000 seeds chi-square of 14 degrees stays below its 99.99 % quantile, 42.6."""
    base = random_pattern((3, 2), 6, 0)
    for draw in (lambda seed: random_pattern((3, 2), nnz, seed), lambda seed: thin(base, nnz, seed)):
        seen = Counter(tuple(sorted(connections(draw(seed)))) for seed in range(3000))
        assert set(seen) == set(combinations(range(6), nnz))
        assert sum((count - 200) ** 2 / 200 for count in seen.values()) < 42.6


def test_seeds_differ() -> None:
    assert not random_pattern((50, 40), 100, 0).equals(random_pattern((50, 40), 100, 1))


def test_a_random_pattern_of_many_cells_holds_only_its_connections() -> None:
    """10**12 cells: anything with an entry for each would not fit."""
    pattern = random_pattern((1_000_000, 1_000_000), 5000, 0)
    assert pattern.nnz == 5000
    assert 0.45 < pattern.col_indices.double().mean() / 1e6 < 0.55  # 12 standard errors
    assert 0.45 < pattern.rows(0, 5000).double().mean() / 1e6 < 0.55


def test_too_many() -> None:
    with pytest.raises(ValueError, match=r"nnz: expected at most 6 connections, got 7\."):
        random_pattern((2, 3), 7, 0)
    with pytest.raises(ValueError, match=r"at most the 2 connections of the pattern, got 3\. Thinning only"):
        thin(interop.to_pattern(torch.eye(2)), 3, 0)
