"""nn.Linear and pruned modules <-> SparseLinear, for whole models and their optimizers."""

from .exported import decompositions
from .masks import magnitude_masks, masks_of
from .models import Conversion, densify, sparse_layers, sparsify

__all__ = [
    "Conversion",
    "decompositions",
    "densify",
    "magnitude_masks",
    "masks_of",
    "sparse_layers",
    "sparsify",
]
