"""Two processes that torchrun starts on gloo: they train as one does, and other patterns are an error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from sparselinear import SparseLinear, parallel

if not (dist.is_available() and dist.is_gloo_available()):
    pytest.skip("torch is built without torch.distributed or gloo", allow_module_level=True)

import parallel_worker as worker

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "parallel.md"
Found = list[dict[str, Any]]


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Two processes of a script; one that hangs is ended after a minute, with all that it started."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    path = os.pathsep.join(filter(None, (str(TESTS.parent), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command += map(str, arguments)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        try:
            printed = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun passes it on to its workers
            pytest.fail(f"no end after 60 s\n{process.communicate()[1]}")
    return subprocess.CompletedProcess(command, process.returncode, *printed)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The run of the worker, and where it put what it found."""
    folder = tmp_path_factory.mktemp("parallel")
    return torchrun(TESTS / "parallel_worker.py", folder), folder


@pytest.fixture(scope="module")
def found(run: tuple[subprocess.CompletedProcess[str], Path]) -> Found:
    """What each of the two ranks found."""
    finished, folder = run
    files = [folder / f"{rank}.json" for rank in (0, 1)]
    assert all(file.exists() for file in files), finished.stderr
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


@pytest.mark.shows("Several processes", "`DistributedDataParallel`: the losses of one process")
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@pytest.mark.parametrize("synced", ["[]", "[False]"])
def test_ddp_has_the_losses_of_one_process(found: Found, optimizer: str, synced: str) -> None:
    alone = worker.train(worker.network(), optimizer)
    assert len(alone) == 20
    assert max(alone) - min(alone) > 0.1  # it learns something
    for rank in found:
        assert rank["ddp"]["losses"][f"{optimizer} {synced}"] == pytest.approx(alone, rel=0, abs=1e-6)


@pytest.mark.shows(
    "Several processes", "FSDP2 (`fully_shard`): the losses of one process, with clipping and without"
)
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@pytest.mark.parametrize("clip", [False, True])
def test_fsdp_has_the_losses_of_one_process(found: Found, optimizer: str, clip: bool) -> None:
    alone = worker.train(worker.network(), optimizer, clip=clip)
    if clip:
        free = worker.train(worker.network(), optimizer)
        assert max(abs(a - b) for a, b in zip(alone, free, strict=True)) > 1e-4  # the clipping shows
    for rank in found:
        assert rank["fsdp"]["losses"][f"{optimizer} {clip}"] == pytest.approx(alone, rel=0, abs=1e-6)


@pytest.mark.shows("Several processes", "the whole `state_dict` of a model in several processes")
@pytest.mark.parametrize(("kind", "clip"), [("ddp", False), ("fsdp", True)])
def test_state_dict_is_that_of_one_process(found: Found, kind: str, clip: bool) -> None:
    alone = worker.network()
    worker.train(alone, "momentum", clip=clip)
    stored = found[0][kind]["state"]
    expected = worker.listed(alone.state_dict())
    assert list(stored) == list(expected)
    for name, entry in expected.items():
        assert stored[name] == pytest.approx(entry, rel=0, abs=1e-12), name


@pytest.mark.shows(
    "Several processes", "FSDP2: values are sharded; loading by shards, and from the meta device"
)
def test_fsdp_shards_the_values_and_loads_them(found: Found) -> None:
    nnz = int(worker.adjacency(0).sum())
    assert sum(rank["fsdp"]["shard"] for rank in found) == nnz
    assert max(rank["fsdp"]["shard"] for rank in found) < nnz
    alone = worker.network()
    worker.train(alone, "momentum", clip=True)
    expected = alone(worker.batches()[0])
    for rank in found:
        for output in rank["fsdp"]["outputs"]:  # trained, loaded by shards, from meta by those of rank 0
            torch.testing.assert_close(torch.tensor(output, dtype=torch.float64), expected)


@pytest.mark.shows("Several processes", "FSDP2 in mixed precision")
def test_fsdp_in_mixed_precision(found: Found) -> None:
    alone = worker.train(worker.network(dtype=torch.float32), "adam")
    for rank in found:
        assert rank["fsdp"]["half dtypes"] == ["torch.bfloat16", "torch.float32"]
        assert rank["fsdp"]["half"] == pytest.approx(alone, rel=2e-2)
        assert rank["fsdp"]["half"] != pytest.approx(alone, rel=1e-6)


@pytest.mark.shows("Several processes", "FSDP2: model and optimizer go on from a whole `state_dict`")
def test_fsdp_goes_on_from_a_whole_state(found: Found) -> None:
    alone = worker.train(worker.network(), "adam")
    for rank in found:
        assert rank["shards"]["resumed"] == pytest.approx(alone, rel=0, abs=1e-6)


NOT_HERE = (
    r"(values|linear\.weight): expected all (74|208) numbers in this process, got a DTensor.*unshard\(\)"
)


