"""At which density sparse and dense break even: grid.py says what is measured, run.py measures it."""

from .breakeven import BreakEven, Crossing, Point
from .grid import Cell, Grid
from .measured import Measured
from .result import Skipped, Sweep
from .run import Status, sweep
from .table import render_sweep

__all__ = [
    "BreakEven",
    "Cell",
    "Crossing",
    "Grid",
    "Measured",
    "Point",
    "Skipped",
    "Status",
    "Sweep",
    "render_sweep",
    "sweep",
]
