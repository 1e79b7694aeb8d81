"""Ctrl-C while the command line still imports torch: a stand-in for torch says when, and waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparselinear import interrupt

ROOT = Path(__file__).resolve().parents[1]
WAITING_TORCH = "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
IMPORTING = "import sparselinear"
PROGRAM = "from sparselinear.cli import main\nmain()"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as Unix has them")


def interrupted(folder: Path, *command: str) -> tuple[int, str]:
    """Exit code and standard error of a Python that gets Ctrl-C while torch is imported."""
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(WAITING_TORCH)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    with subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stderr is not None
        assert program.stderr.readline() == "importing\n"
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=50)
    return program.returncode, err


def test_module(tmp_path: Path) -> None:
    found = interrupted(tmp_path, "-W", "ignore", "-m", "sparselinear", "profile")
    assert found == (130, "sparselinear: error: interrupted\n")


def test_script(tmp_path: Path) -> None:
    script = tmp_path / "sparselinear"
    script.write_text(PROGRAM)
    assert interrupted(tmp_path, str(script), "profile") == (130, "sparselinear: error: interrupted\n")


def test_a_program_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    code, err = interrupted(tmp_path, "-c", IMPORTING)
    assert code == -signal.SIGINT
    assert err.endswith("KeyboardInterrupt\n")


def test_a_handler_of_ones_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bin/sparselinear", "profile"])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupt.answer_during_imports()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        interrupt.leave_to_python()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupt.answer_during_imports()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        interrupt.leave_to_python()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
