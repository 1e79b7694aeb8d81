"""Peak memory of a training step, each system in a process of its own.

This is the parent's side; what is measured, and how, stands in :mod:`sparselinear.profiling.peak`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .. import kernels
from ..linear import SparseLinear
from .baselines import System


@dataclass(frozen=True)
class Peak:
    """Peak memory of a training step.

    Attributes:
        peak_bytes: bytes above the level of imports and inputs; None where there is no number.
        exact: False where the number also holds what building the system took.
        reason: why there is no number.
    """

    peak_bytes: int | None = None
    exact: bool = True
    reason: str = ""

    def to_dict(self) -> dict[str, object]:
        """The same, ready for JSON."""
        return asdict(self)


@contextmanager
def saved(layer: SparseLinear) -> Iterator[str]:
    """The layer as a file that other processes can read, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="sparselinear-") as folder:
        path = Path(folder) / "layer.pt"
        torch.save(layer.state_dict(), path)
        yield str(path)


def measure_peak(system: System, layer: SparseLinear, path: str, batch: int) -> Peak:
    """Peak memory of a training step of one system.

    Args:
        system: which one.
        layer: what it is built from.
        path: the same layer as a file, see :func:`saved`.
        batch: rows of the input.
    """
    if layer.values.device.type == "cpu" and importlib.util.find_spec("resource") is None:
        return Peak(reason=f"not measured on {sys.platform}")
    job = {
        "system": system.name,
        "kernel": kernels.choose(layer.pattern, layer.values.dtype, batch).name,
        "layer": path,
        "out_features": layer.out_features,
        "in_features": layer.in_features,
        "batch": batch,
        "dtype": str(layer.values.dtype).removeprefix("torch."),
        "device": str(layer.values.device),
        "threads": torch.get_num_threads(),
    }
    command = [sys.executable, "-m", "sparselinear.profiling.peak", json.dumps(job)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
    except OSError as error:
        return Peak(reason=f"no process could be started ({error.strerror})")
    if done.returncode:
        return Peak(reason=_failure(done.returncode, done.stderr))
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        return Peak(int(answer["peak_bytes"]), bool(answer["exact"]))
    except (ValueError, KeyError, IndexError):
        return Peak(reason="the process gave no number")


def _environment() -> dict[str, str]:
    """The parent's, with its import path, and with an allocator that gives back what is freed.

    glibc keeps freed blocks below a threshold that grows as a process runs; held at 64 KiB, resident
    memory follows what is in use.
    """
    here = str(Path(__file__).resolve().parents[2])
    paths = [here, *(path for path in sys.path if path and path != here)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MALLOC_MMAP_THRESHOLD_": "65536"}


def _failure(code: int, stderr: str) -> str:
    if code == -9:
        return "killed by the system, which had no memory left"
    lines = stderr.strip().splitlines()
    return lines[-1] if lines else f"the process ended with code {code}"
