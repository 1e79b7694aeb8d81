"""The rates of this machine: small layers of many shapes are timed once, in some seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import nn

from ... import kernels
from ...linear import SparseLinear
from ...topology import random_pattern
from ..machine import OtherWork, describe, disturbs
from ..timing import sample
from . import rates
from .rates import Rates
from .terms import DENSE, FORWARD, SPARSE, STEP, Chip, Terms, dense_terms, sparse_terms
from .workload import Workload

# (out_features, in_features, nnz, batch). Chosen so that each term is the largest somewhere: calls,
# activations and rows with hardly a connection, connections on small and large batches, panels beyond the
# cache, permuted values near and far, wide and tall.
SPARSE_LAYERS = (
    (64, 64, 64, 1),
    (64, 64, 256, 32),
    (1024, 1024, 1024, 256),
    (2048, 2048, 2048, 32),
    (8192, 8192, 8192, 256),
    (4096, 4096, 168_000, 64),
    (1024, 1024, 105_000, 256),
    (2048, 2048, 84_000, 16),
    (2048, 2048, 84_000, 1),
    (4096, 4096, 840_000, 4),
    (1024, 1024, 400_000, 64),
    (100_000, 100_000, 1_000_000, 32),
    (50_000, 50_000, 500_000, 64),
    (20_000, 20_000, 400_000, 256),
    (300, 60_000, 200_000, 32),
    (60_000, 300, 200_000, 32),
    (8192, 8192, 300_000, 128),
)
# (out_features, in_features, batch).
DENSE_LAYERS = (
    (64, 64, 1),
    (64, 64, 256),
    (512, 512, 256),
    (1024, 1024, 32),
    (2048, 1024, 256),
    (4096, 4096, 32),
    (2048, 4096, 256),
    (6000, 100, 256),
    (100, 6000, 64),
)
_ROUNDS, _SAMPLE_S, _MOST_REPEATS = 5, 0.004, 100

# Called with the layers timed, the layers in all, the stage, and a detail of it.
Progress = Callable[[int, int, str, str], None]


def calibrated(dtype: torch.dtype, *, again: bool = False, progress: Progress | None = None) -> Rates:
    """The rates of this machine, for the threads torch has now: those that are kept, or measured now.

    They are kept unless other programs disturbed.

    Args:
        dtype: of values and activations.
        again: measure even if there are some.
        progress: called as ``progress(done, total, stage, detail)``, if something is measured.
    """
    known = None if again else rates.load(rates.path_of(dtype))
    if known is not None:
        return known
    others = OtherWork()
    found = measure(dtype, progress)
    if disturbs(others.cores(), os.cpu_count(), found.threads):
        return replace(found, disturbed=True)
    rates.save(found, rates.path_of(dtype))  # asked for anew: the kernel may have been built meanwhile
    return found


def measure(dtype: torch.dtype, progress: Progress | None = None) -> Rates:
    """Time the layers and fit the rates."""
    chip = this_chip()
    terms: dict[tuple[str, str], list[Terms]] = {}
    seconds: dict[tuple[str, str], list[float]] = {}
    jobs = [(SPARSE, shape) for shape in SPARSE_LAYERS] + [(DENSE, shape) for shape in DENSE_LAYERS]
    used: set[str] = set()
    for number, (system, shape) in enumerate(jobs):
        if progress:
            progress(number, len(jobs), "measuring this machine, once", system)
        layer, work = _sparse(shape, dtype) if system == SPARSE else _dense(shape, dtype)
        if isinstance(layer, SparseLinear):
            used.add(kernels.choose(layer.pattern, dtype, work.batch).name)
        for kind, taken in _times(layer, work, dtype).items():
            counted = sparse_terms(work, kind, chip) if system == SPARSE else dense_terms(work, kind)
            terms.setdefault((system, kind), []).append(counted)
            seconds.setdefault((system, kind), []).append(taken)
    fitted: dict[str, dict[str, dict[str, float]]] = {SPARSE: {}, DENSE: {}}
    for (system, kind), counts in terms.items():
        fitted[system][kind] = rates.fit(counts, seconds[system, kind])
    name = str(dtype).removeprefix("torch.")
    return Rates(", ".join(sorted(used)), chip, torch.get_num_threads(), name, fitted)


def this_chip() -> Chip:
    """Vectors and second-level cache of this processor; where they are not known, what csrc assumes."""
    found = describe(torch.device("cpu"))
    vector = 64 if "512" in found.capability else 32 if "AVX" in found.capability else 16
    return Chip(vector, next((cache.size_bytes for cache in found.caches if cache.name == "L2"), 1 << 20))


def _sparse(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[nn.Module, Workload]:
    out_features, in_features, nnz, batch = shape
    pattern = random_pattern((out_features, in_features), nnz, 0)
    layer = SparseLinear(in_features, out_features, pattern, device="cpu", dtype=dtype)
    return layer, Workload.of(pattern, batch, dtype)


def _dense(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[nn.Module, Workload]:
    out_features, in_features, batch = shape
    layer = nn.Linear(in_features, out_features, device="cpu", dtype=dtype)
    return layer, Workload.of(random_pattern((out_features, in_features), 0, 0), batch, dtype)


def _times(layer: nn.Module, work: Workload, dtype: torch.dtype) -> dict[str, float]:
    x = torch.randn(work.batch, work.in_features, dtype=dtype, requires_grad=True)
    grad_output = torch.randn(work.batch, work.out_features, dtype=dtype)

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    def step() -> None:
        for tensor in (x, *layer.parameters()):
            tensor.grad = None
        layer(x).backward(grad_output)

    return {kind: _time(run) for kind, run in ((FORWARD, forward), (STEP, step))}


def _time(run: Callable[[], None]) -> float:
    run()
    repeats = min(_MOST_REPEATS, max(1, int(_SAMPLE_S / sample(run, 1))))
    return median(sample(run, repeats) for _ in range(_ROUNDS))
