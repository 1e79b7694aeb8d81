"""``sparselinear sweep`` from the command line: files, exit codes, what is said where, and resuming."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sweeps import CROSSING, FakeProfile

from sparselinear import cli
from sparselinear.cli import sweep as command
from sparselinear.profiling import compare
from sparselinear.profiling.sweeps import plot

pytestmark = pytest.mark.usefixtures("one_thread")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeProfile]:
    def put(*arguments: Any) -> FakeProfile:
        made = FakeProfile(*arguments)
        monkeypatch.setattr(compare, "profile", made)
        return made

    return put


def quick(*arguments: str) -> int:
    return cli.main(["sweep", "--sizes", "100", "--batches", "2,8", "--out", "j", *arguments])


def error_of(capsys: Capture) -> str:
    """The last line on the standard error; nothing may stand on the standard output."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("sparselinear: error: ")
    assert err.count("error") == 1
    return err.splitlines()[-1]


def test_tables_and_files(fake: Callable[..., FakeProfile], tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("matplotlib")
    fake()
    assert quick("--csv", "r.csv", "--json", "r.json", "--plot", "r.svg") == 0
    out, err = capsys.readouterr()
    assert "Against dense, batch 8: break-even at 0.02 (0.019 to 0.021): sparse faster below" in out
    lines = err.splitlines()
    assert lines[0] == "sparselinear: 1 of 12: 100 x 100, density 0.001, batch 2"
    assert re.fullmatch(r"sparselinear: 2 of 12: 100 x 100, density 0.001, batch 8, \d+ s left", lines[1])
    assert lines[12:] == ["sparselinear: the cells are kept in j"]
    assert sorted(os.listdir(tmp_path)) == ["j", "r.csv", "r.json", "r.svg"]
    told = json.loads(Path("r.json").read_text())
    assert told["break_even"][0]["crossings"][0]["density"] == pytest.approx(CROSSING)
    assert len(list(csv.DictReader(io.StringIO(Path("r.csv").read_text())))) == 12 * 3 * 3
    assert "step against csr" in Path("r.svg").read_text()


def test_every_option_arrives(fake: Callable[..., FakeProfile], capsys: Capture) -> None:
    fake()
    grid = ["--sizes", "20x30,9", "--densities", "0.5, 1", "--batches", "3", "--baselines", "csr"]
    rest = ["--rounds", "4", "--dtype", "float64", "--seed", "7", "--threads", "3", "--json", "-"]
    assert cli.main(["sweep", *grid, *rest]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["options"] == {
        "sizes": [[9, 9], [20, 30]], "densities": [0.5, 1.0], "batches": [3], "baselines": ["csr"],
        "rounds": 4, "dtype": "float64", "device": "cpu", "seed": 7, "pattern": "random",
    }  # fmt: skip
    assert told["machine"]["threads"] == 3
    assert "A step of sparse against csr" in err  # the tables make way for the JSON


def test_a_file_is_thinned(fake: Callable[..., FakeProfile], capsys: Capture) -> None:
    sp.save_npz("a.npz", sp.random_array((20, 30), density=0.1, format="csr", rng=np.random.default_rng(0)))
    asked = fake().asked
    assert cli.main(["sweep", "a.npz", "--batches", "2", "--baselines", "dense"]) == 0
    assert [nnz for nnz, _ in asked] == [1, 60, 6, 2, 19]
    assert "thinned from density 0.1" in capsys.readouterr().out
    assert cli.main(["sweep", "a.npz", "--densities", "0.2"]) == 2
    assert "argument --densities: expected at most the adjacency's own density 0.1, got 0.2." in error_of(
        capsys
    )
    assert cli.main(["sweep", "a.npz", "--sizes", "9"]) == 2
    assert "argument --sizes: expected None with an adjacency" in error_of(capsys)
    assert cli.main(["sweep", "b.npz"]) == 2
    assert "b.npz: No such file or directory" in error_of(capsys)


def test_the_journal_is_named_after_the_options(
    fake: Callable[..., FakeProfile], tmp_path: Path, capsys: Capture
) -> None:
    """So that another sweep does not meet the journal of the first, and the same one finds it."""
    asked = fake().asked
    for arguments in (["--sizes", "50"], ["--sizes", "60"], ["--sizes", "50", "--budget", "9"]):
        assert cli.main(["sweep", *arguments]) == 0
    assert len(asked) == 2 * 18
    names = sorted(os.listdir(tmp_path))
    assert len(names) == 2
    assert all(re.fullmatch(r"sparselinear-sweep-[0-9a-f]{8}\.jsonl", name) for name in names)
    assert names[0] in capsys.readouterr().err


def test_interrupted_and_gone_on_with(fake: Callable[..., FakeProfile], capsys: Capture) -> None:
    def stop(number: int) -> None:
        if number == 6:
            raise KeyboardInterrupt

    first = fake(stop).asked
    assert quick() == 130
    text = "interrupted: 5 of 12 cells are kept in j; the same command goes on"
    assert error_of(capsys) == f"sparselinear: error: {text}"
    second = fake().asked
    assert quick() == 0
    assert len(first[:5] + second) == len({*first[:5], *second}) == 12
    assert "12 of 12 cells measured" in capsys.readouterr().out


def test_a_budget_that_is_spent(fake: Callable[..., FakeProfile], capsys: Capture) -> None:
    fake()
    assert quick("--budget", "1e-9") == 0
    out, err = capsys.readouterr()
    assert "0 of 12 cells measured" in out
    assert "\n12 cells, the first 100 x 100, density 0.001, batch 2: not measured, the budget was" in out
    assert err == "sparselinear: the cells are kept in j; the same command goes on\n"


def test_a_journal_of_other_options(fake: Callable[..., FakeProfile], capsys: Capture) -> None:
    fake()
    assert quick() == 0
    capsys.readouterr()
    assert quick("--rounds", "6") == 2
    error = error_of(capsys)
    assert (
        "which differs: rounds 5 there, 6 here. Take another file, or begin this one anew with --fresh"
        in error
    )
    assert quick("--rounds", "6", "--fresh") == 0


USAGE = [
    (["--sizes", "3x"], "--sizes: expected sizes such as 1024 or 4096x512 (outputs x inputs), got '3x'"),
    (
        ["--sizes", "2x3x4"],
        "--sizes: expected sizes such as 1024 or 4096x512 (outputs x inputs), got '2x3x4'",
    ),
    (["--sizes", ""], "--sizes: expected sizes such as 1024 or 4096x512 (outputs x inputs), got ''"),
    (["--densities", "0.1,2"], "--densities: expected numbers above 0 and up to 1, got '2'"),
    (["--densities", "0"], "--densities: expected numbers above 0 and up to 1, got '0'"),
    (["--densities", "nan"], "--densities: expected numbers above 0 and up to 1, got 'nan'"),
    (["--densities", "1e-9"], "--densities: expected at least one connection of 100 x 100, density 0.0001"),
    (["--batches", "1,0"], "--batches: expected a whole number from 1 up, got '0'"),
    (["--batches", ""], "--batches: expected a whole number from 1 up, got ''"),
    (["--baselines", "none"], "--baselines: expected at least one to compare with, got none"),
    (["--baselines", "csx"], "--baselines: expected names out of"),
    (["--rounds", "2"], "--rounds: expected a whole number from 3 up, got 2"),
    (["--budget", "0"], "--budget: expected seconds above 0, got '0'"),
    (["--budget", "inf"], "--budget: expected seconds above 0, got 'inf'"),
    (["--budget", "soon"], "--budget: expected seconds above 0, got 'soon'"),
    (["--seed", "-1"], "--seed: expected a whole number from 0 up, got '-1'"),
    (["--threads", "0"], "--threads: expected a whole number from 1 up, got '0'"),
    (["--dtype", "int8"], "--dtype: expected one of float32"),
    (["--device", "gpu"], "--device: expected cpu, cuda or cuda:N, got 'gpu'"),
    (["--out", "-"], "--out: expected a file, got '-'"),
    (["--out", "."], "--out: .: is a directory"),
    (["--out", "absent/j"], "--out: absent/j: there is no directory absent"),
    (["--csv", "absent/c"], "--csv: absent/c: there is no directory absent"),
    (["--json", "absent/c"], "--json: absent/c: there is no directory absent"),
    (["--plot", "absent/c.svg"], "--plot: absent/c.svg: there is no directory absent"),
    (["--plot", "c.png"], "--plot: expected a file ending in .svg, got 'c.png'"),
    (["--plot", "-"], "--plot: expected a file, got '-'"),
    (["--csv", "c", "--json", "./c"], "--csv: c: is also where --json goes"),
    (["--csv", "-", "--json", "-"], "--csv: -: is also where --json goes"),
    (["--csv", "j"], "--csv: j: is also where --out goes"),
]


@pytest.mark.parametrize(("arguments", "text"), USAGE, ids=[" ".join(a) for a, _ in USAGE])
def test_wrong_usage(
    arguments: list[str], text: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "sweep", lambda *_, **__: pytest.fail("work began"))
    assert quick(*arguments) == 2
    assert f"argument {text}" in error_of(capsys)
    assert os.listdir(tmp_path) == []


def test_a_journal_that_is_something_else(fake: Callable[..., FakeProfile], capsys: Capture) -> None:
    Path("j").write_text("my thesis\n")
    assert quick("--fresh") == 2
    assert "Take another file; this one is left as it is." in error_of(capsys)
    assert Path("j").read_text() == "my thesis\n"


def test_a_folder_that_cannot_be_written(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    assert cli.main(["sweep"]) == 2
    assert "argument --out: sparselinear-sweep-" in (error := error_of(capsys))
    assert "Read-only file system" in error


def test_a_plot_without_matplotlib(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("matplotlib is not installed")

    monkeypatch.setattr(command, "require_matplotlib", missing)
    monkeypatch.setattr(command, "sweep", lambda *_, **__: pytest.fail("work began"))
    assert quick("--plot", "c.svg") == 2
    assert "argument --plot: matplotlib is not installed" in error_of(capsys)
    assert plot.require_matplotlib is not missing


def test_a_full_disk(
    fake: Callable[..., FakeProfile], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    fake()
    assert quick("--budget", "1e-9") == 0  # the journal and its first line are there
    capsys.readouterr()
    monkeypatch.setattr(os, "fsync", full)
    assert quick() == 1
    assert "No space left on device" in error_of(capsys)


def test_a_bar_on_a_terminal(
    fake: Callable[..., FakeProfile], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    fake()
    assert quick() == 0
    err = capsys.readouterr().err
    assert "━" in err
    assert re.search(r"\d:\d\d left|\? left", err)
    assert "sparselinear: 1 of" not in err


def test_help(capsys: Capture) -> None:
    assert cli.main(["sweep", "--help"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 110
    for text in (
        "sparselinear sweep A.npz",
        "default: 2048",
        "0.001,0.003,0.01,0.03,0.1,0.3",
        "default: 1,32,256",
    ):
        assert text in " ".join(out.split())


@pytest.mark.skipif(os.name != "posix", reason="signals as Unix has them")
def test_interrupted_program(tmp_path: Path) -> None:
    """For real: Ctrl-C in the second cell keeps the first, and the same command ends the sweep."""
    options = [
        "--sizes",
        "30",
        "--densities",
        "0.1,1",
        "--batches",
        "2",
        "--baselines",
        "dense",
        "--threads",
        "1",
    ]
    arguments = [sys.executable, "-m", "sparselinear", "sweep", *options, "--out", str(tmp_path / "j")]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*arguments, "--rounds", "20"], env=environment, **pipes) as program:
        assert program.stderr is not None
        for line in program.stderr:
            if line.startswith("sparselinear: 2 of 2"):
                break
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=120)
    assert program.returncode == 130
    kept = f"1 of 2 cells are kept in {tmp_path / 'j'}; the same command goes on"
    assert err == f"sparselinear: error: interrupted: {kept}\n"
    assert out == ""
    done = subprocess.run([*arguments, "--rounds", "20"], env=environment, timeout=120, check=False, **pipes)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 cells measured" in done.stdout
    assert done.stderr.splitlines()[0].startswith("sparselinear: 2 of 2: 30 x 30, density 1, batch 2")
    assert "Warning" not in done.stderr
    assert torch.get_num_threads() == 1
