"""Numbers as people read them: three digits, a unit, a share."""

from __future__ import annotations

from .timing import Timing

NONE = "—"


def milliseconds(timing: Timing) -> str:
    """``"12.3 ±0.4"``: the median in ms to three digits, and half the range of the quartiles."""
    first, third = timing.quartiles_s
    median, spread = timing.median_s * 1e3, (third - first) / 2 * 1e3
    digits = _decimals(median)
    return f"{median:.{digits}f} ±{spread:.{digits}f}"


def quantity(number: int) -> str:
    """Bytes to three digits, in steps of 1000: ``"106 MB"``."""
    size, units = float(number), ["B", "kB", "MB", "GB", "TB", "PB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} B" if units[0] == "B" else f"{three_digits(size)} {units[0]}"


def ratio(value: float | None) -> str:
    """``"12.3x"`` to three digits, ``"0.65x"`` to two decimals; a dash where there is none."""
    if value is None:
        return NONE
    return f"{value:.2f}x" if 0.1 <= value < 1 else f"{three_digits(value)}x"


def percent(value: float | None) -> str:
    """``"1.2 %"`` of a share such as 0.012; a dash where there is none."""
    return NONE if value is None else f"{100 * value:.1f} %"


def share(value: float) -> str:
    """A ratio in front of what it is of: ``"1/19 of"``, ``"77 % of"``, ``"1.40 times"``."""
    if value <= 0.1:
        return f"1/{1 / value:.0f} of"
    if value <= 0.5:
        return f"1/{1 / value:.1f}".removesuffix(".0") + " of"
    if value < 0.95:
        return f"{100 * value:.0f} % of"
    return f"{value:.2f} times" if value < 1 else f"{three_digits(value)} times"


def three_digits(value: float) -> str:
    """A value to three digits, at most three of them decimals: ``"0.052"``, ``"1.23"``, ``"106"``."""
    return f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    """Decimals that show three digits of a value."""
    return next((digits for digits, bound in enumerate((99.95, 9.995, 0.9995)) if value >= bound), 3)
