"""Sparse or dense, by prediction: which is faster, by how much, and where that would change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from ... import checks, interop
from ...checks import message
from ...linear import SparseLinear
from ...pattern import SparsityPattern
from ..figures import quantity, share, three_digits
from .calibrate import Progress, calibrated
from .predict import Prediction, predict, seconds
from .rates import Rates
from .terms import DENSE, SPARSE, STEP, bends
from .workload import Workload

# Closer than this, predictions do not tell which is faster.
CLOSE = 1.2
BATCHES = tuple(2**k for k in range(17))
_DISTURBED = "Other programs were busy while this machine was measured: it will be measured again."
_NAMES = {SPARSE: "SparseLinear", DENSE: "nn.Linear"}


@dataclass(frozen=True)
class Advice:
    """What :func:`advise` predicts.

    Attributes:
        name: what it is about.
        work: sizes, batch and itemsize.
        dtype: name of the dtype.
        threads: threads that torch has.
        kernel: kernels that the rates were measured with.
        sparse: of SparseLinear.
        dense: of nn.Linear, whether it fits in memory or not.
        faster: ``"sparselinear"`` or ``"dense"``, by the training step.
        break_even_density: at this shape, batch and skew sparse is the faster one below it; None if dense
            is faster at every density.
        disturbed: whether other programs wanted the cores while the rates were measured.
        sparse_batches: those of 1, 2, 4, ..., 65,536 at which sparse is the faster one, at this density.
    """

    name: str
    work: Workload
    dtype: str
    threads: int
    kernel: str
    sparse: Prediction
    dense: Prediction
    faster: str
    break_even_density: float | None
    disturbed: bool
    sparse_batches: tuple[int, ...]

    @property
    def ratio(self) -> float:
        """How many times as long as a step of SparseLinear one of nn.Linear takes."""
        return self.dense.step_s / self.sparse.step_s

    @property
    def text(self) -> str:
        """The advice in sentences."""
        return f"{_verdict(self)} {self.change}"

    @property
    def change(self) -> str:
        """At which density and at which batches the other one would be the faster one."""
        return f"{_where(self)} {_when(self)}"

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; the unit of a number is the end of its key."""
        work = self.work
        return {
            "name": self.name,
            "out_features": work.out_features,
            "in_features": work.in_features,
            "nnz": work.nnz,
            "density": work.density,
            "batch": work.batch,
            "dtype": self.dtype,
            "threads": self.threads,
            "kernel": self.kernel,
            "predicted": {SPARSE: self.sparse.to_dict(), DENSE: self.dense.to_dict()},
            "faster": self.faster,
            "break_even_density": self.break_even_density,
            "disturbed": self.disturbed,
            "sparse_batches": list(self.sparse_batches),
            "text": self.text,
        }


def advise(
    adjacency: Any,
    *,
    batch: int = 256,
    dtype: torch.dtype | None = None,
    threads: int | None = None,
    rates: Rates | None = None,
    again: bool = False,
    name: str = "",
    progress: Progress | None = None,
) -> Advice:
    """Predict what a sparse and a dense layer over an adjacency would take on a CPU, without running either.

    The rates of the machine are measured once, in about ten seconds, and kept.

    Args:
        adjacency: a SparseLinear, or (out_features, in_features) in any form that SparseLinear takes.
        batch: rows of the input.
        dtype: of values and input; None is the layer's, or torch's default, or that of the rates.
        threads: threads that torch would have; None is as many as it has, or those of the rates.
        rates: those to predict with, of another machine perhaps; None are those of this one.
        again: measure the rates of this machine even if they are known.
        name: what it is about, for a title.
        progress: called as ``progress(done, total, stage, detail)`` while rates are measured.

    Raises:
        TypeError, ValueError: an argument is wrong.
        RuntimeError: the adjacency lies on another device than the CPU.
    """
    batch = checks.whole("batch", batch)
    threads = None if threads is None else checks.whole("threads", threads)
    layer = adjacency if isinstance(adjacency, SparseLinear) else None
    with torch.device("cpu"):
        pattern = layer.pattern if layer is not None else interop.to_pattern(adjacency)
    _check_pattern(pattern)
    if dtype is None and layer is not None:
        dtype = layer.values.dtype
    if rates is None:
        dtype = checks.floating_dtype("dtype", dtype)
        rates = calibrated(dtype, threads=threads, again=again, progress=progress)
    else:
        dtype = _check_rates(rates, dtype, threads)
    work = Workload.of(pattern, batch, dtype)
    return conclude(work, rates, name or f"{work.out_features} x {work.in_features}")


def conclude(work: Workload, rates: Rates, name: str) -> Advice:
    """The advice on a workload, for a machine of these rates."""
    predicted = predict(work, rates)
    sparse, dense = predicted[SPARSE], predicted[DENSE]
    batches = tuple(b for b in BATCHES if _lead(work.at_batch(b), rates) > 0)
    return Advice(
        name=name,
        work=work,
        dtype=rates.dtype,
        threads=rates.threads,
        kernel=rates.kernel,
        sparse=sparse,
        dense=dense,
        faster=SPARSE if sparse.step_s < dense.step_s else DENSE,
        break_even_density=break_even_density(work, rates),
        disturbed=rates.disturbed,
        sparse_batches=batches,
    )


