"""from_graph on graphs of other libraries: the connections and numbers of their adjacency matrix."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import networkx
import numpy as np
import pytest
import torch
from torch import Tensor

from sparselinear import SparseLinear

EDGES = [("a", "b", 2.0), ("b", "c", -1.0), ("c", "a", 0.5), ("d", "d", 3.0), ("a", "d", None)]


def _graph(kind: Any) -> Any:
    graph = kind()
    graph.add_node("lonely")
    for source, target, weight in EDGES:
        graph.add_edge(source, target, **({} if weight is None else {"weight": weight}))
    return graph


def _dense(layer: SparseLinear) -> np.ndarray[Any, Any]:
    return layer.to_dense().cpu().numpy().T


@pytest.mark.shows("Models and graphs", "`from_graph` on networkx graphs")
@pytest.mark.parametrize("kind", ["Graph", "DiGraph", "MultiGraph", "MultiDiGraph"])
def test_networkx(kind: str, device: str) -> None:
    graph = _graph(getattr(networkx, kind))
    if graph.is_multigraph():
        graph.add_edge("a", "b", weight=5.0)  # parallel edges are one connection, their sum
    layer = SparseLinear.from_graph(graph, keep_values=True, device=device, dtype=torch.float64)
    np.testing.assert_array_equal(_dense(layer), networkx.to_numpy_array(graph))


def test_networkx_nodes_are_chosen_by_their_place() -> None:
    graph = _graph(networkx.DiGraph)
    layer = SparseLinear.from_graph(graph, inputs=[1, 3], outputs=[2, 4, 1], keep_values=True)
    expected = networkx.to_numpy_array(graph)[[1, 3]][:, [2, 4, 1]]
    np.testing.assert_array_equal(_dense(layer), expected)


def test_graph_without_edges() -> None:
    graph = networkx.empty_graph(3)
    assert SparseLinear.from_graph(graph).weight.shape == (3, 3)
    assert SparseLinear.from_graph(graph).nnz == 0


@pytest.mark.parametrize("weight", [None, "heavy"])
def test_networkx_weight_that_is_no_number(weight: Any) -> None:
    graph = networkx.Graph([(0, 1, {"weight": weight})])
    with pytest.raises(TypeError, match="weight: expected a number at each edge that has one, got"):
        SparseLinear.from_graph(graph)


@pytest.mark.shows("Models and graphs", "`from_graph` on objects with an `edge_index`, as of torch_geometric")
@pytest.mark.parametrize("weighted", [False, True])
def test_edge_index(weighted: bool, device: str) -> None:
    index = torch.tensor([[0, 3, 2, 0], [1, 1, 0, 1]], device=device)  # one edge twice
    weight = torch.tensor([1.5, -2.0, 4.0, 0.25] if weighted else [1.0] * 4, device=device)
    data = SimpleNamespace(edge_index=index, num_nodes=5)
    if weighted:
        data.edge_weight = weight
    expected = np.zeros((5, 5))
    np.add.at(expected, tuple(index.cpu().numpy()), weight.cpu().numpy())
    layer = SparseLinear.from_graph(data, keep_values=True, device=device)
    np.testing.assert_array_equal(_dense(layer), expected)


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ({"edge_index": [[0], [1]]}, TypeError, "edge_index: expected a tensor of int32 or int64, got list"),
        ({"edge_index": torch.ones(2, 1)}, TypeError, "edge_index: .* got torch.float32"),
        ({"edge_index": torch.tensor([[0, 1]])}, ValueError, r"edge_index: expected shape \(2, edges\)"),
        ({"edge_index": torch.tensor([[0], [9]])}, ValueError, "indices within its shape"),
        ({"num_nodes": None}, TypeError, "num_nodes: expected a non-negative int"),
        ({"edge_weight": torch.ones(2)}, ValueError, r"edge_weight: expected shape \(edges,\) = \(1,\)"),
        ({"edge_weight": [1.0]}, TypeError, "edge_weight: expected a torch.Tensor, got list"),
    ],
)
def test_bad_edge_index(parts: dict[str, Any], error: type[Exception], words: str) -> None:
    index: Tensor = torch.tensor([[0], [1]])
    with pytest.raises(error, match=words):
        SparseLinear.from_graph(SimpleNamespace(**({"edge_index": index, "num_nodes": 2} | parts)))
