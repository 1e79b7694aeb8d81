"""Profile a whole model: each linear layer that is sparse already, and the model before and after.

A layer is measured at the shape that its input has when the model runs on the example; the layers are
compared one by one with what :func:`sparselinear.profiling.profile` measures, and then the model as it
is with the model whose chosen layers were converted, in turns.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from ... import checks
from ...checks import message
from ...convert import sparse_layers, sparsify
from ...linear import SparseLinear
from .. import compare, ledger, machine
from ..clock import clock_of
from ..ledger import Sizes
from ..rounds import Progress
from ..timing import Timing
from .result import PREFER, Call, LayerRow, ModelProfile, ModelTimes

# Of a layer that is not called: so large that it needs its transpose.
_ANY_BATCH = 256


def profile_model(
    model: nn.Module,
    example_input: Any,
    *,
    masks: Mapping[str, Any] | None = None,
    prefer: str = "step",
    rounds: int = 7,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ModelProfile:
    """Measure which linear layers of a model are better sparse, and what that does to the model.

    The model itself is left as it was: two copies are run, in its training or eval mode and with its hooks.
    A layer is compared with a plain ``nn.Linear``, the whole model with what it is now: where it is pruned,
    that includes the multiplication by the masks in front of every forward.

    Args:
        model: holds ``nn.Linear`` modules that are pruned, have zeros, or have a mask.
        example_input: what the model is called with: a tensor, a tuple of arguments, or a dict of them by
            name. Its shape decides the batch of every layer.
        masks: as for :func:`sparselinear.convert.sparsify`; None takes zeros and pruning.
        prefer: what decides which layers are chosen: the time of a training ``"step"``, of ``"forward"``, or
            ``"memory"``.
        rounds: samples of each time.
        threads: threads torch may use meanwhile; None leaves the number as it is.
        progress: called as ``progress(done, total, stage, detail)``, once before each layer and once
            before the model.

    Returns:
        A row for each layer that has a mask, and the times of the model. ``result.faster`` and
        ``result.smaller`` can be handed to ``sparsify(model, masks, only=...)``.

    Raises:
        TypeError, ValueError: an argument is wrong, or the model has no ``nn.Linear``; nothing has been
            measured yet.
        Exception: whatever the model raises on the example.
    """
    if prefer not in PREFER:
        raise ValueError(message("prefer", f"one of {', '.join(map(repr, PREFER))}", repr(prefer)))
    rounds = checks.whole("rounds", rounds)
    threads = None if threads is None else checks.whole("threads", threads)
    layers = sparse_layers(model, masks)
    batches = _batches(model, example_input, layers)
    with machine.threads_set(threads):
        found = machine.describe(_device(model))
        rows = []
        for number, (name, layer) in enumerate(layers.items()):
            if progress:
                progress(number, len(layers) + 1, "layers", name)
            rows.append(_row(name, layer, batches[name], rounds))
        draft = ModelProfile(type(model).__name__, prefer, rounds, found, tuple(rows), None)
        if progress:
            progress(len(layers), len(layers) + 1, "the whole model", f"{len(draft.chosen)} layers converted")
        whole = _whole(model, example_input, masks, draft.chosen, rounds)
    return replace(draft, whole=whole)


def compare_models(before: nn.Module, after: nn.Module, example_input: Any, *, rounds: int = 7) -> ModelTimes:
    """Time two models on one input, in turns: forward without gradients, and a training step.

    Both run in the mode they are in. Their gradients are set to None, and layers with running statistics
    move them: pass copies where that matters. A step is forward, and backward from random gradients of
    every floating point tensor of the output; without the optimizer. The figures that
    :func:`profile_model` gives for a whole model come from here.

    Args:
        before: the one to compare with.
        after: the other.
        example_input: a tensor, a tuple of arguments, or a dict of them by name.
        rounds: samples of each time.

    Raises:
        TypeError, ValueError: an argument is wrong.
        Exception: whatever the models raise.
    """
    rounds = checks.whole("rounds", rounds)
    models = {"before": _module("before", before), "after": _module("after", after)}
    runs = {
        (side, kind): run
        for side, model in models.items()
        for kind, run in _runs(model, example_input).items()
    }
    clock = clock_of(_device(before))
    for run in runs.values():
        run()
    repeats = {key: clock.enough_repeats(run) for key, run in runs.items()}
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        for kind in ("forward", "step"):
            for key in (key for key in runs if key[1] == kind):
                runs[key]()  # what the other model left in the caches is not this one's time
                samples[key].append(clock.sample(runs[key], repeats[key]))
    for model in models.values():
        model.zero_grad(set_to_none=True)
    timings = {key: Timing(tuple(taken), repeats[key]) for key, taken in samples.items()}
    return ModelTimes(
        timings["before", "forward"],
        timings["after", "forward"],
        timings.get(("before", "step")),
        timings.get(("after", "step")),
    )


def smaller(model: nn.Module, masks: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Names of the layers that keep fewer bytes when they are sparse; nothing is measured.

    What is counted is values, indices, those of the transpose, and the bias, against the dense weight and
    the bias, as :class:`Ledger` has it for batches that are not small. Gradients and optimizer state, which
    have one entry for each value, only add to the difference.

    Args:
        model: holds ``nn.Linear`` modules.
        masks: as for :func:`sparselinear.convert.sparsify`.

    Raises:
        TypeError, ValueError: as ``sparsify`` does.
    """
    layers = sparse_layers(model, masks)
    return tuple(name for name, layer in layers.items() if _row(name, layer, Counter(), 1).is_smaller)


