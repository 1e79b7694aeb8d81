"""Dense against sparse: what a layer costs in time and memory, beside the systems people use today."""

from .baselines import BASELINES, build
from .compare import profile
from .ledger import Ledger, Sizes
from .portrait import Portrait
from .report import render_html
from .result import Profile, Row
from .table import render

__all__ = [
    "BASELINES",
    "Ledger",
    "Portrait",
    "Profile",
    "Row",
    "Sizes",
    "build",
    "profile",
    "render",
    "render_html",
]
