"""The report in a real browser: a Chromium of this machine, driven by playwright, judged by axe-core."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from test_profiling_report import full
from test_profiling_table import row_of

from sparselinear.profiling import render_html

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
)
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is on the PATH")

# The second has a name that is hard to break into lines, and times over six decades: a full axis.
NAME = 'a "second", <b>longer</b> file_name_without_a_space_in_it_' + "x" * 60 + ".npz"
PROFILES = [full(), full(name=NAME, rows=(row_of("sparselinear", 0.02), row_of("dense", 9000.0)))]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Without its sandbox, which root does not get; the page is our own.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_html(PROFILES), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Any]:
    """Opens the page as asked; afterwards there must have been no error and no request beyond the file."""
    contexts, faults, requests = [], [], []

    def open_page(script: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        if script:
            page.add_init_script(script)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
    assert {url.split("#")[0] for url in requests} <= {address}
    assert requests


def texts(page: Any, table: int, column: int) -> list[str]:
    cells = page.locator("table").nth(table).locator("tbody tr")
    return [cell.get_attribute("data-value") for cell in cells.locator(f":nth-child({column + 1})").all()]


def test_it_shows_what_the_profiles_say(opened: Any) -> None:
    page = opened()
    assert page.title() == "2 profiles · dense against sparse"
    assert page.locator("h2").all_inner_texts()[:3] == ["Overview", *(profile.name for profile in PROFILES)]
    for number in range(2):
        article = page.locator("article").nth(number)
        assert article.locator("svg.picture").bounding_box()["height"] > 50
        assert article.locator("svg.histogram").count() == 2
        longest = max(bar.bounding_box()["width"] for bar in article.locator("rect.other").all())
        assert longest > article.locator("rect.ours").first.bounding_box()["width"] > 0


@pytest.mark.parametrize(("key", "column"), [("forward_median_ms", 1), ("step_times_as_fast_as_dense", 6)])
def test_tables_sort_by_click_and_by_keyboard(opened: Any, key: str, column: int) -> None:
    page = opened()
    head = page.locator("article").first.locator(f"th[data-key={key}]")
    button = head.get_by_role("button")
    before = texts(page, 1, column)
    known = sorted(float(text) for text in before if text)
    assert len(set(known)) == len(known) == 3
    assert before.count("") == 1
    ways = {
        button.click: ("ascending", known),
        lambda: button.press("Enter"): ("descending", known[::-1]),
        lambda: button.press("Space"): ("ascending", known),
        lambda: button.click(): ("descending", known[::-1]),
    }
    for way, (direction, expected) in ways.items():
        way()
        assert head.get_attribute("aria-sort") == direction
        *numbers, last = texts(page, 1, column)
        assert [float(text) for text in numbers] == expected
        assert last == ""  # without a number: last, either way
    assert page.locator("[aria-sort]").count() == 1


def test_sorting_keeps_the_lines_together_and_goes_by_names_too(opened: Any) -> None:
    page = opened()
    lines = {row.inner_text() for row in page.locator("table").nth(1).locator("tbody tr").all()}
    page.locator("article").first.locator("th[data-key=step_median_ms] button").click()
    page.locator("article").first.locator("th[data-key=system] button").first.click()
    assert texts(page, 1, 0) == sorted(row.name for row in PROFILES[0].rows)
    assert {row.inner_text() for row in page.locator("table").nth(1).locator("tbody tr").all()} == lines
    assert page.locator("[aria-sort]").count() == 1


def test_a_keyboard_reaches_every_button(opened: Any) -> None:
    page = opened()
    buttons = page.locator("button:visible").count()
    reached = set()
    for _ in range(4 * buttons):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "() => [...document.querySelectorAll('button')].filter(b => b.checkVisibility())"
                ".indexOf(document.activeElement)"
            )
        )
    assert reached - {-1} == set(range(buttons))


NO_CLIPBOARD = 'Object.defineProperty(navigator, "clipboard", {value: undefined});'
DENIED = """
    const writeText = async () => { throw new DOMException("denied", "NotAllowedError"); };
    Object.defineProperty(navigator, "clipboard", {value: {writeText}});
