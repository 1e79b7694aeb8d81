"""How near a product comes to what the machine could do at most: the roofline model.

After S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance model for
multicore architectures", Communications of the ACM 52 (2009). A product has to do some operations, and has
to move each array that it reads or writes at least once; so it takes at least the larger of operations over
the rate of multiplication and bytes over the bandwidth of memory. What is moved more often than once, as the
rows that a sparse product gathers, comes from a cache if all goes well, and is not counted. Arrays that are
still in a cache from the product before need not come from memory: small layers can exceed their limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from .clock import clock_of
from .ledger import Sizes
from .machine import available_bytes

if TYPE_CHECKING:
    from .result import Row

# What is copied, the side of the matrices that are multiplied, and runs in a sample, by the kind of device. A
# copy reads one half and writes the other of twice these bytes, more than the caches hold: 64 MiB on a CPU,
# and on a GPU, whose second-level cache may have that size, 2 GiB. The products have 2.1 G and 137 G
# operations: a GPU that does 10**15 a second is at ten of them for more than a thousandth of one.
_COPIED_BYTES = {"cpu": 32 << 20, "cuda": 1 << 30}
_SIDE = {"cpu": 1024, "cuda": 4096}
_REPEATS = {"cpu": 1, "cuda": 10}
# Where memory is short, a copy takes no more than this part of what is free.
_OF_FREE = 1 / 8
_ROUNDS = 5


@dataclass(frozen=True)
class Roofs:
    """What the device does at most, measured with torch.

    Attributes:
        operations_s: multiplications and additions a second, in a product of two dense matrices.
        bytes_s: bytes a second, read and written, in a copy.
    """

    operations_s: float
    bytes_s: float

    @classmethod
    def measure(cls, dtype: torch.dtype, device: torch.device) -> Roofs:
        """Measure a device with the threads torch has now; some ten milliseconds on a large machine."""
        return cls(
            operations_s=_multiplication_rate(dtype, device),
            bytes_s=copy_rate(dtype, device),
        )


def copy_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Bytes a second, read and written, in a copy that no cache holds."""
    size, free = _COPIED_BYTES.get(device.type, _COPIED_BYTES["cpu"]), available_bytes(device)
    if free is not None:
        size = min(size, int(_OF_FREE * free))
    source = torch.randn(size // dtype.itemsize, dtype=dtype, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)


def _multiplication_rate(dtype: torch.dtype, device: torch.device) -> float:
    side = _SIDE.get(device.type, _SIDE["cpu"])
    square = torch.randn(side, side, dtype=dtype, device=device)
    product = torch.empty_like(square)
    return 2 * side**3 / _fastest(lambda: torch.mm(square, square, out=product), device)


@dataclass(frozen=True)
class Position:
    """Where a product of a system stands below the roofs.

    Attributes:
        system: ``"sparselinear"`` or ``"dense"``.
        product: ``"forward"`` or ``"backward"``.
        operations: multiplications and additions.
        moved_bytes: of all arrays that it reads or writes, each once.
        seconds: measured; of backward, the step less forward.
        roofs: what the device does at most.
    """

    system: str
    product: str
    operations: int
    moved_bytes: int
    seconds: float
    roofs: Roofs

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.operations / self.moved_bytes

    @property
    def bound(self) -> str:
        """``"memory"`` or ``"multiplication"``: which roof is the lower one here."""
        return "memory" if self.intensity * self.roofs.bytes_s < self.roofs.operations_s else "multiplication"

    @property
    def limit_s(self) -> float:
        """Least seconds that the roofs allow."""
        return max(self.operations / self.roofs.operations_s, self.moved_bytes / self.roofs.bytes_s)

    @property
    def share(self) -> float:
        """Part of the limit that is reached; above 1 where arrays were still in a cache."""
        return self.limit_s / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        found = {"intensity": self.intensity, "bound": self.bound, "limit_s": self.limit_s}
        return {**asdict(self), **found, "share": self.share}


def positions(row: Row, sizes: Sizes, roofs: Roofs) -> tuple[Position, ...]:
    """Where forward and backward of our layer, or of a dense one, stand; none of other systems."""
    if row.name not in _COUNTS or row.forward is None or row.step is None:
        return ()
    operations, moved = _COUNTS[row.name](sizes)
    forward = row.forward.median_s
    taken = {"forward": forward, "backward": row.step.median_s - forward}
    return tuple(
        Position(row.name, product, times * operations, moved[product], taken[product], roofs)
        for product, times in (("forward", 1), ("backward", 2))
        if taken[product] > 0
    )


def counts_of_sparse(sizes: Sizes) -> tuple[int, dict[str, int]]:
    """Operations of forward, and bytes of forward and backward, of our layer."""
    indices = (sizes.out_features + 1 + sizes.nnz) * sizes.index_itemsize
    transposed = (sizes.in_features + 1 + 2 * sizes.nnz) * sizes.index_itemsize  # with the permutation
    outputs, inputs = _activations(sizes)
    return 2 * sizes.nnz * sizes.batch, {
        "forward": sizes.values_bytes + indices + inputs + outputs,
        "backward": 2 * sizes.values_bytes + transposed + 2 * inputs + outputs,
    }


def _dense(sizes: Sizes) -> tuple[int, dict[str, int]]:
    outputs, inputs = _activations(sizes)
    return 2 * sizes.out_features * sizes.in_features * sizes.batch, {
        "forward": sizes.dense_bytes + inputs + outputs,
        "backward": 2 * sizes.dense_bytes + 2 * inputs + outputs,
    }


_COUNTS: dict[str, Callable[[Sizes], tuple[int, dict[str, int]]]] = {
    "sparselinear": counts_of_sparse,
    "dense": _dense,
}


def _activations(sizes: Sizes) -> tuple[int, int]:
    """Bytes of the output and of the input."""
    row = sizes.batch * sizes.itemsize
    return row * sizes.out_features, row * sizes.in_features


def _fastest(run: Callable[[], object], device: torch.device) -> float:
    clock, repeats = clock_of(device), _REPEATS.get(device.type, 1)
    return min(clock.sample(run, repeats) for _ in range(_ROUNDS))
