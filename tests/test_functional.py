"""sparse_linear: gradcheck, and forward and gradients of every kernel against the float64 oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import CASES, Case, each_case
from reference import assert_close, oracle
from torch import Tensor

from sparselinear import SparsityPattern, functional, interop, kernels

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _runnable(device: str) -> list[tuple[str, torch.dtype]]:
    return [
        (name, dtype)
        for dtype in DTYPES
        for name, problem in kernels.available(device, dtype).items()
        if problem is None
    ]


RUNNABLE = _runnable("cpu")
each_kernel = pytest.mark.parametrize(
    ("kernel", "dtype"), RUNNABLE, ids=[f"{name}-{str(dtype)[6:]}" for name, dtype in RUNNABLE]
)
each_kernel_and_device = pytest.mark.parametrize(
    ("device", "kernel", "dtype"),
    [
        pytest.param(
            device,
            name,
            dtype,
            id=f"{device}-{name}-{str(dtype)[6:]}",
            marks=[pytest.mark.cuda] if device == "cuda" else [],
        )
        for device in DEVICES
        for name, dtype in _runnable(device)
    ],
)


def _every_second(x: Tensor) -> Tensor:
    wide = x.new_zeros(x.shape[0], 2 * x.shape[1])
    wide[:, ::2] = x.detach()
    return wide[:, ::2]


# How an input may lie in memory; each takes a contiguous (batch, features) and keeps its numbers.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "feature-major": lambda x: x.t().contiguous().t(),
    "strided": _every_second,
    "expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.shows("Derivatives and transforms", "`gradcheck`, any pattern and memory layout")
@each_case
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kernel", [name for name, dtype in RUNNABLE if dtype == torch.float64])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_gradcheck(case: Case, layout: str, with_bias: bool, kernel: str, batch: int) -> None:
    pattern = interop.to_pattern(case.adjacency)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, pattern.in_features, dtype=torch.float64, generator=generator)
    x = LAYOUTS[layout](x).detach().requires_grad_()
    values = torch.randn(pattern.nnz, dtype=torch.float64, generator=generator, requires_grad=True)
    bias = torch.randn(pattern.out_features, dtype=torch.float64, generator=generator, requires_grad=True)
    if layout == "expanded":  # gradcheck writes into its inputs, so they cannot overlap
        x = x.detach().clone().requires_grad_()

    def layer(x: Tensor, values: Tensor, *bias: Tensor) -> Tensor:
        return functional.sparse_linear(x, values, pattern, *bias)

    with kernels.use(kernel):
        inputs = (x, values, bias) if with_bias else (x, values)
        assert torch.autograd.gradcheck(layer, inputs)


@pytest.mark.parametrize("shape", [(0, 9), (1, 9), (9,), (2, 0, 9), (2, 3, 4, 9)], ids=str)
def test_gradcheck_of_batches(shape: tuple[int, ...]) -> None:
    pattern = interop.to_pattern(CASES[0].adjacency)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    values = torch.randn(pattern.nnz, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(pattern.out_features, dtype=torch.float64, requires_grad=True)
    output = functional.sparse_linear(x, values, pattern, bias)
    assert output.shape == (*shape[:-1], pattern.out_features)
    assert torch.autograd.gradcheck(
        lambda x, values, bias: functional.sparse_linear(x, values, pattern, bias), (x, values, bias)
    )


@pytest.mark.shows(
    "Derivatives and transforms", "output and gradients in float32, float64, bfloat16 and float16"
)
@each_case
@each_kernel_and_device
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [0, 1, 5, 16, 131])
def test_against_oracle(
    case: Case, device: str, kernel: str, dtype: torch.dtype, layout: str, batch: int
) -> None:
    pattern = interop.to_pattern(case.adjacency, device=device)
    _check_against_oracle(pattern, kernel, dtype, layout, batch)


@each_kernel_and_device
def test_int64_pattern(device: str, kernel: str, dtype: torch.dtype) -> None:
    pattern = interop.to_pattern(CASES[1].adjacency, index_dtype=torch.int64, device=device)
    _check_against_oracle(pattern, kernel, dtype, "contiguous", 33)


def _check_against_oracle(
    pattern: SparsityPattern, kernel: str, dtype: torch.dtype, layout: str, batch: int
) -> None:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(pattern.device, dtype)

    x = LAYOUTS[layout](normal(batch, pattern.in_features)).detach().requires_grad_()
    values, bias = normal(pattern.nnz).requires_grad_(), normal(pattern.out_features).requires_grad_()
    grad_output = LAYOUTS[layout](normal(batch, pattern.out_features))
    with kernels.use(kernel):
        output = functional.sparse_linear(x, values, pattern, bias)
    output.backward(grad_output)

    expected, magnitude = oracle(pattern, x, values, bias, grad_output)
    assert x.grad is not None
    assert values.grad is not None
    assert bias.grad is not None
    assert expected.grad_bias is not None
    assert magnitude.grad_bias is not None
    assert_close(output, expected.output, magnitude.output, dtype)
    assert_close(x.grad, expected.grad_input, magnitude.grad_input, dtype)
    assert_close(values.grad, expected.grad_values, magnitude.grad_values, dtype)
    assert_close(bias.grad, expected.grad_bias, magnitude.grad_bias, dtype)


@each_kernel
@pytest.mark.parametrize("batch", [1, 5, 40])
def test_values_and_bias_in_any_layout(kernel: str, dtype: torch.dtype, batch: int) -> None:
    """Values and a bias that are views give what a contiguous copy gives, to the last bit: gradients too."""
    pattern = interop.to_pattern(CASES[1].adjacency)
    x = torch.randn(batch, pattern.in_features).to(dtype)
    values, bias = torch.randn(pattern.nnz).to(dtype), torch.randn(pattern.out_features).to(dtype)

    def views(whole: Tensor) -> list[Tensor]:
        return [whole.repeat_interleave(2)[::2], whole[:1].expand_as(whole)]

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        x, values, bias = (t.detach().requires_grad_() for t in tensors)
        output = functional.sparse_linear(x, values, pattern, bias)
        return output, *torch.autograd.grad(output.square().sum(), (x, values, bias))

    arguments = [(view, bias) for view in views(values)] + [(values, view) for view in views(bias)]
    for some in arguments:
        copies = [part.clone(memory_format=torch.contiguous_format) for part in some]
        with kernels.use(kernel):
            found, expected = step(x, *some), step(x, *copies)
        assert all(map(torch.equal, found, expected))


@each_kernel
@pytest.mark.parametrize("batch", [1, 16, 40])
def test_memory_layout_follows_input(kernel: str, dtype: torch.dtype, batch: int) -> None:
    pattern = interop.to_pattern(CASES[1].adjacency)
    values = torch.randn(pattern.nnz).to(dtype).requires_grad_()
    contiguous = torch.randn(batch, pattern.in_features).to(dtype).requires_grad_()
    feature_major = torch.randn(pattern.in_features, batch).to(dtype).t().requires_grad_()
    with kernels.use(kernel):
        output = functional.sparse_linear(contiguous, values, pattern)
        (grad,) = torch.autograd.grad(output, contiguous, torch.ones_like(output))
        assert output.is_contiguous()
        assert grad.is_contiguous()
        output = functional.sparse_linear(feature_major, values, pattern)
        (grad,) = torch.autograd.grad(output, feature_major, torch.ones_like(output))
        assert output.t().is_contiguous()
        assert grad.t().is_contiguous()


def test_backward_computes_only_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = interop.to_pattern(CASES[0].adjacency)
    called: list[str] = []
    kernel = kernels.choose(pattern, torch.float32, 4)
    for name in ("spmm_transposed", "sddmm", "backward"):
        original = getattr(kernel, name)
        monkeypatch.setattr(
            kernel,
            name,
            lambda *args, name=name, original=original: (called.append(name), original(*args))[1],
        )

    def run(needs_input: bool, needs_values: bool) -> list[str]:
        called.clear()
        x = torch.randn(4, pattern.in_features, requires_grad=needs_input)
        values = torch.randn(pattern.nnz, requires_grad=needs_values)
        bias = torch.zeros(pattern.out_features, requires_grad=True)
        functional.sparse_linear(x, values, pattern, bias).sum().backward()
        return list(called)

    assert run(True, True) == ["backward"]
    assert run(True, False) == ["spmm_transposed"]
    assert run(False, True) == ["sddmm"]
    assert run(False, False) == []


def test_what_is_not_needed_is_not_kept() -> None:
    """An input whose layer learns nothing must not be held until backward."""
    pattern = interop.to_pattern(CASES[0].adjacency)
    values = torch.randn(pattern.nnz)
    x = torch.randn(4, pattern.in_features, requires_grad=True)
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        functional.sparse_linear(x, values, pattern)
        assert [t.data_ptr() for t in saved] == [values.data_ptr()]
        saved.clear()
        functional.sparse_linear(x.detach(), values.clone().requires_grad_(), pattern)
        assert [t.data_ptr() for t in saved] == [x.data_ptr()]
