"""Whole models: which of their layers are faster or smaller sparse, and what that makes of the model."""

from .result import Call, LayerRow, ModelProfile, ModelTimes
from .run import compare_models, profile_model, smaller

__all__ = [
    "Call",
    "LayerRow",
    "ModelProfile",
    "ModelTimes",
    "compare_models",
    "profile_model",
    "smaller",
]
