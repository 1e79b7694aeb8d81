"""The rates of a machine: seconds that each term of terms.py takes, fitted to what was measured, and kept.

Rates are those of one processor, one number of threads, one dtype, one torch and one build of the native
kernel. They lie as JSON in the folder of the compiled kernels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...kernels import build
from .terms import Chip, Terms

# Raise it when the terms, or what they are fitted to, change.
_SCHEMA = 1
# Reweighted least squares: rounds, and the error below which all points weigh the same. It comes near to the
# least sum of absolute errors, in which a point that was disturbed weighs little.
_ROUNDS, _SMALL_ERROR = 8, 0.03


@dataclass(frozen=True)
class Rates:
    """Seconds for each unit of each term.

    Attributes:
        kernel: which kernel ran the sparse layers.
        chip: what the panels of the native kernel depend on.
        threads: threads that torch had.
        dtype: name of the dtype.
        rates: by system, kind and term.
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

    Least squares of the relative errors, reweighted towards absolute ones. A term that comes out negative
    is left out, the most negative first, and the others are fitted anew: backward elimination, after which
    the rates are positive as those of Lawson and Hanson's algorithm (Solving Least Squares Problems, 1974).
    """
    names = list(dict.fromkeys(name for found in terms for name in found))
    measured = torch.tensor(seconds, dtype=torch.float64)
    counts = torch.tensor([[found.get(name, 0.0) for name in names] for found in terms], dtype=torch.float64)
    scale = (counts / measured[:, None]).amax(0).clamp(min=1e-300)
    shares = counts / measured[:, None] / scale  # (points, terms), each column at most 1
    kept = [column for column in range(len(names)) if bool(shares[:, column].any())]
    while True:
        solution = _robust(shares[:, kept])
        if bool((solution >= 0).all()):
            break
        kept.pop(int(solution.argmin()))
    found = dict.fromkeys(names, 0.0)
    found.update({names[c]: float(s / scale[c]) for c, s in zip(kept, solution, strict=True)})
    return found


def _robust(shares: Tensor) -> Tensor:
    """(terms,) so that shares @ solution is near to 1 at most points."""
    weights = torch.ones(len(shares), dtype=torch.float64)
    for _ in range(_ROUNDS):
        solution: Tensor = torch.linalg.lstsq(shares * weights[:, None], weights, driver="gelsd").solution
        weights = (shares @ solution - 1).abs().clamp(min=_SMALL_ERROR).rsqrt()
    return solution


def path_of(dtype: torch.dtype) -> Path | None:
    """Where the rates of this machine, the threads of torch and a dtype lie; None if nothing can be kept."""
    try:
        library = build.path()
    except build.BuildError:
        return None
    parts = (_SCHEMA, library.name, library.is_file(), torch.get_num_threads(), dtype)
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
    return library.with_name(f"rates-{digest[:20]}.json")


def load(path: Path | None) -> Rates | None:
    """What is kept there; None if there is nothing, or nothing that can be read."""
    if path is None:
        return None
    try:
        kept = json.loads(path.read_text())
        return Rates(**{**kept, "chip": Chip(**kept["chip"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def save(rates: Rates, path: Path | None) -> None:
    """Keep the rates, as a whole or not at all; where that fails, the next process measures again."""
    if path is None:
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(rates.to_dict(), indent=1) + "\n")
        draft.replace(path)
