"""The peers from PyPI but JAX, each as its own users would write the layer.

The extra ``bench`` of pyproject.toml installs them.

Where a package has a product and nothing else, the gradient of the values is by the fastest fitting
thing of its surroundings: said in ``text``.
"""

from __future__ import annotations

import os
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .adapter import AutogradPeer, Peer, feature_major, from_feature_major, sampled_product


def set_threads(threads: int) -> None:
    """Tell the packages, before they are imported, how many threads they may use."""
    os.environ["OMP_NUM_THREADS"] = os.environ["NPROC"] = str(threads)  # NPROC is what XLA reads
    # The MKL of PyPI then runs on torch's own OpenMP threads. Intel's would go on spinning for 0.2 s
    # after each product, on the cores of the side whose turn comes next.
    os.environ.setdefault("MKL_THREADING_LAYER", "GNU")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # The wheel of MKL puts its library where no loader looks.
    for library in sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*")):
        os.environ.setdefault("MKL_RT", str(library))


class _ArrayPeer(Peer):
    """A peer whose products are of feature-major arrays, and whose backward is written out."""

    _kept: Tensor | None = None  # the feature-major input, which forward leaves to backward

    def forward(self) -> Tensor:
        return from_feature_major(self.product(feature_major(self.x)), self.x)

    def backward(self) -> tuple[Tensor, Any]:
        if self._kept is None:
            self._forward_for_backward()
        grad_tile = feature_major(self.grad_output)
        grad_input, grad_values = self.gradients(self._kept, grad_tile)
        return from_feature_major(grad_input, self.x), grad_values

    def step(self) -> tuple[Tensor, Tensor, Any]:
        y = self._forward_for_backward()
        return y, *self.backward()

    def _forward_for_backward(self) -> Tensor:
        self._kept = feature_major(self.x)
        return from_feature_major(self.product(self._kept), self.x)

    def product(self, tile: Tensor) -> Tensor:
        """W @ tile: (in_features, batch) -> (out_features, batch)."""
        raise NotImplementedError

    def gradients(self, tile: Tensor, grad_tile: Tensor) -> tuple[Tensor, Any]:
        """W.T @ grad_tile, and grad_tile @ tile.T at the connections."""
        raise NotImplementedError


