"""Whole models: the speed-up that profile_model prints, measured again on the model that sparsify makes.

    python -m bench.models [--data DIR] [--rounds N] [--threads N] [--out DIR]

A pruned model is trained for three steps of Adam, profiled, and the layers that the profile chose are
converted, with the optimizer. The outputs have to be those of before, three more steps have to go as those
of the pruned model, and the speed-ups have to be there again. DIR of --data holds dlmc/*.npz of the Deep
Learning Matrix Collection; without it the encoder layers get random masks of the same densities. Writes
bench/results/models.md and .json, or into --out. Ends with status 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from sparselinear import SparseLinear
from sparselinear.convert import sparsify
from sparselinear.profiling import ModelProfile, compare_models, machine, profile_model
from sparselinear.profiling.figures import milliseconds, percent, ratio
from sparselinear.profiling.models import ModelTimes
from sparselinear.profiling.noise import difference
from sparselinear.profiling.timing import Timing

from .pruned import Case, cases
from .report import STATES

RESULTS = Path(__file__).parent / "results"
STEPS = 3
KINDS = ("forward", "step")
# Of the largest number of a tensor.
TOLERANCE = 1e-5
# A speed-up is true if it is found again within 15 %. Not within the noise of the two: a machine so
# disturbed that any two figures agree would then meet the bar.
AGREE = 1.15


@dataclass(frozen=True)
class Bar:
    """What was found, the most that it may be, and whether it is; None where nothing was measured."""

    text: str
    found: float | None
    most: float

    @property
    def met(self) -> bool | None:
        """NaN is not within a bar."""
        return None if self.found is None else self.found <= self.most


@dataclass(frozen=True)
class Result:
    """What was found for a model.

    ``errors`` hold the largest difference to the pruned model by what was compared. ``again`` is measured
    on the converted model, ``plain`` on it and the model whose zeros are ordinary numbers, without masks.
    """

    name: str
    profile: ModelProfile
    converted: tuple[str, ...]
    errors: dict[str, float]
    again: ModelTimes
    plain: ModelTimes

    def bars(self) -> list[Bar]:
        """Equal within TOLERANCE, and as fast as printed within AGREE."""
        found = [Bar(what, error, TOLERANCE) for what, error in self.errors.items()]
        for kind in KINDS:
            told, again = self.profile.whole and getattr(self.profile.whole, kind), getattr(self.again, kind)
            off = max(told / again, again / told) if told else None
            found.append(Bar(f"{kind}: speed-up printed and measured again, the larger by", off, AGREE))
        return found


def measure(case: Case, rounds: int) -> Result:
    """Train, profile, convert, train on, and measure again."""
    torch.manual_seed(0)
    dense, data = case.make(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(dense.parameters(), lr=1e-3)
    train(dense, optimizer, case.shape, data)
    x = torch.randn(case.shape, generator=data)
    # Without gradients also for this: the pruned weights are then no results of autograd, which deepcopy
    # would refuse.
    expected = outputs(dense, x)
    sparse, moved = copy.deepcopy((dense, optimizer))
    profile = profile_model(dense, x, rounds=rounds)
    converted = sparsify(sparse, only=profile.chosen or None, optimizer=moved).converted
    errors = {"outputs": largest_error([outputs(sparse, x)], [expected])}
    errors |= train_on((dense, optimizer), (sparse, moved), x)
    again = compare_models(dense, sparse, x, rounds=rounds)
    outputs(dense, x)
    plain = compare_models(without_masks(dense), sparse, x, rounds=rounds)
    return Result(case.name, profile, converted, errors, again, plain)


def train_on(
    dense: tuple[nn.Module, torch.optim.Optimizer], sparse: tuple[nn.Module, torch.optim.Optimizer], x: Tensor
) -> dict[str, float]:
    """Errors after STEPS more steps of both, each with its own optimizer, on the same data."""
    for model, optimizer in (dense, sparse):
        train(model, optimizer, x.shape, torch.Generator().manual_seed(2))
    after = f"after {STEPS} more steps"
    return {
        f"weights and biases of the linear layers {after}": largest_error(
            weights(sparse[0]), weights(dense[0])
        ),
        f"outputs {after}": largest_error([outputs(sparse[0], x)], [outputs(dense[0], x)]),
    }


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, shape: Iterable[int], data: torch.Generator
) -> None:
    """STEPS steps towards random targets: the mean square of a layer norm's output has no gradient."""
    for _ in range(STEPS):
        optimizer.zero_grad()
        y = model(torch.randn(tuple(shape), generator=data))
        F.mse_loss(y, torch.randn(y.shape, generator=data)).backward()
        optimizer.step()


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = model(x)
    return y


def weights(model: nn.Module) -> list[Tensor]:
    """Of the linear layers, dense, as a forward sees them; and their biases.

    Those that attention projects its input with are not among them. The bias of its keys changes no output:
    its gradient is rounding alone, which Adam divides by its own size.
    """
    found = []
    for layer in model.modules():
        if isinstance(layer, SparseLinear):
            found += [layer.to_dense(), layer.bias]
        elif isinstance(layer, nn.Linear):
            kept = getattr(layer, "weight_mask", 1)
            found += [getattr(layer, "weight_orig", layer.weight) * kept, layer.bias]
    return [tensor.detach() for tensor in found]


