"""Dense against sparse: what a layer costs in time and memory, beside the systems people use today."""

from .baselines import BASELINES, build
from .compare import profile
from .ledger import Ledger, Sizes
from .model import compare_models, profile_model, smaller
from .model_result import Call, LayerRow, ModelProfile, ModelTimes
from .result import Profile, Row
from .table import render

__all__ = [
    "BASELINES",
    "Call",
    "LayerRow",
    "Ledger",
    "ModelProfile",
    "ModelTimes",
    "Profile",
    "Row",
    "Sizes",
    "build",
    "compare_models",
    "profile",
    "profile_model",
    "render",
    "smaller",
]
