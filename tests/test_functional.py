"""sparse_linear: gradcheck, and forward and gradients of every kernel against the float64 oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import CASES, Case, each_case
from devices import NONDET_TOL, each_kernel, each_kernel_of, run_again
from reference import assert_close, oracle
from torch import Tensor

from sparselinear import SparsityPattern, functional, interop, kernels


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
@each_kernel_of(torch.float64)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_gradcheck(case: Case, layout: str, with_bias: bool, device: str, kernel: str, batch: int) -> None:
    pattern = interop.to_pattern(case.adjacency, device=device)
    generator = torch.Generator().manual_seed(0)
    x, values, bias = (
        torch.randn(shape, dtype=torch.float64, generator=generator).to(device).requires_grad_()
        for shape in ((batch, pattern.in_features), (pattern.nnz,), (pattern.out_features,))
    )
    x = LAYOUTS[layout](x).detach().requires_grad_()
    if layout == "expanded":  # gradcheck writes into its inputs, so they cannot overlap
        x = x.detach().clone().requires_grad_()

    def layer(x: Tensor, values: Tensor, *bias: Tensor) -> Tensor:
        return functional.sparse_linear(x, values, pattern, *bias)

    with kernels.use(kernel):
        inputs = (x, values, bias) if with_bias else (x, values)
        # Entry by entry a GPU is asked for hundreds of tiny products; the oracle below sees every entry.
        assert torch.autograd.gradcheck(
            layer, inputs, fast_mode=device != "cpu", nondet_tol=NONDET_TOL[device]
        )


@pytest.mark.parametrize("shape", [(0, 9), (1, 9), (9,), (2, 0, 9), (2, 3, 4, 9)], ids=str)
def test_gradcheck_of_batches(shape: tuple[int, ...], device: str) -> None:
    pattern = interop.to_pattern(CASES[0].adjacency, device=device)
    x, values, bias = (
        torch.randn(size, dtype=torch.float64, device=device, requires_grad=True)
        for size in (shape, pattern.nnz, pattern.out_features)
    )
    output = functional.sparse_linear(x, values, pattern, bias)
    assert output.shape == (*shape[:-1], pattern.out_features)
    assert torch.autograd.gradcheck(
        lambda x, values, bias: functional.sparse_linear(x, values, pattern, bias),
        (x, values, bias),
        nondet_tol=NONDET_TOL[device],
    )


@pytest.mark.shows(
    "Derivatives and transforms", "output and gradients in float32, float64, bfloat16 and float16"
)
@each_case
@each_kernel()
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [0, 1, 5, 16, 131])
def test_against_oracle(
    case: Case, device: str, kernel: str, dtype: torch.dtype, layout: str, batch: int
) -> None:
    pattern = interop.to_pattern(case.adjacency, device=device)
    _check_against_oracle(pattern, kernel, dtype, layout, batch)


@each_kernel()
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


@each_kernel()
@pytest.mark.parametrize("batch", [1, 5, 40])
def test_values_and_bias_in_any_layout(device: str, kernel: str, dtype: torch.dtype, batch: int) -> None:
    """Values and a bias that are views give what a contiguous copy gives, to the last bit: gradients too."""
    pattern = interop.to_pattern(CASES[1].adjacency, device=device)
    x, values, bias = (
        torch.randn(shape).to(device, dtype)
        for shape in ((batch, pattern.in_features), pattern.nnz, pattern.out_features)
    )

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
        torch.testing.assert_close(found, expected, **run_again(device))


@each_kernel()
@pytest.mark.parametrize("batch", [1, 16, 40])
def test_memory_layout_follows_input(device: str, kernel: str, dtype: torch.dtype, batch: int) -> None:
    pattern = interop.to_pattern(CASES[1].adjacency, device=device)
    values = torch.randn(pattern.nnz).to(device, dtype).requires_grad_()
    contiguous = torch.randn(batch, pattern.in_features).to(device, dtype).requires_grad_()
    feature_major = torch.randn(pattern.in_features, batch).to(device, dtype).t().requires_grad_()
    with kernels.use(kernel):
        output = functional.sparse_linear(contiguous, values, pattern)
        (grad,) = torch.autograd.grad(output, contiguous, torch.ones_like(output))
        assert output.is_contiguous()
        assert grad.is_contiguous()
        output = functional.sparse_linear(feature_major, values, pattern)
        (grad,) = torch.autograd.grad(output, feature_major, torch.ones_like(output))
        assert output.t().is_contiguous()
        assert grad.t().is_contiguous()


def test_backward_computes_only_what_is_asked(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = interop.to_pattern(CASES[0].adjacency, device=device)
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
        x = torch.randn(4, pattern.in_features, device=device, requires_grad=needs_input)
        values = torch.randn(pattern.nnz, device=device, requires_grad=needs_values)
        bias = torch.zeros(pattern.out_features, device=device, requires_grad=True)
        functional.sparse_linear(x, values, pattern, bias).sum().backward()
        return list(called)

    assert run(True, True) == ["backward"]
    assert run(True, False) == ["spmm_transposed"]
    assert run(False, True) == ["sddmm"]
    assert run(False, False) == []


def test_what_is_not_needed_is_not_kept(device: str) -> None:
    """An input whose layer learns nothing must not be held until backward."""
    pattern = interop.to_pattern(CASES[0].adjacency, device=device)
    values = torch.randn(pattern.nnz, device=device)
    x = torch.randn(4, pattern.in_features, device=device, requires_grad=True)
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
