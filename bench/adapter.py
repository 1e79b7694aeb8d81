"""What a peer is to the benchmarks: forward, backward and step of one layer on one batch.

Activations are logical (batch, features), and every side gives its results in the memory layout of
the input, so the transpositions that its product needs are a part of its time. Where an adapter has to
transpose, it does so in the fastest way that stock torch has.
"""

from __future__ import annotations

import importlib
import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


class Peer(ABC):
    """One way to compute a layer without bias, made for a matrix, an input and a grad_output.

    Args:
        matrix: (out_features, in_features) float32, canonical CSR.
        x: (batch, in_features) float32, contiguous, or feature-major: ``x.t()`` is contiguous.
        grad_output: (batch, out_features), laid out like ``x``.
    """

    name: ClassVar[str]
    text: ClassVar[str]
    # What is imported, and the distribution it comes from; empty for what comes with torch.
    module: ClassVar[str] = ""
    package: ClassVar[str] = ""

    def __init__(self, matrix: sp.csr_array, x: Tensor, grad_output: Tensor) -> None:
        self.matrix, self.x, self.grad_output = matrix, x, grad_output

    @classmethod
    def problem(cls) -> str | None:
        """Why this peer cannot be run here; None if it can."""
        if not cls.module:
            return None
        try:
            importlib.import_module(cls.module)
        except ModuleNotFoundError as error:
            return "not installed" if error.name == cls.module.split(".")[0] else str(error)
        except (ImportError, OSError) as error:
            return f"cannot be imported: {error}"
        return None

    @classmethod
    def scratch_bytes(cls, matrix: sp.csr_array, batch: int) -> int:
        """Predicted bytes of its large arrays: those that grow faster than nnz and the activations."""
        return 0

    @abstractmethod
    def forward(self) -> Any:
        """Y, (batch, out_features), a tensor or an array in the layout of x; nothing kept for backward."""

    @abstractmethod
    def backward(self) -> tuple[Any, Any]:
        """(grad_input, grad_values) of a forward that was run before."""

    @abstractmethod
    def step(self) -> tuple[Any, Any, Any]:
        """(Y, grad_input, grad_values): a forward and the backward of it."""

    def in_csr_order(self, grad_values: Any) -> np.ndarray:
        """(nnz,) numbers out of what this peer calls the gradient of its values."""
        return array(grad_values)


class AutogradPeer(Peer):
    """A peer whose backward is torch's autograd; :meth:`output` and :attr:`weight` are all it says."""

    weight: Tensor  # the leaf that gets the gradient

    def __init__(self, matrix: sp.csr_array, x: Tensor, grad_output: Tensor) -> None:
        super().__init__(matrix, x.detach().requires_grad_(), grad_output)
        self._graph: Tensor | None = None

    @abstractmethod
    def output(self) -> Tensor:
        """(batch, out_features) in any layout."""

    def forward(self) -> Tensor:
        with torch.no_grad():
            return as_laid_out(self.output(), self.x)

    def backward(self) -> tuple[Tensor, Tensor]:
        if self._graph is None:
            self._graph = as_laid_out(self.output(), self.x)
        self._clear()
        self._graph.backward(self.grad_output, retain_graph=True)
        return self._gradients()

    def step(self) -> tuple[Tensor, Tensor, Tensor]:
        self._clear()
        y = as_laid_out(self.output(), self.x)
        y.backward(self.grad_output)
        return y, *self._gradients()

    def _clear(self) -> None:
        self.weight.grad = self.x.grad = None

    def _gradients(self) -> tuple[Tensor, Tensor]:
        assert self.x.grad is not None
        assert self.weight.grad is not None
        return self.x.grad, self.weight.grad


def is_feature_major(activations: Tensor) -> bool:
    """Whether the features are the slow axis; not so where both readings hold, as at batch 1."""
    return not activations.is_contiguous() and activations.t().is_contiguous()


def feature_major(activations: Tensor) -> Tensor:
    """(features, batch) contiguous, out of (batch, features) in either layout.

    Copied with three dimensions: torch copies a 2-D transpose on one thread, others on all of them.
    """
    return activations.t()[None].contiguous()[0]


def from_feature_major(product: Tensor, like: Tensor) -> Tensor:
    """(batch, features) in the layout of another, out of (features, batch) contiguous."""
    return product.t() if is_feature_major(like) else product.t()[None].contiguous()[0]


def sampled_product(offsets: Tensor, columns: Tensor, grad_tile: Tensor, tile: Tensor) -> Tensor:
    """grad_tile @ tile.T at the connections of a CSR pattern, (nnz,), by torch's sampled_addmm."""
    grad_values = torch.zeros(columns.numel())
    shape = grad_tile.shape[0], tile.shape[0]
    # A result that is its own first argument copies no indices.
    sampled = torch.sparse_csr_tensor(offsets, columns, grad_values, shape, check_invariants=False)
    torch.sparse.sampled_addmm(sampled, grad_tile, tile.t(), out=sampled)
    return grad_values


def as_laid_out(result: Tensor, like: Tensor) -> Tensor:
    """(batch, features) in the layout of another; no copy where it lies so already."""
    return result.t().contiguous().t() if is_feature_major(like) else result.contiguous()


def array(result: Any) -> np.ndarray:
    """A result of any peer as numpy sees it."""
    return np.asarray(result.detach() if isinstance(result, Tensor) else result)


def _hear_warnings_of_csr() -> None:
    """Let torch say now, and to nobody, what it says once a process of CSR tensors."""
    torch.sparse.check_sparse_tensor_invariants.disable()  # the default, about which it warns too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1))


_hear_warnings_of_csr()
