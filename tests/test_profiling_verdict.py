"""The verdict: what is advised for which numbers, and when nothing is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_profiling_table import SIZES, example, row_of

from sparselinear.profiling import BASELINES, Profile, Row
from sparselinear.profiling.baselines import OURS
from sparselinear.profiling.memory import Peak
from sparselinear.profiling.timing import Timing

NOISY = (1.0, 1.3, 0.9, 1.1, 0.8)


def shaky(row: Row, milliseconds: float) -> Row:
    """The row with samples that go up and down, those of other rows not with them."""
    taken = Timing(tuple(1e-3 * milliseconds * part for part in NOISY), 1)
    return replace(row, forward=taken, step=taken)


def of(*steps: tuple[str, float, int]) -> Profile:
    """A profile with a time in ms and a peak in MB for each system."""
    return example(*(row_of(name, taken, megabytes * 10**6) for name, taken, megabytes in steps))


WORDS = [
    pytest.param(
        of(("sparselinear", 1, 30), ("dense", 19, 1000), ("csr", 3, 60)),
        "sparselinear",
        "Use SparseLinear: a training step takes 1/19 of dense's time and 1/33 of its memory (noise 0.0 %). "
        "The next, torch.sparse CSR, takes 3.00 times its time (noise 0.0 %).",
        id="ours is the fastest",
    ),
    pytest.param(
        of(("sparselinear", 5, 400), ("dense", 3, 100), ("hook", 4, 200), ("masked", 9, 300)),
        "hook",
        "Use nn.Linear with a mask (hook): a training step takes 80 % of SparseLinear's time and 1/2 of "
        "its memory (noise 0.0 %). For forward alone nn.Linear is faster: 75 % of hook's time (noise 0.0 %).",
        id="a masked one is the fastest of those that keep the pattern",
    ),
    pytest.param(
        of(("sparselinear", 5, 100), ("dense", 4, 100), ("hook", 6, 150)),
        "sparselinear",
        "Use SparseLinear: a training step takes 83 % of hook's time and 67 % of its memory (noise 0.0 %). "
        "nn.Linear without a mask takes 80 % of its time (noise 0.0 %), but trains the weights outside the "
        "pattern. For forward alone nn.Linear is faster: 80 % of SparseLinear's time (noise 0.0 %).",
        id="dense is faster, but not the same thing",
    ),
    pytest.param(
        of(("sparselinear", 5, 100), ("dense", 5, 100), ("hook", 6, 100)),
        "sparselinear",
        "Use SparseLinear: a training step takes 83 % of hook's time and 1.00 times its memory "
        "(noise 0.0 %). No difference seen to nn.Linear without a mask, which trains the weights outside the "
        "pattern.",
        id="dense is as fast",
    ),
    pytest.param(
        of(("sparselinear", 9, 300), ("dense", 3, 100)),
        "dense",
        "Use nn.Linear with a mask, if that costs no more than the difference: without one, a training step "
        "takes 1/3 of SparseLinear's time and 1/3 of its memory (noise 0.0 %).",
        id="dense is faster, nothing masked was measured",
    ),
    pytest.param(
        of(("sparselinear", 6, 50), ("csr", 3, 100)),
        "csr",
        "Use torch.sparse CSR: a training step takes 1/2 of SparseLinear's time (noise 0.0 %). Adam does not "
        "take its parameters.",
        id="faster, without Adam",
    ),
    pytest.param(
        of(("sparselinear", 5, 10), ("hook", 5.05, 120)),
        "sparselinear",
        "No difference seen between SparseLinear and nn.Linear with a mask (hook): their training steps "
        "differ by 1.0 %, less than the 2.0 % it takes to tell them apart (noise 0.0 %). Use SparseLinear: "
        "it takes 1/12 of hook's memory.",
        id="as fast, and smaller",
    ),
    pytest.param(
        of(("sparselinear", 5, 300), ("hook", 5, 120)),
        "hook",
        "No difference seen between SparseLinear and nn.Linear with a mask (hook): their training steps "
        "differ by 0.0 %, less than the 2.0 % it takes to tell them apart (noise 0.0 %). Use nn.Linear with "
        "a mask (hook): it takes 1/2.5 of SparseLinear's memory.",
        id="as fast, and larger",
    ),
    pytest.param(
        of(("sparselinear", 5, 100), ("hook", 5, 105)),
        None,
        "No difference seen between SparseLinear and nn.Linear with a mask (hook): their training steps "
        "differ by 0.0 %, less than the 2.0 % it takes to tell them apart (noise 0.0 %).",
        id="as fast, and as large",
    ),
    pytest.param(
        of(("sparselinear", 5, 100)),
        None,
        "Nothing that could be compared with it was measured.",
        id="alone",
    ),
]


@pytest.mark.parametrize(("profile", "use", "text"), WORDS)
def test_words(profile: Profile, use: str | None, text: str) -> None:
    assert (profile.verdict.use, profile.verdict.text) == (use, text)


def test_figures() -> None:
    verdict = of(("sparselinear", 1, 30), ("dense", 19, 1000), ("csr", 3, 60)).verdict
    for placing in (verdict.forward, verdict.step):
        assert placing is not None
        assert (placing.fastest, placing.next) == ("sparselinear", "csr")
        assert placing.difference is not None
        assert placing.difference.ratio == pytest.approx(3)
        assert placing.difference.seen
    dense = verdict.dense["step"]
    assert dense is not None
    assert dense.ratio == pytest.approx(19)
    assert verdict.memory_ratio == pytest.approx(1000 / 30)
    told = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert told["use"] == "sparselinear"
    assert told["step"]["difference"] == verdict.step.difference.to_dict()  # type: ignore[union-attr]
    assert told["dense"]["adam"]["different"] is True


def test_what_the_noise_hides_is_not_seen() -> None:
    """Medians that differ by 10 %, and samples that differ by 40 %."""
    profile = example(row_of("sparselinear", 5), shaky(row_of("hook", 5), 5.5), rounds=5)
    assert profile.verdict.use is None
    assert profile.verdict.short == "no difference"
    assert "No difference seen" in profile.verdict.text
    step = profile.verdict.step
    assert step is not None
    assert step.difference is not None
    assert step.difference.noise is not None
    assert step.difference.noise > 0.1
    assert not step.difference.seen


def test_the_rounds_in_common_decide_who_is_the_fastest() -> None:
    """Dense took more rounds, in which the machine was faster."""
    later = replace(row_of("dense", 5), step=Timing((5e-3,) * 3 + (1e-3,) * 4, 1))
    placing = example(row_of("sparselinear", 4), later).verdict.step
    assert placing is not None
    assert (placing.fastest, placing.next) == ("sparselinear", "dense")


def test_dense_that_does_not_fit() -> None:
    dense = Row("dense", "a", "nn.Linear", "too large", BASELINES["dense"].bytes(SIZES), 4 * 10**12)
    verdict = example(row_of("sparselinear", 2.0), dense, row_of("csr", 6.0)).verdict
    assert verdict.use == "sparselinear"
    assert verdict.text.startswith("Use SparseLinear: a training step takes 1/3 of torch.sparse CSR's time")
    assert "it would need 4.00 TB, and 20.0 GB can be used" in verdict.text
    assert verdict.dense == {"forward": None, "step": None, "adam": None}
    kept = dense.ledger.total_bytes / OURS.bytes(SIZES).total_bytes
    assert verdict.memory_ratio == pytest.approx(kept)
    assert example(row_of("sparselinear", 2.0), dense).verdict.use == "sparselinear"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"other_cores": 2.5}, "No verdict on time: other programs kept 2.5 of the 4 cores busy"),
        ({"rounds": 2}, "No verdict on time: the noise is known from 3 rounds on, and this is 2."),
    ],
)
def test_no_verdict_on_time(changes: dict[str, float], text: str) -> None:
    rows = row_of("sparselinear", 1, 10**6), row_of("dense", 19, 10**8)
    verdict = example(*rows, **changes).verdict
    assert verdict.text.startswith(text)
    assert verdict.text.endswith("SparseLinear takes 1/100 of dense's memory.")
    assert (verdict.use, verdict.forward, verdict.step) == (None, None, None)
    assert verdict.dense == {"forward": None, "step": None, "adam": None}
    assert verdict.short == "no verdict on time"
    assert "Use SparseLinear" not in verdict.text


def test_memory_without_peaks_is_that_of_the_ledger() -> None:
    rows = [replace(row_of(name, taken), peak=None) for name, taken in (("sparselinear", 1), ("dense", 2))]
    assert example(*rows).verdict.memory_ratio == pytest.approx(
        rows[1].ledger.total_bytes / rows[0].ledger.total_bytes
    )
    failed = [rows[0], replace(rows[1], peak=Peak(reason="killed"))]
    assert example(*failed).verdict.memory_ratio == example(*rows).verdict.memory_ratio
    for peak in (None, Peak(10**6)):  # neither holds a state of Adam that could be compared
        csr = replace(row_of("csr", 3), peak=peak)
        assert "memory" not in example(rows[0], csr).verdict.text
