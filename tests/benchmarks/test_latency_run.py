"""Measuring, keeping and reporting of the latency benchmark, on graphs of two nodes; no time is asserted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from latency import bare, report, run, turns
from latency.cases import AGAIN, DENSE, FEW, ORACLE, PLAIN, SIDES, TINY, Case
from latency.records import Records
from latency.sides import Side, SideList
from latency.turns import How, describe, measure_turns
from onnx import TensorProto, helper

from tofe_export.bench.rounds import Series
from tofe_export.runtime.onnxruntime import OnnxRuntimeSession

NAMES = (PLAIN, DENSE, "scatter", "concat", ORACLE, "evit")
CASE = Case("deit_s-2.0", "model", 1.0, 4, sides=NAMES, batches=(1, 2), few_from=2, one_thread=(1,))
WriteGraph = Callable[[Path, list[Any]], Path]


@pytest.fixture
def write_graph() -> WriteGraph:
    """A graph that averages images of a shape."""

    def write(path: Path, shape: list[Any]) -> Path:
        nodes = [helper.make_node("ReduceMean", ["images"], ["logits"], axes=[2, 3], keepdims=0)]
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
        out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], 3])
        graph = helper.make_graph(nodes, "mean", [images], [out])
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
        return path

    return write


@pytest.fixture
def work(tmp_path: Path, write_graph: WriteGraph) -> Path:
    """All sides of CASE, made already."""
    folder = tmp_path / "work" / CASE.name
    folder.mkdir(parents=True)
    listed = SideList(folder)
    for batch in CASE.batches:
        for number, name in enumerate(CASE.sides_at(batch), start=1):
            write_graph(folder / f"{name}-b{batch}.onnx", [batch, 3, 4, 4])
            listed.add(Side(name, f"{name}-b{batch}.onnx", batch, number / 10, "sources", {"rate": 0.5}))
    return tmp_path / "work"


@pytest.fixture
def _only_this_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "chosen", lambda names: (CASE,))


def measure(work: Path, out: Path, *more: str) -> dict[str, Any]:
    run.main(["--made", "--work", str(work), "--out", str(out), "--seconds", "0", "--openings", "1", *more])
    data: dict[str, Any] = json.loads(out.read_text())
    return data


def test_sides_and_batches_of_a_case() -> None:
    assert CASE.sides_at(1) == list(NAMES)
    assert CASE.sides_at(2) == [name for name in NAMES if name in FEW]
    assert CASE.sides_at(1, ["evit"]) == [PLAIN, DENSE, "evit"]
    assert CASE.batches_of([1, 2, 32], threads=2) == [1, 2]
    assert CASE.batches_of([1, 2, 32], threads=1) == [1]


def test_all_sides_take_turns(work: Path) -> None:
    folder = work / CASE.name
    files = {name: folder / f"{name}-b1.onnx" for name in NAMES}
    found = measure_turns(files, How(threads=1, seconds=0))
    assert list(found) == [*NAMES, AGAIN]
    assert {len(series.seconds) for series in found.values()} == {10}
    facts = describe(found)
    assert facts["sides"]["evit"]["as_fast_as"].keys() == {PLAIN, DENSE, ORACLE, "scatter", "concat"}
    assert facts["noise"]["rounds"] == 10
    assert len(facts["sides"][AGAIN]["times_ms"]) == 10


def test_rounds_are_shared_out_among_openings(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def opening(path: Path, *more: Any) -> OnnxRuntimeSession:
        opened.append(path.name)
        return OnnxRuntimeSession(path, *more)

    monkeypatch.setattr(turns, "OnnxRuntimeSession", opening)
    files = {name: work / CASE.name / f"{name}-b1.onnx" for name in (PLAIN, DENSE, "evit", "scatter")}
    found = measure_turns(files, How(threads=1, seconds=0, openings=2))
    assert list(found) == [PLAIN, DENSE, "evit", "scatter", AGAIN]
    assert {len(series.seconds) for series in found.values()} == {12}  # 6 each: fewer give no interval
    assert sorted(opened[:5]) == sorted(opened[5:])
    assert opened[:5] != opened[5:]


def test_a_graph_of_any_batch_is_refused(tmp_path: Path, write_graph: WriteGraph) -> None:
    dynamic = write_graph(tmp_path / "dynamic.onnx", ["n", 3, 4, 4])
    with pytest.raises(ValueError, match="invalid literal"):
        measure_turns({DENSE: dynamic}, How(threads=1, seconds=0))


def test_ratios_and_verdicts_follow_from_the_times() -> None:
    def series(milliseconds: float, seed: int) -> Series:
        noise = np.random.default_rng(seed).standard_normal(40)
        return Series(milliseconds / 1e3 * np.exp(0.01 * noise), None)

    times = {PLAIN: 40.0, DENSE: 36.0, "scatter": 18.0, "evit": 20.0, AGAIN: 36.0}
    facts = describe({name: series(value, seed) for seed, (name, value) in enumerate(times.items())})
    ours, evit = facts["sides"]["scatter"], facts["sides"]["evit"]
    assert ours["as_fast_as"][PLAIN]["value"] == pytest.approx(40 / 18, rel=0.01)
    assert ours["as_fast_as"][DENSE]["verdict"] == "faster"
    assert evit["as_fast_as"]["scatter"]["verdict"] == "slower"
    assert facts["sides"][DENSE]["as_fast_as"][PLAIN]["low"] > 1
    assert facts["noise"]["too_noisy"] is False
    times[AGAIN] = 40.0
    noisy = describe({name: series(value, seed) for seed, (name, value) in enumerate(times.items())})
    assert noisy["noise"]["too_noisy"] is True
    assert noisy["sides"]["scatter"]["as_fast_as"][DENSE]["verdict"] == "too noisy"


@pytest.mark.usefixtures("_only_this_case")
def test_a_run_is_kept_and_not_repeated(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "check_bare", lambda *_: None)
    out = tmp_path / "latency.json"
    first = measure(work, out, "--batches", "1,2")
    keys = [(g["batch"], g["threads"], len(g["sides"])) for g in first["groups"]]
    assert keys == [(1, 2, 7), (2, 2, 5), (1, 1, 7)]
    side = first["groups"][0]["sides"]["evit"]
    assert (side["gmacs"], side["setting"]) == (0.6, {"rate": 0.5})
    assert first["bench_machine"]["identity"]["cores"] >= 1
    capsys.readouterr()
    assert measure(work, out, "--batches", "1,2")["groups"] == first["groups"]
    assert capsys.readouterr().out.count("is there") == 3

    again = measure(work, out, "--again", "--batches", "2")["groups"]
    assert len(again) == 3
    assert [g for g in again if g["batch"] == 1] == [g for g in first["groups"] if g["batch"] == 1]
    assert [g for g in again if g["batch"] == 2] != [g for g in first["groups"] if g["batch"] == 2]


@pytest.mark.usefixtures("_only_this_case")
def test_other_sources_are_measured_again(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    options = ("--batches", "1", "--threads", "2", "--only", "evit")
    before = measure(work, out, *options)["groups"]
    listed = SideList(work / CASE.name)
    listed.add(Side("evit", "evit-b1.onnx", 1, 0.9, "new sources"))
    (after,) = measure(work, out, *options)["groups"]
    assert after != before[0]
    assert after["sides"]["evit"]["gmacs"] == 0.9


def test_results_of_another_machine_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    records = Records(path)
    records.add_bare([])
    Records(path)
    data = json.loads(path.read_text())
    data["bench_machine"]["identity"]["processor"] = "Another 1"
    path.write_text(json.dumps(data))
    with pytest.raises(SystemExit, match=r"another machine.*identity"):
        Records(path)


def test_the_bare_loop_in_its_own_process(tmp_path: Path, write_graph: WriteGraph) -> None:
    files = [write_graph(tmp_path / f"{name}.onnx", [1, 3, 4, 4]) for name in ("a", "b")]
    (found,) = bare.ratios(files[0], {"b": files[1]}, threads=1, seconds=0.01, repeats=2).values()
    assert 0 < found["least"] <= found["ratio"] <= found["largest"]
    assert min(found["reference_ms"], found["candidate_ms"]) > 0


def group(**times: float) -> dict[str, Any]:
    """A group whose sides took these milliseconds in each of 30 rounds."""
    series = {name if name == TINY else name.replace("_", " "): value for name, value in times.items()}
    facts = describe({name: Series(np.full(30, value / 1e3), None) for name, value in series.items()})
    for number, name in enumerate(facts["sides"], start=1):
        facts["sides"][name] |= {"gmacs": float(number), "setting": {}}
    where = {"case": "deit_s-2.0", "batch": 1, "threads": 2, "provider": "cpu"}
    return where | facts


@pytest.fixture
def results() -> dict[str, Any]:
    times = {PLAIN: 50.0, DENSE: 40.0, "scatter": 20.0, "concat": 22.0, ORACLE: 19.0}
    found = group(**times, evit=21.0, deit_tiny=10.0, dense_again=40.0)
    row = {"case": "deit_s-2.0", "batch": 1, "side": "scatter", "threads": 2, "ratio": 2.45}
    row |= {"least": 2.4, "largest": 2.5}
    machine = {"date": "2025-01-02", "system": "Linux", "python": "3.10", "packages": {"onnxruntime": "1.0"}}
    identity = {"processor": "Some CPU", "cores": 2, "memory_gib": 8.0, "gpu": None}
    return {"groups": [found], "bare": [row], "machine": machine, "bench_machine": {"identity": identity}}


def test_tables_say_what_was_measured(results: dict[str, Any]) -> None:
    sections = report.sections(results)
    assert "Some CPU, 2 cores, 8.0 GiB; Linux, Python 3.10; onnxruntime 1.0." in sections["machine"]
    claim = sections["claims"].splitlines()[-1]
    assert claim.startswith("| deit_s-2.0 | 1 | 2 | scatter | 2.50 |")
    assert claim.endswith("| 0.67 | faster |")  # the made-up GMACs of dense and scatter: 2 and 3
    assert "| 1.053 |" in sections["tax"].splitlines()[-1]
    assert "| 1.158 |" in sections["tax"].splitlines()[-1]
    rivals = sections["rivals"].splitlines()[2:]
    assert [line.split("|")[1].strip() for line in rivals] == ["evit", TINY]
    assert rivals[0].endswith("| 1.050 | 1.050 - 1.050 | faster |")
    assert "| plain | 1.000 | 50.00 | 50.00 |  | 0.800 |" in sections["latencies"]
    assert AGAIN not in sections["latencies"]
    assert sections["bare"].splitlines()[-1].endswith("| 2.450 | 2.400 - 2.500 | 2.500 | +2.0% |")


def test_a_slower_side_is_said_as_plainly(results: dict[str, Any]) -> None:
    found = group(plain=50.0, dense=40.0, scatter=20.0, evit=18.0, dense_again=40.0)
    rivals = report.sections(results | {"groups": [found]})["rivals"].splitlines()
    assert rivals[-1].endswith("| slower |")
    assert "| 0.900 |" in rivals[-1]


def test_the_larger_of_two_groups_counts_and_few_rounds_claim_nothing(results: dict[str, Any]) -> None:
    smaller = group(plain=50.0, dense=40.0, scatter=10.0, dense_again=40.0)
    results["groups"].insert(0, smaller)
    assert len(report.sections(results)["claims"].splitlines()) == 3
    few = smaller | {"case": "few"}
    few["sides"]["scatter"]["as_fast_as"][PLAIN] |= {"low": 0.0, "high": float("inf")}
    results["groups"].append(few)
    claim = report.sections(results)["claims"].splitlines()[-1]
    assert claim.startswith("| few |")
    assert "too few rounds" in claim


def test_sections_go_between_their_markers(results: dict[str, Any], tmp_path: Path) -> None:
    docs, file = tmp_path / "performance.md", tmp_path / "latency.json"
    file.write_text(json.dumps(results))
    names = report.sections(results)
    docs.write_text("# Title\n" + "".join(f"<!-- {name} -->old<!-- /{name} -->\n" for name in names))
    report.main([str(file), "--docs", str(docs)])
    text = docs.read_text()
    assert "old" not in text
    assert text.startswith("# Title\n<!-- machine -->\n\nMeasured 2025-01-02")
    with pytest.raises(ValueError, match="expected the markers"):
        report.replaced("text", "claims", "x")


def test_every_side_has_its_place() -> None:
    assert len(set(SIDES)) == len(SIDES)
    assert set(FEW) <= set(SIDES)
