"""What is timed, in turns, and its statistics."""

from __future__ import annotations

from typing import Any

import pytest
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from sparselinear import SparseLinear
from sparselinear.profiling import BASELINES, timing
from sparselinear.profiling.baselines import OURS, System
from sparselinear.profiling.clock import CpuClock
from sparselinear.profiling.timing import Subject, Timing

pytestmark = pytest.mark.usefixtures("one_thread")


def subject_of(name: str, **options: Any) -> Subject:
    system = BASELINES.get(name, OURS)
    layer = SparseLinear.from_scipy(sp.eye_array(6, format="csr"))
    return Subject(system, layer, torch.randn(4, 6, requires_grad=True), torch.randn(4, 6), **options)


def test_median_and_quartiles() -> None:
    found = Timing((5.0, 1.0, 2.0, 4.0, 3.0), repeats=2)
    assert found.median_s == 3
    assert found.quartiles_s == (2, 4)
    assert found.to_dict() == {
        "median_s": 3.0,
        "quartile1_s": 2.0,
        "quartile3_s": 4.0,
        "samples_s": [5.0, 1.0, 2.0, 4.0, 3.0],
        "repeats": 2,
    }


def test_one_sample_has_no_spread() -> None:
    assert Timing((2.0,), repeats=1).quartiles_s == (2, 2)


def test_a_turn_begins_when_the_process_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(timing, "settle", lambda: told.append("settle"))
    monkeypatch.setattr(CpuClock, "sample", lambda self, run, repeats: told.append("sample") or 1.0)
    subject = subject_of("sparselinear")
    subject.samples, subject.repeats = {"forward": [], "step": []}, {"forward": 1, "step": 1}
    subject.turn()
    assert told == ["settle", "sample", "sample"]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("name", ["sparselinear", *BASELINES])
def test_each_turn_is_a_sample_of_each_kind(name: str, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuClock, "enough_repeats", lambda self, run: 2)
    subject = subject_of(name, keep=keep)
    subject.warm_up()
    for _ in range(3):
        subject.turn()
    system = subject.system
    kinds = ["forward", *(["step"] if system.trains else [])]
    kinds += ["adam"] if system.trains and not system.adam_refusal else []
    for kind in timing.KINDS:
        found = subject.timing(kind)
        assert (found is not None) == (kind in kinds)
        assert found is None or (len(found.samples_s) == 3 and min(found.samples_s) > 0)
    assert set(subject.refusals) == ({"adam"} if system.adam_refusal else set())
    assert (subject._module is not None) == keep
    assert subject.x.grad is None


def test_step_yields_all_gradients_and_none_are_added_up() -> None:
    subject = subject_of("masked")
    subject._start("step")
    for _ in range(2):
        subject._step()
        assert subject._module is not None
        weight, bias = (subject._module.get_parameter(name) for name in ("weight", "bias"))
        expected = subject.grad_output @ weight
        torch.testing.assert_close(subject.x.grad, expected)
        grad = (subject.grad_output.t() @ subject.x).detach() * torch.eye(6)
        torch.testing.assert_close(weight.grad, grad)
        torch.testing.assert_close(bias.grad, subject.grad_output.sum(0))


def test_timed_updates_leave_the_weights_as_they_are() -> None:
    subject = subject_of("dense")
    subject._start("adam")
    for _ in range(50):
        subject._update()
    assert subject._module is not None
    torch.testing.assert_close(
        subject._module.get_parameter("weight").detach(), subject.layer.to_dense(), rtol=0, atol=1e-9
    )


class Refuses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError("no product of\nthat kind.")


def test_what_torch_refuses_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of("dense")
    subject.system = System("odd", "z", "", lambda layer: Refuses(), BASELINES["dense"].bytes)
    subject.warm_up()
    subject.turn()
    assert subject.refusals == {"forward": "no product of"}
    assert subject.timing("forward") is None


def test_our_own_failure_is_not_hidden() -> None:
    subject = subject_of("sparselinear")
    subject.system = System("sparselinear", "", "", lambda layer: Refuses(), OURS.bytes)
    with pytest.raises(NotImplementedError):
        subject.warm_up()
