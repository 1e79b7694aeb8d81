"""Several profiles at a glance: a line for each file and batch."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .figures import NONE, percent, quantity, ratio
from .result import Profile
from .verdict import DENSE

_LEGEND = """\
fastest: at a training step. forward, step, peak: how many times as long, and as
much memory, as sparselinear dense takes. noise: of the ratio of the steps."""


def render_summary(profiles: Sequence[Profile], console: Console | None = None) -> None:
    """Print a line for each profile.

    Args:
        profiles: what :func:`sparselinear.profiling.profile` gave, each with a name of its own.
        console: where to; None is the standard output.
    """
    console = console or Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="underline")
    table.add_column("file", overflow="fold", min_width=8)
    for header in ("batch", "fastest", "forward", "step", "noise", "peak"):
        left = header == "fastest"
        table.add_column(header, justify="left" if left else "right", no_wrap=True)
    table.add_column("verdict", min_width=12)
    for profile in profiles:
        table.add_row(*_cells(profile))
    for part in (Text("\nSummary", style="bold"), table, Text(_LEGEND, style="dim")):
        console.print(part)
    for profile in profiles:
        if too_large := _too_large(profile):
            console.print(Text(f"{profile.name}, batch {profile.sizes.batch}: {too_large}"))


def _cells(profile: Profile) -> list[str]:
    verdict = profile.verdict
    ratios, step = profile.versus_dense(profile.rows[0]), verdict.dense["step"]
    return [
        profile.name,
        str(profile.sizes.batch),
        verdict.step.fastest if verdict.step else NONE,
        ratio(ratios["forward"]),
        ratio(ratios["step"]),
        percent(step.noise if step else None),
        ratio(ratios["peak"]),
        verdict.short,
    ]


def _too_large(profile: Profile) -> str:
    dense = profile.row(DENSE)
    if not dense or dense.fits:
        return ""
    needed, limit = quantity(dense.needed_bytes), quantity(profile.limit_bytes)
    return f"dense would need {needed}, and {limit} can be used."
