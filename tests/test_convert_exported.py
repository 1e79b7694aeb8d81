"""Programs that leave Python: torch's own operators alone, ONNX, and the shared library of AOTInductor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import Case, each_case
from test_functional import LAYOUTS
from torch import Tensor, nn

from sparselinear import SparseLinear, convert, interop, kernels
from sparselinear.kernels.gather import GatherKernel

NO_COMPILER = kernels.available()["native"]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch's own: its exporters of 2.13 ask for things that later versions have renamed.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]
ANY_BATCH: Any = ({0: torch.export.Dim("batch")},)


def model_of(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Two layers, the first with empty rows at both ends and between."""
    adjacency = sp.random_array((13, 17), density=0.3, rng=np.random.default_rng(0)).toarray()
    adjacency[[0, 5, 6, 12]] = 0
    first = SparseLinear.from_scipy(adjacency, dtype=dtype)
    second = SparseLinear.from_scipy(adjacency.T, bias=False, dtype=dtype)
    return nn.Sequential(first, nn.ReLU(), second).eval()


@pytest.mark.shows(
    "Compiling and exporting", "a program of torch's operators alone: `convert.decompositions`"
)
@each_case
@pytest.mark.parametrize("layout", ["contiguous", "feature-major"])
def test_the_same_by_operators_of_torch(case: Case, layout: str) -> None:
    pattern = interop.to_pattern(case.adjacency)
    over = pattern.crow_indices, pattern.col_indices, pattern.in_features
    x = LAYOUTS[layout](torch.randn(3, pattern.in_features, dtype=torch.float64))
    values = torch.randn(pattern.nnz, dtype=torch.float64)
    bias = torch.randn(pattern.out_features, dtype=torch.float64)
    ((operator, decomposed),) = convert.decompositions().items()
    for add in (bias, None):
        found, expected = (run(x, values, add, *over) for run in (decomposed, operator))
        torch.testing.assert_close(found, expected)
        assert found.is_contiguous() == expected.is_contiguous()
        assert found.t().is_contiguous() == expected.t().is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_half_types_are_taken_in_float32(dtype: torch.dtype) -> None:
    ((operator, decomposed),) = convert.decompositions().items()
    pattern = interop.to_pattern(torch.ones(1, 4096))
    over = pattern.crow_indices, pattern.col_indices, pattern.in_features
    ones = torch.ones(1, 4096, dtype=dtype)
    assert (
        decomposed(ones, ones[0], None, *over).item() == operator(ones, ones[0], None, *over).item() == 4096
    )


def test_a_program_without_operators_of_ours() -> None:
    model, x = model_of(), torch.randn(2, 9, 17)
    second_dimension = ({1: torch.export.Dim("many")},)
    program = torch.export.export(model, (torch.randn(2, 4, 17),), dynamic_shapes=second_dimension)
    portable = program.run_decompositions(convert.decompositions())
    assert "sparselinear" in str(program.graph)
    assert "sparselinear" not in str(portable.graph)
    torch.testing.assert_close(portable.module()(x), model(x))


@pytest.mark.shows("Compiling and exporting", "AOTInductor on a CPU, any batch")
@pytest.mark.slow
@pytest.mark.skipif(NO_COMPILER is not None, reason=f"AOTInductor needs a C++ compiler: {NO_COMPILER}")
def test_aot_inductor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    program = torch.export.export(model, (torch.randn(4, 17),), dynamic_shapes=ANY_BATCH)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    loaded = torch._inductor.aoti_load_package(package)
    for batch in (1, 4, 100):
        x = torch.randn(batch, 17)
        torch.testing.assert_close(loaded(x), model(x))
    calls: list[Any] = []
    spmm = GatherKernel.spmm
    monkeypatch.setattr(GatherKernel, "spmm", lambda *args: calls.append(args) or spmm(*args))
    with kernels.use("gather"):  # the kernel is chosen when it runs
        torch.testing.assert_close(loaded(x), model(x))
    assert len(calls) == 4


@pytest.mark.shows("Compiling and exporting", "`torch.onnx.export`: a model, a program, the dense form")
class TestONNX:
    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")

    def run(self, program: Any, path: Path, x: Tensor) -> Tensor:
        """By the reference of the standard, which is written in numpy."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        program.save(path)
        stored = onnx.load(path)
        onnx.checker.check_model(stored)
        assert {node.domain for node in stored.graph.node} == {""}  # those of the standard alone
        return torch.from_numpy(ReferenceEvaluator(stored).run(None, {"input": x.numpy()})[0])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
    def test_of_a_model(self, tmp_path: Path, dtype: torch.dtype) -> None:
        model = model_of(dtype)
        sample = (torch.randn(4, 17, dtype=dtype),)
        program = torch.onnx.export(model, sample, dynamic_shapes=ANY_BATCH, verbose=False)
        for batch in (1, 9):
            x = torch.randn(batch, 17, dtype=dtype)
            found = self.run(program, tmp_path / "model.onnx", x)
            torch.testing.assert_close(found, model(x).detach())

    def test_of_a_program(self, tmp_path: Path) -> None:
        model, x = model_of(), torch.randn(9, 17)
        program = torch.export.export(model, (torch.randn(4, 17),), dynamic_shapes=ANY_BATCH)
        with pytest.raises(torch.onnx.errors.OnnxExporterError, match=r"sparselinear\.linear"):
            torch.onnx.export(program, verbose=False)
        portable = torch.onnx.export(program.run_decompositions(convert.decompositions()), verbose=False)
        torch.testing.assert_close(self.run(portable, tmp_path / "model.onnx", x), model(x).detach())

    def test_of_the_dense_form(self, tmp_path: Path) -> None:
        model, x = model_of(), torch.randn(4, 17)
        expected = model(x).detach()
        convert.densify(model)
        program = torch.onnx.export(model, (x,), verbose=False)
        torch.testing.assert_close(self.run(program, tmp_path / "model.onnx", x), expected)
