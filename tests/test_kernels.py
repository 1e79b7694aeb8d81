"""Which kernel runs, that it can be forced and explained, and that nothing falls back in silence."""

from __future__ import annotations

import re
import warnings
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import CASES

from sparselinear import SparseLinear, functional, interop, kernels
from sparselinear.kernels import native
from sparselinear.kernels.amx import AmxKernel
from sparselinear.kernels.build import BuildError
from sparselinear.kernels.native import NativeKernel

ADJACENCY = CASES[1].adjacency
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NO_COMPILER = "no C++ compiler was found: install g++ or clang++, or set CXX"

# Each kernel with the methods that one forward and one backward call.
STEPS = {
    "torch": ["product", "product", "sample"],
    "embedding_bag": ["product", "product", "sample"],
    "gather": ["product", "product", "sample"],
    "native": ["spmm", "backward"],
    "amx": ["spmm", "backward"],
}
each_kernel = pytest.mark.parametrize("name", STEPS)


def _chosen(dtype: torch.dtype, batch: int) -> str:
    return kernels.choose(interop.to_pattern(ADJACENCY), dtype, batch).name


def _skip_unless_available(name: str, device: str = "cpu") -> None:
    problem = kernels.available(device)[name]
    if problem is not None:
        pytest.skip(problem)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has a compiler, for what chooses and runs nothing."""
    monkeypatch.setattr("sparselinear.kernels.native._problem", lambda sums, index_dtype: None)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NativeKernel, "unavailable", lambda *_: NO_COMPILER)


@pytest.mark.usefixtures("compiled")
def test_native_is_first_choice_on_a_cpu() -> None:
    for dtype in DTYPES:
        assert kernels.available("cpu", dtype)["native"] is None
        for batch in (0, 1, 15, 16, 32, 4096):
            assert _chosen(dtype, batch) == "native"
    layer = SparseLinear.from_scipy(ADJACENCY)
    assert kernels.explain(layer, 8).startswith("native: compiled for this CPU")


@pytest.mark.usefixtures("no_compiler")
def test_rule_without_a_compiler() -> None:
    assert _chosen(torch.float64, 256) == "torch"
    assert _chosen(torch.float32, 1) == "torch"
    fbgemm = kernels.available("cpu", torch.float32)["embedding_bag"] is None
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        least = 32 if dtype == torch.float32 else 16
        assert _chosen(dtype, least) == ("embedding_bag" if fbgemm else "torch")
        assert _chosen(dtype, least - 1) == "torch"


@pytest.mark.usefixtures("no_compiler")
def test_reason_tells_why_native_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = SparseLinear.from_scipy(ADJACENCY)
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["fbgemm"], raising=False)
    found = {
        "batch 1 is below 32": kernels.explain(layer, 1),
        "batch 256 is 32 or more": kernels.explain(layer, 256),
        "FBGEMM has no float64": kernels.explain(layer.double(), 256),
    }
    for words, reason in found.items():
        assert words in reason
        assert NO_COMPILER in reason


@pytest.mark.usefixtures("compiled")
def test_devices_without_a_sparse_product_gather() -> None:
    layer = SparseLinear.from_scipy(ADJACENCY, device="meta")
    assert kernels.explain(layer, 8).startswith("gather: torch.sparse has no CSR product on meta")


@each_kernel
def test_forced_kernel_runs_forward_and_backward(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _skip_unless_available(name, device)
    layer = SparseLinear.from_scipy(ADJACENCY, device=device)
    calls: list[str] = []
    with kernels.use(name):
        kernel = kernels.choose(layer.pattern, torch.float32, 4)
        assert kernel.name == name
        assert kernels.explain(layer, 4) == f"{name}: asked for by kernels.use"
        for step in dict.fromkeys(STEPS[name]):
            original = getattr(kernel, step)
            monkeypatch.setattr(
                kernel,
                step,
                lambda *args, step=step, original=original: (calls.append(step), original(*args))[1],
            )
        output = layer(torch.randn(4, 53, device=device, requires_grad=True))
    output.sum().backward()  # outside of the block: backward runs what forward ran
    assert calls == STEPS[name]
    assert "asked for" not in kernels.explain(layer, 4)


def test_use_nests_and_survives_errors() -> None:
    pattern = interop.to_pattern(ADJACENCY)
    with kernels.use("gather"):
        with pytest.raises(ZeroDivisionError), kernels.use("torch"):
            raise ZeroDivisionError
        assert kernels.choose(pattern, torch.float32, 4).name == "gather"


def test_kernel_that_cannot_run_raises() -> None:
    layer = SparseLinear.from_scipy(ADJACENCY, dtype=torch.float64)
    with kernels.use("embedding_bag"):
        with pytest.raises(RuntimeError, match=r"'embedding_bag'.*float64 on cpu"):
            layer(torch.randn(2, 53, dtype=torch.float64))
        with pytest.raises(RuntimeError, match="'embedding_bag'"):
            kernels.explain(layer, 2)


@pytest.mark.usefixtures("no_compiler")
def test_native_that_was_asked_for_and_is_missing_raises() -> None:
    layer = SparseLinear.from_scipy(ADJACENCY)
    expected = f"kernel 'native': expected a layer it can run, got torch.float32 on cpu. {NO_COMPILER}."
    with kernels.use("native"):
        with pytest.raises(RuntimeError, match=f"^{re.escape(expected)}$"):
            layer(torch.randn(2, 53))
        with pytest.raises(RuntimeError, match=f"^{re.escape(expected)}$"):
            kernels.explain(layer, 2)


@pytest.mark.usefixtures("no_compiler")
def test_without_fbgemm_torch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["qnnpack"], raising=False)
    layer = SparseLinear.from_scipy(ADJACENCY)
    assert "no FBGEMM" in str(kernels.available()["embedding_bag"])
    assert kernels.explain(layer, 256).startswith("torch: this build of torch has no FBGEMM")


@pytest.mark.usefixtures("compiled")
def test_available_tells_of_every_kernel() -> None:
    assert kernels.available().keys() == {"torch", "embedding_bag", "gather", "native", "amx", "triton"}
    assert kernels.available("cpu", torch.float64)["torch"] is None
    assert "float64" in str(kernels.available("cpu", torch.float64)["embedding_bag"])
    for name in ("embedding_bag", "native", "amx"):
        assert "CPU only" in str(kernels.available("meta")[name])


@pytest.mark.usefixtures("no_compiler")
def test_available_tells_why_native_is_not() -> None:
    assert kernels.available()["native"] == NO_COMPILER


def test_a_failed_build_is_told_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """And asked for once: a second compile would fail as the first did."""
    asked: list[tuple[torch.dtype, ...]] = []

    def load(*types: torch.dtype) -> None:
        asked.append(types)
        raise BuildError(NO_COMPILER)

    monkeypatch.setattr("sparselinear.kernels.build.load", load)
    monkeypatch.setattr("sparselinear.kernels.native._problem", cache(native._problem.__wrapped__))
    assert [kernels.available()["native"] for _ in range(2)] == [NO_COMPILER] * 2
    assert _chosen(torch.float32, 1) == "torch"
    assert asked == [(torch.float32, torch.int32)]


def test_64_bits_have_libraries_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are asked for by the first layer that has such values or indices; if they fail, no other does."""
    asked: list[tuple[torch.dtype, ...]] = []

    def load(*types: torch.dtype) -> None:
        asked.append(types)
        if types != (torch.float32, torch.int32):
            raise BuildError(NO_COMPILER)

    monkeypatch.setattr("sparselinear.kernels.build.load", load)
    monkeypatch.setattr("sparselinear.kernels.native._problem", cache(native._problem.__wrapped__))
    narrow, wide = (interop.to_pattern(ADJACENCY, index_dtype=dtype) for dtype in (torch.int32, torch.int64))
    assert AmxKernel().unavailable(torch.device("cpu"), torch.float64) == "the matrix unit has no float64"
    assert asked == []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert kernels.choose(narrow, dtype, 8).name == "native"
    assert asked == [(torch.float32, torch.int32)]
    assert kernels.choose(wide, torch.float32, 8).name == "torch"
    assert kernels.choose(narrow, torch.float64, 8).name == "torch"
    assert kernels.choose(narrow, torch.float32, 8).name == "native"
    assert asked[1:] == [(torch.float32, torch.int64), (torch.float64, torch.int32)]


def test_no_beta_warning_reaches_the_user(device: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = SparseLinear.from_scipy(ADJACENCY, device=device)
        layer(torch.randn(2, 53, device=device)).sum().backward()
        repr(layer.weight)


@each_kernel
def test_results_do_not_depend_on_threads(name: str) -> None:
    """On a layer large enough for torch to share its products out between threads."""
    _skip_unless_available(name)
    adjacency = sp.random_array((3000, 2500), density=0.01, rng=np.random.default_rng(0))
    pattern = interop.to_pattern(adjacency)
    values, bias = torch.randn(pattern.nnz, requires_grad=True), torch.randn(3000, requires_grad=True)
    x = torch.randn(100, 2500, requires_grad=True)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            with kernels.use(name):
                output = functional.sparse_linear(x, values, pattern, bias)
            results.append((output, *torch.autograd.grad(output.square().sum(), (x, values, bias))))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for first, again in zip(results[0], other, strict=True):
            assert torch.equal(first, again)
