"""Write docs/compatibility.md, from the root of the repository: python docs/compatibility.py.

It runs the tests that carry ``@pytest.mark.shows(section, feature)``, and writes the page if all of them
pass: a row for each feature. With ``--check`` it only collects them, and compares. It needs the extras
``dev`` and ``ecosystem``, and a machine on which every kernel of a CPU runs.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sparselinear import kernels

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "compatibility.md"
CHOSEN = "as chosen"
ON_CPU = "native", "torch", "embedding_bag", "gather"
NOT_COUNTED = "amx"
ON_GPU = "those of a GPU", "where there is a GPU"
SECTIONS = (
    "Compiling and exporting",
    "Derivatives and transforms",
    "Mixed precision",
    "Training",
    "Copies, moves and files",
    "Several processes",
    "Models and graphs",
    "Other libraries",
    "PyTorch's own tests",
)
HEAD = """# What works with SparseLinear

Each row is a feature that tests of this repository show by numbers: against a masked dense layer, against the
same done without the feature, or by a check of PyTorch's own. `python docs/compatibility.py` runs these tests
and writes this page if all of them pass; it did so with torch {torch} on Python {python}. Another test holds
the rows against the tests that there are.

*Kernels*: those that the tests force, one after the other ([Kernels](kernels.md)). "{chosen}": the choice is
left to the library, which took `native`, or nothing is multiplied. *Tests*: their number. "{gpu}":
these tests were not part of that run, as they need one. Where a processor has the matrix unit that `amx`
needs, most of these tests run with that kernel as well; they are not counted.
"""


class Table:
    """A plugin of pytest: what each test shows, and which did not pass."""

    def __init__(self) -> None:
        """Start with nothing collected."""
        self.rows: dict[tuple[str, str], list[pytest.Item]] = {}
        self.missing: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that could not be collected, or that skips itself."""
        if not report.passed:
            self.missing.append(f"{report.nodeid}: {report.longreprtext or report.longrepr}")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Sort the tests by feature."""
        for item in session.items:
            for mark in item.iter_markers("shows"):
                self.rows.setdefault(_feature(item, *mark.args), []).append(item)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that failed, or was skipped though it needs no GPU."""
        if report.failed or (report.skipped and "cuda" not in report.keywords):
            self.missing.append(f"{report.nodeid}: {report.outcome}")

    def lines(self) -> list[str]:
        """The body of the page."""
        found = []
        for section in SECTIONS:
            rows = [(text, items) for (of, text), items in self.rows.items() if of == section]
            found += ["", f"## {section}", "", "| feature | kernels | tests |", "|---|---|---|"]
            found += [f"| {text} | {' | '.join(_cells(items))} |" for text, items in rows]
        return found


def _feature(item: pytest.Item, section: str, feature: str) -> tuple[str, str]:
    """Section and text of a mark; ``{name}`` in a text is the test's parameter, ``{test}`` its own name."""
    if section not in SECTIONS:
        raise pytest.UsageError(f"{item.nodeid}: expected one of {SECTIONS}, got {section!r}")
    return section, feature.format(test=item.originalname, **_parameters(item))  # type: ignore[attr-defined]


def _parameters(item: pytest.Item) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


def _cells(items: list[pytest.Item]) -> tuple[str, str]:
    """Kernels and number of tests; those on a GPU or on amx do not count, as not every machine has them."""
    here = [
        item
        for item in items
        if item.get_closest_marker("cuda") is None and _parameters(item).get("kernel") != NOT_COUNTED
    ]
    if not here:
        return ON_GPU
    forced = {_parameters(item).get("kernel") for item in here}
    names = [f"`{name}`" for name in ON_CPU if name in forced]
    return ", ".join(names) or CHOSEN, str(len(here))


def files() -> list[str]:
    """The test files that speak of the mark."""
    return [str(f) for f in sorted((ROOT / "tests").glob("test_*.py")) if "shows" in f.read_text("utf-8")]


def collected(*options: str) -> Table:
    """The table after a run of pytest."""
    table = Table()
    status = pytest.main([*files(), "-m", "shows", *options], plugins=[table])
    if status != pytest.ExitCode.OK or table.missing:
        sys.exit("\n".join(["these tests did not pass, so there is no page:", *table.missing]))
    return table


def differences(page: str, table: Table) -> list[str]:
    """What a page has and the tests have not, and the other way round; nothing if they agree."""
    written, wanted = (
        [line for line in lines if line.startswith(("## ", "| "))]
        for lines in (page.splitlines(), table.lines())
    )
    return list(difflib.unified_diff(written, wanted, PAGE.name, "tests", n=0, lineterm=""))


def main() -> None:
    """Run the tests and write the page, or only compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="run nothing; compare the page with the tests")
    check = parser.parse_args().check
    problems = {name: why for name, why in kernels.available().items() if why and name in ON_CPU}
    if problems:
        sys.exit(f"every kernel is needed: {problems}")
    if check:
        with contextlib.redirect_stdout(io.StringIO()):
            table = collected("--collect-only")
        found = differences(PAGE.read_text("utf-8"), table)
        sys.exit("\n".join(found) or None)
    table = collected()
    python = ".".join(platform.python_version_tuple()[:2])
    head = HEAD.format(torch=torch.__version__.partition("+")[0], python=python, chosen=CHOSEN, gpu=ON_GPU[1])
    PAGE.write_text(head + "\n".join([*table.lines(), ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
