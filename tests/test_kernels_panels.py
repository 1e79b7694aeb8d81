"""Width of panels, passes of backward, where zeros are multiplied: the rules of csrc/rules.h by hand."""

from __future__ import annotations

import re
from math import ceil, inf
from pathlib import Path

import pytest

from sparselinear import kernels
from sparselinear.kernels.panels import (
    WIDTHS_BACKWARD,
    WIDTHS_FORWARD,
    Widths,
    panel_width,
    tile_panels,
    two_passes_from,
    zeros_from,
)

CSRC = Path(kernels.__file__).parent / "csrc"
CASES = [  # batch, features, itemsize, widths, vector_bytes, KiB of cache, samples, reason
    (256, 100, 4, WIDTHS_FORWARD, 64, 2048, 64, "the widest: four vectors of 16"),
    (256, 4096, 4, WIDTHS_FORWARD, 64, 2048, 64, "half of the cache, to the byte"),
    (256, 4097, 4, WIDTHS_FORWARD, 64, 2048, 32, "one feature more"),
    (256, 8192, 4, WIDTHS_FORWARD, 64, 2048, 32, "half of the cache again"),
    (256, 8193, 4, WIDTHS_FORWARD, 64, 2048, 16, "one vector"),
    (256, 8193, 4, WIDTHS_BACKWARD, 64, 2048, 32, "two vectors at least, backward"),
    (256, 16_384, 4, WIDTHS_BACKWARD, 64, 2048, 32, "two vectors, and all of the cache, backward"),
    (256, 16_385, 4, WIDTHS_BACKWARD, 64, 2048, 64, "beyond it, backward: four"),
    (256, 32_768, 4, WIDTHS_FORWARD, 64, 2048, 16, "one vector, and all of the cache"),
    (256, 32_769, 4, WIDTHS_FORWARD, 64, 2048, 32, "beyond it, forward: two vectors"),
    (80, 100, 4, WIDTHS_FORWARD, 64, 2048, 48, "two panels, evenly filled, not 64 and 16"),
    (65, 100, 4, WIDTHS_FORWARD, 64, 2048, 48, "33 samples are three vectors"),
    (17, 100, 4, WIDTHS_FORWARD, 64, 2048, 32, "a sample above a vector"),
    (16, 100, 4, WIDTHS_FORWARD, 64, 2048, 16, "a vector"),
    (15, 100, 4, WIDTHS_FORWARD, 64, 2048, 16, "below a vector: the next power of two"),
    (5, 10**6, 4, WIDTHS_FORWARD, 64, 2048, 8, "however many features"),
    (3, 100, 4, WIDTHS_FORWARD, 64, 2048, 4, "four at least"),
    (1, 100, 4, WIDTHS_FORWARD, 64, 2048, 1, "but for one sample"),
    (256, 4096, 8, WIDTHS_FORWARD, 64, 2048, 32, "float64: twice the bytes"),
    (256, 100, 8, WIDTHS_FORWARD, 64, 2048, 32, "float64: four vectors of 8"),
    (7, 100, 8, WIDTHS_FORWARD, 64, 2048, 8, "float64, below a vector"),
    (256, 100, 4, WIDTHS_FORWARD, 32, 1024, 32, "AVX2: four vectors of 8"),
    (256, 8192, 4, WIDTHS_FORWARD, 32, 1024, 32, "AVX2: no fewer than four, up to all of the cache"),
    (256, 8193, 4, WIDTHS_FORWARD, 32, 1024, 16, "AVX2, beyond it, forward: two vectors"),
    (256, 16_384, 4, WIDTHS_FORWARD, 32, 1024, 16, "AVX2, two vectors fill the cache"),
    (256, 16_385, 4, WIDTHS_FORWARD, 32, 1024, 32, "AVX2, nor do two fit: four again"),
    (256, 98_304, 4, WIDTHS_FORWARD, 32, 1024, 32, "AVX2, four vectors in twelve caches"),
    (256, 98_305, 4, WIDTHS_FORWARD, 32, 1024, 16, "AVX2, very many features: two vectors"),
    (256, 8193, 4, WIDTHS_BACKWARD, 32, 1024, 32, "AVX2, beyond it, backward: four"),
    (256, 100, 8, WIDTHS_FORWARD, 16, 1024, 8, "NEON, float64: four vectors of 2"),
    (3, 100, 8, WIDTHS_FORWARD, 16, 1024, 4, "NEON, float64: two vectors of 2 for three samples"),
    (2, 100, 8, WIDTHS_FORWARD, 16, 1024, 2, "NEON, float64: one vector of 2"),
    (256, 30_000, 4, WIDTHS_FORWARD, 16, 1024, 8, "NEON, beyond the cache: two vectors of 4"),
    (256, 50_000, 4, WIDTHS_FORWARD, 16, 1024, 16, "NEON, far beyond it: four"),
]


