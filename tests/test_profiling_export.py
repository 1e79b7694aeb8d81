"""JSON and CSV: every number under its name, and the same as in the profile."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from test_profiling_table import SIZES, example, row_of

from sparselinear.profiling import BASELINES, Row, to_csv, to_json
from sparselinear.profiling.timing import KINDS


def test_json_of_one_is_its_own_object() -> None:
    profile = example()
    assert json.loads(to_json([profile])) == json.loads(json.dumps(profile.to_dict()))
    told = json.loads(to_json([profile]))
    assert told["schema"] == 2
    assert told["verdict"]["use"] == "sparselinear"
    assert told["systems"][0]["noise"] == {"forward": 0.0, "step": 0.0, "adam": 0.0}
    assert told["systems"][2]["noise"]["adam"] is None


def test_json_of_several_is_a_list() -> None:
    profiles = [example(), example(name="b.npz", sizes=replace(SIZES, batch=32))]
    told = json.loads(to_json(profiles))
    assert list(told) == ["schema", "profiles"]
    assert told["schema"] == 2
    assert told["profiles"] == [json.loads(to_json([profile])) for profile in profiles]


def lines(*profiles: object) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(profiles))))  # type: ignore[arg-type]


def test_csv_has_a_line_for_each_time() -> None:
    odd = example(name='a, "b".npz')
    found = lines(odd, example(sizes=replace(SIZES, batch=32)))
    keys = [(line["file"], line["batch"], line["system"], line["kind"]) for line in found]
    systems = [row.name for row in odd.rows]
    assert keys == [
        (name, batch, system, kind)
        for name, batch in (('a, "b".npz', "256"), ("example.npz", "32"))
        for system in systems
        for kind in KINDS
    ]
    ours = found[1]
    timing = odd.rows[0].step
    assert timing is not None
    assert float(ours["median_s"]) == timing.median_s
    assert (float(ours["quartile1_s"]), float(ours["quartile3_s"])) == timing.quartiles_s
    assert float(ours["versus_dense"]) == pytest.approx(25)
    assert (ours["rounds"], ours["status"], ours["peak_bytes"]) == ("3", "measured", "100000000")
    assert (ours["nnz"], ours["threads"], ours["disturbed"]) == ("46939", "2", "False")


def test_csv_says_why_there_is_no_time() -> None:
    dense = Row("dense", "a", "nn.Linear", "too large", BASELINES["dense"].bytes(SIZES), 4 * 10**12)
    removed = replace(row_of("prune-removed", 3.0), step=None, adam=None)
    found = {
        (line["system"], line["kind"]): line
        for line in lines(example(row_of("sparselinear", 2.0), dense, row_of("csr", 3.0), removed))
    }
    assert found["dense", "step"]["status"] == "too large"
    assert found["dense", "step"]["needed_bytes"] == "4000000000000"
    assert found["csr", "adam"]["status"] == "refused"
    assert found["prune-removed", "step"]["status"] == ""
    for key in (("dense", "step"), ("csr", "adam"), ("prune-removed", "step")):
        assert found[key]["median_s"] == found[key]["versus_dense"] == ""
