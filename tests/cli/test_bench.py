"""`tofe-export bench` around the measuring: what it refuses, prints, writes, and how it exits.

One run on a tiny bundle is real, and nothing about its times is asserted; claims are tested with figures that
are made up.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tofe_export.bench.comparison import Comparison, Figures
from tofe_export.bench.pairs import Pair
from tofe_export.bench.statistics import Ratio, Summary
from tofe_export.cli import main

MakeBundle = Callable[..., Path]
DENSE, REDUCED = "dense-fp32-b1", "0.01g-scatter-fp32-b1"
QUICK = ("--iterations", 6, "--warmup", 1, "--threads", 1)


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Path:
    return make_bundle()


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> dict[str, Ratio]:
    """Replace the measuring: every comparison has these ratios and made-up latencies."""
    ratios = {"speedup": Ratio(2.0, 1.9, 2.1, 150, 140), "noise": Ratio(1.01, 0.99, 1.02, 150, 140)}

    def made(pair: Pair, *_: Any, **__: Any) -> Comparison:
        variant = Figures(Summary(150, 10, 11, 12, 13, 9), None, 100, None)
        against = Figures(Summary(150, 20, 22, 24, 26, 18), None, 50, None)
        speedup, noise = ratios["speedup"], ratios["noise"]
        return Comparison(pair, 1, "perf_counter", variant, against, speedup, None, noise)

    monkeypatch.setattr("tofe_export.bench.comparison.compare", made)
    return ratios


def test_a_whole_run(bundle: Path, tmp_path: Path) -> None:
    result = bench(bundle, *QUICK, "--json", tmp_path / "bench.json")
    assert result.exit_code == 0, result.stderr
    data = json.loads((tmp_path / "bench.json").read_text())
    assert (data["kind"], data["compared"]) == ("tofe-export bench 1", None)
    assert data["machine"].keys() == {"identity", "mode", "versions", "before", "after"}
    assert data["settings"]["threads"] == 1
    assert data["process_peak_bytes"] > 1 << 20
    (comparison,) = data["comparisons"]
    assert (comparison["variant"]["name"], comparison["against"]["name"]) == (REDUCED, DENSE)
    for side in ("variant", "against"):
        latency = comparison[side]["latency"]
        assert latency["runs"] == 6
        assert 0 < latency["least_ms"] <= latency["median_ms"]
        assert comparison[side]["images_per_second"] > 0
    speedup = comparison["speedup"]
    assert 0 <= speedup["low"] <= speedup["value"]
    assert speedup["high"] is None or speedup["value"] <= speedup["high"]
    assert speedup["rounds"] == 6
    assert comparison["mac_ratio"] > 1
    assert comparison["verdict"] in ("faster", "slower", "no difference shown", "too noisy")
    assert REDUCED in result.stdout


def test_json_on_stdout_is_nothing_but_json(bundle: Path, claims: object) -> None:
    data = json.loads(bench(bundle, "--json", "-").stdout)
    assert data["comparisons"][0]["verdict"] == "faster"
    length = {"seconds": 10.0, "iterations": None, "warmup": 10, "least": 20}
    assert data["plan"] == {**length, "seed": 0, "openings": 3}


def test_the_tables(bundle: Path, claims: object) -> None:
    result = bench(bundle, "--quiet")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    (dense,) = [line for line in lines if line[:1] == [DENSE] and len(line) == 8]
    assert dense[2:] == ["1", "20.000", "22.000", "24.000", "26.000", "50.0"]
    (ratio,) = [line for line in lines if line[:2] == [DENSE, REDUCED]]
    assert ratio[2:6] == ["2.000", "1.900", "-", "2.100"]
    assert ratio[-3:] == ["1.010", "150", "faster"]
    assert "which do not spin while idle" in result.stdout


def test_a_noisy_machine_gets_figures_a_warning_and_no_claim(bundle: Path, claims: dict[str, Ratio]) -> None:
    claims["noise"] = Ratio(0.9, 0.8, 1.0, 150, 140)
    result = bench(bundle)
    assert result.exit_code == 0
    assert "too noisy" in result.stdout
    assert "faster" not in result.stdout.split("Times by")[0]
    assert "2.000" in result.stdout
    assert "warning: too noisy to tell for 1 of 1 comparisons" in result.stderr
    assert "dense-fp32-b1 differs from itself by 11.1%" in result.stderr


def test_a_noisy_machine_fails_strictly_after_writing_the_figures(
    bundle: Path, claims: dict[str, Ratio], tmp_path: Path
) -> None:
    assert bench(bundle, "--strict").exit_code == 0
    claims["noise"] = Ratio(1.2, 0.8, 1.3, 150, 140)
    result = bench(bundle, "--strict", "--json", tmp_path / "bench.json")
    assert result.exit_code == 1
    assert "error: too noisy" in result.stderr
    assert json.loads((tmp_path / "bench.json").read_text())["comparisons"][0]["verdict"] == "too noisy"


def test_an_open_interval_is_null_and_said(bundle: Path, claims: dict[str, Ratio]) -> None:
    claims["speedup"] = Ratio(2.0, 0.0, float("inf"), 6, 3)
    result = bench(bundle, "--json", "-")
    speedup = json.loads(result.stdout)["comparisons"][0]["speedup"]
    assert (speedup["low"], speedup["high"]) == (0, None)
    assert "too few rounds" in bench(bundle).stdout


def test_a_second_run_shows_what_changed(bundle: Path, claims: dict[str, Ratio], tmp_path: Path) -> None:
    assert bench(bundle, "--json", tmp_path / "first.json").exit_code == 0
    claims["speedup"] = Ratio(2.2, 2.1, 2.3, 150, 140)
    result = bench(bundle, "--compare", tmp_path / "first.json", "--json", tmp_path / "second.json")
    assert result.exit_code == 0, result.stderr
    assert "+10.0%" in result.stdout
    (change,) = json.loads((tmp_path / "second.json").read_text())["compared"]["changes"]
    assert (change["then"], change["now"], change["same_graph"], change["repeats"]) == (2.0, 2.2, True, False)


def test_figures_of_another_machine_are_refused_before_measuring(
    bundle: Path, claims: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "saved.json"
    bench(bundle, "--json", saved)
    data = json.loads(saved.read_text())
    data["machine"]["identity"]["processor"] = "Another 1"
    saved.write_text(json.dumps(data))
    monkeypatch.setattr("tofe_export.bench.comparison.compare", lambda *_, **__: pytest.fail("measured"))
    result = bench(bundle, "--compare", saved)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "another machine (processor: Another 1 then" in result.stderr


def test_a_run_of_other_variants_is_refused_before_measuring(
    bundle: Path, claims: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "saved.json"
    bench(bundle, "--json", saved)
    monkeypatch.setattr("tofe_export.bench.comparison.compare", lambda *_, **__: pytest.fail("measured"))
    result = bench(bundle, "--against", REDUCED, "--compare", saved)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"none of the comparisons that would be made now ({DENSE} against {REDUCED})" in result.stderr
    assert f"it has {REDUCED} against {DENSE}" in result.stderr


def test_layers_that_are_not_shown_are_refused_before_measuring(
    bundle: Path, claims: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tofe_export.bench.comparison.compare", lambda *_, **__: pytest.fail("measured"))
    result = bench(bundle, "--provider", "tensorrt", "--layers")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "a few opaque nodes" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--variant", DENSE), 2, "expected variants with token reduction"),
        (("--against", "nosuch"), 2, "no variant 'nosuch'"),
        (("--batch", 8), 2, "no variant with batch 8"),
        (("--run-batch", 8), 2, "--run-batch is for variants with a dynamic batch; these have 1"),
        (("--iterations", 3), 2, "at least 6 iterations"),
        (("--iterations", 9, "--seconds", 2), 2, "give one of them"),
        (("--cuda-graph",), 2, "--cuda-graph is for TensorRT engines"),
        (("--plot", "figure.jpg"), 2, "ending in .png or .svg"),
        (("--plot", "nosuch/figure.png"), 2, "there is no folder"),
        (("--table", "nosuch/table.json"), 2, "there is no folder"),
        (("--compare", "nosuch.json"), 3, "expected a file that `tofe-export bench --json` wrote"),
        (("--backend", "tensorrt", "--provider", "cpu"), 2, "--provider is ONNX Runtime's"),
    ],
)
def test_what_cannot_be(arguments: tuple[object, ...], code: int, message: str, bundle: Path) -> None:
    result = bench(bundle, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_a_provider_is_named_if_it_does_not_work(bundle: Path) -> None:
    result = bench(bundle, *QUICK[:4], "--provider", "cuda")
    if result.exit_code == 0:
        pytest.skip("cuda works on this machine")
    assert result.exit_code == 5
    assert "expected ONNX Runtime to run on cuda" in result.stderr


def test_each_side_alone_in_its_own_process(bundle: Path) -> None:
    result = bench(bundle, *QUICK, "--alone", "--json", "-")
    assert result.exit_code == 0, result.stderr
    (comparison,) = json.loads(result.stdout)["comparisons"]
    assert comparison["alone"].keys() == {"variant", "against", "ratio"}
    assert comparison["alone"]["variant"]["peak_memory_bytes"] > 1 << 20
    assert comparison["alone"]["against"]["latency"]["runs"] == 6
    assert "alone, ms" in result.stderr


def test_a_picture(bundle: Path, claims: object, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert bench(bundle, "--plot", tmp_path / "latency.svg").exit_code == 0
    assert (tmp_path / "latency.svg").read_text().startswith("<?xml")
