"""Whole models: what sparsify and densify keep, what they refuse, and that a failure leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from devices import run_again
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from sparselinear import SparseLinear
from sparselinear.convert import densify, magnitude_masks, sparse_layers, sparsify

pytestmark = pytest.mark.usefixtures("one_thread")


def pruned_mlp(device: str = "cpu") -> nn.Sequential:
    """An MLP that prune.global_unstructured has taken 90 % of the weights from."""
    torch.manual_seed(1)
    mlp = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)).to(
        device
    )
    weights = [(layer, "weight") for layer in mlp if isinstance(layer, nn.Linear)]
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=0.9)
    return mlp


def holed(linear: nn.Linear, density: float = 0.2) -> nn.Linear:
    """The layer, with zeros in its weight."""
    with torch.no_grad():
        linear.weight.mul_(torch.rand_like(linear.weight) < density)
    return linear


class Block(nn.Module):
    """Layers at two depths, one of them without zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"first": holed(nn.Linear(12, 9)), "second": nn.Linear(9, 9)})
        self.head = holed(nn.Linear(9, 5, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body["second"](torch.tanh(self.body["first"](x))))
        return y


def snapshot(model: nn.Module) -> tuple[Any, ...]:
    """What must not change on an error: modules, Parameters, entries, hooks."""
    return (
        {name: id(module) for name, module in model.named_modules()},
        {name: id(parameter) for name, parameter in model.named_parameters()},
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        {name: dict(module._forward_pre_hooks) for name, module in model.named_modules()},
    )


def assert_same(before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    assert before[:2] == after[:2]
    assert before[3] == after[3]
    for (name, old), new in zip(before[2].items(), after[2].values(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0, msg=name)


# Outputs, names, and what is where.


def test_pruned_mlp_gives_the_same_outputs(device: str) -> None:
    mlp, x = pruned_mlp(device), torch.randn(16, 40, device=device)
    expected = mlp(x)
    made = sparsify(mlp)
    assert made.converted == ("0", "2", "4")
    assert made.left == {}
    assert all(type(mlp[index]) is SparseLinear for index in (0, 2, 4))
    torch.testing.assert_close(mlp(x), expected, rtol=0, atol=1e-5)
    assert not any(layer._forward_pre_hooks for layer in mlp)
    kept = sum(layer.nnz for layer in mlp if isinstance(layer, SparseLinear))
    assert kept == round(0.1 * (40 * 64 + 64 * 48 + 48 * 10))


def test_only_layers_with_zeros_are_converted(device: str) -> None:
    model, x = Block().to(device), torch.randn(7, 12, device=device)
    expected, second = model(x), model.body["second"]
    made = sparsify(model)
    assert made.converted == ("body.first", "head")
    assert list(made.left) == ["body.second"]
    assert "2 layers converted: body.first, head\nbody.second left: no zeros" in str(made)
    assert model.body["second"] is second
    assert list(model.body) == ["first", "second"]
    torch.testing.assert_close(model(x), expected)


def test_back_again(device: str) -> None:
    model, x = Block().to(device), torch.randn(7, 12, device=device)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sparsify(model)
    made = densify(model)
    assert made.converted == ("body.first", "head")
    assert str(made) == "2 layers converted: body.first, head"
    told = model.state_dict()
    assert told.keys() == weights.keys()
    assert all(torch.equal(told[name], tensor) for name, tensor in weights.items())
    assert type(model.head) is nn.Linear
    assert model(x).shape == (7, 5)


def test_nothing_to_convert_is_said() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    before = snapshot(model)
    made = sparsify(model)
    assert made.converted == ()
    assert str(made) == "0 layers converted\n0 left: no zeros, or nothing else, in its weight"
    assert_same(before, snapshot(model))


MASK = (np.arange(12).reshape(4, 3) % 2).astype(bool)
FORMS: list[tuple[str, Callable[[], Any]]] = [
    ("numpy", lambda: MASK),
    ("scipy", lambda: sp.coo_array(MASK)),
    ("tensor", lambda: torch.from_numpy(MASK)),
    ("csr tensor", lambda: SparseLinear(3, 4, MASK).weight),
    ("pattern", lambda: SparseLinear(3, 4, MASK).pattern),
]


@pytest.mark.parametrize(("form", "make"), FORMS, ids=[form for form, _ in FORMS])
def test_masks_by_name(form: str, make: Callable[[], Any], device: str) -> None:
    """Masks of the CPU, for a model wherever it is."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)).to(device)
    weight = model[0].weight.detach().clone()
    assert sparsify(model, {"0": make()}).converted == ("0",)
    assert torch.equal(model[0].to_dense(), weight * torch.from_numpy(MASK).to(device))
    assert type(model[1]) is nn.Linear


def test_a_mask_may_be_narrower_than_pruning(device: str) -> None:
    mlp = pruned_mlp(device)
    expected = (mlp[0].weight_orig * mlp[0].weight_mask).detach()
    masks = magnitude_masks(mlp, 0.05, only=["0"])
    assert sparsify(mlp, masks).converted == ("0",)
    dense = mlp[0].to_dense()
    assert mlp[0].nnz == 128
    assert torch.equal(dense[dense != 0], expected[dense != 0])
    assert dense.abs()[dense != 0].min() >= expected[dense == 0].abs().max()


def test_only_takes_names_or_a_function() -> None:
    by_name, by_function = Block(), Block()
    made = sparsify(by_name, only=["head"])
    assert made.converted == ("head",)
    assert made.left["body.first"] == "left out by only"
    assert sparsify(by_name, {"body.first": np.eye(9, 12)}).left == {"body.second": "not in masks"}
    seen = []

    def choose(name: str, linear: nn.Linear, pattern: Any) -> bool:
        seen.append((name, linear.in_features, pattern.shape))
        return name != "head"

    assert sparsify(by_function, only=choose).converted == ("body.first",)
    assert seen == [("body.first", 12, (9, 12)), ("head", 9, (5, 9))]


def test_sparse_layers_leave_the_model_alone(device: str) -> None:
    mlp = pruned_mlp(device)
    before = snapshot(mlp)
    layers = sparse_layers(mlp)
    assert_same(before, snapshot(mlp))
    assert list(layers) == ["0", "2", "4"]
    assert torch.equal(layers["2"].to_dense(), mlp[2].weight)


# What is kept.


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_mode_gradients_and_dtype_are_kept(dtype: torch.dtype, training: bool, device: str) -> None:
    model = nn.Sequential(holed(nn.Linear(6, 5)), holed(nn.Linear(5, 4))).to(device, dtype).train(training)
    model(torch.randn(3, 6, dtype=dtype, device=device)).sum().backward()
    model[0].weight.requires_grad_(False)
    model[1].bias.requires_grad_(False)
    model[1].weight.no_decay = True
    grad, bias = model[1].weight.grad.clone(), model[1].bias
    sparsify(model)
    assert [layer.training for layer in model] == [training, training]
    assert not model[0].values.requires_grad
    assert model[1].values.requires_grad
    assert model[1].values.no_decay
    assert model[1].bias is bias
    assert model[1].values.dtype == dtype
    assert torch.equal(model[1].values.grad, model[1].pattern.values_at(grad))
    densify(model)
    assert not model[0].weight.requires_grad
    assert torch.equal(model[1].weight.grad, torch.where(model[1].weight != 0, grad, 0))


def test_hooks_and_their_handles_are_kept(device: str) -> None:
    mlp, calls = pruned_mlp(device), []
    layer, x = mlp[2], torch.randn(3, 40, device=device)
    handles = [
        layer.register_forward_pre_hook(lambda *_: calls.append("pre")),
        layer.register_forward_hook(lambda *_, **__: calls.append("forward"), with_kwargs=True),
        layer.register_full_backward_pre_hook(lambda *_: calls.append("backward pre")),
        layer.register_full_backward_hook(lambda *_: calls.append("backward")),
        layer.bias.register_hook(lambda _: calls.append("bias")),
        layer.register_load_state_dict_pre_hook(lambda module, *_: calls.append(type(module).__name__)),
    ]
    del layer
    sparsify(mlp)
    mlp(x).sum().backward()
    assert sorted(calls) == ["backward", "backward pre", "bias", "forward", "pre"]
    mlp.load_state_dict(mlp.state_dict())
    assert calls.pop() == "SparseLinear"
    calls.clear()
    densify(mlp)
    mlp(x).sum().backward()
    assert sorted(calls) == ["backward", "backward pre", "bias", "forward", "pre"]
    mlp.load_state_dict(mlp.state_dict())
    assert calls.pop() == "Linear"
    calls.clear()
    for handle in handles:
        handle.remove()
    mlp(x).sum().backward()
    assert calls == []


def test_what_a_user_put_on_a_layer_is_kept() -> None:
    model = nn.Sequential(holed(nn.Linear(6, 5)))
    model[0].label = "genes"
    model[0].register_buffer("scale", torch.ones(3), persistent=False)
    model[0].extra = nn.Dropout(0.5)
    sparsify(model)
    assert model[0].label == "genes"
    assert "0.scale" in dict(model.named_buffers())
    assert "0.scale" not in model.state_dict()
    assert type(model[0].extra) is nn.Dropout


def test_tied_weights_stay_tied(device: str) -> None:
    model = nn.Sequential(holed(nn.Linear(6, 6)), nn.Linear(6, 6), nn.Linear(6, 6)).to(device)
    model[1].weight = model[0].weight
    model[2].bias = model[0].bias
    x = torch.randn(3, 6, device=device)
    expected = model(x)
    optimizer = torch.optim.Adam(model.parameters())
    sparsify(model, optimizer=optimizer)
    assert model[1].values is model[0].values
    assert model[2].bias is model[0].bias
    assert model[1].bias is not model[0].bias
    torch.testing.assert_close(model(x), expected)
    assert sum(parameter is model[0].values for parameter in optimizer.param_groups[0]["params"]) == 1
    densify(model)
    assert model[1].weight is model[0].weight


def test_a_module_in_two_places_stays_one() -> None:
    model = nn.Sequential(holed(nn.Linear(6, 6)), nn.ReLU())
    model.append(model[0])
    assert sparsify(model, {"2": model[0].weight != 0}).converted == ("0",)
    assert model[2] is model[0]
    assert type(model[0]) is SparseLinear


def test_a_converted_model_can_be_copied_and_saved(device: str) -> None:
    mlp, x = pruned_mlp(device), torch.randn(3, 40, device=device)
    sparsify(mlp)
    twin = copy.deepcopy(mlp)
    torch.testing.assert_close(twin(x), mlp(x), **run_again(device))
    other = pruned_mlp(device)
    sparsify(other)
    other.load_state_dict(mlp.state_dict())
    torch.testing.assert_close(other(x), mlp(x), **run_again(device))


# Transformer layers.


def encoder_layer(density: float, batch_first: bool = True, **options: Any) -> nn.TransformerEncoderLayer:
    """Two feed-forward layers with random masks of the density and shape of real pruned ones."""
    layer = nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.0, batch_first=batch_first, **options)
    holed(layer.linear1, density)
    holed(layer.linear2, density)
    return layer


@pytest.mark.shows("Models and graphs", "`nn.TransformerEncoderLayer`, its feed-forward layers converted")
@pytest.mark.parametrize("density", [0.1, 0.05])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_encoder_layer(density: float, batch_first: bool, training: bool, device: str) -> None:
    layer = encoder_layer(density, batch_first).to(device).train(training)
    dense, x = copy.deepcopy(layer), torch.randn(2, 6, 512).to(device)
    made = sparsify(layer)
    assert made.converted == ("linear1", "linear2")
    assert list(made.left) == ["self_attn.out_proj"]
    torch.testing.assert_close(layer(x), dense(x), rtol=0, atol=1e-5)
    with torch.no_grad():  # where torch takes a fused forward in eval mode
        torch.testing.assert_close(layer(x), dense(x), rtol=0, atol=1e-5)
    grad_output = torch.randn_like(x)
    layer(x).backward(grad_output)
    dense(x).backward(grad_output)
    for name in ("linear1", "linear2"):
        sparse, reference = getattr(layer, name), getattr(dense, name)
        expected = sparse.pattern.values_at(reference.weight.grad)
        torch.testing.assert_close(
            sparse.values.grad, expected, rtol=0, atol=1e-5 * float(expected.abs().max())
        )


@pytest.mark.shows("Models and graphs", "`nn.TransformerEncoder` in eval mode, where torch has a fused path")
def test_fused_paths_are_switched_off_and_on_again(device: str) -> None:
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), 2
    ).eval()
    holed(encoder.layers[1].linear1)
    dense, x = copy.deepcopy(encoder.to(device)), torch.randn(3, 5, 16).to(device)
    padding = (torch.arange(5) >= torch.tensor([[5], [3], [2]])).to(device)
    sparsify(encoder, {"layers.1.linear1": encoder.layers[1].linear1.weight != 0})
    sparsified = copy.deepcopy(encoder)
    with torch.no_grad():
        got, expected = (model(x, src_key_padding_mask=padding) for model in (encoder, nested_off(dense)))
    torch.testing.assert_close(got[~padding], expected[~padding], rtol=0, atol=1e-5)
    assert encoder.layers[0].activation_relu_or_gelu == 1  # nothing sparse in this one
    for model in (encoder, sparsified):
        densify(model)
        assert model.use_nested_tensor is True
        assert model.layers[1].activation_relu_or_gelu == 1


def nested_off(encoder: nn.TransformerEncoder) -> nn.TransformerEncoder:
    """Without nested tensors, whose use torch warns about; the layers keep their fused forward."""
    encoder.use_nested_tensor = False
    return encoder


def test_attention_reads_its_out_proj_itself() -> None:
    """The reason why out_proj is left alone; if this fails, it need not be."""
    attention, x = nn.MultiheadAttention(16, 2, batch_first=True), torch.randn(2, 3, 16)
    attention.out_proj = SparseLinear.from_linear(attention.out_proj)
    attention(x, x, x)[0].sum().backward()
    assert attention.out_proj.values.grad is None
    with torch.no_grad(), pytest.raises(NotImplementedError, match="SparseCsr"):
        attention.eval()(x, x, x)


# What is refused, and that nothing has changed then.


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
