"""Sweeps over profiles that follow a law: what is measured, kept, left out, and found."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sweeps import CROSSING, DENSE_S, FakeProfile

from sparselinear import kernels
from sparselinear.profiling import Cell, Grid, Status, compare, machine, sweep

pytestmark = pytest.mark.usefixtures("one_thread")

DENSITIES = (0.001, 0.01, 0.1, 0.3)


def grid(**changes: Any) -> Grid:
    return Grid(
        **{"sizes": [100], "densities": DENSITIES, "batches": [1, 8], "baselines": "dense", **changes}
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeProfile]:
    def put(*arguments: Any, **changes: Any) -> FakeProfile:
        made = FakeProfile(*arguments, **changes)
        monkeypatch.setattr(compare, "profile", made)
        return made

    return put


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_known_break_even_is_found(fake: Callable[..., FakeProfile]) -> None:
    asked = fake().asked
    found = sweep(grid())
    assert asked == [(nnz, batch) for nnz in (10, 3000, 100, 1000) for batch in (1, 8)]
    assert [one.cell for one in found.measured] == [Cell(100, 100, d, b) for d in DENSITIES for b in (1, 8)]
    assert found.skipped == ()
    for kind in ("step", "forward"):
        for curve in found.break_evens(kind):
            (met,) = curve.crossings
            assert met.density == pytest.approx(CROSSING)
            factor = (1.01 / 0.99) ** 2  # the noise of both, through a slope of one half
            assert (met.low, met.high) == pytest.approx((CROSSING / factor, CROSSING * factor))
    assert [(one.baseline, one.batch) for one in found.break_evens()] == [("dense", 1), ("dense", 8)]
    assert found.at(Cell(100, 100, 0.1, 8)) is found.measured[5]
    assert found.at(Cell(100, 100, 0.2, 8)) is None


def test_the_density_compared_is_of_whole_connections(fake: Callable[..., FakeProfile]) -> None:
    fake()
    found = sweep(Grid(sizes=[3], densities=[0.2], batches=[1], baselines="dense"))
    assert [point.density for point in found.break_evens()[0].points] == [2 / 9]


def test_to_dict_is_json(fake: Callable[..., FakeProfile]) -> None:
    fake()
    told = json.loads(json.dumps(sweep(grid()).to_dict(), allow_nan=False))
    assert [cell["nnz"] for cell in told["measured"]] == [10, 10, 100, 100, 1000, 1000, 3000, 3000]
    assert told["break_even"][0]["crossings"][0]["density"] == pytest.approx(CROSSING)
    assert told["measured"][0]["systems"]["dense"]["step"]["median_s"] == DENSE_S
    assert told["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupted_in_a_cell(
    tmp_path: Path, fake: Callable[..., FakeProfile], error: type[BaseException]
) -> None:
    def stop(number: int) -> None:
        if number == 4:
            raise error

    path = tmp_path / "j"
    first = fake(stop).asked
    with pytest.raises(error):
        sweep(grid(), journal=path)
    second = fake().asked
    found = sweep(grid(), journal=path)
    assert first[:3] + second == [(nnz, batch) for nnz in (10, 3000, 100, 1000) for batch in (1, 8)]
    assert len(found.measured) == 8
    third = fake().asked
    again = sweep(grid(), journal=path)
    assert third == []
    assert again.measured == found.measured  # to the last digit


def test_killed_in_a_write(tmp_path: Path, fake: Callable[..., FakeProfile]) -> None:
    path = tmp_path / "j"
    fake()
    whole = sweep(grid(), journal=path)
    text = path.read_bytes()
    path.write_bytes(text[:-30])
    asked = fake().asked
    assert sweep(grid(), journal=path).break_evens() == whole.break_evens()
    assert asked == [(1000, 8)]
    assert path.read_bytes().count(b"\n") == 9


def test_fresh(tmp_path: Path, fake: Callable[..., FakeProfile]) -> None:
    path = tmp_path / "j"
    fake()
    sweep(grid(), journal=path)
    asked = fake().asked
    sweep(grid(), journal=path, fresh=True)
    assert len(asked) == 8
    assert path.read_bytes().count(b"\n") == 9


def test_journals_of_others_are_refused(
    tmp_path: Path, fake: Callable[..., FakeProfile], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    fake()
    sweep(grid(), journal=path)
    asked = fake().asked
    for changes, text in (
        ({"rounds": 9}, "rounds 5 there, 9 here"),
        ({"seed": 1}, "seed 0 there, 1 here"),
        ({"batches": [1]}, r"batches \[1, 8\] there, \[1\] here"),
        ({"baselines": "csr"}, r'baselines \["dense"\] there, \["csr"\] here'),
        ({"dtype": torch.float64}, "dtype float32 there, float64 here"),
    ):
        with pytest.raises(ValueError, match=f"which differs: {text}"):
            sweep(grid(**changes), journal=path)
    with kernels.use("torch"), pytest.raises(ValueError, match=r"kernel of batch 1 \w+ there, torch here; "):
        sweep(grid(), journal=path)
    with pytest.raises(ValueError, match="which differs: threads 1 there, 2 here"):
        sweep(grid(), journal=path, threads=2)
    monkeypatch.setattr(torch, "__version__", "9.9")
    with pytest.raises(ValueError, match=r"torch \S+ there, 9\.9 here\. Take another file"):
        sweep(grid(), journal=path)
    assert asked == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda told: told.pop("systems"),
        lambda told: told.update(batch=3),
        lambda told: told["systems"]["dense"]["step"].update(samples_s=[]),
        lambda told: told["systems"]["dense"]["step"].update(samples_s=[0.0]),
        lambda told: told["systems"].pop("dense"),
    ],
)
def test_a_line_that_is_no_cell_of_the_sweep(
    tmp_path: Path, fake: Callable[..., FakeProfile], damage: Callable[[dict[str, Any]], object]
) -> None:
    path = tmp_path / "j"
    fake()
    sweep(grid(), journal=path)
    lines = path.read_text().splitlines()
    told = json.loads(lines[3])
    damage(told)
    lines[3] = json.dumps(told)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"lines of cells of this sweep, got .*, whose line 4 is none"):
        sweep(grid(), journal=path)


def test_a_budget_leaves_the_coarse_picture(fake: Callable[..., FakeProfile], clock: Clock) -> None:
    """Each cell takes 10 s, whatever it is: after 45 s the ends are measured, and nothing more is begun."""

    def pass_time(_: int) -> None:
        clock.now += 10

    fake(pass_time)
    found = sweep(grid(), budget_s=45)
    assert [one.cell.density for one in found.measured] == [0.001, 0.001, 0.3, 0.3]
    assert clock.now == 1040
    assert [left.cell for left in found.skipped] == [
        Cell(100, 100, d, b) for d in (0.01, 0.1) for b in (1, 8)
    ]
    assert {left.reason for left in found.skipped} == {"over the budget, would take some 10 s"}
    (met,) = found.break_evens()[0].crossings
    assert met.density == pytest.approx(CROSSING)


def test_what_does_not_fit_makes_room_for_what_does(fake: Callable[..., FakeProfile], clock: Clock) -> None:
    """A large size is predicted to take too long; the small one goes on to the end."""

    def pass_time(_: int) -> None:
        clock.now += 1

    made = fake(pass_time)
    big = Grid(sizes=[100, 3000], densities=DENSITIES, batches=[64], baselines="dense")
    found = sweep(big, budget_s=10)
    assert [one.cell.size for one in found.measured] == [(100, 100)] * 4
    assert [left.cell.size for left in found.skipped] == [(3000, 3000)] * 4
    assert len(made.asked) == 4


def test_a_budget_is_that_of_one_run(tmp_path: Path, fake: Callable[..., FakeProfile], clock: Clock) -> None:
    def pass_time(_: int) -> None:
        clock.now += 10

    fake(pass_time)
    path = tmp_path / "j"
    counts = [len(sweep(grid(), journal=path, budget_s=35).measured) for _ in range(3)]
    assert counts == [3, 6, 8]


def test_a_budget_spent_before_anything(
    fake: Callable[..., FakeProfile], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(1000, 10**6))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    asked = fake().asked
    found = sweep(grid(), budget_s=0.5)
    assert asked == []
    assert {left.reason for left in found.skipped} == {"the budget was spent before anything was measured"}
    assert [curve.words for curve in found.break_evens()] == ["not measured"] * 2


def test_progress_tells_the_time_left(fake: Callable[..., FakeProfile], clock: Clock) -> None:
    def pass_time(_: int) -> None:
        clock.now += 10

    told: list[Status] = []
    fake(pass_time)
    even = grid(densities=[0.1, 0.2, 0.3, 0.4], batches=[1, 2])  # samples of all are of the shortest kind
    sweep(even, budget_s=200, progress=told.append)
    begins = told[::2]
    assert [status.done for status in begins] == list(range(8))
    assert [status.left_s for status in begins] == [
        None,
        *(pytest.approx(10 * left) for left in range(7, 0, -1)),
    ]
    assert [status.left_s for status in told[3::2]] == [pytest.approx(10 * left) for left in range(6, -1, -1)]
    assert {status.total for status in told} == {8}
    told.clear()
    sweep(even, budget_s=45, progress=told.append)
    assert told[2].left_s == 35  # the budget ends before the work does


def test_a_cell_that_fails_is_told_and_the_rest_goes_on(
    tmp_path: Path, fake: Callable[..., FakeProfile]
) -> None:
    def fail(number: int) -> None:
        if number == 2:
            raise RuntimeError("torch\n  fell over")

    path = tmp_path / "j"
    fake(fail)
    found = sweep(grid(), journal=path)
    assert [(left.cell, left.reason) for left in found.skipped] == [
        (Cell(100, 100, 0.001, 8), "torch fell over")
    ]
    assert len(found.measured) == 7
    asked = fake().asked
    assert len(sweep(grid(), journal=path).measured) == 8  # it is tried again
    assert asked == [(10, 8)]


def test_nothing_could_be_measured(fake: Callable[..., FakeProfile]) -> None:
    def fail(_: int) -> None:
        raise MemoryError

    fake(fail)
    with pytest.raises(
        RuntimeError, match=r"no cell could be measured; 100 x 100, density 0.001, batch 1: Mem"
    ):
        sweep(grid())


def test_a_pattern_that_cannot_be_drawn_is_not(fake: Callable[..., FakeProfile]) -> None:
    asked = fake().asked
    found = sweep(grid(batches=[1]), memory_bytes=100_000)
    assert [nnz for nnz, _ in asked] == [10, 100, 1000]
    (left,) = found.skipped
    assert left.reason == "its pattern needs 144,000 bytes, 100,000 bytes can be used"


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"budget_s": 0}, ValueError, "budget_s: expected seconds above 0, got 0."),
        ({"budget_s": math.inf}, ValueError, "budget_s: expected seconds above 0, got inf."),
        ({"budget_s": math.nan}, ValueError, "budget_s: expected seconds above 0, got nan."),
        ({"budget_s": "9"}, TypeError, "budget_s: expected seconds above 0, got '9'."),
        ({"budget_s": True}, TypeError, "budget_s: expected seconds above 0, got True."),
        ({"threads": 0}, ValueError, "threads: expected a whole number from 1 up, got 0."),
        ({"memory_bytes": 1.5}, TypeError, "memory_bytes: expected a whole number from 1 up, got 1.5."),
    ],
)
def test_bad_arguments(
    arguments: dict[str, Any],
    kind: type[Exception],
    text: str,
    tmp_path: Path,
    fake: Callable[..., FakeProfile],
) -> None:
    asked = fake().asked
    with pytest.raises(kind) as caught:
        sweep(grid(), journal=tmp_path / "j", **arguments)
    assert str(caught.value) == text
    assert asked == []
    assert not (tmp_path / "j").exists()


def test_systems_that_do_not_fit_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """For real: nothing dense is built, csr is measured."""
    monkeypatch.setattr("sparselinear.profiling.clock.SAMPLE_S", 0.0)
    small = Grid(sizes=[400], densities=[0.01], batches=[2], baselines="dense,csr", rounds=3)
    found = sweep(small, memory_bytes=600_000)
    (one,) = found.measured
    assert one.systems["dense"].status == "too large"
    assert one.systems["dense"].needed_bytes > 600_000
    assert one.compared("dense", "step") is None
    assert one.compared("csr", "step") is not None
    assert not any(curve.points for curve in found.break_evens() if curve.baseline == "dense")


def test_a_real_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparselinear.profiling.clock.SAMPLE_S", 0.0)
    small = Grid(torch.ones(40, 30), densities=[0.1, 1.0], batches=[2, 5], baselines="all", rounds=3)
    found = sweep(small, journal=tmp_path / "j", threads=1)
    assert found.machine == machine.describe(torch.device("cpu")) or found.machine.threads == 1
    assert [(one.cell.nnz, one.cell.batch) for one in found.measured] == [
        (120, 2),
        (120, 5),
        (1200, 2),
        (1200, 5),
    ]
    for one in found.measured:
        assert len(one.systems) == 9
        assert one.compared("dense", "step") is not None
        assert one.compared("prune-removed", "step") is None
        assert one.compared("prune-removed", "forward") is not None
    assert set(found.kernels) == {2, 5}
    assert sweep(small, journal=tmp_path / "j", threads=1).measured == found.measured
