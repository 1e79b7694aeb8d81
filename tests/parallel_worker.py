"""One of the processes that tests/test_parallel.py starts with torchrun: what it finds goes to a file."""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize

from sparselinear import SparseLinear, SparsityPattern, parallel
from sparselinear.parametrizations import FixedSigns

STEPS, BATCH, INPUTS, HIDDEN, CLIP = 20, 12, 16, 13, 0.05
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-1, momentum=0.9),
}


# The indices need not be sent again at each forward; the option has had this name since torch 2.13.
_NEW = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
SYNC_BUFFERS = "forward_sync_buffers" if _NEW else "broadcast_buffers"


def adjacency(seed: int) -> Tensor:
    """(HIDDEN, INPUTS) with about a third of the cells."""
    return torch.rand(HIDDEN, INPUTS, generator=torch.Generator().manual_seed(seed)) < 0.3


def network(seed: int = 0, dtype: torch.dtype = torch.float64, device: str = "cpu") -> nn.Sequential:
    """Two sparse layers around a tanh; the seed is of the values, the connections are always the same."""
    torch.manual_seed(seed)
    first = SparseLinear(INPUTS, HIDDEN, adjacency(0), device=device, dtype=dtype)
    last = SparseLinear(HIDDEN, INPUTS, adjacency(1).T, device=device, dtype=dtype)
    return nn.Sequential(first, nn.Tanh(), last)


def signed() -> nn.Sequential:
    """The network with the signs of its first layer fixed."""
    model = network()
    parametrize.register_parametrization(model[0], "values", FixedSigns(model[0].values))
    return model


def batches(dtype: torch.dtype = torch.float64) -> Tensor:
    """(STEPS, BATCH, INPUTS)"""
    return torch.randn(STEPS, BATCH, INPUTS, generator=torch.Generator().manual_seed(7)).to(dtype)


def train(model: nn.Module, optimizer: str, rank: int = 0, size: int = 1, clip: bool = False) -> list[float]:
    """Loss of the whole batch at each step, whatever part of it a process sees."""
    stepper = OPTIMIZERS[optimizer](model.parameters())
    return steps(model, stepper, batches(next(model.parameters()).dtype), rank, size, clip)


def steps(
    model: nn.Module,
    stepper: torch.optim.Optimizer,
    given: Tensor,
    rank: int = 0,
    size: int = 1,
    clip: bool = False,
) -> list[float]:
    """Loss at each step of an optimizer over some of the batches."""
    losses = []
    for batch in given:
        x = batch.chunk(size)[rank]
        stepper.zero_grad()
        loss = (model(x) - x.roll(1, 1)).square().mean()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        stepper.step()
        total = loss.detach().to(torch.float64)
        if size > 1:
            dist.all_reduce(total)
        losses.append(total.item() / size)
    return losses


def sharded(model: nn.Sequential, **options: Any) -> nn.Sequential:
    """The model with each sparse layer and the rest of it sharded over all processes."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:
        if isinstance(layer, SparseLinear):
            fully_shard(layer, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model


def ddp(rank: int, size: int) -> dict[str, Any]:
    losses = {}
    for optimizer in OPTIMIZERS:
        for options in ({}, {SYNC_BUFFERS: False}):
            model = network(seed=rank)  # rank 1 begins with other values, until it is sent those of rank 0
            parallel.check_same_pattern(model)
            model[0].pattern.transposed  # noqa: B018  kept from now on, so the indices must stay as they are
            replica = DistributedDataParallel(model, **options)
            losses[f"{optimizer} {list(options.values())}"] = train(replica, optimizer, rank, size)
    model.load_state_dict(model.state_dict())
    return {"losses": losses, "state": listed(model.state_dict())}


def fsdp(rank: int, size: int) -> dict[str, Any]:
    losses = {}
    for optimizer in OPTIMIZERS:
        for clip in (False, True):
            whole = network()
            parallel.check_same_pattern(whole)
            model = sharded(whole)
            losses[f"{optimizer} {clip}"] = train(model, optimizer, rank, size, clip)
    parallel.check_same_pattern(model)  # which shards values alone
    half = sharded(network(dtype=torch.float32), mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    return {
        "losses": losses,
        "shard": model[0].values.to_local().numel(),
        "half": train(half, "adam", rank, size),
        "half dtypes": [str(half(batches()[0].float()).dtype), str(half[0].values.dtype)],
        **stored(model, rank),
    }


def stored(model: nn.Sequential, rank: int) -> dict[str, Any]:
    """The state of a sharded model, and the outputs of it and of models that were given its state."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    full = get_model_state_dict(model, options=options)
    by_shards = sharded(network(seed=5))
    by_shards.load_state_dict(get_model_state_dict(model))
    from_meta = sharded(network(device="meta")).to_empty(device="cpu")
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    given = dict(full) if rank == 0 else {}  # a copy, for its entries become DTensors
    set_model_state_dict(from_meta, given, options=options)
    x = batches()[0]
    return {"state": listed(full), "outputs": [each(x).tolist() for each in (model, by_shards, from_meta)]}


