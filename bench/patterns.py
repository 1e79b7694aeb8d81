"""Patterns that predictions are tried on: of the repository, of a folder of data, and random ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sparselinear import interop
from sparselinear.pattern import SparsityPattern
from sparselinear.topology import random_pattern

from . import real
from .cells import Cell

# Sides and densities are drawn evenly in logarithms. A shape with more connections than MOST is drawn anew:
# making and transposing it would take the time of ten others.
SHAPES, SIDES, DENSITIES, MOST = 12, (64, 16_384), (10**-3.5, 10**-0.2), 10_000_000

# Sparse matrices that are inputs of a network and not its weights.
INPUTS = ("images_subset", "cora_X")


@dataclass(frozen=True)
class Layer:
    """A pattern that is made when it is its turn."""

    name: str
    make: Callable[[], SparsityPattern]


def layers(folder: Path | None) -> Iterator[Layer]:
    """Every pattern.

    Raises:
        FileNotFoundError: the folder holds none of the files that real.py knows.
    """
    for cell in real.cells(folder):
        yield Layer(cell.name, partial(_of_cell, cell))
    if folder is not None:
        yield from _unlisted(folder)
    yield from _random()


def _unlisted(folder: Path) -> Iterator[Layer]:
    """What real.py leaves out, as it has much of the same kind."""
    listed = {file for pattern in real.FOLDER for file in folder.glob(pattern)}
    for file in sorted(folder.rglob("*.npz")):
        if file not in listed and file.stem not in INPUTS and _is_sparse(file):
            yield Layer(f"{file.parent.name}/{file.stem}", partial(_of_file, file))


def _is_sparse(file: Path) -> bool:
    """Whether it holds a sparse matrix: folders have arrays and names beside them."""
    try:
        return 0 not in interop.load_adjacency(file).shape
    except ValueError:
        return False


def _of_cell(cell: Cell) -> SparsityPattern:
    return interop.to_pattern(cell.matrix())


def _of_file(file: Path) -> SparsityPattern:
    return interop.to_pattern(interop.load_adjacency(file))


def _random() -> Iterator[Layer]:
    draw, made = random.Random(0), 0
    while made < SHAPES:
        rows, columns, density = (_log_uniform(draw, *ends) for ends in (SIDES, SIDES, DENSITIES))
        shape = round(rows), round(columns)
        nnz = round(density * math.prod(shape))
        if 0 < nnz <= MOST:
            made += 1
            yield Layer(f"random {shape[0]} x {shape[1]}", partial(random_pattern, shape, nnz, made))


def _log_uniform(draw: random.Random, low: float, high: float) -> float:
    return math.exp(draw.uniform(math.log(low), math.log(high)))
