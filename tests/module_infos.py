"""What test_module_info.py is driven by: a ModuleInfo of SparseLinear, and torch's own of Linear."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from reference import dense_of
from torch import Tensor, nn
from torch.testing import make_tensor

from sparselinear import SparseLinear

pytest.importorskip(
    "expecttest", reason="torch.testing._internal imports expecttest: pip install -e '.[dev]'"
)
common = pytest.importorskip("torch.testing._internal.common_modules")
torch.backends.__allow_nonbracketed_mutation_flag = True  # that import forbids flags to be set, everywhere

WIDE = sp.random_array((8, 10), density=0.4, rng=np.random.default_rng(0))
TALL = sp.random_array((5, 3), density=0.5, rng=np.random.default_rng(1))


def masked_dense(layer: SparseLinear, parameters: list[Tensor], input: Tensor) -> Tensor:
    values, *bias = parameters
    return nn.functional.linear(input, dense_of(layer.pattern, values), *bias)


def module_inputs(
    info: Any, device: Any, dtype: torch.dtype, requires_grad: bool, training: bool, **_: Any
) -> list[Any]:
    """Those of torch's ModuleInfo of Linear, and the leading shapes that it leaves out."""
    make_input = partial(make_tensor, device=device, dtype=dtype, requires_grad=requires_grad)
    layer, call = common.FunctionInput(10, 8, WIDE), common.FunctionInput
    without_bias, tall = call(10, 8, WIDE, bias=False), call(3, 5, TALL)
    rows = [
        ("", layer, call(input=make_input((4, 10)))),
        ("no_bias", without_bias, call(make_input((4, 10)))),
        ("no_batch_dim", tall, call(make_input(3))),
        ("empty_batch", layer, call(make_input((0, 10)))),
        ("leading_dims", layer, call(make_input((2, 3, 10)))),
        ("leading_dims_4d", tall, call(make_input((2, 4, 2, 3)))),
        ("leading_dims_5d", without_bias, call(make_input((2, 2, 1, 2, 10)))),
    ]
    return [
        common.ModuleInput(made, called, desc=desc, reference_fn=masked_dense) for desc, made, called in rows
    ]


def error_inputs(
    info: Any, device: Any, dtype: torch.dtype, requires_grad: bool, training: bool, **_: Any
) -> list[Any]:
    make_input = partial(make_tensor, device=device, dtype=dtype)
    built = common.FunctionInput(10, 8, WIDE, dtype=dtype)
    other = torch.float32 if dtype == torch.float64 else torch.float64
    at_construction, at_call = common.ModuleErrorEnum.CONSTRUCTION_ERROR, common.ModuleErrorEnum.FORWARD_ERROR
    rows = [
        (at_construction, common.FunctionInput(8, 10, WIDE), None, ValueError, "^adjacency: .* adjacency.T"),
        (at_construction, common.FunctionInput(-1, 8, WIDE), None, ValueError, "^in_features: .* got -1"),
        (at_call, built, make_input((4, 8)), ValueError, r"^input: .* \(\*, 10\), got \(4, 8\)"),
        (at_call, built, make_input(()), ValueError, r"^input: .* got \(\)"),
        (at_call, built, make_input((4, 10)).to(other), TypeError, f"^input: .* got {other}"),
    ]
    return [
        common.ErrorModuleInput(
            common.ModuleInput(made, common.FunctionInput(x)), error_on=on, error_type=kind, error_regex=text
        )
        for on, made, x, kind, text in rows
    ]


SPARSE = common.ModuleInfo(
    SparseLinear,
    module_inputs_func=module_inputs,
    module_error_inputs_func=error_inputs,
    dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.float16),
)
LINEAR = next(info for info in common.module_db if info.module_cls is nn.Linear)

shown = pytest.param(
    SPARSE, marks=pytest.mark.shows("PyTorch's own tests", "`{test}` of torch's test_modules.py")
)
each_info = pytest.mark.parametrize("info", [shown, LINEAR], ids=lambda info: info.module_cls.__name__)
each_dtype = pytest.mark.parametrize("dtype", SPARSE.dtypes, ids=str)
wide_dtype = pytest.mark.parametrize("dtype", LINEAR.dtypes, ids=str)
each_conversion = pytest.mark.parametrize("swap", [False, True], ids=["replaced", "swapped"])


def built(module_input: Any, info: Any, **factory: Any) -> nn.Module:
    made = module_input.constructor_input
    layer: nn.Module = info.module_cls(*made.args, **made.kwargs, **factory)
    return layer


def calls(
    info: Any, device: str, dtype: torch.dtype, requires_grad: bool = False
) -> Iterator[tuple[Any, Any, Tensor]]:
    """For each input of a ModuleInfo itself, a layer made of it and the tensor that goes in."""
    for module_input in info.module_inputs_func(info, device, dtype, requires_grad, training=True):
        called = module_input.forward_input
        (x,) = (*called.args, *called.kwargs.values())
        yield module_input, built(module_input, info).to(device, dtype), x


def assert_placed(layer: nn.Module, device: str, dtype: torch.dtype) -> None:
    for tensor in itertools.chain(layer.parameters(), layer.buffers()):
        assert tensor.device.type == device
        assert tensor.dtype == dtype or not tensor.is_floating_point()


def reference(module_input: Any, layer: nn.Module, x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """The reference of a ModuleInput in float64 on the CPU, over a transform of all tensors."""
    wide = copy.deepcopy(layer).cpu().double()
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.copy_(of(parameter))
        output: Tensor = module_input.reference_fn(wide, of(x.detach().cpu().double()))
    return output
