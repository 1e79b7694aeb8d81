"""torch.compile and torch.export: one graph, the numbers of eager, any batch; operators that pass opcheck."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import Case, each_case
from devices import each_kernel_of, run_again
from test_functional import LAYOUTS
from test_products import TRANSFORMS, dense, sparse, tensors
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import vmap
from torch.utils._pytree import tree_leaves

from sparselinear import SparseLinear, SparsityPattern, functional, interop, kernels

ADJACENCY = sp.random_array((13, 17), density=0.3, rng=np.random.default_rng(0))

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch's own: the tracer of 2.13 asks for things that later versions have renamed.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
    # Advice of Inductor on every GPU since Ampere: float32 stays float32 here.
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def layer_of(seed: int = 0, **options: Any) -> SparseLinear:
    torch.manual_seed(seed)
    return SparseLinear.from_scipy(ADJACENCY, **options)


def traced(module: nn.Module, **options: Any) -> Any:
    """Compiled without a graph break; through autograd's tracer, but not through a compiler of C++."""
    return torch.compile(module, fullgraph=True, backend="aot_eager", **options)


def gradients(run: Any, layer: SparseLinear, x: Tensor) -> tuple[Tensor, ...]:
    output = run(x)
    asked = [t for t in (x, layer.values, layer.bias) if t is not None and t.requires_grad]
    return output, *torch.autograd.grad(output.sin().sum(), asked)


@pytest.mark.shows("Compiling and exporting", "`torch.compile(fullgraph=True)`, output and gradients")
@each_kernel_of(torch.float32)
@pytest.mark.parametrize("layout", ["contiguous", "feature-major", "strided"])
@pytest.mark.parametrize("bias", [True, False])
def test_one_graph_with_the_numbers_of_eager(device: str, kernel: str, layout: str, bias: bool) -> None:
    layer = layer_of(bias=bias, device=device)
    x = LAYOUTS[layout](torch.randn(6, 17, device=device)).requires_grad_()
    with kernels.use(kernel):
        found, expected = gradients(traced(layer), layer, x), gradients(layer, layer, x)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)
    if layout != "strided":
        assert found[0].stride() == expected[0].stride()


@pytest.mark.shows(
    "Compiling and exporting", "`torch.compile`, gradients of the input or of the values alone"
)
@pytest.mark.parametrize("needs", [(True, False), (False, True)], ids=["input alone", "values alone"])
def test_only_what_is_asked_for(needs: tuple[bool, bool], device: str) -> None:
    layer = layer_of(bias=False, device=device)
    layer.values.requires_grad_(needs[1])
    x = torch.randn(6, 17, device=device, requires_grad=needs[0])
    for got, wanted in zip(gradients(traced(layer), layer, x), gradients(layer, layer, x), strict=True):
        torch.testing.assert_close(got, wanted)


def test_one_pass_for_both_gradients(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    layer, x = layer_of(device=device), torch.randn(6, 17, device=device, requires_grad=True)
    kernel, calls = kernels.choose(layer.pattern, torch.float32, 6), []
    fused = kernel.backward
    monkeypatch.setattr(type(kernel), "backward", lambda self, *a: calls.append(a) or fused(*a))
    gradients(traced(layer), layer, x)
    assert len(calls) == 1


@pytest.mark.shows("Compiling and exporting", "`torch.compile(dynamic=True)`, one graph for any batch")
def test_any_batch_in_one_graph(device: str) -> None:
    layer = layer_of(device=device)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    run = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    for batch in (2, 3, 5, 64):
        x = torch.randn(batch, 17, device=device)
        torch.testing.assert_close(run(x), layer(x))
    assert counter.frame_count == 1


@pytest.mark.shows("Compiling and exporting", "`torch.compile`, any leading dimensions")
@pytest.mark.parametrize("shape", [(17,), (2, 3, 17), (0, 17)])
def test_leading_dimensions(shape: tuple[int, ...], device: str) -> None:
    layer = layer_of(device=device)
    x = torch.randn(shape, device=device)
    torch.testing.assert_close(traced(layer)(x), layer(x))


@pytest.mark.shows(
    "Compiling and exporting", "`torch.compile` with its default compiler, training of a model"
)
def test_training_through_the_default_compiler(device: str) -> None:
    """Four steps of Adam on two layers and an activation."""
    model = nn.Sequential(layer_of(), nn.ReLU(), SparseLinear.from_scipy(ADJACENCY.T)).to(device)
    twin = copy.deepcopy(model)
    x = torch.randn(8, 17, device=device)
    for module, run in ((model, torch.compile(model, fullgraph=True)), (twin, twin)):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        for _ in range(4):
            optimizer.zero_grad()
            run(x).square().mean().backward()
            optimizer.step()
    for got, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.shows("Compiling and exporting", "`torch.compile` under autocast")
def test_autocast(device: str) -> None:
    layer = layer_of(device=device)
    x = torch.randn(6, 17, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        found, expected = traced(layer)(x), layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, **run_again(device))


@pytest.mark.parametrize("dims", [(0, None, None), (0, 0, 0), (None, 0, None), (None, None, 0)])
def test_vmap_within(dims: tuple[int | None, ...], device: str) -> None:
    layer = layer_of(device=device)
    many = [torch.randn(3, *shape, device=device) for shape in ((6, 17), (layer.nnz,), (13,))]
    arguments = [t if dim == 0 else t[0] for t, dim in zip(many, dims, strict=True)]

    def run(*given: Tensor) -> Tensor:
        return vmap(lambda x, v, b: functional.sparse_linear(x, v, layer.pattern, b), dims)(*given)

    with torch.no_grad():
        found = torch.compile(run, fullgraph=True, backend="aot_eager")(*arguments)
    torch.testing.assert_close(found, run(*arguments))


@pytest.mark.shows("Compiling and exporting", "`torch.compile` of functions that use `torch.func`")
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_of_torch_func_within(transform: str, device: str) -> None:
    """As in eager: first and second order, reverse and forward, nested, per sample."""
    if transform in ("jacfwd", "hessian") and torch.torch_version.TorchVersion(torch.__version__) < (2, 12):
        pytest.skip("before 2.12 torch cannot trace jacfwd of several arguments, dense ones neither")
    # Small, as torch traces vmap over values once for each of them, and a hessian is one of hundreds.
    pattern = interop.to_pattern(torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]]), device=device)
    one, many = tensors(pattern, 2), tensors(pattern, 3, 2)

    def run(one: tuple[Tensor, ...], many: tuple[Tensor, ...]) -> Any:
        return TRANSFORMS[transform](sparse(pattern), one, many)

    with torch.no_grad():
        found = torch.compile(run, fullgraph=True, backend="aot_eager")(one, many)
    expected = TRANSFORMS[transform](dense(pattern), one, many)
    for got, wanted in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_double_backward_is_refused_by_torch() -> None:
    """For every compiled function, as this one of one product; torch.func.grad twice within is the way."""
    for function in (traced(layer_of()), torch.compile(torch.sin, backend="aot_eager")):
        x = torch.randn(4, 17, requires_grad=True)
        (grad,) = torch.autograd.grad(function(x).sin().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="does not currently support double backward"):
            torch.autograd.grad(grad.sum(), x)


