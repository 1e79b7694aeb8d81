"""The bars, and whether the measurements meet them."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from .cells import ANY_PEER, CELLS, Bar
from .measure import Result
from .peers import PEERS

# Least geometric mean of the step over the named cells. BEST is the fastest peer of each cell.
BEST = "the best peer of each cell"
GEOMETRIC_MEANS = {"csr": 6.0, "stock": 2.2, BEST: 2.5}


@dataclass(frozen=True)
class Verdict:
    """One bar over all cells that have it.

    ``met`` is None where the sides that it speaks of were not all measured.
    """

    text: str
    least: float
    found: float | None
    where: str
    met: bool | None
    misses: tuple[str, ...] = ()


def judge(results: list[Result]) -> list[Verdict]:
    """The geometric means first, then every bar of a cell, cells with the same bar together."""
    means = [_mean(results, side, least) for side, least in GEOMETRIC_MEANS.items()]
    groups: dict[Bar, list[Result]] = defaultdict(list)
    for result in results:
        for bar in result.cell.bars:
            groups[bar].append(result)
    return [verdict for verdict in means if verdict] + [_each(bar, group) for bar, group in groups.items()]


def missed(result: Result) -> list[str]:
    """The bars of a cell that it misses, in words."""
    found = []
    for bar in result.cell.bars:
        ratio, where = _lowest(bar, result)
        if ratio is not None and ratio < bar.least:
            found.append(f"{where} {bar.kind} {ratio:.2f} < {bar.least:.3g}")
    return list(dict.fromkeys(found))  # the slowest peer may be one that has a bar of its own


def geometric_mean(ratios: list[float]) -> float:
    """The geometric mean of at least one ratio."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _mean(results: list[Result], side: str, least: float) -> Verdict | None:
    named = [result for result in results if result.cell.named]
    ratios = [_best(result) if side == BEST else result.ratio(side) for result in named]
    known = [ratio for ratio in ratios if ratio is not None]
    if not known:
        return None
    found, total = geometric_mean(known), sum(cell.named for cell in CELLS)
    # A mean over some of the cells is shown, but says nothing about the mean over all.
    whole = len(known) == total and (side != BEST or _every_peer_tried(named))
    where = f"{len(known)} of {total} named cells"
    return Verdict(
        f"step over {side}, geometric mean", least, found, where, found >= least if whole else None
    )


def _every_peer_tried(results: list[Result]) -> bool:
    """Whether each cell timed every peer, or refused it itself: none left out, none not installed."""
    if any(peer.problem() for peer in PEERS.values()):
        return False
    return all({*result.timings, *result.refusals} >= set(PEERS) for result in results)


def _best(result: Result) -> float | None:
    return next(iter(result.rivals().values()), None)


def _lowest(bar: Bar, result: Result) -> tuple[float | None, str]:
    """The ratio that a bar is held against, and the side it is of."""
    if bar.side == ANY_PEER:
        name, ratio = next(iter(result.rivals(bar.kind).items()), ("", None))
        return ratio, name
    return result.ratio(bar.side, bar.kind), bar.side


def _each(bar: Bar, group: list[Result]) -> Verdict:
    found = [(result.cell.label, *_lowest(bar, result)) for result in group]
    known = [(ratio, side, label) for label, ratio, side in found if ratio is not None]
    count = f"{len(group)} cells" if len(group) > 1 else group[0].cell.label
    text = f"{bar.kind} over {bar.side}, in each of {count}" if len(group) > 1 else ""
    text = text or f"{bar.kind} over {bar.side}, {count}"
    if not known:
        return Verdict(text, bar.least, None, "not measured", None)
    ratio, side, label = min(known)
    misses = tuple(f"{label}: {side} {value:.2f}" for value, side, label in known if value < bar.least)
    whole = len(known) == len(group) and (bar.side != ANY_PEER or _every_peer_tried(group))
    met = False if misses else True if whole else None
    where = f"{side}, {label}" if bar.side == ANY_PEER else label
    return Verdict(text, bar.least, ratio, where, met, misses)
