"""What commands take: the types of their arguments, and the adjacency in a file."""

from __future__ import annotations

import argparse
from importlib.resources import as_file, files

import torch

from .. import checks, interop
from ..pattern import SparsityPattern
from ..profiling import compare

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in checks.FLOATING}
SHIPPED = "reactome_pathways_x_uniprot.npz"


class UsageError(Exception):
    """What the user passed cannot be used; the text says why."""


def add_layers(command: argparse.ArgumentParser) -> None:
    """The options of a command that looks at layers: files, batches, dtype, threads."""
    add = command.add_argument
    add(
        "files",
        metavar="FILE",
        nargs="*",
        help="adjacency, rows are outputs: .npz (scipy.sparse), .mtx or .smtx; "
        "without one, proteins to Reactome pathways",
    )
    add(
        "--batch",
        type=batches,
        default=[256],
        metavar="N[,N...]",
        help="rows of the input; of several one after the other (default: 256)",
    )
    add("--dtype", type=dtype, default="float32", help=f"{', '.join(DTYPES)} (default: float32)")
    add("--threads", type=count, metavar="N", help="threads torch may use (default: torch's choice)")


def count(text: str) -> int:
    """A whole number from 1 up."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 up, got {text!r}")
    return number


def batches(text: str) -> list[int]:
    """Batches with commas between them, each once."""
    found = [count(part) for part in text.split(",")]
    for batch in found:
        if found.count(batch) > 1:
            raise argparse.ArgumentTypeError(f"expected each batch once, got {batch} more than once")
    return found


def dtype(text: str) -> str:
    """The name of a dtype, one of DTYPES."""
    if text not in DTYPES:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(DTYPES)}, got {text!r}")
    return text


def baselines(text: str) -> str:
    """Names of baselines, with commas between them, or all or none."""
    try:
        compare.select(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("baselines: ")) from None
    return text


def device(text: str) -> torch.device:
    """A device that is there; called when the options are known, as the message is not argparse's."""
    try:
        known = torch.device(text).type in ("cpu", "cuda")
    except RuntimeError:
        known = False
    if not known:
        raise UsageError(f"argument --device: expected cpu, cuda or cuda:N, got {text!r}")
    try:
        return checks.device("argument --device", text)
    except RuntimeError as error:
        raise UsageError(error) from error


def read_adjacency(path: str | None) -> tuple[str, SparsityPattern]:
    """Name and pattern of the adjacency in a file, or of the one that ships with the package."""
    try:
        if path is None:
            with as_file(files("sparselinear") / "data" / SHIPPED) as shipped:
                pattern = interop.to_pattern(interop.load_adjacency(shipped), device="cpu")
            return f"{SHIPPED}, which ships with sparselinear", pattern
        pattern = interop.to_pattern(interop.load_adjacency(path), device="cpu")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        raise UsageError(error) from error
    except MemoryError as error:
        raise UsageError(f"{path}: expected a matrix that fits into memory ({error})") from error
    if 0 in pattern.shape:
        sides = f"{pattern.out_features} outputs and {pattern.in_features} inputs"
        raise UsageError(f"{path}: expected at least one output and one input, got {sides}")
    return path, pattern
