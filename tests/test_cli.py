"""The command line: exit codes, which stream says what, and files that are whole or not there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import torch
from command_line import Capture, error_of
from costs import known_rates

import sparselinear
from sparselinear import cli, interop
from sparselinear.cli.arguments import SHIPPED
from sparselinear.profiling import BASELINES, Rates, clock, compare
from sparselinear.profiling.memory import Peak

ADJACENCY = sp.random_array((12, 9), density=0.3, format="csr", rng=np.random.default_rng(0))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "SAMPLE_S", 0.0)
    monkeypatch.setattr(compare, "measure_peak", lambda *_: Peak(1000))
    monkeypatch.setattr(cli.profile, "calibrated", lambda *_, **__: None)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def path(tmp_path: Path) -> str:
    sp.save_npz(tmp_path / "a.npz", ADJACENCY)
    return str(tmp_path / "a.npz")


def quick(*arguments: str) -> int:
    return cli.main(["profile", "--batch", "3", "--rounds", "1", *arguments])


def test_profile_of_a_file(path: str, capsys: Capture) -> None:
    assert quick(path) == 0
    out, err = capsys.readouterr()
    assert "12 outputs x 9 inputs, nnz 32" in out
    assert all(re.search(rf"^{name} ", out, re.MULTILINE) for name in ("sparselinear", *BASELINES))
    stages = ("building and warming up", "timing", "peak memory, a process each")
    assert err == "".join(f"sparselinear: {stage}\n" for stage in stages)


@pytest.mark.parametrize("suffix", [".mtx", ".smtx"])
def test_other_formats(tmp_path: Path, suffix: str, capsys: Capture) -> None:
    file = tmp_path / f"a{suffix}"
    if suffix == ".mtx":
        scipy.io.mmwrite(file, ADJACENCY)
    else:
        rows = (ADJACENCY.indptr, ADJACENCY.indices)
        file.write_text("12, 9, 32\n" + "".join(" ".join(map(str, row)) + "\n" for row in rows))
    assert quick(str(file), "--baselines", "none") == 0
    assert "12 outputs x 9 inputs, nnz 32" in capsys.readouterr().out


def test_shipped_matrix(capsys: Capture) -> None:
    assert quick("--baselines", "none") == 0
    out = capsys.readouterr().out
    assert "2,233 outputs x 11,876 inputs, nnz 46,939" in out
    assert "ships with sparselinear" in out


def test_every_option_arrives(path: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert quick(path, "--baselines", "csr,dense", "--dtype", "float64", "--threads", "3", "--json", "-") == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert [system["name"] for system in told["systems"]] == ["sparselinear", "dense", "csr"]
    assert (told["batch"], told["rounds"], told["dtype"]) == (3, 1, "float64")
    assert (told["out_features"], told["in_features"]) == ADJACENCY.shape
    assert threads[0] == 3
    assert "Time, ms" in err  # the tables make way for the JSON


def test_rates_of_this_machine_add_predictions(
    path: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def calibrated(dtype: torch.dtype, **options: Any) -> Rates:
        asked.update(options, dtype=dtype)
        return known_rates(dtype="float64")

    monkeypatch.setattr(cli.profile, "calibrated", calibrated)
    assert quick(path, "--baselines", "dense", "--dtype", "float64", "--threads", "1") == 0
    assert (asked["dtype"], asked["threads"]) == (torch.float64, 1)
    assert "Predicted step, and measured: sparselinear" in " ".join(capsys.readouterr().out.split())


def test_json_file_is_replaced_as_a_whole(path: str, tmp_path: Path, capsys: Capture) -> None:
    target, link = tmp_path / "real.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    assert quick(path, "--baselines", "none", "--json", str(link)) == 0
    assert json.loads(target.read_text())["nnz"] == 32
    assert link.is_symlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz", "link.json", "real.json"]
    assert "Time, ms" in capsys.readouterr().out


def test_json_to_a_device(path: str, capsys: Capture) -> None:
    assert quick(path, "--baselines", "none", "--json", os.devnull) == 0
    assert not Path(os.devnull).is_file()


def test_failed_run_leaves_json_alone(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("torch\nfell over")

    target = tmp_path / "r.json"
    target.write_text("old")
    monkeypatch.setattr(cli.profile, "profile", fail)
    assert quick(path, "--json", str(target)) == 1
    monkeypatch.undo()
    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(compare, "measure_peak", lambda *_: Peak(1000))
    assert quick(path, "--baselines", "none", "--json", str(target)) == 1
    assert target.read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz", "r.json"]


USAGE = [
    ([], "arguments are required: COMMAND"),
    (["prof"], "invalid choice: 'prof'"),
    (["profile", "--batch", "0"], "argument --batch: expected a whole number from 1 up, got '0'"),
    (["profile", "--batch", "many"], "argument --batch: expected a whole number from 1 up, got 'many'"),
    (["profile", "--rounds", "-1"], "argument --rounds: expected a whole number from 1 up, got '-1'"),
    (["profile", "--threads", "0"], "argument --threads: expected a whole number from 1 up, got '0'"),
    (["profile", "--dtype", "int8"], "expected one of float32, float64, bfloat16, float16, got 'int8'"),
    (["profile", "--device", "gpu"], "argument --device: expected cpu, cuda or cuda:N, got 'gpu'"),
    (["profile", "--device", "meta"], "argument --device: expected cpu, cuda or cuda:N, got 'meta'"),
    (
        ["profile", "--device", "cuda:99"],
        "argument --device: expected a device of this machine, got 'cuda:99'",
    ),
    (["profile", "--baselines", "dense,csx"], "got 'csx'. Did you mean 'csr'?"),
    (["profile", "--baselines", ""], "argument --baselines: expected names out of"),
    (["profile", "--frobnicate"], "unrecognized arguments: --frobnicate"),
    (["profile", "--batch"], "argument --batch: expected one argument"),
]


@pytest.mark.parametrize(("arguments", "text"), USAGE, ids=[" ".join(a)[-30:] for a, _ in USAGE])
def test_wrong_usage(
    arguments: list[str], text: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.profile, "profile", lambda *_, **__: pytest.fail("work began"))
    assert cli.main(arguments) == 2
    assert text in error_of(capsys)


FILES: list[tuple[str, bytes | None, str]] = [
    ("absent.npz", None, "absent.npz: No such file or directory"),
    ("folder.npz", b"/", "folder.npz: Is a directory"),
    ("empty.npz", b"", "empty.npz: expected a .npz file, got an empty file"),
    ("text.npz", b"not a zip archive", "text.npz: expected a sparse matrix written by scipy"),
    ("text.mtx", b"not a matrix market file\n", "text.mtx: expected a Matrix Market file"),
    ("text.smtx", b"1, 2\n", "text.smtx: expected three lines"),
    ("data.csv", b"1,2\n", "data.csv: expected a file ending in .npz, .mtx, .smtx, got '.csv'"),
]


@pytest.mark.parametrize(("name", "content", "text"), FILES, ids=[name for name, *_ in FILES])
def test_wrong_files(name: str, content: bytes | None, text: str, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / name
    if content == b"/":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    assert quick(str(file)) == 2
    assert text in error_of(capsys)


def test_matrix_without_a_side(tmp_path: Path, capsys: Capture) -> None:
    sp.save_npz(tmp_path / "a.npz", sp.csr_array((0, 4)))
    assert quick(str(tmp_path / "a.npz")) == 2
    assert "at least one output and one input" in error_of(capsys)


def test_json_is_checked_before_the_work(
    path: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.profile, "profile", lambda *_, **__: pytest.fail("work began"))
    for target, text in (
        (tmp_path, "is a directory"),
        (tmp_path / "absent" / "r.json", f"there is no directory {tmp_path / 'absent'}"),
    ):
        assert quick(path, "--json", str(target)) == 2
        assert text in error_of(capsys)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert quick(path, "--json", path) == 2
    assert "permission denied" in error_of(capsys)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    assert quick(path, "--json", str(tmp_path / "new.json")) == 2
    assert "Read-only file system" in error_of(capsys)


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError("the sparse layer itself needs 5 bytes"), 1, "the sparse layer itself needs 5 bytes"),
        (MemoryError(), 1, "MemoryError"),
        (RuntimeError("first\n  second"), 1, "first second"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
    ],
)
def test_failures(
    raised: BaseException, code: int, text: str, path: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(cli.profile, "profile", fail)
    assert quick(path) == code
    assert text in error_of(capsys)


def test_help_and_version(capsys: Capture) -> None:
    for arguments in (["--help"], ["profile", "--help"]):
        assert cli.main(arguments) == 0
        out = capsys.readouterr().out
        assert "sparselinear profile A.npz --batch 64" in out
        assert max(map(len, out.splitlines())) <= 100
    assert all(name in out for name in BASELINES)
    assert cli.main(["build", "--help"]) == 0
    assert "on the kind of machine that it runs on" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["--version"]) == 0
    assert re.match(r"sparselinear \S+ \(torch \S+\)\n$", capsys.readouterr().out)


def test_a_bar_on_a_terminal(path: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert quick(path, "--baselines", "none") == 0
    err = capsys.readouterr().err
    assert "━" in err
    assert "sparselinear: timing" not in err


def test_shipped_data_say_where_they_come_from() -> None:
    folder = Path(sparselinear.__file__).parent / "data"
    assert interop.load_adjacency(folder / SHIPPED).shape == (2233, 11876)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert SHIPPED in text
    assert "CC0" in text


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sparselinear", "profile", "--batch", "4", "--threads", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *arguments], **{**pipes, **options})


def test_as_a_program(path: str) -> None:
    with start(path, "--baselines", "dense", "--rounds", "1", "--json", "-") as program:
        out, err = program.communicate(timeout=120)
    assert program.returncode == 0, err
    told = json.loads(out)
    assert [system["status"] for system in told["systems"]] == ["measured", "measured"]
    if sys.platform.startswith("linux"):
        assert all(system["peak"]["peak_bytes"] is not None for system in told["systems"])
    assert "Traceback" not in err
    assert "Warning" not in err


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes as Unix has them")
def test_interrupted_program() -> None:
    with start("--baselines", "none", "--rounds", "1000000") as program:
        assert program.stderr is not None
        for line in program.stderr:
            if "timing" in line:
                break
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=120)
    assert program.returncode == 130
    assert err == "sparselinear: error: interrupted\n"
    assert out == ""


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes as Unix has them")
def test_reader_that_went_away(path: str) -> None:
    with start(path, "--baselines", "none", "--rounds", "1") as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        err = program.stderr.read()
    assert program.returncode == 141
    assert {line.split(":")[0] for line in err.splitlines()} == {"sparselinear"}
    assert "error" not in err
