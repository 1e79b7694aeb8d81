"""SparseLinear: the module. A torch.nn.Linear that stores only the connections of an adjacency."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import checks, functional, graphs, interop, parametrizations, raster, shards, states
from .checks import message
from .pattern import SparsityPattern

if TYPE_CHECKING:
    import scipy.sparse
    from matplotlib.axes import Axes
    from typing_extensions import Self


class SparseLinear(nn.Module):
    """Linear layer with one value for each connection of an adjacency: y = x @ W.T + b.

    Rows of the adjacency are outputs and columns are inputs, as in ``torch.nn.Linear.weight``; for a
    graph whose rows are sources use :meth:`from_graph`.

    The values are one plain 1-D Parameter, so every optimizer keeps nnz numbers of state and no
    connection can appear or grow back. An entry that a sparse adjacency stores is a connection, even
    where it is zero; duplicates are one connection. The numbers in the adjacency are not used, unless
    a constructor has ``keep_values``.

    Values start uniform in ±1/sqrt(fan-in of their own output) and the bias likewise, which for a
    full pattern is the distribution of ``torch.nn.Linear``.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        adjacency: (out_features, in_features) scipy.sparse matrix or array of any format, torch tensor
            (COO, CSR, CSC or dense), numpy array, or the pattern of another layer, which is shared.
        bias: whether to add a learnt (out_features,) bias.
        device: where parameters and indices live; None is torch's default device.
        dtype: float32, float64, bfloat16 or float16; None is torch's default dtype.

    Shape:
        Input ``(*, in_features)``, output ``(*, out_features)``, of the layer's dtype. The memory layout of
        the output follows the input, see :func:`sparselinear.functional.sparse_linear`.

    Attributes:
        values: (nnz,) Parameter in the CSR order of the pattern.
        bias: (out_features,) Parameter, or None.

    Raises:
        TypeError: an argument is of a type that is not accepted.
        ValueError: the adjacency is of another shape, has indices out of range, or holds NaN.
        RuntimeError: there is no such device.
    """

    __constants__ = ("in_features", "out_features")
    in_features: int
    out_features: int
    values: nn.Parameter
    bias: nn.Parameter | None
    pattern_shape: Tensor
    crow_indices: Tensor
    col_indices: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        adjacency: Any,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        in_features = checks.size("in_features", in_features)
        out_features = checks.size("out_features", out_features)
        dtype = checks.floating_dtype("dtype", dtype)
        given = getattr(adjacency, "shape", None)
        if given is not None and len(given) == 2 and tuple(given) != (out_features, in_features):
            raise ValueError(_wrong_shape("adjacency", (out_features, in_features), tuple(given)))
        pattern = interop.to_pattern(adjacency, device=device)
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.values = nn.Parameter(torch.empty(pattern.nnz, dtype=dtype, device=pattern.device))
        self.register_parameter(
            "bias",
            nn.Parameter(torch.empty(out_features, dtype=dtype, device=pattern.device)) if bias else None,
        )
        self._hold(pattern)
        self.reset_parameters()

    @classmethod
    def from_scipy(
        cls,
        adjacency: Any,
        *,
        keep_values: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Layer from an adjacency whose rows are outputs, as in ``torch.nn.Linear.weight``.

        Args:
            adjacency: (out_features, in_features), of any type the constructor takes but a pattern.
            keep_values: whether its numbers become the initial values.
            bias: whether to add a learnt bias.
            device: where the layer lives; None is torch's default device.
            dtype: dtype of the layer, also where values are kept; None is torch's default dtype.

        Raises:
            TypeError, ValueError, RuntimeError: as the constructor does.
        """
        dtype = checks.floating_dtype("dtype", dtype)
        device = checks.device("device", device)
        if keep_values:
            pattern, values = interop.to_pattern_and_values(adjacency, device=device, dtype=dtype)
            return cls._assemble(pattern, values, _initial_bias(pattern, dtype) if bias else None)
        pattern = interop.to_pattern(adjacency, device=device)
        return cls(pattern.in_features, pattern.out_features, pattern, bias, device, dtype)

    @classmethod
    def from_graph(
        cls,
        adjacency: Any,
        *,
        inputs: Any = None,
        outputs: Any = None,
        keep_values: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Layer from a graph: rows of the adjacency are sources, columns are targets.

        That is the orientation of scipy.sparse.csgraph and networkx, and the transpose of
        ``torch.nn.Linear.weight``: an entry (i, j) connects input i to output j.

        Args:
            adjacency: (sources, targets), of any type the constructor takes but a pattern. Or a graph: of
                networkx, its nodes in the order of ``graph.nodes`` and its numbers the attribute
                ``weight`` of its edges; or an object with ``edge_index`` (2, edges), ``num_nodes`` and
                perhaps ``edge_weight`` (edges,), as ``torch_geometric.data.Data``. An edge of a graph
                without a number counts as 1.
            inputs: nodes (rows) that are the layer's inputs, in this order: 1-D integers or a bool
                mask; None takes all.
            outputs: nodes (columns) that are its outputs, likewise.
            keep_values: whether the numbers of the adjacency become the initial values.
            bias: whether to add a learnt bias.
            device: where the layer lives; None is torch's default device.
            dtype: dtype of the layer; None is torch's default dtype.

        Raises:
            TypeError, ValueError, RuntimeError: as the constructor does, and for nodes that are out of
                range or repeated.
        """
        adjacency = graphs.adjacency_of(adjacency)
        chosen = interop.submatrix(adjacency, inputs, outputs, keep_values=keep_values)
        return cls.from_scipy(chosen.T, keep_values=keep_values, bias=bias, device=device, dtype=dtype)

    @classmethod
    def from_linear(cls, linear: nn.Linear, mask: Any = None) -> Self:
        """Layer with the weights of a dense one, at the connections of a mask.

        Args:
            linear: a plain ``nn.Linear``, or one pruned by ``torch.nn.utils.prune``.
            mask: (out_features, in_features), any adjacency; its connections are kept. None takes the
                mask of a pruned layer, and the weights that are not zero of a plain one.

        Returns:
            A layer of the same device, dtype and training mode, with the same bias.

        Raises:
            TypeError: not an ``nn.Linear``.
            ValueError: the mask is of another shape, or the layer is pruned and a mask is passed too.
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(message("linear", "a torch.nn.Linear", checks.type_name(linear)))
        weight: Tensor = shards.refuse(
            "linear.weight", getattr(linear, "weight_orig", linear.weight).detach()
        )
        pruned: Tensor | None = getattr(linear, "weight_mask", None)
        if pruned is not None and mask is not None:
            advice = "Use torch.nn.utils.prune.remove first, or leave the mask out."
            raise ValueError(message("mask", "None for a pruned layer", "a mask", advice))
        if mask is None:
            mask = weight != 0 if pruned is None else pruned != 0
        given = getattr(mask, "shape", None)
        if given is not None and tuple(given) != tuple(weight.shape):
            raise ValueError(_wrong_shape("mask", tuple(weight.shape), tuple(given)))
        pattern = interop.to_pattern(mask, device=weight.device)
        bias = None if linear.bias is None else linear.bias.detach().clone()
        return cls._assemble(pattern, pattern.values_at(weight), bias).train(linear.training)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Any], prefix: str = "") -> Self:
        """The layer that a state_dict describes, built from nothing else.

        Args:
            state_dict: what ``state_dict()`` gave, of the layer or of a model that contains it.
            prefix: what stands before the layer's names in it, for example ``"encoder.0."``.

        Returns:
            A layer of the dtype and device of the stored values.

        Raises:
            KeyError: entries of the layer are missing.
            ValueError: the entries do not fit each other.
            RuntimeError: they are sharded over processes.
        """
        return cls._assemble(*states.parts_of(state_dict, prefix))

    @classmethod
    def _assemble(cls, pattern: SparsityPattern, values: Tensor, bias: Tensor | None) -> Self:
        """A layer over tensors that are already there; nothing is drawn or allocated for it."""
        shape = pattern.in_features, pattern.out_features
        layer = cls(*shape, pattern, bias is not None, "meta", values.dtype)
        layer._hold(pattern)
        layer.values = nn.Parameter(values)
        if bias is not None:
            layer.bias = nn.Parameter(bias)
        return layer

    def reset_parameters(self) -> None:
        """Draw new values and biases, uniform in ±1/sqrt(fan-in of their own output).

        Where ``fully_shard`` has spread them over processes, every one of these must call it, and what the
        first draws is shared out.
        """
        if self.values.is_meta:
            return
        bound = _initial_bound(self.pattern, self.values.dtype)
        with torch.no_grad():
            values = self.values
            drawn = shards.room(values).uniform_(-1, 1)
            self.pattern.scale_rows(drawn, bound)
            shards.put(values, drawn)
            if values is not self._parameters.get("values"):  # it is parametrized: what was drawn is a copy
                self.values = values
            if self.bias is not None:
                shards.put(self.bias, shards.room(self.bias).uniform_(-1, 1).mul_(bound))

    @property
    def pattern(self) -> SparsityPattern:
        """Where the connections are; pass it as the adjacency of another layer to share it."""
        return self._pattern

    @property
    def nnz(self) -> int:
        """Number of connections."""
        return self.pattern.nnz

    @property
    def density(self) -> float:
        """nnz / (out_features * in_features)."""
        return self.pattern.density

    @property
    def weight(self) -> Tensor:
        """(out_features, in_features) sparse CSR tensor over the storage of values, without gradient.

        What is written into its values is written into the layer's.
        """
        return self.pattern.csr_tensor(self._whole_values())

    @property
    def weight_coo(self) -> Tensor:
        """The same as :attr:`weight` as a coalesced sparse COO tensor, over the same storage."""
        return self.pattern.coo_tensor(self._whole_values())

    def forward(self, input: Tensor) -> Tensor:
        """``(*, in_features)`` -> ``(*, out_features)``."""
        return functional.sparse_linear(input, self.values, self.pattern, self.bias)

    def to_scipy(self) -> scipy.sparse.csr_array:
        """New scipy ``csr_array`` (out_features, in_features) of the values; half types as float32."""
        return interop.to_scipy(self.pattern, self._whole_values())

    def to_dense(self) -> Tensor:
        """New dense tensor (out_features, in_features), without gradient; allocates all of it."""
        return self.pattern.dense_tensor(self._whole_values())

    def to_linear(self) -> nn.Linear:
        """``nn.Linear`` with the same outputs; its weight is dense, zero where no connection is."""
        linear = nn.Linear(
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device="meta",
            dtype=self.values.dtype,
        )
        linear.weight = nn.Parameter(self.to_dense())
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().clone())
        return linear.train(self.training)

    def spy(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw where the connections are; see :func:`sparselinear.raster.spy` for the options."""
        return raster.spy(self.pattern, ax, **options)

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, nnz={self.nnz}, "
            f"density={self.density:.3g}, bias={self.bias is not None}"
        )

    def _whole_values(self) -> Tensor:
        return shards.refuse("values", self.values.detach())

    def _hold(self, pattern: SparsityPattern) -> None:
        """Make a pattern this layer's; the buffers are its own tensors, whatever torch did to them."""
        self._pattern = pattern
        shape = torch.tensor(pattern.shape, dtype=torch.int64, device=pattern.device)
        for name, tensor in zip(
            states.PATTERN_BUFFERS, (shape, pattern.crow_indices, pattern.col_indices), strict=True
        ):
            self.register_buffer(name, tensor)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "parametrizations" and type(value) is nn.ModuleDict:
            value = parametrizations.ByName(dict(value.items()))
        super().__setattr__(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self.col_indices is not self._pattern.col_indices:  # share_memory_() works in place, like no move
            self._hold(self._pattern.to(self.col_indices.device))
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with values of its own; the pattern is immutable and stays shared."""
        for buffer in (self.crow_indices, self.col_indices):
            memo[id(buffer)] = buffer
        copied = self.__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        """Load values and bias; the pattern must be this layer's own, and is never overwritten."""
        own = {prefix + name: getattr(self, name) for name in states.PATTERN_BUFFERS}
        parameters = dict(self.named_parameters(recurse=False))
        problem = states.misfit(state_dict, prefix, self.pattern, parameters, self)
        if problem:  # nothing is loaded, rather than the part that fits
            error_msgs: list[str] = rest[-1]
            error_msgs.append(problem)
            return
        kept = {key: own.get(key, entry) for key, entry in state_dict.items()}
        super()._load_from_state_dict(kept, prefix, local_metadata, *rest)
        self._hold(self._pattern.to(self.values.device))  # assign=True may have brought other devices


def _initial_bound(pattern: SparsityPattern, dtype: torch.dtype) -> Tensor:
    """(out_features,) 1 / sqrt(fan-in), and 0 without connections, as torch.nn.Linear has it.

    That is Kaiming's uniform distribution with a = sqrt(5) for each output by itself
    (He et al., Delving deep into rectifiers, 2015).
    """
    wide = torch.promote_types(dtype, torch.float32)
    bound = pattern.fan_in().to(wide).rsqrt()
    return bound.masked_fill_(bound.isinf(), 0).to(dtype)


def _initial_bias(pattern: SparsityPattern, dtype: torch.dtype) -> Tensor:
    bound = _initial_bound(pattern, dtype)
    return torch.empty_like(bound).uniform_(-1, 1).mul_(bound)


def _wrong_shape(argument: str, expected: tuple[int, ...], got: tuple[int, ...]) -> str:
    advice = "Rows are outputs."
    if got == expected[::-1]:
        advice = f"Rows are outputs; pass {argument}.T, or use SparseLinear.from_graph."
    return message(argument, f"shape (out_features, in_features) = {expected}", str(got), advice)
