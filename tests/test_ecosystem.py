"""Training loops of other libraries do to a sparse layer what the plain loop of torch does.

They need the extra ``ecosystem``; without it they are skipped.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, TensorDataset

from sparselinear import SparseLinear

ADJACENCY = CASES[1].adjacency  # 37 x 53
STEPS, BATCH, CLIP, RATE = 6, 8, 0.05, 0.05
MISSING = "{} is not installed: pip install -c constraints.txt -e '.[dev,ecosystem]'"


def _model() -> nn.Sequential:
    first = SparseLinear.from_scipy(ADJACENCY, dtype=torch.float64)
    return nn.Sequential(first, nn.Tanh(), SparseLinear.from_scipy(ADJACENCY.T, dtype=torch.float64))


def _loader() -> DataLoader[Any]:
    """The same batches in the same order, each time it is gone through."""
    x = torch.randn(STEPS * BATCH, 53, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x.flip(1).tanh()), batch_size=BATCH)


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.mse_loss(model(x), y)


def _by_hand(model: nn.Module, rounds: int) -> list[float]:
    """Losses of the plain loop: clipped gradients, a step, and a rate that halves after each round."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    losses = []
    for _ in range(rounds):
        for x, y in _loader():
            optimizer.zero_grad()
            loss = _loss(model, x, y)
            loss.backward()
            clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
    return losses


def _same(model: nn.Module, twin: nn.Module) -> None:
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


# Lightning's own: a class that torch has renamed, and advice where there are more processors.
LEAF = r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated:FutureWarning:lightning.pytorch"
WORKERS = "ignore:The 'train_dataloader' does not have many workers:UserWarning:lightning.pytorch"


@pytest.fixture
def lightning() -> Any:
    return pytest.importorskip("lightning.pytorch", reason=MISSING.format("lightning"))


def _lightning_module(lightning: Any, model: nn.Module) -> Any:
    class Net(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model, self.losses = model, []

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = _loss(self.model, *batch)
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=RATE)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    return Net()


def _trainer(lightning: Any, folder: Path, rounds: int) -> Any:
    return lightning.Trainer(
        accelerator="cpu",
        max_epochs=rounds,
        gradient_clip_val=CLIP,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.mark.shows("Other libraries", "Lightning: a `Trainer` has the losses of the plain loop")
@pytest.mark.filterwarnings(LEAF, WORKERS)
def test_lightning_trains_as_the_plain_loop(lightning: Any, tmp_path: Path) -> None:
    model = _model()
    twin = copy.deepcopy(model)
    net = _lightning_module(lightning, model)
    _trainer(lightning, tmp_path, 2).fit(net, _loader())
    expected = _by_hand(twin, 2)
    assert net.losses == pytest.approx(expected, rel=0, abs=1e-6)
    assert expected[-1] < 0.9 * expected[0]
    _same(model, twin)


@pytest.mark.shows("Other libraries", "Lightning: training that goes on from a checkpoint file")
@pytest.mark.filterwarnings(LEAF, WORKERS)
def test_lightning_goes_on_from_its_checkpoint(lightning: Any, tmp_path: Path) -> None:
    model = _model()
    twin, other = copy.deepcopy(model), _model()
    first = _trainer(lightning, tmp_path, 1)
    first.fit(_lightning_module(lightning, model), _loader())
    first.save_checkpoint(tmp_path / "net.ckpt")
    net = _lightning_module(lightning, other)
    _trainer(lightning, tmp_path, 2).fit(net, _loader(), ckpt_path=tmp_path / "net.ckpt")
    expected = _by_hand(twin, 2)
    assert net.losses == pytest.approx(expected[STEPS:], rel=0, abs=1e-6)
    _same(other, twin)
    state = torch.load(tmp_path / "net.ckpt", weights_only=False)["state_dict"]
    layer = SparseLinear.from_state_dict(state, "model.0.")
    torch.testing.assert_close(layer.to_dense(), model[0].to_dense(), rtol=0, atol=0)


@pytest.fixture
def accelerate() -> Any:
    return pytest.importorskip("accelerate", reason=MISSING.format("accelerate"))


def _accelerated(accelerator: Any, parts: Any, rounds: int) -> list[float]:
    model, optimizer, loader, scheduler = parts
    losses = []
    for _ in range(rounds):
        for x, y in loader:
            optimizer.zero_grad()
            loss = _loss(model, x, y)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
    return losses


def _prepared(accelerator: Any, model: nn.Module) -> Any:
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    return accelerator.prepare(model, optimizer, _loader(), scheduler)


@pytest.mark.shows("Other libraries", "Hugging Face Accelerate: the losses of the plain loop")
def test_accelerate_trains_as_the_plain_loop(accelerate: Any) -> None:
    model = _model()
    twin = copy.deepcopy(model)
    accelerator = accelerate.Accelerator(cpu=True)
    losses = _accelerated(accelerator, _prepared(accelerator, model), 2)
    assert losses == pytest.approx(_by_hand(twin, 2), rel=0, abs=1e-6)
    _same(accelerator.unwrap_model(model), twin)


@pytest.mark.shows("Other libraries", "Hugging Face Accelerate: `save_state`, `load_state`, `save_model`")
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_accelerate_goes_on_from_its_state(accelerate: Any, safe: bool, tmp_path: Path) -> None:
    model = _model()
    twin, other = copy.deepcopy(model), _model()
    accelerator = accelerate.Accelerator(cpu=True)
    _accelerated(accelerator, _prepared(accelerator, model), 1)
    accelerator.save_state(tmp_path, safe_serialization=safe)
    accelerator.save_model(model, tmp_path / "model", safe_serialization=safe)
    accelerate.load_checkpoint_in_model(half := _model(), tmp_path / "model")
    _same(half, model)

    accelerator.free_memory()
    parts = _prepared(accelerator, other)
    accelerator.load_state(tmp_path)
    losses = _accelerated(accelerator, parts, 1)
    assert losses == pytest.approx(_by_hand(twin, 2)[STEPS:], rel=0, abs=1e-6)
    _same(other, twin)
