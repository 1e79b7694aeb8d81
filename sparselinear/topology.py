"""Makers of patterns: uniformly random ones, and a given one with connections taken away.

Both are a uniform choice of some things out of many: of the cells of the matrix, or of the connections
of the pattern. The choice holds a few numbers for each thing chosen, never one for each cell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .checks import message
from .pattern import SparsityPattern


def random_pattern(shape: tuple[int, int], nnz: int, seed: int) -> SparsityPattern:
    """A pattern drawn uniformly from all of a shape with this many connections.

    Args:
        shape: (out_features, in_features), fewer than 2**63 cells.
        nnz: connections, exactly.
        seed: the same one gives the same pattern.

    Raises:
        ValueError: more connections than cells.
    """
    out_features, in_features = checks.shape("shape", shape)
    cells = out_features * in_features
    if nnz > cells:
        raise ValueError(message("nnz", f"at most {cells:,} connections", f"{nnz:,}"))
    chosen = _choose(cells, nnz, seed)
    rows = torch.div(chosen, max(1, in_features), rounding_mode="floor")
    columns = chosen.sub_(rows * in_features)
    return _from_rows(rows, columns, (out_features, in_features))


def thin(pattern: SparsityPattern, nnz: int, seed: int) -> SparsityPattern:
    """A pattern that keeps this many connections of another, chosen uniformly.

    Args:
        pattern: what is thinned; it stays as it is.
        nnz: connections to keep, exactly.
        seed: the same one keeps the same connections.

    Raises:
        ValueError: the pattern has fewer connections.
    """
    if nnz > pattern.nnz:
        advice = "Thinning only takes connections away."
        expected = f"at most the {pattern.nnz:,} connections of the pattern"
        raise ValueError(message("nnz", expected, f"{nnz:,}", advice))
    chosen = _choose(pattern.nnz, nnz, seed).to(pattern.device)
    every_row = torch.arange(pattern.out_features, device=pattern.device)
    rows = every_row.repeat_interleave(pattern.fan_in().long(), output_size=pattern.nnz)[chosen]
    return _from_rows(rows, pattern.col_indices[chosen], pattern.shape)


def _choose(total: int, count: int, seed: int) -> Tensor:
    """(count,) rising int64: a uniform choice out of range(total).

    Numbers are drawn until enough differ, and what is too many is dropped at random: every set of this
    size is as likely as any other. More than half are chosen by drawing those left out, as the last of
    them would otherwise be waited for.
    """
    generator = torch.Generator().manual_seed(seed)
    if 2 * count <= total:
        return _draw(total, count, generator)
    missing = _draw(total, total - count, generator)
    # In front of the k-th number that is not missing stand those missing whose own place, counted
    # without the missing before them, is k or less.
    places = missing - torch.arange(missing.numel())
    kept = torch.arange(count)
    return kept + torch.searchsorted(places, kept, right=True)


def _draw(total: int, count: int, generator: torch.Generator) -> Tensor:
    drawn = torch.empty(0, dtype=torch.int64)
    while drawn.numel() < count:
        short = count - drawn.numel()
        more = torch.randint(total, (short + short // 2 + 8,), generator=generator)
        drawn = torch.cat([drawn, more]).unique()  # sorted
    kept = torch.randperm(drawn.numel(), generator=generator)[:count]
    return drawn[kept.sort().values]


def _from_rows(rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> SparsityPattern:
    """A pattern from the (nnz,) rows and columns of its connections, in CSR order."""
    crow_indices = torch.zeros(shape[0] + 1, dtype=torch.int64, device=rows.device)
    torch.cumsum(torch.bincount(rows, minlength=shape[0]), 0, out=crow_indices[1:])
    return SparsityPattern(crow_indices, columns, shape)
