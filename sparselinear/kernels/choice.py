"""The one place where it is decided which kernel computes a layer, and where that can be asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from math import inf

import torch

from ..checks import device as checked_device
from ..checks import floating_dtype, message
from ..pattern import SparsityPattern
from .amx import DENSE_FROM, AmxKernel, least_density
from .base import Kernel
from .embedding_bag import EmbeddingBagKernel
from .gather import GatherKernel
from .native import NativeKernel
from .torch_sparse import TorchKernel
from .triton import TritonKernel

_TORCH, _EMBEDDING_BAG, _GATHER = TorchKernel(), EmbeddingBagKernel(), GatherKernel()
_NATIVE, _AMX, _TRITON = NativeKernel(), AmxKernel(), TritonKernel()
_FAMILY: dict[str, Kernel] = {k.name: k for k in (_TORCH, _EMBEDDING_BAG, _GATHER, _NATIVE, _AMX, _TRITON)}
_forced: ContextVar[Kernel | None] = ContextVar("sparselinear_kernel", default=None)

# Where there is no native kernel: from this batch on FBGEMM's product is the faster one. MKL's time over
# FBGEMM's, on 2 cores with AVX-512:
#   float32    4096 x 4096, 1 %   batch 8: 0.72   16: 0.92   24: 0.99   32: 1.12   64: 1.23
#              4096 x 4096, 10 %         8: 0.53   16: 0.58   24: 0.93   32: 1.17   64: 1.41
#              200,000, 20 a row         8: 0.78   16: 1.08   24: 0.99   32: 1.07   64: 1.14
#   bfloat16   4096 x 4096, 1 %          8: 0.94   16: 1.01   24: 1.06   32: 1.23   64: 1.28
#              200,000, 20 a row         8: 1.05   16: 1.49   24: 1.09   32: 1.38   64: 1.16
_EMBEDDING_BAG_BATCH = {torch.float32: 32, torch.bfloat16: 16, torch.float16: 16}


def choose(pattern: SparsityPattern, dtype: torch.dtype, batch: int) -> Kernel:
    """The kernel that computes a layer of this pattern and dtype on a batch of this size.

    Raises:
        RuntimeError: a kernel was asked for by :func:`use` that cannot run here.
    """
    return _decide(pattern, dtype, batch)[0]


def explain(layer: object, batch: int) -> str:
    """Which kernel a layer would run on a batch of this size, and why.

    Args:
        layer: a SparseLinear, or anything with ``pattern`` and ``values``.
        batch: number of rows of the input, all leading dimensions multiplied.

    Raises:
        TypeError: the layer has no pattern.
        RuntimeError: a kernel was asked for by :func:`use` that cannot run here.
    """
    pattern, values = getattr(layer, "pattern", None), getattr(layer, "values", None)
    if not isinstance(pattern, SparsityPattern) or not isinstance(values, torch.Tensor):
        raise TypeError(message("layer", "a SparseLinear", type(layer).__name__))
    kernel, reason = _decide(pattern, values.dtype, batch)
    return f"{kernel.name}: {reason}"


def available(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, str | None]:
    """Every kernel of the family with the reason why it cannot run there; None where it can."""
    where, what = checked_device("device", device), floating_dtype("dtype", dtype)
    return {name: kernel.unavailable(where, what) for name, kernel in _FAMILY.items()}


@contextmanager
def use(name: str) -> Iterator[None]:
    """Within the block, every sparse layer runs the named kernel, or raises if that cannot run.

    Backward runs the kernel that ran forward, wherever it is called.

    Args:
        name: ``"native"``, ``"amx"``, ``"triton"``, ``"torch"``, ``"embedding_bag"`` or ``"gather"``.

    Raises:
        ValueError: there is no kernel of that name.
    """
    if name not in _FAMILY:
        close = get_close_matches(str(name), _FAMILY, 1)
        advice = f"Did you mean '{close[0]}'?" if close else ""
        raise ValueError(message("name", f"one of {', '.join(_FAMILY)}", repr(name), advice))
    token = _forced.set(_FAMILY[name])
    try:
        yield
    finally:
        _forced.reset(token)


def _decide(pattern: SparsityPattern, dtype: torch.dtype, batch: int) -> tuple[Kernel, str]:
    device, index_dtype = pattern.device, pattern.index_dtype
    forced = _forced.get()
    if forced is not None:
        problem = forced.unavailable(device, dtype, index_dtype)
        if problem:
            got = f"{dtype} on {device}"
            raise RuntimeError(message(f"kernel '{forced.name}'", "a layer it can run", got, f"{problem}."))
        return forced, "asked for by kernels.use"
    missing = _NATIVE.unavailable(device, dtype, index_dtype)
    if missing is None:
        return _by_connections_or_tiles(pattern, dtype, batch)
    problem = _TORCH.unavailable(device, dtype, index_dtype)
    if problem:
        return _GATHER, problem
    if device.type == "cuda":
        return _TORCH, "cuSPARSE"
    problem = _EMBEDDING_BAG.unavailable(device, dtype, index_dtype)
    if problem:
        return _TORCH, f"{problem} ({missing})"
    least = _EMBEDDING_BAG_BATCH[dtype]
    if batch < least:
        return _TORCH, f"batch {batch} is below {least}, where MKL is as fast as FBGEMM or faster ({missing})"
    return _EMBEDDING_BAG, f"batch {batch} is {least} or more, where FBGEMM is faster than MKL ({missing})"


def _by_connections_or_tiles(pattern: SparsityPattern, dtype: torch.dtype, batch: int) -> tuple[Kernel, str]:
    """The native kernel, or amx where W is so dense that its matrix unit makes up for multiplying zeros."""
    density, dense_from = pattern.density, DENSE_FROM.get(dtype, inf)
    by_connections = _NATIVE, "compiled for this CPU, first choice there"
    if density < dense_from:  # whatever the size: most layers, in less time
        return by_connections
    least = least_density(dense_from, pattern.out_features, pattern.in_features, batch)
    if density < least or _AMX.unavailable(pattern.device, dtype, pattern.index_dtype):
        return by_connections
    where = f"density {density:.0%}, batch {batch}"
    return _AMX, f"{where}: from {least:.0%} on the matrix unit is faster than going by connections"
