"""The command line: arguments in, tables out. ``sparselinear profile`` sets dense and sparse side by side.

``sparselinear build`` compiles the native kernels ahead of their first use.
Results go to the standard output, progress and errors to the standard error. The exit code is 0 when
all went well, 2 when arguments or files are wrong, 1 when the work itself failed, 130 after Ctrl-C, and
141 when the reader of a pipe went away.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import as_file, files
from pathlib import Path
from typing import NoReturn

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from . import checks, interop
from .kernels import build
from .pattern import SparsityPattern
from .profiling import BASELINES, compare, profile, render

OK, FAILED, WRONG, INTERRUPTED, NO_READER = 0, 1, 2, 130, 141

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in checks.FLOATING}
SHIPPED = "reactome_pathways_x_uniprot.npz"

_EPILOG = """\
examples:
  sparselinear profile                            a real matrix that ships with the package
  sparselinear profile A.npz --batch 64           a file written by scipy.sparse.save_npz
  sparselinear profile A.mtx --baselines dense,csr --json result.json
"""

_BUILD = (
    "Compile the native CPU kernels unless the cache holds them, and print the path of the library; without "
    "this command the first layer does so. The cache is the folder SPARSELINEAR_CACHE, or else sparselinear "
    "in XDG_CACHE_HOME or in ~/.cache. The library is for one kind of CPU and one torch: build the image of "
    "a container on the kind of machine that it runs on, with the same CXX and CXXFLAGS, if any."
)


class _UsageError(Exception):
    """What the user passed cannot be used; the text says why."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise, so that every error is one line and leaves by one door."""
        raise _UsageError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the name of the program; None takes them from ``sys.argv``.

    Returns:
        The exit code.
    """
    try:
        try:
            code = _run(arguments)
        except SystemExit as leave:  # --help, --version
            code = int(leave.code or 0)
        sys.stdout.flush()
        return code
    except _UsageError as error:
        return _complain(error, WRONG)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The interpreter flushes at exit once more, into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except (RuntimeError, MemoryError, ValueError, OSError) as error:
        return _complain(error, FAILED)


def _complain(error: object, code: int) -> int:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"sparselinear: error: {text}", file=sys.stderr)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "build":
        build.load()
        print(build.build())
        return OK
    return _profile(options)


def _profile(options: argparse.Namespace) -> int:
    device = _device(options.device)
    if options.json not in (None, "-"):
        _check_writable(Path(options.json))
    name, pattern = _read(options.file)
    with _progress() as progress:
        result = profile(
            pattern,
            batch=options.batch,
            dtype=DTYPES[options.dtype],
            device=device,
            threads=options.threads,
            baselines=options.baselines,
            rounds=options.rounds,
            name=name,
            progress=progress,
        )
    render(result, _Output(highlight=False, stderr=options.json == "-"))
    if options.json is not None:
        _write(options.json, json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n")
    return OK


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="sparselinear",
        description="Linear layers for PyTorch whose weights are a sparse graph.",
        epilog=_EPILOG,
        formatter_class=shape,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    command = commands.add_parser(
        "profile",
        prog="sparselinear profile",
        help="time and memory of sparse, dense and masked layers over one adjacency",
        description="Time and memory of a sparse layer, and of the systems people use instead, side by side.",
        epilog=_EPILOG + "\nbaselines:\n" + "".join(f"  {b.name:<15} {b.text}\n" for b in BASELINES.values()),
        formatter_class=shape,
    )
    _add_options(command)
    commands.add_parser(
        "build",
        prog="sparselinear build",
        help="compile the native CPU kernels now, not at first use",
        description=_BUILD,
    )
    return parser


def _version() -> str:
    try:
        own = version("torch-sparselinear")
    except PackageNotFoundError:
        own = "of a source tree"
    return f"sparselinear {own} (torch {torch.__version__})"


def _add_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "file",
        metavar="FILE",
        nargs="?",
        help="adjacency, rows are outputs: .npz (scipy.sparse), .mtx or .smtx; "
        "without one, proteins to Reactome pathways",
    )
    add("--batch", type=_count, default=256, metavar="N", help="rows of the input (default: 256)")
    add("--dtype", type=_dtype, default="float32", help=f"{', '.join(DTYPES)} (default: float32)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    add("--threads", type=_count, metavar="N", help="threads torch may use (default: torch's choice)")
    add(
        "--baselines",
        type=_baselines,
        default="all",
        metavar="NAMES",
        help="names out of the list below, with commas between them, or all or none (default: all)",
    )
    add("--rounds", type=_count, default=7, metavar="N", help="samples of each time (default: 7)")
    add("--json", metavar="FILE", help="write the result there too; - is the standard output")


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 up, got {text!r}")
    return number


def _dtype(text: str) -> str:
    if text not in DTYPES:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(DTYPES)}, got {text!r}")
    return text


def _baselines(text: str) -> str:
    try:
        compare.select(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("baselines: ")) from None
    return text


def _device(text: str) -> torch.device:
    try:
        known = torch.device(text).type in ("cpu", "cuda")
    except RuntimeError:
        known = False
    if not known:
        raise _UsageError(f"argument --device: expected cpu, cuda or cuda:N, got {text!r}")
    try:
        return checks.device("argument --device", text)
    except RuntimeError as error:
        raise _UsageError(error) from error


def _read(path: str | None) -> tuple[str, SparsityPattern]:
    """Name and pattern of the adjacency in a file, or of the one that ships with the package."""
    try:
        if path is None:
            with as_file(files("sparselinear") / "data" / SHIPPED) as shipped:
                pattern = interop.to_pattern(interop.load_adjacency(shipped), device="cpu")
            return f"{SHIPPED}, which ships with sparselinear", pattern
        pattern = interop.to_pattern(interop.load_adjacency(path), device="cpu")
    except OSError as error:
        raise _UsageError(f"{path}: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        raise _UsageError(error) from error
    if 0 in pattern.shape:
        sides = f"{pattern.out_features} outputs and {pattern.in_features} inputs"
        raise _UsageError(f"{path}: expected at least one output and one input, got {sides}")
    return path, pattern


class _Output(Console):
    """A console that leaves a broken pipe to main; rich would leave the program with code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


