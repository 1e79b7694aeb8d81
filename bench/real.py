"""Matrices of real networks and graphs: those of the repository, and more from a folder of data.

The repository stands without that folder. Values are drawn anew: what is measured is the pattern, and
stored numbers of 1e9 beside 1e-1 would make the comparison of results say little.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from sparselinear import interop

from .cells import NEVER_BEHIND, Cell

ROOT = Path(__file__).parent.parent
BATCH = 256

# Rows are outputs in all of these.
SHIPPED = {
    "Reactome pathways x UniProt": ROOT / "sparselinear/data/reactome_pathways_x_uniprot.npz",
    "septic AKI, proteins to level 4": ROOT / "examples/data/septic_aki/L0_proteins_to_level4.npz",
}

# Pattern of the files within the folder: name ({} is the file's own), batch, whether rows are inputs.
FOLDER = {
    "dlmc/*.npz": ("DLMC {}", BATCH, False),
    "flyvis_optic_lobe/target_x_source_synapses.npz": ("flyvis optic lobe", 64, False),
    "reactome_pnet/L0_genes_to_level5.npz": ("P-NET, genes to level 5", BATCH, False),
    "reactome_pnet/flat_pathways_x_genes.npz": ("P-NET, genes to all pathways", BATCH, False),
    "suitesparse/*.npz": ("SuiteSparse {}", BATCH, False),
    "graphchallenge_dnn1024/layer01.npz": ("GraphChallenge 1024, layer 1", BATCH, True),
    "planetoid/cora_adj.npz": ("Cora", BATCH, False),
}


def cells(folder: Path | None) -> list[Cell]:
    """The matrices of the repository and, if there is one, those of the folder.

    Raises:
        FileNotFoundError: the folder holds none of the files that are known.
    """
    found = [_cell(name, path, BATCH, transposed=False) for name, path in SHIPPED.items()]
    if folder is None:
        return found
    more = [
        _cell(name.format(_short(path.stem)), path, batch, transposed=transposed)
        for pattern, (name, batch, transposed) in FOLDER.items()
        for path in sorted(folder.glob(pattern))
    ]
    if not more:
        raise FileNotFoundError(f"{folder}: none of {', '.join(FOLDER)}")
    return found + more


def _cell(name: str, path: Path, batch: int, *, transposed: bool) -> Cell:
    return Cell(name, partial(_load, path, transposed), batch, (NEVER_BEHIND,))


def _load(path: Path, transposed: bool) -> sp.csr_array:
    pattern = interop.load_adjacency(path)
    csr = sp.csr_array(pattern.T if transposed else pattern, dtype=np.float32)
    csr.data = np.random.default_rng(0).uniform(0.5, 1.5, csr.nnz).astype(np.float32)
    return csr


def _short(stem: str) -> str:
    """transformer__magnitude_pruning__0.9__body_decoder_layer_0_ffn_conv1_fully_connected, for a table."""
    for long in ("_pruning", "_regularization", "body_decoder_layer_", "_fully_connected", "block_group"):
        stem = stem.replace(long, "")
    return stem.replace("__", " ").replace("_", " ")
