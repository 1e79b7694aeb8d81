"""The report as a text: its numbers are the profile's, nothing is loaded, nothing from outside is markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.sparse as sp
from costs import known_rates, workload
from test_profiling_table import example, row_of

from sparselinear import interop
from sparselinear.profiling import BASELINES, Portrait, Profile, Roofs, Row, render_html
from sparselinear.profiling.cost import conclude
from sparselinear.profiling.machine import Cache, Gpu
from sparselinear.profiling.memory import Peak
from sparselinear.profiling.report.memory import TERMS, terms

MATRIX = sp.random_array((2233, 11876), density=0.00177, format="csr", rng=np.random.default_rng(0))


def full(**changes: object) -> Profile:
    """A profile with a picture, caches, a system that does not fit and one that was refused."""
    found = example(
        row_of("sparselinear", 2.0, 10**8),
        row_of("dense", 50.0),
        Row(
            "masked",
            "b",
            "weight * mask",
            "too large",
            BASELINES["masked"].bytes(example().sizes),
            4 * 10**12,
        ),
        row_of("csr", 9.87),
    )
    machine = replace(
        found.machine, caches=(Cache("L1d", 48 << 10, 1), Cache("L2", 2 << 20, 2)), blas="A BLAS"
    )
    portrait = Portrait.of(interop.to_pattern(MATRIX))
    options = {"portrait": portrait, "measured_at": "2026-01-02T03:04:05+00:00", **changes}
    return replace(found, machine=machine, **options)  # type: ignore[arg-type]


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, tables by their keys, texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[dict[str, str]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._keys: list[str] = []
        self._values: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "table":
            self.tables.append([])
            self._keys = []
        elif tag == "tr":
            self._values = []
        elif "data-key" in found:
            self._keys.append(found["data-key"] or "")
        elif "data-value" in found:
            self._values.append(found["data-value"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr" and self._values:
            self.tables[-1].append(dict(zip(self._keys, self._values, strict=True)))

    def handle_data(self, data: str) -> None:
        (self.scripts if self.tags and self.tags[-1][0] == "script" else self.texts).append(data)

    def attributes(self, tag: str, name: str) -> list[str]:
        return [found[name] or "" for kind, found in self.tags if kind == tag and name in found]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def test_times_are_those_of_the_profile() -> None:
    profile = full()
    times, _ = Page(render_html([profile])).tables
    assert [line["system"] for line in times] == [row.name for row in profile.rows]
    for line, row in zip(times, profile.rows, strict=True):
        ratios = profile.versus_dense(row)
        for kind, timing in row.times.items():
            if timing is None:
                assert line[f"{kind}_median_ms"] == line[f"{kind}_half_iqr_ms"] == ""
                continue
            first, third = timing.quartiles_s
            assert float(line[f"{kind}_median_ms"]) == timing.median_s * 1e3
            assert float(line[f"{kind}_half_iqr_ms"]) == (third - first) / 2 * 1e3
            assert float(line[f"{kind}_times_as_fast_as_dense"]) == ratios[kind]


def test_memory_is_that_of_the_profile() -> None:
    profile = full()
    _, memory = Page(render_html([profile])).tables
    for line, row in zip(memory, profile.rows, strict=True):
        told = {key: int(line[f"{key}_bytes"]) for key, *_ in TERMS}
        assert told == terms(profile, row)
        assert sum(told.values()) == int(line["needed_bytes"]) == row.needed_bytes
        ledger = row.ledger
        kept = told["values"] + told["mask"] + told["indices"] + told["transpose"]
        assert kept == ledger.resident_bytes
        assert kept + told["gradients"] + told["optimizer"] == ledger.total_bytes
        assert told["activations"] == 256 * (2233 + 11876) * 4
        assert line["peak_bytes"] == ("" if row.peak is None else str(row.peak.peak_bytes))


def test_what_was_measured_and_on_what() -> None:
    text = Page(render_html([full()])).text
    for said in (
        "2,233 x 11,876",
        "46,939",
        full().verdict.text,
        "masked: not tried, it would need 4.00 TB and 20.0 GB can be used.",
        "too large, would need 4.00 TB",
        "csr: Adam refused; torch says: unsupported tensor layout: SparseCsr.",
        "torch: because",
        "float32 on cpu, batch 256",
        "7, the systems in turn",
        "2026-01-02 03:04:05+00:00",
        "A processor, AVX512",
        "4 logical cores; threads of torch: 2",
        "L1d 48 KiB a core; L2 2 MiB for 2 cores",
        "24.0 GB free, 20.0 GB could be used by a system",
        "kept 0.1 cores busy meanwhile",
        "torch 2.13.0, A BLAS, Python 3.11.7",
        "Linux x86_64",
        "2.00 ms ±0.15, 25.0x",
    ):
        assert said in text
    degrees = np.diff(MATRIX.indptr)
    assert f"{degrees.mean():.1f}" in text
    assert f"{int((degrees == 0).sum()):,}" in text


def test_a_gpu_is_told() -> None:
    gpu = Gpu(150 * 10**9, 132, 60 << 20, "580.1.2", "13.0", "", "highest")
    profile = example()
    text = Page(render_html([replace(profile, machine=replace(profile.machine, gpu=gpu))])).text
    assert "132 multiprocessors, 150 GB of memory, second-level cache of 60 MiB" in text
    assert "driver 580.1.2, CUDA 13.0, dense float32 at precision 'highest'" in text


def test_what_is_not_known_is_left_out() -> None:
    ours = replace(row_of("sparselinear", 2.0), peak=Peak(reason="killed"))
    profile = example(ours, portrait=None, measured_at="", other_cores=None)
    machine = replace(profile.machine, cores=None, memory_available_bytes=None)
    page = Page(render_html([replace(profile, machine=machine)]))
    assert "sparselinear: no peak, killed." in page.text
    for absent in ("GPU", "Pattern", "Measured at", "Caches", "Other programs", " free,", "None", "nan"):
        assert absent not in page.text
    assert len(page.tables) == 2


def test_an_overview_of_several() -> None:
    first, second = full(), full(name="second.mtx", sizes=replace(full().sizes, batch=32))
    page = Page(render_html([first, second]))
    overview = page.tables[0]
    assert len(page.tables) == 5
    assert [line["name"] for line in overview] == ["example.npz", "second.mtx"]
    assert [line["batch"] for line in overview] == ["256", "32"]
    for line, profile in zip(overview, (first, second), strict=True):
        ratios = profile.versus_dense(profile.rows[0])
        assert float(line["step_median_ms"]) == 2.0
        assert float(line["step_times_as_fast_as_dense"]) == ratios["step"]
        assert float(line["total_times_less_than_dense"]) == ratios["total"]
        assert float(line["peak_times_less_than_dense"]) == ratios["peak"]
        assert (float(line["density"]), int(line["nnz"])) == (profile.density, 46939)
    targets = [f"#{name}" for name in page.attributes("h2", "id")]
    assert [link for link in page.attributes("a", "href") if link.startswith("#")] == targets[:2]


def test_all_numbers_are_in_the_page() -> None:
    profiles = [full(), full(name="</script><!-- ]]>")]
    page = Page(render_html(profiles))
    told = json.loads(page.scripts[0])
    assert told == json.loads(json.dumps([profile.to_dict() for profile in profiles]))


HOSTILE = "<script>alert(1)</script> \"x\" 'y' & <!-- $body ${title} %s {0} --> \udcff"


def test_a_file_name_is_never_markup() -> None:
    plain, hostile = render_html([full(name="name")]), render_html([full(name=HOSTILE)])
    assert [tag for tag, _ in Page(plain).tags] == [tag for tag, _ in Page(hostile).tags]
    assert HOSTILE.replace("\udcff", "?") in Page(hostile).text
    assert hostile.encode("utf-8")
    assert "alert(1)</" not in hostile


def test_no_text_from_outside_is_markup() -> None:
    row = replace(row_of("csr", 9.0), refusals=(("adam", HOSTILE),), text=HOSTILE, name=HOSTILE)
    profile = full(kernel=HOSTILE, dtype=HOSTILE, device=HOSTILE, measured_at=HOSTILE)
    machine = replace(profile.machine, processor=HOSTILE, blas=HOSTILE, system=HOSTILE)
    hostile = render_html([replace(profile, machine=machine, rows=(*profile.rows[:-1], row))])
    assert [tag for tag, _ in Page(hostile).tags] == [tag for tag, _ in Page(render_html([full()])).tags]


def test_nothing_is_loaded() -> None:
    text = render_html([full(), full()])
    assert not re.search(r"https?://|@import|<link|<iframe|<img|\bsrc\s*=|url\((?!#)", text)
    page = Page(text)
    assert {tag for tag, found in page.tags if "src" in found} == set()
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)


def test_its_size_is_bounded() -> None:
    dense = Portrait.of(
        interop.to_pattern(sp.random_array((999, 999), density=0.02, rng=np.random.default_rng(0)))
    )
    rows = [row_of(name, 2.0) for name in ("sparselinear", *BASELINES)]
    assert len(render_html([full(portrait=dense, rows=tuple(rows))])) < 350_000


@pytest.mark.parametrize(
    ("profiles", "error", "text"),
    [
        ([], ValueError, "profiles: expected at least one Profile, got none"),
        ([full(), "x.npz"], TypeError, r"profiles\[1\]: expected a Profile, got str"),
    ],
)
def test_wrong_arguments(profiles: list[Profile], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        render_html(profiles)


def test_prediction_and_roofline_are_those_of_the_profile() -> None:
    predicted = conclude(workload(2233, 11876, 46939, 256), known_rates(), "example.npz")
    profile = replace(full(), predicted=predicted, roofs=Roofs(operations_s=1e11, bytes_s=1e10))
    page = Page(render_html([profile]))
    assert predicted.change in page.text
    beside = next(table for table in page.tables if "step_predicted_ms" in table[0])
    for line, prediction in zip(beside, (predicted.sparse, predicted.dense), strict=True):
        row = profile.row(line["system"])
        assert row is not None
        assert float(line["step_predicted_ms"]) == pytest.approx(prediction.step_s * 1e3)
        measured = row.step.median_s if row.step else None
        assert line["step_median_ms"] == ("" if measured is None else repr(measured * 1e3))
        assert int(line["total_bytes"]) == prediction.total_bytes
    places = next(table for table in page.tables if "intensity" in table[0])
    assert len(places) == len(profile.roofline) >= 2
    for line, place in zip(places, profile.roofline, strict=True):
        assert line["product"] == f"{place.system} {place.product}"
        assert int(line["operations"]) == place.operations
        assert float(line["share"]) == pytest.approx(place.share)
        assert line["bound"] == place.bound
