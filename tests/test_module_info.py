"""The checks of PyTorch's test_modules.py, driven by ModuleInfos of SparseLinear and of Linear.

A test that Linear did not pass would be wrong; SparseLinear passes the same one. Those of SparseLinear carry
the mark ``shows``, by ``each_info``. test_op_info.py has the checks of the function below the module.
"""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from devices import NONDET_TOL, on_cuda, run_again
from module_infos import (
    SPARSE,
    assert_placed,
    built,
    calls,
    common,
    each_conversion,
    each_dtype,
    each_info,
    error_inputs,
    reference,
    wide_dtype,
)
from reference import assert_close
from torch import Tensor, nn
from torch._subclasses.meta_utils import assert_metadata_eq
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from sparselinear import SparseLinear

# The tests of torch's TestModule, and those of them that ask for what neither layer has.
TORCHS_TESTS = """
    test_check_inplace test_cpu_gpu_parity test_device_ctx_init test_errors test_factory_kwargs test_forward
    test_grad test_gradgrad test_if_train_and_eval_modes_differ test_memory_format
    test_multiple_device_transfer test_non_contiguous_tensors test_pickle test_repr test_save_load test_to
    test_to_empty
"""
CANNOT_APPLY = {"test_check_inplace": "for modules with an argument inplace: Linear has none"}


@each_info
@each_dtype
def test_forward(info: Any, dtype: torch.dtype, device: str) -> None:
    for module_input, layer, x in calls(info, device, dtype):
        called = module_input.forward_input
        output = layer(*called.args, **called.kwargs)
        expected, magnitude = (reference(module_input, layer, x, of) for of in (Tensor.clone, torch.abs))
        assert_close(output, expected, magnitude, dtype)


@each_info
@each_dtype
@pytest.mark.parametrize("device", ["cpu", "meta", pytest.param("cuda", marks=on_cuda)])
def test_factory_kwargs(info: Any, dtype: torch.dtype, device: str) -> None:
    for module_input, layer, _ in calls(info, "cpu", dtype):
        made = built(module_input, info, device=device, dtype=dtype)
        assert_placed(made, device, dtype)
        assert [t.shape for t in made.state_dict().values()] == [t.shape for t in layer.state_dict().values()]


@each_info
@each_dtype
def test_repr(info: Any, dtype: torch.dtype) -> None:
    for module_input, layer, _ in calls(info, "cpu", dtype):
        in_features, out_features = module_input.constructor_input.args[:2]
        text = repr(layer)
        assert str(layer) == text
        assert text.startswith(
            f"{info.module_cls.__name__}(in_features={in_features}, out_features={out_features}, "
        )
        assert text.endswith(f"bias={layer.bias is not None})")


@each_info
@each_dtype
def test_pickle(info: Any, dtype: torch.dtype, device: str) -> None:
    for _, layer, x in calls(info, device, dtype):
        stream = io.BytesIO()
        torch.save(layer, stream)
        stream.seek(0)
        for copied in (torch.load(stream, weights_only=False), pickle.loads(pickle.dumps(layer))):
            torch.testing.assert_close(copied(x), layer(x), **run_again(device))


@each_info
@each_dtype
@each_conversion
def test_save_load(info: Any, dtype: torch.dtype, swap: bool, conversion: None, device: str) -> None:
    for module_input, layer, x in calls(info, device, dtype):
        stream = io.BytesIO()
        torch.save(layer.state_dict(), stream)
        stream.seek(0)
        other = built(module_input, info, device=device, dtype=dtype)
        other.load_state_dict(torch.load(stream, weights_only=True))
        torch.testing.assert_close(other(x), layer(x), **run_again(device))


@pytest.fixture
def conversion(swap: bool) -> Iterator[None]:
    """Of parameters by to() and load_state_dict(): into new ones, or in the place of the old ones."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(swap)
    yield
    torch.__future__.set_swap_module_params_on_conversion(before)


@each_info
@wide_dtype
@each_conversion
def test_to(info: Any, dtype: torch.dtype, swap: bool, conversion: None, device: str) -> None:
    """Parameters stay themselves, and their gradients go with them."""
    for other in SPARSE.dtypes:
        for _, layer, x in calls(info, device, dtype):
            layer(x).sum().backward()
            before = {name: (p, p.detach().clone(), p.grad.clone()) for name, p in layer.named_parameters()}
            assert layer.to(other) is layer
            assert_placed(layer, device, other)
            for name, parameter in layer.named_parameters():
                itself, number, grad = before[name]
                assert parameter is itself
                assert torch.equal(parameter, number.to(other))
                assert torch.equal(parameter.grad, grad.to(other))
            assert layer(x.to(other)).dtype == other
            assert_placed(layer.to("meta"), "meta", other)
            assert all((p is before[name][0]) == swap for name, p in layer.named_parameters())


@each_info
@wide_dtype
@each_conversion
def test_to_empty(info: Any, dtype: torch.dtype, swap: bool, conversion: None, device: str) -> None:
    for module_input, layer, x in calls(info, device, dtype):
        empty = built(module_input, info, device="meta", dtype=dtype)
        assert empty.to_empty(device=device) is empty
        assert_placed(empty, device, dtype)
        empty.load_state_dict(layer.state_dict())
        torch.testing.assert_close(empty(x), layer(x), **run_again(device))


def spread(tensor: Tensor) -> Tensor:
    """The same numbers, each second one in memory."""
    return tensor.detach().repeat_interleave(2, dim=-1)[..., ::2].requires_grad_(tensor.requires_grad)


def step(layer: nn.Module, x: Tensor, grad_output: Tensor) -> tuple[Tensor, ...]:
    output = layer(x)
    return output, *torch.autograd.grad(output, (x, *layer.parameters()), grad_output)


@each_info
@wide_dtype
def test_non_contiguous_tensors(info: Any, dtype: torch.dtype, device: str) -> None:
    for _, layer, x in calls(info, device, dtype, requires_grad=True):
        grad_output = torch.randn_like(layer(x))
        expected = step(layer, x, grad_output)
        layouts = itertools.product((x, spread(x)), (grad_output, spread(grad_output)))
        for some_x, some_grad_output in layouts:
            torch.testing.assert_close(step(layer, some_x, some_grad_output), expected)


@each_info
@wide_dtype
def test_memory_format(info: Any, dtype: torch.dtype, device: str) -> None:
    """Formats of four and five dimensions are for convolutions: the output is contiguous, as Linear's is."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for _, layer, x in calls(info, device, dtype, requires_grad=True):
        grad_output = torch.randn_like(layer(x))
        expected = step(layer, x, grad_output)
        own = formats.get(x.dim(), torch.contiguous_format)
        for input_format in (torch.contiguous_format, own):
            given = x.detach().to(memory_format=input_format, copy=True).requires_grad_()
            for module_format in (torch.preserve_format, torch.contiguous_format, own):
                found = step(layer.to(memory_format=module_format), given, grad_output)
                torch.testing.assert_close(found, expected)
                assert found[0].is_contiguous()
                assert all(grad.is_contiguous() for grad in found[2:])


