"""scipy, numpy, torch and files <-> pattern. The only module that imports scipy.

Whatever form an adjacency comes in, it passes through one canonical ``scipy.sparse.csr_array``:
rows sorted, duplicates summed, explicitly stored zeros kept, since a stored zero is a connection.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from . import checks
from .checks import message
from .pattern import SparsityPattern

FORMATS = (".npz", ".mtx", ".smtx")

_ACCEPTED = (
    "a scipy.sparse matrix or array, a torch tensor (COO, CSR, CSC or dense), a numpy array "
    "or a SparsityPattern"
)


def to_csr(adjacency: Any, *, keep_values: bool = True) -> sp.csr_array:
    """Canonical CSR form of an adjacency: sorted, duplicates summed, explicit zeros kept.

    Args:
        adjacency: (rows, columns) scipy.sparse matrix or array of any format, torch tensor (COO, CSR,
            CSC or dense), numpy array or what converts to one; bool or real numbers. In a dense
            adjacency the entries that are not zero are connections.
        keep_values: whether the data is wanted. Without it the structure alone is converted, with
            one byte of data a connection, and that data is meaningless.

    Returns:
        A ``csr_array``, which shares memory with ``adjacency`` where nothing had to be changed.

    Raises:
        TypeError: not one of these types, or data that are not real numbers.
        ValueError: not 2-D, indices out of range, or an entry that is NaN or infinite.
    """
    return _canonical(adjacency, keep_values)[0]


def to_pattern(
    adjacency: Any,
    *,
    index_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> SparsityPattern:
    """The pattern of an adjacency whose rows are outputs.

    Args:
        adjacency: (out_features, in_features), as :func:`to_csr` takes it, or a pattern.
        index_dtype: dtype of the indices; None is the narrowest that holds them.
        device: where the indices are to live; None is torch's default device, or that of the pattern.

    Raises:
        TypeError: not a type that is accepted.
        ValueError: not a valid adjacency.
    """
    if isinstance(adjacency, SparsityPattern):
        pattern: SparsityPattern = adjacency
        if index_dtype not in (None, pattern.index_dtype):
            indices = pattern.crow_indices, pattern.col_indices
            pattern = SparsityPattern(*indices, pattern.shape, index_dtype=index_dtype)
        return pattern if device is None else pattern.to(device)
    csr, owned = _canonical(adjacency, keep_values=False)
    return _csr_pattern(csr, owned, index_dtype).to(checks.device("device", device))


def to_pattern_and_values(
    adjacency: Any, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> tuple[SparsityPattern, Tensor]:
    """The pattern of an adjacency whose rows are outputs, and its numbers.

    Args:
        adjacency: (out_features, in_features), as :func:`to_csr` takes it.
        device: where both are to live; None is torch's default device.
        dtype: dtype of the values; None is torch's default dtype.

    Returns:
        The pattern and its values (nnz,) in CSR order, which share no memory with the adjacency.

    Raises:
        TypeError: not a type that is accepted.
        ValueError: not a valid adjacency.
    """
    device, dtype = checks.device("device", device), checks.floating_dtype("dtype", dtype)
    csr, owned = _canonical(adjacency, keep_values=True)
    pattern = _csr_pattern(csr, owned, None).to(device)
    return pattern, _tensor(csr.data).to(device, dtype, copy=not owned)


def submatrix(adjacency: Any, rows: Any, columns: Any, *, keep_values: bool) -> sp.csr_array:
    """Rows and columns of an adjacency in the order given; None takes all.

    Args:
        adjacency: (n, m), as :func:`to_csr` takes it.
        rows: 1-D integers or a bool mask of length n.
        columns: 1-D integers or a bool mask of length m.
        keep_values: as in :func:`to_csr`.

    Raises:
        TypeError: rows or columns are not integers or bools.
        ValueError: they are out of range, negative, repeated, or a mask of another length.
    """
    csr = to_csr(adjacency, keep_values=keep_values)
    if rows is not None:
        csr = csr[_selection("inputs", rows, csr.shape[0])]
    if columns is not None:
        csr = csr[:, _selection("outputs", columns, csr.shape[1])]
    return csr


def to_scipy(pattern: SparsityPattern, values: Tensor) -> sp.csr_array:
    """A new ``csr_array`` (out_features, in_features); bfloat16 and float16 values become float32."""
    values = values.detach()
    if values.dtype in (torch.bfloat16, torch.float16):
        values = values.float()
    parts = (values, pattern.col_indices, pattern.crow_indices)
    # Copied by torch: fully_shard could not free values again that numpy has once looked at.
    return sp.csr_array(tuple(part.to("cpu", copy=True).numpy() for part in parts), shape=pattern.shape)


def load_adjacency(path: str | os.PathLike[str]) -> sp.csr_array:
    """Read an adjacency from a file, in canonical CSR form.

    Args:
        path: ``.npz`` as ``scipy.sparse.save_npz`` writes it, ``.mtx`` (Matrix Market), or ``.smtx``
            (Deep Learning Matrix Collection: sizes, row offsets and column indices as text; its
            values are ones). Nothing pickled is ever loaded.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: as for ``open``.
        ValueError: another format, or a file that is damaged or holds no matrix.
    """
    path = Path(path)
    with path.open("rb") as file:  # for the error of the operating system, before any parser's
        empty = not file.read(1)
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        expected = f"a file ending in {', '.join(FORMATS)}"
        raise ValueError(message(str(path), expected, f"'{suffix}'", "scipy.sparse.save_npz writes .npz."))
    if empty:
        raise ValueError(message(str(path), f"a {suffix} file", "an empty file"))
    try:
        return to_csr(_READERS[suffix](path))
    except (ValueError, TypeError, KeyError, EOFError, IndexError, OverflowError, OSError) as error:
        raise ValueError(_unreadable(path, suffix, error)) from error
    except (zipfile.BadZipFile, zlib.error, MemoryError, NotImplementedError) as error:
        raise ValueError(_unreadable(path, suffix, error)) from error


def _unreadable(path: Path, suffix: str, error: Exception) -> str:
    kind = {
        ".npz": "a sparse matrix written by scipy.sparse.save_npz",
        ".mtx": "a Matrix Market file",
        ".smtx": "three lines: 'rows, columns, nnz', row offsets, column indices",
    }[suffix]
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return message(str(path), kind, f"a file that cannot be read as one ({reason})")


def _read_npz(path: Path) -> Any:
    with path.open("rb") as file:  # closed even where numpy finds the file damaged
        return sp.load_npz(file)


def _read_mtx(path: Path) -> Any:
    import scipy.io  # 20 MB that only this format needs

    return scipy.io.mmread(path, spmatrix=False)  # of scipy 1.20 the default, of 1.18 a warning


def _read_smtx(path: Path) -> sp.csr_array:
    with path.open(encoding="ascii") as file:
        sizes = file.readline().replace(",", " ").split()
        offsets, columns = (np.array(file.readline().split(), dtype=np.int64) for _ in range(2))
    if len(sizes) != 3:
        raise ValueError(f"the first line holds {len(sizes)} numbers, not rows, columns and nnz")
    rows, cols, nnz = (int(number) for number in sizes)
    if rows < 0 or cols < 0 or columns.size != nnz:
        raise ValueError(f"sizes {rows}, {cols}, {nnz} but {columns.size} column indices")
    return sp.csr_array((np.ones(nnz, dtype=np.float32), columns, offsets), shape=(rows, cols))


_READERS = {".npz": _read_npz, ".mtx": _read_mtx, ".smtx": _read_smtx}


def _canonical(adjacency: Any, keep_values: bool) -> tuple[sp.csr_array, bool]:
    """What :func:`to_csr` gives, and whether its arrays are new, shared with nobody."""
    if isinstance(adjacency, Tensor):
        adjacency = _from_torch(adjacency)
    if not sp.issparse(adjacency):
        return sp.csr_array(_dense(adjacency)), True
    if adjacency.ndim != 2:
        raise ValueError(message("adjacency", "2 dimensions (rows, columns)", f"shape {adjacency.shape}"))
    owned = adjacency.format != "csr"
    if adjacency.format in ("lil", "dok"):  # their numbers are not in one array
        _check_numbers(adjacency.dtype, None)
        adjacency = adjacency.tocsr()
    _check_indices(adjacency)
    _check_numbers(adjacency.dtype, adjacency.data)
    adjacency = adjacency.astype(_plain(adjacency.dtype), copy=False)
    if not keep_values and adjacency.format in ("csr", "csc", "coo"):
        adjacency = _structure(adjacency)
    csr = sp.csr_array(adjacency)
    if not csr.has_canonical_format:
        csr = csr if owned else csr.copy()
        csr.sum_duplicates()
        owned = True
    return csr, owned


def _csr_pattern(csr: sp.csr_array, owned: bool, index_dtype: torch.dtype | None) -> SparsityPattern:
    indices = _tensor(csr.indptr), _tensor(csr.indices)
    return SparsityPattern(*indices, csr.shape, index_dtype=index_dtype, copy=not owned)


def _from_torch(tensor: Tensor) -> Any:
    """The same matrix as scipy or numpy sees it; sharing memory where it can."""
    if tensor.dim() != 2:
        got = f"shape {tuple(tensor.shape)}"
        raise ValueError(message("adjacency", "2 dimensions (out_features, in_features)", got))
    if tensor.is_meta:
        raise ValueError(message("adjacency", "a tensor that holds data", "one on the meta device"))
    tensor = tensor.detach()
    if tensor.layout == torch.strided:
        return _numpy(tensor)
    try:
        return _sparse_from_torch(tensor)
    except ValueError as error:  # scipy looks at the offsets at once
        raise ValueError(_bad_indices(tuple(tensor.shape), error)) from error


def _sparse_from_torch(tensor: Tensor) -> Any:
    layout, shape = tensor.layout, tuple(tensor.shape)
    if layout == torch.sparse_coo:
        rows, columns = _numpy(tensor._indices())
        return sp.coo_array((_numpy(tensor._values()), (rows, columns)), shape=shape)
    if layout == torch.sparse_csr:
        parts = tensor.values(), tensor.col_indices(), tensor.crow_indices()
        return sp.csr_array(tuple(_numpy(part) for part in parts), shape=shape)
    if layout == torch.sparse_csc:
        parts = tensor.values(), tensor.row_indices(), tensor.ccol_indices()
        return sp.csc_array(tuple(_numpy(part) for part in parts), shape=shape)
    raise TypeError(message("adjacency", _ACCEPTED, f"a tensor of layout {layout}"))


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    if tensor.dtype in (torch.bfloat16, torch.float16):  # numpy has no bfloat16, scipy no float16
        tensor = tensor.float()
    array: np.ndarray[Any, Any] = tensor.cpu().numpy()
    return array


def _dense(adjacency: Any) -> np.ndarray[Any, Any]:
    if isinstance(adjacency, (list, tuple)) or not hasattr(adjacency, "__array__"):
        advice = "Pass numpy.asarray(adjacency)." if isinstance(adjacency, (list, tuple)) else ""
        raise TypeError(message("adjacency", _ACCEPTED, checks.type_name(adjacency), advice))
    array: np.ndarray[Any, Any] = np.asarray(adjacency)
    if array.ndim != 2:
        raise ValueError(message("adjacency", "2 dimensions (rows, columns)", f"shape {array.shape}"))
    _check_numbers(array.dtype, array)
    return array.astype(_plain(array.dtype), copy=False)


def _check_numbers(dtype: np.dtype[Any], data: Any) -> None:
    if dtype.kind not in "biuf":
        expected = "bool or real numbers"
        raise TypeError(message("adjacency", expected, f"dtype {dtype}", "Pass adjacency != 0."))
    if dtype.kind == "f" and isinstance(data, np.ndarray) and data.dtype.kind == "f":
        bad = data.size - np.count_nonzero(np.isfinite(data))
        if bad:
            expected = "finite numbers (an entry that is stored is a connection)"
            raise ValueError(message("adjacency", expected, f"{bad} entries that are NaN or infinite"))


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The nearest dtype that both scipy.sparse and torch know."""
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return native


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """The array as torch sees it; a copy of one that is read-only, which torch does not share."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _check_indices(adjacency: Any) -> None:
    """Out-of-range indices, which scipy's own conversions would follow out of the array."""
    try:
        if adjacency.format in ("csr", "csc", "bsr"):
            adjacency.check_format(full_check=True)
        elif adjacency.format == "coo":
            for index, length in zip((adjacency.row, adjacency.col), adjacency.shape, strict=True):
                if index.size and not 0 <= index.min() <= index.max() < length:
                    raise ValueError(f"an index outside 0 to {length - 1}")
    except ValueError as error:
        raise ValueError(_bad_indices(adjacency.shape, error)) from error


