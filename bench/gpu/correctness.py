"""Every real matrix, kernel and dtype against scipy's products in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sparselinear import interop, kernels

from .. import real
from ..bars import Verdict
from ..cells import Cell as Matrix
from .cases import activations, layer_on
from .measure import Setting
from .sides import Ours
from .table import Row, Table, mean_and_least, name_of

# Units in the last place of the sum of the magnitudes of all terms, which is what rounding scales with.
UNITS = {torch.float32: 32, torch.float64: 32, torch.bfloat16: 2, torch.float16: 2}
BATCH = 33  # no multiple of a block
_CHUNK = 1 << 15
_WHAT = ("Y", "grad_input", "grad_values")


@dataclass(frozen=True)
class Cell:
    """A matrix in one dtype."""

    matrix: Matrix
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.matrix.name}, {name_of(self.dtype)}"


class Correctness(Table):
    name = "correctness"
    title = "Real matrices against float64"
    text = (
        "Largest error of output and both gradients, as a part of what is allowed: 32 units in the last "
        "place of the sum of the magnitudes of all terms in float32 and float64, 2 in half types, whose sums "
        "are of float32. Batch 33."
    )
    columns = ("connections", "largest error of what is allowed", "not run")

    def cells(self, setting: Setting) -> list[Cell]:
        matrices = [
            cell for cell in real.cells(setting.data) if not setting.quick or cell.name.startswith("septic")
        ]
        return [Cell(matrix, dtype) for matrix in matrices for dtype in UNITS]

    def measure(self, cell: Cell, setting: Setting) -> Row:
        pattern = interop.to_pattern(cell.matrix.matrix()).to(setting.device)
        layer = layer_on(pattern, cell.dtype)
        x, grad_output = activations(layer, BATCH)
        scipy_matrix = _matrix_of(layer.pattern, layer.values)
        expected, magnitude = (
            step(*(transform(array) for array in (scipy_matrix, _array(x), _array(grad_output))))
            for transform in (lambda array: array, abs)
        )
        errors, refused = {}, {}
        known = kernels.available(setting.device, cell.dtype)
        for name in setting.family:
            if problem := known.get(name, "there is no such kernel"):
                refused[name] = problem
                continue
            found = map(_array, Ours(layer, x, grad_output, name).step())
            errors[name] = {
                what: _worst(got, right, most, cell.dtype)
                for what, got, right, most in zip(_WHAT, found, expected, magnitude, strict=True)
            }
        sizes = {"shape": list(pattern.shape), "nnz": pattern.nnz, "dtype": name_of(cell.dtype)}
        return {**sizes, "errors": errors, "not_run": refused}

    def line(self, row: Row) -> list[str]:
        worst = (f"{name} {max(found.values()):.2f}" for name, found in row["errors"].items())
        return [
            f"{row['nnz']:,}",
            ", ".join(worst),
            "; ".join(f"{k}: {v}" for k, v in row["not_run"].items()),
        ]

    def judge(self, rows: list[Row]) -> list[Verdict]:
        known = [
            (1 / max(1e-9, *found.values()), f"{row['cell']}, {name}")
            for row in rows
            for name, found in row.get("errors", {}).items()
        ]
        total = len(known) + sum("errors" not in row for row in rows)
        return mean_and_least("error allowed over the error found", known, total, None, 1.0)


def step(matrix: sp.csr_array, x: np.ndarray, grad_output: np.ndarray) -> tuple[np.ndarray, ...]:
    """Y, grad_input and grad_values in float64."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    grad_values = np.empty(matrix.nnz)
    left, right = np.ascontiguousarray(grad_output.T), np.ascontiguousarray(x.T)
    for start in range(0, matrix.nnz, _CHUNK):
        part = slice(start, start + _CHUNK)
        np.einsum("ij,ij->i", left[rows[part]], right[matrix.indices[part]], out=grad_values[part])
    return (matrix @ right).T, (matrix.T @ left).T, grad_values


def _worst(got: np.ndarray, right: np.ndarray, magnitude: np.ndarray, dtype: torch.dtype) -> float:
    """The largest error as a part of the one that is allowed; infinite where a number is none."""
    kind = torch.finfo(dtype)  # below the smallest normal number rounding is absolute
    error = np.abs(got - right) / (UNITS[dtype] * kind.eps * np.maximum(magnitude, kind.smallest_normal))
    return float(np.nan_to_num(error, nan=np.inf).max(initial=0))


def _matrix_of(pattern: Any, values: Tensor) -> sp.csr_array:
    parts = _array(values), pattern.col_indices.cpu().numpy(), pattern.crow_indices.cpu().numpy()
    return sp.csr_array(parts, shape=pattern.shape)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()
