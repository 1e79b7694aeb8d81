"""The rounds of a profile: turns, and more of them for what is close."""

from __future__ import annotations

from typing import Any

import pytest
import scipy.sparse as sp
from test_profiling_compare import _short, quick  # noqa: F401  the fixture is for each test here too

from sparselinear import SparseLinear
from sparselinear.profiling import BASELINES, timing
from sparselinear.profiling.baselines import System

pytestmark = pytest.mark.usefixtures("one_thread")


def scripted(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, list[float]]) -> list[str]:
    """Turns that take no time but yield these samples, over and over; returns who took a turn."""
    turns: list[str] = []

    def turn(subject: timing.Subject) -> None:
        name = subject.system.name
        number, script = len(subject.samples["step"]), seconds[name]
        subject.samples["forward"].append(seconds["sparselinear"][0] * (1 + (name != "sparselinear")))
        subject.samples["step"].append(script[number % len(script)])
        subject.repeats.update(forward=1, step=1)
        turns.append(name)

    def warm_up(subject: timing.Subject) -> None:
        subject.samples.update(forward=[], step=[])

    monkeypatch.setattr(timing.Subject, "turn", turn)
    monkeypatch.setattr(timing.Subject, "warm_up", warm_up)
    return turns


def test_what_is_close_takes_more_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    shaky = [1.0, 1.3, 0.8, 1.2, 0.9]
    turns = scripted(monkeypatch, {"sparselinear": [1.0], "hook": shaky, "masked": [4.0], "dense": [0.5]})
    told: list[tuple[int, int, str, str]] = []
    found = quick(
        rounds=5, peak=False, baselines="dense,masked,hook", progress=lambda *step: told.append(step)
    )
    assert turns[:20] == ["sparselinear", "dense", "masked", "hook"] * 5
    assert turns[20:] == ["sparselinear", "hook"] * 10  # three times as many as were asked for, and no more
    assert [done for done, *_ in told] == list(range(4 + 20 + 20))
    assert told[-1][:3] == (43, 44, "timing again what is close")
    steps = {row.name: len(row.step.samples_s) for row in found.rows if row.step}
    assert steps == {"sparselinear": 15, "dense": 5, "masked": 5, "hook": 15}
    assert found.rounds == 5


def test_more_rounds_end_when_the_difference_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first five are shaky; from then on the hook takes 1.2 times as long each time."""
    hook = [1.0, 1.5, 0.8, 1.2, 1.3, *[1.2] * 10]
    turns = scripted(monkeypatch, {"sparselinear": [1.0], "hook": hook})
    found = quick(rounds=5, peak=False, baselines="hook")
    assert turns == ["sparselinear", "hook"] * 10
    assert found.verdict.use == "sparselinear"


@pytest.mark.parametrize("steps", [[2.0], [1.01]], ids=["far", "as close as makes no difference"])
def test_what_is_certain_takes_no_more_rounds(steps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    turns = scripted(monkeypatch, {"sparselinear": [1.0], "hook": steps})
    quick(rounds=5, peak=False, baselines="hook")
    assert turns == ["sparselinear", "hook"] * 5


def test_systems_that_do_not_fit_together_are_built_for_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def noting(system: System) -> System:
        def make(layer: SparseLinear) -> Any:
            built.append(system.name)
            return system.make(layer)

        return System(system.name, system.letter, system.text, make, system.bytes)

    for name in ("dense", "hook"):
        monkeypatch.setitem(BASELINES, name, noting(BASELINES[name]))
    wide = sp.eye_array(400, format="csr")
    dense_bytes = 400 * 400 * 4
    quick(wide, baselines="dense,hook", rounds=2)
    assert built == ["dense", "hook"]
    built.clear()
    found = quick(wide, baselines="dense,hook", rounds=2, memory_bytes=int(7.5 * dense_bytes))
    assert built == ["dense", "hook"] * 3  # the warm-up, and two rounds that take turns
    assert all(row.status == "measured" for row in found.rows)