@pytest.mark.shows("Several processes", "FSDP2: `{reader}` of a sharded layer, an error until `unshard()`")
@pytest.mark.parametrize("reader", worker.READERS)
def test_sharded_values_are_refused_until_they_are_whole(found: Found, reader: str) -> None:
    expected = worker.network()[0].to_dense()
    for rank in found:
        assert re.match(NOT_HERE, rank["shards"]["told"][reader])
        read = torch.tensor(rank["shards"]["read"][reader], dtype=torch.float64)
        torch.testing.assert_close(read, expected, rtol=0, atol=0)


@pytest.mark.shows("Several processes", "FSDP2: fixed signs, the losses of one process")
def test_fsdp_of_fixed_signs(found: Found) -> None:
    alone = worker.train(worker.signed(), "adam")
    for rank in found:
        assert rank["shards"]["signed"] == pytest.approx(alone, rel=0, abs=1e-6)


@pytest.mark.parametrize("maker", ["from_state_dict", "from_linear"])
def test_a_layer_is_not_built_from_shards(found: Found, maker: str) -> None:
    for rank in found:
        assert re.match(NOT_HERE, rank["shards"]["told"][maker])


def test_a_layer_that_was_read_is_sharded_again_and_trains(found: Found) -> None:
    alone = worker.train(worker.network(), "adam")
    for rank in found:
        assert rank["shards"]["losses"] == pytest.approx(alone, rel=0, abs=1e-6)
        assert rank["shards"]["repr"] == f"FSDP{worker.network()[0]!r}"


@pytest.mark.shows("Several processes", "FSDP2: `reset_parameters` after sharding on the meta device")
def test_reset_parameters_shares_out_what_the_first_rank_draws(found: Found) -> None:
    alone = worker.network()
    torch.manual_seed(10)
    for layer in (alone[0], alone[2]):
        layer.reset_parameters()
    for name, entry in worker.listed(alone.state_dict()).items():
        assert found[0]["shards"]["drawn"][name] == entry, name


@pytest.mark.shows("Several processes", "patterns that differ between ranks are an error on each")
@pytest.mark.parametrize(
    ("case", "layer", "on_0", "on_1"),
    [
        ("nnz", "'1'", "shape (13, 16), nnz 74, digest", "shape (13, 16), nnz 60, digest"),
        ("places", "'genes'", "nnz 74, digest", "nnz 74, digest"),
        ("itself", "''", "nnz 74", "nnz 74"),
        ("kind", "'0'", "no SparseLinear", "nnz 74"),
        ("all", "'0'", "nnz 74", "nnz 60"),
    ],
)
def test_other_patterns_are_an_error_on_every_rank(
    found: Found, case: str, layer: str, on_0: str, on_1: str
) -> None:
    text = found[0]["differ"][case]
    assert text == found[1]["differ"][case]
    named = re.search(r"got layer ('.*?') with (.*) on rank 0; (.*) on rank 1( \(and 1 more\))?\.", text)
    assert named, text
    assert named[1] == layer
    assert on_0 in named[2]
    assert on_1 in named[3]
    assert named[2] != named[3]
    assert bool(named[4]) is (case == "all")


@pytest.mark.parametrize("case", ["index dtype", "no sparse layer", "group of one"])
def test_same_patterns_pass(found: Found, case: str) -> None:
    assert [rank["differ"][case] for rank in found] == [None, None]


def test_the_error_ends_the_run(run: tuple[subprocess.CompletedProcess[str], Path], found: Found) -> None:
    finished, folder = run
    assert finished.returncode != 0
    assert re.search(r"ValueError: module: expected the same patterns .* on rank 1\.", finished.stderr)
    assert sorted(file.name for file in folder.iterdir()) == ["0.json", "1.json"]


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module, got list"):
        parallel.check_same_pattern([SparseLinear(2, 2, torch.eye(2))])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"group: expected a process group, got none\. Call .*init_proc"):
        parallel.check_same_pattern(nn.Linear(2, 2))


@pytest.mark.parametrize("heading", ["DistributedDataParallel", "FSDP2"])
def test_recipes_run(heading: str, tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    block = re.search(rf"^## {heading}$.*?^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block
    script = tmp_path / "train.py"
    recipe = block[1].replace("forward_sync_buffers", worker.SYNC_BUFFERS)  # the older name
    script.write_text(recipe, encoding="utf-8")
    finished = torchrun(script)
    # A thread of gloo that outlives the interpreter aborts the process at its exit, in one run of ten on one
    # machine, with nn.Linear too: https://github.com/pytorch/pytorch/pull/179291
    for _ in range(4):
        if "terminate called without an active exception" not in finished.stderr:
            break
        finished = torchrun(script)
    assert finished.returncode == 0, finished.stderr
    first, last = map(float, re.findall(r"loss (\S+)", finished.stdout))
    assert last < first
