"""Parameters that ``fully_shard`` (FSDP2) has spread over processes: DTensors, each process with its part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .checks import message


def refuse(argument: str, tensor: Tensor) -> Tensor:
    """The tensor, if all of it is in this process; to gather it unasked would be a wait for the others.

    Raises:
        RuntimeError: it is sharded.
    """
    if not _is_sharded(tensor):
        return tensor
    expected, got = f"all {tensor.numel()} numbers in this process", "a DTensor, sharded over several"
    advice = (
        "In every process, call unshard() on the module that was given to fully_shard, or take the whole "
        "state_dict by torch.distributed.checkpoint.state_dict.get_model_state_dict."
    )
    raise RuntimeError(message(argument, expected, got, advice))


def room(tensor: Tensor) -> Tensor:
    """Where to write new numbers: the tensor itself, or for a sharded one an empty whole one."""
    if not _is_sharded(tensor):
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def put(tensor: Tensor, whole: Tensor) -> None:
    """Write what stands in :func:`room` into the tensor; a sharded one gets the numbers of the first process.

    Every process must call it.
    """
    if _is_sharded(tensor):
        from torch.distributed.tensor import distribute_tensor

        sharded: Any = tensor
        tensor.copy_(distribute_tensor(whole, sharded.device_mesh, sharded.placements))


def _is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, which is asked without importing torch.distributed.tensor."""
    return hasattr(tensor, "full_tensor")
