"""The tables: numbers as people read them, and lines that fit a narrow terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from costs import known_rates, workload
from rich.console import Console

from sparselinear.profiling import BASELINES, Profile, Roofs, Row, Sizes, figures, render, table
from sparselinear.profiling.baselines import OURS
from sparselinear.profiling.cost import conclude
from sparselinear.profiling.machine import Machine
from sparselinear.profiling.memory import Peak
from sparselinear.profiling.timing import Timing

SIZES = Sizes(2233, 11876, 46939, True, 4, 4, 256)


def timing(milliseconds: float) -> Timing:
    return Timing((0.9e-3 * milliseconds, 1e-3 * milliseconds, 1.2e-3 * milliseconds), 1)


def row_of(name: str, milliseconds: float, peak: int = 10**9) -> Row:
    system = BASELINES.get(name, OURS)
    taken = timing(milliseconds)
    return Row(
        name,
        system.letter,
        system.text,
        "measured",
        system.bytes(SIZES),
        10**9,
        forward=taken,
        step=taken,
        adam=None if system.adam_refusal else taken,
        refusals=(("adam", system.adam_refusal),) if system.adam_refusal else (),
        peak=Peak(peak),
    )


def example(*rows: Row, **changes: object) -> Profile:
    machine = Machine("A processor", 4, "AVX512", 2, 24 * 10**9, "2.13.0", "3.11.7", "Linux x86_64")
    found = Profile(
        name="example.npz",
        sizes=SIZES,
        density=0.00177,
        dtype="float32",
        device="cpu",
        rounds=7,
        kernel="torch: because",
        machine=machine,
        other_cores=0.1,
        limit_bytes=20 * 10**9,
        rows=rows or (row_of("sparselinear", 2.0, 10**8), row_of("dense", 50.0), row_of("csr", 9.87)),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def shown(profile: Profile, width: int = 80) -> str:
    stream = io.StringIO()
    render(profile, Console(file=stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (99_949, "99.9 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (106_000_000, "106 MB"),
        (24 * 10**12, "24.0 TB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_quantity(number: int, text: str) -> None:
    assert figures.quantity(number) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "—"), (1, "1.00x"), (12.34, "12.3x"), (592.4, "592x"), (0.654, "0.65x"), (0.0123, "0.012x")],
)
def test_ratio(value: float | None, text: str) -> None:
    assert figures.ratio(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0526, "1/19 of"),
        (0.1, "1/10 of"),
        (0.294, "1/3.4 of"),
        (0.5, "1/2 of"),
        (0.77, "77 % of"),
        (0.999, "1.00 times"),
        (1.4, "1.40 times"),
        (23.4, "23.4 times"),
    ],
)
def test_share(value: float, text: str) -> None:
    assert figures.share(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "—"), (0.0123, "1.2 %"), (0.5, "50.0 %")])
def test_percent(value: float | None, text: str) -> None:
    assert figures.percent(value) == text


def test_milliseconds() -> None:
    assert figures.milliseconds(Timing((0.010, 0.012, 0.014), 1)) == "12.0 ±1.0"
    assert figures.milliseconds(Timing((0.00012,), 1)) == "0.120 ±0.000"
    assert figures.milliseconds(Timing((1.5,), 1)) == "1500 ±0"


def cells(text: str, system: str, part: str) -> list[str]:
    """Cells of a system's line below the title of a part."""
    lines = text.split(f"\n{part}", 1)[1].splitlines()
    line = next(line for line in lines if line.split()[:1] == [system])
    return re.sub(r" (±|[kMGT]?B\b|%)", r"_\1", line).split()


def test_numbers_of_a_row() -> None:
    text = shown(example())
    taken = ["2.00_±0.15", "25.0x"]
    assert cells(text, "sparselinear", "Time, ms") == ["sparselinear", *taken, *taken, "0.0_%", *taken]
    assert cells(text, "dense", "Time, ms")[4:6] == ["1.00x", "—"]
    assert cells(text, "csr", "Time, ms")[-2:] == ["refused", "—"]
    memory = cells(text, "sparselinear", "Memory")
    ledger = OURS.bytes(SIZES)
    terms = (ledger.parameters_bytes, ledger.indices_bytes + ledger.transpose_bytes, ledger.gradients_bytes)
    for term in (*terms, ledger.adam_bytes, ledger.total_bytes, 10**8):
        assert term is not None
        assert figures.quantity(term).replace(" ", "_") in memory
    assert memory[-1] == "10.0x"