def _bad_indices(shape: tuple[int, ...], error: Exception) -> str:
    return message("adjacency", f"indices within its shape {shape}", str(error).rstrip("."))


def _structure(adjacency: Any) -> Any:
    """The same structure with one byte of data a connection, sharing the indices."""
    data = np.zeros(adjacency.data.size, dtype=np.int8)
    if adjacency.format == "coo":
        return sp.coo_array((data, (adjacency.row, adjacency.col)), shape=adjacency.shape)
    kind = sp.csr_array if adjacency.format == "csr" else sp.csc_array
    return kind((data, adjacency.indices, adjacency.indptr), shape=adjacency.shape)


def _selection(argument: str, nodes: Any, length: int) -> np.ndarray[Any, Any]:
    if isinstance(nodes, Tensor):
        nodes = nodes.cpu().numpy()
    index: np.ndarray[Any, Any] = np.asarray(nodes)
    if index.ndim != 1 or (index.size and index.dtype.kind not in "biu"):
        got = f"dtype {index.dtype}, shape {index.shape}"
        raise TypeError(message(argument, "a 1-D list of node indices or a bool mask", got))
    if index.dtype.kind == "b":
        if index.size != length:
            raise ValueError(message(argument, f"a bool mask of length {length}", f"length {index.size}"))
        return np.flatnonzero(index)
    index = index.astype(np.int64)
    if index.size and not 0 <= index.min() <= index.max() < length:
        raise ValueError(
            message(argument, f"node indices from 0 to {length - 1}", f"{index.min()} to {index.max()}")
        )
    if np.unique(index).size != index.size:
        raise ValueError(message(argument, "each node once", "repeated node indices"))
    return index
