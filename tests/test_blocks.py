"""Sparse layers within other modules: attention made of torch's pieces, converted, trains as masked dense."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sparselinear import SparseLinear, kernels
from sparselinear.convert import sparsify

WIDTH, HEADS, STEPS = 12, 3, 5


class Attention(nn.Module):
    """Multi-head attention whose projections lie in a ModuleDict, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        names = ("query", "key", "value", "out")
        self.project = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH, dtype=torch.float64) for name in names})
        self.norm = nn.LayerNorm(WIDTH, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, WIDTH) -> the same"""
        heads = (
            self.project[name](x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        output: Tensor = self.norm(x + self.project["out"](mixed.transpose(1, 2).flatten(2)))
        return output


def _pruned() -> nn.Sequential:
    """The same at each call."""
    torch.manual_seed(2)
    model = nn.Sequential(Attention(), nn.GELU(), Attention())
    for module in model.modules():
        if isinstance(module, nn.Linear):
            prune.random_unstructured(module, "weight", amount=0.7)
    return model


def _train(model: nn.Module) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(3)
    losses = []
    for _ in range(STEPS):
        x = torch.randn(4, 6, WIDTH, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), x.roll(1, 1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.shows(
    "Models and graphs",
    "attention with its projections in an `nn.ModuleDict`, converted by `sparsify`: training",
)
@pytest.mark.parametrize("kernel", ["native", "torch", "gather"])
def test_converted_attention_trains_as_masked_dense(kernel: str) -> None:
    problem = kernels.available("cpu", torch.float64)[kernel]
    if problem:
        pytest.skip(problem)
    dense, model = _pruned(), _pruned()
    made = sparsify(model)
    assert len(made.converted) == 8
    with kernels.use(kernel):
        losses = _train(model)
    assert losses == pytest.approx(_train(dense), rel=1e-9)
    assert max(losses) - min(losses) > 0.05  # it learns something
    for name in made.converted:
        layer, linear = model.get_submodule(name), dense.get_submodule(name)
        assert isinstance(layer, SparseLinear)
        kept = linear.weight_orig * linear.weight_mask
        torch.testing.assert_close(layer.to_dense(), kept, rtol=1e-9, atol=1e-12)
