"""The picture of a pattern: a density raster of bounded size.

A dot for each connection (``matplotlib.pyplot.spy``) costs memory for each of 10**8 connections and
paints over itself long before that. Here the matrix is laid under a grid of pixels and each pixel
counts the connections in it, so the picture costs what its pixels cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize

    from .pattern import SparsityPattern

# Connections read at a time: 2**21 pixel numbers in int64 are 16 MiB.
CHUNK = 1 << 21

# Pixels on the longer side. At the usual size of a figure one pixel is then two or three dots of a
# screen, enough to see a connection that stands alone.
MAX_PIXELS = 200

# Height over width of the axes is kept between 1 / 3 and 3: a 1 x 10,000 layer drawn to scale is a hairline.
FLATTEST = 1 / 3

# Up to this many rows and columns each cell is outlined and each index can be read off.
OUTLINED = 24


def raster(pattern: SparsityPattern, height: int, width: int) -> Tensor:
    """Count the connections that fall into each pixel of a picture.

    A connection (row, column) falls into the pixel ``(row * height // out_features,
    column * width // in_features)``. A side of the matrix that is smaller than that of the picture
    keeps its own size, one pixel a row or column. Beyond the result at most ``CHUNK`` connections
    are looked at in one go, so the scratch memory does not grow with the pattern.

    Args:
        pattern: the connections, on any device.
        height: largest number of pixel rows, at least 1.
        width: largest number of pixel columns, at least 1.

    Returns:
        (min(height, out_features), min(width, in_features)) int64, on the device of the pattern.

    Raises:
        TypeError: height or width is no int.
        ValueError: height or width is less than 1.
    """
    if pattern.device.type == "meta":
        pattern = pattern.to("cpu")
    out_features, in_features = pattern.shape
    height = min(_pixels("height", height), out_features)
    width = min(_pixels("width", width), in_features)
    counts = torch.zeros(height, width, dtype=torch.int64, device=pattern.device)
    # The connections of one row of pixels are neighbours in CSR order: no row index is ever made.
    edges = torch.tensor(pixel_edges(out_features, height), device=pattern.device)
    bands = pattern.crow_indices[edges].tolist()
    for line, begin, end in zip(counts, bands, bands[1:], strict=False):
        for start in range(begin, end, CHUNK):
            columns = pattern.col_indices[start : min(start + CHUNK, end)].long()
            # Not in place: of int64 indices, long() is the pattern itself.
            pixel = (columns * width).div_(in_features, rounding_mode="floor")
            line += torch.bincount(pixel, minlength=width)
    return counts


def density_raster(pattern: SparsityPattern, height: int, width: int) -> Tensor:
    """Share of the cells of each pixel that hold a connection.

    Args:
        pattern: the connections, on any device.
        height: largest number of pixel rows, at least 1.
        width: largest number of pixel columns, at least 1.

    Returns:
        float64 of the shape of :func:`raster`, from 0 to 1. Pixels may differ by one row or column
        in what they cover; each is divided by its own number of cells.
    """
    counts = raster(pattern, height, width)
    sides = zip(pattern.shape, counts.shape, strict=True)
    rows, columns = (torch.tensor(pixel_edges(*side), device=counts.device).diff().double() for side in sides)
    return counts / torch.outer(rows, columns)


def spy(
    pattern: SparsityPattern,
    ax: Axes | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    cmap: str | Colormap | None = None,
    title: str | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw where the connections are: outputs down, inputs across, colour for their density.

    The cost is bounded by ``max_pixels``, whatever the number of connections. Pixels without any
    connection stay white. The colours are logarithmic when the densities span more than a factor
    of ten. A matrix of no more than ``max_pixels`` rows and columns is drawn cell by cell.

    Args:
        pattern: the connections, on any device.
        ax: matplotlib axes to draw in; None makes a figure of its own.
        max_pixels: largest number of pixels on either side.
        cmap: matplotlib colour map for densities above zero; None takes a part of viridis that
            stands out from white, is perceptually uniform and safe for colour-blind readers.
        title: text above the axes; None states shape, nnz and density, "" leaves it out.
        colorbar: whether to put the scale of the densities beside the picture.

    Returns:
        The axes that were drawn in.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: max_pixels is no int.
        ValueError: max_pixels is less than 1.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'spy draws with matplotlib, which is not installed: pip install "torch-sparselinear[plot]"'
        ) from error
    density = density_raster(pattern, max_pixels, max_pixels).cpu()
    if ax is None:
        _, ax = plt.subplots(layout="constrained")
    out_features, in_features = pattern.shape
    ax.set(xlabel=f"inputs ({in_features:,})", ylabel=f"outputs ({out_features:,})")
    ax.set_title(_summary(pattern) if title is None else title)
    if density.numel():
        _paint(ax, density, pattern.shape, cmap, colorbar)
    else:
        ax.set(xticks=[], yticks=[])
    return ax


def _paint(
    ax: Axes, density: Tensor, shape: tuple[int, int], cmap: str | Colormap | None, colorbar: bool
) -> None:
    out_features, in_features = shape
    image = ax.imshow(
        density.where(density > 0, torch.nan).numpy(),
        cmap=_default_cmap() if cmap is None else cmap,
        norm=_norm(density),
        extent=(-0.5, in_features - 0.5, out_features - 0.5, -0.5),  # index k is read at tick k
        aspect="auto",
        interpolation="none",
    )
    box = min(max(out_features / in_features, FLATTEST), 1 / FLATTEST)
    ax.set_box_aspect(box)
    _index_ticks(ax, shape)
    if colorbar and density.shape != shape and density.any():  # one cell a pixel: the only density is 1
        beside = ax.inset_axes((1.0 + 0.03 * max(1.0, box), 0.0, 0.04 * max(1.0, box), 1.0))
        ax.figure.colorbar(image, cax=beside, label="density")


def _index_ticks(ax: Axes, shape: tuple[int, int]) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if max(shape) <= OUTLINED:
        ax.set_xticks([column - 0.5 for column in range(shape[1] + 1)], minor=True)
        ax.set_yticks([row - 0.5 for row in range(shape[0] + 1)], minor=True)
        ax.grid(which="minor", color="0.8", linewidth=0.8)
        ax.tick_params(which="minor", length=0)


def _default_cmap() -> Colormap:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    # Above 0.75 viridis is too light to be told from the white of empty pixels.
    return ListedColormap(colormaps["viridis"](torch.linspace(0.75, 0.0, 256).numpy()), name="density")


def _norm(density: Tensor) -> Normalize:
    from matplotlib.colors import LogNorm, Normalize

    present = density[density > 0]
    if not present.numel():
        return Normalize(0.0, 1.0)
    low, high = present.min().item(), present.max().item()
    return LogNorm(low, high) if high > 10 * low else Normalize(0.0, high)


def _summary(pattern: SparsityPattern) -> str:
    out_features, in_features = pattern.shape
    share = f"{pattern.density:.3g}" if pattern.nnz else "0"
    return f"{out_features:,} x {in_features:,}, {pattern.nnz:,} connections, density {share}"


def pixel_edges(cells: int, pixels: int) -> list[int]:
    """First row (or column) of each pixel, and the end of the last: ceil(pixel * cells / pixels)."""
    return [-(-pixel * cells // pixels) for pixel in range(pixels + 1)] if pixels else [0]


def _pixels(argument: str, value: int) -> int:
    number = checks.size(argument, value)
    if number < 1:
        raise ValueError(checks.message(argument, "at least 1 pixel", str(number)))
    return number
