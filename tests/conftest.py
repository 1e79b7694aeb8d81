"""Settings that every test shares, and fixtures that several files use."""

import gc
import importlib
import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch
from devices import DEVICES

# What cuBLAS asks for in order to be deterministic, before its first product: masked dense twins multiply
# by it under torch.use_deterministic_algorithms(True), which refuses without.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Tests send Ctrl-C to programs that they start. Those inherit that it is ignored, if these tests were
# started in the background of a shell, and would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Triton decides when it is imported whether programs can be interpreted, and torch may import it. With no
# card that has to be so; test_triton.py sets the variable again while its own tests run.
if find_spec("triton") and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    importlib.import_module("triton")
    del os.environ["TRITON_INTERPRET"]


@pytest.fixture(autouse=True, scope="module")
def _nothing_old_is_searched() -> None:
    """Profiles collect garbage before each turn: half a second, if all that torch has loaded is searched."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """The CPU, and the GPU where there is one."""
    name: str = request.param
    return name


@pytest.fixture
def one_thread() -> Iterator[None]:
    """So that other work on the machine cannot make small products slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
