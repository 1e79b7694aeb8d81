"""Counts of what a layer has to do, done by hand for small layers."""

from __future__ import annotations

from math import ceil

import pytest
import torch
from costs import CHIP, NO_UNIT, even, workload

from sparselinear.profiling.cost import Workload
from sparselinear.profiling.cost.terms import (
    DENSE,
    FORWARD,
    LARGE_BYTES,
    SPARSE,
    STEP,
    Chip,
    Terms,
    bends,
    terms_of,
)
from sparselinear.profiling.cost.workload import Skew


def sparse(work: Workload, kind: str = FORWARD, chip: Chip = CHIP) -> Terms:
    return terms_of(SPARSE, kind, work, chip)


NO_TILES = {"tile": 0, "tile entry": 0, "tile connection": 0}


def test_forward_by_hand() -> None:
    """30 outputs, 20 inputs, 90 connections, batch 80: two panels of 48 samples."""
    assert sparse(workload(30, 20, 90, 80)) == {
        "call": 1,
        "activations": 80 * 20 * 4 + 80 * 30 * 4,
        "large": 0,
        "near": 90 * 2 * 48,
        "far": 0,
        "connection": 90 * 2,
        "row": 30 * 2,
        **NO_TILES,
    }


def test_step_by_hand() -> None:
    """Backward gathers grad_output along the columns, reads the input again and writes its gradient."""
    assert sparse(workload(30, 20, 90, 80), STEP) == {
        "call": 1,
        "activations": 80 * 4 * (20 + 30) + 80 * 4 * (30 + 20 + 20),
        "large": 0,
        "split": 0,
        "near": 2 * 90 * 2 * 48,
        "far": 0,
        "connection": 2 * 90 * 2,
        "row": 30 * 2 + 20 * 2,
        "permuted near": 2 * 90,
        "permuted far": 0,
        **NO_TILES,
    }


def test_step_in_two_passes_by_hand() -> None:
    """Of 32 samples or fewer: both directions are gathered, and the values alone are permuted."""
    terms = sparse(workload(30, 20, 90, 32), STEP)
    assert (terms["near"], terms["connection"], terms["row"]) == (3 * 90 * 32, 3 * 90, 30 + 20 + 30)
    assert terms["permuted near"] == 90


def test_one_sample() -> None:
    terms = sparse(workload(30, 20, 90, 1))
    assert (terms["near"], terms["connection"], terms["row"]) == (90, 90, 30)
    assert terms["activations"] == 50 * 4


def test_types_of_the_sums() -> None:
    """bfloat16 is summed in float32: the same panels, half the activations. Panels of float64 hold half."""
    half, single, double = (sparse(workload(30, 20, 90, 80, size)) for size in (2, 4, 8))
    assert half["near"] == single["near"] == 90 * 2 * 48
    assert half["activations"] * 2 == single["activations"]
    assert double["near"] == 90 * 3 * 32  # 80 samples in three panels of four vectors of 8
    assert double["connection"] == 90 * 3


# Features that are gathered -> samples in a panel, in forward and in backward: docs/roofline.md.
WIDTHS = {4096: (64, 64), 8192: (32, 32), 16_384: (16, 32), 32_768: (16, 64), 200_000: (32, 64)}


@pytest.mark.parametrize("features", WIDTHS)
def test_panels_as_documented(features: int) -> None:
    forward, backward = WIDTHS[features]
    assert sparse(workload(10, features, 7, 256))["connection"] == 7 * 256 // forward
    both = sparse(workload(features, 10, 7, 256), STEP)["connection"]
    assert both == 7 * 4 + 7 * 256 // backward  # 10 inputs: four panels of 64 in forward


def test_tiles_by_hand() -> None:
    """500 outputs, 700 inputs, half of the places taken, batch 600: filled up to 512 x 704, two panels."""
    work = workload(500, 700, 175_000, 600)
    tiles = {"tile": 608 * 512 * 704, "tile entry": 2 * 512 * 704, "tile connection": 2 * 175_000}
    in_a_step = {name: 3 * count for name, count in tiles.items()}  # three products
    by_connections = dict.fromkeys(("near", "far", "connection", "row"), 0)
    activations = 600 * 4 * (500 + 700)
    shared = {"call": 1, "activations": activations, "large": 0}
    assert sparse(work) == {**shared, **by_connections, **tiles}
    found = sparse(work, STEP)
    assert {name: found[name] for name in tiles} == in_a_step
    assert found["activations"] == activations + 600 * 4 * (500 + 700 + 700)
    assert not any(found[name] for name in (*by_connections, "split", "permuted near", "permuted far"))


