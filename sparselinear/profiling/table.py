"""How a profile looks in a terminal: two tables that fit 80 columns, and what is to be said of them."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .figures import NONE, milliseconds, percent, quantity, ratio, three_digits
from .result import REFUSED, TOO_LARGE, Profile, Row
from .timing import Timing
from .verdict import DENSE

_BOUNDS = ("memory", "multiplication")
# From here on there is room for what each system is.
_WIDE = 124


def render(profile: Profile, console: Console | None = None) -> None:
    """Print a profile.

    Args:
        profile: what :func:`sparselinear.profiling.profile` gave.
        console: where to; None is the standard output.
    """
    console = console or Console(highlight=False)
    wide = console.width >= _WIDE
    parts = (
        _heading(profile),
        Text("\nTime, ms", style="bold"),
        _times(profile, wide),
        Text(_TIMES_LEGEND, style="dim"),
        Text("\nMemory", style="bold"),
        _memory(profile, wide),
        Text(_MEMORY_LEGEND, style="dim"),
        Text("\nVerdict", style="bold"),
        Text("\n".join(notes(profile))),
    )
    for part in parts:
        console.print(part)


_TIMES_LEGEND = """\
Median ± half the range between the quartiles. x: how many times as fast as
dense; noise: of the x of the step, which tells nothing if it is off 1 by less.
step: forward and backward. Adam: its update, which comes on top."""


_MEMORY_LEGEND = """\
indices: with those of the transpose. peak: of a training step, with Adam where
it is taken, beyond torch and the inputs. x: how many times less than dense."""


def _heading(profile: Profile) -> Text:
    sizes, found = profile.sizes, profile.machine
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    rounds = "1 round" if profile.rounds == 1 else f"{profile.rounds} rounds"
    free = "unknown" if found.memory_available_bytes is None else quantity(found.memory_available_bytes)
    lines = (
        f"{sizes.out_features:,} outputs x {sizes.in_features:,} inputs, nnz {sizes.nnz:,}, "
        f"density {profile.density:.3g}",
        f"batch {sizes.batch}, {profile.dtype}, {profile.device}, {threads}, {rounds}",
        f"{found.processor}, {found.capability}, torch {found.torch}, {free} free",
        f"kernel {profile.kernel}",
    )
    return Text.assemble((profile.name, "bold"), "\n", "\n".join(lines))


def plain_table(*headers: str, gap: int = 2) -> Table:
    """A table without lines: the first column to the left, the others to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="underline")
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number else "left", no_wrap=True)
    return table


def _times(profile: Profile, wide: bool) -> Table:
    table = plain_table("system", "forward", "x", "step", "x", "noise", "Adam", "x", gap=2 if wide else 1)
    if wide:
        table.add_column("what it is", no_wrap=True)
    for row in profile.rows:
        cells = [row.name]
        for kind, found in profile.against_dense(row).items():
            cells += [_time_cell(row, kind, row.times[kind]), ratio(found.ratio if found else None)]
            if kind == "step":
                cells.append(percent(found.noise if found and row.name != DENSE else None))
        table.add_row(*cells, *([row.text] if wide else []), style=_style(row))
    return table


def _time_cell(row: Row, kind: str, timing: Timing | None) -> str:
    if timing:
        return milliseconds(timing)
    if kind in dict(row.refusals):
        return REFUSED
    return TOO_LARGE if row.status == TOO_LARGE and kind == "forward" else NONE


def _memory(profile: Profile, wide: bool) -> Table:
    names = ("parameters", "mask", "indices", "gradients", "Adam state", "total", "peak of a step", "x")
    short = ("weights", "mask", "indices", "grads", "Adam", "total", "peak", "x")
    table = plain_table("system", *(names if wide else short), gap=2 if wide else 1)
    for row in profile.rows:
        table.add_row(row.name, *_memory_cells(profile, row), style=_style(row))
    return table


def _memory_cells(profile: Profile, row: Row) -> list[str]:
    ledger, ratios = row.ledger, profile.versus_dense(row)
    indices = ledger.indices_bytes + ledger.transpose_bytes
    trained = bool(ledger.gradients_bytes)
    peak = row.peak.peak_bytes if row.peak else None
    return [
        quantity(ledger.parameters_bytes),
        quantity(ledger.mask_bytes) if ledger.mask_bytes else NONE,
        quantity(indices) if indices else NONE,
        quantity(ledger.gradients_bytes) if trained else NONE,
        NONE if ledger.adam_bytes is None else quantity(ledger.adam_bytes),
        quantity(ledger.total_bytes),
        NONE if peak is None else quantity(peak) + ("" if row.peak and row.peak.exact else "*"),
        ratio(ratios["peak"] if peak is not None else None),
    ]


def _style(row: Row) -> str:
    return "bold" if not row.letter else ""


def notes(profile: Profile) -> list[str]:
    """What the tables cannot say: the verdict, what did not fit, what was refused and why."""
    return [
        profile.verdict.text,
        *_predicted(profile),
        *_roofline(profile),
        *_more_rounds(profile),
        *_too_large(profile),
        *_refused(profile),
        *_peaks(profile),
    ]


def _predicted(profile: Profile) -> list[str]:
    """The step that the cost model predicted, beside the measured one."""
    if profile.predicted is None:
        return []
    pairs = []
    for name, prediction in (("sparselinear", profile.predicted.sparse), (DENSE, profile.predicted.dense)):
        row = profile.row(name)
        step = f"{three_digits(row.step.median_s * 1e3)} ms" if row and row.step else "not measured"
        pairs.append(f"{name} {three_digits(prediction.step_s * 1e3)} ms ({step})")
    return [f"Predicted step, and measured: {', '.join(pairs)}."]


def _roofline(profile: Profile) -> list[str]:
    """What part of the limit of the machine the products reach."""
    places = [f"{p.system} {p.product} {100 * p.share:.0f} % ({p.bound})" for p in profile.roofline]
    return [f"Reached of what {' or '.join(_BOUNDS)} allows: {', '.join(places)}."] if places else []


def _more_rounds(profile: Profile) -> list[str]:
    """What was measured again because it was close."""
    taken = {row.name: len(row.forward.samples_s) for row in profile.rows if row.forward}
    more = [f"{name} {rounds}" for name, rounds in taken.items() if rounds > profile.rounds]
    return [f"More rounds, as they were closer than the noise: {', '.join(more)}."] if more else []


def _too_large(profile: Profile) -> list[str]:
    limit = quantity(profile.limit_bytes)
    return [
        f"{row.name}: not tried, it would need {quantity(row.needed_bytes)} and {limit} can be used."
        for row in profile.rows
        if row.status == TOO_LARGE and row.name != DENSE  # of dense the verdict tells it
    ]


def _refused(profile: Profile) -> list[str]:
    """One line for each reason, with the systems it holds for."""
    systems: dict[tuple[str, str], list[str]] = {}
    for row in profile.rows:
        for refusal in row.refusals:
            systems.setdefault(refusal, []).append(row.name)
    return [
        f"{', '.join(names)}: {'Adam' if kind == 'adam' else kind} refused; torch says: {reason}."
        for (kind, reason), names in systems.items()
    ]


def _peaks(profile: Profile) -> list[str]:
    peaks = [(row.name, row.peak) for row in profile.rows if row.peak]
    lines = [f"{name}: no peak, {peak.reason}." for name, peak in peaks if peak.reason]
    if not all(peak.exact for _, peak in peaks):
        lines.append("* with what building took: this system does not let the high-water mark be set back.")
    return lines
