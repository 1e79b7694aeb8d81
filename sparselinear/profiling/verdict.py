"""What a profile means: which system to use, by how much, and whether that can be told at all.

``fastest`` looks at all that was measured. What to use is chosen by the training step, among the systems
that keep the pattern: an nn.Linear without a mask trains the weights outside it too, and is advised only
as what a mask would be put on, where no system with one was measured. Where time does not decide, memory
does, from a tenth on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .figures import percent, quantity, share
from .noise import FEWEST_ROUNDS, Difference, difference

if TYPE_CHECKING:
    from .result import Profile, Row

DENSE = "dense"
# Peaks of two runs of the same step differ by a few per cent; a tenth is more than that.
_LESS_MEMORY = 1.1

_LABELS = {
    "sparselinear": "SparseLinear",
    "dense": "nn.Linear",
    "prune-removed": "nn.Linear after prune.remove",
    "coo": "torch.sparse COO",
    "csr": "torch.sparse CSR",
}


@dataclass(frozen=True)
class Placing:
    """Who is the fastest at one kind of work, and how the next one compares.

    Attributes:
        fastest: name of the system with the smallest median.
        next: name of the next one; None if it was the only one.
        difference: how many times as long the next one takes, and the noise of that.
    """

    fastest: str
    next: str | None = None
    difference: Difference | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {**asdict(self), "difference": self.difference and self.difference.to_dict()}


@dataclass(frozen=True)
class Verdict:
    """What a profile means.

    Attributes:
        use: the system to use; None where neither time nor memory speaks for one.
        short: the outcome in a few words, for a table.
        text: the outcome in sentences.
        forward: who is the fastest at forward; None where the times say nothing.
        step: who is the fastest at a training step; None likewise.
        dense: how many times as long as ours dense takes, by ``"forward"``, ``"step"`` and ``"adam"``;
            None where one of the two was not run, or the times say nothing.
        memory_ratio: how many times the memory of ours dense takes for a training step: of the
            measured peaks, or else of what both keep; None if dense was not asked for.
    """

    use: str | None
    short: str
    text: str
    forward: Placing | None
    step: Placing | None
    dense: dict[str, Difference | None]
    memory_ratio: float | None

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {
            "use": self.use,
            "short": self.short,
            "text": self.text,
            "forward": self.forward and self.forward.to_dict(),
            "step": self.step and self.step.to_dict(),
            "dense": {kind: found and found.to_dict() for kind, found in self.dense.items()},
            "memory_ratio": self.memory_ratio,
        }


def judge(profile: Profile) -> Verdict:
    """The verdict on a profile.

    There is none on time where other programs disturbed, or with fewer than three rounds.
    """
    ours, dense = profile.rows[0], profile.row(DENSE)
    doubt = _doubt(profile)
    placings = {kind: None if doubt else _placing(profile.rows, kind) for kind in ("forward", "step")}
    memory_ratio = memory_times(dense, ours) if dense else None
    if doubt:
        use, short, said = None, "no verdict on time", [doubt, _memory(memory_ratio)]
    else:
        use, short, said = _advice(profile)
        said.append(_forward_alone(profile, placings["forward"], use))
    return Verdict(
        use=use,
        short=short,
        text=" ".join(filter(None, [*said, _unfit(profile), _change(profile)])),
        forward=placings["forward"],
        step=placings["step"],
        dense=dict.fromkeys(ours.times) if doubt else profile.against_dense(ours),
        memory_ratio=memory_ratio,
    )


def memory_times(other: Row, own: Row) -> float | None:
    """How many times the memory of one system another takes for a training step.

    Of the measured peaks where there are both, or else of what they keep; None where Adam takes the
    parameters of only one of them, and so the memory is not of the same things.
    """
    if (other.ledger.adam_bytes is None) != (own.ledger.adam_bytes is None):
        return None
    if own.peak and own.peak.peak_bytes and other.peak and other.peak.peak_bytes:
        return other.peak.peak_bytes / own.peak.peak_bytes
    return other.ledger.total_bytes / max(1, own.ledger.total_bytes)


def _doubt(profile: Profile) -> str:
    """Why the times say nothing; empty if they do."""
    if profile.disturbed:
        return (
            f"No verdict on time: other programs kept {profile.other_cores:.1f} of the "
            f"{profile.machine.cores} cores busy, and these times are too long, those of small layers most "
            "of all. Use fewer threads, or run it again."
        )
    if profile.rounds < FEWEST_ROUNDS:
        return (
            f"No verdict on time: the noise is known from {FEWEST_ROUNDS} rounds on, and this is "
            f"{profile.rounds}."
        )
    return ""


def _placing(rows: tuple[Row, ...], kind: str) -> Placing | None:
    timed = [(timing.median_s, row.name, timing) for row in rows if (timing := row.times[kind])]
    ranked = sorted(timed, key=lambda entry: entry[0])
    if not ranked:
        return None
    if len(ranked) == 1:
        return Placing(ranked[0][1])
    (_, name, best), (_, after, second) = ranked[:2]
    found = difference(second, best)
    if found.ratio < 1:  # one has more rounds than the other: those they share decide
        name, after, found = after, name, difference(best, second)
    return Placing(name, after, found)


def _advice(profile: Profile) -> tuple[str | None, str, list[str]]:
    """What to use, in a word or two, and in sentences."""
    ours, dense, rival = profile.rows[0], profile.row(DENSE), _rival(profile)
    if rival is None:
        if dense and not dense.fits:
            return ours.name, "use sparselinear", ["Use SparseLinear."]
        return None, "nothing to compare", ["Nothing that could be compared with it was measured."]
    against = _steps(rival, ours)
    if not against.seen:
        return _by_memory(ours, rival, against)
    if against.ratio < 1:
        return rival.name, f"use {rival.name}", [_use(rival, ours, against)]
    said = [_use(ours, rival, against)]
    if dense and dense.step and rival is not dense:
        to_dense = _steps(dense, ours)
        if to_dense.seen and to_dense.ratio > 1:
            said = [_use(ours, dense, to_dense), _next(rival, against)]
        else:
            said.append(_unmasked(to_dense))
    return ours.name, "use sparselinear", said


def _rival(profile: Profile) -> Row | None:
    """The fastest of the others that keep the pattern, or else dense; None if neither was timed."""
    timed = [row for row in profile.rows[1:] if row.step]
    masked = [row for row in timed if row.name != DENSE]
    return min(masked or timed, key=lambda row: row.step.median_s if row.step else 0, default=None)


def _steps(other: Row, own: Row) -> Difference:
    """How many times as long the step of another takes; both were timed."""
    assert other.step is not None
    assert own.step is not None
    return difference(other.step, own.step)


def _use(winner: Row, loser: Row, between: Difference) -> str:
    """``between`` in either direction: a step of the winner takes the smaller part."""
    part = min(between.ratio, 1 / between.ratio)
    if winner.name == DENSE:
        start = "Use nn.Linear with a mask, if that costs no more than the difference: without one,"
    else:
        start = f"Use {label(winner.name)}:"
    times = memory_times(winner, loser)
    memory = f" and {share(times)} its memory" if times else ""
    text = f"{start} a training step takes {share(part)} {_possessive(loser)} time"
    text = f"{text}{memory} (noise {percent(between.noise)})."
    return f"{text} Adam does not take its parameters." if "adam" in dict(winner.refusals) else text


def _by_memory(ours: Row, rival: Row, against: Difference) -> tuple[str | None, str, list[str]]:
    said = [
        f"No difference seen between SparseLinear and {label(rival.name)}: their training steps differ by "
        f"{percent(against.size)}, less than the {percent(against.needed)} it takes to tell them apart "
        f"(noise {percent(against.noise)})."
    ]
    times = memory_times(rival, ours)
    if times is None or 1 / _LESS_MEMORY < times < _LESS_MEMORY:
        return None, "no difference", said
    smaller, larger = (ours, rival) if times > 1 else (rival, ours)
    part = min(times, 1 / times)
    said.append(f"Use {label(smaller.name)}: it takes {share(part)} {_possessive(larger)} memory.")
    return smaller.name, f"no difference in time, {smaller.name} is smaller", said


def _next(rival: Row, against: Difference) -> str:
    noise = percent(against.noise)
    return f"The next, {label(rival.name)}, takes {share(against.ratio)} its time (noise {noise})."


def _unmasked(to_dense: Difference) -> str:
    """Dense is no slower than ours, but is not the same thing."""
    if not to_dense.seen:
        return "No difference seen to nn.Linear without a mask, which trains the weights outside the pattern."
    part = f"{share(to_dense.ratio)} its time (noise {percent(to_dense.noise)})"
    return f"nn.Linear without a mask takes {part}, but trains the weights outside the pattern."


def _forward_alone(profile: Profile, placing: Placing | None, use: str | None) -> str:
    """Who is faster than the advised system where nothing is trained; empty if nobody is."""
    advised = profile.row(use) if use else None
    fastest = profile.row(placing.fastest) if placing else None
    if not advised or not fastest or not advised.forward or not fastest.forward:
        return ""
    found = difference(fastest.forward, advised.forward)
    if not found.seen or found.ratio > 1:
        return ""
    part = f"{share(found.ratio)} {_possessive(advised)} time (noise {percent(found.noise)})"
    return f"For forward alone {label(fastest.name)} is faster: {part}."


def _memory(times: float | None) -> str:
    return f"SparseLinear takes {share(1 / times)} dense's memory." if times else ""


def _unfit(profile: Profile) -> str:
    """What dense would need, where it was not tried."""
    ours, dense = profile.rows[0], profile.row(DENSE)
    if not dense or dense.fits:
        return ""
    keeps, would = quantity(ours.ledger.total_bytes), quantity(dense.ledger.total_bytes)
    return (
        f"Dense was not tried, as it does not fit: it would need {quantity(dense.needed_bytes)}, and "
        f"{quantity(profile.limit_bytes)} can be used. For training SparseLinear keeps {keeps}, dense would "
        f"keep {would}."
    )


def _change(profile: Profile) -> str:
    """Where the cost model sees the other one ahead; it knows the machine at rest."""
    return f"The cost model adds: {profile.predicted.change}" if profile.predicted else ""


def label(name: str) -> str:
    """A system as its users call it."""
    return _LABELS.get(name, f"nn.Linear with a mask ({name})")


def _possessive(row: Row) -> str:
    named = row.name in _LABELS and row.name != DENSE
    return f"{label(row.name) if named else row.name}'s"
