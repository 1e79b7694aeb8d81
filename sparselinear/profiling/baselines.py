"""The systems people use today for a layer with a fixed sparse pattern, in one place.

Each is a small ``nn.Module`` built from a :class:`~sparselinear.SparseLinear`, with its pattern, values
and bias copied, and takes an input of shape (batch, in_features). They are written as their users
write them, not as well as they could be. ``BASELINES`` says of each what it is, whether it trains,
whether Adam takes it, and what it costs in bytes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from ..linear import SparseLinear
from ..pattern import SparsityPattern
from . import ledger
from .ledger import Ledger, Sizes


@dataclass(frozen=True)
class System:
    """One way to hold and to run the layer.

    Attributes:
        name: what the command line and the tables call it.
        letter: its letter in the list of baselines; empty for ours.
        text: what it is, in a line.
        make: builds the module from a layer.
        bytes: its ledger, from the sizes of the layer alone.
        trains: whether it makes sense to train it.
        adam_refusal: what torch.optim.Adam says to its parameters; empty where it takes them.
        dead_weights: what becomes of the weights outside the pattern when it is trained.
    """

    name: str
    letter: str
    text: str
    make: Callable[[SparseLinear], nn.Module]
    bytes: Callable[[Sizes], Ledger]
    trains: bool = True
    adam_refusal: str = ""
    dead_weights: str = ""


def mask_of(layer: SparseLinear) -> Tensor:
    """(out_features, in_features) of the dtype of the values: 1 at the connections, 0 elsewhere."""
    return layer.pattern.dense_tensor(layer.values.new_ones(1).expand(layer.nnz))


def _bias_of(layer: SparseLinear) -> nn.Parameter | None:
    return None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())


class Masked(nn.Module):
    """(b) The weight is multiplied by the mask in every forward."""

    mask: Tensor

    def __init__(self, layer: SparseLinear) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.to_dense())
        self.bias = _bias_of(layer)
        self.register_buffer("mask", mask_of(layer))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features)."""
        return F.linear(x, self.weight * self.mask, self.bias)


class _MaskedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, mask)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_output,) = grads
        x, weight, mask = ctx.saved_tensors
        asked = ctx.needs_input_grad
        grad_x = grad_output @ weight if asked[0] else None
        grad_weight = (grad_output.t() @ x) * mask if asked[1] else None
        grad_bias = grad_output.sum(0) if asked[2] else None
        return grad_x, grad_weight, grad_bias, None


class MaskedFunction(Masked):
    """(c) A custom autograd Function: dense weight, the mask applied to its gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features)."""
        y: Tensor = _MaskedGradient.apply(x, self.weight, self.bias, self.mask)
        return y


def _hooked(layer: SparseLinear) -> nn.Module:
    """(d) nn.Linear, its weight masked once, its gradient masked by a hook."""
    linear, mask = layer.to_linear(), mask_of(layer)
    linear.register_buffer("mask", mask)
    linear.weight.register_hook(lambda grad: grad * mask)
    return linear


def _pruned(layer: SparseLinear) -> nn.Module:
    """(e) torch.nn.utils.prune: the weight is masked anew by a hook in front of every forward."""
    linear = layer.to_linear()
    prune.custom_from_mask(linear, "weight", mask_of(layer))
    return linear


def _pruned_removed(layer: SparseLinear) -> nn.Module:
    """(e) The same after prune.remove: a plain nn.Linear full of zeros, for inference."""
    linear = _pruned(layer)
    prune.remove(linear, "weight")
    return linear.requires_grad_(False).eval()


class TorchSparse(nn.Module):
    """(f), (g) The weight is a torch.sparse tensor and a Parameter, with torch's own autograd."""

    def __init__(self, layer: SparseLinear, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = _bias_of(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features)."""
        y: Tensor = torch.sparse.mm(self.weight, x.t()).t()
        return y if self.bias is None else y + self.bias


def _coo(layer: SparseLinear) -> nn.Module:
    return TorchSparse(layer, layer.pattern.coo_tensor(layer.values.detach().clone()))


def _csr(layer: SparseLinear) -> nn.Module:
    kept = layer.pattern
    wide = SparsityPattern(kept.crow_indices, kept.col_indices, kept.shape, index_dtype=torch.int64)
    return TorchSparse(layer, wide.csr_tensor(layer.values.detach().clone()))


_STAY_ZERO = "stay zero, unless an optimizer mixes the entries of a gradient (Muon)"

BASELINES: dict[str, System] = {
    system.name: system
    for system in (
        System(
            "dense", "a", "nn.Linear, no mask", SparseLinear.to_linear, ledger.dense,
            dead_weights="are trained like the others",
        ),
        System(
            "masked", "b", "weight * mask in every forward", Masked,
            lambda sizes: ledger.dense(sizes, masks=1, transient=1),
            dead_weights="never reach the output",
        ),
        System(
            "function", "c", "Function that masks the gradient", MaskedFunction,
            lambda sizes: ledger.dense(sizes, masks=1, transient=1),
            dead_weights=_STAY_ZERO,
        ),
        System(
            "hook", "d", "nn.Linear, gradient masked by a hook", _hooked,
            lambda sizes: ledger.dense(sizes, masks=1, transient=1),
            dead_weights=_STAY_ZERO,
        ),
        System(
            "prune", "e", "prune.custom_from_mask", _pruned,
            ledger.pruned,
            dead_weights="never reach the output",
        ),
        System(
            "prune-removed", "e", "after prune.remove, inference only", _pruned_removed,
            ledger.pruned_removed, trains=False,
        ),
        System(
            "coo", "f", "torch.sparse COO, plain autograd", _coo, ledger.coo,
            adam_refusal="Adam does not support sparse gradients", dead_weights="do not exist",
        ),
        System(
            "csr", "g", "torch.sparse CSR, plain autograd", _csr, ledger.csr,
            adam_refusal="unsupported tensor layout: SparseCsr", dead_weights="do not exist",
        ),
    )
}  # fmt: skip

OURS = System(
    "sparselinear", "", "values and indices only", lambda layer: layer, ledger.sparse,
    dead_weights="do not exist",
)  # fmt: skip


def find(name: str) -> System:
    """The baseline of a name.

    Raises:
        ValueError: there is no such baseline.
    """
    if name in BASELINES:
        return BASELINES[name]
    close = difflib.get_close_matches(name, BASELINES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"baselines: expected names out of {', '.join(BASELINES)}, got {name!r}.{hint}")


def build(name: str, layer: SparseLinear) -> nn.Module:
    """A baseline with the pattern, values and bias of a layer, copied.

    Args:
        name: one of ``BASELINES``.
        layer: where pattern, values, bias, dtype and device come from; it is left as it was.

    Returns:
        A module that takes (batch, in_features) and gives (batch, out_features).

    Raises:
        ValueError: there is no such baseline.
    """
    return find(name).make(layer)
