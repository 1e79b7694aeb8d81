"""Make the pictures of docs/report.md again, from the root of the repository: python docs/screenshots.py.

It profiles the matrix that ships with the package, which takes a minute or two, and needs the ``dev`` extra
and a Chromium on the PATH.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from sparselinear.cli.arguments import read_adjacency
from sparselinear.profiling import profile, render_html

IMAGES = Path(__file__).resolve().parent / "images"
SIZE = {"width": 1280, "height": 1680}
MARGIN = 24


def main() -> None:
    """Measure, render, and take the top of the page in light colours and memory and pattern in dark ones."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no chromium or google-chrome is on the PATH")
    name, pattern = read_adjacency(None)
    page = render_html([profile(pattern, batch=32, threads=1, rounds=5, name=name)])
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        file.write_text(page, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme, title in (("light", "Dense against sparse"), ("dark", "Memory")):
            tab = browser.new_page(color_scheme=scheme, viewport=SIZE)
            tab.goto(file.as_uri())
            box = tab.get_by_role("heading", name=title).bounding_box()
            top = max(0, box["y"] - MARGIN)
            part = {"x": 0, "y": top, **SIZE}
            tab.screenshot(path=IMAGES / f"report-{scheme}.png", full_page=True, clip=part)
        browser.close()


if __name__ == "__main__":
    main()
