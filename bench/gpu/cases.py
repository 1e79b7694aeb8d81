"""The shapes that are measured on a GPU, and small ones in their places to try the run itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

from sparselinear import SparseLinear, interop
from sparselinear.pattern import SparsityPattern
from sparselinear.topology import random_pattern

from .. import real
from ..cells import fixed_fan_in

FLYVIS = "flyvis optic lobe"


@dataclass(frozen=True)
class Case:
    """A matrix, and the batches it is measured at. ``make`` is None where its file is not there."""

    name: str
    make: Callable[[], SparsityPattern] | None
    batches: tuple[int, ...]


def _random(size: int, nnz: int, *batches: int) -> Case:
    return Case(f"{size:,} squared, {nnz:,}", partial(random_pattern, (size, size), nnz, 0), batches)


@cache  # so that a case asked for twice is the same, and its pattern made once
def square(size: int, density: float, *batches: int) -> Case:
    """A random square matrix of a density."""
    make = partial(random_pattern, (size, size), round(density * size**2), 0)
    return Case(f"{size:,} squared, {density:.3g}", make, batches)


def _fan_in(rows: int, per_row: int, columns: int, *batches: int) -> Case:
    def make() -> SparsityPattern:
        return interop.to_pattern(fixed_fan_in(rows, per_row, columns))

    return Case(f"{columns:,} to {rows:,}, fan-in {per_row}", make, batches)


CONNECTOME = _random(127_978, 2_600_000, 32, 128)
# The case of a table that another library published: 128 columns, float32.
PUBLISHED = _random(123_440, 3_090_000, 128)


def step_cases(data: Path | None, *, quick: bool) -> list[Case]:
    """Those of the table of training steps."""
    if quick:
        return [square(96, 0.05, 8, 16), Case(FLYVIS, None, (8,))]
    return [
        *(square(4096, density, 64, 256, 1024) for density in (0.01, 0.05, 0.10)),
        square(16_384, 0.01, 64, 256),
        Case(FLYVIS, _flyvis(data), (64,)),
        CONNECTOME,
        _fan_in(670_091, 32, 768, 64),
        _random(1_000_000, 50_000_000, 8),
    ]


def _flyvis(data: Path | None) -> Callable[[], SparsityPattern] | None:
    found = [cell for cell in real.cells(data) if cell.name == FLYVIS] if data else []
    return (lambda: interop.to_pattern(found[0].matrix())) if found else None


@lru_cache(maxsize=32)  # some 2 GB in all
def pattern_of(case: Case, device: torch.device) -> SparsityPattern:
    """The pattern of a case whose file is there, with its transpose, on a device."""
    assert case.make is not None
    pattern = case.make().to(device)
    _ = pattern.transposed
    return pattern


def layer_on(pattern: SparsityPattern, dtype: torch.dtype) -> SparseLinear:
    """A layer over a pattern, without bias as all sides are."""
    options = {"bias": False, "device": pattern.device, "dtype": dtype}
    return SparseLinear(pattern.in_features, pattern.out_features, pattern, **options)


def activations(layer: SparseLinear, batch: int) -> tuple[Tensor, Tensor]:
    """Random normal x (batch, in_features) and grad_output (batch, out_features)."""
    options = {"device": layer.values.device, "dtype": layer.values.dtype}
    x = torch.randn(batch, layer.in_features, **options)
    return x, torch.randn(batch, layer.out_features, **options)
