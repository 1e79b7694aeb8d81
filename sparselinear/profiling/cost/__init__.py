"""What a layer would cost, predicted: workload.py counts, rates.py knows the machine, advice.py concludes."""

from .advice import Advice, advise, conclude, render_advice
from .calibrate import calibrated
from .predict import Prediction, predict
from .rates import Rates
from .workload import Workload

__all__ = [
    "Advice",
    "Prediction",
    "Rates",
    "Workload",
    "advise",
    "calibrated",
    "conclude",
    "predict",
    "render_advice",
]
