"""The native libraries: C++ that is compiled for the machine it runs on, at first use, and kept in a cache.

There is one for each type of sums and of indices, from the same sources: whoever has neither float64 nor
64-bit indices does not wait for their loops to be compiled.

Whatever would make it another library is hashed into its name: the sources, the flags with $CXXFLAGS, $CXX,
torch, the C library and the CPU, so that a cache on a home folder shared by several kinds of machine holds
a library for each. Which compiler answers to the name is left out. A start that finds the library runs no
compiler, not even for its version: it takes milliseconds, and a container may ship the library without a
compiler. After an upgrade of the compiler the old library is as right as before; the log beside it tells
which one made it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import ENOLCK, ENOSYS, EOPNOTSUPP
from itertools import product, takewhile
from pathlib import Path

import torch

_TORCH = Path(torch.__file__).parent
_INCLUDES = tuple(f"-I{_TORCH / 'include' / folder}" for folder in ("", "torch/csrc/api/include"))
# The stable ABI as it was in torch 2.10, the oldest torch that is supported.
_FLAGS = ("-O3", *_INCLUDES, "-DTORCH_TARGET_VERSION=0x020a000000000000", "-fPIC", "-fvisibility=hidden")
# These follow $CXXFLAGS, in which an active conda environment asks for the CPU of 2004 (-march=nocona).
_STANDARD = "-std=c++20"
_NATIVE = ("-march=native", "-mcpu=native")  # clang knows only the second on some ARM machines
_LINK = (f"-L{_TORCH / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{_TORCH / 'lib'}")

_COMPILERS = ("g++", "c++", "clang++")
_WORD = "sparselinear: compiling its CPU kernels for this machine, {} and {} indices, once (some 20 s) ..."
_FAILURE = re.compile(r"\berror: |undefined (reference|symbol)|cannot find|^exit status", re.IGNORECASE)

# Lines of /proc/cpuinfo that -march=native depends on.
_X86_LINES = ("vendor_id", "cpu family", "model", "flags")
_CPU_LINES = (*_X86_LINES, "CPU implementer", "CPU variant", "CPU part", "Features", "cpu\t", "isa")


class BuildError(RuntimeError):
    """The native library could not be built or loaded; the text is one line that says why and what to do."""


class Library:
    """The shared library that a folder of C++ sources makes, and the operators that it registers.

    Args:
        sources: a folder of ``*.cpp``, each compiled by itself, and of ``*.h``.
        sums: the type in which sums are taken, ``torch.float32`` or ``torch.float64``; for the second
            sources see ``SPARSELINEAR_DOUBLE``.
        index_dtype: the type of indices, ``torch.int32`` or ``torch.int64``, which sources see as
            ``SPARSELINEAR_INDEX``.
        cache: where the library is kept. None is ``$SPARSELINEAR_CACHE``, or else the folder
            ``sparselinear`` in ``$XDG_CACHE_HOME`` or in ``~/.cache``, asked for when it is needed.
    """

    def __init__(
        self,
        sources: Path,
        sums: torch.dtype = torch.float32,
        index_dtype: torch.dtype = torch.int32,
        *,
        cache: Path | None = None,
    ) -> None:
        self._sources = sources
        self._sums, self._index_dtype = sums, index_dtype
        self._cache = cache
        self._once = threading.Lock()
        self._loaded = False
        self._failure = ""

    def load(self) -> None:
        """Make the operators available in ``torch.ops``; compile the library if the cache has none.

        The first call does the work or fails. Later ones, from any thread, return or raise the same at once.

        Raises:
            BuildError: there is no library, or it does not load.
        """
        with self._once:
            if self._failure:
                raise BuildError(self._failure)
            if not self._loaded:
                try:
                    _load(self.build())
                except BuildError as error:
                    self._failure = str(error)
                    raise
                self._loaded = True

    def path(self) -> Path:
        """Where the library is, or would be; the head of this file tells what its name is made of.

        Raises:
            BuildError: there can be none on this system, or no folder to keep it in.
        """
        if sys.platform == "win32":
            raise BuildError("the native kernels are not supported on Windows: those of torch run")
        asked = (os.environ.get("CXX", ""), os.environ.get("CXXFLAGS", ""))
        flags = (*self._flags, _STANDARD, *_NATIVE, *_LINK, *asked)
        parts = (*flags, str(torch.__version__), _c_library(), _cpu())
        digest = hashlib.sha256("\0".join(parts).encode())
        for file in (*self._units(), *sorted(self._sources.glob("*.h"))):
            content = file.read_bytes()
            digest.update(f"\0{file.name} {len(content)}\0".encode() + content)
        return (self._cache or _cache_folder()) / f"native-{digest.hexdigest()[:20]}.so"

    def build(self) -> Path:
        """The path of the library, which is compiled if the cache has none.

        Raises:
            BuildError: there is no library, and none can be made.
        """
        path = self.path()
        if not path.is_file():
            try:
                self._build(path)
            except OSError as error:
                reason = f"the cache folder {path.parent} cannot be written ({error.strerror or error})"
                raise BuildError(f"{reason}: set SPARSELINEAR_CACHE to one that can") from error
        return path

    @property
    def _flags(self) -> tuple[str, ...]:
        double = ("-DSPARSELINEAR_DOUBLE",) if self._sums == torch.float64 else ()
        return (*_FLAGS, f"-DSPARSELINEAR_INDEX={name(self._index_dtype)}_t", *double)

    def _units(self) -> list[Path]:
        """The sources to compile."""
        found = sorted(self._sources.glob("*.cpp"))
        if not found:
            raise BuildError(f"there are no C++ sources in {self._sources}: install sparselinear anew")
        return found

    def _build(self, path: Path) -> None:
        compiler = _compiler()
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.with_suffix(".log")
        before = _modified(log)
        with _alone(path.with_suffix(".lock")):
            if path.is_file():
                return
            if _modified(log) != before:  # another process failed meanwhile, as this one would
                raise _failure_in(log)
            print(_WORD.format(name(self._sums), name(self._index_dtype)), file=sys.stderr, flush=True)
            _compile(compiler, self._flags, self._units(), path, log)


def name(dtype: torch.dtype) -> str:
    """A dtype without the name of torch before it."""
    return str(dtype).removeprefix("torch.")


_LIBRARIES = {
    types: Library(Path(__file__).parent / "csrc", *types)
    for types in product((torch.float32, torch.float64), (torch.int32, torch.int64))
}


def load(sums: torch.dtype = torch.float32, index_dtype: torch.dtype = torch.int32) -> None:
    """Make the native operators for these types of sums and indices available; see :meth:`Library.load`."""
    _LIBRARIES[sums, index_dtype].load()


def path(sums: torch.dtype = torch.float32, index_dtype: torch.dtype = torch.int32) -> Path:
    """Where the native library for these types is, or would be; see :meth:`Library.path`."""
    return _LIBRARIES[sums, index_dtype].path()


def build(sums: torch.dtype = torch.float32, index_dtype: torch.dtype = torch.int32) -> Path:
    """The path of the native library for these types; see :meth:`Library.build`."""
    return _LIBRARIES[sums, index_dtype].build()


def _load(path: Path) -> None:
    try:
        torch.ops.load_library(path)
    except OSError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        advice = f"delete {path} to compile it anew, or set CXX to another compiler"
        raise BuildError(f"the compiled library does not load ({reason}): {advice}") from error


def _compile(compiler: list[str], flags: tuple[str, ...], units: list[Path], path: Path, log: Path) -> None:
    """Compile and link, and put the library in its place as a whole, or leave nothing but the log."""
    command = [*compiler, *flags, *_words("CXXFLAGS"), _STANDARD, *_native(compiler)]
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}.", dir=path.parent) as draft:
        objects = [f"{draft}/{unit.stem}.o" for unit in units]
        library = f"{draft}/{path.stem}"
        steps = [[*command, "-c", str(u), "-o", o] for u, o in zip(units, objects, strict=True)]
        with ThreadPoolExecutor(min(len(steps), _cores())) as pool:
            results = list(pool.map(_run, steps))
        if all(well for well, _ in results):
            results.append(_run([*command, "-shared", *objects, "-o", library, *_LINK]))
        results.sort(key=lambda result: result[0])  # what failed comes first
        told = [text for _, text in results] + [_run([*compiler, "--version"])[1]]
        if results[0][0]:
            os.replace(library, path)
        log.write_text("".join(told), encoding="utf-8")
        if not results[0][0]:
            raise _failure_in(log)


def _run(command: list[str]) -> tuple[bool, str]:
    """Whether a command did its work, and what the log is to say of it."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
            encoding="utf-8",
            errors="replace",
        )
        output, status = done.stdout, done.returncode
    except OSError as error:
        output, status = f"error: {command[0]} does not run: {error.strerror}\n", 126
    return status == 0, f"$ {shlex.join(command)}\n{output}exit status {status}\n"


