"""The ``embedding_bag`` kernel: FBGEMM's compiled embedding sum used as a sparse product.

A bag is a row of the pattern, its indices are the columns, its per-sample weights the values, and
the embedding table is the tile of activations. FBGEMM accumulates bfloat16 and float16 in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pattern import SparsityPattern
from .torch_sparse import TorchKernel

_SUM = 0  # torch's code of the reduction


class EmbeddingBagKernel(TorchKernel):
    """spmm by ``torch.embedding_bag``; sddmm as the ``torch`` kernel does it.

    Only the operator is called: autograd's own gradient of it is several times slower than sddmm.
    """

    name = "embedding_bag"

    def unavailable(  # noqa: D102
        self, device: torch.device, dtype: torch.dtype, index_dtype: torch.dtype = torch.int32
    ) -> str | None:
        if device.type != "cpu":
            return "embedding_bag is used on a CPU only"
        if "fbgemm" not in torch.backends.quantized.supported_engines:
            return "this build of torch has no FBGEMM, whose kernel it runs"
        if dtype == torch.float64:
            return "FBGEMM has no float64"
        return super().unavailable(device, dtype, index_dtype)

    def operand(self, pattern: SparsityPattern, values: Tensor) -> Any:  # noqa: D102
        return pattern, values

    def product(self, operand: Any, tile: Tensor) -> Tensor:  # noqa: D102
        pattern, values = operand
        return torch.embedding_bag(
            tile, pattern.col_indices, pattern.crow_indices, False, _SUM, False, values, True
        )[0]
