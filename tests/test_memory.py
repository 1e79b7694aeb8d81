"""Nothing of out x in elements and nothing of nnz x batch elements is ever allocated, on any path."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from devices import each_kernel
from native_cases import needs_native
from test_functional import LAYOUTS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparselinear import SparseLinear, kernels

SIZE, PER_ROW, BATCH = 3000, 20, 301
NNZ = SIZE * PER_ROW
# Activations are SIZE * BATCH; the products that must not exist are ten times as large, or more.
LIMIT = 2 * SIZE * BATCH
assert min(SIZE * SIZE, NNZ * BATCH) >= LIMIT * 4


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor, in elements, that any operator returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.operator = 0, ""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            # A view allocates nothing: what counts is storage, and the parts of a sparse tensor.
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided and not leaf.is_meta:
                elements = leaf.untyped_storage().nbytes() // leaf.element_size()
                if elements > self.elements:
                    self.elements, self.operator = elements, str(func)
        return result


def _largest_allocation(work: Callable[[], object]) -> tuple[int, str]:
    """Bytes of the largest block that one of torch's allocators gave out, inside of operators too."""
    # acc_events keeps torch 2.11 from a warning about cycles, of which there is one.
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        work()
    return max(
        (max(event.self_cpu_memory_usage, event.self_device_memory_usage), event.name)
        for event in profile.events()
    )


def _adjacency() -> sp.csr_array:
    rng = np.random.default_rng(0)
    columns = np.sort(np.argsort(rng.random((SIZE, SIZE), dtype=np.float32), axis=1)[:, :PER_ROW], axis=1)
    data = rng.standard_normal(NNZ).astype(np.float32)
    return sp.csr_array(
        (data, columns.ravel().astype(np.int32), np.arange(0, NNZ + 1, PER_ROW)), shape=(SIZE, SIZE)
    )


@pytest.fixture(scope="module")
def adjacency() -> sp.csr_array:
    return _adjacency()


def _step(layer: SparseLinear, layout: str, needs_input: bool, needs_values: bool) -> None:
    x = torch.randn(BATCH, SIZE, dtype=layer.values.dtype, device=layer.values.device)
    x = LAYOUTS[layout](x).detach()
    layer.values.requires_grad_(needs_values)
    layer(x.requires_grad_(needs_input)).sum().backward()


@each_kernel()
@pytest.mark.parametrize("layout", ["contiguous", "feature-major", "strided"])
def test_no_large_temporary_in_a_step(
    adjacency: sp.csr_array, device: str, kernel: str, dtype: torch.dtype, layout: str
) -> None:
    layer = SparseLinear.from_scipy(adjacency, device=device, dtype=dtype)
    with kernels.use(kernel):
        for needs_input, needs_values in ((True, True), (True, False), (False, True)):
            with _Largest() as seen:
                _step(layer, layout, needs_input, needs_values)
            assert 0 < seen.elements <= LIMIT, seen.operator
        size, operator = _largest_allocation(lambda: _step(layer, layout, True, True))
        assert 0 < size <= LIMIT * max(dtype.itemsize, 4), operator


PATHS: dict[str, Callable[[sp.csr_array], object]] = {
    "from CSR": SparseLinear.from_scipy,
    "from COO": lambda A: SparseLinear.from_scipy(A.tocoo()),
    "from CSC": lambda A: SparseLinear.from_scipy(A.tocsc(), keep_values=True),
    "from_graph": lambda A: SparseLinear.from_graph(A, inputs=np.arange(9, SIZE), keep_values=True),
    "from torch CSR": lambda A: SparseLinear(SIZE, SIZE, SparseLinear.from_scipy(A).weight),
    "from torch COO": lambda A: SparseLinear(SIZE, SIZE, SparseLinear.from_scipy(A).weight_coo),
    "weight": lambda A: SparseLinear.from_scipy(A).weight,
    "to_scipy": lambda A: SparseLinear.from_scipy(A).to_scipy(),
    "deepcopy": lambda A: copy.deepcopy(SparseLinear.from_scipy(A)),
    "to dtype": lambda A: SparseLinear.from_scipy(A).double(),
    "transpose": lambda A: SparseLinear.from_scipy(A).pattern.row_indices,
    "repr": lambda A: repr(SparseLinear.from_scipy(A)),
}