"""


def check_csv(text: str) -> None:
    profile = PROFILES[1]
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [line["system"] for line in lines] == [row.name for row in profile.rows]
    for line, row in zip(lines, profile.rows, strict=True):
        assert line["text"] == row.text
        for kind, timing in row.times.items():
            assert line[f"{kind}_median_ms"] == ("" if timing is None else repr(timing.median_s * 1e3))


def test_copies_as_csv_and_json(opened: Any) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    copied = "navigator.clipboard.readText()"
    article = page.locator("article").nth(1)
    article.get_by_role("button", name="Copy as CSV").first.click()
    page.get_by_role("status").filter(has_text="Copied as CSV.").wait_for()
    check_csv(page.evaluate(copied))
    article.get_by_role("button", name="JSON").click()
    page.get_by_role("status").filter(has_text="Copied as JSON.").wait_for()
    assert json.loads(page.evaluate(copied)) == json.loads(json.dumps(PROFILES[1].to_dict()))
    page.locator(".overview").get_by_role("button", name="Copy as CSV").click()
    page.get_by_role("status").filter(has_text="Copied as CSV.").wait_for()
    overview = csv.DictReader(io.StringIO(page.evaluate(copied), newline=""))
    assert [line["name"] for line in overview] == [profile.name for profile in PROFILES]


@pytest.mark.parametrize("script", [NO_CLIPBOARD, DENIED], ids=["no clipboard", "denied"])
def test_without_a_clipboard_the_text_is_selected(opened: Any, script: str) -> None:
    page = opened(script)
    page.locator("article").nth(1).get_by_role("button", name="Copy as CSV").first.click()
    dialog = page.get_by_role("dialog")
    check_csv(dialog.get_by_role("textbox").input_value().replace("\n", "\r\n"))
    area = "document.activeElement"
    parts = (f"{area}.{name}" for name in ("selectionStart", "selectionEnd", "value.length"))
    start, end, length = map(page.evaluate, parts)
    assert (start, end) == (0, length)
    link = dialog.get_by_role("link")
    assert link.get_attribute("download") == "profile.csv"
    check_csv(unquote(link.get_attribute("href").split(",", 1)[1]))
    violations(page)
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_light_and_dark_follow_the_system_until_one_is_chosen(opened: Any) -> None:
    page = opened(color_scheme="dark")

    def lightness() -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(float, colour.strip("rgb()").split(","))) / (3 * 255)

    assert lightness() < 0.2
    page.emulate_media(color_scheme="light")
    assert lightness() > 0.8
    button = page.locator("#theme")
    # Waited for: the page hears of the system's change after its styles have followed.
    sync_api.expect(button).to_have_attribute("aria-label", "Show in dark colours")
    button.click()
    assert lightness() < 0.2
    assert button.get_attribute("aria-label") == "Show in light colours"
    button.click()
    assert lightness() > 0.8


def test_the_page_never_scrolls_sideways(opened: Any) -> None:
    page = opened()
    outside = """(width) => [...document.querySelectorAll("main *")].filter((element) => {
        if (element.closest(".scroll, .patterns")) return false;
        return element.getBoundingClientRect().right > width + 1;
    }).map((element) => element.outerHTML.slice(0, 80))"""
    for width in (320, 380, 720, 1024, 1400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(outside, width) == []


def test_it_is_all_there_without_scripts(opened: Any) -> None:
    page = opened(java_script_enabled=False)
    assert page.locator("svg.picture").first.is_visible()
    assert page.locator("table").nth(1).is_visible()
    assert not page.locator(".copy").first.is_visible()


def test_numbers_below_a_chart_do_not_run_into_each_other(opened: Any) -> None:
    page = opened()
    edges = """(scale) => [...scale.querySelectorAll("text")].filter((text) => text.checkVisibility())
        .map((text) => text.getBoundingClientRect()).map((box) => [box.left, box.right])"""
    for width in (320, 380, 1400):
        page.set_viewport_size({"width": width, "height": 800})
        for scale in page.locator("svg.scale").all():
            boxes = scale.evaluate(edges)
            assert len(boxes) >= 3
            assert all(left[1] < right[0] for left, right in pairwise(boxes))


def violations(page: Any) -> None:
    response = axe.Axe().run(page).response
    assert [(found["id"], found["nodes"][0]["html"]) for found in response["violations"]] == []
    assert "color-contrast" in {found["id"] for found in response["passes"]}


@pytest.mark.parametrize("width", [380, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened: Any, scheme: str, width: int) -> None:
    violations(opened(color_scheme=scheme, viewport={"width": width, "height": 900}))


# Text in SVG is not among what axe judges, nor is what is drawn.
CONTRAST = """() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const luminance = (colour) => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const linear = (share) => (share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((byte) => linear(byte / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const surface = luminance(getComputedStyle(document.querySelector("article")).backgroundColor);
    const against = (selector, property) => {
        const own = luminance(getComputedStyle(document.querySelector(selector))[property]);
        return (Math.max(own, surface) + 0.05) / (Math.min(own, surface) + 0.05);
    };
    return {
        text: against(".scale text", "fill"),
        ours: against("rect.ours", "fill"),
        mark: against(".track .mark", "stroke"),
        levels: [1, 2, 3, 4, 5, 6, 7, 8].map((n) => against(`.steps .level${n}`, "color")),
    };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_drawings_stand_out(opened: Any, scheme: str) -> None:
    found = opened(color_scheme=scheme).evaluate(CONTRAST)
    assert found["text"] >= 4.5
    assert found["ours"] >= 3
    assert found["mark"] >= 3
    levels = found["levels"]
    assert levels == sorted(levels)
    assert levels[0] > 1.3  # told from a pixel without a connection
    assert all(after / before > 1.1 for before, after in pairwise(levels))
