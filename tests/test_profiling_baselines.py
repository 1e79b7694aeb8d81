"""The baselines compute what masked dense autograd does, and do what the registry says of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES, Case
from reference import Step, assert_close, dense_of, oracle, positions
from torch import Tensor, nn

from sparselinear import SparseLinear
from sparselinear.profiling import BASELINES, baselines, build

TRAINED = [name for name, system in BASELINES.items() if system.trains]
MASKED = ("masked", "function", "hook", "prune")

each_name = pytest.mark.parametrize("name", BASELINES)
each_trained = pytest.mark.parametrize("name", TRAINED)


def layer_of(case: Case, *, dtype: torch.dtype = torch.float64, **options: Any) -> SparseLinear:
    return SparseLinear.from_scipy(case.adjacency, dtype=dtype, **options)


def random_layer(**options: Any) -> SparseLinear:
    return layer_of(CASES[0], **options)


def weight_parameter(module: nn.Module) -> Tensor:
    """The Parameter that is trained: prune keeps it under a name of its own."""
    parameters = dict(module.named_parameters())
    return parameters["weight_orig"] if "weight_orig" in parameters else parameters["weight"]


def grad_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad.to_dense()


def effective_weight(module: nn.Module, in_features: int) -> Tensor:
    """(out_features, in_features) weight as the output shows it: what each unit vector is mapped to."""
    with torch.no_grad():
        bias = module(torch.zeros(1, in_features, dtype=torch.float64))
        return (module(torch.eye(in_features, dtype=torch.float64)) - bias).t()


@each_name
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_numbers_as_the_oracle(name: str, case: Case, bias: bool, device: str) -> None:
    layer = layer_of(case, bias=bias, device=device)
    module = build(name, layer)
    x = torch.randn(3, layer.in_features, dtype=torch.float64, device=device, requires_grad=True)
    grad_output = torch.randn(3, layer.out_features, dtype=torch.float64, device=device)
    expected, magnitude = oracle(layer.pattern, x, layer.values, layer.bias, grad_output)
    output = module(x)
    assert_close(output, expected.output, magnitude.output, torch.float64)
    output.backward(grad_output)
    assert_close(grad_of(x), expected.grad_input, magnitude.grad_input, torch.float64)
    if BASELINES[name].trains:
        _assert_gradients(module, layer, expected, magnitude)
    else:
        assert not any(parameter.requires_grad for parameter in module.parameters())


def _assert_gradients(module: nn.Module, layer: SparseLinear, expected: Step, magnitude: Step) -> None:
    grad = grad_of(weight_parameter(module))[positions(layer.pattern)]
    assert_close(grad, expected.grad_values, magnitude.grad_values, torch.float64)
    if layer.bias is not None:
        assert expected.grad_bias is not None
        assert magnitude.grad_bias is not None
        grad_bias = grad_of(module.get_parameter("bias"))
        assert_close(grad_bias, expected.grad_bias, magnitude.grad_bias, torch.float64)


@each_name
def test_layer_is_left_as_it_was(name: str, device: str) -> None:
    layer = random_layer(device=device)
    before = [tensor.clone() for tensor in layer.state_dict().values()]
    module = build(name, layer)
    for parameter in module.parameters():
        numbers = {
            torch.strided: lambda tensor: tensor,
            torch.sparse_coo: Tensor._values,
            torch.sparse_csr: Tensor.values,
        }[parameter.layout](parameter.detach())
        numbers.zero_()
    module(torch.randn(2, layer.in_features, dtype=torch.float64, device=device))
    assert all(torch.equal(a, b) for a, b in zip(before, layer.state_dict().values(), strict=True))
    assert layer.values.grad is None


@pytest.mark.parametrize("name", MASKED)
def test_gradient_of_dead_weights_is_zero(name: str, device: str) -> None:
    layer = random_layer(device=device)
    module = build(name, layer)
    module(torch.randn(3, layer.in_features, dtype=torch.float64, device=device)).sum().backward()
    dead = dense_of(layer.pattern, torch.ones_like(layer.values.detach())) == 0
    assert not grad_of(weight_parameter(module))[dead].any()


def _train(name: str, optimizer: type[torch.optim.Optimizer], **options: Any) -> tuple[Tensor, Tensor]:
    """Effective weight and the weight Parameter after six steps, both at the dead weights."""
    layer = random_layer(bias=False)
    module = build(name, layer)
    stepper = optimizer(module.parameters(), **options)
    for _ in range(6):
        stepper.zero_grad()
        module(torch.randn(5, layer.in_features, dtype=torch.float64)).square().sum().backward()
        stepper.step()
    dead = dense_of(layer.pattern, torch.ones_like(layer.values.detach())) == 0
    seen = effective_weight(module, layer.in_features)
    assert not torch.allclose(seen, layer.to_dense())  # it was trained
    return seen[dead], weight_parameter(module).detach().to_dense()[dead]


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "dense"])
def test_dead_weights_stay_dead_under_sgd(name: str) -> None:
    seen, stored = _train(name, torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.1)
    assert not seen.any()
    assert not stored.any()


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad])
def test_dead_weights_stay_dead_under_adam(name: str, optimizer: Any) -> None:
    seen, stored = _train(name, optimizer, weight_decay=0.1)
    assert not seen.any()
    assert not stored.any()


def test_dense_revives_dead_weights() -> None:
    seen, _ = _train("dense", torch.optim.SGD, lr=0.01)
    assert seen.all()
    assert BASELINES["dense"].dead_weights == "are trained like the others"


@pytest.mark.parametrize("name", MASKED)
def test_dead_weights_under_muon(name: str) -> None:
    """Muon makes the update orthogonal, which mixes its entries: a masked gradient is not enough."""
    seen, stored = _train(name, torch.optim.Muon)
    assert stored.any()
    kept_out = BASELINES[name].dead_weights == "never reach the output"
    assert seen.any() != kept_out
    assert kept_out or "Muon" in BASELINES[name].dead_weights


@each_trained
def test_adam_takes_what_the_registry_says(name: str) -> None:
    layer, refusal = random_layer(), BASELINES[name].adam_refusal
    module = build(name, layer)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.randn(3, layer.in_features, dtype=torch.float64)).sum().backward()
    if refusal:
        with pytest.raises(RuntimeError, match=refusal):
            optimizer.step()
    else:
        optimizer.step()
        assert len(optimizer.state) == 2


@each_name
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_run_or_are_refused_by_torch(name: str, dtype: torch.dtype) -> None:
    layer = random_layer(dtype=dtype)
    module = build(name, layer)
    x = torch.randn(3, layer.in_features, dtype=dtype)
    if name == "csr":
        with pytest.raises(RuntimeError, match="not implemented for"):
            module(x)
    else:
        assert layer.bias is not None
        expected = x.double() @ layer.to_dense().double().t() + layer.bias.double()
        torch.testing.assert_close(module(x).double(), expected, atol=0.05, rtol=0.02)


def test_csr_has_the_indices_people_write() -> None:
    weight = weight_parameter(build("csr", random_layer()))
    assert weight.crow_indices().dtype == weight.col_indices().dtype == torch.int64


def test_names_and_letters() -> None:
    assert "".join(system.letter for system in BASELINES.values()) == "abcdeefg"
    assert all(name == system.name and system.text for name, system in BASELINES.items())
    assert baselines.OURS.name not in BASELINES


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"expected names out of dense, masked.*got 'csx'.*mean 'csr'"):
        build("csx", random_layer())
    with pytest.raises(ValueError, match=r"got 'nothing like it'\.$"):
        build("nothing like it", random_layer())
