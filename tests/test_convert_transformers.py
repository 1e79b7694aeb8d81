"""Transformer layers whose feed-forward layers are converted, and what torch reads past a module."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pruned_models import holed
from torch import nn

from sparselinear import SparseLinear
from sparselinear.convert import densify, sparsify

pytestmark = pytest.mark.usefixtures("one_thread")


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
