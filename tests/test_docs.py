"""What the documentation says: its numbers held against what is measured, its examples run."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import scipy.sparse as sp
import torch

from sparselinear import SparseLinear, kernels

ROOT = Path(__file__).parent.parent
MEMORY = ROOT / "docs" / "memory.md"
COMPATIBILITY = ROOT / "docs" / "compatibility.py"


def _table() -> dict[str, list[float]]:
    """Bytes a connection by term: columns float32, float64, half types."""
    rows = re.findall(r"^\| (.+?) \|((?: \**\d+\** \|){3})", MEMORY.read_text(encoding="utf-8"), re.MULTILINE)
    return {term.strip("*"): [float(cell) for cell in re.findall(r"\d+", cells)] for term, cells in rows}


@pytest.mark.parametrize(
    ("column", "dtype"), [(0, torch.float32), (1, torch.float64), (2, torch.bfloat16), (2, torch.float16)]
)
def test_byte_ledger(column: int, dtype: torch.dtype) -> None:
    layer = SparseLinear.from_scipy(sp.random_array((300, 200), density=0.1), bias=False, dtype=dtype)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.randn(4, 200, dtype=dtype, requires_grad=True)).sum().backward()
    optimizer.step()
    assert layer.values.grad is not None
    moments = [tensor for tensor in optimizer.state[layer.values].values() if tensor.dim()]
    measured = {
        "values": layer.values.nbytes,
        "col_indices": layer.col_indices.nbytes,
        "row_indices of the transpose": layer.pattern.row_indices.nbytes,
        "permutation of the transpose": layer.pattern.permutation.nbytes,
        "gradient of the values": layer.values.grad.nbytes,
        "Adam, both moments": sum(tensor.nbytes for tensor in moments),
    }
    measured["sum, training with Adam"] = sum(measured.values())
    told = {term: bytes_each[column] for term, bytes_each in _table().items()}
    assert told == {term: total / layer.nnz for term, total in measured.items()}
    # Nothing else of that size is kept: the rest are offsets, one for each row and column.
    kept = [layer.pattern.crow_indices, layer.pattern.ccol_indices, *layer.state_dict().values()]
    assert (
        sum(t.nbytes for t in kept if t.numel() >= layer.nnz) == measured["values"] + measured["col_indices"]
    )


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/convert.md"])
def test_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    if page == "README.md":
        state = torch.load("net.pt", weights_only=True)
        layer = SparseLinear.from_state_dict(state, prefix="0.")
        assert (layer.in_features, layer.nnz) == (20_000, 30_000)


def test_what_works_is_what_the_tests_say() -> None:
    if any(why for name, why in kernels.available().items() if name not in ("triton", "amx")):
        pytest.skip("the page tells of every kernel, and not all of them run here")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    found = subprocess.run(
        [sys.executable, COMPATIBILITY, "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    advice = "Write the page again: python docs/compatibility.py"
    assert found.returncode == 0, f"{found.stderr}\n{advice}"


@pytest.fixture
def compatibility() -> ModuleType:
    """The script that writes the page."""
    specification = importlib.util.spec_from_file_location("compatibility", COMPATIBILITY)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _item(on_gpu: bool = False, **parameters: object) -> SimpleNamespace:
    """As much of a test as the page reads."""
    return SimpleNamespace(
        callspec=SimpleNamespace(params=parameters),
        originalname="test_it",
        nodeid="test_it",
        get_closest_marker=lambda name: name if on_gpu else None,
    )


def test_rows_of_what_works(compatibility: ModuleType) -> None:
    table, section = compatibility.Table(), compatibility.SECTIONS[0]
    both = [
        _item(kernel="gather"),
        _item(kernel="native"),
        _item(kernel="torch", on_gpu=True),
        _item(kernel="amx"),
    ]
    for feature, items in {"a": both, "b": [_item(on_gpu=True)], "c": [_item()]}.items():
        table.rows[section, feature] = items
    rows = [line for line in table.lines() if line.startswith("| ")]
    assert rows[1:4] == [
        "| a | `native`, `gather` | 2 |",
        "| b | those of a GPU | where there is a GPU |",
        "| c | as chosen | 1 |",
    ]
    page = "\n".join(table.lines())
    assert compatibility.differences(page, table) == []
    table.rows[section, "c"] *= 2
    assert compatibility.differences(page, table)[-2:] == ["-| c | as chosen | 1 |", "+| c | as chosen | 2 |"]
    assert compatibility._feature(_item(way="fast"), section, "{way}, `{test}`") == (
        section,
        "fast, `test_it`",
    )
    with pytest.raises(pytest.UsageError, match=r"test_it: expected one of .*, got 'Elsewhere'"):
        compatibility._feature(_item(), "Elsewhere", "")


@pytest.mark.parametrize(
    ("outcome", "keywords", "missing"),
    [
        ("passed", {}, []),
        ("failed", {}, ["test_it: failed"]),
        ("skipped", {}, ["test_it: skipped"]),
        ("skipped", {"cuda": 1}, []),
    ],
)
def test_no_page_without_a_pass(
    compatibility: ModuleType, outcome: str, keywords: dict[str, int], missing: list[str]
) -> None:
    table = compatibility.Table()
    report = pytest.TestReport("test_it", ("", 0, ""), keywords, outcome, None, "call")  # type: ignore[arg-type]
    table.pytest_runtest_logreport(report)
    assert table.missing == missing
