"""Wrong calls, each with the words a user needs; none crashes, none leaves half a layer behind.

What concerns the command line stands in test_cli.py, and files in test_bad_files.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import nn
from torch.nn.utils import prune

from sparselinear import SparseLinear, SparsityPattern, functional, interop, kernels

EYE = sp.eye_array(3, 4, format="csr")  # 3 outputs, 4 inputs
PATTERN = interop.to_pattern(EYE)
VALUES = torch.ones(3)
INDEX = torch.int32


def _layer(**options: Any) -> SparseLinear:
    return SparseLinear.from_scipy(EYE, **options)


def _crooked(**parts: Any) -> sp.csr_array:
    """A csr_array whose parts were changed behind scipy's back."""
    matrix = EYE.copy()
    for name, part in parts.items():
        setattr(matrix, name, np.array(part))
    return matrix


def _crooked_coo(rows: list[int], columns: list[int]) -> sp.coo_array:
    matrix = sp.coo_array((np.ones(3), ([0, 1, 2], [0, 1, 2])), shape=(3, 4))
    matrix.coords = (np.array(rows), np.array(columns))
    return matrix


def _unchecked_csr(crow: list[int], col: list[int]) -> torch.Tensor:
    parts = torch.tensor(crow), torch.tensor(col), torch.ones(len(col))
    PATTERN.csr_tensor(VALUES)  # torch's notice that CSR is in beta has been given
    return torch.sparse_csr_tensor(*parts, (3, 4), check_invariants=False)


def _linear(x: Any = None, values: Any = VALUES, pattern: Any = PATTERN, bias: Any = None) -> object:
    return functional.sparse_linear(torch.ones(2, 4) if x is None else x, values, pattern, bias)


def _pruned_with_mask() -> object:
    linear = prune.random_unstructured(nn.Linear(4, 3), "weight", amount=0.5)
    return SparseLinear.from_linear(linear, EYE)


def _state(**changed: Any) -> dict[str, Any]:
    return {**_layer().state_dict(), **changed}


@dataclass(frozen=True)
class Wrong:
    what: str
    call: Callable[[], object]
    error: type[Exception]
    says: str  # a regular expression


