"""The kernels that compute a sparse layer, and the choice between them.

``torch`` runs ``torch.sparse.mm`` (MKL on a CPU, cuSPARSE on CUDA) and is the reference that every
other is tested against. ``native`` is our own, in C++, and runs on every CPU that has a compiler; ``amx``
takes its place for dense patterns where the processor has a matrix unit; ``triton`` is our own for CUDA.
``embedding_bag`` and ``gather`` run where there is no compiler, or where the device has no sparse product.
"""

from .choice import available, choose, explain, use

__all__ = ["available", "choose", "explain", "use"]
