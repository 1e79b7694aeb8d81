"""The compile at first use, on small sources: once for each machine, by one process, and never half."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from sparselinear import cli
from sparselinear.kernels import build
from sparselinear.kernels.build import BuildError, Library

GXX = next((path for path in map(shutil.which, ("g++", "c++", "clang++")) if path), "")
pytestmark = pytest.mark.skipif(not GXX, reason="needs a C++ compiler")

WORD = build._WORD.format("float32", "int32")
PLAIN = (
    '#include "answer.h"\nextern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }\n'
)
OPERATOR = """
#include <torch/csrc/stable/library.h>
#include "answer.h"
static int64_t answer(int64_t x) { return x + ANSWER; }
STABLE_TORCH_LIBRARY(sparselinear_build_test, m) { m.def("answer(int x) -> int"); }
STABLE_TORCH_LIBRARY_IMPL(sparselinear_build_test, CompositeExplicitAutograd, m) {
  m.impl("answer", TORCH_BOX(&answer));
}
"""
# A process of its own: builds, loads, and says how long that took.
PROCESS = """
import sys, time
from pathlib import Path
from sparselinear.kernels.build import Library
start = time.perf_counter()
Library(Path(sys.argv[1]), cache=Path(sys.argv[2])).load()
print(time.perf_counter() - start)
"""


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CXX", "CXXFLAGS", "SPARSELINEAR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "unit.cpp").write_text(PLAIN)
    (folder / "answer.h").write_text("#define ANSWER 41\n")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class Compiler:
    """A script that stands in for the compiler, notes what it is asked, and does more on request."""

    def __init__(self, folder: Path, name: str = "logged-g++") -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / name
        self.notes = folder / "notes"
        self.does("")

    def does(self, more: str) -> None:
        self.path.write_text(f'#!/bin/sh\necho "$*" >> {self.notes}\n{more}\nexec {GXX} "$@"\n')
        self.path.chmod(0o755)

    @property
    def runs(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    @property
    def compiled(self) -> int:
        return sum(" -c " in run for run in self.runs)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    script = Compiler(tmp_path / "bin")
    monkeypatch.setenv("CXX", str(script.path))
    return script


def start(sources: Path, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, str(sources), str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answer(library: Path) -> int:
    return int(ctypes.CDLL(str(library)).answer())


def test_an_operator(sources: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (sources / "unit.cpp").write_text(OPERATOR)
    library = Library(sources, cache=cache)
    library.load()
    shutil.rmtree(cache)
    library.load()
    assert torch.ops.sparselinear_build_test.answer(1) == 42
    assert capfd.readouterr() == ("", f"{WORD}\n")


def test_a_second_process_compiles_nothing(
    sources: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Library(sources, cache=cache).build()
    before = {file: file.stat().st_mtime_ns for file in (cache, *cache.iterdir())}
    never = Compiler(tmp_path / "bin", "g++")
    monkeypatch.setenv("PATH", str(never.path.parent), prepend=os.pathsep)
    with start(sources, cache) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err, never.runs) == (0, "", [])
    assert float(out) < 0.5  # 0.001 on an idle machine
    # Nothing was written either, so the folder may be a read-only part of a container, which has no compiler.
    assert {file: file.stat().st_mtime_ns for file in (cache, *cache.iterdir())} == before
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Library(sources, cache=cache).build() == path


def test_two_processes_compile_once(sources: Path, cache: Path, compiler: Compiler) -> None:
    compiler.does('case "$*" in *" -c "*) sleep 1;; esac')
    with start(sources, cache) as one, start(sources, cache) as other:
        told = [process.communicate(timeout=120)[1] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0)
    assert sorted(told) == ["", f"{WORD}\n"]
    assert compiler.compiled == 1


def test_a_failure_is_shared_by_those_who_waited(sources: Path, cache: Path, compiler: Compiler) -> None:
    compiler.does("""case "$*" in *" -c "*) sleep 0.5; echo 'error: no' >&2; exit 1;; esac""")
    failures: list[str] = []

    def fail() -> None:
        with pytest.raises(BuildError) as failure:
            Library(sources, cache=cache).load()
        failures.append(str(failure.value))

    threads = [threading.Thread(target=fail) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert compiler.compiled == 1
    assert len(set(failures)) == 1


@pytest.mark.parametrize(
    "change", ["source", "new source", "header", "sums", "index", "CXXFLAGS", "CXX", "CPU", "torch"]
)
def test_what_makes_another_library(
    change: str, sources: Path, cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Library(sources, cache=cache).build()
    if change == "source":
        (sources / "unit.cpp").write_text(PLAIN.replace("return", "return 1 +"))
    elif change == "new source":
        (sources / "other.cpp").write_text("int one() { return 1; }\n")
        (sources / "unit.cpp").write_text("int one();\n" + PLAIN.replace("return", "return one() +"))
    elif change == "header":
        (sources / "answer.h").write_text("#define ANSWER 42\n")
    elif change in ("CXX", "CXXFLAGS"):
        (sources / "answer.h").write_text("#ifndef ANSWER\n#define ANSWER 41\n#endif\n")
        before = Library(sources, cache=cache).build()
        monkeypatch.setenv(change, f"{compiler.path if change == 'CXX' else ''} -DANSWER='40 + 2'")
    elif change == "CPU":
        monkeypatch.setattr(build, "_cpu", lambda: "another")
    elif change == "torch":
        monkeypatch.setattr(torch, "__version__", "2.99")
    elif change == "index":
        (sources / "answer.h").write_text(
            "#include <cstdint>\n#define ANSWER (40 + int(sizeof(SPARSELINEAR_INDEX)) / 4)\n"
        )
    elif change == "sums":
        (sources / "answer.h").write_text(
            "#ifdef SPARSELINEAR_DOUBLE\n#define ANSWER 42\n#else\n#define ANSWER 41\n#endif\n"
        )
    if change in ("index", "sums"):
        before = Library(sources, cache=cache).build()
        assert answer(before) == 41
    compiled = compiler.compiled
    types = {"sums": (torch.float64, torch.int32), "index": (torch.float32, torch.int64)}.get(change, ())
    after = Library(sources, *types, cache=cache).build()
    assert after != before
    assert compiler.compiled == compiled + len(list(sources.glob("*.cpp")))
    assert answer(after) == (41 if change in ("CPU", "torch") else 42)


def test_asked_for_flags_arrive(
    sources: Path, cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXXFLAGS", "-O1 -std=c++11 -march=nonsense -DANSWER='40 + 4'")
    (sources / "answer.h").write_text("static_assert(__cplusplus >= 202002L);\n")
    native = build._native([str(compiler.path)])
    assert native
    if native == ["-march=native"]:  # of two that contradict each other the last counts
        assert answer(Library(sources, cache=cache).build()) == 44
    unit = next(run for run in compiler.runs if " -c " in run)
    assert unit.index("-O3") < unit.index("-O1") < unit.index("-std=c++20") < unit.index(native[0])


@pytest.mark.parametrize(
    ("refused", "flag"), [("none", ["-march=native"]), ("-march*", ["-mcpu=native"]), ("-m*", [])]
)
def test_flag_of_the_machine(refused: str, flag: list[str], tmp_path: Path) -> None:
    script = tmp_path / "cxx"
    script.write_text(f'#!/bin/sh\ncase "$*" in {refused}) exit 1;; esac\n')
    script.chmod(0o755)
    assert build._native([str(script)]) == flag


def test_no_compiler(sources: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"^no C\+\+ compiler was found: install g\+\+ or clang\+\+, or set"):
        Library(sources, cache=cache).load()
    monkeypatch.setenv("CXX", "not-there -v")
    with pytest.raises(BuildError, match="CXX names 'not-there', which was not found"):
        Library(sources, cache=cache).load()
    monkeypatch.setenv("CXX", "'not closed")
    with pytest.raises(BuildError, match=r"CXX cannot be read \(No closing quotation\)"):
        Library(sources, cache=cache).load()
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(BuildError, match="not supported on Windows"):
        Library(sources, cache=cache).load()
    assert not cache.exists()


def test_compiler_that_fails(
    sources: Path, cache: Path, compiler: Compiler, capfd: pytest.CaptureFixture[str]
) -> None:
    (sources / "answer.h").write_text("\nint first = none;\nint second = none;\n#define ANSWER 1\n")
    library = Library(sources, cache=cache)
    with pytest.raises(BuildError, match=r"answer\.h:2:\d+: error: .*none") as failure:
        library.load()
    text, (log,), runs = str(failure.value), cache.glob("*.log"), compiler.runs
    assert text.startswith("the C++ compiler failed (")
    assert text.endswith(f"the full log is in {log}")
    assert "\n" not in text
    assert "answer.h:3" in log.read_text()
    with pytest.raises(BuildError) as again:
        library.load()
    assert (str(again.value), compiler.runs) == (text, runs)
    assert capfd.readouterr() == ("", f"{WORD}\n")
    assert not list(cache.glob("*.so"))


def test_other_failures(sources: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXXFLAGS", "-lnot_there")
    with pytest.raises(BuildError, match=r"the C\+\+ compiler failed .*not_there"):
        Library(sources, cache=cache).load()
    monkeypatch.delenv("CXXFLAGS")
    path = Library(sources, cache=cache).build()
    path.write_text("")
    with pytest.raises(BuildError, match=rf"does not load \(.*short.*\): delete {path} to compile it anew"):
        Library(sources, cache=cache).load()
    (sources / "in.the.way").touch()
    with pytest.raises(BuildError, match=r"in\.the\.way/c cannot be written \(Not a directory\): set SPARSE"):
        Library(sources, cache=sources / "in.the.way" / "c").load()
    with pytest.raises(BuildError, match="there are no C"):
        Library(cache, cache=cache).load()


def test_a_killed_build_leaves_no_library(sources: Path, cache: Path, compiler: Compiler) -> None:
    held = compiler.path.parent / "held"
    half = f"out=${{*##*-o }}; touch {held} ${{out%% *}}; while [ -e {held} ]; do sleep 0.05; done"
    compiler.does(f'case "$*" in *-shared*) {half};; esac')
    with start(sources, cache) as process:
        until = time.monotonic() + 60
        while not held.exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.kill()
    assert [file.suffix for file in cache.glob("*/native-*")] == [""]  # what the linker had begun
    assert not list(cache.glob("*.so"))
    held.unlink()
    compiler.does("")
    assert answer(Library(sources, cache=cache).build()) == 41


def test_file_system_without_locks(sources: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> None:
        def flock(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    refuse(errno.EIO)
    with pytest.raises(BuildError, match="cannot be written"):
        Library(sources, cache=cache).build()
    refuse(errno.ENOLCK)
    assert answer(Library(sources, cache=cache).build()) == 41


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build._cache_folder() == tmp_path / ".cache" / "sparselinear"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert build._cache_folder() == tmp_path / ".cache" / "sparselinear"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert build._cache_folder() == tmp_path / "xdg" / "sparselinear"
    monkeypatch.setenv("SPARSELINEAR_CACHE", "~/own")
    assert build._cache_folder() == tmp_path / "own"
    monkeypatch.setenv("SPARSELINEAR_CACHE", "~nobody-of-this-name/own")
    with pytest.raises(BuildError, match="no home folder is known: set SPARSELINEAR_CACHE"):
        build._cache_folder()


def test_identity_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build._cpu() == build._cpu()
    if sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64"):
        assert any(feature in build._cpu() for feature in (" sse2 ", " asimd "))
        assert "MHz" not in build._cpu()
    (tmp_path / "sysctl").write_text("#!/bin/sh\necho Apple M9 $2\n")
    (tmp_path / "sysctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Apple M9 machdep.cpu.brand_string" in build._cpu()


def test_command(
    sources: Path,
    cache: Path,
    compiler: Compiler,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for types in build._LIBRARIES:
        monkeypatch.setitem(build._LIBRARIES, types, Library(sources, *types, cache=cache))
    assert cli.main(["build"]) == 0
    (library,) = cache.glob("*.so")
    assert capsys.readouterr() == (f"{library}\n", f"{WORD}\n")
    assert cli.main(["build"]) == 0
    assert capsys.readouterr() == (f"{library}\n", "")
    others = []
    for option, types in (("--int64", ("float32", "int64")), ("--float64", ("float64", "int32"))):
        assert cli.main(["build", option]) == 0
        others += set(cache.glob("*.so")) - {library, *others}
        assert capsys.readouterr() == (f"{library}\n{others[-1]}\n", f"{build._WORD.format(*types)}\n")
    assert cli.main(["build", "--int64", "--float64"]) == 0
    out, err = capsys.readouterr()
    assert (len(set(out.split())), err) == (4, f"{build._WORD.format('float64', 'int64')}\n")
    monkeypatch.setenv("CXX", "not-there")
    plain = torch.float32, torch.int32
    monkeypatch.setitem(build._LIBRARIES, plain, Library(sources, *plain, cache=cache))
    assert cli.main(["build"]) == 1
    reason = "CXX names 'not-there', which was not found: unset it, or name a C++ compiler"
    assert capsys.readouterr() == ("", f"sparselinear: error: {reason}\n")


@pytest.mark.slow
def test_the_kernels_themselves(
    cache: Path, tmp_path: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSELINEAR_CACHE", str(cache))
    command = [sys.executable, "-m", "sparselinear", "build"]
    first = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (first.returncode, first.stderr) == (0, f"{WORD}\n")
    runs = compiler.runs
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert compiler.runs == runs
    assert Path(first.stdout.strip()).parent == cache
