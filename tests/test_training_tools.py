"""The training tools of torch do to a sparse layer what they do to a masked dense one, number for number.

Optimizers by themselves are in test_optimizers.py, torch.compile in test_operators.py, parametrizations in
test_parametrizations.py, copies and files in test_moved_models.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import twins
from devices import each_kernel_of
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from sparselinear import kernels

# A way to train: what it does to a model over some batches. Each is run on both twins.


def _clipped_norm(model: nn.Sequential, batches: Any) -> None:
    twins.train(model, batches, after=lambda: clip_grad_norm_(model.parameters(), 0.01))


def _clipped_value(model: nn.Sequential, batches: Any) -> None:
    twins.train(model, batches, after=lambda: clip_grad_value_(model.parameters(), 1e-3))


def _groups(model: nn.Sequential, batches: Any) -> None:
    weights = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    groups = [{"params": weights, "weight_decay": 0.3}, {"params": biases, "weight_decay": 0, "lr": 0.01}]
    twins.train(model, batches, torch.optim.AdamW(groups, lr=0.05))


def _accumulated(model: nn.Sequential, batches: Any) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step, (x, y) in enumerate(batches):
        (twins.loss(model, x, y) / 3).backward()
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
        twins.loss(model, x, y).backward()
        assert all(parameter.grad is None for parameter in model.parameters())


def _scheduled(model: nn.Sequential, batches: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=twins.STEPS)
    for batch in batches:
        twins.train(model, [batch], optimizer)
        scheduler.step()


def _lbfgs(model: nn.Sequential, batches: Any) -> None:
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3, line_search_fn="strong_wolfe")
    x, y = batches[0]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = twins.loss(model, x, y)
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
            twins.loss(lambda x: checkpoint(model, x, use_reentrant=reentrant), x, y).backward()
            optimizer.step()

    return train


def _averaged(**options: Any) -> Callable[[nn.Sequential, Any], None]:
    def train(model: nn.Sequential, batches: Any) -> None:
        average = AveragedModel(model, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for batch in batches:
            twins.train(model, [batch], optimizer)
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
        twins.train(model, batches)
    finally:
        torch.use_deterministic_algorithms(before)


def _anomalies_sought(model: nn.Sequential, batches: Any) -> None:
    with torch.autograd.detect_anomaly():
        twins.train(model, batches)


def _implemented(name: str, **how: Any) -> Callable[[nn.Sequential, Any], None]:
    def train(model: nn.Sequential, batches: Any) -> None:
        options = {"lr": 0.02, "weight_decay": 0.01} | ({"momentum": 0.9} if name == "SGD" else {})
        twins.train(model, batches, getattr(torch.optim, name)(model.parameters(), **options, **how))

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
    model = twins.model(device)
    twin, batches, start = twins.twin(model), twins.batches(device), [t.clone() for t in twins.numbers(model)]
    with kernels.use(kernel):
        WAYS[way](model, batches)
    WAYS[way](twin, batches)
    twins.same(model, twin)
    assert twins.moved(start, model)


@pytest.mark.shows("Training", "the norm that `clip_grad_norm_` returns")
def test_clipping_reports_the_norm_of_masked_dense(device: str) -> None:
    model = twins.model(device)
    twin, (x, y) = twins.twin(model), twins.batches(device)[0]
    norms = []
    for module in (model, twin):
        twins.loss(module, x, y).backward()
        norms.append(clip_grad_norm_(module.parameters(), 1e-3))
    torch.testing.assert_close(norms[0], norms[1])
    twins.same(model, twin, grad=True)


@pytest.mark.shows("Training", "anomaly mode names the operator")
def test_anomaly_mode_names_the_operator(device: str) -> None:
    layer, x = twins.layer(device=device), torch.randn(2, 53, dtype=torch.float64, device=device)
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
    model, x = twins.model(device), torch.randn(4, 53, dtype=torch.float64, device=device)
    twin = twins.twin(model)
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
    twins.same(model, twin, grad=True)


@contextmanager
def _profiled() -> Iterator[set[str]]:
    names: set[str] = set()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        yield names
    names |= {event.key for event in profile.key_averages()}


@pytest.mark.shows("Training", "`torch.profiler` shows the operators by name")
def test_profiler_shows_the_operators_by_name(device: str) -> None:
    """Those that the CPU starts; what runs on a GPU is theirs."""
    layer = twins.layer(dtype=torch.float32, device=device)
    x = torch.randn(4, 53, device=device, requires_grad=True)
    expected = {"torch": {"Spmm", "SpmmBackward"}}
    if kernels.available(device)["native"] is None:
        expected["native"] = {"sparselinear::spmm", "sparselinear::backward"}
    for kernel, names in expected.items():
        with kernels.use(kernel), _profiled() as found:
            layer(x).sum().backward()
        assert names <= found