def check_derivatives(info: Any, device: str, check: Callable[..., bool]) -> None:
    """The total derivative, and those by the input with each parameter alone."""
    for _, layer, x in calls(info, device, torch.float64, requires_grad=True):
        parameters = dict(layer.named_parameters())

        def run(x: Tensor, *given: Tensor, layer: Any = layer, names: Any = tuple(parameters)) -> Tensor:
            output: Tensor = functional_call(layer, dict(zip(names, given, strict=True)), x)
            return output

        trained = [parameter.detach().requires_grad_() for parameter in parameters.values()]
        assert check(run, (x, *trained))
        for alone in trained:
            assert check(run, (x, *(t if t is alone else t.detach() for t in trained)))
        assert check(run, (x, *(t.detach() for t in trained)))


@each_info
def test_grad(info: Any, device: str) -> None:
    check_derivatives(info, device, partial(gradcheck, nondet_tol=NONDET_TOL[device]))


@each_info
def test_gradgrad(info: Any, device: str) -> None:
    check_derivatives(info, device, partial(gradgradcheck, nondet_tol=NONDET_TOL[device]))


@each_info
@wide_dtype
def test_if_train_and_eval_modes_differ(info: Any, dtype: torch.dtype, device: str) -> None:
    """They do not: forward never asks."""
    assert not info.train_and_eval_differ
    for _, layer, x in calls(info, device, dtype):
        expected = layer.train()(x)
        torch.testing.assert_close(layer.eval()(x), expected, **run_again(device))
        del layer.training
        torch.testing.assert_close(layer(x), expected, **run_again(device))


def assert_equal(found: Any, expected: Any) -> None:
    assert found == expected


@each_info
@wide_dtype
def test_device_ctx_init(info: Any, dtype: torch.dtype) -> None:
    for module_input, layer, _ in calls(info, "cpu", dtype):
        with torch.device("meta"):
            made = built(module_input, info, dtype=dtype)
        assert_placed(made, "meta", dtype)
        for name, tensor in made.state_dict(keep_vars=True).items():
            assert_metadata_eq(assert_equal, tensor, layer.state_dict(keep_vars=True)[name])


@wide_dtype
@pytest.mark.shows("PyTorch's own tests", "`{test}` of torch's test_modules.py")
def test_errors(dtype: torch.dtype, device: str) -> None:
    for error in error_inputs(SPARSE, device, dtype, requires_grad=False, training=True):
        module_input = error.module_error_input
        if error.error_on is common.ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex):
                built(module_input, SPARSE)
            continue
        layer = built(module_input, SPARSE, device=device)
        with pytest.raises(error.error_type, match=error.error_regex):
            layer(*module_input.forward_input.args)


class TestOnCUDA:
    pytestmark = on_cuda

    @each_info
    @wide_dtype
    def test_multiple_device_transfer(self, info: Any, dtype: torch.dtype) -> None:
        for _, layer, x in calls(info, "cpu", dtype):
            expected = layer(x)
            for device in ("cuda", "cpu", "cuda", f"cuda:{torch.cuda.device_count() - 1}"):
                output = layer.to(device)(x.to(device))
                assert_placed(layer, torch.device(device).type, dtype)
                torch.testing.assert_close(output.cpu(), expected)

    @each_info
    @wide_dtype
    def test_cpu_gpu_parity(self, info: Any, dtype: torch.dtype) -> None:
        for _, layer, x in calls(info, "cpu", dtype, requires_grad=True):
            grad_output = torch.randn_like(layer(x))
            expected = step(layer, x, grad_output)
            there = x.detach().cuda().requires_grad_()
            found = step(copy.deepcopy(layer).cuda(), there, grad_output.cuda())
            torch.testing.assert_close(tuple(t.cpu() for t in found), expected)


def test_each_of_torchs_tests_is_here_or_cannot_apply() -> None:
    here = {*globals(), *vars(TestOnCUDA)}
    assert {name for name in TORCHS_TESTS.split() if name not in here} == set(CANNOT_APPLY)
    assert "inplace" not in inspect.signature(SparseLinear).parameters
