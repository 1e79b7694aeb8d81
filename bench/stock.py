"""The sides that need no package beside torch: ours, the baselines of the profile, the best of torch."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sparselinear import SparseLinear, kernels, profiling

from .adapter import AutogradPeer, Peer, array, feature_major, from_feature_major, sampled_product


def layer_of(matrix: sp.csr_array) -> SparseLinear:
    """The layer that every side of this file is made from."""
    return SparseLinear.from_scipy(matrix, bias=False, keep_values=True)


class Ours(AutogradPeer):
    """SparseLinear, with the kernel it chooses, or with the one that was asked for."""

    name = "ours"
    text = "SparseLinear"
    kernel: ClassVar[str | None] = None

    def __init__(self, matrix: sp.csr_array, x: Tensor, grad_output: Tensor) -> None:
        super().__init__(matrix, x, grad_output)
        self.layer = layer_of(matrix)
        self.weight = self.layer.values

    def output(self) -> Tensor:
        with kernels.use(self.kernel) if self.kernel else nullcontext():
            return self.layer(self.x)

    def explain(self) -> str:
        """Which kernel runs, and why."""
        with kernels.use(self.kernel) if self.kernel else nullcontext():
            return kernels.explain(self.layer, self.x.shape[0])


class Tiled(Ours):
    """Ours out of stock operators: the kernel ``embedding_bag``, over tiles of the batch."""

    name = "tiled"
    text = "ours, kernel embedding_bag: stock torch over tiles of the batch"
    kernel = "embedding_bag"


class Baseline(AutogradPeer):
    """A baseline of ``sparselinear.profiling``, under torch's own autograd."""

    dense_arrays: ClassVar[int] = 0  # of out_features x in_features, in a step

    def __init__(self, matrix: sp.csr_array, x: Tensor, grad_output: Tensor) -> None:
        super().__init__(matrix, x, grad_output)
        self.run = profiling.build(self.name, layer_of(matrix))
        (self.weight,) = self.run.parameters()

    @classmethod
    def scratch_bytes(cls, matrix: sp.csr_array, batch: int) -> int:
        return cls.dense_arrays * matrix.shape[0] * matrix.shape[1] * 4

    def output(self) -> Tensor:
        return self.run(self.x)

    def in_csr_order(self, grad_values: Any) -> np.ndarray:
        if grad_values.layout == torch.sparse_csr:
            return array(grad_values.values())
        if grad_values.layout == torch.sparse_coo:
            return array(grad_values.coalesce().values())
        rows = np.repeat(np.arange(self.matrix.shape[0]), np.diff(self.matrix.indptr))
        return array(grad_values)[rows, self.matrix.indices]


class Csr(Baseline):
    name = "csr"
    text = "torch.sparse.mm, CSR Parameter with int64 indices, plain autograd"


class Coo(Baseline):
    name = "coo"
    text = "torch.sparse.mm, COO Parameter, plain autograd"
    dense_arrays = 2  # its backward makes the dense gradient, and samples it


class Dense(Baseline):
    name = "dense"
    text = "nn.Linear, no mask"
    dense_arrays = 3


class Masked(Baseline):
    name = "masked"
    text = "nn.Linear, weight * mask in every forward"
    dense_arrays = 5


class Prune(Baseline):
    name = "prune"
    text = "torch.nn.utils.prune"
    dense_arrays = 5


class _Stock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, indices: Stock) -> Tensor:
        ctx.tile, ctx.values, ctx.indices = feature_major(x), values, indices
        return from_feature_major(_bags(ctx.tile, indices.columns, indices.offsets, values), x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        indices, grad_output = ctx.indices, grads[0]
        grad_tile = feature_major(grad_output)
        in_csc_order = ctx.values.index_select(0, indices.permutation)
        grad_tile_input = _bags(grad_tile, indices.csc_rows, indices.csc_offsets, in_csc_order)
        grad_values = sampled_product(indices.offsets, indices.columns, grad_tile, ctx.tile)
        return from_feature_major(grad_tile_input, grad_output), grad_values, None


def _bags(table: Tensor, columns: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
    """W @ table by FBGEMM's embedding sum: a bag is a row, with the values as per-sample weights."""
    return torch.embedding_bag(table, columns, offsets, False, 0, False, values, True)[0]


class Stock(AutogradPeer):
    """The best that stock torch can be made to do over the whole batch, with int32 indices."""

    name = "stock"
    text = "autograd Function: embedding_bag for both products, sampled_addmm for grad_values"

    def __init__(self, matrix: sp.csr_array, x: Tensor, grad_output: Tensor) -> None:
        super().__init__(matrix, x, grad_output)
        self.offsets, self.columns = torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices)
        order = sp.csr_array((np.arange(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)
        transposed = sp.csc_array(order)
        self.csc_offsets = torch.from_numpy(transposed.indptr.astype(matrix.indptr.dtype))
        self.csc_rows = torch.from_numpy(transposed.indices.astype(matrix.indices.dtype))
        self.permutation = torch.from_numpy(transposed.data)
        self.weight = torch.from_numpy(matrix.data.copy()).requires_grad_()

    def output(self) -> Tensor:
        return _Stock.apply(self.x, self.weight, self)


STOCK: tuple[type[Peer], ...] = (Csr, Coo, Stock, Tiled, Dense, Masked, Prune)