@pytest.mark.parametrize("case", CASES, ids=[str(case[-1]) for case in CASES])
def test_width(case: tuple[int, int, int, Widths, int, int, int, str]) -> None:
    batch, features, itemsize, widths, vector, cache, samples, _ = case
    sizes = {"vector_bytes": vector, "cache_bytes": cache << 10}
    assert panel_width(batch, features, 63 * features, itemsize, widths, **sizes) == samples


@pytest.mark.parametrize(
    ("batch", "features", "times", "widths", "samples"),
    [
        (33, 8192, 63, WIDTHS_FORWARD, 32),  # two panels of two vectors
        (33, 8192, 64, WIDTHS_FORWARD, 48),
        (48, 8192, 64, WIDTHS_BACKWARD, 48),
        (32, 8192, 64, WIDTHS_FORWARD, 32),  # fills one panel
        (49, 8192, 64, WIDTHS_FORWARD, 32),  # does not fit in one
        (48, 10_922, 64, WIDTHS_BACKWARD, 48),
        (48, 10_923, 64, WIDTHS_BACKWARD, 32),  # the cache does not hold three vectors
        (48, 40_000, 1, WIDTHS_FORWARD, 48),  # it does not hold two
        (17, 16_384, 64, WIDTHS_FORWARD, 32),
        (80, 100, 64, WIDTHS_FORWARD, 48),  # five vectors are none
        (256, 16_384, 255, WIDTHS_FORWARD, 16),
        (256, 16_384, 256, WIDTHS_FORWARD, 32),  # two vectors in all of the cache
        (256, 16_385, 256, WIDTHS_FORWARD, 16),
        (256, 16_384, 256, WIDTHS_BACKWARD, 32),
        (256, 100, 256, WIDTHS_FORWARD, 64),
    ],
)
def test_rows_read_often(batch: int, features: int, times: int, widths: Widths, samples: int) -> None:
    sizes = {"vector_bytes": 64, "cache_bytes": 2 << 20}
    assert panel_width(batch, features, times * features, 4, widths, **sizes) == samples


@pytest.mark.parametrize(("times", "samples"), [(63, 16), (64, 32)])
def test_short_vectors_of_rows_read_often(times: int, samples: int) -> None:
    sizes = {"vector_bytes": 32, "cache_bytes": 1 << 20}
    assert panel_width(256, 10_000, times * 10_000, 4, WIDTHS_FORWARD, **sizes) == samples


@pytest.mark.parametrize("batch", [2, 7, 16, 31, 80, 100, 1000])
@pytest.mark.parametrize("features", [10, 5000, 20_000, 50_000])
def test_panels_are_whole_vectors_and_hold_the_batch(batch: int, features: int) -> None:
    """No panel stands empty, and the same number of panels would not do with a vector less."""
    width = panel_width(batch, features, 0, 4, WIDTHS_FORWARD, vector_bytes=64, cache_bytes=2 << 20)
    panels = ceil(batch / width)
    assert batch <= panels * width < batch + (16 if batch > 16 else 17) * panels
    assert width % 16 == 0 or width in (4, 8)


@pytest.mark.parametrize(
    ("batch", "itemsize", "nnz", "two"),
    [
        (1, 4, 100, True),
        (32, 4, 100, True),
        (33, 4, 100, False),
        (17, 8, 100, False),
        (64, 4, 1 << 20, True),
        (65, 4, 1 << 20, False),
        (64, 4, (1 << 20) - 1, False),
        (32, 8, 1 << 20, True),
        (33, 8, 1 << 20, False),
    ],
)
def test_passes(batch: int, itemsize: int, nnz: int, two: bool) -> None:
    """Two lines of the cache are 32 samples, or 16 of float64; it is four where there are 4 MiB of values."""
    assert (nnz >= two_passes_from(batch, itemsize, 4096)) == two
    assert (nnz >= two_passes_from(batch, itemsize, 4097)) == (two and batch * itemsize <= 128)