def test_heading_and_outcome() -> None:
    text = shown(example())
    assert "2,233 outputs x 11,876 inputs, nnz 46,939, density 0.00177" in text
    assert "batch 256, float32, cpu, 2 threads, 7 rounds" in text
    assert "kernel torch: because" in text
    outcome = (
        "Use SparseLinear: a training step takes 1/25 of dense's time and 1/10 of its memory (noise 0.0 %)."
    )
    assert outcome in " ".join(text.split("\nVerdict\n")[1].split())
    assert "csr: Adam refused; torch says: unsupported tensor layout: SparseCsr." in text


def test_dense_that_does_not_fit() -> None:
    dense = Row("dense", "a", "nn.Linear", "too large", BASELINES["dense"].bytes(SIZES), 4 * 10**12)
    found = example(row_of("sparselinear", 2.0), dense)
    assert table.notes(found) == [
        "Use SparseLinear. Dense was not tried, as it does not fit: it would need 4.00 TB, and 20.0 GB can "
        "be used. For training SparseLinear keeps 1.41 MB, dense would keep 424 MB."
    ]
    assert " ".join(cells(shown(found), "dense", "Time, ms")).startswith("dense too large")
    assert cells(shown(found), "sparselinear", "Time, ms").count("—") == 4


def test_others_that_do_not_fit_and_more_rounds() -> None:
    masked = Row("masked", "b", "", "too large", BASELINES["masked"].bytes(SIZES), 4 * 10**12)
    close = replace(row_of("dense", 2.0), forward=Timing((0.002,) * 14, 1))
    notes = table.notes(example(row_of("sparselinear", 2.0), close, masked))
    assert "More rounds, as they were closer than the noise: dense 14." in notes
    assert "masked: not tried, it would need 4.00 TB and 20.0 GB can be used." in notes


def test_other_programs_are_mentioned_if_they_took_cores() -> None:
    said, verdict = "other programs kept 2.5 of the 4 cores busy", "Use SparseLinear"
    disturbed = "\n".join(table.notes(example(other_cores=2.5)))
    assert said in disturbed
    assert verdict not in disturbed
    for others in (1.9, 0.0, None):  # two cores were left, or it is not known
        notes = "\n".join(table.notes(example(other_cores=others)))
        assert "other programs" not in notes
        assert verdict in notes


def test_peaks_that_are_missing_or_not_exact() -> None:
    ours, dense = row_of("sparselinear", 2.0), row_of("dense", 50.0)
    found = example(replace(ours, peak=Peak(10**6, exact=False)), replace(dense, peak=Peak(reason="killed")))
    notes = "\n".join(table.notes(found))
    assert "dense: no peak, killed." in notes
    assert "* with what building took" in notes
    assert "1.00 MB*" in shown(found)


@pytest.mark.parametrize("width", [80, 124, 140])
@pytest.mark.parametrize("milliseconds", [0.0123, 123.4, 98765.4])
def test_fits_the_terminal(width: int, milliseconds: float) -> None:
    rows = [row_of(name, milliseconds) for name in ("sparselinear", *BASELINES)]
    text = shown(example(*rows), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    assert (BASELINES["masked"].text in text) == (width >= 124)


def test_prediction_and_roofline_beside_what_was_measured() -> None:
    predicted = conclude(workload(2233, 11876, 46939, 256), known_rates(), "example.npz")
    found = example(predicted=predicted, roofs=Roofs(operations_s=1e11, bytes_s=1e10))
    text = " ".join(shown(found).split())
    assert predicted.change in text
    sparse, dense = (figures.three_digits(p.step_s * 1e3) for p in (predicted.sparse, predicted.dense))
    said = f"Predicted step, and measured: sparselinear {sparse} ms (2.00 ms), dense {dense} ms (50.0 ms)."
    assert said in text
    for place in found.roofline:
        assert f"{place.system} {place.product} {100 * place.share:.0f} % ({place.bound})" in text
    assert "Predicted step" not in shown(example())
