"""The checks of PyTorch's test_ops.py and its kin, driven by an OpInfo of sparse_linear."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from devices import NONDET_TOL, run_again
from reference import assert_close, oracle
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import make_tensor

from sparselinear import SparsityPattern, functional, interop, kernels

pytest.importorskip(
    "expecttest", reason="torch.testing._internal imports expecttest: pip install -e '.[dev]'"
)
core = pytest.importorskip("torch.testing._internal.opinfo.core")
torch.backends.__allow_nonbracketed_mutation_flag = True  # that import forbids flags to be set, everywhere

# The tests of torch's test_ops.py, test_ops_gradients.py and test_ops_jit.py, and the one of vmap.
TORCHS_TESTS = """
    test_backward test_compare_cpu test_complex_half_reference_testing test_conj_view test_cow_input
    test_dtypes test_errors test_fake test_fake_autocast test_fake_crossref_backward_amp
    test_fake_crossref_backward_no_amp test_fn_fwgrad_bwgrad test_fn_grad test_fn_gradgrad
    test_forward_ad test_forward_mode_AD test_inplace_forward_mode_AD test_inplace_grad
    test_inplace_gradgrad test_multiple_devices test_neg_conj_view test_neg_view
    test_non_standard_bool_values test_noncontiguous_samples test_numpy_ref test_operator test_out
    test_out_warning test_pointwise_tag_coverage test_promotes_int_to_float test_python_ref test_tags
    test_variant_consistency_eager test_variant_consistency_jit test_view_replay test_vmap_exhaustive
"""
LEFT_OUT = {
    "test_out test_out_warning": "there is no argument out=",
    "test_inplace_forward_mode_AD test_inplace_grad test_inplace_gradgrad": "nothing is in place",
    "test_variant_consistency_eager": "there is no method of Tensor and no alias to agree with",
    "test_variant_consistency_jit": "TorchScript is deprecated and knows no patterns",
    "test_complex_half_reference_testing test_conj_view test_neg_conj_view": "for complex dtypes",
    "test_neg_view": "for the imaginary part of a complex tensor",
    "test_non_standard_bool_values test_promotes_int_to_float": "for dtypes that raise, see test_dtypes",
    "test_numpy_ref": "test_python_ref has the reference, masked dense in float64",
    "test_pointwise_tag_coverage test_tags": "for operators of torch's own library",
    "test_backward test_forward_ad test_operator test_view_replay": "for composites of torch's operators",
    "test_fake_crossref_backward_amp test_fake_crossref_backward_no_amp": "test_fake has the gradients too",
    "test_compare_cpu test_multiple_devices": "test_functional.py runs each kernel on each device",
}
SHAPES = [(3, 4), (8, 8)]  # (in_features, out_features), as for linear
BATCHES = [(), (0,), (8,), (2, 3)]


def _pattern(in_features: int, out_features: int) -> SparsityPattern:
    rng = np.random.default_rng(out_features)
    return interop.to_pattern(sp.random_array((out_features, in_features), density=0.4, rng=rng))


def sample_inputs(info: Any, device: Any, dtype: torch.dtype, requires_grad: bool, **_: Any) -> Iterator[Any]:
    """Those of torch's OpInfo of linear, with values over a pattern in the place of a weight."""
    make = partial(make_tensor, device=device, dtype=dtype, requires_grad=requires_grad, low=-2, high=2)
    rows = itertools.product([True, False], [(size, batch) for size in SHAPES for batch in BATCHES])
    for has_bias, ((in_features, out_features), batch) in [
        *rows,
        (True, ((2, 4), (2, 1, 2, 1))),
        (False, ((2, 4), (2, 1, 2, 1))),
    ]:
        pattern = _pattern(in_features, out_features).to(device)
        bias = (make((out_features,)),) if has_bias else ()
        yield core.SampleInput(make((*batch, in_features)), args=(make((pattern.nnz,)), pattern, *bias))


def error_inputs(info: Any, device: Any, **_: Any) -> Iterator[Any]:
    pattern = _pattern(3, 4).to(device)
    make = partial(make_tensor, device=device, dtype=torch.float32)
    x, values = make((2, 3)), make((pattern.nnz,))
    for input, args, kind, text in (
        (make((2, 4)), (values, pattern), ValueError, r"^input: .* \(\*, 3\), got \(2, 4\)"),
        (x, (values[1:], pattern), ValueError, r"^values: .* shape \(nnz,\)"),
        (x, (values, pattern, make((3,))), ValueError, r"^bias: .* \(4,\), got \(3,\)"),
        (x.double(), (values, pattern), TypeError, r"^input: .* the dtype of values"),
        (x, (values, pattern.csr_tensor(values)), TypeError, "^pattern: expected a SparsityPattern"),
    ):
        yield core.ErrorInput(core.SampleInput(input, args=args), error_type=kind, error_regex=text)


