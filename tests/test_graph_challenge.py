"""Exact on work nobody here wrote: the MIT/IEEE/Amazon Sparse DNN GraphChallenge, 1024 neurons, 30 layers.

The published categories are the rows that are still active after the last layer. Source, licence and
orientation of the data stand in data/graphchallenge/README.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from devices import each_kernel

from sparselinear import SparseLinear, interop, kernels

DATA = Path(__file__).parent / "data" / "graphchallenge"
BIAS, CEILING = -0.3, 32.0  # published with the networks


@pytest.fixture(scope="module")
def layers() -> list[SparseLinear]:
    """W is stored (inputs, outputs): a graph whose rows are sources."""
    matrices = [interop.load_adjacency(DATA / f"layer{number:02d}.npz") for number in range(1, 31)]
    return [SparseLinear.from_graph(W, keep_values=True, bias=False, dtype=torch.float64) for W in matrices]


@pytest.mark.parametrize("feature_major", [False, True], ids=["batch-major", "feature-major"])
# The categories are those of float32 and wider: half types round sums of sixteenths differently.
@each_kernel(torch.float32, torch.float64)
def test_published_categories(
    layers: list[SparseLinear], device: str, kernel: str, dtype: torch.dtype, feature_major: bool
) -> None:
    images = interop.load_adjacency(DATA / "images_subset.npz")
    y = torch.from_numpy(images.toarray()).to(device, dtype)  # (images, neurons)
    y = y.t().contiguous().t() if feature_major else y
    with torch.no_grad(), kernels.use(kernel):
        for layer in layers:
            z = layer.to(device, dtype)(y)
            # The bias belongs to the entries that the sparse product makes, those that are not zero.
            y = torch.where(z != 0, z + BIAS, z).clamp(0, CEILING)
    categories = np.flatnonzero(y.sum(1).cpu().numpy())
    expected = np.load(DATA / "expected.npz")["active_rows"]
    assert len(expected) > 0
    np.testing.assert_array_equal(categories, expected)


def test_orientation_matters(layers: list[SparseLinear]) -> None:
    """The transposed networks give other categories, so that the test above is a test of orientation."""
    images = interop.load_adjacency(DATA / "images_subset.npz")
    y = torch.from_numpy(images.toarray()).double()
    with torch.no_grad():
        for layer in layers:
            z = SparseLinear.from_scipy(
                layer.to_scipy().T, keep_values=True, bias=False, dtype=torch.float64
            )(y)
            y = torch.where(z != 0, z + BIAS, z).clamp(0, CEILING)
    assert not np.array_equal(np.flatnonzero(y.sum(1).numpy()), np.load(DATA / "expected.npz")["active_rows"])
