"""From a workload and the rates of the machine to times and bytes."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..baselines import BASELINES, OURS
from ..ledger import Sizes, needed_bytes
from .rates import Rates
from .terms import DENSE, FORWARD, SPARSE, STEP, terms_of
from .workload import Workload


@dataclass(frozen=True)
class Prediction:
    """What a layer would take.

    Attributes:
        forward_s: seconds of forward.
        step_s: seconds of a training step, without the optimizer.
        total_bytes: what it keeps in training: parameters, indices, gradients, state of Adam.
        needed_bytes: what has to be free for a training step.
    """

    forward_s: float
    step_s: float
    total_bytes: int
    needed_bytes: int

    def to_dict(self) -> dict[str, float]:
        """The same, ready for JSON."""
        return asdict(self)


def predict(work: Workload, rates: Rates) -> dict[str, Prediction]:
    """Predictions by system: ``"sparselinear"``, and ``"dense"`` for nn.Linear."""
    sizes = Sizes(
        work.out_features, work.in_features, work.nnz, True, work.itemsize, work.index_itemsize, work.batch
    )
    found = {}
    for name, system in ((SPARSE, OURS), (DENSE, BASELINES["dense"])):
        ledger = system.bytes(sizes)
        found[name] = Prediction(
            forward_s=seconds(work, rates, name, FORWARD),
            step_s=seconds(work, rates, name, STEP),
            total_bytes=ledger.total_bytes,
            needed_bytes=needed_bytes(ledger, sizes),
        )
    return found


def seconds(work: Workload, rates: Rates, system: str, kind: str) -> float:
    """Predicted seconds of forward or of a step."""
    return rates.seconds(system, kind, terms_of(system, kind, work, rates.chip))