OP = core.OpInfo(
    "sparselinear.functional.sparse_linear",
    op=functional.sparse_linear,
    sample_inputs_func=sample_inputs,
    error_inputs_func=error_inputs,
    dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.float16),
    supports_out=False,
    supports_forward_ad=True,
    supports_fwgrad_bwgrad=True,
)
# torch's own: its derivatives in forward mode are written in TorchScript, which it has deprecated.
# A DeprecationWarning up to torch 2.13, a FutureWarning since.
forward_mode = pytest.mark.filterwarnings(r"ignore:`torch.jit.script` is deprecated")
shown = pytest.mark.shows("PyTorch's own tests", "`{test}` of torch's test_ops.py and its kin")
each_dtype = pytest.mark.parametrize("dtype", sorted(OP.dtypes, key=str), ids=str)


def samples(device: str, dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> list[Any]:
    return list(OP.sample_inputs(device, dtype, requires_grad))


def tensors_of(sample: Any) -> tuple[Tensor, ...]:
    values, _, *bias = sample.args
    return sample.input, values, *bias


def over(pattern: SparsityPattern) -> Callable[..., Tensor]:
    """The function of input, values and perhaps a bias alone."""
    return lambda input, values, *bias: OP(input, values, pattern, *bias)


def test_the_samples_have_something_to_add_up() -> None:
    assert all(sample.args[1].nnz >= 3 for sample in samples("cpu"))
    assert {len(sample.args) for sample in samples("cpu")} == {2, 3}


@shown
@each_dtype
def test_python_ref(dtype: torch.dtype, device: str) -> None:
    for sample in samples(device, dtype):
        x, values, *bias = tensors_of(sample)
        output = OP(sample.input, *sample.args)
        of = sample.args[1], x, values, bias[0] if bias else None, torch.ones_like(output)
        expected, magnitude = oracle(*of)
        assert_close(output, expected.output, magnitude.output, dtype)


OTHERS = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.complex64, torch.complex128, torch.float8_e4m3fn),
)


@shown
@pytest.mark.parametrize("dtype", OTHERS, ids=str)
def test_dtypes(dtype: torch.dtype, device: str) -> None:
    """Those of OP run, as the others show; any other raises, where Linear takes integers and complex."""
    sample = samples(device, torch.float32)[2]
    x, values = tensors_of(sample)[:2]
    with pytest.raises(TypeError, match=rf"^(input|values): .* got {dtype}\."):
        OP(x.to(dtype), values.to(dtype), sample.args[1])


@shown
def test_fn_grad(device: str) -> None:
    for sample in samples(device, requires_grad=True):
        options: dict[str, Any] = {"check_batched_grad": True, "nondet_tol": NONDET_TOL[device]}
        assert gradcheck(over(sample.args[1]), tensors_of(sample), **options)


@shown
def test_fn_gradgrad(device: str) -> None:
    for sample in samples(device, requires_grad=True):
        options: dict[str, Any] = {"check_batched_grad": True, "nondet_tol": NONDET_TOL[device]}
        assert gradgradcheck(over(sample.args[1]), tensors_of(sample), **options)


@shown
@forward_mode
def test_forward_mode_AD(device: str) -> None:  # noqa: N802
    for sample in samples(device, requires_grad=True):
        run, tensors = over(sample.args[1]), tensors_of(sample)
        options: dict[str, Any] = {"check_forward_ad": True, "check_backward_ad": False}
        options["nondet_tol"] = NONDET_TOL[device]
        assert gradcheck(run, tensors, check_undefined_grad=True, check_batched_forward_grad=True, **options)


@shown
@forward_mode
def test_fn_fwgrad_bwgrad(device: str) -> None:
    for sample in samples(device, requires_grad=True):
        run, tensors = over(sample.args[1]), tensors_of(sample)
        options: dict[str, Any] = {"check_fwd_over_rev": True, "check_rev_over_rev": False}
        options["nondet_tol"] = NONDET_TOL[device]
        assert gradgradcheck(run, tensors, check_undefined_grad=False, **options)


