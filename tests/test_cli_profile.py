"""``sparselinear profile`` over several files and batches: tables, files, bad input, interruptions."""

from __future__ import annotations

import csv
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
from command_line import Capture, error_of

from sparselinear import cli
from sparselinear.cli import output
from sparselinear.profiling import clock, compare, machine, memory
from sparselinear.profiling.memory import Peak

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "SAMPLE_S", 0.0)
    monkeypatch.setattr(compare, "measure_peak", lambda *_: Peak(1000))
    monkeypatch.setattr(cli.profile, "calibrated", lambda *_, **__: None)
    monkeypatch.setattr(machine.OtherWork, "cores", lambda self: 0.0)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two adjacencies in the current folder: 12 x 9 and 5 x 7."""
    monkeypatch.chdir(tmp_path)
    for name, shape in (("a.npz", (12, 9)), ("b.npz", (5, 7))):
        sp.save_npz(name, sp.random_array(shape, density=0.3, format="csr", rng=np.random.default_rng(0)))
    return ["a.npz", "b.npz"]


def quick(*arguments: str) -> int:
    return cli.main(["profile", "--rounds", "1", "--baselines", "dense", *arguments])


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.profile, "profile", lambda *_, **__: pytest.fail("work began"))


def test_tables_of_every_cell_and_a_summary(files: list[str], capsys: Capture) -> None:
    assert quick(*files, "--batch", "3,2") == 0
    out, err = capsys.readouterr()
    tables, summary = out.split("\nSummary\n")
    headings = [line for line in tables.splitlines() if " outputs x " in line or line.startswith("batch ")]
    assert [heading.split(",")[0] for heading in headings] == [
        *("12 outputs x 9 inputs", "batch 3", "12 outputs x 9 inputs", "batch 2"),
        *("5 outputs x 7 inputs", "batch 3", "5 outputs x 7 inputs", "batch 2"),
    ]
    assert tables.count("\nVerdict\n") == 4
    lines = [line.split()[:2] for line in summary.splitlines()[1:5]]
    assert lines == [["a.npz", "3"], ["a.npz", "2"], ["b.npz", "3"], ["b.npz", "2"]]
    assert err.splitlines()[:2] == [
        "sparselinear: a.npz, batch 3: building and warming up",
        "sparselinear: a.npz, batch 3: timing",
    ]


def test_one_cell_has_no_summary(files: list[str], capsys: Capture) -> None:
    assert quick(files[0], "--batch", "3") == 0
    out, err = capsys.readouterr()
    assert "Summary" not in out
    assert "Verdict\nNo verdict on time: the noise is known from 3 rounds on, and this is 1" in out
    assert "a.npz" not in err


def test_verdict_of_a_real_run(files: list[str], capsys: Capture) -> None:
    assert quick(files[0], "--batch", "3", "--rounds", "3", "--json", "-") == 0
    out, err = capsys.readouterr()
    told = json.loads(out)["verdict"]
    assert told["use"] in ("sparselinear", "dense", None)
    assert told["step"]["difference"]["noise"] is not None
    assert told["text"].split(".")[0] in " ".join(err.split())


def test_files_hold_every_cell(files: list[str]) -> None:
    assert quick(*files, "--batch", "3,2", "--json", "all.json", "--csv", "all.csv") == 0
    told = json.loads(Path("all.json").read_text())
    assert told["schema"] == 2
    cells = [(profile["name"], profile["batch"]) for profile in told["profiles"]]
    assert cells == [("a.npz", 3), ("a.npz", 2), ("b.npz", 3), ("b.npz", 2)]
    lines = list(csv.DictReader(Path("all.csv").read_text().splitlines()))
    assert len(lines) == 4 * 2 * 3
    assert lines[1]["median_s"] == str(told["profiles"][0]["systems"][0]["step"]["median_s"])
    assert sorted(os.listdir()) == ["a.npz", "all.csv", "all.json", "b.npz"]


def test_csv_on_the_standard_output(files: list[str], capsys: Capture) -> None:
    assert quick(files[0], "--csv", "-") == 0
    out, err = capsys.readouterr()
    assert out.startswith("file,batch,system,kind,status,")
    assert len(out.splitlines()) == 1 + 2 * 3
    assert "Time, ms" in err


def test_report_is_the_page_of_every_cell(files: list[str]) -> None:
    assert quick(*files, "--batch", "3,2", "--report", "r.html", "--csv", "r.csv") == 0
    page = Path("r.html").read_text(encoding="utf-8")
    found = re.findall(r'<h2 id="profile-\d">(.*?)</h2><p class="hint">batch (\d),', page)
    assert found == [(name, batch) for name in files for batch in ("3", "2")]
    assert "±" in page
    assert sorted(os.listdir()) == [*files, "r.csv", "r.html"]


def test_dense_that_does_not_fit_is_told(
    files: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sp.save_npz("large.npz", sp.eye_array(2000, format="csr"))
    monkeypatch.setattr(machine, "available_bytes", lambda device: 10**7)
    assert quick("large.npz", "a.npz", "--batch", "2") == 0
    out = " ".join(capsys.readouterr().out.split())
    needed = "96.0 MB, and 9.00 MB can be used"  # 6 x 2000 x 2000 x 4 bytes
    assert f"Dense was not tried, as it does not fit: it would need {needed}" in out
    assert f"large.npz, batch 2: dense would need {needed}." in out


# What is wrong is found before any work. 10^15 rows have 8 PB of offsets, which no system promises, not even
# one that promises more than it has.

NPZ: list[tuple[str, Any, str]] = [
    ("complex", sp.csr_array(np.eye(3) * 1j), "expected bool or real numbers, got dtype complex128"),
    ("not finite", sp.csr_array(np.diag([1.0, np.nan, np.inf])), "2 entries that are NaN or infinite"),
    ("10^15 rows", sp.coo_array(([1.0], ([0], [0])), shape=(10**15, 3)), "cannot be read as one (Unable to"),
]
MTX = "%%MatrixMarket matrix coordinate real general\n"
TEXT: list[tuple[str, str, str, str]] = [
    ("10^15 rows", ".mtx", f"{MTX}1000000000000000 3 1\n1 1 1.0\n", "Unable to allocate"),
    ("10^15 connections", ".mtx", f"{MTX}3 3 1000000000000000\n1 1 1.0\n", "Unable to allocate"),
    (
        "10^15 rows",
        ".smtx",
        "1000000000000000, 3, 1\n0 1\n0\n",
        "index pointer size 2 should be 1000000000000001",
    ),
    ("a line too few", ".mtx", f"{MTX}3 3 2\n1 1 1.0\n", "expected a Matrix Market file"),
    ("empty", ".mtx", "", "expected a .mtx file, got an empty file"),
    ("wrong extension", ".txt", "1 1\n", "expected a file ending in .npz, .mtx, .smtx, got '.txt'"),
]


def refuses(file: str, text: str, capsys: Capture) -> None:
    """As the second of two files, whose first is good."""
    assert quick("a.npz", file) == 2
    error = error_of(capsys)
    assert f"error: {file}: " in error
    assert text in error


@pytest.mark.parametrize(("matrix", "text"), [case[1:] for case in NPZ], ids=[case[0] for case in NPZ])
@pytest.mark.usefixtures("files")
def test_second_file_with_bad_numbers(
    matrix: Any, text: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch)
    sp.save_npz("bad.npz", matrix)
    refuses("bad.npz", text, capsys)


@pytest.mark.parametrize(
    ("suffix", "content", "text"), [case[1:] for case in TEXT], ids=[" ".join(case[:2]) for case in TEXT]
)
@pytest.mark.usefixtures("files")
def test_second_file_with_bad_text(
    suffix: str, content: str, text: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch)
    Path(f"bad{suffix}").write_text(content)
    refuses(f"bad{suffix}", text, capsys)


@pytest.mark.usefixtures("files")
def test_second_file_that_is_none(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch)
    Path("folder.npz").mkdir()
    refuses("folder.npz", "Is a directory", capsys)
    refuses("absent.npz", "No such file or directory", capsys)

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 8 TiB")

    monkeypatch.setattr(cli.arguments.interop, "load_adjacency", no_memory)
    assert quick("a.npz") == 2
    assert "a.npz: expected a matrix that fits into memory (Unable to" in error_of(capsys)


@pytest.mark.usefixtures("files")
def test_second_cell_that_is_too_large(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch)
    assert quick("a.npz", "--batch", "2,1000000000000") == 2
    assert "a.npz, batch 1000000000000: the sparse layer itself needs" in error_of(capsys)


USAGE = [
    (["--batch", "32,64,32"], "argument --batch: expected each batch once, got 32 more than once"),
    (["--batch", "32,0"], "argument --batch: expected a whole number from 1 up, got '0'"),
    (["--batch", "32,"], "argument --batch: expected a whole number from 1 up, got ''"),
    (["--batch", "1e3"], "argument --batch: expected a whole number from 1 up, got '1e3'"),
    (["--baselines", "dense,none"], "argument --baselines: expected names out of dense, masked"),
    (["--json", "-", "--csv", "-"], "argument --csv: -: is also where --json goes"),
    (["--json", "r", "--csv", "./r"], "argument --csv: ./r: is also where --json goes"),
    (["--csv", "b.npz"], "argument --csv: b.npz: is also a file that is read"),
    (["--csv", "no/r"], "argument --csv: no/r: there is no directory no"),
    (["--report", "no/r.html"], "argument --report: no/r.html: there is no directory no"),
    (["--json", "r", "--report", "r"], "argument --report: r: is also where --json goes"),
    (["--json", "new.json", "--csv", "."], "argument --csv: .: is a directory"),
    (["--json", ""], "argument --json: .: is a directory"),
]


@pytest.mark.parametrize(("arguments", "text"), USAGE, ids=[" ".join(a) for a, _ in USAGE])
def test_wrong_usage(
    arguments: list[str], text: str, files: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch)
    assert quick(*files, *arguments) == 2
    assert text in error_of(capsys)
    assert sorted(os.listdir()) == files


def test_folder_that_is_read_only(files: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root every folder can be written, so the system's refusal is played."""
    forbid(monkeypatch)
    Path("locked").mkdir()
    touch = Path.touch

    def refuse(path: Path, *rest: Any, **options: Any) -> None:
        if path.parent.name == "locked":
            raise PermissionError(13, "Permission denied")
        touch(path, *rest, **options)

    monkeypatch.setattr(Path, "touch", refuse)
    assert quick(*files, "--json", "r.json", "--csv", "locked/r.csv") == 2
    assert "argument --csv: locked/r.csv: Permission denied" in error_of(capsys)
    assert os.listdir("locked") == []


