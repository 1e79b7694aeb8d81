"""Dense against sparse: what a layer costs in time and memory, beside the systems people use today."""

from .baselines import BASELINES, build
from .compare import profile
from .export import to_csv, to_json
from .ledger import Ledger, Sizes
from .noise import Difference
from .result import Profile, Row
from .summary import render_summary
from .sweeps import (
    BreakEven,
    Cell,
    Crossing,
    Grid,
    Measured,
    Point,
    Skipped,
    Status,
    Sweep,
    render_sweep,
    sweep,
)
from .table import render
from .verdict import Placing, Verdict

__all__ = [
    "BASELINES",
    "BreakEven",
    "Cell",
    "Crossing",
    "Difference",
    "Grid",
    "Ledger",
    "Measured",
    "Placing",
    "Point",
    "Profile",
    "Row",
    "Sizes",
    "Skipped",
    "Status",
    "Sweep",
    "Verdict",
    "build",
    "profile",
    "render",
    "render_summary",
    "render_sweep",
    "sweep",
    "to_csv",
    "to_json",
]