def break_even_density(work: Workload, rates: Rates) -> float | None:
    """The density below which a step of sparse is the faster one: 1 if it always is, None if never.

    The time of sparse is a straight line over the connections, up to where it is computed in another way, and
    that of dense does not depend on them.
    """
    cells, dense = work.out_features * work.in_features, seconds(work, rates, DENSE, STEP)
    starts = bends(work, rates.chip)
    lines = zip([0, *starts], [*(start - 1 for start in starts), cells], strict=True)
    for fewest, most in reversed(list(lines)):
        ends = (replace(work, nnz=connections) for connections in (fewest, most))
        low, high = (seconds(end, rates, SPARSE, STEP) for end in ends)
        if dense <= low:
            continue
        if high <= dense:
            return most / cells
        found = fewest + (dense - low) / (high - low) * (most - fewest)
        return found / cells if found >= 1 else None
    return None


def _lead(work: Workload, rates: Rates) -> float:
    """Seconds that a step of dense takes longer than one of sparse."""
    return seconds(work, rates, DENSE, STEP) - seconds(work, rates, SPARSE, STEP)


def _check_pattern(pattern: SparsityPattern) -> None:
    if pattern.device.type != "cpu":
        advice = "Predictions exist for CPUs; sparselinear.profiling.profile measures."
        raise RuntimeError(message("adjacency", "one on the CPU", f"one on {pattern.device}", advice))
    if 0 in pattern.shape:
        got = f"{pattern.out_features} outputs and {pattern.in_features} inputs"
        raise ValueError(message("adjacency", "at least one output and one input", got))


def _check_rates(rates: Rates, dtype: torch.dtype | None, threads: int | None) -> torch.dtype:
    """The dtype that the rates are for, which is also the one asked for, if one is."""
    known: torch.dtype = getattr(torch, rates.dtype)
    if dtype not in (None, known):
        raise ValueError(message("dtype", f"torch.{rates.dtype}, which the rates are for", str(dtype)))
    if threads not in (None, rates.threads):
        raise ValueError(message("threads", f"{rates.threads}, which the rates are for", str(threads)))
    return known


def _verdict(advice: Advice) -> str:
    sparse, dense = advice.sparse, advice.dense
    memory = sparse.total_bytes / dense.total_bytes
    if 1 / CLOSE < advice.ratio < CLOSE:
        smaller = SPARSE if memory < 1 else DENSE
        part = share(min(memory, 1 / memory))
        return (
            f"Time does not decide: predicted steps of {_step(sparse)} for SparseLinear and {_step(dense)} "
            f"for nn.Linear are too close. {_NAMES[smaller]} takes {part} the other's memory."
        )
    first, second = (sparse, dense) if advice.faster == SPARSE else (dense, sparse)
    other = _NAMES[DENSE if advice.faster == SPARSE else SPARSE]
    part = share(first.step_s / second.step_s)
    memory = first.total_bytes / second.total_bytes
    return (
        f"Use {_NAMES[advice.faster]}: a training step should take {part} the time of {other} "
        f"({_step(first)} against {_step(second)}) and {share(memory)} its memory "
        f"({quantity(first.total_bytes)} against {quantity(second.total_bytes)})."
    )


def _step(prediction: Prediction) -> str:
    return f"{three_digits(prediction.step_s * 1e3)} ms"


def _where(advice: Advice) -> str:
    at = advice.break_even_density
    if at is None:
        return f"At batch {advice.work.batch} nn.Linear should be the faster one at every density."
    if at == 1.0:
        return f"At batch {advice.work.batch} SparseLinear should be the faster one at every density."
    at_batch = f"At batch {advice.work.batch} the two should be even at a density of {_percent(at)}"
    return f"{at_batch}; here it is {_percent(advice.work.density)}."


def _percent(density: float) -> str:
    """To three digits, however small: ``"0.0123 %"``."""
    return f"{100 * density:.3g} %"


def _when(advice: Advice) -> str:
    found, most = set(advice.sparse_batches), BATCHES[-1]
    if not found:
        return f"At this density nn.Linear should be the faster one at every batch up to {most:,}."
    if len(found) == len(BATCHES):
        return f"At this density SparseLinear should be the faster one at every batch up to {most:,}."
    return f"At this density SparseLinear should be the faster one at batches {_ranges(found)}."


def _ranges(batches: Iterable[int]) -> str:
    """``"1 to 8, 64 and up"`` of a set of BATCHES."""
    chosen = set(batches)
    words = []
    for inside, run in groupby(BATCHES, key=chosen.__contains__):
        members = list(run)
        if inside and members[-1] == BATCHES[-1]:
            words.append(f"{members[0]:,} and up")
        elif inside:
            words.append(f"{members[0]:,} to {members[-1]:,}" if len(members) > 1 else f"{members[0]:,}")
    return ", ".join(words)


def render_advice(advice: Advice, console: Console | None = None) -> None:
    """Print an advice.

    Args:
        advice: what :func:`advise` gave.
        console: where to; None is the standard output.
    """
    console = console or Console(highlight=False)
    work = advice.work
    threads = "1 thread" if advice.threads == 1 else f"{advice.threads} threads"
    head = (
        f"{work.out_features:,} outputs x {work.in_features:,} inputs, nnz {work.nnz:,}, "
        f"density {work.density:.3g}\n"
        f"batch {work.batch}, {advice.dtype}, {threads}, kernel {advice.kernel}"
    )
    console.print(Text.assemble((advice.name, "bold"), "\n", head, "\n"))
    console.print(Text(advice.text))
    console.print(Text("Predicted, not measured: sparselinear profile measures.", style="dim"))
    if advice.disturbed:
        console.print(Text(_DISTURBED, style="dim"))
