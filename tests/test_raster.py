"""The picture of a pattern: counts against a numpy histogram, bounded memory, and what spy paints."""

import builtins
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sparselinear import SparseLinear, raster
from sparselinear.pattern import SparsityPattern


def make(matrix, index_dtype=None):
    csr = sp.csr_array(matrix)
    csr.sort_indices()
    crow, col = (torch.from_numpy(part.astype(np.int64)) for part in (csr.indptr, csr.indices))
    return SparsityPattern(crow, col, csr.shape, index_dtype=index_dtype)


def random(rows, columns, density, seed=0):
    return sp.random(rows, columns, density, format="csr", random_state=seed)


def empty_bands():
    matrix = random(97, 53, 0.2).tolil()
    matrix[10:60] = 0  # a whole row of pixels, and more, without a connection
    matrix[:, 20:31] = 0
    return matrix.tocsr()


@dataclass(frozen=True)
class Case:
    """A matrix, the picture asked for, and why."""

    name: str
    matrix: sp.sparray
    height: int
    width: int


CASES = [
    Case("even division", random(64, 96, 0.1), 16, 24),
    Case("primes: pixels of unequal size", random(101, 211, 0.1), 17, 31),
    Case("one row less than the matrix", random(12, 13, 0.4), 11, 12),
    Case("picture larger than the matrix", random(7, 5, 0.5), 64, 64),
    Case("larger on one side only", random(7, 301, 0.3), 50, 40),
    Case("a single pixel", random(31, 41, 0.2), 1, 1),
    Case("1 x n", random(1, 1009, 0.1), 20, 20),
    Case("n x 1", random(1009, 1, 0.1), 20, 20),
    Case("empty rows and columns", empty_bands(), 13, 11),
    Case("diagonal", sp.eye(257, format="csr"), 64, 64),
    Case("full", sp.csr_array(np.ones((19, 23))), 5, 7),
    Case("nnz = 0", sp.csr_array((30, 20)), 8, 8),
    Case("no rows", sp.csr_array((0, 5)), 8, 8),
    Case("no columns", sp.csr_array((5, 0)), 8, 8),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def oracle(case):
    """Counts and cells of each pixel by numpy's own histogram of pixel numbers."""
    rows, columns = case.matrix.shape
    height, width = min(case.height, rows), min(case.width, columns)
    coo = case.matrix.tocoo()
    counts, cells = np.zeros((height, width), dtype=np.int64), np.zeros((height, width))
    if height and width:
        np.add.at(counts, (coo.row * height // rows, coo.col * width // columns), 1)
        of_row = np.bincount(np.arange(rows) * height // rows, minlength=height)
        of_column = np.bincount(np.arange(columns) * width // columns, minlength=width)
        cells = np.outer(of_row, of_column)
    return counts, cells


@each_case
def test_counts_equal_a_histogram(case):
    counts, _ = oracle(case)
    drawn = raster.raster(make(case.matrix), case.height, case.width)
    assert drawn.dtype == torch.int64
    np.testing.assert_array_equal(drawn.numpy(), counts)
    assert drawn.sum() == case.matrix.nnz


@each_case
def test_density_is_the_share_of_cells(case):
    counts, cells = oracle(case)
    drawn = raster.density_raster(make(case.matrix), case.height, case.width)
    np.testing.assert_allclose(drawn.numpy(), counts / cells, rtol=1e-15)


@each_case
def test_chunks_do_not_change_the_counts(case, monkeypatch):
    monkeypatch.setattr(raster, "CHUNK", 3)
    counts, _ = oracle(case)
    np.testing.assert_array_equal(raster.raster(make(case.matrix), case.height, case.width), counts)


def test_int64_indices_are_counted_and_left_alone():
    matrix = random(50, 60, 0.2)
    pattern = make(matrix, torch.int64)
    columns = pattern.col_indices.clone()
    wide = make(matrix, torch.int32)
    assert torch.equal(raster.raster(pattern, 7, 9), raster.raster(wide, 7, 9))
    assert torch.equal(pattern.col_indices, columns)


def test_the_last_column_of_a_wide_matrix_does_not_overflow():
    width = 2**31 - 1  # column * pixels leaves int32
    pattern = SparsityPattern(torch.tensor([0, 2]), torch.tensor([0, width - 1]), (1, width))
    assert raster.raster(pattern, 4, 100).nonzero().tolist() == [[0, 0], [0, 99]]


def test_a_pattern_on_meta_is_drawn_from_what_it_was_moved_from():
    pattern = make(random(20, 30, 0.2))
    assert torch.equal(raster.raster(pattern.to("meta"), 5, 6), raster.raster(pattern, 5, 6))


class Largest(TorchDispatchMode):
    """Remembers the largest tensor, by its elements, that any operation returned anew."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else (result,):
            if isinstance(tensor, torch.Tensor) and not tensor._is_view():
                self.numel = max(self.numel, tensor.numel())
        return result


def test_scratch_is_bounded_by_the_chunk_and_the_picture(monkeypatch):
    monkeypatch.setattr(raster, "CHUNK", 1000)
    pattern = make(random(400, 5000, 0.1))  # 200,000 connections
    with Largest() as largest:
        raster.density_raster(pattern, 30, 40)
    assert 0 < largest.numel <= max(1000, 30 * 40)


@pytest.mark.parametrize(
    ("height", "error", "text"),
    [
        (0, ValueError, "at least 1"),
        (-3, ValueError, "height"),
        (2.5, TypeError, "height"),
        (True, TypeError, "a bool"),
    ],
)
def test_a_wrong_size_is_named(height, error, text):
    with pytest.raises(error, match=text):
        raster.raster(make(random(5, 5, 0.5)), height, 4)


# ----------------------------------------------------------------------------------- spy


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    yield pyplot
    pyplot.close("all")


def painted(axes):
    """What the image holds; blank pixels are masked."""
    array = axes.images[0].get_array()
    assert isinstance(array, np.ma.MaskedArray)
    return array


@each_case
def test_spy_paints_the_raster(case, plt):
    pattern = make(case.matrix)
    axes = raster.spy(pattern, max_pixels=16)
    axes.figure.canvas.draw()  # warnings are errors: layout and ticks must work for every shape
    density = raster.density_raster(pattern, 16, 16)
    if not density.numel():
        assert not axes.images
        return
    np.testing.assert_array_equal(painted(axes).filled(0.0), density.numpy())
    rows, columns = case.matrix.shape
    assert tuple(axes.images[0].get_extent()) == (-0.5, columns - 0.5, rows - 0.5, -0.5)
    assert axes.get_xlabel() == f"inputs ({columns:,})"
    assert axes.get_ylabel() == f"outputs ({rows:,})"


def test_the_colours_are_logarithmic_only_over_decades(plt):
    from matplotlib.colors import LogNorm

    uneven = sp.csr_array(sp.block_diag([np.ones((50, 50)), sp.eye(450)]))
    assert isinstance(raster.spy(make(uneven), max_pixels=10).images[0].norm, LogNorm)
    even = raster.spy(make(random(500, 500, 0.5)), max_pixels=10).images[0].norm
    assert not isinstance(even, LogNorm)
    assert even.vmin == 0


def test_a_connection_that_stands_alone_is_seen(plt):
    pattern = SparsityPattern(torch.tensor([0] * 5001 + [1] * 5000), torch.tensor([7000]), (10_000, 10_000))
    axes = raster.spy(pattern, max_pixels=100)
    shown = axes.images[0].to_rgba(painted(axes).compressed())
    assert len(shown) == 1  # pixels that are not blank
    assert shown[0, :3].min() < 0.5  # far from white


def test_spy_draws_into_given_axes_with_a_title(plt):
    figure, (left, right) = plt.subplots(1, 2)
    assert raster.spy(make(random(40, 40, 0.3)), right, max_pixels=8, title="mine", cmap="cividis") is right
    assert right.get_title() == "mine"
    assert right.images[0].cmap.name == "cividis"
    assert not left.images
    assert len(right.child_axes) == 1  # the colour bar takes no room from its neighbours
    raster.spy(make(random(40, 40, 0.3)), left, max_pixels=8, colorbar=False)
    assert not left.child_axes
    assert "480 connections" in left.get_title()
    assert len(figure.axes) == 2


def test_a_layer_draws_its_pattern(plt):
    layer = SparseLinear.from_scipy(random(40, 30, 0.3))
    theirs, own = layer.spy(max_pixels=8, title="mine"), raster.spy(layer.pattern, max_pixels=8)
    np.testing.assert_array_equal(painted(theirs), painted(own))
    assert theirs.get_title() == "mine"


def test_without_matplotlib_the_message_names_the_extra(monkeypatch):
    load = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "torch-sparselinear\[plot\]"'):
        raster.spy(make(random(5, 5, 0.5)))
