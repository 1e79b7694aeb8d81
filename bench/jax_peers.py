"""The peers from JAX: its sparse formats BCOO and BCSR under jit, values and input differentiated."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from .adapter import Peer, is_feature_major


class _Jax(Peer):
    """Forward, backward and step as three compiled functions; :meth:`output` is all a format says."""

    module, package = "jax.experimental.sparse", "jax"

    def __init__(self, matrix: sp.csr_array, x: Tensor, grad_output: Tensor) -> None:
        super().__init__(matrix, x, grad_output)
        import jax

        self.wait, self.feature_major = jax.block_until_ready, is_feature_major(x)
        dense = [a.t() if self.feature_major else a for a in (x, grad_output)]
        # The indices are arguments too: XLA would spend minutes on folding them were they constants.
        arrays = matrix.data, *(a.numpy() for a in dense), self.indices()
        self.values, self.input, self.grad, self.index_arrays = jax.tree.map(jax.numpy.asarray, arrays)

        def step(values: Any, x: Any, grad: Any, indices: Any) -> Any:
            y, pull_back = jax.vjp(lambda values, x: self.output(values, x, indices), values, x)
            grad_values, grad_input = pull_back(grad)
            return y, grad_input, grad_values

        self._forward, self._step = jax.jit(self.output), jax.jit(step)
        self._backward = jax.jit(lambda *arguments: step(*arguments)[1:])

    @classmethod
    def scratch_bytes(cls, matrix: sp.csr_array, batch: int) -> int:
        return 3 * matrix.nnz * batch * 4  # both gathered operands, and their product

    def indices(self) -> tuple[np.ndarray, ...]:
        """The index arrays of the format."""
        raise NotImplementedError

    def matrix_of(self, values: Any, indices: Any) -> Any:
        """W in the format."""
        raise NotImplementedError

    def output(self, values: Any, x: Any, indices: Any) -> Any:
        """Y of (batch, features) arrays, or of (features, batch) ones where features come first."""
        weight = self.matrix_of(values, indices)
        return weight @ x if self.feature_major else (weight @ x.T).T

    def forward(self) -> Any:
        return self._laid_out(self.wait(self._forward(self.values, self.input, self.index_arrays)))

    def backward(self) -> tuple[Any, Any]:
        arguments = self.values, self.input, self.grad, self.index_arrays
        grad_input, grad_values = self.wait(self._backward(*arguments))
        return self._laid_out(grad_input), grad_values

    def step(self) -> tuple[Any, Any, Any]:
        arguments = self.values, self.input, self.grad, self.index_arrays
        y, grad_input, grad_values = self.wait(self._step(*arguments))
        return self._laid_out(y), self._laid_out(grad_input), grad_values

    def _laid_out(self, result: Any) -> Any:
        # A view, as numpy has it: transposing an array of JAX would copy it.
        return np.asarray(result).T if self.feature_major else result


class JaxBcoo(_Jax):
    name = "jax-bcoo"
    text = "jax.experimental.sparse.BCOO under jit"

    def indices(self) -> tuple[np.ndarray, ...]:
        counts = np.diff(self.matrix.indptr)
        rows = np.repeat(np.arange(counts.size, dtype=np.int32), counts)
        return (np.stack([rows, self.matrix.indices], 1),)

    def matrix_of(self, values: Any, indices: Any) -> Any:
        from jax.experimental.sparse import BCOO

        flags = {"indices_sorted": True, "unique_indices": True}
        return BCOO((values, *indices), shape=self.matrix.shape, **flags)


class JaxBcsr(_Jax):
    name = "jax-bcsr"
    text = "jax.experimental.sparse.BCSR under jit"

    def indices(self) -> tuple[np.ndarray, ...]:
        return self.matrix.indices, self.matrix.indptr

    def matrix_of(self, values: Any, indices: Any) -> Any:
        from jax.experimental.sparse import BCSR

        flags = {"indices_sorted": True, "unique_indices": True}
        return BCSR((values, *indices), shape=self.matrix.shape, **flags)


JAX: tuple[type[Peer], ...] = (JaxBcoo, JaxBcsr)
