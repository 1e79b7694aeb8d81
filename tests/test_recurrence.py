"""Recurrent use: one layer applied many times, and many layers over one pattern."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import twins
from devices import each_kernel_of
from reference import mask_of
from torch import Tensor, nn

from sparselinear import SparseLinear, interop, kernels


@pytest.mark.shows("Models and graphs", "recurrent use: a hundred steps of one layer")
@each_kernel_of(torch.float64)
def test_backpropagation_through_a_hundred_steps_of_one_layer(device: str, kernel: str) -> None:
    pattern = interop.to_pattern(np.random.default_rng(0).random((37, 37)) < 0.15, device=device)
    layer = SparseLinear(37, 37, pattern, device=device, dtype=torch.float64)
    twin = twins.Masked(layer)
    kept: set[torch.dtype] = set()

    def note(tensor: Tensor) -> Tensor:
        kept.add(tensor.dtype)
        return tensor

    for module in (layer, twin):
        state = torch.linspace(-1, 1, 3 * 37, dtype=torch.float64).reshape(3, 37).to(device)
        state.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            last = state
            with kernels.use(kernel):
                for _ in range(100):
                    last = torch.tanh(last + 0.1 * module(last))
        last.square().sum().backward()
        module.start = state.grad
    twins.same(layer, twin, grad=True)
    torch.testing.assert_close(layer.start, twin.start)
    assert kept == {torch.float64}  # no step saves indices: all go by those of the pattern


@pytest.mark.shows("Models and graphs", "a hundred layers over one pattern hold its indices once")
def test_a_hundred_layers_over_one_pattern_hold_its_indices_once(device: str) -> None:
    pattern = interop.to_pattern(mask_of(twins.ADJACENCY), device=device)
    layers = nn.Sequential(*(SparseLinear(53, 37, pattern, device=device) for _ in range(100)))
    indices = {b.data_ptr(): b.nbytes for n, b in layers.named_buffers() if n.endswith("indices")}
    assert sum(indices.values()) == pattern.col_indices.nbytes + pattern.crow_indices.nbytes
    copied = copy.deepcopy(layers)
    assert {b.data_ptr() for n, b in copied.named_buffers() if n.endswith("indices")} == set(indices)
