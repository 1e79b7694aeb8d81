"""The products as launches of the programs, over feature-major activations, (features, batch)."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...pattern import SparsityPattern
from ..torch_sparse import accumulation_dtype
from . import programs
from .segments import Parts, Segments, division
from .tiles import THREADS, Tile, tile

# Said outright: Triton's own default of the second is to change.
COMPILATION = {"num_warps": THREADS // 32, "enable_fp_fusion": True}
_SUM = {torch.float32: tl.float32, torch.float64: tl.float64}


def spmm(
    pattern: SparsityPattern, permutation: Tensor | None, values: Tensor, input: Tensor, bias: Tensor | None
) -> Tensor:
    """W @ input + bias, (out_features, batch).

    Args:
        pattern: of W.
        permutation: (nnz,) position in ``values`` of each connection; None where they are in its order.
        values: (nnz,) contiguous.
        input: (in_features, batch) contiguous.
        bias: (out_features,) or None.
    """
    batch = input.shape[1]
    output = input.new_empty(pattern.out_features, batch)
    size = _tile(pattern, input)
    bias = None if bias is None else bias.contiguous()
    with torch.cuda.device_of(input):
        for segments, result in _work(pattern, output):
            added = bias if result is output else None
            programs.spmm[(_programs(segments, size), triton.cdiv(batch, size.width))](
                *_places(segments),
                pattern.col_indices,
                pattern.col_indices if permutation is None else permutation,
                values,
                input,
                values if added is None else added,
                result,
                len(segments.targets),
                batch,
                PERMUTED=permutation is not None,
                BIASED=added is not None,
                **_constants(size, input, result),
            )
            if isinstance(segments, Parts):
                _combine(segments, result, bias, output)
    return output


def backward(
    columns: SparsityPattern, permutation: Tensor, values: Tensor, grad_output: Tensor, input: Tensor
) -> tuple[Tensor, Tensor]:
    """(grad_input, grad_values), (in_features, batch) and (nnz,), in one pass over the columns of W.

    Args:
        columns: pattern of the transpose of W.
        permutation: (nnz,) position in ``values`` of each of its connections.
        values: (nnz,) contiguous.
        grad_output: (out_features, batch) contiguous.
        input: (in_features, batch) contiguous.
    """
    batch, size = input.shape[1], _tile(columns, grad_output)
    grad_input = torch.empty_like(input)
    stretches = triton.cdiv(batch, size.width)
    # Between stretches of the batch the sums are kept as they are; one stretch has nothing to keep.
    dtype = values.dtype if stretches == 1 else accumulation_dtype(values.dtype)
    grad_values = torch.empty_like(values, dtype=dtype)
    if not batch:
        grad_values.zero_()
    work = _work(columns, grad_input)
    with torch.cuda.device_of(input):
        for stretch, (segments, result) in product(range(stretches), work):
            programs.backward[(_programs(segments, size),)](
                *_places(segments),
                columns.col_indices,
                permutation,
                values,
                grad_output,
                input,
                result,
                grad_values,
                len(segments.targets),
                batch,
                stretch,
                ADDING=stretch > 0,
                **_constants(size, input, grad_output, result),
            )
        for segments, result in work:
            if isinstance(segments, Parts):
                _combine(segments, result, None, grad_input)
    return grad_input, grad_values.to(values.dtype)


def sddmm(pattern: SparsityPattern, grad_output: Tensor, input: Tensor) -> Tensor:
    """grad_output @ input.T sampled at the pattern, (nnz,) in CSR order.

    Args:
        pattern: of W.
        grad_output: (out_features, batch) contiguous.
        input: (in_features, batch) contiguous.
    """
    size, divided = _tile(pattern, input), division(pattern)
    grad_values = input.new_empty(pattern.nnz)
    with torch.cuda.device_of(input):
        for segments in (divided.whole, divided.parts):
            if segments is not None and len(segments.targets):
                programs.sddmm[(_programs(segments, size),)](
                    *_places(segments),
                    pattern.col_indices,
                    grad_output,
                    input,
                    grad_values,
                    len(segments.targets),
                    input.shape[1],
                    **_constants(size, input, grad_output),
                )
    return grad_values


def _work(pattern: SparsityPattern, result: Tensor) -> list[tuple[Segments, Tensor]]:
    """What is to be summed, and where to: whole rows to the result, parts to a workspace (parts, batch)."""
    divided = division(pattern)
    work: list[tuple[Segments, Tensor]] = [(divided.whole, result)]
    if divided.parts is not None:
        size, dtype = (len(divided.parts.targets), result.shape[1]), accumulation_dtype(result.dtype)
        work.append((divided.parts, result.new_empty(size, dtype=dtype)))
    return [(segments, into) for segments, into in work if len(segments.targets) and into.numel()]


def _combine(parts: Parts, sums: Tensor, bias: Tensor | None, output: Tensor) -> None:
    batch, width = output.shape[1], 128
    programs.combine[(len(parts.rows), triton.cdiv(batch, width))](
        parts.rows,
        parts.firsts,
        sums,
        sums if bias is None else bias,
        output,
        batch,
        BIASED=bias is not None,
        OFFSET=_offset(output, sums),
        SUM=_SUM[sums.dtype],
        WIDTH=width,
        **COMPILATION,
    )


def _tile(pattern: SparsityPattern, gathered: Tensor) -> Tile:
    length = pattern.nnz / max(1, pattern.out_features)
    features, batch = gathered.shape
    return tile(length, features, batch, gathered.dtype, gathered.device)


def _places(segments: Segments) -> tuple[Tensor, ...]:
    return segments.targets, segments.owners, segments.begins, segments.ends


def _programs(segments: Segments, size: Tile) -> int:
    return int(triton.cdiv(len(segments.targets), size.rows))


def _constants(size: Tile, *activations: Tensor) -> dict[str, Any]:
    return {
        "OFFSET": _offset(*activations),
        "SUM": _SUM[accumulation_dtype(activations[0].dtype)],
        "ROWS": size.rows,
        "LANES": size.lanes,
        "WIDTH": size.width,
        "EVEN": activations[0].shape[1] % size.width == 0,
        **COMPILATION,
    }


def _offset(*activations: Tensor) -> Any:
    """The type for places in activations."""
    fits = all(tensor.numel() < 2**31 for tensor in activations)
    return tl.int32 if fits else tl.int64
