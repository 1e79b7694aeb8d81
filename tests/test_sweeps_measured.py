"""A measured cell: kept to the last digit, compared, and scaled to what another cell would take."""

from __future__ import annotations

import json

import pytest
from sweeps import FakeProfile, full, timing

from sparselinear.profiling import Cell, Measured
from sparselinear.profiling.sweeps.measured import Taken, predicted_s


def test_a_cell_survives_the_journal() -> None:
    profile = FakeProfile(other_cores=4.0)(
        full(10, 9), batch=3, baselines="dense,csr", rounds=5, progress=None
    )
    found = Measured.of(Cell(10, 9, 1.0, 3), profile, 1 / 3)
    assert found.disturbed
    assert found.systems["dense"].times["step"] == profile.rows[1].step
    told = json.loads(json.dumps(found.to_dict()))
    assert Measured.from_dict(told) == found
    assert told["nnz"] == 90


def test_prediction_scales_with_the_work() -> None:
    """Sparse takes 1 s and dense 4 s in a cell that took 50 s; a round is then a tenth of a cell."""
    cell = Cell(100, 100, 0.01, 8)
    systems = {
        name: Taken("measured", 1, {"forward": None, "step": timing(s), "adam": None}, {})
        for name, s in (("sparselinear", 1.0), ("dense", 4.0))
    }
    found = Measured(cell, 50.0, False, systems)
    assert predicted_s(cell, [found]) == pytest.approx(50)
    assert predicted_s(Cell(100, 100, 0.02, 8), [found]) == pytest.approx(10 * (2 + 4))
    assert predicted_s(Cell(100, 100, 0.01, 16), [found]) == pytest.approx(10 * (2 + 8))
    assert predicted_s(Cell(200, 100, 0.01, 8), [found]) == pytest.approx(10 * (2 + 8))
    assert predicted_s(Cell(100, 100, 0.0001, 8), [found]) == pytest.approx(
        10 * (0.02 + 4)
    )  # shortest sample
    near = Measured(Cell(100, 100, 0.02, 8), 7.0, False, systems)
    assert predicted_s(Cell(100, 100, 0.02, 8), [found, near]) == pytest.approx(7)
    assert predicted_s(cell, []) is None