def resumed(rank: int, size: int) -> list[float]:
    """Losses of a training whose whole state goes into another model and its optimizer half way through."""
    model, other = sharded(network()), sharded(network(seed=5))
    stepper, restarted = (OPTIMIZERS["adam"](each.parameters()) for each in (model, other))
    losses = steps(model, stepper, batches()[:10], rank, size)
    options = StateDictOptions(full_state_dict=True)
    of_model, of_optimizer = get_state_dict(model, stepper, options=options)
    states = {"model_state_dict": of_model, "optim_state_dict": of_optimizer}
    set_state_dict(other, restarted, **states, options=options)
    return losses + steps(other, restarted, batches()[10:], rank, size)


READERS: dict[str, Callable[[SparseLinear], Tensor]] = {
    "weight": lambda layer: layer.weight.to_dense(),
    "weight_coo": lambda layer: layer.weight_coo.to_dense(),
    "to_dense": lambda layer: layer.to_dense(),
    "to_scipy": lambda layer: torch.from_numpy(layer.to_scipy().toarray()),
    "to_linear": lambda layer: layer.to_linear().weight.detach(),
}


def shards(rank: int, size: int) -> dict[str, Any]:
    """What a sharded layer can be asked, then an unsharded one, then one that is sharded again."""
    model = sharded(network())
    layer = model[0]
    told, read = {}, {}
    dense = nn.Linear(INPUTS, HIDDEN)
    fully_shard(dense, mesh=init_device_mesh("cpu", (size,)))
    rebuilt = {
        "from_state_dict": lambda layer: SparseLinear.from_state_dict(layer.state_dict()).to_dense(),
        "from_linear": lambda layer: SparseLinear.from_linear(dense).to_dense(),
    }
    for name, reader in (READERS | rebuilt).items():
        try:
            told[name] = reader(layer).tolist()
        except RuntimeError as error:
            told[name] = str(error)
    layer.unshard()
    for name, reader in READERS.items():
        read[name] = reader(layer).tolist()
    layer.reshard()
    fresh = sharded(network(device="meta")).to_empty(device="cpu")
    torch.manual_seed(10 + rank)
    for each in (fresh[0], fresh[2]):
        each.reset_parameters()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return {
        "told": told,
        "read": read,
        "repr": repr(layer),
        "losses": train(model, "adam", rank, size),
        "drawn": listed(get_model_state_dict(fresh, options=options)),
        "resumed": resumed(rank, size),
        "signed": train(sharded(signed()), "adam", rank, size),
    }


def listed(state: dict[str, Tensor]) -> dict[str, Any]:
    """What json can hold of a state_dict."""
    return {name: entry.tolist() for name, entry in state.items()}


def differ(rank: int, size: int) -> dict[str, Any]:
    other_places = adjacency(0).roll(1, 1) if rank else adjacency(0)
    wide = SparsityPattern(
        *(network()[0].get_buffer(name) for name in ("crow_indices", "col_indices")),
        (HIDDEN, INPUTS),
        index_dtype=torch.int64 if rank else torch.int32,
    )

    def layer(connections: Any) -> SparseLinear:
        return SparseLinear(INPUTS, HIDDEN, connections)

    models = {
        "nnz": nn.Sequential(nn.Tanh(), layer(adjacency(rank))),
        "places": nn.ModuleDict({"genes": layer(other_places), "same": layer(adjacency(3))}),
        "itself": layer(other_places),
        "kind": nn.Sequential(layer(adjacency(0)) if rank else nn.Linear(INPUTS, HIDDEN)),
        "all": nn.Sequential(layer(adjacency(rank)), nn.Tanh(), layer(adjacency(2 + rank))),
        "index dtype": layer(wide),
        "no sparse layer": nn.Linear(2, 2),
    }
    found: dict[str, Any] = {}
    for name, model in models.items():
        try:
            found[name] = parallel.check_same_pattern(model)
        except ValueError as error:
            found[name] = str(error)
    alone = dist.new_group([rank], use_local_synchronization=True)
    found["group of one"] = parallel.check_same_pattern(models["nnz"], alone)
    return found


def main(folder: str) -> None:
    warnings.simplefilter("error")
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    found = {work.__name__: work(rank, size) for work in (ddp, fsdp, shards, differ)}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    parallel.check_same_pattern(SparseLinear(INPUTS, HIDDEN, adjacency(rank)))  # ends the run
    (Path(folder) / "never").touch()


if __name__ == "__main__":
    main(*sys.argv[1:])
