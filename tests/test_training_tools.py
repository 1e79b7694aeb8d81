"""The training tools of torch do to a sparse layer what they do to a masked dense one, number for number.

Optimizers by themselves are in test_optimizers.py, torch.compile in test_operators.py, parametrizations in
test_parametrizations.py.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES
from devices import each_kernel_of, run_again
from reference import dense_of, mask_of, positions
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from sparselinear import SparseLinear, SparsityPattern, interop, kernels

ADJACENCY = CASES[1].adjacency  # 37 x 53
STEPS, BATCH = 6, 24


class _Masked(nn.Linear):
    """A dense layer that has the weights of a sparse one, zeros elsewhere, and multiplies by its mask."""

    def __init__(self, layer: SparseLinear) -> None:
        shape = layer.in_features, layer.out_features
        super().__init__(*shape, device=layer.values.device, dtype=layer.values.dtype)
        self.mask = dense_of(layer.pattern, torch.ones_like(layer.values.detach()))
        self.here = positions(layer.pattern)
        with torch.no_grad():
            self.weight.copy_(dense_of(layer.pattern, layer.values))
            self.bias.copy_(layer.bias)

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight * self.mask, self.bias)


def _layer(**options: Any) -> SparseLinear:
    return SparseLinear.from_scipy(ADJACENCY, **({"dtype": torch.float64} | options))


def _model(device: str | None = None) -> nn.Sequential:
    pattern = interop.to_pattern(ADJACENCY.T, device=device)
    last = SparseLinear(37, 53, pattern, device=device, dtype=torch.float64)
    return nn.Sequential(_layer(device=device), nn.Tanh(), last)


def _twin(model: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(*(_Masked(m) if isinstance(m, SparseLinear) else copy.deepcopy(m) for m in model))


def _batches(device: str) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(STEPS, BATCH, 53, dtype=torch.float64).to(device)
    return list(zip(x, x.flip(2).tanh(), strict=True))


def _loss(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.mse_loss(model(x), y)


def _numbers(model: nn.Module, grad: bool = False) -> list[Tensor]:
    """Parameters or gradients of every layer, those of a dense one at the connections alone."""
    found: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, SparseLinear | _Masked):
            weight = module.values if isinstance(module, SparseLinear) else module.weight
            for parameter in (weight, module.bias):
                assert parameter is not None
                tensor = parameter.grad if grad else parameter.detach()
                assert tensor is not None
                found.append(tensor[module.here] if tensor.dim() == 2 else tensor)
    assert found
    return found


def _same(ours: nn.Module, theirs: nn.Module, grad: bool = False) -> None:
    for got, expected in zip(_numbers(ours, grad), _numbers(theirs, grad), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def _moved(start: list[Tensor], model: nn.Module) -> bool:
    return all(float((a - b).abs().max()) > 1e-4 for a, b in zip(start, _numbers(model), strict=True))


# A way to train: what it does to a model over some batches. Each is run on both twins.


def _plain(model: nn.Sequential, batches: Any, optimizer: Any = None, after: Any = None) -> None:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for x, y in batches:
        optimizer.zero_grad()
        _loss(model, x, y).backward()
        if after is not None:
            after()
        optimizer.step()


def _clipped_norm(model: nn.Sequential, batches: Any) -> None:
    _plain(model, batches, after=lambda: clip_grad_norm_(model.parameters(), 0.01))


def _clipped_value(model: nn.Sequential, batches: Any) -> None:
    _plain(model, batches, after=lambda: clip_grad_value_(model.parameters(), 1e-3))


def _groups(model: nn.Sequential, batches: Any) -> None:
    weights = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    groups = [{"params": weights, "weight_decay": 0.3}, {"params": biases, "weight_decay": 0, "lr": 0.01}]
    _plain(model, batches, torch.optim.AdamW(groups, lr=0.05))


def _accumulated(model: nn.Sequential, batches: Any) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step, (x, y) in enumerate(batches):
        (_loss(model, x, y) / 3).backward()
        if step % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()


def _step_inside_backward(model: nn.Sequential, batches: Any) -> None:
    optimizers = {p: torch.optim.SGD([p], lr=0.5, momentum=0.9) for p in model.parameters()}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    for x, y in batches:
        _loss(model, x, y).backward()
        assert all(parameter.grad is None for parameter in model.parameters())


def _scheduled(model: nn.Sequential, batches: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=STEPS)
    for batch in batches:
        _plain(model, [batch], optimizer)
        scheduler.step()


def _lbfgs(model: nn.Sequential, batches: Any) -> None:
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3, line_search_fn="strong_wolfe")
    x, y = batches[0]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(model, x, y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)


def _checkpointed(reentrant: bool) -> Callable[[nn.Sequential, Any], None]:
    def train(model: nn.Sequential, batches: Any) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for x, y in batches:
            optimizer.zero_grad()
            x = x.clone().requires_grad_()  # the reentrant kind wants an input with a gradient
            _loss(lambda x: checkpoint(model, x, use_reentrant=reentrant), x, y).backward()
            optimizer.step()

    return train


def _averaged(**options: Any) -> Callable[[nn.Sequential, Any], None]:
    def train(model: nn.Sequential, batches: Any) -> None:
        average = AveragedModel(model, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for batch in batches:
            _plain(model, [batch], optimizer)
            average.update_parameters(model)
        x = batches[0][0]
        assert not torch.allclose(average(x), model(x))
        with torch.no_grad():  # what is compared is the average
            for mine, averaged in zip(model.parameters(), average.module.parameters(), strict=True):
                mine.copy_(averaged)

    return train


def _deterministic(model: nn.Sequential, batches: Any) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        _plain(model, batches)
    finally:
        torch.use_deterministic_algorithms(before)


def _anomalies_sought(model: nn.Sequential, batches: Any) -> None:
    with torch.autograd.detect_anomaly():
        _plain(model, batches)


def _implemented(name: str, **how: Any) -> Callable[[nn.Sequential, Any], None]:
    def train(model: nn.Sequential, batches: Any) -> None:
        options = {"lr": 0.02, "weight_decay": 0.01} | ({"momentum": 0.9} if name == "SGD" else {})
        _plain(model, batches, getattr(torch.optim, name)(model.parameters(), **options, **how))

    return train


WAYS: dict[str, Callable[[nn.Sequential, Any], None]] = {
    "clip_grad_norm_": _clipped_norm,
    "clip_grad_value_": _clipped_value,
    "weight decay for values alone": _groups,
    "gradient accumulation": _accumulated,
    "optimizer step inside backward": _step_inside_backward,
    "learning rate scheduler": _scheduled,
    "LBFGS with line search": _lbfgs,
    "activation checkpointing, reentrant": _checkpointed(True),
    "activation checkpointing, not reentrant": _checkpointed(False),
    "AveragedModel, SWA": _averaged(),
    "AveragedModel, EMA": _averaged(multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True),
    "deterministic algorithms": _deterministic,
    "anomaly mode": _anomalies_sought,
    **{
        f"{name}, {kind}": _implemented(name, **{kind: True})
        for name in ("SGD", "Adam", "AdamW")
        for kind in ("fused", "foreach")
    },
}


@pytest.mark.shows("Training", "{way}")
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@each_kernel_of(torch.float64)
@pytest.mark.parametrize("way", list(WAYS))
def test_training_is_that_of_masked_dense(way: str, device: str, kernel: str) -> None:
    model = _model(device)
    twin, batches, start = _twin(model), _batches(device), [t.clone() for t in _numbers(model)]
    with kernels.use(kernel):
        WAYS[way](model, batches)
    WAYS[way](twin, batches)
    _same(model, twin)
    assert _moved(start, model)


@pytest.mark.shows("Training", "the norm that `clip_grad_norm_` returns")
def test_clipping_reports_the_norm_of_masked_dense(device: str) -> None:
    model = _model(device)
    twin, (x, y) = _twin(model), _batches(device)[0]
    norms = []
    for module in (model, twin):
        _loss(module, x, y).backward()
        norms.append(clip_grad_norm_(module.parameters(), 1e-3))
    torch.testing.assert_close(norms[0], norms[1])
    _same(model, twin, grad=True)


@pytest.mark.shows("Training", "anomaly mode names the operator")
def test_anomaly_mode_names_the_operator(device: str) -> None:
    layer, x = _layer(device=device), torch.randn(2, 53, dtype=torch.float64, device=device)
    output = layer(x)
    bad = torch.full_like(output, torch.nan)
    with (
        pytest.warns(UserWarning, match=r"Anomaly Detection|Error detected"),
        pytest.raises(RuntimeError, match="Function 'SpmmBackward' returned nan values"),
        torch.autograd.detect_anomaly(),
    ):
        layer(x).backward(bad)


@pytest.mark.shows("Training", "module hooks, forward and backward, before and after")
@pytest.mark.parametrize("kind", ["forward_pre", "forward", "full_backward_pre", "full_backward"])
def test_hooks_see_and_change_what_they_do_of_linear(kind: str, device: str) -> None:
    model, x = _model(device), torch.randn(4, 53, dtype=torch.float64, device=device)
    twin = _twin(model)
    seen: list[list[Tensor]] = []
    for module in (model, twin):
        tensors: list[Tensor] = []

        def hook(module: nn.Module, *parts: Any, tensors: list[Tensor] = tensors) -> Any:
            for part in parts:
                tensors.extend(part if isinstance(part, tuple) else (part,))
            changed = parts[-1] if kind == "forward" else parts[0]
            return changed * 2 if isinstance(changed, Tensor) else tuple(2 * t for t in changed)

        handle = getattr(module[2], f"register_{kind}_hook")(hook)
        module(x).square().sum().backward()
        handle.remove()
        seen.append(tensors)
    assert seen[0]
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs)
    _same(model, twin, grad=True)


# Models that are moved, copied or kept half way through a training.


def _by_deepcopy(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    return copy.deepcopy((model, optimizer))


def _by_pickle(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    return pickle.loads(pickle.dumps((model, optimizer)))


def _by_torch_save(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    file = io.BytesIO()
    torch.save((model, optimizer), file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _by_state_dicts(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> Any:
    fresh = _model(str(model[0].values.device))
    other = torch.optim.Adam(fresh.parameters(), lr=0.05)
    fresh.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # it takes the tensors over
    return fresh, other


@pytest.mark.shows(
    "Copies, moves and files",
    "a half-trained model and its optimizer: `deepcopy`, pickle, `torch.save`, `state_dict`",
)
@pytest.mark.parametrize("carry", [_by_deepcopy, _by_pickle, _by_torch_save, _by_state_dicts])
def test_half_trained_model_goes_on_as_if_never_copied(carry: Callable[..., Any], device: str) -> None:
    model, batches = _model(device), _batches(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    _plain(model, batches[:3], optimizer)
    copied, other = carry(model, optimizer)
    half = [t.clone() for t in _numbers(model)]
    _plain(copied, batches[3:], other)
    torch.testing.assert_close(_numbers(model), half, rtol=0, atol=0)  # the original stayed
    _plain(model, batches[3:], optimizer)
    torch.testing.assert_close(_numbers(copied), _numbers(model), **run_again(device))
    assert _moved(half, model)


def _on_meta() -> nn.Module:
    with torch.device("meta"):
        return _model()


def _skipped_init() -> nn.Module:
    skipped = (
        nn.utils.skip_init(SparseLinear, *shape, interop.to_pattern(adjacency), dtype=torch.float64)
        for shape, adjacency in (((53, 37), ADJACENCY), ((37, 53), ADJACENCY.T))
    )
    return nn.Sequential(next(skipped), nn.Tanh(), next(skipped))


@pytest.mark.shows("Copies, moves and files", "meta device, `torch.nn.utils.skip_init`, `to_empty`")
@pytest.mark.parametrize("make", [_on_meta, _skipped_init])
def test_model_made_without_numbers_trains_once_it_has_some(
    make: Callable[[], nn.Module], device: str
) -> None:
    model, batches = _model(device), _batches(device)
    late = make().to_empty(device=device)
    late.load_state_dict(model.state_dict())
    for module in (model, late):
        _plain(module, batches)
    torch.testing.assert_close(_numbers(late), _numbers(model), **run_again(device))
    late[0].reset_parameters()
    assert not torch.equal(late[0].values, model[0].values)


@pytest.mark.shows("Copies, moves and files", "safetensors")
def test_safetensors(tmp_path: Path, device: str) -> None:
    files = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    model, fresh = _model(device), _model(device)
    files.save_model(model, tmp_path / "model.safetensors")
    assert files.load_model(fresh, tmp_path / "model.safetensors") == (set(), [])
    torch.testing.assert_close(_numbers(fresh), _numbers(model), rtol=0, atol=0)
    state = files.load_file(tmp_path / "model.safetensors")
    assert SparseLinear.from_state_dict(state, "2.").pattern.equals(model[2].pattern)


@pytest.mark.shows("Copies, moves and files", "safetensors of layers that share a pattern")
def test_safetensors_of_layers_that_share_a_pattern(tmp_path: Path, device: str) -> None:
    files = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    pattern = interop.to_pattern(ADJACENCY, device=device)
    model, fresh = (
        nn.Sequential(*(SparseLinear(53, 37, pattern, device=device) for _ in range(2))) for _ in range(2)
    )
    files.save_model(model, tmp_path / "model.safetensors")
    assert files.load_model(fresh, tmp_path / "model.safetensors") == (set(), [])
    torch.testing.assert_close(_numbers(fresh), _numbers(model), rtol=0, atol=0)


def _train_in_child(model: nn.Sequential, batches: Any) -> None:
    torch.set_num_threads(1)
    _plain(model, batches)


@pytest.mark.shows("Copies, moves and files", "`share_memory()` and training in a spawned process")
def test_shared_memory_is_trained_by_a_spawned_process() -> None:
    model, batches = _model("cpu"), _batches("cpu")[:2]
    twin = _twin(model)
    model.share_memory()
    tensors = [*model.parameters(), *model.buffers()]
    assert all(tensor.is_shared() for tensor in tensors)
    assert model[0].col_indices is model[0].pattern.col_indices
    context = torch.multiprocessing.get_context("spawn")
    process = context.Process(target=_train_in_child, args=(model, batches))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    _plain(twin, batches)
    _same(model, twin)


def test_pattern_that_went_to_shared_memory_is_not_found_where_it_was() -> None:
    arrays = np.array([0, 1, 2]), np.array([0, 1])  # their memory stays when torch has left it
    pattern = SparsityPattern(*map(torch.from_numpy, arrays), (2, 2), index_dtype=torch.int64, copy=False)
    SparseLinear(2, 2, pattern).share_memory()
    arrays[1][:] = 1, 0
    found = SparsityPattern.over(*map(torch.from_numpy, arrays), 2)
    assert found.col_indices.tolist() == [1, 0]
    assert SparsityPattern.over(pattern.crow_indices, pattern.col_indices, 2).equals(pattern)


@contextmanager
def _profiled() -> Iterator[set[str]]:
    names: set[str] = set()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        yield names
    names |= {event.key for event in profile.key_averages()}


@pytest.mark.shows("Training", "`torch.profiler` shows the operators by name")
def test_profiler_shows_the_operators_by_name(device: str) -> None:
    """Those that the CPU starts; what runs on a GPU is theirs."""
    layer = _layer(dtype=torch.float32, device=device)
    x = torch.randn(4, 53, device=device, requires_grad=True)
    expected = {"torch": {"Spmm", "SpmmBackward"}}
    if kernels.available(device)["native"] is None:
        expected["native"] = {"sparselinear::spmm", "sparselinear::backward"}
    for kernel, names in expected.items():
        with kernels.use(kernel), _profiled() as found:
            layer(x).sum().backward()
        assert names <= found


@pytest.mark.shows("Models and graphs", "recurrent use: a hundred steps of one layer")
@each_kernel_of(torch.float64)
def test_backpropagation_through_a_hundred_steps_of_one_layer(device: str, kernel: str) -> None:
    pattern = interop.to_pattern(np.random.default_rng(0).random((37, 37)) < 0.15, device=device)
    layer = SparseLinear(37, 37, pattern, device=device, dtype=torch.float64)
    twin = _Masked(layer)
    kept: set[torch.dtype] = set()

    def note(tensor: Tensor) -> Tensor:
        kept.add(tensor.dtype)
        return tensor

    for module in (layer, twin):
        state = torch.linspace(-1, 1, 3 * 37, dtype=torch.float64).reshape(3, 37).to(device)
        state.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            last = state
            with kernels.use(kernel):
                for _ in range(100):
                    last = torch.tanh(last + 0.1 * module(last))
        last.square().sum().backward()
        module.start = state.grad
    _same(layer, twin, grad=True)
    torch.testing.assert_close(layer.start, twin.start)
    assert kept == {torch.float64}  # no step saves indices: all go by those of the pattern


@pytest.mark.shows("Models and graphs", "a hundred layers over one pattern hold its indices once")
def test_a_hundred_layers_over_one_pattern_hold_its_indices_once(device: str) -> None:
    pattern = interop.to_pattern(mask_of(ADJACENCY), device=device)
    layers = nn.Sequential(*(SparseLinear(53, 37, pattern, device=device) for _ in range(100)))
    indices = {b.data_ptr(): b.nbytes for n, b in layers.named_buffers() if n.endswith("indices")}
    assert sum(indices.values()) == pattern.col_indices.nbytes + pattern.crow_indices.nbytes
    copied = copy.deepcopy(layers)
    assert {b.data_ptr() for n, b in copied.named_buffers() if n.endswith("indices")} == set(indices)
