"""Models that torch.nn.utils.prune has pruned: encoder layers of a Transformer, and an MLP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sparselinear import interop

# Magnitude pruning of a Transformer, decoder layer 0; rows are outputs. Both cases have conv2 at 90 %: the
# folder has no other of its shape that was pruned in this way.
DLMC = "dlmc/transformer__magnitude_pruning__{}__body_decoder_layer_0_ffn_{}_fully_connected.npz"
SECOND_DENSITY = 0.1


@dataclass(frozen=True)
class Case:
    """A model that torch.nn.utils.prune has pruned, and the shape of its input."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


def cases(folder: Path | None) -> list[Case]:
    """The models, with masks from the folder of data, or random ones.

    Raises:
        FileNotFoundError: the folder lacks a mask.
    """
    found = []
    for density in (0.1, 0.05):
        masks = [mask(folder, "conv1", density), mask(folder, "conv2", SECOND_DENSITY)]
        kind = "random" if folder is None else "DLMC"
        zeros = f"{1 - density:.0%} and {1 - SECOND_DENSITY:.0%}"
        name = f"encoder layer 512, 2048, {kind} masks of {zeros}"
        found.append(Case(name, partial(encoder_layer, *masks), (8, 64, 512)))
    return [*found, Case("MLP 1024-2048-2048-10, global pruning of 90%", mlp, (256, 1024))]


def mask(folder: Path | None, conv: str, density: float) -> Tensor:
    """(out_features, in_features), 1 where a connection is."""
    if folder is None:
        shape = (2048, 512) if conv == "conv1" else (512, 2048)
        return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density).float()
    matrix = interop.load_adjacency(folder / DLMC.format(round(1 - density, 2), conv))
    return torch.from_numpy(matrix.toarray() != 0).float()


def encoder_layer(first: Tensor, second: Tensor) -> nn.Module:
    """Its feed-forward layers pruned by the masks, its attention dense."""
    layer = nn.TransformerEncoderLayer(first.shape[1], 8, first.shape[0], dropout=0.0, batch_first=True)
    prune.custom_from_mask(layer.linear1, "weight", first)
    prune.custom_from_mask(layer.linear2, "weight", second)
    return layer


def mlp(sizes: tuple[int, ...] = (1024, 2048, 2048, 10), amount: float = 0.9) -> nn.Module:
    """Pruned by magnitude over all layers at once."""
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    for layer in layers:
        # Weights of a bell shape, as trained ones have. Uniform ones end at 1 / sqrt(in_features), so that
        # nearly all that is left would be in the first layer.
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=amount)
    between = [module for layer in layers for module in (layer, nn.ReLU())]
    return nn.Sequential(*between[:-1])
