"""The byte ledger: what a system keeps in memory, and needs for a training step, by term.

Everything here is arithmetic on the sizes of the layer, so that it can be asked before anything is
built. The terms that are kept are exact, and tests hold them against the tensors themselves and against
torch's allocator. The two transients are what a step holds for a moment beyond them: an estimate, read
off the resident memory of processes like those of :mod:`sparselinear.profiling.peak` on a CPU. For our
layer they are those of the native kernel: 100 to 350 MB of layer with 2 to 8 million connections, batches
of 4 to 128 and one thread peaked within 5 % of what is predicted in every dtype; the torch kernel stayed up
to a seventh below. For the others they are good to a tenth.

On CUDA the transients of our layer are counted off what its kernels allocate for batch-major activations, and
those of Adam off its foreach implementation, the default there; ``python -m bench.gpu`` sets both against the
allocator's peak. The transients of the baselines are those of a CPU there too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..kernels import choose
from ..kernels.panels import scattered_pieces, scattered_width, scatters, two_passes_from
from ..pattern import BLOCK

if TYPE_CHECKING:
    import torch

    from ..linear import SparseLinear
    from ..pattern import SparsityPattern

INT64 = 8  # bytes of an index of torch.sparse as it is built from Python
ADAM_STEP = 4  # bytes of the step count that torch.optim.Adam keeps for each Parameter: a float32


@dataclass(frozen=True)
class Sizes:
    """The numbers that every byte count depends on.

    Attributes:
        out_features: rows of the weight.
        in_features: columns of the weight.
        nnz: connections.
        bias: whether there is a bias of out_features entries.
        itemsize: bytes of a value.
        index_itemsize: bytes of an index of our pattern.
        batch: rows of the input.
        cuda_kernel: the kernel that runs the layer, where that is on CUDA; empty on a CPU, for which all
            kernels count as the native one.
    """

    out_features: int
    in_features: int
    nnz: int
    bias: bool
    itemsize: int
    index_itemsize: int
    batch: int
    cuda_kernel: str = ""

    @classmethod
    def of(cls, layer: SparseLinear, batch: int, dtype: torch.dtype | None = None) -> Sizes:
        """Sizes of a layer at a batch, in the dtype of its values or in another one."""
        return cls.of_pattern(layer.pattern, batch, dtype or layer.values.dtype, layer.bias is not None)

    @classmethod
    def of_pattern(cls, pattern: SparsityPattern, batch: int, dtype: torch.dtype, bias: bool = True) -> Sizes:
        """Sizes of a layer over a pattern, before there is one."""
        return cls(
            out_features=pattern.out_features,
            in_features=pattern.in_features,
            nnz=pattern.nnz,
            bias=bias,
            itemsize=dtype.itemsize,
            index_itemsize=pattern.index_dtype.itemsize,
            batch=batch,
            cuda_kernel=choose(pattern, dtype, batch).name if pattern.device.type == "cuda" else "",
        )

    @property
    def dense_bytes(self) -> int:
        """Bytes of one dense (out_features, in_features) array."""
        return self.out_features * self.in_features * self.itemsize

    @property
    def values_bytes(self) -> int:
        """Bytes of one value for each connection."""
        return self.nnz * self.itemsize

    @property
    def bias_bytes(self) -> int:
        """Bytes of the bias; 0 without one."""
        return self.out_features * self.itemsize if self.bias else 0

    @property
    def activations_bytes(self) -> int:
        """Bytes of the output and of the gradient of the input, which every system has."""
        return self.grad_input_bytes + self.output_bytes

    @property
    def output_bytes(self) -> int:
        """Bytes of the output."""
        return self.batch * self.out_features * self.itemsize

    @property
    def grad_input_bytes(self) -> int:
        """Bytes of the gradient of the input, which is still there when the weights are updated."""
        return self.batch * self.in_features * self.itemsize


# Of the native kernel: kMostKept of kernels/csrc/scratch.h.
_KEPT_SCRATCH = 64 << 20


@dataclass(frozen=True)
class Ledger:
    """Bytes of one system, by term.

    Attributes:
        parameters_bytes: weight or values, and the bias.
        mask_bytes: a mask of zeros and ones, and the masked weight where a system keeps it.
        indices_bytes: where the connections are.
        transpose_bytes: the same for the transpose, and the permutation between the two, if kept; 0 for
            batches so small that our backward goes by rows.
        gradients_bytes: of the parameters; the gradient of a sparse tensor has indices of its own.
        adam_bytes: state of torch.optim.Adam; None where Adam does not take the parameters.
        step_transient_bytes: what forward and backward hold for a moment beyond the rest.
        adam_transient_bytes: what an update by Adam holds for a moment beyond the rest.
        building_bytes: all that is held at once while the system is built, where that is more than the
            resident bytes; otherwise 0.
        transposing_bytes: all that is held at once, the output apart, while the first backward finds the
            transpose; 0 for a system that keeps none.
    """

    parameters_bytes: int
    mask_bytes: int = 0
    indices_bytes: int = 0
    transpose_bytes: int = 0
    gradients_bytes: int = 0
    adam_bytes: int | None = None
    step_transient_bytes: int = 0
    adam_transient_bytes: int = 0
    building_bytes: int = 0
    transposing_bytes: int = 0

    @property
    def resident_bytes(self) -> int:
        """What the system holds as long as it lives: parameters, masks, indices."""
        return self.parameters_bytes + self.mask_bytes + self.indices_bytes + self.transpose_bytes

    @property
    def total_bytes(self) -> int:
        """What the system holds once it trains: the resident bytes, gradients and Adam's state."""
        return self.resident_bytes + self.gradients_bytes + (self.adam_bytes or 0)

    @property
    def transient_bytes(self) -> int:
        """The larger of the two transients: they never stand in memory together."""
        return max(self.step_transient_bytes, self.adam_transient_bytes)

    def to_dict(self) -> dict[str, int | None]:
        """The terms and their sums, ready for JSON."""
        sums = {"resident_bytes": self.resident_bytes, "total_bytes": self.total_bytes}
        return {**asdict(self), **sums}


