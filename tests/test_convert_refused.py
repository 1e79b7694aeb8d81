"""What sparsify and densify refuse, and that nothing has changed then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pruned_models import MASK, assert_same, holed, pruned_mlp, snapshot
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from sparselinear import SparseLinear
from sparselinear.convert import densify, sparsify

pytestmark = pytest.mark.usefixtures("one_thread")


def named_out_proj() -> tuple[nn.Module, dict[str, Any]]:
    return nn.TransformerEncoderLayer(16, 2, 32), {"masks": {"self_attn.out_proj": np.eye(16)}}


def parametrized() -> tuple[nn.Module, dict[str, Any]]:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4))), {"masks": {"0": MASK}}


def spectral() -> tuple[nn.Module, dict[str, Any]]:
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 4))), {"masks": {"0": MASK}}


def lazy() -> tuple[nn.Module, dict[str, Any]]:
    return nn.Sequential(nn.LazyLinear(4)), {"masks": {"0": MASK}}


def quantised() -> tuple[nn.Module, dict[str, Any]]:
    class Quantised(nn.Module):  # as torch.ao.nn.quantized.Linear, whose weight is a method
        def weight(self) -> Tensor:
            return torch.ones(4, 3)

    return nn.Sequential(Quantised(), nn.Linear(3, 4)), {"masks": {"0": MASK}}


def subclass() -> tuple[nn.Module, dict[str, Any]]:
    class Scaled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    return nn.Sequential(Scaled(3, 4)), {"masks": {"0": MASK}}


def replaced_forward() -> tuple[nn.Module, dict[str, Any]]:
    model = nn.Sequential(nn.Linear(3, 4))
    model[0].forward = lambda input: input  # type: ignore[method-assign]
    return model, {"only": ["0"]}


def weight_hook() -> tuple[nn.Module, dict[str, Any]]:
    model = pruned_mlp()
    model[0].weight_orig.register_hook(lambda grad: grad)
    return model, {}


def pruned_bias() -> tuple[nn.Module, dict[str, Any]]:
    model = pruned_mlp()
    prune.random_unstructured(model[4], "bias", 0.5)
    return model, {}


def tied_to_embedding() -> tuple[nn.Module, dict[str, Any]]:
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4))
    model[1].weight = model[0].weight
    return model, {"masks": {"1": MASK}}


def tied_by_memory() -> tuple[nn.Module, dict[str, Any]]:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4))
    model[1].weight = nn.Parameter(model[0].weight.data)
    return model, {"masks": {"0": MASK, "1": MASK}}


def tied_otherwise() -> tuple[nn.Module, dict[str, Any]]:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4))
    model[1].weight = model[0].weight
    return model, {"masks": {"0": MASK, "1": ~MASK}}


def outside_pruning() -> tuple[nn.Module, dict[str, Any]]:
    return pruned_mlp(), {"masks": {"4": np.ones((10, 48))}}


def foreign_optimizer() -> tuple[nn.Module, dict[str, Any]]:
    return pruned_mlp(), {"optimizer": torch.optim.Adam(nn.Linear(2, 2).parameters())}


def plain(**arguments: Any) -> Callable[[], tuple[nn.Module, dict[str, Any]]]:
    return lambda: (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), arguments)


def named_twice() -> tuple[nn.Module, dict[str, Any]]:
    layer = nn.Linear(4, 3)
    return nn.Sequential(layer, layer), {"masks": {"0": MASK.T, "1": ~MASK.T}}


REFUSED: list[tuple[Callable[[], tuple[Any, dict[str, Any]]], type[Exception], str]] = [
    (plain(masks={"O": MASK}), ValueError, "masks: expected names of modules.* got 'O'. There are '0', '2'"),
    (plain(masks={"0.weight": MASK}), ValueError, "Did you mean '0'"),
    (plain(masks={"1": MASK}), TypeError, "masks: '1': expected a torch.nn.Linear, got torch.*ReLU"),
    (plain(masks={"0": MASK.T}), ValueError, r"masks\['0'\]: expected shape .*\(4, 3\), got \(3, 4\).*\.T"),
    (plain(masks={"0": np.ones((4, 4))}), ValueError, r"expected shape .*\(4, 3\), got \(4, 4\)"),
    (plain(masks={"0": np.full((4, 3), np.nan)}), ValueError, r"masks\['0'\]: adjacency: .*NaN"),
    (plain(masks={"0": "all"}), TypeError, r"masks\['0'\]: adjacency: expected"),
    (plain(masks=[MASK]), TypeError, "masks: expected a dict"),
    (plain(masks={"0": MASK}, only="0"), TypeError, "only: expected names, or a function"),
    (plain(masks={"0": MASK}, only=["zero"]), ValueError, "only: expected names"),
    (plain(masks={"0": MASK}, only=["0", "2"]), ValueError, "have a mask, got '2'"),
    (plain(masks={"0": MASK}, optimizer="Adam"), TypeError, "optimizer: expected a torch.optim.Optimizer"),
    (lambda: (nn.Linear(3, 4), {}), ValueError, "model: .*SparseLinear.from_linear"),
    (lambda: (nn.Sequential(nn.ReLU()), {}), ValueError, "model: expected a module that holds a Linear"),
    (lambda: ("model", {}), TypeError, "model: expected a torch.nn.Module, got str"),
    (named_twice, ValueError, "masks: expected one mask for each layer, got several"),
    (named_out_proj, ValueError, "'self_attn.out_proj' cannot be converted: nn.MultiheadAttention reads"),
    (parametrized, ValueError, r"cannot be converted: it is parametrized \(weight\)"),
    (spectral, ValueError, "its weight is computed by a hook"),
    (lazy, ValueError, "pass a batch through the model"),
    (quantised, TypeError, "masks: '0': expected a torch.nn.Linear, got .*Quantised"),
    (subclass, ValueError, "it is a subclass, .*Scaled"),
    (replaced_forward, ValueError, "its forward was replaced"),
    (weight_hook, ValueError, r"0: weight: expected no hooks of its own, got 1.*\(64, 40\)"),
    (pruned_bias, ValueError, "4.bias: expected a Parameter"),
    (tied_to_embedding, ValueError, "1: weight: .*shared with '0.weight', which is not converted"),
    (tied_by_memory, ValueError, "0: weight: .*shared with '1.weight'"),
    (tied_otherwise, ValueError, "which has other connections"),
    (outside_pruning, ValueError, r"masks\['4'\]: expected connections within the mask of the pruned layer"),
    (foreign_optimizer, ValueError, "optimizer: expected one that holds the weight of '0'"),
]


@pytest.mark.parametrize(("make", "kind", "text"), REFUSED, ids=[text[:30] for *_, text in REFUSED])
def test_refused(make: Callable[[], tuple[Any, dict[str, Any]]], kind: type[Exception], text: str) -> None:
    model, arguments = make()
    whole = isinstance(model, nn.Module) and not parametrize.is_parametrized(model) and make is not lazy
    before = snapshot(model) if whole else None
    with pytest.raises(kind, match=text):
        sparsify(model, **arguments)
    if before:
        assert_same(before, snapshot(model))


def test_an_error_late_leaves_model_and_optimizer_alone(device: str) -> None:
    mlp = pruned_mlp(device)
    optimizer = torch.optim.Adam([mlp[0].weight_orig, mlp[2].weight_orig])
    for _ in range(2):
        mlp(torch.randn(4, 40, device=device)).sum().backward()
        optimizer.step()
    before, held = snapshot(mlp), list(optimizer.param_groups[0]["params"])
    state = {id(key): dict(entries) for key, entries in optimizer.state.items()}
    with pytest.raises(ValueError, match="holds the weight of '4'"):
        sparsify(mlp, optimizer=optimizer)
    assert_same(before, snapshot(mlp))
    assert all(a is b for a, b in zip(held, optimizer.param_groups[0]["params"], strict=True))
    assert state == {id(key): entries for key, entries in optimizer.state.items()}
    assert sparsify(mlp, only=["0", "2"], optimizer=optimizer).converted == ("0", "2")


@pytest.mark.parametrize("make", [parametrized, spectral, lazy, subclass])
def test_what_cannot_be_converted_is_left_where_nobody_named_it(
    make: Callable[[], tuple[nn.Module, dict[str, Any]]],
) -> None:
    model = nn.Sequential(make()[0], holed(nn.Linear(4, 4)))
    made = sparsify(model)
    assert made.converted == ("1",)
    assert list(made.left) == ["0.0"]
    assert made.left["0.0"].startswith("it"), made.left


def test_a_wrapped_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrapper(nn.Sequential):
        """Stands for DistributedDataParallel, which wants a process group."""

    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", Wrapper)
    with pytest.raises(ValueError, match="Convert its module, then wrap it anew"):
        sparsify(Wrapper(holed(nn.Linear(3, 4))))


def test_densify_refuses() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(ValueError, match="a module that holds a SparseLinear"):
        densify(model)
    model[0] = SparseLinear(3, 4, MASK)
    with pytest.raises(
        ValueError, match=r"only: expected names of modules, each a SparseLinear, got 'first'"
    ):
        densify(model, only=["first"])
    with pytest.raises(ValueError, match="optimizer: expected one that holds the weight of '0'"):
        densify(model, optimizer=torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
    assert type(model[0]) is SparseLinear
