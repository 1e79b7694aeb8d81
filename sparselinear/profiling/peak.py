"""Peak memory of a training step, in a process of its own: ``python -m sparselinear.profiling.peak``.

The parent (:mod:`sparselinear.profiling.memory`) passes what to run as JSON, and reads JSON back.
What is measured, in bytes:

    level  resident memory after the imports, a warm-up of torch on a tiny layer, and the making of the
           input and of the gradient of the output
    peak   the highest resident memory while three training steps run (forward, backward, and an update
           by Adam where it takes the parameters), less the level

So the peak holds parameters, masks, indices, gradients, Adam's state, the output, the gradient of the
input and every temporary, and leaves out the interpreter, torch, and what building the system took.
The first step, in which a layer finds its transpose, counts. On Linux the kernel's high-water mark is
set back before the steps. Elsewhere on Unix it cannot be: the peak then includes the building and
``exact`` is false. On CUDA torch's allocator is asked instead of the system.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import kernels
from ..linear import SparseLinear
from ..pattern import SparsityPattern
from .baselines import BASELINES, OURS, System

STEPS = 3


def resident_bytes(*terms: str) -> int | None:
    """Sum of what Linux calls ``VmRSS``, ``RssAnon``, ``VmHWM`` ... of this process; None elsewhere."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in status.splitlines() if line.split(":")[0] in terms]
    return sum(found) * 1024


class Meter:
    """The peak since :meth:`restart`, in bytes above the level at which the meter was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.exact = True
        gc.collect()
        self.level = self._level()

    def restart(self) -> None:
        """Forget the peak that building left behind, where the system lets one."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.exact = False
        # Pages of files, the code of libraries, come and go as the system likes: they count from here.
        self.level += resident_bytes("RssFile", "RssShmem") or 0

    def peak(self) -> int:
        """Bytes above the level."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device) - self.level
        mark = resident_bytes("VmHWM")
        return (_highest() if mark is None else mark) - self.level

    def _level(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        now = resident_bytes("RssAnon")
        return _highest() if now is None else now


def _highest() -> int:
    """The high-water mark as every Unix tells it; macOS counts in bytes, the others in KiB."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Run the job that the parent described.

    Args:
        job: ``system``, ``kernel``, ``layer`` (file of a state_dict), ``out_features``, ``in_features``,
            ``batch``, ``dtype``, ``device``, ``threads``.

    Returns:
        ``peak_bytes`` and ``exact``.
    """
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    system = OURS if job["system"] == OURS.name else BASELINES[job["system"]]
    device, dtype = torch.device(job["device"]), getattr(torch, job["dtype"])
    forced = kernels.use(job["kernel"]) if system is OURS else contextlib.nullcontext()
    with forced:
        _train(system, system.make(_tiny_layer(device, dtype)), *_activations(3, 4, 5, device, dtype))
        x, grad_output = _activations(job["batch"], job["in_features"], job["out_features"], device, dtype)
        meter = Meter(device)
        module = _build(system, job["layer"], device)
        meter.restart()
        _train(system, module, x, grad_output)
    return {"peak_bytes": max(0, meter.peak()), "exact": meter.exact}


def _build(system: System, path: str, device: torch.device) -> nn.Module:
    state = torch.load(path, map_location=device, weights_only=True)
    return system.make(SparseLinear.from_state_dict(state))


def _tiny_layer(device: torch.device, dtype: torch.dtype) -> SparseLinear:
    pattern = SparsityPattern(torch.arange(6), torch.tensor([0, 1, 2, 3, 0]), (5, 4))
    return SparseLinear(4, 5, pattern.to(device), device=device, dtype=dtype)


def _activations(
    batch: int, in_features: int, out_features: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    x = torch.randn(batch, in_features, device=device, dtype=dtype, requires_grad=True)
    return x, torch.randn(batch, out_features, device=device, dtype=dtype)


def _train(system: System, module: nn.Module, x: Tensor, grad_output: Tensor) -> None:
    if not system.trains:
        with torch.no_grad():
            module(x).contiguous()
        return
    optimizer = None if system.adam_refusal else torch.optim.Adam(module.parameters(), lr=1e-12)
    for _ in range(STEPS):
        for tensor in (x, *module.parameters()):
            tensor.grad = None
        module(x).contiguous().backward(grad_output)
        if optimizer is not None:
            optimizer.step()


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
