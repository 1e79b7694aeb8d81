"""Training in several processes: whether every process has the same connections."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import torch
import torch.distributed as dist
from torch import nn

from .checks import message, type_name
from .linear import SparseLinear
from .pattern import CHUNK, SparsityPattern


def check_same_pattern(module: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Compare the patterns of all sparse layers of a module over the processes of a group.

    Call it in every process, before ``DistributedDataParallel`` or ``fully_shard`` gets the module. What
    differs is an error in every process, so that none waits for another. It sends one digest a layer.

    Args:
        module: the model, with the same names of layers in every process.
        group: the processes that train it together; None takes all of them.

    Raises:
        TypeError: not a module.
        RuntimeError: there is no process group yet.
        ValueError: a layer differs; the message names it, and says what it is on which ranks.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(message("module", "a torch.nn.Module", type_name(module)))
    if not (dist.is_available() and dist.is_initialized()):
        advice = "Call torch.distributed.init_process_group first."
        raise RuntimeError(message("group", "a process group", "none", advice))
    own = {
        name: _told(layer.pattern)
        for name, layer in module.named_modules()
        if isinstance(layer, SparseLinear)
    }
    ranks = dist.get_process_group_ranks(group)
    everyone: list[dict[str, str]] = [{} for _ in ranks]
    dist.all_gather_object(everyone, own, group)
    differing = _differences(dict(zip(ranks, everyone, strict=True)))
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        advice = "Build it in every process from the same adjacency, or from the same seed."
        raise ValueError(
            message("module", "the same patterns on every rank", f"layer {differing[0]}{more}", advice)
        )


def _differences(told: dict[int, dict[str, str]]) -> list[str]:
    """One line for each layer that is not the same on every rank, from rank -> layer -> pattern."""
    lines = []
    for name in dict.fromkeys(name for layers in told.values() for name in layers):
        holders = defaultdict(list)
        for rank, layers in told.items():
            holders[layers.get(name, "no SparseLinear")].append(str(rank))
        if len(holders) > 1:
            kinds = (
                f"{pattern} on rank{'s' * (len(ranks) > 1)} {', '.join(ranks)}"
                for pattern, ranks in holders.items()
            )
            lines.append(f"{name!r} with {'; '.join(kinds)}")
    return lines


def _told(pattern: SparsityPattern) -> str:
    """A pattern in words that are those of no other, whatever its device and index dtype."""
    on_cpu = pattern.to("cpu")
    digest = hashlib.sha256(repr(pattern.shape).encode())
    for indices in (on_cpu.crow_indices, on_cpu.col_indices):
        for part in indices.split(CHUNK):
            digest.update(part.to(torch.int64).numpy())
    return f"shape {pattern.shape}, nnz {pattern.nnz}, digest {digest.hexdigest()[:16]}"
