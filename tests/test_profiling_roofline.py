"""The roofline: operations and bytes counted by hand, the lower roof, and the part of it that is reached."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from test_profiling_table import example, row_of, timing

from sparselinear.profiling import Roofs, Sizes, roofline
from sparselinear.profiling.roofline import positions

# 3 outputs, 4 inputs, 5 connections, batch 2; float32, int32.
SIZES = Sizes(3, 4, 5, True, 4, 4, 2)
ROOFS = Roofs(operations_s=1e9, bytes_s=1e8)


def test_counts_of_sparse() -> None:
    row = replace(row_of("sparselinear", 1.0), forward=timing(1.0), step=timing(4.0))
    forward, backward = positions(row, SIZES, ROOFS)
    # A multiplication and an addition for each connection and sample; backward does both twice.
    assert (forward.operations, backward.operations) == (20, 40)
    # 5 values, 5 column indices and 4 offsets; 4 x 2 inputs, 3 x 2 outputs.
    assert forward.moved_bytes == 4 * (5 + 5 + 4 + 8 + 6)
    # Values and their gradient; 5 row indices, 5 places in CSR order, 5 offsets; input, its gradient, that of
    # the output.
    assert backward.moved_bytes == 4 * (10 + 5 + 5 + 5 + 16 + 6)
    assert (forward.seconds, backward.seconds) == pytest.approx((1e-3, 3e-3))


def test_counts_of_dense() -> None:
    row = replace(row_of("dense", 1.0), forward=timing(1.0), step=timing(3.0))
    forward, backward = positions(row, SIZES, ROOFS)
    assert (forward.operations, backward.operations) == (2 * 12 * 2, 4 * 12 * 2)
    assert forward.moved_bytes == 4 * (12 + 8 + 6)
    assert backward.moved_bytes == 4 * (24 + 16 + 6)


def test_the_lower_roof_is_the_limit() -> None:
    row = replace(row_of("sparselinear", 1.0), forward=timing(1.0), step=timing(4.0))
    (forward, _) = positions(row, SIZES, ROOFS)
    assert forward.intensity == 20 / 112
    assert forward.bound == "memory"
    assert forward.limit_s == 112 / 1e8
    assert forward.share == pytest.approx(112 / 1e8 / 1e-3)
    (slow, _) = positions(row, SIZES, Roofs(operations_s=1e7, bytes_s=1e8))
    assert slow.bound == "multiplication"
    assert slow.limit_s == 20 / 1e7
    assert json.loads(json.dumps(slow.to_dict()))["share"] == slow.share


def test_what_has_no_place() -> None:
    assert positions(row_of("csr", 1.0), SIZES, ROOFS) == ()
    assert positions(replace(row_of("dense", 1.0), step=None), SIZES, ROOFS) == ()
    # Noise may make a step no longer than forward: then backward has no time of its own.
    (only,) = positions(row_of("dense", 1.0), SIZES, ROOFS)
    assert only.product == "forward"
    assert example().roofline == ()
    assert [place.system for place in example(roofs=ROOFS).roofline] == ["sparselinear", "dense"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_roofs_are_those_of_this_machine(dtype: torch.dtype) -> None:
    """No machine that runs this multiplies or moves a thousand times more or less than a few 10**9."""
    roofs = Roofs.measure(dtype, torch.device("cpu"))
    assert 1e8 < roofs.operations_s < 1e15
    assert 1e8 < roofs.bytes_s < 1e14


def test_a_copy_takes_a_part_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "available_bytes", lambda device: 8 * 4096)
    copied: list[int] = []
    monkeypatch.setattr(roofline, "_fastest", lambda run, device: copied.append(run().nbytes) or 2.0)
    assert roofline.copy_rate(torch.float32, torch.device("cpu")) == 2 * 4096 / 2.0
    assert copied == [4096]
