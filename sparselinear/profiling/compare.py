"""Profile one layer: every system that fits, its time, its bytes, its peak, and how it compares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

import torch

from .. import checks, interop, kernels
from ..checks import message
from ..linear import SparseLinear
from ..pattern import SparsityPattern
from . import machine
from .baselines import BASELINES, OURS, System, find
from .cost import Rates, Workload, conclude
from .ledger import Ledger, Sizes, needed_bytes
from .memory import measure_peak, saved
from .portrait import Portrait
from .result import MEASURED, REFUSED, TOO_LARGE, Profile, Row
from .roofline import Roofs
from .rounds import Progress, Ticks, time_in_rounds
from .timing import Subject

# What may be taken of the memory that is free: the prediction leaves out what is small.
_USABLE = 0.9
# Assumed where the system does not tell.
_UNKNOWN_BYTES = 4 << 30


def profile(
    layer: Any,
    *,
    batch: int = 256,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    threads: int | None = None,
    baselines: str | Iterable[str] = "all",
    rounds: int = 7,
    peak: bool = True,
    memory_bytes: int | None = None,
    rates: Rates | None = None,
    name: str = "",
    progress: Progress | None = None,
) -> Profile:
    """Measure a sparse layer and the baselines on the same pattern and values.

    Baselines that the noise does not tell from the sparse layer take more rounds together with it, up to
    three times those asked for; see :mod:`sparselinear.profiling.noise` for what the noise is.

    Args:
        layer: a :class:`~sparselinear.SparseLinear`, which is copied and left as it was, or an
            adjacency (out_features, in_features) in any form that SparseLinear takes.
        batch: rows of the input.
        dtype: dtype of values and input; None is the layer's, or torch's default.
        device: ``"cpu"`` or a CUDA device; None is the layer's, or torch's default.
        threads: threads torch may use meanwhile; None leaves the number as it is.
        baselines: names out of ``BASELINES``, or ``"all"`` or ``"none"``.
        rounds: samples of each time, if no more are needed; the noise is known from three on.
        peak: whether to measure the peak memory, in a process for each system.
        memory_bytes: what a system may need before it counts as too large; None is nine tenths of
            what is free.
        rates: of this machine, to predict the times too; :func:`sparselinear.profiling.calibrated`
            measures them. They are those of a CPU, and predict nothing of a GPU.
        name: what is profiled, for a title.
        progress: called as ``progress(done, total, stage, detail)``.

    Raises:
        TypeError, ValueError: an argument is wrong; nothing has been measured yet.
        RuntimeError: there is no such device, or the sparse layer itself does not run.
        MemoryError: the sparse layer itself does not fit.
    """
    batch, rounds = checks.whole("batch", batch), checks.whole("rounds", rounds)
    threads = None if threads is None else checks.whole("threads", threads)
    systems = [OURS, *select(baselines)]
    layer = _own_copy(layer, dtype, device)
    _check_measurable(layer, rates)
    sizes = Sizes.of(layer, batch)
    with machine.threads_set(threads):
        measured = _measure(layer, systems, sizes, rounds, memory_bytes, peak, progress)
    name = name or f"{sizes.out_features} x {sizes.in_features}"
    work = Workload.of(layer.pattern, batch, layer.values.dtype)
    return Profile(
        name=name,
        sizes=sizes,
        density=layer.density,
        dtype=str(layer.values.dtype).removeprefix("torch."),
        device=str(layer.values.device),
        rounds=rounds,
        kernel=kernels.explain(layer, batch),
        machine=measured.machine,
        other_cores=measured.other_cores,
        limit_bytes=measured.limit_bytes,
        rows=tuple(measured.rows),
        portrait=Portrait.of(layer.pattern),
        roofs=measured.roofs,
        predicted=None if rates is None else conclude(work, rates, name),
        measured_at=datetime.now().astimezone().isoformat(timespec="seconds"),
    )


class _Measured(NamedTuple):
    """Of a profile, what was found of the machine and the systems."""

    machine: machine.Machine
    limit_bytes: int
    rows: list[Row]
    other_cores: float | None
    roofs: Roofs


def _measure(
    layer: SparseLinear,
    systems: Sequence[System],
    sizes: Sizes,
    rounds: int,
    memory_bytes: int | None,
    peak: bool,
    progress: Progress | None,
) -> _Measured:
    """What fits, its times, the limits of the machine, and then peaks."""
    dtype, device = layer.values.dtype, layer.values.device
    found = machine.describe(device)
    limit = _limit(memory_bytes, found.memory_available_bytes)
    _require(OURS.bytes(sizes), sizes, limit)
    rows = [_row(system, sizes, limit) for system in systems]
    fitting = [system for system, row in zip(systems, rows, strict=True) if row.status == MEASURED]
    ticks = Ticks(progress, len(fitting) * (1 + rounds + peak))
    others = machine.OtherWork()
    rows = _with_times(rows, time_in_rounds(fitting, layer, sizes, rounds, limit, ticks))
    busy = others.cores()
    roofs = Roofs.measure(dtype, device)
    machine.give_back(device)  # the modules' memory, before another process asks for it
    if peak:
        rows = _with_peaks(rows, layer, sizes.batch, ticks)
    return _Measured(found, limit, rows, busy, roofs)


def _check_measurable(layer: SparseLinear, rates: Rates | None) -> None:
    if 0 in layer.pattern.shape:
        got = f"{layer.out_features} outputs and {layer.in_features} inputs"
        raise ValueError(message("layer", "at least one output and one input", got))
    if rates is not None and layer.values.device.type != "cpu":
        got, advice = f"rates, and a layer on {layer.values.device}", "The cost model is one of CPUs."
        raise ValueError(message("rates", "None off the CPU", got, advice))


def check_fits(pattern: SparsityPattern, batch: int, dtype: torch.dtype, device: torch.device) -> None:
    """Find out without building it that a sparse layer over a pattern can be profiled.

    Raises:
        MemoryError: it needs more than the device has free.
    """
    sizes = Sizes.of_pattern(pattern, batch, dtype)
    if device.type == "cuda":
        # The kernel is chosen when the pattern is there; this one takes the most.
        sizes = replace(sizes, cuda_kernel="torch")
    _require(OURS.bytes(sizes), sizes, _limit(None, machine.available_bytes(device)))


def _require(ours: Ledger, sizes: Sizes, limit: int) -> None:
    needed = needed_bytes(ours, sizes)
    if needed > limit:
        text = f"the sparse layer itself needs {needed:,} bytes for a training step"
        raise MemoryError(f"{text}, {limit:,} bytes can be used")


def select(baselines: str | Iterable[str]) -> list[System]:
    """The baselines that were asked for, each once, in the order of ``BASELINES``.

    Raises:
        ValueError: a name is none of theirs.
    """
    if isinstance(baselines, str):
        if baselines in ("all", "none"):
            return list(BASELINES.values()) if baselines == "all" else []
        baselines = baselines.split(",")
    asked = {find(str(name)).name for name in baselines}
    return [system for system in BASELINES.values() if system.name in asked]


def _row(system: System, sizes: Sizes, limit: int) -> Row:
    ledger = system.bytes(sizes)
    needed = needed_bytes(ledger, sizes)
    status = MEASURED if needed <= limit else TOO_LARGE
    return Row(system.name, system.letter, system.text, status, ledger, needed)


def _with_times(rows: Sequence[Row], subjects: Sequence[Subject]) -> list[Row]:
    """Rows of systems that were timed get what was found; others stay as they are."""
    timed = {subject.system.name: subject for subject in subjects}
    return [_with_time(row, timed[row.name]) if row.name in timed else row for row in rows]


def _with_time(row: Row, subject: Subject) -> Row:
    return replace(
        row,
        status=REFUSED if "forward" in subject.refusals else MEASURED,
        forward=subject.timing("forward"),
        step=subject.timing("step"),
        adam=subject.timing("adam"),
        refusals=tuple(subject.refusals.items()),
    )


def _with_peaks(rows: Sequence[Row], layer: SparseLinear, batch: int, ticks: Ticks) -> list[Row]:
    results = []
    with saved(layer) as path:
        for row in rows:
            if row.status != TOO_LARGE:
                ticks.next("peak memory, a process each", row.name)
            runs = row.status == MEASURED and "step" not in dict(row.refusals)
            system = BASELINES.get(row.name, OURS)
            results.append(replace(row, peak=measure_peak(system, layer, path, batch)) if runs else row)
    return results


def _own_copy(layer: Any, dtype: torch.dtype | None, device: torch.device | str | None) -> SparseLinear:
    """A layer of our own, so that the user's keeps its gradients, hooks and mode."""
    if dtype is not None:
        dtype = checks.floating_dtype("dtype", dtype)
    if not isinstance(layer, SparseLinear):
        pattern = interop.to_pattern(layer, device=device)
        out_features, in_features = pattern.shape
        return SparseLinear(in_features, out_features, pattern, device=device, dtype=dtype)
    where = layer.values.device if device is None else checks.device("device", device)
    copied = SparseLinear(
        layer.in_features,
        layer.out_features,
        layer.pattern,
        bias=layer.bias is not None,
        device=where,
        dtype=dtype or layer.values.dtype,
    )
    with torch.no_grad():
        copied.values.copy_(layer.values)
        if copied.bias is not None and layer.bias is not None:
            copied.bias.copy_(layer.bias)
    return copied


def _limit(memory_bytes: int | None, free: int | None) -> int:
    if memory_bytes is not None:
        return checks.whole("memory_bytes", memory_bytes)
    return int(_USABLE * (_UNKNOWN_BYTES if free is None else free))
