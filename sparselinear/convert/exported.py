"""Exported programs without the operators of sparselinear: for run-times that know those of torch alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import operators


def decompositions() -> dict[Any, Callable[..., Tensor]]:
    """What ``ExportedProgram.run_decompositions`` takes to write a sparse layer in operators of torch.

    They gather, multiply and add, over an intermediate of (batch, nnz): for where no kernel of this package
    can run, as in a program that is loaded without Python, or by another run-time. Nothing dense is made.
    ``torch.onnx.export`` of a model does the same by itself; of an exported program it needs these first.
    """
    return {torch.ops.sparselinear.linear.default: operators.decomposed}
