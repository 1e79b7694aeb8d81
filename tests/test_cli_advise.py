"""``sparselinear advise`` from the command line: files, exit codes, what is said where."""

from __future__ import annotations

import json
import os
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

from sparselinear import cli
from sparselinear.cli import advise as command
from sparselinear.kernels import build
from sparselinear.profiling.cost import Rates, calibrate
from sparselinear.profiling.cost.advice import advise

pytestmark = pytest.mark.usefixtures("one_thread")
ADJACENCY = sp.random_array((12, 9), density=0.3, format="csr", rng=np.random.default_rng(0))
STAGE = "measuring this machine, once"


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What the machine is asked for; it answers at once, with made-up rates."""
    found: list[dict[str, Any]] = []

    def calibrated(dtype: torch.dtype, *, progress: Any, **options: Any) -> Rates:
        found.append({"dtype": dtype, **options})
        progress(0, 2, STAGE, "sparselinear")
        progress(1, 2, STAGE, "dense")
        return known_rates(dtype=str(dtype).removeprefix("torch."), threads=options["threads"] or 1)

    monkeypatch.setattr(command, "calibrated", calibrated)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    sp.save_npz("a.npz", ADJACENCY)
    return found


def run(*arguments: str) -> int:
    return cli.main(["advise", *arguments])


def test_a_file(capsys: Capture, asked: list[dict[str, Any]]) -> None:
    assert run("a.npz") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[:3] == [
        "a.npz",
        "12 outputs x 9 inputs, nnz 32, density 0.296",
        "batch 256, float32, 1 thread, kernel native",
    ]
    expected = advise(ADJACENCY, rates=known_rates()).text
    assert expected.split() == out[out.index("\n\n") : out.index("Predicted, not measured")].split()
    assert err == f"sparselinear: {STAGE}\n"
    assert asked == [{"dtype": torch.float32, "threads": None, "again": False}]


def test_several_files_and_batches(capsys: Capture, asked: list[dict[str, Any]]) -> None:
    """File by file and batch by batch, and the machine is asked once."""
    scipy.io.mmwrite("b.mtx", sp.eye_array(7))
    assert run("a.npz", "b.mtx", "--batch", "4,64", "--measure", "--json", "r.json") == 0
    told = json.loads(Path("r.json").read_text())
    assert [(each["name"], each["nnz"], each["batch"]) for each in told] == [
        ("a.npz", 32, 4), ("a.npz", 32, 64), ("b.mtx", 7, 4), ("b.mtx", 7, 64),
    ]  # fmt: skip
    assert told[0] == json.loads(
        json.dumps(advise(ADJACENCY, batch=4, rates=known_rates(), name="a.npz").to_dict())
    )
    assert asked == [{"dtype": torch.float32, "threads": None, "again": True}]
    out = capsys.readouterr().out
    assert out.count("Predicted, not measured") == 4
    assert out.count("measures.\n\n") == 3
    assert sorted(os.listdir()) == ["a.npz", "b.mtx", "r.json"]


def test_every_option_arrives(capsys: Capture, asked: list[dict[str, Any]]) -> None:
    assert run("a.npz", "--batch", "3", "--dtype", "bfloat16", "--threads", "5", "--json", "-") == 0
    out, err = capsys.readouterr()
    (told,) = json.loads(out)
    assert (told["batch"], told["dtype"], told["threads"]) == (3, "bfloat16", 5)
    assert asked == [{"dtype": torch.bfloat16, "threads": 5, "again": False}]
    assert "batch 3, bfloat16, 5 threads, kernel native" in err  # the text makes way for the JSON


def test_shipped_matrix(capsys: Capture) -> None:
    assert run() == 0
    out = capsys.readouterr().out
    assert "2,233 outputs x 11,876 inputs, nnz 46,939" in out
    assert "ships with sparselinear" in out


def test_json_file_is_replaced_as_a_whole() -> None:
    Path("real.json").write_text("old")
    Path("link.json").symlink_to("real.json")
    assert run("a.npz", "--json", "link.json") == 0
    assert json.loads(Path("real.json").read_text())[0]["nnz"] == 32
    assert Path("link.json").is_symlink()
    assert sorted(os.listdir()) == ["a.npz", "link.json", "real.json"]
    assert run("a.npz", "--json", os.devnull) == 0
    assert not Path(os.devnull).is_file()


USAGE = [
    (["--batch", "0"], "argument --batch: expected a whole number from 1 up, got '0'"),
    (["--batch", "1,,2"], "argument --batch: expected a whole number from 1 up, got ''"),
    (["--batch", "many"], "argument --batch: expected a whole number from 1 up, got 'many'"),
    (["--batch", "2,2"], "argument --batch: expected each batch once, got 2 more than once"),
    (["--threads", "0"], "argument --threads: expected a whole number from 1 up, got '0'"),
    (["--dtype", "int8"], "argument --dtype: expected one of float32"),
    (["--device", "cuda"], "unrecognized arguments: --device cuda"),
    (["--json"], "argument --json: expected one argument"),
    (["--json", "."], "argument --json: .: is a directory"),
    (["--json", "absent/r.json"], "argument --json: absent/r.json: there is no directory absent"),
    (["--json", "./a.npz"], "argument --json: ./a.npz: is also a file that is read"),
]


@pytest.mark.parametrize(("arguments", "text"), USAGE, ids=[" ".join(a) for a, _ in USAGE])
def test_wrong_usage(
    arguments: list[str], text: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "read_adjacency", lambda *_: pytest.fail("work began"))
    assert run("a.npz", *arguments) == 2
    assert text in error_of(capsys)
    assert os.listdir() == ["a.npz"]


FILES: list[tuple[str, bytes | None, str]] = [
    ("absent.npz", None, "absent.npz: No such file or directory"),
    ("folder.npz", b"/", "folder.npz: Is a directory"),
    ("empty.npz", b"", "empty.npz: expected a .npz file, got an empty file"),
    ("text.npz", b"not a zip archive", "text.npz: expected a sparse matrix written by scipy"),
    ("data.csv", b"1,2\n", "data.csv: expected a file ending in .npz, .mtx, .smtx, got '.csv'"),
]


@pytest.mark.parametrize(("name", "content", "text"), FILES, ids=[name for name, *_ in FILES])
def test_wrong_files(
    name: str, content: bytes | None, text: str, capsys: Capture, asked: list[dict[str, Any]]
) -> None:
    """The second of two: nothing is said about the first, and no machine is measured."""
    if content == b"/":
        Path(name).mkdir()
    elif content is not None:
        Path(name).write_bytes(content)
    assert run("a.npz", name, "--json", "r.json") == 2
    assert text in error_of(capsys)
    assert asked == []
    assert not Path("r.json").exists()


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (sp.csr_array((0, 4)), "expected at least one output and one input"),
        (sp.csr_array(np.eye(3) * 1j), "a.npz: expected"),
        (sp.csr_array(np.diag([1.0, np.nan])), "a.npz: expected"),
    ],
    ids=["no outputs", "complex", "not finite"],
)
def test_wrong_matrices(matrix: sp.csr_array, text: str, capsys: Capture) -> None:
    sp.save_npz("a.npz", matrix)
    assert run("a.npz") == 2
    assert text in error_of(capsys)


def test_a_matrix_whose_dense_form_fits_nowhere(capsys: Capture) -> None:
    """It is said what it would take, and nothing of that size is made."""
    side = 1_000_000
    sp.save_npz("a.npz", sp.csr_array(([1.0], ([3], [5])), shape=(side, side)))
    assert run("a.npz", "--batch", "1", "--json", "-") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["faster"] == "sparselinear"
    assert told["predicted"]["dense"]["total_bytes"] > 4 * 4 * side**2


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "MemoryError"),
        (RuntimeError("first\n  second"), 1, "first second"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
    ],
)
def test_failures_leave_the_file_alone(
    raised: BaseException, code: int, text: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    Path("r.json").write_text("old")
    monkeypatch.setattr(command, "calibrated", fail)
    assert run("a.npz", "--json", "r.json") == code
    assert text in error_of(capsys)
    assert Path("r.json").read_text() == "old"
    assert sorted(os.listdir()) == ["a.npz", "r.json"]


def test_a_disk_that_is_full(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    Path("r.json").write_text("old")
    monkeypatch.setattr(os, "replace", full)
    assert run("a.npz", "--json", "r.json") == 1
    assert capsys.readouterr().err.endswith("No space left on device\n")
    assert Path("r.json").read_text() == "old"
    assert sorted(os.listdir()) == ["a.npz", "r.json"]


def test_help(capsys: Capture) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 110
    for text in ("sparselinear advise A.npz --batch 64", "--measure", "default: 256"):
        assert text in out


def test_a_bar_on_a_terminal(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run("a.npz") == 0
    assert f"sparselinear: {STAGE}" not in capsys.readouterr().err


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The program, with a folder of kept rates of its own beside the kernel that is there already."""
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    environment["SPARSELINEAR_CACHE"] = str(folder)
    line = [sys.executable, "-m", "sparselinear", "advise", "a.npz", "--threads", "1", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, env=environment, **pipes)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that holds the native kernel, where there is one, and no rates."""
    folder = tmp_path / "cache"
    folder.mkdir()
    try:
        library = build.build()
    except build.BuildError:
        return folder
    (folder / library.name).symlink_to(library)
    return folder


@pytest.mark.skipif(os.name != "posix", reason="signals as Unix has them")
def test_interrupted_program(cache: Path) -> None:
    """For real: Ctrl-C while the machine is measured keeps no rates and writes no file."""
    with start(cache, "--json", "r.json") as program:
        assert program.stderr is not None
        for line in program.stderr:
            if STAGE in line:
                break
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=120)
    assert program.returncode == 130
    assert err == "sparselinear: error: interrupted\n"
    assert out == ""
    assert not list(cache.glob("*rates*"))
    assert not Path("r.json").exists()


def test_as_a_program(cache: Path) -> None:
    """With rates that are kept, it measures nothing and says nothing but the advice."""
    kernel = calibrate.kernels_used(torch.float32)
    kept = calibrate.rates.path_of(kernel, torch.float32)
    assert kept is not None
    rates = known_rates(kernel=kernel)
    calibrate.rates.save(rates, cache / kept.name)
    with start(cache, "--json", "-") as program:
        out, err = program.communicate(timeout=120)
    assert program.returncode == 0, err
    assert json.loads(out)[0] == json.loads(
        json.dumps(advise(ADJACENCY, rates=rates, name="a.npz").to_dict())
    )
    assert STAGE not in err
    assert "Warning" not in err
