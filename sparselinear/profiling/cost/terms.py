"""What forward and a training step have to do, counted: the terms that a time is the sum of.

A time is predicted as a sum of counts, each times a rate of the machine. The counts follow from what the
kernels do (docs/roofline.md): a product gathers one row of a panel for each connection, from the
second-level cache if the panel, or the part of it that most connections ask for, lies there.

    call            1
    activations     bytes of input, output and their gradients that are read and written
    large           the same, of arrays that the allocator takes from the system anew each time
    split           bytes of the input and its gradient in backward, where their rows do not begin on a line
                    of the cache, and they do not fit in it
    near            connections times the samples of all panels, of rows that the cache holds
    far             the same, of rows that it does not hold, in whole lines; twice for sums that go back too
    connection      connections times panels
    row             rows times panels
    permuted near   values, and gradients of them, that change between CSR and CSC order, where the lines that
                    are open at a time fit in the cache
    permuted far    the same, where they do not

A layer so dense that the native kernel multiplies its zeros too counts as one of the density from which on it
does: there both ways take as long, and the time of the second grows no further.

Of a layer so dense that the amx kernel takes it they are

    tile            samples times the entries of W, zeros among them, filled up to whole tiles
    tile entry      such entries times panels
    tile connection connections times panels

but for a forward that it leaves to the native kernel.

Of a dense layer they are ``multiply`` (multiplications of forward), ``weight`` (its entries) and ``large
weight`` (bytes of its gradient in excess of what the allocator keeps), beside ``call`` and ``activations``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf

from ...kernels.amx import forward_by_connections, least_density
from ...kernels.panels import (
    TILE,
    WIDTHS_BACKWARD,
    WIDTHS_FORWARD,
    Widths,
    panel_width,
    scattered_from,
    tile_panels,
    two_passes_from,
    zeros_from,
)
from .workload import Skew, Workload

FORWARD, STEP = "forward", "step"
SPARSE, DENSE = "sparselinear", "dense"
LINE = 64  # bytes of a line of the cache
# Arrays from about this size on are not kept by malloc when they are freed: their pages are found and
# cleared anew (glibc raises its threshold for mmap up to 32 MiB, and trims above twice of it).
LARGE_BYTES = 16e6

Terms = dict[str, float]
_TILES = ("tile", "tile entry", "tile connection")


@dataclass(frozen=True)
class Chip:
    """What the kernels of a CPU depend on.

    Attributes:
        vector_bytes: of a vector of the processor.
        cache_bytes: of the second-level cache of a core.
        dense_from: the density from which on large layers run on its matrix unit; None if it has none.
    """

    vector_bytes: int
    cache_bytes: int
    dense_from: float | None = None


def terms_of(system: str, kind: str, work: Workload, chip: Chip) -> Terms:
    """Terms of forward, or of a training step, of a system: the same names for every workload."""
    return _sparse(work, kind, chip) if system == SPARSE else _dense(work, kind)


def _sparse(work: Workload, kind: str, chip: Chip) -> Terms:
    terms = {**_by_connections(work, kind, chip), **dict.fromkeys(_TILES, 0)}
    if work.density < tiles_from(work, chip):
        return terms
    shared = {name: terms[name] for name in ("call", "activations", "large")}
    forward = {}
    if forward_by_connections(work.itemsize, work.batch):
        forward = _by_connections(work, FORWARD, chip)
    return {**dict.fromkeys(terms, 0), **forward, **shared, **_tiles(work, kind, forward=not forward)}


def tiles_from(work: Workload, chip: Chip) -> float:
    """The density from which on a layer of this shape and batch runs on tiles; above 1 if it never does."""
    if chip.dense_from is None:
        return inf
    return least_density(chip.dense_from, work.out_features, work.in_features, work.batch)


def bends(work: Workload, chip: Chip) -> list[int]:
    """The connections, in order, from which on the time of this shape and batch is another line over them."""
    cells = work.out_features * work.in_features
    passes = two_passes_from(work.batch, _summed(work), work.in_features)
    scattered = scattered_from(work.batch, work.in_features, _summed(work))
    zeros, tiles = _most_connections(work, chip), tiles_from(work, chip) * cells
    return sorted(ceil(n) for n in (passes, scattered, zeros, tiles) if 0 < n <= cells)


def _most_connections(work: Workload, chip: Chip) -> float:
    """The connections from which on the native kernel multiplies zeros too; inf if it never does."""
    shape = work.out_features, work.in_features
    return zeros_from(work.batch, *shape, _summed(work), vector_bytes=chip.vector_bytes) * shape[0] * shape[1]


def _tiles(work: Workload, kind: str, *, forward: bool) -> Terms:
    split = [work.in_features] if forward else []  # features of the activations that a product splits
    if kind == STEP:
        split += [work.out_features, work.in_features + work.out_features]
    samples, rows, columns = (
        ceil(n / TILE) * TILE for n in (work.batch, work.out_features, work.in_features)
    )
    panels = sum(tile_panels(work.batch, features, work.itemsize) for features in split)
    counts = (len(split) * samples * rows * columns, rows * columns * panels, work.nnz * panels)
    return dict(zip(_TILES, counts, strict=True))


def _by_connections(work: Workload, kind: str, chip: Chip) -> Terms:
    most = _most_connections(work, chip)
    if work.nnz > most:
        work = replace(work, nnz=round(most))
    forward = _product(work, work.out_features, work.in_features, work.columns, WIDTHS_FORWARD, chip)
    inputs, outputs = (work.batch * n * work.itemsize for n in (work.in_features, work.out_features))
    terms: Terms = {"call": 1, **_activations(inputs, outputs), **forward}
    if kind == FORWARD:
        return terms
    backward, ways = _backward(work, chip)
    backward.update(_activations(outputs, inputs, inputs))
    # Tiles share their first and last line with their neighbours. A step of one thread, 896 outputs, 16,000
    # connections, batch 256: 5.8 ms with 7,760 inputs, 11.1 with 7,763; 2.9 with 4,112, 5.8 with 4,115.
    split = work.in_features * work.itemsize % LINE != 0 and 2 * inputs > chip.cache_bytes
    backward["split"] = 2 * inputs if split else 0
    # Walking columns, one line of each row is open at a time.
    near = work.out_features * LINE <= chip.cache_bytes
    permuted = ways * work.nnz
    backward |= {"permuted near": permuted if near else 0, "permuted far": 0 if near else permuted}
    return {name: terms.get(name, 0) + backward.get(name, 0) for name in {**terms, **backward}}


def _backward(work: Workload, chip: Chip) -> tuple[Terms, int]:
    """Products of backward, and the ways that numbers go between CSR and CSC order: there, and back."""
    by_columns = partial(_product, work, work.in_features, work.out_features, work.rows)
    by_rows = partial(_product, work, work.out_features, work.in_features, work.columns)
    if work.nnz < two_passes_from(work.batch, _summed(work), work.in_features):
        return by_columns(WIDTHS_BACKWARD, chip), 2
    gradients = by_rows(WIDTHS_BACKWARD, chip)
    scatters = work.nnz >= scattered_from(work.batch, work.in_features, _summed(work))
    inputs = (by_rows if scatters else by_columns)(WIDTHS_FORWARD, chip)
    if scatters:
        inputs["far"] *= 2
    return {name: inputs[name] + gradients[name] for name in inputs}, 0 if scatters else 1


def _summed(work: Workload) -> int:
    """Bytes of a number in sums."""
    return max(4, work.itemsize)


def _dense(work: Workload, kind: str) -> Terms:
    """Three products of the same size make a step, so the counts of one do for all."""
    entries = work.out_features * work.in_features
    terms: Terms = {
        "call": 1,
        "multiply": work.batch * entries,
        "weight": entries,
        "activations": work.batch * (work.in_features + work.out_features) * work.itemsize,
    }
    if kind == STEP:  # the gradient of the weight is a fresh array
        terms["large weight"] = max(0, entries * work.itemsize - LARGE_BYTES)
    return terms


def _activations(*sizes: int) -> Terms:
    return {"activations": sum(sizes), "large": sum(size for size in sizes if size > LARGE_BYTES)}


def _product(work: Workload, rows: int, features: int, spread: Skew, widths: Widths, chip: Chip) -> Terms:
    """One product: ``rows`` sums over gathered ``features``, whose connections are spread like this."""
    width = panel_width(
        work.batch,
        features,
        work.nnz,
        _summed(work),
        widths,
        vector_bytes=chip.vector_bytes,
        cache_bytes=chip.cache_bytes,
    )
    panels = ceil(work.batch / width)
    near = spread.share(chip.cache_bytes // (width * _summed(work)))
    line = max(width, LINE // _summed(work))  # no less comes from afar
    return {
        "near": work.nnz * panels * width * near,
        "far": work.nnz * panels * line * (1 - near),
        "connection": work.nnz * panels,
        "row": rows * panels,
    }
