"""One command, one table: steps of a sparse layer against torch.sparse CSR with plain autograd.

    python -m bench [--rounds N] [--threads N] [--only TEXT]

Float32, contiguous (batch, features) in and out, gradients of input and values. Both sides are run
in turns and compared by their medians. Writes bench/results/cpu-steps.md and .json and ends with
status 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from sparselinear import profiling

from .cells import CELLS, Cell

RESULTS = Path(__file__).parent / "results"
PEER = "csr"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="samples of each side (default 9)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--only", default="", help="only the matrices whose name holds this text")
    options = parser.parse_args()
    cells = [cell for cell in CELLS if options.only in cell.name]
    if not cells:
        parser.error(f"--only {options.only}: no matrix of that name")
    found = []
    for cell in cells:
        profile = _measure(cell, options.rounds, options.threads)
        found.append((cell, profile))
        print(_line(cell, profile), flush=True)
    if not options.only:
        _write(found)
    missed = [cell for cell, profile in found if cell.bar and _ratio(profile, "step") < cell.bar]
    for cell in missed:
        print(f"missed: {cell.name}, batch {cell.batch}: {cell.bar} times", file=sys.stderr)
    return 1 if missed else 0


def _measure(cell: Cell, rounds: int, threads: int) -> profiling.Profile:
    return profiling.profile(
        cell.make(), batch=cell.batch, threads=threads, baselines=[PEER], rounds=rounds, peak=False
    )


def _ratio(profile: profiling.Profile, kind: str) -> float:
    """How many times as long the peer takes, by the medians."""
    ours, peer = (_timing(profile, name, kind) for name in ("sparselinear", PEER))
    return peer.median_s / ours.median_s


def _timing(profile: profiling.Profile, name: str, kind: str) -> profiling.Timing:
    row = profile.row(name)
    timing = row and row.times[kind]
    assert timing, f"{name}: {row and row.refusals}"
    return timing


def _noise(profile: profiling.Profile) -> float:
    """Interquartile range of the steps over their median, the larger of both sides."""
    spreads = []
    for name in ("sparselinear", PEER):
        timing = _timing(profile, name, "step")
        first, third = timing.quartiles_s
        spreads.append((third - first) / timing.median_s)
    return max(spreads)


def _line(cell: Cell, profile: profiling.Profile) -> str:
    step, peer = (_timing(profile, name, "step").median_s * 1e3 for name in ("sparselinear", PEER))
    cells = [
        cell.name,
        str(cell.batch),
        f"{step:.2f}",
        f"{peer:.2f}",
        f"{_ratio(profile, 'forward'):.2f}",
        f"**{_ratio(profile, 'step'):.2f}**",
        f"{cell.bar:g}" if cell.bar else "",
        f"{_noise(profile):.0%}",
        profile.kernel.split(":")[0],
    ]
    return f"| {' | '.join(cells)} |"


def _write(found: list[tuple[Cell, profiling.Profile]]) -> None:
    machine, rounds = found[0][1].machine, found[0][1].rounds
    lines = [
        "# Training step on a CPU against torch.sparse CSR with plain autograd",
        "",
        f"`python -m bench`, {rounds} rounds in turns, medians. {machine.processor} ({machine.capability}), "
        f"{machine.threads} threads, torch {machine.torch}. Float32, contiguous (batch, features) in and "
        "out, gradients of input and values; times in ms; ratios are times of the peer over ours. Noise is "
        "the larger of both sides' interquartile range over the median.",
        "",
        "| matrix | batch | step | CSR step | forward ratio | step ratio | bar | noise | kernel |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(cell, profile) for cell, profile in found),
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cpu-steps.md").write_text("\n".join(lines) + "\n")
    data = [{"matrix": cell.name, "bar": cell.bar, "profile": profile.to_dict()} for cell, profile in found]
    (RESULTS / "cpu-steps.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