def test_dual_numbers_from_outside_are_refused_by_torch() -> None:
    """Where a gradient is asked for too, as in nn.Linear; torch.func.jvp within is the way."""
    for layer in (layer_of(), nn.Linear(17, 13)):
        with forward_ad.dual_level():
            x = forward_ad.make_dual(torch.randn(4, 17), torch.ones(4, 17))
            refusals = NotImplementedError, torch._dynamo.exc.Unsupported  # until torch 2.13, and in 2.15
            with pytest.raises(refusals, match=r"You must implement the jvp function|dual tensor"):
                traced(layer)(x)


@pytest.mark.shows("Compiling and exporting", "`torch.export`, strict and not, any batch")
@pytest.mark.parametrize("strict", [False, True])
def test_export_of_any_batch(strict: bool, device: str) -> None:
    layer = layer_of(device=device)
    batch = torch.export.Dim("batch")
    options: dict[str, Any] = {"dynamic_shapes": ({0: batch},), "strict": strict}
    program = torch.export.export(layer, (torch.randn(4, 17, device=device),), **options)
    x = torch.randn(9, 17, device=device)
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.shows("Compiling and exporting", "`torch.export`, to a file and back")
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11 of what it reads itself
def test_export_to_a_file(device: str) -> None:
    layer = layer_of(device=device)
    stream = io.BytesIO()
    torch.export.save(torch.export.export(layer, (torch.randn(4, 17, device=device),)), stream)
    stream.seek(0)
    x = torch.randn(4, 17, device=device)
    torch.testing.assert_close(torch.export.load(stream).module()(x), layer(x))


@pytest.mark.shows("Compiling and exporting", "`torch.library.opcheck` of every operator")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of opcheck's own tensors, torch 2.15
@each_case
@pytest.mark.parametrize("layout", ["contiguous", "feature-major"])
def test_opcheck(case: Case, layout: str, device: str) -> None:
    pattern = interop.to_pattern(case.adjacency, device=device)
    over = pattern.crow_indices, pattern.col_indices, pattern.in_features
    wide: dict[str, Any] = {"dtype": torch.float64, "device": device}
    x = LAYOUTS[layout](torch.randn(3, pattern.in_features, **wide))
    grad_output = LAYOUTS[layout](torch.randn(3, pattern.out_features, **wide))
    values, bias = torch.randn(pattern.nnz, **wide), torch.randn(pattern.out_features, **wide)
    operators = torch.ops.sparselinear
    trained = [t.detach().requires_grad_() for t in (x, values, bias)]
    torch.library.opcheck(operators.linear.default, (*trained, *over))
    torch.library.opcheck(operators.linear.default, (*trained[:2], None, *over))
    again = grad_output.detach().requires_grad_()
    torch.library.opcheck(operators.grad_input.default, (again, trained[1], *over))
    torch.library.opcheck(operators.grad_values.default, (again, trained[0], *over))
    torch.library.opcheck(operators.grad_both.default, (grad_output, x, values, *over))


def test_a_pattern_is_found_by_its_indices(device: str) -> None:
    pattern = interop.to_pattern(ADJACENCY, device=device)
    over = pattern.crow_indices, pattern.col_indices, pattern.in_features
    assert SparsityPattern.over(*over) is pattern
    copied = SparsityPattern.over(over[0].clone(), over[1].clone(), over[2])
    assert copied is not pattern
    assert copied.equals(pattern)
    assert SparsityPattern.over(copied.crow_indices, copied.col_indices, over[2]) is copied
    with pytest.raises(ValueError, match="col_indices: expected indices from 0 to"):
        SparsityPattern.over(over[0].clone(), over[1] + 17, over[2])


def test_indices_that_come_to_lie_where_others_lay() -> None:
    """As those do that a program of AOTInductor owns, and takes with it."""
    crow_indices, col_indices = torch.tensor([0, 2, 3]), torch.tensor([0, 1, 2])
    assert SparsityPattern.over(crow_indices, col_indices, 3).nnz == 3
    crow_indices[2] = 2
    assert SparsityPattern.over(crow_indices, col_indices[:2], 3).nnz == 2