def _failure_in(log: Path) -> BuildError:
    """The error of the failed compile that a log tells of."""
    lines = (line for line in log.read_text(encoding="utf-8").splitlines() if not line.startswith("$ "))
    first = next(line.strip()[:300] for line in lines if _FAILURE.search(line))
    return BuildError(f"the C++ compiler failed ({first}): the full log is in {log}")


def _compiler() -> list[str]:
    """The command that compiles C++, without flags."""
    asked = _words("CXX")
    if asked and shutil.which(asked[0]) is None:
        raise BuildError(f"CXX names {asked[0]!r}, which was not found: unset it, or name a C++ compiler")
    found = asked or [path for path in map(shutil.which, _COMPILERS) if path][:1]
    if not found:
        raise BuildError("no C++ compiler was found: install g++ or clang++, or set CXX")
    return found


def _words(variable: str) -> list[str]:
    """What an environment variable asks for, quoted as in a shell."""
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise BuildError(f"{variable} cannot be read ({error}): quote it as for a shell") from error


def _native(compiler: list[str]) -> list[str]:
    """The flag that asks for the instructions of this machine; none for a compiler that has no such flag."""
    return [flag for flag in _NATIVE if _run([*compiler, flag, "-E", "-x", "c++", os.devnull])[0]][:1]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cache_folder() -> Path:
    own, shared = os.environ.get("SPARSELINEAR_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    try:
        if own:
            return Path(own).expanduser().absolute()
        # A relative path counts for none there, says the specification of XDG.
        return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "sparselinear"
    except RuntimeError as error:
        raise BuildError("no home folder is known: set SPARSELINEAR_CACHE to a cache folder") from error


def _cpu() -> str:
    """What tells one kind of CPU from another: its model and its instructions."""
    machine = os.uname().machine
    if sys.platform == "darwin":
        return machine + _run(["sysctl", "-n", "machdep.cpu.brand_string"])[1]
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            first = takewhile(str.strip, file)  # core alone: Linux asks each for its clock, which takes time
            return machine + "".join(line for line in first if line.startswith(_CPU_LINES))
    except OSError:
        return machine


def _c_library() -> str:
    """The version of glibc, for containers on one home folder may have several; empty if it is another."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def _modified(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold a lock, which the kernel takes back from a process that dies.

    Where the file system knows no locks there is none: two builds at once cost time and nothing else.
    """
    import fcntl  # Windows has none

    with open(file, "w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (ENOLCK, ENOSYS, EOPNOTSUPP):
                raise
        yield
