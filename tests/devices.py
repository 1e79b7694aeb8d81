"""The devices that tests run on, and the kernels that run there: the one place that asks for a GPU.

A test takes the fixture ``device`` of conftest.py, or one of the marks here. It makes its tensors on that
device, or on the CPU and moves them there; what it compares with the oracle comes back to the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from sparselinear import kernels

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DEVICES = [
    pytest.param("cpu"),
    *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else []),
]

# For a test that is about the GPU itself: it shows as skipped where there is none.
on_cuda = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def needs_cuda(test: Callable[..., None]) -> Callable[..., None]:
    """The marks of ``on_cuda``, as a decorator."""
    for mark in on_cuda:
        test = mark(test)
    return test


# On a GPU the order of a sum is nobody's promise: index_add_ has one only under
# torch.use_deterministic_algorithms, and cuSPARSE for CUSPARSE_SPMM_CSR_ALG3 alone, which torch does not ask
# for. So a second run of the same may differ by a rounding there, and by nothing on the CPU.
NONDET_TOL = {"cpu": 0.0, "cuda": 1e-12}  # of gradcheck, in float64


def run_again(device: str) -> dict[str, float]:
    """Tolerances of assert_close for a second run: none on the CPU, on a GPU the usual ones of the dtype."""
    return {"rtol": 0, "atol": 0} if device == "cpu" else {}


def each_kernel(*dtypes: torch.dtype) -> pytest.MarkDecorator:
    """A row (device, kernel, dtype) for all that can run; of every dtype where none is named."""
    return pytest.mark.parametrize(("device", "kernel", "dtype"), _rows(dtypes or DTYPES))


def each_kernel_of(dtype: torch.dtype) -> pytest.MarkDecorator:
    """A row (device, kernel) for all that can run with values of one dtype."""
    rows = [pytest.param(*row.values[:2], marks=row.marks) for row in _rows([dtype])]
    return pytest.mark.parametrize(("device", "kernel"), rows)


def _rows(dtypes: Iterable[torch.dtype]) -> list[Any]:
    return [
        pytest.param(device, name, dtype, id=f"{device}-{name}-{str(dtype)[6:]}", marks=one.marks)
        for one in DEVICES
        for device in one.values
        for dtype in dtypes
        for name, problem in kernels.available(str(device), dtype).items()
        if problem is None
    ]