def test_tiles_where_there_is_a_unit_and_the_density_is_high() -> None:
    dense, sparser = workload(1000, 1000, 500_000, 256), workload(1000, 1000, 200_000, 256)
    assert sparse(dense)["tile"]
    assert not sparse(sparser)["tile"]
    assert not sparse(dense, chip=Chip(64, 2 << 20))["tile"]
    assert sparse(dense, chip=Chip(64, 2 << 20)).keys() == sparse(dense).keys()


def test_forward_on_few_samples_goes_by_connections() -> None:
    """Dense, batch 32: two products of three are on tiles."""
    work = workload(1000, 1000, 700_000, 32)
    by_connections, tiles = sparse(work, chip=NO_UNIT), 1024 * 1024
    assert sparse(work) == by_connections
    step = sparse(work, STEP)
    assert (step["tile"], step["tile entry"], step["tile connection"]) == (64 * tiles, 2 * tiles, 1_400_000)
    assert all(step[name] == by_connections[name] for name in ("near", "far", "connection", "row"))
    assert step["activations"] == sparse(work, STEP, chip=NO_UNIT)["activations"]
    assert sparse(workload(1000, 1000, 700_000, 32, 2))["tile"]


@pytest.mark.parametrize("kind", [FORWARD, STEP])
def test_time_grows_no_further_where_zeros_are_multiplied(kind: str) -> None:
    """256 samples are 4 panels of 64, so from half of all connections on."""
    at, above = (sparse(workload(1000, 800, nnz, 256), kind, NO_UNIT) for nnz in (400_000, 700_000))
    below = sparse(workload(1000, 800, 399_999, 256), kind, NO_UNIT)
    assert at == above
    assert below["connection"] < at["connection"]
    assert bends(workload(1000, 800, 1, 256), NO_UNIT) == [400_000]


def test_where_the_line_bends() -> None:
    """Two passes from 256 connections a column and 4 MiB of values on, up to 64 samples; then tiles."""
    big = workload(10_000, 5000, 1, 64)
    assert bends(big, CHIP) == [5000 * 256, ceil(0.25 * 1.125 * 1.08 * 50_000_000)]
    assert bends(big, Chip(64, 2 << 20)) == [5000 * 256]
    assert bends(workload(4096, 500, 1, 64), Chip(64, 2 << 20)) == [1 << 20]
    for batch in (32, 65):  # always two passes; never
        assert bends(workload(10_000, 5000, 1, batch), Chip(64, 2 << 20)) == []
    below, above = (sparse(workload(10_000, 5000, 5000 * 256 + more, 64), STEP) for more in (-1, 0))
    assert below["permuted near"] + below["permuted far"] == 2 * (5000 * 256 - 1)
    assert above["permuted near"] + above["permuted far"] == 5000 * 256


def test_near_and_far_of_an_even_pattern() -> None:
    """Panels of 32 samples are 128 bytes a row: the cache of 2 MiB holds 16,384 of 65,536 rows."""
    terms = sparse(workload(10, 65_536, 800, 32))
    assert terms["near"] == 800 * 32 / 4
    assert terms["far"] == 800 * 32 * 3 / 4
    within = sparse(workload(10, 32_768, 800, 32))  # 16 samples, 64 bytes a row: all of them
    assert (within["near"], within["far"]) == (800 * 32, 0)


def test_hubs_stay_near() -> None:
    """The inputs that most connections ask for are those that the cache holds."""
    hubs = torch.ones(65_536, dtype=torch.int64)
    hubs[::4] = 13  # 16,384 of them, as many as the cache holds rows
    work = Workload(10, 65_536, 65_536 * 4, 32, 4, 4, even(10), Skew.of(hubs))
    assert sparse(work)["near"] == pytest.approx(65_536 * 4 * 32 * 13 / 16)
    # Of backward, the gradient of the values gathers the same, and that of the input ten outputs, all near.
    assert sparse(work, STEP)["far"] == 2 * sparse(work)["far"]
    wide = work.at_batch(64)  # one pass for both
    assert sparse(wide, STEP)["far"] == sparse(wide)["far"]


def test_a_smaller_cache() -> None:
    terms = sparse(workload(10, 4096, 800, 32), chip=Chip(64, 1 << 17))
    assert (terms["near"], terms["far"]) == (800 * 32 / 4, 800 * 32 * 3 / 4)  # 1,024 rows of 128 bytes


