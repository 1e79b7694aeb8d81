"""The products and their derivatives: at second order, in forward mode, under vmap, against masked dense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import Case, each_case
from devices import NONDET_TOL, each_kernel_of, run_again
from test_functional import LAYOUTS
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._pytree import tree_leaves

from sparselinear import SparseLinear, SparsityPattern, functional, interop, kernels

# Forward mode loads torch's own decompositions, which it still compiles with torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

Layer = Callable[[Tensor, Tensor, Tensor], Tensor]


def tensors(pattern: SparsityPattern, *leading: int, layout: str = "contiguous") -> tuple[Tensor, ...]:
    """Input (*leading, in_features), values and bias, as many of each as ``leading[:-1]`` says."""
    generator = torch.Generator().manual_seed(0)
    shapes = (
        (*leading, pattern.in_features),
        (*leading[:-1], pattern.nnz),
        (*leading[:-1], pattern.out_features),
    )
    x, values, bias = (
        torch.randn(shape, dtype=torch.float64, generator=generator).to(pattern.device) for shape in shapes
    )
    return LAYOUTS[layout](x) if len(leading) == 1 else x, values, bias


def sparse(pattern: SparsityPattern) -> Layer:
    return lambda x, values, bias: functional.sparse_linear(x, values, pattern, bias)


def dense(pattern: SparsityPattern) -> Layer:
    """The oracle: the values scattered into a dense weight, differentiably."""
    places = pattern.rows(0, pattern.nnz), pattern.col_indices.long()

    def layer(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        weight = torch.zeros(pattern.shape, dtype=values.dtype, device=values.device).index_put(
            places, values
        )
        return torch.nn.functional.linear(x, weight, bias)

    return layer


@pytest.mark.shows(
    "Derivatives and transforms", "`gradcheck` in forward mode, and `gradgradcheck`: double backward"
)
@each_case
@pytest.mark.parametrize("layout", ["contiguous", "feature-major"])
@each_kernel_of(torch.float64)
def test_second_order_and_forward_mode(case: Case, layout: str, device: str, kernel: str) -> None:
    pattern = interop.to_pattern(case.adjacency, device=device)
    arguments = [t.detach().requires_grad_() for t in tensors(pattern, 3, layout=layout)]
    options: dict[str, Any] = {"fast_mode": True, "nondet_tol": NONDET_TOL[device]}
    with kernels.use(kernel):
        assert gradcheck(sparse(pattern), arguments, check_forward_ad=True, **options)
        if pattern.nnz and 0 not in pattern.shape:
            assert gradgradcheck(sparse(pattern), arguments, **options)


def _loss(layer: Layer) -> Layer:
    return lambda x, values, bias: layer(x, values, bias).sin().sum()


# What is done to a layer, with an input (batch, in_features) or several, values and bias, or several.
TRANSFORMS: dict[str, Callable[..., Any]] = {
    "inputs": lambda f, one, many: vmap(f, (0, None, None))(many[0], *one[1:]),
    "samples": lambda f, one, many: vmap(f, (0, None, None))(*one),
    "values": lambda f, one, many: vmap(f, (None, 0, None))(one[0], many[1], one[2]),
    "biases": lambda f, one, many: vmap(f, (None, None, 0))(*one[:2], many[2]),
    "all": lambda f, one, many: vmap(f)(*many),
    "along other dimensions": lambda f, one, many: vmap(f, (2, 1, 1), 1)(*(t.movedim(0, -1) for t in many)),
    "nested": lambda f, one, many: vmap(vmap(f, (0, None, None)), (0, 0, 0))(*many),
    "grad": lambda f, one, many: grad(_loss(f), (0, 1, 2))(*one),
    "per-sample gradients": lambda f, one, many: vmap(grad(_loss(f), (0, 1, 2)), (0, None, None))(*one),
    "gradients of an ensemble": lambda f, one, many: vmap(grad(_loss(f), (0, 1, 2)))(*many),
    "vjp": lambda f, one, many: vjp(f, *one)[1](torch.ones_like(f(*one))),
    "jvp": lambda f, one, many: jvp(f, one, tuple(t[0] for t in many)),
    "jvp by the bias": lambda f, one, many: jvp(lambda b: f(*one[:2], b), one[2:], (many[2][0],)),
    "jacrev": lambda f, one, many: jacrev(f, (0, 1, 2))(*one),
    "jacfwd": lambda f, one, many: jacfwd(f, (0, 1, 2))(*one),
    "hessian": lambda f, one, many: hessian(_loss(f), (0, 1, 2))(*one),
    "forward over reverse": lambda f, one, many: jvp(grad(_loss(f), 1), one, tuple(t[0] for t in many)),
    "reverse over reverse": lambda f, one, many: jacrev(grad(_loss(f), 0), 1)(*one),
}


@pytest.mark.shows(
    "Derivatives and transforms",
    "`torch.func`: `vmap`, `grad`, `vjp`, `jvp`, `jacrev`, `jacfwd`, `hessian`, nested and composed",
)
@pytest.mark.parametrize("transform", TRANSFORMS)
@each_kernel_of(torch.float64)
def test_transforms_of_torch_func(transform: str, device: str, kernel: str) -> None:
    generator = torch.Generator().manual_seed(1)
    pattern = interop.to_pattern(torch.rand(7, 11, generator=generator) < 0.4, device=device)
    one, many = tensors(pattern, 5), tensors(pattern, 3, 5)
    with kernels.use(kernel):
        found = TRANSFORMS[transform](sparse(pattern), one, many)
    expected = TRANSFORMS[transform](dense(pattern), one, many)
    for got, wanted in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.shows("Derivatives and transforms", "`torch.func.functional_call`")
def test_functional_call_on_the_module(device: str) -> None:
    layer = SparseLinear.from_scipy(torch.eye(4).bool(), device=device, dtype=torch.float64)
    x, values, bias = tensors(layer.pattern, 3)
    found = functional_call(layer, {"values": values, "bias": bias}, (x,))
    torch.testing.assert_close(found, dense(layer.pattern)(x, values, bias))


def test_one_pass_only_where_nothing_is_differentiated_again(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fused backward runs in a plain step; a second derivative needs products that have one."""
    pattern = interop.to_pattern(torch.eye(3).bool(), device=device)
    x, values, bias = (t.requires_grad_() for t in tensors(pattern, 2))
    kernel, calls = kernels.choose(pattern, torch.float64, 2), []
    fused = kernel.backward
    monkeypatch.setattr(type(kernel), "backward", lambda self, *a: calls.append(a) or fused(*a))
    torch.autograd.grad(sparse(pattern)(x, values, bias).sum(), (x, values))
    assert len(calls) == 1
    torch.autograd.grad(sparse(pattern)(x, values, bias).sum(), (x, values), create_graph=True)
    assert len(calls) == 1


