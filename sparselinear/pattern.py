"""SparsityPattern: where the connections of a layer are, apart from their values.

The structure is CSR over (out_features, in_features), as torch names it: ``crow_indices`` and
``col_indices``. It is checked once, when it is made, and never changes after that, so layers can
share it, and the transpose that backward needs is found once and kept.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from . import checks

# Bounds what the steps that need int64 scratch hold at once: 2**18 connections are 2 MiB of int64.
CHUNK = 1 << 18
# Connections that are sorted at once when a transpose is found.
BLOCK = 64 * CHUNK

_INT32_MAX = torch.iinfo(torch.int32).max


class SparsityPattern:
    """The connections of a sparse layer: a CSR structure of shape (out_features, in_features).

    Rows are outputs and columns are inputs, as in ``torch.nn.Linear.weight``. To make a pattern from
    a scipy matrix or a dense mask use :func:`sparselinear.interop.to_pattern`.

    Args:
        crow_indices: (out_features + 1,) int32 or int64; row r owns the connections
            ``crow_indices[r]`` up to ``crow_indices[r + 1]``.
        col_indices: (nnz,) int32 or int64; strictly increasing within a row.
        shape: (out_features, in_features).
        index_dtype: ``torch.int32`` or ``torch.int64``. None takes int32 where both sides of the
            shape and nnz fit in it, which halves the memory of the indices.
        copy: whether the indices are copied. Without it, indices of the right dtype are taken over,
            and must not be written to by anyone from then on.

    Raises:
        TypeError: an index tensor is no tensor of integers.
        ValueError: the indices are not a CSR structure of this shape.
    """

    def __init__(
        self,
        crow_indices: Tensor,
        col_indices: Tensor,
        shape: tuple[int, int],
        *,
        index_dtype: torch.dtype | None = None,
        copy: bool = True,
    ) -> None:
        shape = checks.shape("shape", shape)
        crow_indices = checks.index_vector("crow_indices", crow_indices)
        col_indices = checks.index_vector("col_indices", col_indices)
        _check_csr(crow_indices, col_indices, shape)
        dtype = _index_dtype(index_dtype, max(*shape, col_indices.numel()))
        self._init(crow_indices.to(dtype, copy=copy), col_indices.to(dtype, copy=copy), shape)

    def _init(self, crow_indices: Tensor, col_indices: Tensor, shape: tuple[int, int]) -> None:
        self._crow_indices = crow_indices
        self._col_indices = col_indices
        self._shape = shape
        self._transpose: _Transpose | None = None
        self._moved: WeakValueDictionary[torch.device, SparsityPattern] = WeakValueDictionary()
        self._source: SparsityPattern | None = None
        if crow_indices.device.type != "meta":
            _known[_key(crow_indices, col_indices, shape)] = self

    @classmethod
    def over(cls, crow_indices: Tensor, col_indices: Tensor, in_features: int) -> SparsityPattern:
        """The pattern whose own indices these are; a new one, which is kept for a while, if there is none."""
        shape = (crow_indices.numel() - 1, in_features)
        key = _key(crow_indices, col_indices, shape)
        known = _known.get(key)
        # share_memory_() moves indices to other addresses, and the old ones may have come to other indices.
        if known is None or _key(known._crow_indices, known._col_indices, shape) != key:
            known = cls(crow_indices, col_indices, shape, index_dtype=col_indices.dtype, copy=False)
            _lately.append(known)
        return known

    @classmethod
    def _trusted(cls, crow_indices: Tensor, col_indices: Tensor, shape: tuple[int, int]) -> SparsityPattern:
        """A pattern over tensors that are known to be right and that nobody else will change."""
        pattern = cls.__new__(cls)
        pattern._init(crow_indices, col_indices, shape)
        return pattern

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self._shape

    @property
    def out_features(self) -> int:
        """Number of outputs: the rows."""
        return self._shape[0]

    @property
    def in_features(self) -> int:
        """Number of inputs: the columns."""
        return self._shape[1]

    @property
    def nnz(self) -> int:
        """Number of connections."""
        return self._col_indices.numel()

    @property
    def density(self) -> float:
        """nnz / (out_features * in_features); 0 for an empty shape."""
        cells = self.out_features * self.in_features
        return self.nnz / cells if cells else 0.0

    @property
    def device(self) -> torch.device:
        """Where the indices live."""
        return self._col_indices.device

    @property
    def index_dtype(self) -> torch.dtype:
        """``torch.int32`` or ``torch.int64``."""
        return self._col_indices.dtype

    @property
    def crow_indices(self) -> Tensor:
        """(out_features + 1,) where each row begins in CSR order; not to be written to."""
        return self._crow_indices

    @property
    def col_indices(self) -> Tensor:
        """(nnz,) the input of each connection, in CSR order; not to be written to."""
        return self._col_indices

    @property
    def transposed(self) -> SparsityPattern:
        """The pattern of the transpose, (in_features, out_features); found at first use, then kept."""
        return self._transposition().pattern

    @property
    def permutation(self) -> Tensor:
        """(nnz,) CSR position of each connection in CSC order: ``values[permutation]`` is CSC ordered."""
        return self._transposition().permutation

    @property
    def ccol_indices(self) -> Tensor:
        """(in_features + 1,) where each column begins in CSC order."""
        return self.transposed.crow_indices

    @property
    def row_indices(self) -> Tensor:
        """(nnz,) the output of each connection, in CSC order."""
        return self.transposed.col_indices

    def _transposition(self) -> _Transpose:
        if self._transpose is None and self._source is not None:  # on meta
            pattern, permutation = self._source._transposition()
            self._transpose = _Transpose(pattern.to(self.device), permutation.to(self.device))
        if self._transpose is None:
            self._transpose = _transpose(self)
        return self._transpose

    def fan_in(self) -> Tensor:
        """(out_features,) number of connections of each output."""
        return self._crow_indices.diff()

    def rows(self, start: int, stop: int) -> Tensor:
        """(stop - start,) int64 output of each of the connections start to stop, in CSR order."""
        if start >= stop:
            return torch.empty(0, dtype=torch.int64, device=self.device)
        ends = torch.tensor([start, stop - 1], dtype=self.index_dtype, device=self.device)
        first, last = (torch.searchsorted(self._crow_indices, ends, right=True) - 1).tolist()
        counts = self._crow_indices[first : last + 2].clamp(start, stop).diff()
        every_row = torch.arange(first, last + 1, device=self.device)
        return every_row.repeat_interleave(counts, output_size=stop - start)

    def csr_tensor(self, values: Tensor) -> Tensor:
        """Sparse CSR tensor over these indices and the storage of ``values`` (nnz,)."""
        _silence_beta_warning()
        return torch.sparse_csr_tensor(
            self._crow_indices, self._col_indices, values, self._shape, check_invariants=False
        )

    def coo_tensor(self, values: Tensor) -> Tensor:
        """Coalesced sparse COO tensor over the storage of ``values`` (nnz,); its indices are made anew."""
        indices = torch.stack([self.rows(0, self.nnz), self._col_indices.long()])  # (2, nnz)
        return torch.sparse_coo_tensor(
            indices, values, self._shape, check_invariants=False, is_coalesced=True
        )

    def dense_tensor(self, values: Tensor) -> Tensor:
        """New dense tensor of the dtype of ``values`` (nnz,): zero where there is no connection."""
        dense = values.new_zeros(self._shape)
        for start, stop in self._chunks():
            dense[self.rows(start, stop), self._col_indices[start:stop]] = values[start:stop]
        return dense

    def values_at(self, dense: Tensor) -> Tensor:
        """New (nnz,) tensor of the entries of a dense (out_features, in_features) at the connections."""
        values = dense.new_empty(self.nnz)
        for start, stop in self._chunks():
            values[start:stop] = dense[self.rows(start, stop), self._col_indices[start:stop]]
        return values

    def scale_rows(self, values: Tensor, scale: Tensor) -> None:
        """Multiply the values (nnz,) of each row by its entry of ``scale`` (out_features,), in place."""
        for start, stop in self._chunks():
            values[start:stop] *= scale[self.rows(start, stop)]

    def _chunks(self) -> list[tuple[int, int]]:
        """Ranges of connections whose scratch is bounded by CHUNK."""
        return [(start, min(start + CHUNK, self.nnz)) for start in range(0, self.nnz, CHUNK)]

    def to(self, device: torch.device | str) -> SparsityPattern:
        """This pattern on a device; layers that share a pattern share the moved one too."""
        target = checks.device("device", device)
        if self.device == target:
            return self
        if self._source is not None:  # on meta: the indices themselves are kept by the source
            return self._source.to(target)
        moved = self._moved.get(target)
        if moved is None:
            moved = self._trusted(self._crow_indices.to(target), self._col_indices.to(target), self._shape)
            if target.type == "meta":
                moved._source = self
            self._moved[target] = moved
        return moved

    def equals(self, other: SparsityPattern) -> bool:
        """Whether both have the same shape and connections, whatever their device and index dtype."""
        mine, theirs = self._source or self, other._source or other
        if mine is theirs:
            return True
        if mine.shape != theirs.shape or mine.nnz != theirs.nnz:
            return False
        pairs = (
            (mine._crow_indices, theirs._crow_indices),
            (mine._col_indices, theirs._col_indices),
        )
        return all(torch.equal(a, b.to(a.device, a.dtype)) for a, b in pairs)

    def __copy__(self) -> SparsityPattern:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SparsityPattern:
        return self  # immutable: a copied layer goes on sharing it

    def __reduce__(self) -> tuple[Any, ...]:
        kept = self._source or self
        return SparsityPattern._trusted, (kept._crow_indices, kept._col_indices, kept._shape)

    def __repr__(self) -> str:
        return (
            f"SparsityPattern(shape={self.shape}, nnz={self.nnz}, density={self.density:.3g}, "
            f"index_dtype={self.index_dtype}, device='{self.device}')"
        )


# Patterns by where their indices lie. Those that nobody else holds are kept here while they are in use.
_known: WeakValueDictionary[tuple[Any, ...], SparsityPattern] = WeakValueDictionary()
_lately: deque[SparsityPattern] = deque(maxlen=64)


def _key(crow_indices: Tensor, col_indices: Tensor, shape: tuple[int, int]) -> tuple[Any, ...]:
    # nnz too: a program of AOTInductor may own its indices, and be gone where another now lies.
    return crow_indices.data_ptr(), col_indices.data_ptr(), col_indices.numel(), shape, col_indices.device


class _Transpose(NamedTuple):
    pattern: SparsityPattern  # (in_features, out_features)
    permutation: Tensor  # (nnz,)


def _index_dtype(asked: torch.dtype | None, largest: int) -> torch.dtype:
    if asked is None:
        return torch.int32 if largest <= _INT32_MAX else torch.int64
    if asked not in checks.INDEXING:
        raise ValueError(checks.message("index_dtype", "torch.int32, torch.int64 or None", repr(asked)))
    if asked == torch.int32 and largest > _INT32_MAX:
        raise ValueError(checks.message("index_dtype", f"torch.int64 for {largest} entries", "torch.int32"))
    return asked


def _check_csr(crow_indices: Tensor, col_indices: Tensor, shape: tuple[int, int]) -> None:
    out_features, in_features = shape
    nnz = col_indices.numel()
    if crow_indices.device != col_indices.device:
        got = f"{crow_indices.device} and {col_indices.device}"
        raise ValueError(checks.message("crow_indices, col_indices", "one device", got))
    if crow_indices.numel() != out_features + 1:
        expected = f"out_features + 1 = {out_features + 1} entries"
        raise ValueError(checks.message("crow_indices", expected, str(crow_indices.numel())))
    if int(crow_indices[0]) != 0 or int(crow_indices[-1]) != nnz or bool((crow_indices.diff() < 0).any()):
        got = f"{int(crow_indices[0])} to {int(crow_indices[-1])}"
        expected = f"entries that rise from 0 to nnz = {nnz} and never fall"
        raise ValueError(checks.message("crow_indices", expected, got))
    if nnz == 0:
        return
    low, high = (int(bound) for bound in col_indices.aminmax())
    if low < 0 or high >= in_features:
        expected = f"indices from 0 to in_features - 1 = {in_features - 1}"
        raise ValueError(checks.message("col_indices", expected, f"{low} to {high}"))
    rises = col_indices[1:] > col_indices[:-1]
    starts = crow_indices[1:-1]  # between two rows the column may fall
    rises[starts[(starts > 0) & (starts < nnz)].long() - 1] = True
    if not bool(rises.all()):
        raise ValueError(
            checks.message(
                "col_indices",
                "strictly increasing indices within each row",
                "unsorted or repeated ones",
                "sparselinear.interop.to_pattern sorts them and sums duplicates.",
            )
        )


def _transpose(pattern: SparsityPattern) -> _Transpose:
    """CSC structure by a stable sort on the columns, one block of columns at a time.

    Sorting all connections at once would hold 24 bytes of scratch for each; a block bounds that.
    """
    columns, dtype = pattern.col_indices, pattern.index_dtype
    ccol_indices = torch.zeros(pattern.in_features + 1, dtype=dtype, device=pattern.device)
    counts = torch.bincount(columns, minlength=pattern.in_features)
    torch.cumsum(counts, 0, dtype=dtype, out=ccol_indices[1:])
    permutation = torch.empty_like(columns)
    for low, high, begin, end in _column_blocks(ccol_indices):
        if end - begin == pattern.nnz:
            permutation[:] = columns.argsort(stable=True)
        else:
            here = ((columns >= low) & (columns < high)).nonzero().squeeze(1)
            permutation[begin:end] = here[columns[here].argsort(stable=True)]
    every_row = torch.arange(pattern.out_features, dtype=dtype, device=pattern.device)
    rows = every_row.repeat_interleave(pattern.fan_in(), output_size=pattern.nnz)  # in CSR order
    row_indices = rows.index_select(0, permutation)
    shape = (pattern.in_features, pattern.out_features)
    return _Transpose(SparsityPattern._trusted(ccol_indices, row_indices, shape), permutation)


def _column_blocks(ccol_indices: Tensor) -> list[tuple[int, int, int, int]]:
    """Ranges of columns (low, high) with their connections (begin, end) in CSC order, evenly filled."""
    nnz = int(ccol_indices[-1])
    blocks = max(1, math.ceil(nnz / BLOCK))
    shares = torch.tensor([nnz * block // blocks for block in range(1, blocks)], device=ccol_indices.device)
    bounds = torch.searchsorted(ccol_indices.long(), shares).tolist()
    columns = [0, *bounds, ccol_indices.numel() - 1]
    begins = ccol_indices[columns].tolist()
    return list(zip(columns[:-1], columns[1:], begins[:-1], begins[1:], strict=True))


_warned = False


def _silence_beta_warning() -> None:
    """Take torch's once-in-a-process notice that CSR is in beta, so that no user of a layer meets it."""
    global _warned
    if not _warned:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            none = torch.zeros(1, dtype=torch.int64)
            torch.sparse_csr_tensor(none, none[:0], torch.zeros(0), (0, 0), check_invariants=False)
        _warned = True
