"""sparselinear: linear layers for PyTorch whose weights are a sparse graph."""

from . import interrupt  # noqa: F401  # isort: skip, for it has to stand before all that takes time
from importlib.metadata import PackageNotFoundError, version

from . import convert, functional, interop, kernels, parallel, parametrizations, profiling, topology
from .linear import SparseLinear
from .pattern import SparsityPattern

try:
    __version__ = version("torch-sparselinear")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "SparseLinear",
    "SparsityPattern",
    "convert",
    "functional",
    "interop",
    "kernels",
    "parallel",
    "parametrizations",
    "profiling",
    "topology",
]
