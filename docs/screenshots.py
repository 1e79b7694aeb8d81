"""Make the pictures of docs/report.md again, from the root of the repository: python docs/screenshots.py.

It profiles the matrix that ships with the package, which takes a minute or two, and needs the ``dev`` extra
and a Chromium on the PATH.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, MONOKAI

from sparselinear.cli.arguments import read_adjacency
from sparselinear.profiling import Profile, calibrated, profile, render, render_html

IMAGES = Path(__file__).resolve().parent / "images"
SIZE = {"width": 1280, "height": 1680}
MARGIN = 24
COLUMNS = 84
# What is at the top of the picture of the page, by colour scheme; and the colours of the terminal.
TOPS = {"light": "Dense against sparse", "dark": "Memory"}
THEMES = {"light": DEFAULT_TERMINAL_THEME, "dark": MONOKAI}


def main() -> None:
    """Measure, render, and take the terminal and the page in light and in dark colours."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no chromium or google-chrome is on the PATH")
    name, pattern = read_adjacency(None)
    rates = calibrated(torch.float32)
    found = profile(pattern, batch=32, rounds=7, rates=rates, name=name)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in TOPS:
            report(browser, Path(folder) / "report.html", found, scheme)
            terminal(browser, Path(folder) / "terminal.html", found, scheme)
        browser.close()


def report(browser: Browser, file: Path, found: Profile, scheme: str) -> None:
    """A screen of the page, from a heading on."""
    file.write_text(render_html([found]), encoding="utf-8")
    tab = browser.new_page(color_scheme=scheme, viewport=SIZE)
    tab.goto(file.as_uri())
    box = tab.get_by_role("heading", name=TOPS[scheme], exact=True).bounding_box()
    part = {"x": 0, "y": max(0, box["y"] - MARGIN), **SIZE}
    tab.screenshot(path=IMAGES / f"report-{scheme}.png", full_page=True, clip=part)


def terminal(browser: Browser, file: Path, found: Profile, scheme: str) -> None:
    """What the command prints, in the colours of a terminal."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False, force_terminal=True)
    render(found, console)
    file.write_text(console.export_html(theme=THEMES[scheme], inline_styles=True), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 820, "height": 600})
    tab.goto(file.as_uri())
    tab.screenshot(path=IMAGES / f"terminal-{scheme}.png", full_page=True)


if __name__ == "__main__":
    main()
