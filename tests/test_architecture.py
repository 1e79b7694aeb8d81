"""The shape of the repository: which way imports run, what every file opens with, what none may hold."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "sparselinear"

# A module imports from those below it, never from those above. A new module takes its place here.
ORDER = (
    "__init__",
    "__main__",
    "cli",
    "profiling",
    "parallel",
    "rewiring",
    "convert",
    "linear",
    "states",
    "raster",
    "functional",
    "operators",
    "products",
    "kernels",
    "topology",
    "parametrizations",
    "graphs",
    "interop",
    "pattern",
    "shards",
    "checks",
    "interrupt",
)
MAY_IMPORT_SCIPY = {"interop"}

SOURCE_FOLDERS = (PACKAGE, "tests", "bench", "examples")
NOT_SOURCE = {"__pycache__", "build", "dist", "site"}

# Written so that it does not match itself.
HOME_PATH = re.compile(rb"(?<![\w.])/(work|root|home|Users)/")


def modules() -> list[Path]:
    """Every Python file of the package."""
    return sorted((ROOT / PACKAGE).rglob("*.py"))


def sources() -> list[Path]:
    """Every Python file that people read."""
    return sorted(file for folder in SOURCE_FOLDERS for file in (ROOT / folder).rglob("*.py"))


def name_of(file: Path) -> str:
    """Path relative to the root: the name of a test case."""
    return file.relative_to(ROOT).as_posix()


def dotted(file: Path) -> str:
    """sparselinear/kernels/native.py -> sparselinear.kernels.native, a package's __init__ kept."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def unit_of(module: str) -> str:
    """The entry of ORDER that a dotted module belongs to: sparselinear.kernels.native -> kernels."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of whatever ``source`` imports, at any depth, ``module`` being its own name.

    ``from a import b`` gives ``a.b``, for ``b`` may be a module. A relative import is made absolute.
    """
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(package, node.level, node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            target = ast.literal_eval(node.args[0])
            yield node.lineno, absolute(package, len(target) - len(target.lstrip(".")), target.lstrip("."))


def absolute(package: list[str], level: int, target: str) -> str:
    """The dotted name of ``target`` as seen from ``level`` packages up, 0 being from outside."""
    above = package[: len(package) - level + 1] if level else []
    return ".".join([*above, *([target] if target else [])])


def upward_imports(module: str, source: str) -> list[str]:
    """What ``source`` imports from above its own place in ORDER, or from nowhere in it."""
    own = unit_of(module)
    found = []
    for line, target in imported(module, source):
        if target.split(".")[0] != PACKAGE:
            continue
        unit = unit_of(target)
        if unit not in ORDER:  # a name of the package itself, such as sparselinear.SparseLinear
            unit = "__init__"
        if unit != own and ORDER.index(unit) < ORDER.index(own):
            found.append(f"line {line}: {own} imports {target}, which stands above it")
    return found


def scipy_imports(module: str, source: str) -> list[str]:
    """Where ``source`` imports scipy at run time though its place in ORDER may not."""
    if unit_of(module) in MAY_IMPORT_SCIPY:
        return []
    found = imported(module, ast.unparse(WithoutTypeChecking().visit(ast.parse(source))))
    return [f"line {line}: imports {target}" for line, target in found if target.split(".")[0] == "scipy"]


class WithoutTypeChecking(ast.NodeTransformer):
    """Empties ``if TYPE_CHECKING`` blocks: an annotation may name a type that is not imported at run time."""

    def visit_If(self, node: ast.If) -> ast.If:
        if ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = [ast.Pass()]
        return node


def opens_with_docstring(source: str) -> bool:
    """Whether a module docstring that says something is the first statement."""
    return bool((ast.get_docstring(ast.parse(source)) or "").strip())


def repository_files() -> list[Path]:
    """The files that git knows or would add; without git, all but what is built."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
        files = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        files = []
    return sorted(file for file in files or walked(ROOT) if file.is_file())


def walked(root: Path) -> Iterator[Path]:
    """Files under ``root``, leaving out hidden caches, environments and built folders."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [
            name
            for name in subfolders
            if name not in NOT_SOURCE and not name.endswith(".egg-info") and (name[0] != "." or name == ".ci")
        ]
        yield from (Path(folder) / name for name in names)


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_module_has_a_place(file: Path) -> None:
    assert unit_of(dotted(file)) in ORDER, (
        "give the module its place in ORDER and in the layout of the design"
    )


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_imports_run_one_way(file: Path) -> None:
    assert upward_imports(dotted(file), file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_only_interop_imports_scipy(file: Path) -> None:
    assert scipy_imports(dotted(file), file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("file", sources(), ids=name_of)
def test_source_opens_with_a_docstring(file: Path) -> None:
    assert opens_with_docstring(file.read_text(encoding="utf-8"))


def test_no_file_names_a_home_folder() -> None:
    files = repository_files()
    assert Path(__file__).resolve() in files  # the list is of this repository, and not empty
    assert [name_of(file) for file in files if HOME_PATH.search(file.read_bytes())] == []


# The checks themselves, each against a source that breaks its rule and one that keeps it.


@pytest.mark.parametrize(
    ("module", "source", "breaks"),
    [
        pytest.param("sparselinear.pattern", "import sparselinear.linear", True, id="absolute"),
        pytest.param("sparselinear.pattern", "from sparselinear.linear import SparseLinear", True, id="from"),
        pytest.param("sparselinear.pattern", "from sparselinear import linear", True, id="from-package"),
        pytest.param("sparselinear.linear", "from sparselinear import SparseLinear", True, id="public-name"),
        pytest.param("sparselinear.linear", "import sparselinear", True, id="package-itself"),
        pytest.param("sparselinear.pattern", "from .linear import SparseLinear", True, id="relative"),
        pytest.param("sparselinear.kernels.native", "from ..linear import a", True, id="relative-two-up"),
        pytest.param("sparselinear.kernels.__init__", "from .. import linear", True, id="relative-package"),
        pytest.param("sparselinear.pattern", "def f():\n    import sparselinear.linear", True, id="lazy"),
        pytest.param(
            "sparselinear.pattern",
            "import importlib as i\ni.import_module('.linear', 'x')",
            True,
            id="by-string",
        ),
        pytest.param(
            "sparselinear.linear", "from sparselinear.pattern import SparsityPattern", False, id="down"
        ),
        pytest.param("sparselinear.linear", "from sparselinear import functional", False, id="down-package"),
        pytest.param("sparselinear.kernels.native", "from . import common", False, id="own-package"),
        pytest.param("sparselinear.kernels.__init__", "from .native import spmm", False, id="own-child"),
        pytest.param("sparselinear.__init__", "from sparselinear.linear import a", False, id="top"),
        pytest.param("sparselinear.pattern", "import torch.nn.linear", False, id="other-library"),
    ],
)
def test_upward_imports_are_found(module: str, source: str, breaks: bool) -> None:
    assert bool(upward_imports(module, source)) is breaks


@pytest.mark.parametrize(
    ("module", "source", "breaks"),
    [
        pytest.param("sparselinear.profiling.tables", "import scipy.sparse as sp", True, id="import"),
        pytest.param("sparselinear.pattern", "def f():\n    from scipy import sparse", True, id="lazy"),
        pytest.param("sparselinear.linear", "if TYPE_CHECKING:\n    import scipy.sparse", False, id="type"),
        pytest.param("sparselinear.linear", "if not CHECKED:\n    import scipy.sparse", True, id="other-if"),
        pytest.param("sparselinear.interop", "import scipy.sparse", False, id="interop"),
        pytest.param("sparselinear.pattern", "from sparselinear.interop import from_scipy", False, id="name"),
    ],
)
def test_scipy_imports_are_found(module: str, source: str, breaks: bool) -> None:
    assert bool(scipy_imports(module, source)) is breaks


@pytest.mark.parametrize(
    ("source", "opens"),
    [
        ('"""What it holds."""\nimport os', True),
        ("import os", False),
        ("", False),
        ('""""""', False),
        ('import os\n"""Too late."""', False),
    ],
)
def test_missing_docstrings_are_found(source: str, opens: bool) -> None:
    assert opens_with_docstring(source) is opens


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cd /{}/main", True),
        ('open("/{}/x.npz")', True),
        ("docs/{}/page.md", False),
        ("../{}/page.md", False),
    ],
)
@pytest.mark.parametrize("folder", ["work", "root", "home", "Users"])
def test_home_folders_are_found(text: str, folder: str, found: bool) -> None:
    assert bool(HOME_PATH.search(text.format(folder).encode())) is found
