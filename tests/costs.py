"""Rates without measuring: a made-up machine whose times are known in closed form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sparselinear import SparseLinear
from sparselinear.profiling.cost import Rates, Workload
from sparselinear.profiling.cost.terms import DENSE, FORWARD, SPARSE, STEP, Chip, terms_of
from sparselinear.profiling.cost.workload import Skew

# That of docs/roofline.md: vectors of 16 floats, 2 MiB of second-level cache a core, and a matrix unit.
CHIP = Chip(vector_bytes=64, cache_bytes=2 << 20, dense_from=0.25)
NO_UNIT = replace(CHIP, dense_from=None)

# Of the size that a machine of 2023 has; every one differs, and none is zero.
SPARSE_RATES = {
    "call": 3e-5, "activations": 2e-10, "large": 3e-10, "split": 35e-11, "near": 5e-11, "far": 4e-10,
    "connection": 1e-9, "row": 4e-9, "permuted near": 2e-9, "permuted far": 3e-8,
    "tile": 5e-12, "tile entry": 3e-10, "tile connection": 6e-10,
}  # fmt: skip
DENSE_RATES = {"call": 1e-5, "multiply": 4e-11, "weight": 5e-10, "activations": 1e-10, "large weight": 2e-10}


def even(count: int) -> Skew:
    """Everywhere one connection."""
    return Skew.of(torch.ones(count, dtype=torch.int64, device="cpu"))


def workload(out_features: int, in_features: int, nnz: int, batch: int, itemsize: int = 4) -> Workload:
    """Evenly spread connections."""
    spread = even(out_features), even(in_features)
    return Workload(out_features, in_features, nnz, batch, itemsize, 4, *spread)


def known_rates(**changes: Any) -> Rates:
    """A machine of these rates; a step takes twice as much of everything as forward."""
    every = {SPARSE: SPARSE_RATES, DENSE: DENSE_RATES}
    one = workload(1, 1, 1, 1)
    table = {
        system: {
            kind: {name: factor * every[system][name] for name in terms_of(system, kind, one, CHIP)}
            for kind, factor in ((FORWARD, 1), (STEP, 2))
        }
        for system in every
    }
    return Rates(
        **{"kernel": "native", "chip": CHIP, "threads": 1, "dtype": "float32", "rates": table} | changes
    )


def only(**seconds: float) -> Rates:
    """A machine on which nothing takes time but what is named: ``sparse_connection=1e-9``, for every kind.

    It has no matrix unit.
    """
    found = known_rates(chip=NO_UNIT)
    for system, word in ((SPARSE, "sparse"), (DENSE, "dense")):
        for kinds in found.rates[system].values():
            kinds.update({name: seconds.get(f"{word}_{name.replace(' ', '_')}", 0.0) for name in kinds})
    return found


def times(layer: nn.Module, work: Workload, *_: Any) -> dict[str, float]:
    """Takes the place of the clock of calibrate.py: what the made-up machine takes for a layer."""
    system = SPARSE if isinstance(layer, SparseLinear) else DENSE
    rates = known_rates()
    return {kind: rates.seconds(system, kind, terms_of(system, kind, work, CHIP)) for kind in (FORWARD, STEP)}
