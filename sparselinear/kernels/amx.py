"""The ``amx`` kernel: a W that is nearly dense, multiplied on the matrix unit of an x86 processor.

Blocks of W are written out with their zeros, a few at a time, and multiplied as tiles of bfloat16. A float32
is a sum of three bfloat16, and six products of these parts give one to the last bits of a float32
(csrc/parts.h); no array of out_features x in_features is made. The time depends on the size of W and hardly
on its connections, so this pays where W is dense.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from .base import Kernel
from .native import NativeKernel, operator

# From this density on a training step of a large layer on a large batch takes less time over tiles than by
# connections. On few samples the blocks of W that are written out serve few, and a layer with few features
# has its tiles half empty. Native's time over that of amx, 2 cores with 2 MiB of second-level cache each:
#   float32    4096 x 4096   batch   64   20 %: 0.77  30 %: 0.90    256   20 %: 0.88  25 %: 1.14  40 %: 1.33
#              4096 x 4096         1024         0.81        1.09
#              1024 x 1024           64         0.58        0.77    256         0.67        0.83        1.13
#              512 x 512            256   40 %: 1.00        128 x 128, batch 256, 50 %: 0.71
#   bfloat16   4096 x 4096           64    5 %: 0.44  10 %: 0.67    256    5 %: 0.68  10 %: 1.13
#   float16    4096 x 4096           64   10 %: 0.63  20 %: 0.84    256   10 %: 0.74  20 %: 1.25
DENSE_FROM = {torch.float32: 0.23, torch.bfloat16: 0.085, torch.float16: 0.16}
_FEW_SAMPLES, _FEW_FEATURES = 64, 200


def least_density(dense_from: float, out_features: int, in_features: int, batch: int) -> float:
    """The density from which on a layer of this size is faster on tiles, on a batch of this size.

    Args:
        dense_from: that of large layers on large batches, an entry of DENSE_FROM.
        out_features: rows of W.
        in_features: columns of W.
        batch: rows of the input.
    """
    fewest = max(1, min(out_features, in_features))
    return dense_from * (1 + _FEW_SAMPLES / max(1, batch)) * (1 + _FEW_FEATURES / fewest)


class AmxKernel(NativeKernel):
    """Products over dense tiles, where the native kernel goes by connections.

    What cannot be split in parts, infinities among it, and a batch of nothing, is left to the native kernel.
    Float32 keeps its accuracy, and the results do not depend on the number of threads.
    """

    name = "amx"

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:  # noqa: D102
        problem = super().unavailable(device, dtype)
        if problem:
            return problem
        if dtype == torch.float64:
            return "the matrix unit has no float64"
        return None if _has_unit() else "this processor has no matrix unit (AMX), or the system keeps it back"

    backward = Kernel.backward  # a product for each gradient

    def _run(self, name: str, *arguments: Any) -> Any:
        result, valid = operator(f"amx_{name}")(*arguments)
        return result if valid else super()._run(name, *arguments)


@cache
def _has_unit() -> bool:
    """Whether there is a matrix unit that this process may use; asks the system for it."""
    return bool(operator("amx_available")())
