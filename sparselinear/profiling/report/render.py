"""The page as a whole: its sections in order, the overview of several profiles, the numbers it carries."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from importlib.resources import files
from string import Template

from ...checks import message, type_name
from ..figures import NONE, quantity, ratio, three_digits
from ..result import Profile
from .facts import setting, summary
from .limits import predicted, roofline
from .markup import element, html
from .memory import memory, patterns
from .pattern import pattern
from .tables import Cell, table, three_significant
from .times import times

# The parts of a profile on the page, one after the other; one that has nothing to show gives None.
SECTIONS: tuple[Callable[[Profile], ET.Element | None], ...] = (
    summary,
    times,
    memory,
    predicted,
    roofline,
    pattern,
    setting,
)


def render_html(profiles: Sequence[Profile]) -> str:
    """A page of the profiles, a section for each and, of several, a table of them all.

    The page loads nothing: style, script, pictures and numbers are in it. Whatever comes from outside, such
    as the name of a file, is escaped.

    Args:
        profiles: what :func:`sparselinear.profiling.profile` gave, in the order of the page.

    Returns:
        The text of the page, which UTF-8 can hold.

    Raises:
        TypeError: an entry is no profile.
        ValueError: there is none.
    """
    profiles = tuple(profiles)
    for number, profile in enumerate(profiles):
        if not isinstance(profile, Profile):
            raise TypeError(message(f"profiles[{number}]", "a Profile", type_name(profile)))
    if not profiles:
        raise ValueError(message("profiles", "at least one Profile", "none"))
    title = profiles[0].name if len(profiles) == 1 else f"{len(profiles)} profiles"
    page = Template(_file("page.html"))
    return page.substitute(
        title=html(element("title", f"{title} · dense against sparse")),
        style=_file("style.css"),
        body=html(_body(profiles)),
        data=_data(profiles),
        script=_file("page.js"),
    )


def _file(name: str) -> str:
    return (files(__package__) / "page" / name).read_text(encoding="utf-8")


def _data(profiles: Sequence[Profile]) -> str:
    """All numbers as JSON; without ``<`` nothing in it can end the script that holds it."""
    return json.dumps([profile.to_dict() for profile in profiles], allow_nan=False).replace("<", "\\u003c")


def _body(profiles: Sequence[Profile]) -> ET.Element:
    several = len(profiles) > 1
    articles = [_article(profile, number) for number, profile in enumerate(profiles)]
    return element("main", patterns(), _overview(profiles) if several else None, *articles)


def _article(profile: Profile, number: int) -> ET.Element:
    button = element(
        "button",
        "Copy all numbers as JSON",
        type="button",
        class_="copy scripted",
        data_copy="json",
        data_profile=number,
    )
    heading = element("h2", profile.name, id=f"profile-{number}")
    head = element("div", heading, element("p", _under(profile), class_="hint"))
    sections = [section(profile) for section in SECTIONS]
    return element("article", element("div", head, button, class_="head"), *sections)


def _under(profile: Profile) -> str:
    return f"batch {profile.sizes.batch:,}, {profile.dtype}, {profile.device}, {profile.machine.processor}"


def _overview(profiles: Sequence[Profile]) -> ET.Element:
    columns = (
        ("name", "profile"),
        ("batch", "batch"),
        ("out_features", "outputs"),
        ("in_features", "inputs"),
        ("nnz", "connections"),
        ("density", "density"),
        ("step_median_ms", "step, ms"),
        ("step_times_as_fast_as_dense", "x dense"),
        ("total_bytes", "memory kept"),
        ("total_times_less_than_dense", "x less"),
        ("peak_times_less_than_dense", "peak, x less"),
    )
    rows = [_overview_row(profile) for profile in profiles]
    drawn = table("One line for each profile, of sparselinear; x: compared with dense", columns, rows)
    for number, cell in enumerate(drawn.iterfind(".//tbody/tr/th")):
        cell.append(element("a", cell.text, href=f"#profile-{number}"))
        cell.text = None
    return element("section", element("h2", "Overview"), drawn, class_="overview")


def _overview_row(profile: Profile) -> list[Cell]:
    sizes, ours = profile.sizes, profile.rows[0]
    ratios = profile.versus_dense(ours)
    step = ours.step.median_s * 1e3 if ours.step else None
    counts = (sizes.batch, sizes.out_features, sizes.in_features, sizes.nnz)
    return [
        Cell(profile.name, profile.name),
        *(Cell(f"{count:,}", count) for count in counts),
        Cell(three_significant(profile.density), profile.density),
        Cell(NONE if step is None else three_digits(step), step),
        Cell(ratio(ratios["step"]), ratios["step"]),
        Cell(quantity(ours.ledger.total_bytes), ours.ledger.total_bytes),
        Cell(ratio(ratios["total"]), ratios["total"]),
        Cell(ratio(ratios["peak"]), ratios["peak"]),
    ]
