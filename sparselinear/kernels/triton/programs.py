"""What runs on the card: Triton programs over tiles of rows x lanes x width. See tiles.py and segments.py.

Activations are feature-major, (features, batch), with a stride between features. ``OFFSET`` is the type in
which places in them are reckoned: int64 where they have 2**31 entries or more. ``SUM`` is the type of sums.
"""

import triton
import triton.language as tl


@triton.jit
def _segments(targets, owners, begins, ends, count, ROWS: tl.constexpr):  # noqa: N803
    """Of this program's rows: which there are, their targets, owners, first connections and ends."""
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = place < count
    target = tl.load(targets + place, mask=there, other=0)
    owner = tl.load(owners + place, mask=there, other=0)
    begin = tl.load(begins + target, mask=there, other=0)
    end = tl.load(ends + target, mask=there, other=0)
    return there, target, owner, begin, end


@triton.jit
def _connections(indices, permutation, values, at, end, PERMUTED: tl.constexpr):  # noqa: N803
    """(rows, lanes): which connections there are, what each gathers, its place in the values, its value."""
    live = at < end[:, None]
    index = tl.load(indices + at, mask=live, other=0)
    if PERMUTED:
        at = tl.load(permutation + at, mask=live, other=0)
    return live, index, at, tl.load(values + at, mask=live, other=0)


@triton.jit
def _gather(activations, feature, live, sample, batch, SUM: tl.constexpr, EVEN: tl.constexpr):  # noqa: N803
    """(rows, lanes, width) of activations; zeros where a lane or a sample is none.

    Where every sample is one, dead lanes load feature 0 and drop it: loads under a mask would wait for each
    other, as ptxas does not move one before the sums that use the last.
    """
    place = activations + feature[:, :, None] * batch + sample[None, None, :]
    if EVEN:
        found = tl.where(live[:, :, None], tl.load(place), 0)
    else:
        inside = sample < batch
        found = tl.load(place, mask=live[:, :, None] & inside[None, None, :], other=0)
    return found.to(SUM)


@triton.jit
def spmm(
    targets,
    owners,
    begins,
    ends,
    columns,
    permutation,
    values,
    input,
    bias,
    output,
    count,
    batch,
    PERMUTED: tl.constexpr,  # noqa: N803  connection c has values[permutation[c]]
    BIASED: tl.constexpr,  # noqa: N803
    OFFSET: tl.constexpr,  # noqa: N803
    SUM: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    LANES: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    EVEN: tl.constexpr,  # noqa: N803  the batch is a multiple of WIDTH
):
    """output[target] = sum of value x input[column] over the connections of a segment, + bias[owner]."""
    there, target, owner, begin, end = _segments(targets, owners, begins, ends, count, ROWS)
    sample = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = sample < batch
    lane = tl.arange(0, LANES)
    total = tl.zeros((ROWS, LANES, WIDTH), SUM)
    longest = tl.max(end - begin, axis=0)
    at = begin[:, None] + lane[None, :]
    live, column, _place, value = _connections(columns, permutation, values, at, end, PERMUTED)
    for _ in range(0, longest, LANES):
        x = _gather(input, column.to(OFFSET), live, sample, batch, SUM, EVEN)
        weight = value.to(SUM)
        at += LANES  # what comes next is loaded while the activations are under way
        live, column, _place, value = _connections(columns, permutation, values, at, end, PERMUTED)
        total += weight[:, :, None] * x
    result = tl.sum(total, axis=1)
    if BIASED:
        result += tl.load(bias + owner, mask=there, other=0).to(SUM)[:, None]
    place = output + target.to(OFFSET)[:, None] * batch + sample[None, :]
    tl.store(place, result.to(output.dtype.element_ty), mask=there[:, None] & inside[None, :])