def failing(error: BaseException, after: int) -> Callable[..., Any]:
    """profile(), but the cell of this number fails."""
    done: list[object] = []

    def run(*arguments: Any, **options: Any) -> Any:
        if len(done) == after:
            raise error
        done.append(None)
        return compare.profile(*arguments, **options)

    return run


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "sparselinear: error: interrupted"),
        (RuntimeError("torch fell over"), 1, "sparselinear: error: b.npz, batch 256: torch fell over"),
        (MemoryError(), 1, "sparselinear: error: b.npz, batch 256: MemoryError"),
    ],
)
def test_second_cell_fails(
    error: BaseException,
    code: int,
    text: str,
    files: list[str],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The table that was complete is there, and no file."""
    Path("r.json").write_text("old")
    monkeypatch.setattr(cli.profile, "profile", failing(error, after=1))
    assert quick(*files, "--json", "r.json", "--csv", "r.csv") == code
    out, err = capsys.readouterr()
    assert out.count("Time, ms") == 1
    assert "Summary" not in out
    assert err.splitlines()[-1] == text
    assert Path("r.json").read_text() == "old"
    assert sorted(os.listdir()) == [*files, "r.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_writing_fails_at_the_second_file(
    error: BaseException, files: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither file is touched."""
    written, write_text = [], Path.write_text

    def fail(path: Path, *rest: Any, **options: Any) -> int:
        written.append(path)
        if len(written) == 2:
            raise error
        return write_text(path, *rest, **options)

    Path("r.json").write_text("old")
    monkeypatch.setattr(Path, "write_text", fail)
    assert quick(*files, "--json", "r.json", "--csv", "r.csv") in (1, 130)
    assert len(written) == 2
    assert "error: " in capsys.readouterr().err
    assert Path("r.json").read_text() == "old"
    assert sorted(os.listdir()) == [*files, "r.json"]


def test_interrupted_check_leaves_nothing(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    touch = Path.touch

    def interrupt(path: Path, *rest: Any, **options: Any) -> None:
        touch(path, *rest, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "touch", interrupt)
    assert quick(*files, "--json", "r.json") == 130
    assert sorted(os.listdir()) == files


def test_two_results_may_go_to_one_device(files: list[str]) -> None:
    output.check_outputs({"--json": os.devnull, "--csv": os.devnull}, files)


@pytest.mark.skipif(os.name != "posix", reason="signals as Unix has them")
def test_interrupted_program_keeps_the_tables_it_printed(files: list[str]) -> None:
    options = ["--baselines", "none", "--batch", "4,5,6,7,8,9", "--rounds", "20", "--json", "r.json"]
    command = [sys.executable, "-m", "sparselinear", "profile", *files, "--threads", "1", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=memory._environment()
    ) as program:
        assert program.stderr is not None
        for line in program.stderr:
            if "a.npz, batch 5: timing" in line:
                break
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=120)
    assert program.returncode == 130
    assert err.splitlines()[-1] == "sparselinear: error: interrupted"
    assert "Traceback" not in err
    assert out.count("Time, ms") == 1
    assert "batch 4, float32" in out
    assert sorted(os.listdir()) == files