def needed_bytes(ledger: Ledger, sizes: Sizes) -> int:
    """Bytes that have to be free: for the building, or for a training step and its activations."""
    step = ledger.step_transient_bytes + sizes.activations_bytes
    update = ledger.adam_transient_bytes + sizes.grad_input_bytes  # the output is gone by then
    first = ledger.transposing_bytes + sizes.output_bytes
    return max(ledger.total_bytes + max(step, update), ledger.building_bytes, first)


def adam_state(parameter_bytes: int, tensors: int) -> int:
    """Bytes of Adam's state for dense parameters: two moments of their size, and a step count each."""
    return 2 * parameter_bytes + ADAM_STEP * tensors


def sparse(sizes: Sizes) -> Ledger:
    """Ledger of :class:`sparselinear.SparseLinear`."""
    index = sizes.index_itemsize
    parameters = sizes.values_bytes + sizes.bias_bytes
    indices = (sizes.out_features + 1 + sizes.nnz) * index  # crow_indices, col_indices
    transpose = transposing = 0
    if not _scatters(sizes):
        transpose = (sizes.in_features + 1 + 2 * sizes.nnz) * index  # ccol, row, permutation
        transposing = parameters + indices + _transposing(sizes) + _kept(sizes, _forward_scratch(sizes))
    return Ledger(
        parameters_bytes=parameters,
        indices_bytes=indices,
        transpose_bytes=transpose,
        gradients_bytes=parameters,
        adam_bytes=adam_state(parameters, 1 + sizes.bias),
        step_transient_bytes=_cuda_scratch(sizes) if sizes.cuda_kernel else sum(_scratch(sizes)),
        adam_transient_bytes=_adam_transient(sizes, sizes.values_bytes) + _kept(sizes, _scratch(sizes)),
        transposing_bytes=transposing,
    )


def _scatters(sizes: Sizes) -> bool:
    """Whether backward goes by the rows of W, and there is no transpose."""
    wide = _wide(sizes)
    return not sizes.cuda_kernel and scatters(sizes.batch, sizes.nnz, sizes.in_features, wide)


def _transposing(sizes: Sizes) -> int:
    """The permutation, and what sorting one block of columns takes: sorted keys, their places, and copies."""
    blocks = max(1, math.ceil(sizes.nnz / BLOCK))
    scratch = 16 + sizes.index_itemsize + (8 + sizes.index_itemsize if blocks > 1 else 0)
    return sizes.nnz * sizes.index_itemsize + sizes.nnz // blocks * scratch


def _adam_transient(sizes: Sizes, weight_bytes: int) -> int:
    """The square root of the second moment, and its quotient.

    On CUDA the quotient is taken in place, and the roots of all parameters stand there together.
    """
    return weight_bytes + sizes.bias_bytes if sizes.cuda_kernel else 2 * weight_bytes


def _cuda_scratch(sizes: Sizes) -> int:
    """What the backward of a kernel on CUDA holds beyond its results.

    The torch kernel: input, its gradient and that of the output in feature-major order, and the values in
    CSC order; of a half type also input and gradient of the output as float32, and the gradient of the
    values. The triton kernel: all three at once in feature-major order, and of a half type the gradient of
    the values in float32; partial sums of rows so long that several programs share one are not counted.
    """
    widened = 4 if sizes.itemsize < 4 else 0
    if sizes.cuda_kernel == "triton":
        features = 2 * sizes.in_features + sizes.out_features
        return sizes.batch * features * sizes.itemsize + sizes.nnz * widened
    features = sizes.in_features + sizes.out_features
    return sizes.batch * features * (sizes.itemsize + widened) + sizes.nnz * (sizes.itemsize + widened)


