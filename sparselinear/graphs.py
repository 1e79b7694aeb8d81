"""Graphs of other libraries as adjacencies, known by what they offer: none of those libraries is imported.

networkx has ``edges``, ``nodes`` and ``is_directed()``; torch_geometric has ``edge_index`` and ``num_nodes``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import checks
from .checks import message


def adjacency_of(graph: Any) -> Any:
    """The adjacency of a graph, rows being sources; what is no graph is returned as it is.

    Args:
        graph: a networkx graph, directed or not, whose nodes are taken in the order of ``graph.nodes``
            and whose numbers are the attribute ``weight`` of its edges; or an object with ``edge_index``
            (2, edges) and ``num_nodes``, as ``torch_geometric.data.Data``, whose numbers are its
            ``edge_weight`` (edges,). An edge without a number counts as 1.

    Returns:
        Sparse COO tensor (nodes, nodes), whose indices are not checked yet; duplicates stand in it.

    Raises:
        TypeError: the edge_index or edge_weight is no tensor of that kind, or a weight no number.
        ValueError: it is of another shape.
    """
    if hasattr(graph, "edge_index") and hasattr(graph, "num_nodes"):
        return _of_edge_index(graph)
    if hasattr(graph, "edges") and hasattr(graph, "nodes") and hasattr(graph, "is_directed"):
        return _of_edges(graph)
    return graph


def _of_edge_index(graph: Any) -> Tensor:
    index, weight = graph.edge_index, getattr(graph, "edge_weight", None)
    nodes = checks.size("num_nodes", graph.num_nodes)
    if not isinstance(index, Tensor) or index.dtype not in checks.INDEXING:
        got = str(index.dtype) if isinstance(index, Tensor) else checks.type_name(index)
        raise TypeError(message("edge_index", "a tensor of int32 or int64", got))
    if index.dim() != 2 or index.shape[0] != 2:
        raise ValueError(message("edge_index", "shape (2, edges)", str(tuple(index.shape))))
    if weight is None:
        weight = torch.ones(index.shape[1], device=index.device)
    if not isinstance(weight, Tensor):
        raise TypeError(message("edge_weight", "a torch.Tensor", checks.type_name(weight)))
    if weight.shape != index.shape[1:]:
        expected = f"shape (edges,) = ({index.shape[1]},)"
        raise ValueError(message("edge_weight", expected, str(tuple(weight.shape))))
    return _coo(index, weight, nodes)


def _of_edges(graph: Any) -> Tensor:
    place = {node: number for number, node in enumerate(graph.nodes)}
    edges = [(place[u], place[v], weight) for u, v, weight in graph.edges(data="weight", default=1)]
    if not graph.is_directed():
        edges += [(v, u, weight) for u, v, weight in edges if u != v]
    sources, targets, weights = zip(*edges, strict=True) if edges else ((), (), ())
    try:
        numbers = torch.tensor(weights, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        reason = str(error).rstrip(".")
        raise TypeError(message("weight", "a number at each edge that has one", reason)) from error
    return _coo(torch.tensor([sources, targets], dtype=torch.int64), numbers, len(place))


def _coo(index: Tensor, weight: Tensor, nodes: int) -> Tensor:
    return torch.sparse_coo_tensor(index.long(), weight, (nodes, nodes), check_invariants=False)