@contextlib.contextmanager
def _progress() -> Iterator[compare.Progress]:
    """A bar on a terminal; elsewhere one line for each stage. Both on the standard error."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        stages: set[str] = set()

        def tell(done: int, total: int, stage: str, detail: str) -> None:
            if stage not in stages:
                stages.add(stage)
                print(f"sparselinear: {stage}", file=sys.stderr, flush=True)

        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def draw(done: int, total: int, stage: str, detail: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{stage}: {detail}")

        yield draw


def _check_writable(path: Path) -> None:
    """Find out before the work, not after it, that the result cannot be written.

    Raises:
        _UsageError: it cannot.
    """
    if path.is_dir():
        raise _UsageError(f"argument --json: {path}: is a directory")
    if not path.parent.is_dir():
        raise _UsageError(f"argument --json: {path}: there is no directory {path.parent}")
    if path.exists() and not os.access(path, os.W_OK):
        raise _UsageError(f"argument --json: {path}: permission denied")
    if path.exists() and not path.is_file():  # /dev/null, a pipe
        return
    try:
        draft = _draft(path)
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise _UsageError(f"argument --json: {path}: {error.strerror}") from error


def _draft(path: Path) -> Path:
    """The file next to the target that is written first, so that the target is whole or untouched."""
    target = path.resolve()
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def _write(path: str, text: str) -> None:
    if path == "-":
        print(text, end="")
        return
    if os.path.exists(path) and not os.path.isfile(path):
        Path(path).write_text(text)
        return
    draft = _draft(Path(path))
    try:
        draft.write_text(text)
        os.replace(draft, Path(path).resolve())
    finally:
        draft.unlink(missing_ok=True)
