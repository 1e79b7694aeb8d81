"""Rates: known ones are found again in times that were made from them, and what is kept is read back."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from costs import CHIP, SPARSE_RATES, known_rates, only, workload

from sparselinear.kernels import build
from sparselinear.profiling.cost import Rates, rates
from sparselinear.profiling.cost.calibrate import SPARSE_LAYERS
from sparselinear.profiling.cost.terms import FORWARD, SPARSE, STEP, Terms, terms_of

STEPS = [terms_of(SPARSE, STEP, workload(*shape), CHIP) for shape in SPARSE_LAYERS]
KNOWN = dict(SPARSE_RATES)


def seconds(terms: list[Terms], per_unit: dict[str, float]) -> list[float]:
    return [sum(per_unit[name] * count for name, count in found.items()) for found in terms]


def test_known_rates_are_found() -> None:
    """The layers that are measured tell all terms of a step apart."""
    found = rates.fit(STEPS, seconds(STEPS, KNOWN))
    assert found == pytest.approx(KNOWN, rel=1e-6)


def test_a_disturbed_point_weighs_little() -> None:
    for disturbed in range(len(STEPS)):
        measured = seconds(STEPS, KNOWN)
        measured[disturbed] *= 3
        found = seconds(STEPS, rates.fit(STEPS, measured))
        others = [i for i in range(len(STEPS)) if i != disturbed]
        errors = sorted(abs(found[i] / seconds(STEPS, KNOWN)[i] - 1) for i in others)
        assert errors[len(errors) * 3 // 4] < 0.15, disturbed


@pytest.mark.parametrize("odd_one", [3.0, 1 / 3])
def test_the_majority_counts(odd_one: float) -> None:
    """Plain least squares of the relative errors would give 1.05 and 0.54."""
    found = rates.fit([{"call": 1}] * 5, [1.0, 1.0, 1.0, 1.0, odd_one])
    assert found["call"] == pytest.approx(1, rel=0.03)


def test_noise_stays_noise() -> None:
    """Errors of 20 % in the times become errors of that order in what is predicted, and no rate negative."""
    draw = random.Random(0)
    for _ in range(20):
        measured = [true * draw.uniform(0.8, 1.2) for true in seconds(STEPS, KNOWN)]
        found = rates.fit(STEPS, measured)
        assert min(found.values()) >= 0
        predicted = seconds(STEPS, found)
        assert max(abs(a / b - 1) for a, b in zip(predicted, seconds(STEPS, KNOWN), strict=True)) < 0.5


def test_no_rate_is_negative() -> None:
    """Times that fall with a count: the count is left out, and the others are fitted without it."""
    terms = [{"call": 1, "row": row} for row in (1, 2, 3, 4)]
    found = rates.fit(terms, [4.0, 3.0, 2.0, 1.0])
    assert found["row"] == 0
    assert 1 <= found["call"] <= 4
    only_call = rates.fit([{"call": 1}] * 4, [4.0, 3.0, 2.0, 1.0])
    assert found["call"] == pytest.approx(only_call["call"])


def test_a_term_that_no_point_has() -> None:
    found = rates.fit([{"call": 1, "far": 0, "row": 2}, {"call": 1, "row": 4}], [5.0, 9.0])
    assert found == pytest.approx({"call": 1, "far": 0, "row": 2})


def test_seconds_are_a_sum() -> None:
    terms = terms_of(SPARSE, FORWARD, workload(30, 20, 90, 80), CHIP)
    expected = sum(SPARSE_RATES[name] * count for name, count in terms.items())
    assert known_rates().seconds(SPARSE, FORWARD, terms) == pytest.approx(expected, rel=1e-12)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(build._LIBRARIES[torch.float32, torch.int32], "_cache", tmp_path / "cache")
    return tmp_path / "cache"


def path(kernel: str = "native", dtype: torch.dtype = torch.float32) -> Path:
    found = rates.path_of(kernel, dtype)
    assert found is not None
    return found


@pytest.mark.usefixtures("one_thread")
def test_kept_and_read_back(folder: Path) -> None:
    assert rates.load(path()) is None
    rates.save(known_rates(), path())
    assert rates.load(path()) == known_rates()
    assert os.listdir(folder) == [path().name]  # no draft is left
    assert path().name.startswith("rates-")
    rates.save(only(sparse_call=1.0, dense_call=1.0), path())
    assert rates.load(path()) == only(sparse_call=1.0, dense_call=1.0)


@pytest.mark.usefixtures("one_thread")
def test_other_circumstances_have_another_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {path(), path("torch"), path(dtype=torch.float64), path(dtype=torch.bfloat16)}
    torch.set_num_threads(2)
    found.add(path())
    torch.set_num_threads(1)
    assert path() in found
    monkeypatch.setenv("CXXFLAGS", "-DANOTHER_BUILD")
    found.add(path())
    monkeypatch.delenv("CXXFLAGS")
    monkeypatch.setattr(rates, "_SCHEMA", rates._SCHEMA + 1)
    found.add(path())
    assert len(found) == 7
    assert {file.parent for file in found} == {folder}


def changed(**changes: Any) -> str:
    return json.dumps(known_rates().to_dict() | changes)


def with_rate(value: Any) -> str:
    kept = known_rates().to_dict()
    kept["rates"]["sparselinear"]["step"]["near"] = value
    return json.dumps(kept)


DAMAGED = {
    "empty": "",
    "cut off": changed()[:100],
    "not an object": "[1, 2]",
    "a number": "3",
    "of something else": '{"colour": "blue"}',
    "a field too many": changed(colour="blue"),
    "a field missing": json.dumps({"kernel": "native", "chip": {"vector_bytes": 64, "cache_bytes": 1}}),
    "no rates": changed(rates={}),
    "rates of one system": changed(rates={"sparselinear": known_rates().rates["sparselinear"]}),
    "rates that are a list": changed(rates=[1]),
    "a chip that is text": changed(chip="64"),
    "a chip of text": changed(chip={"vector_bytes": "64", "cache_bytes": "1"}),
    "no vectors": changed(chip={"vector_bytes": 0, "cache_bytes": 1 << 20}),
    "negative": with_rate(-1e-9),
    "a call without time": changed(rates=only(dense_call=1.0).rates),
    "not a number": with_rate(float("nan")),
    "infinite": with_rate(float("inf")),
    "text": with_rate("fast"),
    "nothing": with_rate(None),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_ignored(content: str, tmp_path: Path) -> None:
    file = tmp_path / "rates.json"
    file.write_text(content)
    assert rates.load(file) is None


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert rates.load(tmp_path / "binary") is None
    assert rates.load(tmp_path) is None  # a folder
    assert rates.load(None) is None


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    rates.save(known_rates(), tmp_path / "file" / "rates.json")  # no folder can be made there
    rates.save(known_rates(), None)

    def full(self: Path, text: str, **_: Any) -> None:
        self.write_bytes(text[:10].encode())
        raise OSError(28, "No space left on device")

    rates.save(known_rates(), tmp_path / "rates.json")
    monkeypatch.setattr(Path, "write_text", full)
    rates.save(only(), tmp_path / "rates.json")
    assert rates.load(tmp_path / "rates.json") == known_rates()  # whole or not at all
    assert sorted(os.listdir(tmp_path)) == ["file", "rates.json"]


def test_nowhere_to_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Path:
        raise build.BuildError("no home folder is known")

    monkeypatch.setattr(build, "path", refuse)
    assert rates.path_of("torch", torch.float32) is None


def test_rates_become_json() -> None:
    told = json.loads(json.dumps(known_rates(disturbed=True).to_dict(), allow_nan=False))
    assert told["disturbed"] is True
    assert told["chip"] == {"vector_bytes": 64, "cache_bytes": 2 << 20, "dense_from": 0.25}
    assert Rates(**{**told, "chip": CHIP}) == known_rates(disturbed=True)
