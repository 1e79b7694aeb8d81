"""The grid of a sweep: its cells, their order, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sweeps import connections, full

from sparselinear import interop
from sparselinear.profiling import Cell, Grid
from sparselinear.profiling.sweeps.grid import bisection

HALF = sp.random_array((20, 30), density=0.5, format="csr", rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("count", "order"),
    [
        (1, [0]),
        (2, [0, 1]),
        (3, [0, 2, 1]),
        (5, [0, 4, 2, 1, 3]),
        (6, [0, 5, 2, 3, 1, 4]),
        (9, [0, 8, 4, 2, 6, 1, 3, 5, 7]),
    ],
)
def test_bisection(count: int, order: list[int]) -> None:
    assert bisection(count) == order


def test_bisection_halves_the_widest_gap() -> None:
    """At every moment no gap is more than about twice another, so each prefix is an even picture."""
    for count in range(2, 40):
        order = bisection(count)
        assert sorted(order) == list(range(count))
        for known in range(2, count):
            gaps = np.diff(sorted(order[:known]))
            assert gaps.max() <= 2 * gaps.min() + 1


def test_cells_come_coarse_first() -> None:
    grid = Grid(sizes=[(8, 9), 4], densities=[0.5, 0.1, 1.0], batches=[7, 2])
    shapes = [((4, 4), 2), ((4, 4), 7), ((8, 9), 2), ((8, 9), 7)]
    assert grid.cells() == [
        Cell(*size, density, batch) for density in (0.1, 1.0, 0.5) for size, batch in shapes
    ]


def test_defaults() -> None:
    grid = Grid()
    assert grid.sizes == ((2048, 2048),)
    assert grid.densities == (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    assert (grid.batches, grid.baselines, grid.rounds) == ((1, 32, 256), ("dense", "csr"), 5)
    assert (grid.dtype, grid.device, grid.seed) == (torch.float32, torch.device("cpu"), 0)


def test_default_densities_of_an_adjacency_are_its_own_and_below() -> None:
    densities = Grid(HALF).densities
    assert [round(density * 600) for density in densities] == [3, 9, 30, 95, 300]
    assert densities[-1] == 0.5
    assert Grid(torch.eye(2)).densities == (0.25, 0.5)  # of two connections no more can be made


def test_patterns_are_random_or_thinned() -> None:
    random = Grid(sizes=[(20, 30)], densities=[0.1], seed=5)
    cell = Cell(20, 30, 0.1, 4)
    drawn = random.pattern_of(cell)
    assert (drawn.shape, drawn.nnz) == ((20, 30), 60)
    assert random.pattern_of(Cell(20, 30, 0.1, 9)) is drawn  # another batch, the same pattern
    assert random.pattern_of(Cell(20, 30, 0.2, 9)) is not drawn
    assert Grid(sizes=[(20, 30)], densities=[0.1], seed=5).pattern_of(cell).equals(drawn)
    assert not Grid(sizes=[(20, 30)], densities=[0.1], seed=6).pattern_of(cell).equals(drawn)
    thinned = Grid(HALF, densities=[0.1]).pattern_of(cell)
    assert thinned.nnz == 60
    assert connections(thinned) <= connections(interop.to_pattern(HALF))


def test_to_dict_tells_patterns_apart() -> None:
    told = Grid(HALF, densities=[0.1], baselines="csr,dense", seed=3, dtype=torch.float64).to_dict()
    other = HALF.copy()
    other.indices[0] = next(column for column in range(30) if column not in other[[0], :].indices)
    assert told["pattern"].startswith("thinned from ")
    assert told["pattern"] != Grid(other).to_dict()["pattern"]
    assert told["pattern"] == Grid(HALF.tocoo()).to_dict()["pattern"]
    assert {**told, "pattern": ""} == {
        "sizes": [[20, 30]], "densities": [0.1], "batches": [1, 32, 256], "baselines": ["dense", "csr"],
        "rounds": 5, "dtype": "float64", "device": "cpu", "seed": 3, "pattern": "",
    }  # fmt: skip
    assert Grid().to_dict()["pattern"] == "random"


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"sizes": []}, ValueError, "sizes: expected at least one, got none."),
    ({"sizes": [0]}, ValueError, "sizes: expected a whole number from 1 up, got 0."),
    ({"sizes": [2.5]}, TypeError, "sizes: expected a whole number from 1 up, got 2.5."),
    ({"sizes": [True]}, ValueError, "sizes: expected a whole number from 1 up, got True."),
    ({"sizes": [1 << 32]}, ValueError, "sizes: expected fewer than 2**63 cells"),
    (
        {"sizes": [(1, 2, 3)]},
        ValueError,
        "sizes: expected numbers or pairs (out_features, in_features), got (1, 2, 3).",
    ),
    ({"densities": []}, ValueError, "densities: expected at least one, got none."),
    ({"densities": [0.0]}, ValueError, "densities: expected numbers above 0 and up to 1, got 0.0."),
    ({"densities": [1.01]}, ValueError, "densities: expected numbers above 0 and up to 1, got 1.01."),
    ({"densities": [math.nan]}, ValueError, "densities: expected numbers above 0 and up to 1, got nan."),
    ({"densities": ["x"]}, TypeError, "densities: expected numbers above 0 and up to 1, got 'x'."),
    ({"sizes": [3], "densities": [0.01]}, ValueError, "at least one connection of 3 x 3, density 0.111"),
    ({"batches": []}, ValueError, "batches: expected at least one, got none."),
    ({"batches": [0]}, ValueError, "batches: expected a whole number from 1 up, got 0."),
    ({"baselines": "none"}, ValueError, "baselines: expected at least one to compare with, got none."),
    ({"baselines": "csx"}, ValueError, "got 'csx'. Did you mean 'csr'?"),
    ({"rounds": 2}, ValueError, "rounds: expected a whole number from 3 up, got 2."),
    ({"seed": -1}, ValueError, "seed: expected a whole number from 0 up, got -1."),
    ({"dtype": torch.int32}, ValueError, "dtype: expected one of torch.float32"),
    ({"device": "cuda:99"}, RuntimeError, "device: expected a device of this machine"),
    ({"adjacency": HALF, "sizes": [3]}, ValueError, "sizes: expected None with an adjacency"),
    (
        {"adjacency": HALF, "densities": [0.1, 0.6]},
        ValueError,
        "densities: expected at most the adjacency's own density 0.5, got 0.6. Thinning only takes",
    ),
    ({"adjacency": torch.zeros(3, 3)}, ValueError, "adjacency: expected at least one connection, got none."),
    (
        {"adjacency": sp.csr_array((0, 3))},
        ValueError,
        "adjacency: expected at least one connection, got none.",
    ),
    ({"adjacency": [[1]]}, TypeError, "adjacency: expected a scipy.sparse matrix"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), BAD, ids=[row[2][:60] for row in BAD])
def test_bad_arguments(arguments: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        Grid(**arguments)
    assert text in str(caught.value)


def test_full_density_is_a_full_pattern() -> None:
    pattern = Grid(sizes=[(3, 4)], densities=[1]).pattern_of(Cell(3, 4, 1.0, 1))
    assert pattern.equals(interop.to_pattern(full(3, 4)))