@shown
def test_vmap_exhaustive(device: str) -> None:
    """Over any of the arguments, at the first and at the last dimension."""
    for sample in samples(device):
        run, tensors = over(sample.args[1]), tensors_of(sample)
        for in_dims in itertools.product((None, 0, -1), repeat=len(tensors)):
            if set(in_dims) == {None}:
                continue
            each = [
                [t if d is None else (i - 0.5) * t for t, d in zip(tensors, in_dims, strict=True)]
                for i in range(3)
            ]
            stacked = [t[0] if d is None else torch.stack(t, d) for *t, d in zip(*each, in_dims, strict=True)]
            expected = torch.stack([run(*one) for one in each])
            torch.testing.assert_close(vmap(run, in_dims)(*stacked), expected)


@shown
@each_dtype
def test_noncontiguous_samples(dtype: torch.dtype, device: str) -> None:
    for sample in samples(device, dtype, requires_grad=True):
        output = OP(sample.input, *sample.args)
        grad_output = torch.randn_like(output)
        expected = output, *torch.autograd.grad(output, tensors_of(sample), grad_output)
        other = sample.noncontiguous()
        output = OP(other.input, *other.args)
        found = output, *torch.autograd.grad(output, tensors_of(other), grad_output)
        torch.testing.assert_close(found, expected)


@shown
@each_dtype
@pytest.mark.parametrize("kind", ["meta", "fake"])
def test_fake(dtype: torch.dtype, kind: str, device: str) -> None:
    """On the meta device and with fake tensors: shape, strides and dtype of the output and of gradients."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for sample in samples(device, dtype, requires_grad=True):
        pattern, tensors = sample.args[1], tensors_of(sample)
        if kind == "meta":
            made, given = pattern.to("meta"), [t.detach().to("meta").requires_grad_() for t in tensors]
        else:
            made, given = pattern, [mode.from_tensor(t) for t in tensors]
        expected = over(pattern)(*tensors)
        with mode if kind == "fake" else torch.device("meta"):
            found = over(made)(*given)
            found_grads = torch.autograd.grad(found, given, torch.ones_like(found))
        expected_grads = torch.autograd.grad(expected, tensors, torch.ones_like(expected))
        for got, wanted in zip((found, *found_grads), (expected, *expected_grads), strict=True):
            assert (got.shape, got.stride(), got.dtype) == (wanted.shape, wanted.stride(), wanted.dtype)
            assert got.device.type == ("meta" if kind == "meta" else device)


@shown
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_fake_autocast(dtype: torch.dtype, device: str) -> None:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for sample in samples(device, torch.float32):
        run, tensors = over(sample.args[1]), tensors_of(sample)
        with torch.autocast(device, dtype=dtype):
            expected = run(*tensors)
            with mode:
                found = run(*map(mode.from_tensor, tensors))
        assert (found.shape, found.stride(), found.dtype) == (expected.shape, expected.stride(), dtype)
        torch.testing.assert_close(expected, run(*(t.to(dtype) for t in tensors)), **run_again(device))


# torch.sparse asks for pointers through which it may write, so a copy is made; no number changes.
READ_ONLY = [name for name, why in kernels.available().items() if why is None and name != "torch"]


@shown
@pytest.mark.parametrize("kernel", READ_ONLY)
def test_cow_input(kernel: str) -> None:
    """A lazy clone stays one, as nothing writes to the arguments; forward and backward."""
    for sample in samples("cpu", torch.float32):
        run, tensors = over(sample.args[1]), tensors_of(sample)
        given = [t.detach()._lazy_clone().requires_grad_() for t in tensors]
        with kernels.use(kernel):
            expected = run(*tensors)
            found = run(*given)
        grad_output = torch.ones_like(found)._lazy_clone()
        torch.autograd.grad(found, given, grad_output)
        torch.testing.assert_close(found, expected)
        assert all(torch._C._is_cow_tensor(t) for t in (*given, grad_output))


@shown
def test_make_fx(device: str) -> None:
    """A graph that is recorded with fake tensors holds the operator, and computes the same."""
    for sample in samples(device):
        run, tensors = over(sample.args[1]), tensors_of(sample)
        graph = make_fx(run, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
        assert torch.ops.sparselinear.linear.default in {node.target for node in graph.graph.nodes}
        torch.testing.assert_close(graph(*tensors), run(*tensors))


@shown
def test_errors(device: str) -> None:
    for error in OP.error_inputs(device):
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            OP(sample.input, *sample.args)


def test_each_of_torchs_tests_is_here_or_left_out() -> None:
    missing = {name for name in TORCHS_TESTS.split() if name not in globals()}
    assert missing == set(" ".join(LEFT_OUT).split())