@pytest.mark.parametrize("path", PATHS)
def test_no_large_temporary_elsewhere(adjacency: sp.csr_array, path: str) -> None:
    with _Largest() as seen:
        PATHS[path](adjacency)
    assert 0 < seen.elements <= 4 * NNZ, seen.operator
    size, operator = _largest_allocation(lambda: PATHS[path](adjacency))
    assert size <= 4 * NNZ * 8, operator


def test_no_large_temporary_in_state_dict_and_optimizers(adjacency: sp.csr_array, device: str) -> None:
    layer = SparseLinear.from_scipy(adjacency, device=device)
    optimizer = torch.optim.AdamW(layer.parameters())
    with _Largest() as seen:
        _step(layer, "contiguous", True, True)
        optimizer.step()
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        layer.load_state_dict(state)
        SparseLinear.from_state_dict(state)
    assert 0 < seen.elements <= LIMIT, seen.operator


def test_the_watch_sees_dense_intermediates(adjacency: sp.csr_array, device: str) -> None:
    """The watch itself can fail: a dense product and an (nnz, batch) temporary do trip it."""
    layer = SparseLinear.from_scipy(adjacency, device=device)
    with _Largest() as seen:
        layer.to_dense()
    assert seen.elements > LIMIT
    with _Largest() as seen:
        torch.randn(SIZE, BATCH, device=device)[layer.pattern.col_indices]
    assert seen.elements > LIMIT
    assert _largest_allocation(layer.to_dense)[0] > LIMIT * 4


