"""Dense against sparse: what a layer costs in time and memory, beside the systems people use today."""

from .baselines import BASELINES, build
from .breakeven import BreakEven, Crossing, Point
from .compare import profile
from .grid import Cell, Grid
from .ledger import Ledger, Sizes
from .measured import Measured
from .result import Profile, Row
from .sweep import Status, sweep
from .sweep_result import Skipped, Sweep
from .sweep_table import render_sweep
from .table import render

__all__ = [
    "BASELINES",
    "BreakEven",
    "Cell",
    "Crossing",
    "Grid",
    "Ledger",
    "Measured",
    "Point",
    "Profile",
    "Row",
    "Sizes",
    "Skipped",
    "Status",
    "Sweep",
    "build",
    "profile",
    "render",
    "render_sweep",
    "sweep",
]
