"""The kernels that compute a sparse layer, and the choice between them.

``torch`` runs ``torch.sparse.mm`` (MKL on a CPU, cuSPARSE on CUDA) and is the reference that every
other is tested against; ``embedding_bag`` and ``gather`` run where it is slower or does not exist.
"""

from .choice import available, choose, explain, use

__all__ = ["available", "choose", "explain", "use"]