@pytest.mark.shows("Derivatives and transforms", "forward over reverse by dual numbers")
def test_tangents_pass_through_a_plain_backward(device: str) -> None:
    """Forward over reverse without create_graph: the fused backward of a kernel knows no tangents."""
    pattern = interop.to_pattern(torch.eye(3).bool(), device=device)
    primals, tangents = tensors(pattern, 2)[:2], tensors(pattern, 4, 2)[:2]
    found = []
    for layer in (sparse(pattern), dense(pattern)):
        with forward_ad.dual_level():
            x, values = (
                forward_ad.make_dual(p.clone().requires_grad_(), t[0])
                for p, t in zip(primals, tangents, strict=True)
            )
            loss = layer(x, values, torch.zeros(3, dtype=torch.float64, device=device)).sin().sum()
            grads = torch.autograd.grad(loss, (x, values))
            found.append([forward_ad.unpack_dual(each).tangent for each in grads])
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@each_kernel_of(torch.float64)
def test_inference(mode: Any, device: str, kernel: str) -> None:
    """Without a graph the same numbers as with one."""
    pattern = interop.to_pattern(torch.eye(3).bool(), device=device)
    arguments = [t.requires_grad_() for t in tensors(pattern, 2)]
    with kernels.use(kernel):
        expected = sparse(pattern)(*arguments)
        with mode():
            found = sparse(pattern)(*arguments)
    assert expected.requires_grad
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach(), **run_again(device))


def test_tangents_pass_without_gradients(device: str) -> None:
    """Forward mode goes on under no_grad."""
    pattern = interop.to_pattern(torch.eye(3).bool(), device=device)
    (x, values, bias), (tangent, *_) = tensors(pattern, 2), tensors(pattern, 4, 2)
    found = []
    for layer in (sparse(pattern), dense(pattern)):
        with torch.no_grad(), forward_ad.dual_level():
            output = layer(forward_ad.make_dual(x, tangent[0]), values, bias)
            found.append(forward_ad.unpack_dual(output).tangent)
    torch.testing.assert_close(*found)


@pytest.mark.shows("Derivatives and transforms", "`torch.autograd.grad(is_grads_batched=True)`")
@each_kernel_of(torch.float64)
@pytest.mark.parametrize("needs", [(0, 1, 2), (0,), (1,)], ids=["both", "input alone", "values alone"])
@pytest.mark.parametrize("again", [False, True], ids=["once", "to be differentiated again"])
def test_batched_gradients(device: str, kernel: str, needs: tuple[int, ...], again: bool) -> None:
    pattern = interop.to_pattern(torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]]), device=device)
    arguments = tensors(pattern, 2)
    asked = [arguments[i].requires_grad_() for i in needs]
    vectors = torch.randn(5, 2, 3, dtype=torch.float64, device=device)
    with kernels.use(kernel):
        found, expected = (
            torch.autograd.grad(f(*arguments), asked, vectors, is_grads_batched=True, create_graph=again)
            for f in (sparse(pattern), dense(pattern))
        )
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.shows("Derivatives and transforms", "`torch.autograd.functional.hessian(vectorize=True)`")
@each_kernel_of(torch.float64)
def test_vectorized_hessian(device: str, kernel: str) -> None:
    """torch.autograd.functional does as is_grads_batched, at second order too."""
    pattern = interop.to_pattern(torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]]), device=device)
    arguments = tensors(pattern, 2)
    with kernels.use(kernel):
        found, expected = (
            torch.autograd.functional.hessian(_loss(f), arguments, vectorize=True)
            for f in (sparse(pattern), dense(pattern))
        )
    for got, wanted in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        torch.testing.assert_close(got, wanted)