@triton.jit
def backward(
    targets,
    owners,
    begins,
    ends,
    rows,
    permutation,
    values,
    grad_output,
    input,
    grad_input,
    grad_values,
    count,
    batch,
    stretch,
    ADDING: tl.constexpr,  # noqa: N803  to what an earlier stretch of the batch left in grad_values
    OFFSET: tl.constexpr,  # noqa: N803
    SUM: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    LANES: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    EVEN: tl.constexpr,  # noqa: N803
):
    """Both gradients over columns of W: each row of grad_output that is loaded serves both."""
    there, target, owner, begin, end = _segments(targets, owners, begins, ends, count, ROWS)
    sample = stretch * WIDTH + tl.arange(0, WIDTH)
    inside = sample < batch
    lane = tl.arange(0, LANES)
    own = input + owner.to(OFFSET)[:, None] * batch + sample[None, :]
    x = tl.load(own, mask=there[:, None] & inside[None, :], other=0).to(SUM)
    total = tl.zeros((ROWS, LANES, WIDTH), SUM)
    longest = tl.max(end - begin, axis=0)
    at = begin[:, None] + lane[None, :]
    live, row, connection, value = _connections(rows, permutation, values, at, end, True)
    for _ in range(0, longest, LANES):
        gradient = _gather(grad_output, row.to(OFFSET), live, sample, batch, SUM, EVEN)
        weight, here, now = value.to(SUM), grad_values + connection, live
        at += LANES  # what comes next is loaded while the activations are under way
        live, row, connection, value = _connections(rows, permutation, values, at, end, True)
        total += weight[:, :, None] * gradient
        product = tl.sum(gradient * x[:, None, :], axis=2)
        if ADDING:
            product += tl.load(here, mask=now, other=0).to(SUM)
        tl.store(here, product.to(grad_values.dtype.element_ty), mask=now)
    result = tl.sum(total, axis=1)
    place = grad_input + target.to(OFFSET)[:, None] * batch + sample[None, :]
    tl.store(place, result.to(grad_input.dtype.element_ty), mask=there[:, None] & inside[None, :])


@triton.jit
def sddmm(
    targets,
    owners,
    begins,
    ends,
    columns,
    grad_output,
    input,
    grad_values,
    count,
    batch,
    OFFSET: tl.constexpr,  # noqa: N803
    SUM: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    LANES: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    EVEN: tl.constexpr,  # noqa: N803
):
    """grad_values[c] = grad_output[owner] . input[column] for the connections of a segment, in CSR order."""
    there, _target, owner, begin, end = _segments(targets, owners, begins, ends, count, ROWS)
    lane = tl.arange(0, LANES)
    longest = tl.max(end - begin, axis=0)
    for first in range(0, longest, LANES):
        at = begin[:, None] + first + lane[None, :]
        live = at < end[:, None]
        column = tl.load(columns + at, mask=live, other=0).to(OFFSET)
        total = tl.zeros((ROWS, LANES, WIDTH), SUM)
        for start in range(0, batch, WIDTH):
            sample = start + tl.arange(0, WIDTH)
            inside = sample < batch
            own = grad_output + owner.to(OFFSET)[:, None] * batch + sample[None, :]
            gradient = tl.load(own, mask=there[:, None] & inside[None, :], other=0).to(SUM)
            x = _gather(input, column, live, sample, batch, SUM, EVEN)
            total += gradient[:, None, :] * x
        product = tl.sum(total, axis=2)
        tl.store(grad_values + at, product.to(grad_values.dtype.element_ty), mask=live)


@triton.jit
def combine(
    rows,
    firsts,
    parts,
    bias,
    output,
    batch,
    BIASED: tl.constexpr,  # noqa: N803
    OFFSET: tl.constexpr,  # noqa: N803
    SUM: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
):
    """output[row] = the sum of its parts, in their order, + bias[row]."""
    row = tl.load(rows + tl.program_id(0))
    begin = tl.load(firsts + tl.program_id(0))
    end = tl.load(firsts + tl.program_id(0) + 1)
    sample = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = sample < batch
    part = parts + begin.to(OFFSET) * batch + sample
    total = tl.zeros((WIDTH,), SUM)
    for _ in range(begin, end):
        total += tl.load(part, mask=inside, other=0)
        part += batch
    if BIASED:
        total += tl.load(bias + row).to(SUM)
    place = output + row.to(OFFSET) * batch + sample
    tl.store(place, total.to(output.dtype.element_ty), mask=inside)
