"""A biology-informed network on real proteomics data, sparse and masked-dense side by side.

Plasma proteins are wired to the Reactome pathways they take part in, those to their parent pathways,
and so on up to the 28 pathways at the top: 3,556 connections where dense layers would hold 449,390
weights. The network is trained twice, once with SparseLinear and once with what such networks use
today, a dense weight that is multiplied by a 0-1 mask in every forward pass. Both see the same initial
values, batches and optimizer, so their losses must be the same: that is checked at every step.

    python examples/septic_aki.py [--epochs N] [--out DIR] [--no-profile]

The data and where it comes from: examples/data/septic_aki/README.md.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from matplotlib.figure import SubFigure
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn

from sparselinear import SparseLinear, cli

DATA = Path(__file__).parent / "data" / "septic_aki"
FOLDS = 5
BATCH = 32
TOLERANCE = 1e-9  # largest relative difference of a loss in float64, over all steps


# ------------------------------------------------------------------------------------ the network


class MaskedLinear(nn.Linear):
    """What pathway networks use today: a dense weight times a mask in every forward."""

    def __init__(self, adjacency: sp.sparray, start: nn.Linear) -> None:
        super().__init__(start.in_features, start.out_features)
        self.load_state_dict(start.state_dict())
        self.register_buffer("mask", torch.from_numpy(adjacency.toarray() != 0).float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


def pathway_network(masks: list[sp.sparray]) -> nn.Sequential:
    """One sparse layer for each mask, and a logit for the subphenotype on top."""
    layers: list[nn.Module] = []
    for mask in masks:
        layers += [SparseLinear.from_scipy(mask), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(masks[-1].shape[0], 1))


def masked_twin(network: nn.Sequential, masks: list[sp.sparray]) -> nn.Sequential:
    """The same network with masked dense layers, from the same values."""
    left = iter(masks)
    return nn.Sequential(
        *(
            MaskedLinear(next(left), layer.to_linear())
            if isinstance(layer, SparseLinear)
            else copy.deepcopy(layer)
            for layer in network
        )
    )


def train(network: nn.Sequential, x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """Train in place; the loss of every step."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    order = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(BATCH):
            loss = F.binary_cross_entropy_with_logits(network(x[batch]).squeeze(1), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


# --------------------------------------------------------------------------------------- the data


def load() -> tuple[np.ndarray, np.ndarray, list[sp.sparray]]:
    """Intensities (197, 554) with NaN where a protein was not seen, labels (197,), the four masks."""
    data = np.load(DATA / "data.npz")
    masks = [sp.csr_array(sp.load_npz(path)) for path in sorted(DATA.glob("L*.npz"))]
    return data["X"], data["y"].astype(np.int64), masks


def folds(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Train and test rows of each fold, with neighbouring samples of one label kept together.

    Samples next to each other look like repeated samples of one patient (see the README of the data).
    Dealt out at random they would stand on both sides of the split, and any model would seem perfect.
    """
    runs = np.cumsum(np.diff(y, prepend=y[0]) != 0)  # a new number wherever the label changes
    return StratifiedGroupKFold(FOLDS).split(x, y, groups=runs)


def standardised(x: np.ndarray, fit_on: np.ndarray) -> Tensor:
    """Zero mean and unit variance on the training rows; a missing value becomes the mean, 0."""
    known = np.isfinite(x[fit_on])
    count = known.sum(axis=0)
    mean = x[fit_on].sum(axis=0, where=known) / np.maximum(count, 1)
    square = ((x[fit_on] - mean) ** 2).sum(axis=0, where=known) / np.maximum(count, 1)
    # Ten values are little enough to estimate a spread from; below that a protein is left out, as 0.
    spread = np.where((count >= 10) & (square > 0), np.sqrt(square), np.inf)
    return torch.from_numpy(np.nan_to_num((x - mean) / spread, nan=0.0))


# --------------------------------------------------------------------------------- the comparison


@dataclass
class Record:
    """What one kind of network did: a list with an entry for each fold."""

    losses: list[np.ndarray] = field(default_factory=list)  # each (steps,)
    train_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    test_auc: list[float] = field(default_factory=list)


def compare(
    x: np.ndarray, y: np.ndarray, masks: list[sp.sparray], epochs: int, dtype: torch.dtype
) -> dict[str, Record]:
    """Train both kinds of network on every fold."""
    records = {"sparse": Record(), "masked dense": Record()}
    for number, (fit_on, test) in enumerate(folds(x, y)):
        torch.manual_seed(number)
        sparse = pathway_network(masks)
        inputs, labels = standardised(x, fit_on).to(dtype), torch.from_numpy(y).to(dtype)
        for record, network in zip(records.values(), (sparse, masked_twin(sparse, masks)), strict=True):
            network.to(dtype)
            record.losses.append(np.array(train(network, inputs[fit_on], labels[fit_on], epochs)))
            with torch.no_grad():
                logits = network(inputs).squeeze(1).numpy()
            record.train_accuracy.append(accuracy_score(y[fit_on], logits[fit_on] > 0))
            record.test_accuracy.append(accuracy_score(y[test], logits[test] > 0))
            record.test_auc.append(roc_auc_score(y[test], logits[test]))
    return records


def differences(records: dict[str, Record]) -> list[np.ndarray]:
    """For each fold the difference of the two losses at every step, relative to the masked-dense one."""
    pairs = zip(records["sparse"].losses, records["masked dense"].losses, strict=True)
    return [np.abs(sparse - dense) / dense for sparse, dense in pairs]


# ------------------------------------------------------------------------------------- what is shown


def describe(x: np.ndarray, y: np.ndarray, masks: list[sp.sparray]) -> None:
    """Print the sizes: of the data, of each layer, and of what training holds in memory."""
    print(f"Septic AKI: {x.shape[0]} plasma samples x {x.shape[1]} proteins, two subphenotypes")
    print(
        f"({np.sum(y == 0)} and {np.sum(y == 1)} samples; {np.isnan(x).mean():.0%} of the values missing).\n"
    )
    print(f"{'layer':<9}{'inputs':>8}{'outputs':>9}{'connections':>13}{'dense weights':>15}{'density':>9}")
    for number, mask in enumerate(masks, 1):
        rows, columns = mask.shape
        share = mask.nnz / (rows * columns)
        print(f"{number:<9}{columns:>8}{rows:>9}{mask.nnz:>13,}{rows * columns:>15,}{share:>9.1%}")
    cells, nnz = sum(mask.shape[0] * mask.shape[1] for mask in masks), sum(mask.nnz for mask in masks)
    print(f"{'all':<26}{nnz:>13,}{cells:>15,}{nnz / cells:>9.1%}\n")
    sparse = pathway_network(masks)
    held = {"sparse": training_bytes(sparse), "masked dense": training_bytes(masked_twin(sparse, masks))}
    print("Bytes held in training (values, gradients, Adam state, indices or mask; float32):")
    print(f"  sparse {held['sparse']:,}, masked dense {held['masked dense']:,}:", end=" ")
    print(f"{held['masked dense'] / held['sparse']:.0f} times as much\n", flush=True)


def training_bytes(network: nn.Sequential) -> int:
    """Bytes of parameters, their gradients, two Adam averages, and all that says where connections are."""
    held = sum(4 * parameter.nbytes for parameter in network.parameters())
    for layer in network:
        if isinstance(layer, MaskedLinear):
            held += layer.mask.nbytes
        if isinstance(layer, SparseLinear):
            here, there = layer.pattern, layer.pattern.transposed  # backward needs the transpose
            indices = [here.crow_indices, here.col_indices, here.permutation]
            held += sum(tensor.nbytes for tensor in [*indices, there.crow_indices, there.col_indices])
    return held


def report(records: dict[str, Record], y: np.ndarray) -> None:
    """Print accuracy and AUC of both networks, mean and standard deviation over the folds."""
    print(f"Held-out results ({FOLDS} folds, neighbouring samples kept together, float32):")
    print(f"  {'':<14}{'train accuracy':>17}{'test accuracy':>17}{'test ROC AUC':>17}")
    for name, record in records.items():
        columns = (record.train_accuracy, record.test_accuracy, record.test_auc)
        print(f"  {name:<14}" + "".join(f"{np.mean(c):>10.3f} ± {np.std(c):.2f}" for c in columns))
    larger = max(np.mean(y), 1 - np.mean(y))
    print(
        f"  To name the larger group every time would be right for {larger:.3f} of the samples.\n", flush=True
    )


def draw_losses(figure: SubFigure, records: dict[str, dict[str, Record]]) -> None:
    """The loss curves of both networks in float32, one upon the other, and how far they are apart."""
    curves, gap = figure.subplots(1, 2)
    sparse, dense = (record.losses[0] for record in records["float32"].values())
    steps = np.arange(1, len(sparse) + 1)
    rings = {"marker": "o", "fillstyle": "none", "markersize": 5, "markevery": 4, "linestyle": "none"}
    curves.plot(steps, sparse, color="C0", label="SparseLinear")
    curves.plot(steps, dense, color="C1", label="dense weight x mask", **rings)
    curves.set(xlabel="training step", ylabel="training loss of the batch (cross entropy)")
    curves.set_title("The sparse and the masked-dense network learn the same (fold 1)")
    curves.legend()
    for (dtype, record), colour in zip(records.items(), ("C2", "C3"), strict=True):
        so_far = np.maximum.accumulate(differences(record)[0])
        gap.semilogy(steps, np.where(so_far > 0, so_far, np.nan), color=colour, label=dtype)
    gap.axhline(TOLERANCE, color="C3", linestyle="--", label="limit for float64")
    gap.set(xlabel="training step", ylabel="largest relative difference so far", ylim=(1e-17, 1))
    gap.set_title("The two losses differ by rounding only")
    gap.legend()


def draw_masks(figure: SubFigure, masks: list[sp.sparray]) -> None:
    """Where the connections of each layer are."""
    names = ["proteins to level-4 pathways", "level 4 to level 3", "level 3 to level 2", "level 2 to level 1"]
    figure.suptitle("Connections: protein to pathway, pathway to its parents (Reactome); darker is denser")
    for mask, name, ax in zip(masks, names, figure.subplots(1, len(masks)), strict=True):
        layer = SparseLinear.from_scipy(mask)
        layer.spy(ax=ax, max_pixels=80, colorbar=False)
        ax.set_title(f"{name}\n{layer.nnz:,} connections", fontsize="medium")
        ax.set_anchor("N")


def draw(records: dict[str, dict[str, Record]], masks: list[sp.sparray], path: Path) -> None:
    """Write the picture of the losses and the masks."""
    figure = plt.figure(figsize=(12, 7.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.2, 1))
    draw_losses(top, records)
    draw_masks(bottom, masks)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--epochs", type=int, default=40, help="passes over the samples (default 40)")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the picture")
    parser.add_argument("--no-profile", action="store_true", help="do not time sparse against dense")
    found = parser.parse_args()
    if found.epochs < 1:
        parser.error(f"--epochs: expected at least 1, got {found.epochs}")
    return found


def main() -> int:
    """Run everything; 1 if the two networks part or the profile fails, else 0."""
    options = arguments()
    matplotlib.use("Agg")  # the picture goes to a file: no display is needed
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a network this small gains nothing from threads, and loses on a busy machine
    x, y, masks = load()
    describe(x, y, masks)

    print(f"Training both networks on {FOLDS} folds, {options.epochs} epochs, in float32 and float64 ...")
    sys.stdout.flush()
    dtypes = {"float32": torch.float32, "float64": torch.float64}
    records = {name: compare(x, y, masks, options.epochs, dtype) for name, dtype in dtypes.items()}
    torch.set_num_threads(threads)
    largest = {name: np.concatenate(differences(record)).max() for name, record in records.items()}
    agree = bool(largest["float64"] < TOLERANCE)  # False for NaN too
    verdict = f"under the limit of {TOLERANCE:g}" if agree else f"OVER THE LIMIT of {TOLERANCE:g}"
    print("Largest relative difference between the two losses, over all steps and folds:")
    print(f"  float64 {largest['float64']:.1e}, {verdict}")
    print(f"  float32 {largest['float32']:.1e}, rounding that grows over the steps\n")
    report(records["float32"], y)

    picture = options.out / "septic_aki.png"
    draw(records, masks, picture)
    print(f"Loss curves and pictures of the masks: {picture}", flush=True)
    profiled = 0
    if not options.no_profile:
        print("\nWhat a larger layer costs, on one thread (sparselinear profile):", flush=True)
        # One thread: the figures then stay put on a machine that does other things too.
        profiled = cli.main(["profile", "--rounds=5", "--threads=1", "--baselines=dense,masked,csr"])
    return 0 if agree and profiled == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
