"""What ``torch.nn.utils.parametrize`` can put on the values of a layer: fixed signs, as in Dale's law."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import checks
from .checks import message
from .pattern import SparsityPattern


class FixedSigns(nn.Module):
    """Keeps the sign of each connection while its magnitude is learnt: values = signs * abs(original).

    Register it on the values of a layer, before the optimizer is made or after::

        from torch.nn.utils import parametrize

        parametrize.register_parametrization(layer, "values", FixedSigns(layer.values))

    What is trained is ``layer.parametrizations["values"].original``, (nnz,) like the values. It may pass
    through zero: the connection then gains strength again with the sign it always had. At exactly zero
    the gradient is zero, as that of ``torch.abs`` is.

    Registering it on a layer, or assigning to ``layer.values``, keeps the magnitudes and sets the signs;
    values that have the right signs stay as they are, to the bit. While it is registered ``layer.values``
    is computed at each access, so that writing into it, or into ``layer.weight``, changes nothing.

    Args:
        signs: (nnz,) real numbers of which the signs alone are used, none of them zero: those of the
            connections in the CSR order of the pattern, for example the layer's values. They are kept
            as one byte a connection, in the buffer ``signs``.

    Shape:
        Original ``(nnz,)``, values ``(nnz,)``, of the same dtype.

    Raises:
        TypeError: the signs are no tensor.
        ValueError: they are not 1-D, or one of them is neither above nor below zero. On registration
            and assignment: the values are of another number than the signs.
    """

    signs: Tensor

    def __init__(self, signs: Tensor) -> None:
        super().__init__()
        self.register_buffer("signs", _checked(signs, "nnz").sign().to(torch.int8))

    @classmethod
    def of_sources(cls, pattern: SparsityPattern, signs: Tensor) -> FixedSigns:
        """The signs of whole neurons (Dale's law): each input excites all its targets, or inhibits them.

        Args:
            pattern: the connections of the layer.
            signs: (in_features,) real numbers, above zero for a source that excites, below for one that
                inhibits.

        Raises:
            TypeError: the signs are no tensor.
            ValueError: they are of another shape, or one of them is neither above nor below zero.
        """
        signs = _checked(signs, "in_features")
        if signs.numel() != pattern.in_features:
            expected = f"shape (in_features,) = ({pattern.in_features},)"
            raise ValueError(message("signs", expected, str(tuple(signs.shape))))
        return cls(signs.to(pattern.device)[pattern.col_indices])

    def forward(self, original: Tensor) -> Tensor:
        """(nnz,) magnitudes of any sign -> (nnz,) values of the fixed signs."""
        return original.copysign(self.signs)

    def right_inverse(self, values: Tensor) -> Tensor:
        """(nnz,) values -> (nnz,) original: a copy of the values, whose magnitudes count."""
        if values.shape != self.signs.shape:
            expected = f"shape (nnz,) = ({self.signs.numel()},), one for each sign"
            raise ValueError(message("values", expected, str(tuple(values.shape))))
        return values.clone()  # torch makes the original of it, whose storage the optimizer then writes to


class ByName(nn.ModuleDict):
    """What ``layer.parametrizations`` is: torch's own dict refuses ``values``, a name of its methods.

    The entry is had as ``layer.parametrizations["values"]`` alone; ``.values`` stays the method.
    """

    def __setitem__(self, key: str, module: nn.Module) -> None:
        """As that of ``torch.nn.ModuleDict``, but for that name."""
        if key == "values":
            self._modules[key] = module
        else:
            super().__setitem__(key, module)


def _checked(signs: Tensor, length: str) -> Tensor:
    if not isinstance(signs, Tensor):
        advice = "Use torch.as_tensor."
        raise TypeError(message("signs", "a torch.Tensor", checks.type_name(signs), advice))
    signs = signs.detach()
    if signs.dim() != 1:
        raise ValueError(message("signs", f"shape ({length},)", str(tuple(signs.shape))))
    neither = signs.numel() - int(((signs > 0) | (signs < 0)).sum())
    if neither:
        advice = "Give a connection whose value is zero the sign that it may take."
        raise ValueError(
            message("signs", "numbers above or below zero", f"{neither} that are neither", advice)
        )
    return signs