class Scipy(_ArrayPeer):
    name = "scipy"
    text = "scipy.sparse products, numpy.einsum over chunks of the connections for grad_values"
    module = package = "scipy"

    _CHUNK_BYTES = 1 << 20  # of each of the two gathered operands: they stay in cache

    @cached_property
    def rows(self) -> np.ndarray:
        """(nnz,) output of each connection."""
        return np.repeat(np.arange(self.matrix.shape[0], dtype=np.int32), np.diff(self.matrix.indptr))

    def product(self, tile: Tensor) -> Tensor:
        return torch.from_numpy(self.matrix @ tile.numpy())

    def gradients(self, tile: Tensor, grad_tile: Tensor) -> tuple[Tensor, np.ndarray]:
        x, grad = tile.numpy(), grad_tile.numpy()
        grad_values = np.empty(self.matrix.nnz, np.float32)
        chunk = max(self._CHUNK_BYTES // (4 * x.shape[1]), 1)
        for start in range(0, grad_values.size, chunk):
            part = slice(start, start + chunk)
            pairs = grad[self.rows[part]], x[self.matrix.indices[part]]
            np.einsum("ij,ij->i", *pairs, out=grad_values[part])
        return torch.from_numpy(self.matrix.T @ grad), grad_values


class SparseDotMkl(_ArrayPeer):
    name = "sparse_dot_mkl"
    text = "MKL's products on CSR of both orientations, torch's sampled_addmm for grad_values"
    module = package = "sparse_dot_mkl"

    def __init__(self, matrix: sp.csr_array, x: Tensor, grad_output: Tensor) -> None:
        super().__init__(matrix, x, grad_output)
        import sparse_dot_mkl

        self.dot = sparse_dot_mkl.dot_product_mkl
        order = sp.csr_array((np.arange(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)
        # A CSC operand takes 40 times as long: 37 against 0.84 ms, 2048 x 2048, 1 %, batch 256, one thread.
        self.transposed = sp.csr_array(order.T)
        self.permutation = self.transposed.data
        self.transposed = self.transposed.astype(np.float32)

    def product(self, tile: Tensor) -> Tensor:
        return torch.from_numpy(self.dot(self.matrix, tile.numpy()))

    def gradients(self, tile: Tensor, grad_tile: Tensor) -> tuple[Tensor, Tensor]:
        np.take(self.matrix.data, self.permutation, out=self.transposed.data)
        grad_input = torch.from_numpy(self.dot(self.transposed, grad_tile.numpy()))
        indices = torch.from_numpy(self.matrix.indptr), torch.from_numpy(self.matrix.indices)
        return grad_input, sampled_product(*indices, grad_tile, tile)


class GraphBlas(_ArrayPeer):
    name = "graphblas"
    text = "python-graphblas: mxm into full matrices, masked mxm for grad_values"
    module, package = "graphblas", "python-graphblas"

    def __init__(self, matrix: sp.csr_array, x: Tensor, grad_output: Tensor) -> None:
        super().__init__(matrix, x, grad_output)
        import graphblas

        self.gb, self.weight = graphblas, None
        graphblas.ss.config["nthreads"] = torch.get_num_threads()
        self.indices = {
            "indptr": matrix.indptr.astype(np.uint64),
            "col_indices": matrix.indices.astype(np.uint64),
        }

    def product(self, tile: Tensor) -> Tensor:
        # Imported anew, as the values of a layer in training change with every step.
        rows, columns = self.matrix.shape
        values = {"values": self.matrix.data, "sorted_cols": True}
        self.weight = self.gb.Matrix.ss.import_csr(nrows=rows, ncols=columns, **self.indices, **values)
        return self._times(self.weight, tile)

    def gradients(self, tile: Tensor, grad_tile: Tensor) -> tuple[Tensor, np.ndarray]:
        grad, x = self._full(grad_tile.numpy()), self._full(tile.numpy())
        product = grad.mxm(x.T, self.gb.semiring.plus_times).new(mask=self.weight.S)
        return self._times(self.weight.T, grad_tile), product.ss.export("csr", sort=True)["values"]

    def _full(self, dense: np.ndarray) -> Any:
        return self.gb.Matrix.ss.import_fullr(values=dense)

    def _times(self, matrix: Any, tile: Tensor) -> Tensor:
        # Added to a matrix that is full already; into a new one, 2048 x 2048 at 1 % and batch 256 took
        # 9.4 ms instead of 2.5 (one thread).
        result = self._full(np.zeros((matrix.nrows, tile.shape[1]), np.float32))
        result(self.gb.binary.plus) << matrix.mxm(self._full(tile.numpy()), self.gb.semiring.plus_times)
        return torch.from_numpy(result.ss.export("fullr")["values"]).view(matrix.nrows, -1)


class TorchSparseGradUtils(AutogradPeer):
    name = "torchsparsegradutils"
    text = "torchsparsegradutils.sparse_mm, CSR"
    module = package = "torchsparsegradutils"

    def __init__(self, matrix: sp.csr_array, x: Tensor, grad_output: Tensor) -> None:
        super().__init__(matrix, x, grad_output)
        from torchsparsegradutils import sparse_mm

        indices = torch.from_numpy(matrix.indptr).long(), torch.from_numpy(matrix.indices).long()
        values = torch.from_numpy(matrix.data.copy())
        self.weight = torch.sparse_csr_tensor(*indices, values, matrix.shape).requires_grad_()
        self.product = sparse_mm

    @classmethod
    def scratch_bytes(cls, matrix: sp.csr_array, batch: int) -> int:
        return 3 * matrix.nnz * batch * 4  # both gathered operands, and their product

    def output(self) -> Tensor:
        return from_feature_major(self.product(self.weight, feature_major(self.x)), self.x)

    def in_csr_order(self, grad_values: Any) -> np.ndarray:
        return grad_values.values().numpy()


class SparseProp(AutogradPeer):
    name = "sparseprop"
    text = "sparseprop's SparseLinear; it transposes batch-major activations itself"
    module, package = "sparseprop.modules.functions", "sparseprop"

    def __init__(self, matrix: sp.csr_array, x: Tensor, grad_output: Tensor) -> None:
        super().__init__(matrix, x, grad_output)
        from sparseprop.modules.functions import SparseLinearFunction

        # Its module wants the dense weight; the function behind it is what the module calls.
        self.function = SparseLinearFunction
        self.indices = torch.from_numpy(matrix.indptr).int(), torch.from_numpy(matrix.indices).int()
        self.weight = torch.from_numpy(matrix.data.copy()).requires_grad_()

    def output(self) -> Tensor:
        rows = self.matrix.shape[0]
        return self.function.apply(self.x.contiguous(), self.weight, self.indices, None, rows)


PACKAGES: tuple[type[Peer], ...] = (
    SparseProp,
    SparseDotMkl,
    Scipy,
    GraphBlas,
    TorchSparseGradUtils,
)
