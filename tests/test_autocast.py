"""Autocast and GradScaler: dtypes of nn.Linear, steps of masked dense layers, the same of them skipped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES
from devices import on_cuda
from reference import mask_of
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, prune

from sparselinear import SparseLinear, functional, interop, kernels

ADJACENCY = CASES[1].adjacency  # 37 x 53
STEPS, BATCH = 8, 24
each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_cuda)])
# Not those that run: the rows of a GPU are to be seen where there is none.
each_kernel = pytest.mark.parametrize(
    ("device", "kernel"),
    [("cpu", name) for name in ("native", "torch", "embedding_bag", "gather")]
    + [("cpu", "amx") for problem in [kernels.available()["amx"]] if problem is None]
    + [pytest.param("cuda", name, marks=on_cuda) for name in ("torch", "triton", "gather")],
)
each_half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def _skip_unless_available(kernel: str, device: str, dtype: torch.dtype) -> None:
    problem = kernels.available(device, dtype)[kernel]
    if problem:
        pytest.skip(problem)


@pytest.mark.shows("Mixed precision", "autocast on {device}, bfloat16 and float16: the dtypes of `nn.Linear`")
@each_kernel
@each_half
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 40])
def test_autocast_does_what_it_does_to_linear(
    device: str, kernel: str, dtype: torch.dtype, source: torch.dtype, batch: int
) -> None:
    _skip_unless_available(kernel, device, dtype)
    with kernels.use(kernel):
        _check_autocast(device, dtype, source, batch)


@pytest.mark.shows("Mixed precision", "autocast on {device} leaves float64 alone, as it does in `nn.Linear`")
@each_device
@each_half
def test_autocast_leaves_float64_alone(device: str, dtype: torch.dtype) -> None:
    _check_autocast(device, dtype, torch.float64, 7)


def _check_autocast(device: str, dtype: torch.dtype, source: torch.dtype, batch: int) -> None:
    """The dtypes of nn.Linear, and the numbers of a layer cast by hand; backward inside of it as well."""
    pattern = interop.to_pattern(ADJACENCY, device=device)
    wide = torch.float64 if source == torch.float64 else torch.float32
    x = torch.randn(batch, 53, device=device).to(source).requires_grad_()
    values = torch.randn(pattern.nnz, dtype=wide, device=device, requires_grad=True)
    bias = torch.randn(37, dtype=wide, device=device, requires_grad=True)
    linear = nn.Linear(53, 37, dtype=wide, device=device)
    with torch.autocast(device, dtype=dtype):
        output, expected = functional.sparse_linear(x, values, pattern, bias), linear(x)
        assert output.dtype == expected.dtype
        grads = torch.autograd.grad(output.float().sum(), (x, values, bias))
    assert [grad.dtype for grad in grads] == [source, wide, wide]
    cast = wide if source == torch.float64 else dtype
    by_hand = functional.sparse_linear(x.to(cast), values.to(cast), pattern, bias.to(cast))
    torch.testing.assert_close(output, by_hand, rtol=0, atol=0)
    expected_grads = torch.autograd.grad(by_hand.float().sum(), (x, values, bias))
    for grad, again in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, again, rtol=0, atol=0)


def _models(device: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Two sparse layers around a tanh, and the same dense and masked by torch's own pruning."""
    model = nn.Sequential(
        SparseLinear.from_scipy(ADJACENCY, device=device),
        nn.Tanh(),
        SparseLinear.from_scipy(ADJACENCY.T, device=device),
    )
    masks = (mask_of(ADJACENCY), mask_of(ADJACENCY.T))
    first, last = (
        prune.custom_from_mask(layer.to_linear(), "weight", mask.to(device))
        for layer, mask in zip((model[0], model[2]), masks, strict=True)
    )
    return model, nn.Sequential(first, nn.Tanh(), last)


class _Scaled:
    """A training loop with autocast and a GradScaler, as torch's documentation has it."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, fused: bool, **options: Any) -> None:
        self.model, self.dtype = model, dtype
        self.device = next(model.parameters()).device.type
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, fused=fused)
        self.scaler = torch.amp.GradScaler(self.device, **options)

    def step(self, x: Tensor) -> float:
        self.optimizer.zero_grad()
        with torch.autocast(self.device, dtype=self.dtype):
            output = self.model(x)
            loss = nn.functional.mse_loss(output.float(), x.flip(1).tanh())
        assert output.dtype == self.dtype
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        clip_grad_norm_(self.model.parameters(), 0.1)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in self.model.parameters())
        return loss.item()


@pytest.mark.shows(
    "Mixed precision", "autocast and `GradScaler` on {device}: the losses of a masked dense model"
)
@each_kernel
@each_half
@pytest.mark.parametrize("fused", [False, True], ids=["default", "fused"])
def test_scaled_training_is_that_of_masked_dense(
    device: str, kernel: str, dtype: torch.dtype, fused: bool
) -> None:
    _skip_unless_available(kernel, device, dtype)
    model, dense = _models(device)
    options: dict[str, Any] = {"init_scale": 2.0**10, "growth_interval": 3}
    ours, theirs = _Scaled(model, dtype, fused, **options), _Scaled(dense, dtype, fused, **options)
    losses = []
    with kernels.use(kernel):
        for _ in range(STEPS):
            x = torch.randn(BATCH, 53, device=device)
            losses.append(ours.step(x))
            assert losses[-1] == pytest.approx(theirs.step(x), rel=2 * torch.finfo(dtype).eps)
            assert ours.scaler.get_scale() == theirs.scaler.get_scale()
    assert losses[-1] < 0.9 * losses[0]
    assert ours.scaler.get_scale() == 2.0**12  # it grew after the third and the sixth step


@pytest.mark.shows("Mixed precision", "`GradScaler` on {device} skips a step whose gradients overflow")
@each_kernel
@pytest.mark.parametrize("fused", [False, True], ids=["default", "fused"])
@pytest.mark.parametrize(
    ("dtype", "cause"),
    [(torch.float16, "scale"), (torch.float16, "input"), (torch.bfloat16, "input")],
    ids=["scale", "input-float16", "input-bfloat16"],
)
def test_a_step_that_overflows_is_skipped(
    device: str, kernel: str, fused: bool, dtype: torch.dtype, cause: str
) -> None:
    _skip_unless_available(kernel, device, dtype)
    model, dense = _models(device)
    x = torch.randn(BATCH, 53, device=device)
    bad = x.clone()
    if cause == "input":
        bad[0, ADJACENCY.indices[0]] = torch.inf
    options = {"init_scale": 2.0**30 if cause == "scale" else 2.0**14, "backoff_factor": 2.0**-10}
    for each in (model, dense):
        run, before = _Scaled(each, dtype, fused, **options), [p.detach().clone() for p in each.parameters()]
        with kernels.use(kernel):
            run.step(bad)
            assert all(map(torch.equal, each.parameters(), before))
            assert run.scaler.get_scale() == options["init_scale"] * 2.0**-10
            run.step(x)
        assert all(not torch.equal(p, old) for p, old in zip(each.parameters(), before, strict=True))
        assert all(bool(p.isfinite().all()) for p in each.parameters())
        assert run.scaler.get_scale() == options["init_scale"] * 2.0**-10
