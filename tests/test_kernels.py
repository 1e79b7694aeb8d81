"""Which kernel runs, that it can be forced and explained, and that nothing falls back in silence."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import CASES

from sparselinear import SparseLinear, functional, interop, kernels

ADJACENCY = CASES[1].adjacency


def _chosen(dtype: torch.dtype, batch: int) -> str:
    return kernels.choose(interop.to_pattern(ADJACENCY), dtype, batch).name


def test_rule_on_a_cpu() -> None:
    assert _chosen(torch.float64, 256) == "torch"
    assert _chosen(torch.float32, 1) == "torch"
    fbgemm = kernels.available("cpu", torch.float32)["embedding_bag"] is None
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        least = 32 if dtype == torch.float32 else 16
        assert _chosen(dtype, least) == ("embedding_bag" if fbgemm else "torch")
        assert _chosen(dtype, least - 1) == "torch"


def test_devices_without_a_sparse_product_gather() -> None:
    layer = SparseLinear.from_scipy(ADJACENCY, device="meta")
    assert kernels.explain(layer, 8).startswith("gather: torch.sparse has no CSR product on meta")


@pytest.mark.parametrize("name", ["torch", "embedding_bag", "gather"])
def test_forced_kernel_runs_forward_and_backward(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels.available()[name] is not None:
        pytest.skip(str(kernels.available()[name]))
    layer = SparseLinear.from_scipy(ADJACENCY)
    with kernels.use(name):
        kernel = kernels.choose(layer.pattern, torch.float32, 4)
        assert kernel.name == name
        assert kernels.explain(layer, 4) == f"{name}: asked for by kernels.use"
        calls: list[str] = []
        product, sample = kernel.product, kernel.sample
        monkeypatch.setattr(kernel, "product", lambda *args: (calls.append("product"), product(*args))[1])
        monkeypatch.setattr(kernel, "sample", lambda *args: (calls.append("sample"), sample(*args))[1])
        output = layer(torch.randn(4, 53, requires_grad=True))
    output.sum().backward()  # outside of the block: backward runs what forward ran
    assert calls == ["product", "product", "sample"]
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


def test_without_fbgemm_torch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["qnnpack"], raising=False)
    layer = SparseLinear.from_scipy(ADJACENCY)
    assert "no FBGEMM" in str(kernels.available()["embedding_bag"])
    assert kernels.explain(layer, 256).startswith("torch: this build of torch has no FBGEMM")


def test_explain_gives_the_reason() -> None:
    layer = SparseLinear.from_scipy(ADJACENCY)
    assert "batch 1 " in kernels.explain(layer, 1)
    assert "float64" in kernels.explain(layer.double(), 256)


def test_available_tells_of_every_kernel() -> None:
    assert kernels.available().keys() == {"torch", "embedding_bag", "gather"}
    assert kernels.available("cpu", torch.float64)["torch"] is None
    assert "float64" in str(kernels.available("cpu", torch.float64)["embedding_bag"])
    assert "CPU only" in str(kernels.available("meta")["embedding_bag"])


def test_no_beta_warning_reaches_the_user() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = SparseLinear.from_scipy(ADJACENCY)
        layer(torch.randn(2, 53)).sum().backward()
        repr(layer.weight)


@pytest.mark.parametrize("name", ["torch", "embedding_bag", "gather"])
def test_results_do_not_depend_on_threads(name: str) -> None:
    """On a layer large enough for torch to share its products out between threads."""
    if kernels.available()[name] is not None:
        pytest.skip(str(kernels.available()[name]))
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
