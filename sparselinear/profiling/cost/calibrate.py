"""The rates of this machine: layers of many shapes are timed once, in about ten seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from ... import kernels
from ...kernels.amx import DENSE_FROM, AmxKernel
from ...linear import SparseLinear
from ...topology import random_pattern
from ..clock import CPU, settle
from ..machine import OtherWork, describe, disturbs, threads_set
from . import rates
from .rates import Rates
from .terms import DENSE, FORWARD, SPARSE, STEP, Chip, Terms, terms_of
from .workload import Workload

# (out_features, in_features, nnz, batch). Chosen so that each term is the largest somewhere: calls,
# activations and rows with hardly a connection, in rows of whole lines and of others, connections on small
# and large batches, panels beyond the cache, permuted values near and far, wide and tall, and dense ones.
SPARSE_LAYERS = (
    (64, 64, 64, 1),
    (64, 64, 256, 32),
    (300, 500, 1500, 32),
    (900, 110, 850, 32),
    (300, 1100, 2000, 256),
    (1024, 1024, 32_768, 32),
    (5500, 1300, 2600, 256),
    (1024, 1024, 1024, 256),
    (2048, 2048, 2048, 32),
    (8112, 8112, 8112, 256),
    (900, 7763, 16_000, 256),
    (2000, 5001, 50_000, 128),
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
    (1024, 1024, 630_000, 256),
    (512, 4096, 1_200_000, 256),
    (2048, 2048, 3_000_000, 64),
    (2048, 1024, 1_200_000, 600),
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
    (64, 12_000, 256),
    (12_000, 64, 32),
    (300, 300, 32),
    (1500, 1500, 1),
    (1500, 3000, 8),
)
_SAMPLE_S, _MOST_REPEATS = 0.004, 100
# Every layer has its turn this often, and the shortest time counts: other programs come in bursts that are
# longer than a turn and only ever add to it. In the later turns the allocator keeps more of what is freed, as
# it does in a training that has gone on for a while.
_TURNS = 3
# Features, and batch, of a layer with all connections that is as dense as any kernel asks for.
_FULL, _FULL_BATCH = 128, 4096
# Nothing that is called through Python takes less. No prediction is 0 then, whatever else came out as 0.
_LEAST_CALL_S = 1e-6

# Whatever torch's default device is. Not while something is timed: within it every function of torch takes
# longer, a step of a small layer 0.18 ms instead of 0.10.
_ON_CPU = torch.device("cpu")

# What a layer has to do, and the seconds it took.
Point = tuple[Terms, float]

# Called with the layers timed, the layers in all, the stage, and a detail of it.
Progress = Callable[[int, int, str, str], None]


def calibrated(
    dtype: torch.dtype,
    *,
    threads: int | None = None,
    again: bool = False,
    progress: Progress | None = None,
) -> Rates:
    """The rates of this machine: those that are kept, or measured now.

    They are kept unless other programs disturbed.

    Args:
        dtype: of values and activations.
        threads: threads that torch has meanwhile; None leaves the number as it is.
        again: measure even if there are some.
        progress: called as ``progress(done, total, stage, detail)``, if something is measured.
    """
    with threads_set(threads):
        path = rates.path_of(kernels_used(dtype), dtype)
        known = None if again else rates.load(path)
        if known is not None:
            return known
        others = OtherWork()
        found = measure(dtype, progress)
        if disturbs(others.cores(), os.cpu_count(), found.threads):
            return replace(found, disturbed=True)
        rates.save(found, path)
        return found


def kernels_used(dtype: torch.dtype) -> str:
    """Names of the kernels that run the layers measured, with commas between them.

    Where the native one has not been compiled yet, it is now.
    """
    with _ON_CPU:
        pattern, full = (random_pattern((size, size), size**2, 0) for size in (1, _FULL))
    names = {kernels.choose(pattern, dtype, batch).name for *_, batch in SPARSE_LAYERS}
    return ", ".join(sorted({*names, kernels.choose(full, dtype, _FULL_BATCH).name}))


def measure(dtype: torch.dtype, progress: Progress | None = None) -> Rates:
    """Time the layers, and fit the rates to the times."""
    kernel = kernels_used(dtype)
    chip = this_chip(DENSE_FROM[dtype] if AmxKernel.name in kernel.split(", ") else None)
    jobs = [(SPARSE, shape) for shape in SPARSE_LAYERS] + [(DENSE, shape) for shape in DENSE_LAYERS]
    points: dict[tuple[str, str], dict[tuple[int, ...], Point]] = {}
    for number, (system, shape) in enumerate(_TURNS * jobs):
        if progress:
            progress(number, _TURNS * len(jobs), "measuring this machine, once", system)
        with _ON_CPU:
            layer, work = _sparse(shape, dtype) if system == SPARSE else _dense(shape, dtype)
        for kind, taken in _times(layer, work, dtype).items():
            known = points.setdefault((system, kind), {})
            _, before = known.get(shape, (None, taken))
            known[shape] = terms_of(system, kind, work, chip), min(before, taken)
    fitted: dict[str, dict[str, dict[str, float]]] = {SPARSE: {}, DENSE: {}}
    for (system, kind), known in points.items():
        found = rates.fit(*zip(*known.values(), strict=True))
        fitted[system][kind] = found | {"call": max(found["call"], _LEAST_CALL_S)}
    return Rates(kernel, chip, torch.get_num_threads(), str(dtype).removeprefix("torch."), fitted)


def this_chip(dense_from: float | None) -> Chip:
    """Vectors and cache of this processor, or what csrc assumes where they are not known; and the density."""
    found = describe(torch.device("cpu"))
    vector = 64 if "512" in found.capability else 32 if "AVX" in found.capability else 16
    cache = next((cache.size_bytes for cache in found.caches if cache.name == "L2"), 1 << 20)
    return Chip(vector, cache, dense_from)


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
    x = torch.randn(work.batch, work.in_features, dtype=dtype, device="cpu", requires_grad=True)
    grad_output = torch.randn(work.batch, work.out_features, dtype=dtype, device="cpu")

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
    settle()
    repeats = min(_MOST_REPEATS, max(1, int(_SAMPLE_S / CPU.sample(run, 1))))
    return CPU.sample(run, repeats)
