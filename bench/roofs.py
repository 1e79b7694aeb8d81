"""What bounds each product of the native kernel: bytes and operations, at the rates that the probe found.

docs/roofline.md derives the counts. Bytes are those of float32 and int32.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sparselinear.kernels import build
from sparselinear.kernels.native import NativeKernel
from sparselinear.kernels.panels import WIDTHS_BACKWARD, WIDTHS_FORWARD, panel_width

FLOAT, INDEX = 4, 4  # bytes
GATHER, STREAM, MULTIPLY_ADD = "gather", "stream", "multiply-add"


@dataclass(frozen=True)
class Probe:
    """What the machine can do, as bench/probe.cpp found it; rates are those of all threads together."""

    found: dict[str, Any]

    def stream(self, total_bytes: int) -> float:
        """Bytes a second of loads in order: of the smallest set measured that holds so much."""
        sets = self.found["load"]
        fit = next((s for s in sets if s["bytes"] * self.found["threads"] >= total_bytes), sets[-1])
        return fit["median"] * 1e9

    def gather(self, level: str, row_bytes: int) -> float:
        """Bytes a second of whole rows at random places, with the pages and the prefetch that suit best."""
        row = 128 if row_bytes <= 128 else 256
        return (
            max(g["median"] for g in self.found["gather"] if (g["name"], g["row_bytes"]) == (level, row))
            * 1e9
        )

    def highest(self, level: str) -> float:
        """Bytes a second of a level, in order or at random, whichever is more."""
        every = [*self.found["load"], *self.found["gather"]]
        return max(s["median"] for s in every if s["name"] == level) * 1e9

    @property
    def peak(self) -> float:
        """Multiplications and additions a second."""
        return self.found["multiply_add"]["median"] * 1e9


def probe(threads: int, rounds: int) -> dict[str, Any]:
    """Compile and run the probe, with the compiler and for the processor that the kernels are compiled for.

    Raises:
        BuildError: there is no compiler.
        CalledProcessError: the probe does not compile or does not run.
    """
    compiler = build._compiler()
    flags = ["-O3", "-std=c++20", "-pthread", *build._native(compiler)]
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(__file__).with_name("probe.cpp"), f"{folder}/probe"
        subprocess.run([*compiler, *flags, str(source), "-o", program], check=True)
        done = subprocess.run([program, str(threads), str(rounds)], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def higher(first: Any, second: Any) -> Any:
    """Two runs of the probe as one: of each rate the higher, since other work only makes them lower."""
    if isinstance(first, dict):
        return {key: higher(value, second[key]) for key, value in first.items()}
    if isinstance(first, list):
        return [higher(a, b) for a, b in zip(first, second, strict=True)]
    return max(first, second)


@dataclass(frozen=True)
class Product:
    """One of the products: whether it multiplies by the values, and whether it yields dot products."""

    name: str
    run: Callable[[NativeKernel, Any, Tensor, Tensor, Tensor], object]
    sums: bool
    dots: bool
    by_columns: bool = True  # walks W by columns, so that values come and go through the permutation


PRODUCTS = (
    Product("forward", lambda k, p, v, x, g: k.spmm(p, v, x), True, False, by_columns=False),
    Product("transposed", lambda k, p, v, x, g: k.spmm_transposed(p, v, g), True, False),
    Product("backward", lambda k, p, v, x, g: k.backward(p, v, g, x), True, True),
    Product("sddmm", lambda k, p, v, x, g: k.sddmm(p, g, x), False, True),
)


@dataclass(frozen=True)
class Work:
    """What a product has to move and to compute.

    Attributes:
        width: samples in a panel.
        panels: how many there are.
        panel_bytes: size of one.
        level: where the rows of a panel are loaded from.
        gathered: bytes of these loads.
        streamed: bytes of everything else, each array as often as it is gone through.
        arrays: bytes of everything else, each array once: tells in which level they can lie.
        flops: multiplications and additions.
        results: bytes of the tensors that a call makes.
    """

    width: int
    panels: int
    panel_bytes: int
    level: str
    gathered: int
    streamed: int
    arrays: int
    flops: int
    results: int

    def limits_s(self, probe: Probe) -> dict[str, float]:
        """Least seconds, for each of the three by itself."""
        return {
            GATHER: self.gathered / probe.gather(self.level, self.width * FLOAT),
            STREAM: self.streamed / probe.stream(self.arrays),
            MULTIPLY_ADD: self.flops / probe.peak,
        }


def work(product: Product, shape: tuple[int, int], nnz: int, batch: int, probe: Probe) -> Work:
    """Bytes and operations of a product of W of this shape, for batches that fill a vector or more."""
    rows, features = shape[::-1] if product.by_columns else shape  # features are gathered
    width = _width(product, batch, features, nnz, probe.found)
    panels, panel_bytes = ceil_div(batch, width), features * width * FLOAT
    values = nnz * FLOAT
    # Gone through for each panel: indices, offsets, values. The dot products are written for the first
    # panel, and read and written for each further one.
    pattern = nnz * INDEX + (rows + 1) * INDEX + product.sums * values
    dots = product.dots * values
    activations = batch * FLOAT * (features + rows * (product.sums + product.dots))
    # The permutation and values are read, and values written, on the way in and on the way out.
    passes = product.by_columns * (product.sums + product.dots)
    return Work(
        width=width,
        panels=panels,
        panel_bytes=panel_bytes,
        level="L2" if panel_bytes <= probe.found["l2_bytes"] else "LLC",
        gathered=nnz * batch * FLOAT,
        streamed=panels * pattern
        + (2 * panels - 1) * dots
        + activations
        + passes * (nnz * INDEX + 2 * values),
        arrays=pattern + dots + activations + passes * values + product.by_columns * nnz * INDEX,
        flops=2 * (product.sums + product.dots) * nnz * batch,
        results=product.sums * batch * rows * FLOAT + dots,
    )


def _width(product: Product, batch: int, features: int, nnz: int, found: dict[str, Any]) -> int:
    widths = WIDTHS_BACKWARD if product.dots else WIDTHS_FORWARD
    sizes = {"vector_bytes": found["vector_bytes"], "cache_bytes": found["l2_bytes"]}
    return panel_width(batch, features, nnz, FLOAT, widths, **sizes)


@dataclass(frozen=True)
class Bar:
    """A product reaches at least this share of what the highest bandwidth of a level allows its gather.

    In the fused backward too each connection loads its part of a panel once, for two multiply-adds.
    """

    product: str
    cell: str
    level: str
    least: float


BARS = (
    Bar("forward", "4096 x 4096, 10.0%, batch 256", "L2", 0.65),
    Bar("backward", "4096 x 4096, 10.0%, batch 256", "L2", 0.45),
    Bar("forward", "200,000 x 200,000, 20 a row, batch 32", "LLC", 0.50),
)


def ceil_div(a: int, b: int) -> int:
    """The least integer that is not below a / b."""
    return -(-a // b)
