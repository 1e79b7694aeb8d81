"""The demonstration runs from a shell, its two networks agree, and its picture shows something."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "septic_aki.py"
DATA = ROOT / "examples" / "data" / "septic_aki"

pytest.importorskip("sklearn")
plt = pytest.importorskip("matplotlib.pyplot")


def run(*arguments, timeout=120):
    """The example in a process of its own, with its warnings turned into errors."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-W", "error", str(EXAMPLE), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return run("--epochs", 3, "--no-profile", "--out", out), out


def test_it_ends_well(demo):
    finished, _ = demo
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""


def found(pattern, text):
    match = re.search(pattern, text, re.MULTILINE)
    assert match, f"{pattern!r} is not in what was printed:\n{text}"
    return match[1]


def test_sparse_and_masked_dense_follow_one_loss_curve(demo):
    printed = demo[0].stdout
    difference = {name: float(found(rf"{name} (\S+),", printed)) for name in ("float32", "float64")}
    assert 0 < difference["float64"] < 1e-9  # exactly 0 would mean that one network was compared with itself
    assert 0 < difference["float32"] < 1e-3


def test_both_rows_of_results_are_there_and_equal(demo):
    printed = demo[0].stdout
    rows = [found(rf"^  {name} +(.*±.*)$", printed) for name in ("sparse", "masked dense")]
    assert rows[0] == rows[1]
    train_accuracy, test_accuracy, auc = map(float, re.findall(r"(\S+) ±", rows[0]))
    assert all(0 <= share <= 1 for share in (train_accuracy, test_accuracy, auc))


def test_the_sizes_are_those_of_the_masks(demo):
    masks = [sp.load_npz(path) for path in sorted(DATA.glob("L*.npz"))]
    assert f"{sum(mask.nnz for mask in masks):,}" in demo[0].stdout
    assert [mask.shape[1] for mask in masks[1:]] == [mask.shape[0] for mask in masks[:-1]]


def test_the_picture_is_drawn(demo):
    pixels = plt.imread(demo[1] / "septic_aki.png")[..., :3]
    height, width, _ = pixels.shape
    assert width >= 1000
    # Each panel by itself: two of curves above, four masks below.
    panels = [
        *np.array_split(pixels[: height // 2], 2, axis=1),
        *np.array_split(pixels[height // 2 :], 4, axis=1),
    ]
    for panel in panels:
        assert panel.std() > 0.05
        assert np.ptp(panel, axis=-1).max() > 0.2, "nothing coloured: axes without content"


@pytest.fixture
def example(monkeypatch):
    """The example as a module of this process."""
    specification = importlib.util.spec_from_file_location("septic_aki", EXAMPLE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "septic_aki", module)  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


def call(monkeypatch, function, *arguments):
    monkeypatch.setattr(sys, "argv", ["septic_aki.py", *map(str, arguments)])
    return function()


def test_it_fails_when_the_networks_part(example, monkeypatch, tmp_path, capsys):
    twin = example.masked_twin

    def nudged(network, masks):
        other = twin(network, masks)
        with torch.no_grad():
            other[0].bias += 1e-6
        return other

    monkeypatch.setattr(example, "masked_twin", nudged)
    assert call(monkeypatch, example.main, "--epochs", 1, "--no-profile", "--out", tmp_path) == 1
    assert "OVER THE LIMIT" in capsys.readouterr().out


def test_it_fails_when_the_profile_fails(example, monkeypatch, tmp_path):
    asked = []

    def profile(arguments):
        asked.append(arguments)
        return 1

    monkeypatch.setattr(example, "FOLDS", 2)
    monkeypatch.setattr(example.cli, "main", profile)
    assert call(monkeypatch, example.main, "--epochs", 1, "--out", tmp_path) == 1
    assert asked[0][0] == "profile"


def test_no_patient_can_stand_on_both_sides_of_a_split(example):
    x, y, _ = example.load()
    run_of = np.concatenate([[0], np.cumsum(y[1:] != y[:-1])])
    tested = []
    for fit_on, test in example.folds(x, y):
        assert not set(run_of[fit_on]) & set(run_of[test])
        assert set(y[fit_on]) == set(y[test]) == {0, 1}
        tested += test.tolist()
    assert sorted(tested) == list(range(len(y)))


def test_scaling_is_fitted_on_the_training_rows_alone(example):
    x, y, _ = example.load()
    fit_on, test = next(iter(example.folds(x, y)))
    scaled = example.standardised(x, fit_on).double()
    assert torch.isfinite(scaled).all()
    often = (np.isfinite(x[fit_on]).sum(0) >= 10) & np.isfinite(x[fit_on]).all(0)  # no mean was filled in
    assert often.any()
    seen = scaled[fit_on][:, often]
    torch.testing.assert_close(seen.mean(0), torch.zeros(seen.shape[1]).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        seen.std(0, correction=0), torch.ones(seen.shape[1]).double(), rtol=0, atol=1e-4
    )
    changed = x.copy()
    changed[test] += 100
    assert torch.equal(example.standardised(changed, fit_on)[fit_on], example.standardised(x, fit_on)[fit_on])


def test_zero_epochs_are_refused(example, monkeypatch, capsys):
    with pytest.raises(SystemExit) as left:
        call(monkeypatch, example.arguments, "--epochs", 0)
    assert left.value.code == 2
    assert "--epochs: expected at least 1, got 0" in capsys.readouterr().err


def test_the_data_say_where_they_are_from():
    told = (DATA / "README.md").read_text(encoding="utf-8")
    for needed in (
        "MIT License",
        "Copyright (c) 2022 Infection Medicine Proteomics",
        "CC0",
        "rows are outputs",
    ):
        assert needed in told
    assert all(f"`{path.name}`" in told for path in DATA.glob("*.npz"))