def largest_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, as a share of the largest number of the tensor that it is in."""
    pairs = zip(found, expected, strict=True)
    return float(torch.stack([(got - want).abs().max() / want.abs().max() for got, want in pairs]).max())


def without_masks(model: nn.Module) -> nn.Module:
    """A copy with plain weights, zero where there is no connection."""
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if prune.is_pruned(module) and hasattr(module, "weight_orig"):
            prune.remove(module, "weight")
    return plain


@dataclass(frozen=True)
class Run:
    """A whole run."""

    command: str
    rounds: int
    machine: machine.Machine
    other_cores: float | None
    results: list[Result]

    def judged(self) -> list[tuple[str, Bar]]:
        """Every bar, with the model it is of."""
        return [(result.name, bar) for result in self.results for bar in result.bars()]


def page(run: Run) -> list[str]:
    """The results as Markdown."""
    found, other = run.machine, run.other_cores
    busy = "" if other is None else f" Other programs kept {other:.2f} cores busy."
    return [
        "# Whole models, pruned and converted",
        "",
        f"`{run.command}`: {run.rounds} rounds in turns, medians. {found.processor} ({found.capability}), "
        f"{found.threads} thread{'s' * (found.threads > 1)}, torch {found.torch}.{busy} Float32, training "
        "mode; encoder layers on 8 x 64 tokens, the MLP on 256 rows. A step is forward and backward, without "
        "the optimizer.",
        "",
        "## Speed-up",
        "",
        "Printed: by `profile_model`, of the pruned model over a copy with the layers that it chose "
        "converted. Again: by `compare_models`, of the pruned model over the model that `sparsify` "
        "converted and that was trained on. Both count the masks of `torch.nn.utils.prune` in front of "
        "every forward of the pruned model; the last column is over that model with plain weights. Noise "
        "is that of the printed speed-up and of the one measured again.",
        "",
        *_speed_ups(run.results),
        "",
        "## Bars",
        "",
        f"Errors are shares of the largest number of a tensor. The two speed-ups may differ by "
        f"{AGREE - 1:.0%}, whatever the noise is: on a disturbed machine the bar is missed, and the noise "
        "tells why.",
        "",
        *bars(run.judged()),
    ]


def _speed_ups(results: list[Result]) -> list[str]:
    lines = [
        "| model | converted | time of | before, ms | after, ms | printed | again | noise "
        "| over plain weights |",
        "|" + "---|" * 9,
    ]
    for result in results:
        densities = {row.name: row.density for row in result.profile.rows}
        layers = ", ".join(f"{name} ({densities[name]:.1%} dense)" for name in result.converted)
        whole = result.profile.whole
        for kind in KINDS:
            again, times = getattr(result.again, kind), _times(result.again, kind)
            noise = " and ".join(percent(_noise(t, kind)) for t in (whole, result.again) if t)
            columns = [result.name, layers, kind, *map(milliseconds, times)]
            columns += [ratio(whole and getattr(whole, kind)), ratio(again), noise]
            lines.append(f"| {' | '.join([*columns, ratio(getattr(result.plain, kind))])} |")
    return lines


def _times(times: ModelTimes, kind: str) -> tuple[Timing, Timing]:
    return getattr(times, f"{kind}_before"), getattr(times, f"{kind}_after")


def _noise(times: ModelTimes, kind: str) -> float | None:
    return difference(*_times(times, kind)).noise


def bars(judged: list[tuple[str, Bar]]) -> list[str]:
    """The bars as a table."""
    lines = ["| model | bar | at most | found | |", "|---|---|---|---|---|"]
    for name, bar in judged:
        found = "no layer was chosen" if bar.found is None else f"{bar.found:.3g}"
        lines.append(f"| {name} | {bar.text} | {bar.most:.3g} | {found} | {STATES[bar.met]} |")
    return lines


def to_json(run: Run) -> str:
    """Every sample, one line a model."""
    head = {"command": run.command, "rounds": run.rounds, "machine": run.machine.to_dict()}
    head["other_cores"] = run.other_cores
    head["bars"] = [{"model": name, **asdict(bar), "met": bar.met} for name, bar in run.judged()]
    fields = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items())
    lines = ",\n".join(json.dumps(_model(result)) for result in run.results)
    return "{\n" + fields + ',\n"models": [\n' + lines + "\n]}\n"


def _model(result: Result) -> dict[str, Any]:
    times = {"again": result.again.to_dict(), "plain": result.plain.to_dict()}
    found = {"converted": result.converted, "errors": result.errors, **times}
    return {"model": result.name, **found, "profile": result.profile.to_dict()}


def main() -> int:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    found, others = machine.describe(torch.device("cpu")), machine.OtherWork()
    results = []
    for case in options.cases:
        print(f"\n{case.name}", flush=True)
        results.append(measure(case, options.rounds))
        results[-1].profile.render()
    folder = " --data DIR" if options.data else ""
    command = f"python -m bench.models{folder} --rounds {options.rounds} --threads {options.threads}"
    run = Run(command, options.rounds, found, others.cores(), results)
    print("", *page(run), sep="\n")
    (options.out / "models.md").write_text("\n".join(page(run)) + "\n")
    (options.out / "models.json").write_text(to_json(run))
    return 1 if any(bar.met is False for _, bar in run.judged()) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.models", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that holds dlmc/*.npz (default: random masks)")
    parser.add_argument("--rounds", type=int, default=15, help="samples of each time (default 15)")
    parser.add_argument("--threads", type=int, default=2, help="threads of both sides (default 2)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write (default bench/results)")
    options = parser.parse_args()
    if options.threads < 1 or options.rounds < 1:
        parser.error("expected at least one thread and one round")
    try:
        options.cases = cases(options.data)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    sys.exit(main())