@pytest.mark.parametrize(("outputs", "near"), [(32_768, True), (32_769, False)])
def test_permuted(outputs: int, near: bool) -> None:
    """32,768 lines of 64 bytes are 2 MiB."""
    terms = sparse(workload(outputs, 10, 500, 17), STEP)
    assert (terms["permuted near"], terms["permuted far"]) == ((500, 0) if near else (0, 500))


def test_small_batches_by_rows() -> None:
    """From 8 connections a column on nothing is permuted, and both gradients have one panel of the inputs."""
    below, above = (sparse(workload(1000, 50, nnz, 16), STEP) for nnz in (8 * 50 - 1, 8 * 50))
    assert below["permuted near"] == 8 * 50 - 1
    assert above["permuted near"] == above["permuted far"] == 0
    assert (below["row"], above["row"]) == (1000 + 50 + 1000, 3 * 1000)
    assert 8 * 50 in bends(workload(1000, 50, 1, 16), Chip(64, 2 << 20))
    assert 8 * 50 not in bends(workload(1000, 50, 1, 17), Chip(64, 2 << 20))


def test_rows_from_afar() -> None:
    """They are whole lines, of 16 numbers, however few samples they hold; sums go there and back."""
    work = workload(1000, 400_000, 3_200_000, 4)
    near = (2 << 20) / (4 * 4) / 400_000  # rows that the cache holds, of all
    forward, step = sparse(work), sparse(work, STEP)
    assert forward["near"] == pytest.approx(3_200_000 * 4 * near)
    assert forward["far"] == pytest.approx(3_200_000 * 16 * (1 - near))
    assert step["far"] == pytest.approx(4 * forward["far"])
    assert step["near"] == pytest.approx(3 * forward["near"])


SPLIT = [
    (4097, 64, 2 * 64 * 4097 * 4, "2 MiB and 512 bytes, and a row is 256 lines and 4 bytes"),
    (4112, 64, 0, "257 whole lines"),
    (4095, 64, 0, "both fit in the cache"),
    (9001, 32, 2 * 32 * 9001 * 4, "fewer samples"),
]


@pytest.mark.parametrize(("inputs", "batch", "split", "reason"), SPLIT, ids=[case[-1] for case in SPLIT])
def test_rows_that_are_not_whole_lines(inputs: int, batch: int, split: int, reason: str) -> None:
    work = workload(10, inputs, 500, batch)
    assert sparse(work, STEP)["split"] == split
    assert "split" not in sparse(work)


def test_large_arrays() -> None:
    """16 MB is the bound: an input above it is read, its gradient written, an output below it neither."""
    batch, inputs = 100, 50_000
    assert batch * inputs * 4 > LARGE_BYTES > batch * 40_000 * 4 - 1
    terms = sparse(workload(40_000, inputs, 9, batch), STEP)
    assert terms["large"] == 3 * batch * inputs * 4
    assert terms["activations"] == batch * 4 * (3 * inputs + 2 * 40_000)


def test_dense_by_hand() -> None:
    work = workload(30, 20, 90, 80)
    forward = {"call": 1, "multiply": 80 * 600, "weight": 600, "activations": 80 * 50 * 4}
    assert terms_of(DENSE, FORWARD, work, CHIP) == forward
    assert terms_of(DENSE, STEP, work, CHIP) == {**forward, "large weight": 0}
    large = terms_of(DENSE, STEP, workload(4000, 2000, 90, 1), CHIP)
    assert large["large weight"] == 32e6 - 16e6


def test_dense_does_not_depend_on_the_connections() -> None:
    for kind in (FORWARD, STEP):
        few, many = (terms_of(DENSE, kind, workload(30, 20, nnz, 80), CHIP) for nnz in (1, 600))
        assert few == many


@pytest.mark.parametrize("kind", [FORWARD, STEP])
@pytest.mark.parametrize("shape", [(300, 200, 64), (200_000, 100_000, 32), (50, 60_000, 1)])
def test_a_straight_line_over_the_connections(kind: str, shape: tuple[int, int, int]) -> None:
    """What break_even_density relies on."""
    outputs, inputs, batch = shape
    none, some, more = (sparse(workload(outputs, inputs, nnz, batch), kind) for nnz in (0, 1000, 4000))
    assert none.keys() == some.keys() == more.keys()
    for name in none:
        assert more[name] - none[name] == pytest.approx(4 * (some[name] - none[name]))
        assert more[name] >= some[name] >= none[name] >= 0