def _reordered(sizes: Sizes) -> int:
    """The values, or their gradient, in CSC order; those of a half type in float32."""
    return _wide(sizes) * sizes.nnz


# A row of a panel in backward, where no cache holds it: WIDTHS_BACKWARD of kernels/panels.py, in vectors of
# AVX-512. Panels of a layer so small that it has others take next to nothing.
_PANEL_ROW_BYTES = 4 * 64


def _scratch(sizes: Sizes) -> tuple[int, ...]:
    """Blocks of scratch of the backward, in the order it gives them back; forward finds its own there.

    Two passes need a block of numbers in CSC order less than one, as grad_values come in CSR order. Where
    both go by rows there are sums of grad_input instead, and of a half type the values in float32.
    """
    panel = min(sizes.batch * _wide(sizes), _PANEL_ROW_BYTES) * sizes.out_features
    if _scatters(sizes):
        sums = scattered_pieces(sizes.nnz, sizes.in_features) * sizes.in_features
        widened = _reordered(sizes) if sizes.itemsize < _wide(sizes) else 0
        return panel, sums * scattered_width(sizes.batch) * _wide(sizes), widened
    two_passes = sizes.nnz >= two_passes_from(sizes.batch, _wide(sizes), sizes.in_features)
    dots = 0 if two_passes else _reordered(sizes)
    return panel, _reordered(sizes), dots


def _forward_scratch(sizes: Sizes) -> tuple[int, ...]:
    """Blocks of scratch of the forward: a panel of the input, and values of a half type in float32."""
    panel = min(sizes.batch * _wide(sizes), _PANEL_ROW_BYTES) * sizes.in_features
    return panel, _reordered(sizes) if sizes.itemsize < _wide(sizes) else 0


def _kept(sizes: Sizes, scratch: tuple[int, ...]) -> int:
    """What the native kernel keeps of its scratch between calls: the last blocks, as many as fit.

    On CUDA scratch is torch's, and comes back to its allocator.
    """
    if sizes.cuda_kernel:
        return 0
    kept: list[int] = []
    for block in scratch:
        if block <= _KEPT_SCRATCH:
            kept.append(block)
        while sum(kept) > _KEPT_SCRATCH:
            kept.pop(0)
    return sum(kept)


def _wide(sizes: Sizes) -> int:
    """Bytes of a number in scratch, where half types are float32."""
    return max(sizes.itemsize, 4)


def dense(sizes: Sizes, *, masks: int = 0, transient: int = 0) -> Ledger:
    """Ledger of a system that holds the weight as a dense array.

    Args:
        sizes: of the layer.
        masks: dense arrays beside the weight that live as long as it does.
        transient: dense arrays that a step holds for a moment beyond weight, masks and gradient.
    """
    parameters = sizes.dense_bytes + sizes.bias_bytes
    return Ledger(
        parameters_bytes=parameters,
        mask_bytes=masks * sizes.dense_bytes,
        gradients_bytes=parameters,
        adam_bytes=adam_state(parameters, 1 + sizes.bias),
        step_transient_bytes=transient * sizes.dense_bytes,
        adam_transient_bytes=_adam_transient(sizes, sizes.dense_bytes),
    )


def pruned(sizes: Sizes) -> Ledger:
    """Ledger of torch.nn.utils.prune: the mask is kept by module and hook, and the masked weight too."""
    return dense(sizes, masks=3, transient=1)


def pruned_removed(sizes: Sizes) -> Ledger:
    """Ledger of a pruned layer after prune.remove; it is not trained.

    In prune.remove there are five dense arrays: two weights, the mask twice, and the product.
    """
    return Ledger(
        parameters_bytes=sizes.dense_bytes + sizes.bias_bytes,
        building_bytes=5 * sizes.dense_bytes + sizes.bias_bytes,
    )


def coo(sizes: Sizes) -> Ledger:
    """Ledger of a torch.sparse COO Parameter: backward makes a dense (out_features, in_features) array."""
    indices = 2 * sizes.nnz * INT64
    return Ledger(
        parameters_bytes=sizes.values_bytes + sizes.bias_bytes,
        indices_bytes=indices,
        gradients_bytes=sizes.values_bytes + indices + sizes.bias_bytes,
        step_transient_bytes=sizes.dense_bytes + 2 * sizes.activations_bytes,
    )


def csr(sizes: Sizes) -> Ledger:
    """Ledger of a torch.sparse CSR Parameter: backward sorts a transpose anew each time.

    That and the copies of the indices took 56 to 65 bytes a connection, of float32 and of float64.
    """
    indices = (sizes.out_features + 1 + sizes.nnz) * INT64
    return Ledger(
        parameters_bytes=sizes.values_bytes + sizes.bias_bytes,
        indices_bytes=indices,
        gradients_bytes=sizes.values_bytes + indices + sizes.bias_bytes,
        step_transient_bytes=60 * sizes.nnz + sizes.activations_bytes,
    )
