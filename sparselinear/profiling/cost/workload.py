"""What the time of a layer depends on: its sizes, its batch, and how unequal its rows and columns are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...pattern import SparsityPattern


@dataclass(frozen=True, eq=False)
class Skew:
    """How connections are spread over the rows of a pattern, or over its columns.

    Attributes:
        running: (n,) float64, connections of the fullest one, of the two fullest, ..., of all n.
    """

    running: Tensor

    @classmethod
    def of(cls, counts: Tensor) -> Skew:
        """From the (n,) connections of each row or column."""
        return cls(counts.double().sort(descending=True).values.cumsum(0))

    def share(self, count: int) -> float:
        """Part of all connections that the ``count`` fullest hold; 1 where there are no connections."""
        total = float(self.running[-1]) if self.running.numel() else 0.0
        if total == 0 or count >= self.running.numel():
            return 1.0
        return float(self.running[count - 1]) / total if count > 0 else 0.0


@dataclass(frozen=True)
class Workload:
    """A layer on a batch.

    Attributes:
        out_features: rows of W.
        in_features: columns of W.
        nnz: connections.
        batch: rows of the input.
        itemsize: bytes of a value.
        index_itemsize: bytes of an index.
        rows: how connections are spread over the outputs.
        columns: how they are spread over the inputs.
    """

    out_features: int
    in_features: int
    nnz: int
    batch: int
    itemsize: int
    index_itemsize: int
    rows: Skew
    columns: Skew

    @classmethod
    def of(cls, pattern: SparsityPattern, batch: int, dtype: torch.dtype) -> Workload:
        """A layer over a pattern; nothing is transposed or computed but the fan-in and the fan-out."""
        fan_out = torch.bincount(pattern.col_indices, minlength=pattern.in_features)
        return cls(
            out_features=pattern.out_features,
            in_features=pattern.in_features,
            nnz=pattern.nnz,
            batch=batch,
            itemsize=dtype.itemsize,
            index_itemsize=pattern.index_dtype.itemsize,
            rows=Skew.of(pattern.fan_in()),
            columns=Skew.of(fan_out),
        )

    @property
    def density(self) -> float:
        """nnz / (out_features * in_features)."""
        return self.nnz / max(1, self.out_features * self.in_features)

    def at_batch(self, batch: int) -> Workload:
        """The same layer on another batch."""
        return replace(self, batch=batch)

    def at_density(self, density: float) -> Workload:
        """A layer of the same shape with more or fewer connections, spread as unequally."""
        return replace(self, nnz=round(density * self.out_features * self.in_features))