@pytest.mark.parametrize(
    ("batch", "rows", "columns", "itemsize", "vector", "density"),
    [
        (256, 4096, 4096, 4, 32, 0.45),  # 8 panels
        (64, 4096, 4096, 4, 32, 0.6),  # 2 panels
        (63, 4096, 4096, 4, 32, inf),
        (65, 4096, 4096, 4, 32, 0.4 * 4 / 3),
        (64, 4096, 4096, 8, 32, 0.5),  # float64: 4 panels
        (128, 4096, 4096, 4, 64, 0.6),
        (127, 4096, 4096, 4, 64, inf),
        (256, 32, 32, 4, 32, 0.45),
        (256, 31, 32, 4, 32, inf),
        (256, 32, 31, 4, 32, inf),
    ],
)
def test_zeros(batch: int, rows: int, columns: int, itemsize: int, vector: int, density: float) -> None:
    found = zeros_from(batch, rows, columns, itemsize, vector_bytes=vector)
    assert found == pytest.approx(density)


@pytest.mark.parametrize(
    ("batch", "features", "itemsize", "panels"),
    [
        (512, 4096, 4, 1),
        (513, 4096, 4, 2),
        (512, 10_912, 4, 1),  # 32 MiB hold 512 samples of it
        (512, 10_913, 4, 2),
        (512, 16_384, 2, 1),
        (512, 16_385, 2, 2),
        (70, 200_003, 4, 3),  # 32 samples are the least
        (70, 10_000_000, 4, 3),
    ],
)
def test_panels_of_tiles(batch: int, features: int, itemsize: int, panels: int) -> None:
    assert tile_panels(batch, features, itemsize) == panels


def test_the_rule_is_that_of_the_sources() -> None:
    """Constants of csrc that panels.py repeats."""
    text = (CSRC / "rules.h").read_text(encoding="utf-8")
    for name, widths in (("kForward", WIDTHS_FORWARD), ("kBackward", WIDTHS_BACKWARD)):
        found = re.search(name + r"{kVectorBytes < kLine \? (\d) : (\d), (\d), \d+, (?:true|false)}", text)
        assert found is not None
        short, line, far = map(int, found.groups())
        assert (line, short, far) == widths
    assert "kMost = 4;" in text
    assert "while (vectors > fewest && bytes(vectors) > cache / 2) vectors /= 2;" in text
    assert "far = bytes(vectors) > cache;" in text
    assert "if (far && !wide) vectors = widths.far;" in text
    assert "wide = kVectorBytes < kLine && (bytes(2) <= cache ? nnz >= kManyTimes * features" in text
    assert ": bytes(kMost) <= kSeveralCaches * cache);" in text
    assert "kManyTimes = 64, kVeryManyTimes = 256, kSeveralCaches = 12;" in text
    assert "pairs = bytes(2) <= cache && nnz >= kVeryManyTimes * features;" in text
    assert "fewest = std::max<int64_t>(widths.fewest, pairs ? 2 : 1);" in text
    assert "one = far || (bytes(vectors + 1) <= cache && nnz >= kManyTimes * features);" in text
    assert "if (one && vectors < kMost && ceil_div(batch, N) == vectors + 1) return vectors + 1;" in text
    assert "kMany = 4 << 20, kLongColumn = 256;" in text
    assert "return batch * kSize <= (many ? 4 : 2) * kLine;" in text
    assert "kDense = 0.4;" in text
    assert "kFewestRows = 32, kFewestPanels = 2;" in text
    assert "nnz() * panels > kDense * (panels + 1) * entries;" in text
    assert "kDenseWidth = 4 * kLanes<A>;" in (CSRC / "dense_vectors.h").read_text(encoding="utf-8")
    pieces = "return degree < 32 ? 2 : degree < 128 ? 4 : 8;"
    assert pieces in (CSRC / "scatter.h").read_text(encoding="utf-8")
    text = (CSRC / "strips.h").read_text(encoding="utf-8")
    assert "kPair = 2 * kTile;" in text
    assert "kMostSamples = 512, kPanelBytes = int64_t{32} << 20;" in text
    assert "kTile = 16," in (CSRC / "parts.h").read_text(encoding="utf-8")
