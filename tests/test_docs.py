"""What the documentation says: its numbers held against what is measured, its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import scipy.sparse as sp
import torch

from sparselinear import SparseLinear

ROOT = Path(__file__).parent.parent
MEMORY = ROOT / "docs" / "memory.md"


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
