"""Dense against sparse: what a layer costs in time and memory, beside the systems people use today."""

from .baselines import BASELINES, build
from .compare import profile
from .export import to_csv, to_json
from .ledger import Ledger, Sizes
from .noise import Difference
from .result import Profile, Row
from .summary import render_summary
from .table import render
from .verdict import Placing, Verdict

__all__ = [
    "BASELINES",
    "Difference",
    "Ledger",
    "Placing",
    "Profile",
    "Row",
    "Sizes",
    "Verdict",
    "build",
    "profile",
    "render",
    "render_summary",
    "to_csv",
    "to_json",
]
