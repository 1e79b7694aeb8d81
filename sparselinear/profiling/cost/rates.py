"""The rates of a machine: seconds that each term of terms.py takes, fitted to what was measured, and kept.

Rates are those of one processor, one number of threads, one dtype, one torch and one build of the native
kernel. They lie as JSON in the folder of the compiled kernels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...kernels import build
from .terms import DENSE, FORWARD, SPARSE, STEP, Chip, Terms, terms_of
from .workload import Skew, Workload

# Raise it when the terms, or what they are fitted to, change.
_SCHEMA = 3
# Reweighted least squares: rounds, and the error below which all points weigh the same. It comes near to the
# least sum of absolute errors, in which a point that was disturbed weighs little.
_ROUNDS, _SMALL_ERROR = 30, 0.03


@dataclass(frozen=True)
class Rates:
    """Seconds for each unit of each term.

    Attributes:
        kernel: which kernel ran the sparse layers.
        chip: what the kernels depend on.
        threads: threads that torch had.
        dtype: name of the dtype.
        rates: seconds by system, kind and term.
        disturbed: whether other programs wanted the cores while they were measured.
    """

    kernel: str
    chip: Chip
    threads: int
    dtype: str
    rates: dict[str, dict[str, dict[str, float]]]
    disturbed: bool = False

    def seconds(self, system: str, kind: str, terms: Terms) -> float:
        """The sum of the terms, each at its rate."""
        rates = self.rates[system][kind]
        return sum(rates[name] * count for name, count in terms.items())

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return asdict(self)


def fit(terms: Sequence[Terms], seconds: Sequence[float]) -> dict[str, float]:
    """Rates that predict the measured times, none of them negative.

    Least squares of the relative errors, reweighted until nearly the sum of their absolute values is least.
    A term that comes out negative is left out, the most negative first, and the others are fitted anew. The
    set kept need not be the best one, as it is in Lawson and Hanson's algorithm (Solving Least Squares
    Problems, 1974); where the times are sums of the terms it is.

    Args:
        terms: counts of each measured point; a name that a point lacks counts 0 there.
        seconds: what each took, above 0.

    Returns:
        Seconds a unit by name; 0 for a term that no point has.
    """
    names = list(dict.fromkeys(name for found in terms for name in found))
    columns = [[found.get(name, 0.0) for name in names] for found in terms]
    measured, counts = (torch.tensor(n, dtype=torch.float64, device="cpu") for n in (seconds, columns))
    relative = counts / measured[:, None]  # (points, terms)
    scale = relative.amax(0)
    kept = scale.nonzero().flatten().tolist()
    solution = _robust(relative[:, kept] / scale[kept])  # each column at most 1
    while bool((solution < 0).any()):
        kept.pop(int(solution.argmin()))
        solution = _robust(relative[:, kept] / scale[kept])
    found = dict.fromkeys(names, 0.0)
    found.update({names[c]: float(s / scale[c]) for c, s in zip(kept, solution, strict=True)})
    return found


def _robust(shares: Tensor) -> Tensor:
    """(terms,) so that shares @ solution is near to 1 at most points."""
    weights = shares.new_ones(len(shares))
    for _ in range(_ROUNDS):
        solution: Tensor = torch.linalg.lstsq(shares * weights[:, None], weights, driver="gelsd").solution
        weights = (shares @ solution - 1).abs().clamp(min=_SMALL_ERROR).rsqrt()
    return solution


def path_of(kernel: str, dtype: torch.dtype) -> Path | None:
    """Where the rates of this machine lie, for a kernel, a dtype and the threads that torch has.

    None if there is no folder to keep them in.
    """
    try:
        library = build.path()  # its name stands for the processor, torch and the sources of the kernel
    except build.BuildError:
        return None
    parts = (_SCHEMA, library.name, kernel, torch.get_num_threads(), dtype)
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
    return library.with_name(f"rates-{digest[:20]}.json")


def load(path: Path | None) -> Rates | None:
    """What is kept there; None if there is nothing, or nothing that predicts."""
    if path is None:
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = Rates(**{**kept, "chip": Chip(**kept["chip"])})
        return found if _complete(found) else None
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError):
        return None


def _complete(rates: Rates) -> bool:
    """Whether there is a finite rate for each term, none negative, and a call takes time.

    Raises:
        KeyError, TypeError, ArithmeticError: it is worse than that.
    """
    one = Skew.of(torch.ones(1, device="cpu"))
    work = Workload(1, 1, nnz=1, batch=1, itemsize=4, index_itemsize=4, rows=one, columns=one)
    for system in (SPARSE, DENSE):
        for kind in (FORWARD, STEP):
            found = rates.rates[system][kind]
            needed = [found[term] for term in terms_of(system, kind, work, rates.chip)]
            if not all(math.isfinite(rate) and rate >= 0 for rate in needed) or found["call"] == 0:
                return False
    return True


def save(rates: Rates, path: Path | None) -> None:
    """Keep the rates, as a whole or not at all; where that fails, the next process measures again."""
    if path is None:
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(json.dumps(rates.to_dict(), indent=1) + "\n", encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
