"""How the rows of a pattern are divided among programs: by length, and the longest of them in parts.

A program works on a tile of several rows until the longest of them is done. So rows are taken in order of
their length, and the rows of a tile end at about the same time; the longest come first, so that the card
does not end on them. (Gale, Zaharia, Young, Elsen, "Sparse GPU kernels for deep learning", 2020, sort rows
for the same reasons.) A row so long that the others would be done before it is cut into parts, whose sums
are added up in the order of the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...pattern import SparsityPattern

# A row is cut where it is longer than this, and than its share among so many programs at a time. A GPU of
# the largest kind runs one or two thousand at a time.
_SHORTEST_CUT, _PROGRAMS = 512, 1024


@dataclass(frozen=True)
class Segments:
    """Ranges of connections, each of which one tile row sums.

    Attributes:
        targets: (count,) row of the result that each is written to, by which ``begins`` and ``ends`` are
            indexed.
        owners: (count,) row of the pattern that each belongs to.
        begins: first connection of each target.
        ends: one past its last connection.
    """

    targets: Tensor
    owners: Tensor
    begins: Tensor
    ends: Tensor


@dataclass(frozen=True)
class Parts(Segments):
    """Segments of rows that are cut: the targets are rows of a workspace.

    Attributes:
        rows: (cut,) rows of the pattern that are cut.
        firsts: (cut + 1,) where the parts of each begin.
    """

    rows: Tensor
    firsts: Tensor


@dataclass(frozen=True)
class Division:
    """The rows of a pattern as segments.

    Attributes:
        whole: rows that one tile row sums, the longest first.
        parts: those of the longer rows; None where there are none.
    """

    whole: Segments
    parts: Parts | None


_known: WeakKeyDictionary[SparsityPattern, Division] = WeakKeyDictionary()


def division(pattern: SparsityPattern) -> Division:
    """The rows of a pattern as segments; found at first use, then kept for as long as the pattern is."""
    found = _known.get(pattern)
    if found is None:
        found = _known[pattern] = divide(pattern, max(_SHORTEST_CUT, -(-pattern.nnz // _PROGRAMS)))
    return found


def divide(pattern: SparsityPattern, longest: int) -> Division:
    """The rows of a pattern as segments of at most ``longest`` connections."""
    crow_indices, lengths = pattern.crow_indices, pattern.fan_in()
    order = lengths.argsort(descending=True, stable=True).to(pattern.index_dtype)
    cut = int((lengths > longest).sum())
    whole = order[cut:]
    parts = _parts(pattern, order[:cut].sort().values, longest) if cut else None
    return Division(Segments(whole, whole, crow_indices[:-1], crow_indices[1:]), parts)


def _parts(pattern: SparsityPattern, rows: Tensor, longest: int) -> Parts:
    dtype, device = pattern.index_dtype, pattern.device
    begins, ends = pattern.crow_indices[rows], pattern.crow_indices[rows + 1]
    counts = (ends - begins + longest - 1) // longest
    firsts = torch.zeros(len(rows) + 1, dtype=dtype, device=device)
    torch.cumsum(counts, 0, dtype=dtype, out=firsts[1:])
    number = int(firsts[-1])
    targets = torch.arange(number, dtype=dtype, device=device)
    cut = torch.arange(len(rows), device=device).repeat_interleave(counts, output_size=number)
    starts = begins[cut] + (targets - firsts[cut]) * longest
    return Parts(targets, rows[cut], starts, torch.minimum(starts + longest, ends[cut]), rows, firsts)
