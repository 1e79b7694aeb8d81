"""Kernels under ``torch.autograd.grad(..., is_grads_batched=True)``: one slice after the other.

The tensors of that are of torch's first vmap, which takes operators apart and nothing else. The native kernel
is an operator; a kernel that is Python has its slices taken here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import repeat
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.utils._pytree import tree_map

_Method = TypeVar("_Method", bound=Callable[..., Any])


def by_slices(method: _Method) -> _Method:
    """A method of a kernel that takes such tensors, and returns such tensors."""

    @wraps(method)
    def run(kernel: Any, pattern: Any, *arguments: Tensor | None) -> Any:
        batched = [t is not None and is_legacy_batchedtensor(t) for t in arguments]
        if not any(batched):
            return method(kernel, pattern, *arguments)
        level = _level()
        slices = [
            torch._remove_batch_dim(t, level, 0, 0).unbind() if has else repeat(t)  # type: ignore[arg-type]
            for t, has in zip(arguments, batched, strict=True)
        ]
        results = [method(kernel, pattern, *each) for each in zip(*slices, strict=False)]
        return tree_map(lambda *each: torch._add_batch_dim(torch.stack(each), 0, level), *results)

    return cast("_Method", run)


def _level() -> int:
    """Of the innermost vmap; torch says it to who enters one more."""
    level: int = torch._C._vmapmode_increment_nesting()
    torch._C._vmapmode_decrement_nesting()
    return level - 1