def _in_own_process(program: str) -> dict[str, float]:
    """Run a program that prints 'name number' lines; a process of its own, so that its peak is its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name: float(number) for name, number in (line.split() for line in done.stdout.splitlines())}


_PEAK = """
import resource, sys
def resident(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))
def peak():
    if sys.platform == "linux":  # ru_maxrss begins with what the parent process held
        return resident("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
"""

_MILLION = (
    _PEAK
    + """
import numpy as np, scipy.sparse as sp, torch
from sparselinear import SparseLinear
size, per_row, batch = 1_000_000, 50, 8
def random_layer():
    rng = np.random.default_rng(0)
    # 50 columns drawn at random in each row, one in each of 50 equal ranges, so that none repeats.
    columns = rng.integers(0, size // per_row, (size, per_row), dtype=np.int32)
    columns += np.arange(0, size, size // per_row, dtype=np.int32)
    offsets = np.arange(0, size * per_row + 1, per_row, dtype=np.int32)
    data = np.ones(size * per_row, dtype=np.float32)
    return SparseLinear.from_scipy(sp.csr_array((data, columns.reshape(-1), offsets), shape=(size, size)))
class OneWeightEach(torch.nn.Module):
    # A layer of the same activations without connections: what a step holds besides the layer.
    def __init__(self):
        super().__init__()
        self.values = torch.nn.Parameter(torch.randn(size))
    def forward(self, input):
        return input * self.values
before = peak()
layer = {layer}
optimizer = torch.optim.Adam(layer.parameters())
start = layer.values.detach()[:1000].clone()
x, target = torch.randn(batch, size, requires_grad=True), torch.randn(batch, size)
for _ in range(10):
    optimizer.zero_grad()
    x.grad = None
    torch.nn.functional.mse_loss(layer(x), target).backward()
    optimizer.step()
print("connections", layer.values.numel())
print("moved", float((layer.values.detach()[:1000] - start).abs().mean()))
print("peak", peak())
print("activations", peak() - before)
"""
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is POSIX")
def test_a_million_by_a_million() -> None:
    """50 million connections, ten Adam steps: interpreter and torch included, 2.4 GiB beside activations.

    Dense it would be 4 TB. What activations take, allocator included, is measured on a layer that has
    the same ones and one weight for each feature.
    """
    control = _in_own_process(_MILLION.replace("{layer}", "OneWeightEach()"))
    seen = _in_own_process(_MILLION.replace("{layer}", "random_layer()"))
    assert seen["connections"] == 50_000_000
    assert seen["moved"] > 1e-3
    assert seen["peak"] - control["activations"] < 2.4 * 2**30


_SCRATCH = """
import resource, torch
from sparselinear import SparseLinear
from sparselinear.topology import random_pattern
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def product(in_features, batch):
    layer = SparseLinear(in_features, 16, random_pattern((16, in_features), 1000, 0), bias=False)
    x = torch.zeros(batch, in_features)
    return lambda: layer(x)
def count(small, before=lambda: None):
    found = 0
    for turn in range(13):
        before()
        begun = faults()
        small()
        found += faults() - begun if turn > 2 else 0  # the first ones allocate
    return found
with torch.no_grad():
    product(524_288, 32)()  # 64 MiB, which is all that is kept
    print("after", count(product(100_000, 8)))
    print("narrower", count(product(50_000, 16)))
    print("between", count(product(20_000, 64), product(600_000, 32)))
"""


@needs_native
@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is POSIX")
def test_a_layer_keeps_its_scratch_after_larger_ones() -> None:
    """Ten calls have less than a page fault each; memory that is fresh has 2 or more, in huge pages."""
    seen = _in_own_process(_SCRATCH)
    assert len(seen) == 3
    assert max(seen.values()) < 10, seen


_BUILD = (
    _PEAK
    + """
import numpy as np, scipy.sparse as sp, torch
from sparselinear import SparseLinear
rng = np.random.default_rng(0)
size, per_row = 600_000, 40
small = sp.random_array((3000, 3000), density=0.1, format="{kind}", dtype=np.{dtype}, rng=rng)
SparseLinear.from_scipy(small, keep_values={keep_values})  # what is loaded once is loaded
del small
columns = rng.integers(0, size // per_row, (size, per_row), dtype=np.int32)
columns += np.arange(0, size, size // per_row, dtype=np.int32)
columns = columns.reshape(-1)
offsets = np.arange(0, size * per_row + 1, per_row, dtype=np.int32)
data = np.ones(size * per_row, dtype=np.{dtype})
matrix = sp.csr_array((data, columns, offsets), shape=(size, size))
{convert}
del columns, offsets, data
parts = [matrix.data] + (
    [matrix.row, matrix.col] if matrix.format == "coo" else [matrix.indices, matrix.indptr])
own = sum(part.nbytes for part in parts)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # begin the peak anew
before = resident("VmRSS")
layer = SparseLinear.from_scipy(matrix, keep_values={keep_values})
print("ratio", 1 + (resident("VmHWM") - before) / own)
print("nnz", layer.nnz)
"""
)

# Name: the scipy format, and how to come to it from the sorted CSR matrix.
FORMS = {
    "CSR": ("csr", ""),
    "unsorted CSR": (
        "csr",
        "matrix.indices[:] = matrix.indices.reshape(size, per_row)[:, ::-1].ravel()\n"
        "matrix = sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)",
    ),
    "CSC": ("csc", "matrix = matrix.tocsc()"),
    "COO": ("coo", "matrix = matrix.tocoo()"),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resets the peak through /proc")
@pytest.mark.parametrize(
    ("dtype", "keep_values"),
    [("float32", False), ("float32", True), ("float64", True)],
    ids=["float32 pattern", "float32 values", "float64 values"],
)
@pytest.mark.parametrize("form", FORMS)
def test_building_holds_no_more_than_2_5_matrices(form: str, dtype: str, keep_values: bool) -> None:
    """The scipy matrix itself and the finished layer included."""
    kind, convert = FORMS[form]
    program = _BUILD.format(dtype=dtype, kind=kind, convert=convert, keep_values=keep_values)
    seen = _in_own_process(program)
    assert seen["nnz"] == 24_000_000
    assert seen["ratio"] < 2.5
