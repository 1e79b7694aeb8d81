"""The sides on a GPU: ours by each kernel, torch's formats under plain autograd, nn.Linear, CuPy, JAX.

All are made from one layer on the device, and take (batch, features) activations, contiguous.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from sparselinear import SparseLinear, kernels
from sparselinear.profiling import machine

from ..adapter import AutogradPeer, Peer
from ..jax_peers import JaxBcoo
from .cases import layer_on
from .measure import OURS

CSR, CSR_FLOAT32, COO, DENSE, CUPY = "csr", "csr in float32", "coo", "dense", "cupy"


class Ours(AutogradPeer):
    """SparseLinear, with the kernel it chooses, or with the one that was asked for."""

    name = OURS

    def __init__(self, layer: SparseLinear, x: Tensor, grad_output: Tensor, kernel: str = "") -> None:
        super().__init__(layer, x, grad_output)
        self.layer, self.kernel, self.weight = layer, kernel, layer.values

    def output(self) -> Tensor:
        with kernels.use(self.kernel) if self.kernel else nullcontext():
            return self.layer(self.x)

    def in_csr_order(self, grad_values: Any) -> Tensor:
        return grad_values


class TorchSparse(AutogradPeer):
    """torch.sparse.mm with a sparse leaf: CSR with int32 indices, or COO."""

    name = CSR

    def __init__(self, layer: SparseLinear, x: Tensor, grad_output: Tensor, layout: torch.layout) -> None:
        super().__init__(layer, x, grad_output)
        values = layer.values.detach().clone()
        make = layer.pattern.csr_tensor if layout == torch.sparse_csr else layer.pattern.coo_tensor
        self.weight = make(values).requires_grad_()

    def output(self) -> Tensor:
        return torch.sparse.mm(self.weight, self.x.t()).t()

    def in_csr_order(self, grad_values: Any) -> Tensor:
        sparse = grad_values if grad_values.layout == torch.sparse_csr else grad_values.coalesce()
        return sparse.values()


class Dense(AutogradPeer):
    """nn.Linear without bias."""

    name = DENSE

    def __init__(self, layer: SparseLinear, x: Tensor, grad_output: Tensor) -> None:
        super().__init__(layer, x, grad_output)
        self.linear, self.pattern = layer.to_linear(), layer.pattern
        self.weight = self.linear.weight

    def output(self) -> Tensor:
        return self.linear(self.x)

    def in_csr_order(self, grad_values: Any) -> Tensor:
        return self.pattern.values_at(grad_values)


class Cupy(Peer):
    """cupyx.scipy.sparse: the product alone, as it has no gradients."""

    name = CUPY
    module, package = "cupyx.scipy.sparse", "cupy"

    def __init__(self, layer: SparseLinear, x: Tensor, grad_output: Tensor) -> None:
        super().__init__(layer, x, grad_output)
        import cupy
        from cupyx.scipy.sparse import csr_matrix

        pattern, self.pack = layer.pattern, cupy.ascontiguousarray
        arrays = (layer.values.detach(), pattern.col_indices, pattern.crow_indices)
        self.product = csr_matrix(tuple(map(cupy.from_dlpack, arrays)), shape=pattern.shape)
        self.input = cupy.from_dlpack(x)

    def forward(self) -> Any:
        return self.pack((self.product @ self.input.T).T)

    def backward(self) -> Any:
        raise NotImplementedError("no gradients")

    def step(self) -> Any:
        raise NotImplementedError("no gradients")


class GpuBcoo(JaxBcoo):
    """JAX's BCOO under jit; it takes its arrays from the host, once."""

    def __init__(self, layer: SparseLinear, x: Tensor, grad_output: Tensor) -> None:
        super().__init__(layer.to_scipy(), x.cpu(), grad_output.cpu())
        import jax

        if x.is_cuda and jax.default_backend() != "gpu":
            raise RuntimeError(f"JAX runs on {jax.default_backend()} here")


# Otherwise JAX takes three quarters of the GPU's memory when it starts.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

Makers = dict[str, Callable[[], Peer]]


def ours(layer: SparseLinear, x: Tensor, grad_output: Tensor, family: tuple[str, ...]) -> Makers:
    """Ours by the kernel it chooses, and by each of some kernels."""
    made: Makers = {OURS: lambda: Ours(layer, x, grad_output)}
    for name in family:
        made[name] = lambda name=name: _forced(name, layer, x, grad_output)
    return made


def _forced(kernel: str, layer: SparseLinear, x: Tensor, grad_output: Tensor) -> Peer:
    known = kernels.available(layer.values.device, layer.values.dtype)
    if problem := known.get(kernel, "there is no such kernel"):
        raise RuntimeError(problem)
    return Ours(layer, x, grad_output, kernel)


def csr(layer: SparseLinear, x: Tensor, grad_output: Tensor) -> Makers:
    """torch.sparse CSR in the dtype of the layer and, as it may refuse a half type, in float32 too."""
    made: Makers = {CSR: lambda: TorchSparse(layer, x, grad_output, torch.sparse_csr)}
    if layer.values.dtype != torch.float32:
        made[CSR_FLOAT32] = lambda: _in_float32(layer, x, grad_output)
    return made


def _in_float32(layer: SparseLinear, x: Tensor, grad_output: Tensor) -> Peer:
    wide = layer_on(layer.pattern, torch.float32)
    with torch.no_grad():
        wide.values.copy_(layer.values)
    return TorchSparse(wide, x.float(), grad_output.float(), torch.sparse_csr)


def others(layer: SparseLinear, x: Tensor, grad_output: Tensor) -> Makers:
    """What else there is for a GPU; what is not installed, or would not fit, refuses."""

    def coo() -> Peer:
        _require(2 * layer.out_features * layer.in_features * layer.values.itemsize, x.device)
        return TorchSparse(layer, x, grad_output, torch.sparse_coo)

    def bcoo() -> Peer:
        _import(GpuBcoo)
        _require(GpuBcoo.scratch_bytes(layer, x.shape[0]), x.device)
        return GpuBcoo(layer, x, grad_output)

    def cupy() -> Peer:
        _import(Cupy)
        return Cupy(layer, x, grad_output)

    return {COO: coo, CUPY: cupy, GpuBcoo.name: bcoo}


def _import(peer: type[Peer]) -> None:
    if problem := peer.problem():
        raise ImportError(problem)


def _require(needed: int, device: torch.device) -> None:
    """For arrays that grow faster than the layer; half of what is free is left to the others."""
    free = machine.available_bytes(device)
    if free is not None and needed > free / 2:
        raise MemoryError(f"backward would need {needed / 1e9:.2g} GB")
