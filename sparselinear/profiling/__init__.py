"""Dense against sparse: what a layer costs in time and memory, beside the systems people use today.

Here is what measures one layer and shows it; sweeps/ measures many, models/ whole models, and cost/ predicts.
"""

from .baselines import BASELINES, build
from .compare import profile
from .cost import Advice, Prediction, Rates, Workload, advise, calibrated, render_advice
from .export import to_csv, to_json
from .ledger import Ledger, Sizes
from .models import Call, LayerRow, ModelProfile, ModelTimes, compare_models, profile_model, smaller
from .noise import Difference
from .portrait import Portrait
from .report import render_html
from .result import Profile, Row
from .roofline import Position, Roofs
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
    "Advice",
    "BreakEven",
    "Call",
    "Cell",
    "Crossing",
    "Difference",
    "Grid",
    "LayerRow",
    "Ledger",
    "Measured",
    "ModelProfile",
    "ModelTimes",
    "Placing",
    "Point",
    "Portrait",
    "Position",
    "Prediction",
    "Profile",
    "Rates",
    "Roofs",
    "Row",
    "Sizes",
    "Skipped",
    "Status",
    "Sweep",
    "Verdict",
    "Workload",
    "advise",
    "build",
    "calibrated",
    "compare_models",
    "profile",
    "profile_model",
    "render",
    "render_advice",
    "render_html",
    "render_summary",
    "render_sweep",
    "smaller",
    "sweep",
    "to_csv",
    "to_json",
]