WRONG = [
    # The adjacency: what it is.
    Wrong("no adjacency", lambda: SparseLinear(4, 3, None), TypeError, "adjacency: expected a scipy.sparse"),
    Wrong("a string", lambda: SparseLinear(4, 3, "mask.npz"), TypeError, "adjacency.*got str"),
    Wrong("nested lists", lambda: SparseLinear(2, 1, [[1, 0]]), TypeError, "got list.*numpy.asarray"),
    Wrong(
        "ragged",
        lambda: SparseLinear(2, 2, np.array([[1], [1, 0]], dtype=object)),
        ValueError,
        "2 dimensions",
    ),
    Wrong("objects", lambda: SparseLinear(1, 1, np.array([[None]])), TypeError, "real numbers.*object"),
    Wrong("text", lambda: SparseLinear(1, 1, np.array([["a"]])), TypeError, "bool or real numbers"),
    Wrong("complex", lambda: SparseLinear(1, 1, np.array([[1j]])), TypeError, "complex128.*adjacency != 0"),
    Wrong("sparse complex", lambda: SparseLinear(4, 3, EYE.astype(complex)), TypeError, "complex128"),
    Wrong("complex tensor", lambda: SparseLinear(1, 1, torch.ones(1, 1) * 1j), TypeError, "complex64"),
    Wrong("a layer", lambda: SparseLinear(4, 3, _layer()), TypeError, "got sparselinear.linear.SparseLinear"),
    # Its shape.
    Wrong("transposed", lambda: SparseLinear(4, 3, EYE.T), ValueError, r"\(3, 4\), got \(4, 3\).*from_graph"),
    Wrong(
        "other shape",
        lambda: SparseLinear(4, 5, EYE),
        ValueError,
        r"\(5, 4\), got \(3, 4\). Rows are outputs",
    ),
    Wrong("other pattern", lambda: SparseLinear(4, 5, PATTERN), ValueError, r"\(5, 4\), got \(3, 4\)"),
    Wrong("dense transposed", lambda: SparseLinear(4, 3, np.ones((4, 3))), ValueError, "adjacency.T"),
    Wrong("1-D", lambda: SparseLinear(4, 3, np.ones(12)), ValueError, r"2 dimensions.*\(12,\)"),
    Wrong("3-D", lambda: SparseLinear(4, 3, np.ones((1, 3, 4))), ValueError, r"2 dimensions.*\(1, 3, 4\)"),
    Wrong("3-D tensor", lambda: SparseLinear(4, 3, torch.ones(3, 4, 1)), ValueError, "2 dimensions"),
    Wrong("1-D sparse", lambda: SparseLinear(4, 3, sp.coo_array(np.ones(4))), ValueError, "2 dimensions"),
    # Its numbers.
    Wrong("NaN", lambda: SparseLinear(2, 1, np.array([[np.nan, 1]])), ValueError, "1 entries that are NaN"),
    Wrong(
        "infinite", lambda: SparseLinear.from_scipy(EYE * np.inf), ValueError, "3 entries .* NaN or infinite"
    ),
    Wrong("NaN tensor", lambda: SparseLinear(2, 1, torch.tensor([[torch.nan, 1]])), ValueError, "NaN"),
    Wrong("NaN in LIL", lambda: SparseLinear(4, 3, (EYE * np.nan).tolil()), ValueError, "3 entries .* NaN"),
    Wrong("NaN in DOK", lambda: SparseLinear(4, 3, (EYE * np.nan).todok()), ValueError, "3 entries .* NaN"),
    Wrong("complex LIL", lambda: SparseLinear(4, 3, (EYE * 1j).tolil()), TypeError, "complex128"),
    # Its indices.
    Wrong(
        "column too large",
        lambda: SparseLinear.from_scipy(_crooked(indices=[0, 1, 9])),
        ValueError,
        "within its shape",
    ),
    Wrong(
        "negative column",
        lambda: SparseLinear.from_scipy(_crooked(indices=[0, -1, 2])),
        ValueError,
        "within its shape",
    ),
    Wrong(
        "falling offsets",
        lambda: SparseLinear.from_scipy(_crooked(indptr=[0, 2, 1, 3])),
        ValueError,
        "within its shape",
    ),
    Wrong(
        "CSC row too large",
        lambda: SparseLinear.from_scipy(_crooked(indices=[0, 1, 9]).T),
        ValueError,
        "within",
    ),
    Wrong(
        "COO row too large",
        lambda: SparseLinear.from_scipy(_crooked_coo([0, 1, 3], [0, 1, 2])),
        ValueError,
        "0 to 2",
    ),
    Wrong(
        "COO negative",
        lambda: SparseLinear.from_scipy(_crooked_coo([0, 1, 2], [0, -1, 2])),
        ValueError,
        "0 to 3",
    ),
    Wrong(
        "torch CSR column",
        lambda: SparseLinear(4, 3, _unchecked_csr([0, 1, 2, 3], [0, 1, 7])),
        ValueError,
        "within",
    ),
    Wrong(
        "torch CSR offsets",
        lambda: SparseLinear(4, 3, _unchecked_csr([0, 1, 2, 9], [0, 1, 2])),
        ValueError,
        "within",
    ),
    Wrong("on meta", lambda: SparseLinear(4, 3, torch.ones(3, 4, device="meta")), ValueError, "meta device"),
    Wrong(
        "blocks",
        lambda: SparseLinear(4, 4, torch.eye(4).to_sparse_bsr((2, 2))),
        TypeError,
        "layout torch.sparse_bsr",
    ),
    # The sizes.
    Wrong(
        "float size", lambda: SparseLinear(4.0, 3, EYE), TypeError, "in_features: expected a non-negative int"
    ),
    Wrong("bool size", lambda: SparseLinear(4, True, EYE), TypeError, "out_features.*got a bool"),
    Wrong("negative size", lambda: SparseLinear(-4, 3, EYE), ValueError, "in_features.*got -4"),
    # dtype and device.
    Wrong("integer dtype", lambda: _layer(dtype=torch.int64), ValueError, "dtype: expected one of.*int64"),
    Wrong("complex dtype", lambda: _layer(dtype=torch.complex64), ValueError, "dtype: expected one of"),
    Wrong("dtype by name", lambda: _layer(dtype="float32"), TypeError, "dtype: expected a torch.dtype"),
    Wrong("no such device", lambda: _layer(device="gpu"), RuntimeError, "device: expected.*got 'gpu'"),
    Wrong(
        "device not there",
        lambda: _layer(device="cuda:99"),
        RuntimeError,
        "device of this machine, got 'cuda:99'",
    ),
    # from_graph.
    Wrong(
        "node out of range", lambda: SparseLinear.from_graph(EYE, inputs=[3]), ValueError, "inputs.*0 to 2"
    ),
    Wrong("negative node", lambda: SparseLinear.from_graph(EYE, outputs=[-1]), ValueError, "outputs.*0 to 3"),
    Wrong(
        "repeated node",
        lambda: SparseLinear.from_graph(EYE, inputs=[1, 1]),
        ValueError,
        "inputs.*each node once",
    ),
    Wrong(
        "nodes by name", lambda: SparseLinear.from_graph(EYE, inputs=["a"]), TypeError, "inputs.*node indices"
    ),
    Wrong("float nodes", lambda: SparseLinear.from_graph(EYE, inputs=[0.0]), TypeError, "inputs.*float64"),
    Wrong("short mask", lambda: SparseLinear.from_graph(EYE, inputs=[True]), ValueError, "mask of length 3"),
    Wrong("a pattern", lambda: SparseLinear.from_graph(PATTERN), TypeError, "adjacency"),
    # from_linear.
    Wrong("not a Linear", lambda: SparseLinear.from_linear(nn.Conv1d(1, 1, 1)), TypeError, "linear.*Conv1d"),
    Wrong(
        "mask of other shape", lambda: SparseLinear.from_linear(nn.Linear(3, 4), EYE), ValueError, "mask.T"
    ),
    Wrong("pruned and masked", _pruned_with_mask, ValueError, "prune.remove"),
    # The pattern itself.
    Wrong(
        "crow too short",
        lambda: SparsityPattern(torch.tensor([0, 3]), torch.arange(3), (3, 4)),
        ValueError,
        "4 entries, got 2",
    ),
    Wrong(
        "crow from 1",
        lambda: SparsityPattern(torch.tensor([1, 2, 3]), torch.arange(3), (2, 4)),
        ValueError,
        "rise from 0",
    ),
    Wrong(
        "crow beyond",
        lambda: SparsityPattern(torch.tensor([0, 2, 9]), torch.arange(3), (2, 4)),
        ValueError,
        "nnz = 3",
    ),
    Wrong(
        "col beyond",
        lambda: SparsityPattern(torch.tensor([0, 2]), torch.tensor([0, 4]), (1, 4)),
        ValueError,
        "0 to 4",
    ),
    Wrong(
        "col negative",
        lambda: SparsityPattern(torch.tensor([0, 2]), torch.tensor([-1, 1]), (1, 4)),
        ValueError,
        "-1 to 1",
    ),
    Wrong(
        "col unsorted",
        lambda: SparsityPattern(torch.tensor([0, 2]), torch.tensor([1, 0]), (1, 4)),
        ValueError,
        "to_pattern sorts",
    ),
    Wrong(
        "col repeated",
        lambda: SparsityPattern(torch.tensor([0, 2]), torch.tensor([1, 1]), (1, 4)),
        ValueError,
        "repeated",
    ),
    Wrong(
        "float indices",
        lambda: SparsityPattern(torch.tensor([0.0]), torch.arange(0), (0, 4)),
        TypeError,
        "torch.int32",
    ),
    Wrong("lists", lambda: SparsityPattern([0, 1], [0], (1, 4)), TypeError, "torch.as_tensor"),
    Wrong(
        "2-D indices",
        lambda: SparsityPattern(torch.zeros(1, 1, dtype=INDEX), torch.arange(0), (0, 4)),
        ValueError,
        "1-D",
    ),
    Wrong(
        "3-D shape",
        lambda: SparsityPattern(torch.tensor([0]), torch.arange(0), (0, 4, 1)),
        ValueError,
        "a pair",
    ),
    Wrong("index dtype", lambda: interop.to_pattern(EYE, index_dtype=torch.int16), ValueError, "index_dtype"),
    # Calls of the layer.
    Wrong(
        "last dimension",
        lambda: _layer()(torch.ones(2, 3)),
        ValueError,
        r"in_features\) = \(\*, 4\), got \(2, 3\)",
    ),
    Wrong("scalar input", lambda: _layer()(torch.tensor(1.0)), ValueError, r"got \(\)"),
    Wrong("integer input", lambda: _layer()(torch.ones(2, 4, dtype=torch.int64)), TypeError, "input.*int64"),
    Wrong(
        "double input",
        lambda: _layer()(torch.ones(2, 4).double()),
        TypeError,
        "dtype of values, torch.float32",
    ),
    Wrong(
        "numpy input",
        lambda: _layer()(np.ones((2, 4))),
        TypeError,
        "input: expected a torch.Tensor, got numpy.ndarray",
    ),
    Wrong("sparse input", lambda: _layer()(torch.ones(2, 4).to_sparse()), TypeError, "dense tensor"),
    Wrong(
        "input elsewhere",
        lambda: _layer()(torch.ones(2, 4, device="meta")),
        RuntimeError,
        "input.*cpu, got meta",
    ),
    Wrong("too few values", lambda: _linear(values=torch.ones(2)), ValueError, r"values.*\(3,\), got \(2,\)"),
    Wrong("2-D values", lambda: _linear(values=torch.ones(3, 1)), ValueError, "values"),
    Wrong("integer values", lambda: _linear(values=torch.ones(3, dtype=INDEX)), TypeError, "values.*int32"),
    Wrong("no values", lambda: _linear(values=None), TypeError, "values.*NoneType"),
    Wrong("wrong bias", lambda: _linear(bias=torch.ones(4)), ValueError, r"bias.*\(3,\), got \(4,\)"),
    Wrong("half bias", lambda: _linear(bias=torch.ones(3).half()), TypeError, "bias.*float16"),
    Wrong("matrix for pattern", lambda: _linear(pattern=EYE), TypeError, "pattern.*to_pattern"),
    # Kernels.
    Wrong(
        "unknown kernel",
        lambda: kernels.use("embedding_bags").__enter__(),
        ValueError,
        "Did you mean 'embedding_bag'",
    ),
    Wrong(
        "explain a Linear",
        lambda: kernels.explain(nn.Linear(1, 1), 1),
        TypeError,
        "layer: expected a SparseLinear",
    ),
    # State dicts.
    Wrong("empty state", lambda: SparseLinear.from_state_dict({}), KeyError, "none of values"),
    Wrong(
        "state without prefix", lambda: SparseLinear.from_state_dict(_state(), "net."), KeyError, "net.values"
    ),
    Wrong(
        "state of a Linear",
        lambda: SparseLinear.from_state_dict(nn.Linear(2, 2).state_dict()),
        KeyError,
        "prefix",
    ),
    Wrong(
        "state: values",
        lambda: SparseLinear.from_state_dict(_state(values=torch.ones(9))),
        ValueError,
        r"values.*\(3,\)",
    ),
    Wrong(
        "state: bias",
        lambda: SparseLinear.from_state_dict(_state(bias=torch.ones(9))),
        ValueError,
        r"bias.*\(3,\)",
    ),
    Wrong(
        "state: indices",
        lambda: SparseLinear.from_state_dict(_state(col_indices=torch.tensor([0, 1, 9]))),
        ValueError,
        "col_indices",
    ),
    Wrong(
        "state: Linear into sparse",
        lambda: _layer().load_state_dict(nn.Linear(4, 3).state_dict()),
        RuntimeError,
        "Missing key",
    ),
    Wrong(
        "state: other size of values",
        lambda: _layer().load_state_dict(_state(values=torch.ones(9))),
        RuntimeError,
        r"values: expected shape \(3,\), got \(9,\)",
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.what)
def test_wrong_call(wrong: Wrong) -> None:
    with pytest.raises(wrong.error, match=f"(?s){wrong.says}"):
        wrong.call()


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len({wrong.what for wrong in WRONG}) == len(WRONG) >= 40


def test_a_wrong_call_changes_no_layer() -> None:
    layer = _layer()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    for state in (_state(values=torch.ones(9)), _state(col_indices=torch.tensor([1, 2, 3]))):
        with pytest.raises(RuntimeError):
            layer.load_state_dict(state)
    with pytest.raises((RuntimeError, AssertionError)):  # torch's own words
        layer.to("cuda:99")
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])
    layer(torch.ones(2, 4)).sum().backward()