def _row(name: str, layer: SparseLinear, batches: Counter[int], rounds: int) -> LayerRow:
    calls = []
    for batch, count in sorted(batches.items()):
        measured = compare.profile(
            layer, batch=batch, baselines=("dense",), rounds=rounds, peak=False, name=name
        )
        calls.append(Call(batch, count, measured))
    sizes = Sizes.of(layer, max(batches, default=_ANY_BATCH))
    return LayerRow(name, sizes, layer.density, ledger.sparse(sizes), ledger.dense(sizes), tuple(calls))


def _batches(
    model: nn.Module, example_input: Any, layers: Mapping[str, nn.Module]
) -> dict[str, Counter[int]]:
    """How often each layer is called with which number of rows, all leading dimensions multiplied."""
    found: dict[str, Counter[int]] = {name: Counter() for name in layers}
    copied = _copy(_module("model", model))
    for name, counts in found.items():

        def count(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], counts: Any = counts) -> None:
            (x,) = (*args, *kwargs.values())
            counts[math.prod(x.shape[:-1])] += 1

        # Also keeps nn.TransformerEncoderLayer from its fused forward, which calls no layer.
        copied.get_submodule(name).register_forward_pre_hook(count, with_kwargs=True)
    with torch.no_grad():
        _call(copied, example_input)
    for counts in found.values():
        del counts[0]  # an empty batch costs nothing
    return found


def _whole(
    model: nn.Module,
    example_input: Any,
    masks: Mapping[str, Any] | None,
    chosen: tuple[str, ...],
    rounds: int,
) -> ModelTimes | None:
    if not chosen:
        return None
    before, after = _copy(model), _copy(model)
    sparsify(after, masks, only=chosen)
    return compare_models(before, after, example_input, rounds=rounds)


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that was pruned, whose masked weights deepcopy refuses."""
    computed = [
        tensor
        for module in model.modules()
        for tensor in module.__dict__.values()
        if isinstance(tensor, Tensor) and not tensor.is_leaf
    ]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})


def _runs(model: nn.Module, example_input: Any) -> dict[str, Callable[[], object]]:
    """What is timed. There is no step for a model whose outputs need no gradient."""

    def forward() -> None:
        with torch.no_grad():
            _call(model, example_input)

    outputs = _outputs(model, example_input)
    if not outputs:
        return {"forward": forward}
    gradients = [torch.randn_like(output) for output in outputs]

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(_outputs(model, example_input), gradients)

    return {"forward": forward, "step": step}


def _outputs(model: nn.Module, example_input: Any) -> list[Tensor]:
    leaves = _pytree.tree_leaves(_call(model, example_input))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]


def _call(model: nn.Module, example_input: Any) -> Any:
    if isinstance(example_input, Mapping):
        return model(**example_input)
    return model(*example_input) if isinstance(example_input, tuple) else model(example_input)


def _module(argument: str, model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(message(argument, "a torch.nn.Module", checks.type_name(model)))
    return model


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
