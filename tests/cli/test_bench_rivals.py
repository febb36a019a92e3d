"""`tofe-export bench --rivals`: one real run on tiny graphs, made-up claims, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tofe_export.bench.comparison import Figures, Measured
from tofe_export.bench.rivals import Rival, RivalComparison
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
def rivals(bundle: Path, tmp_path: Path) -> Path:
    """A folder with the dense graph under another name."""
    folder = tmp_path / "rivals"
    folder.mkdir()
    shutil.copy(bundle / "variants" / f"{DENSE}.onnx", folder / "plain.onnx")
    return folder


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> dict[str, Ratio]:
    """Replace the measuring of rivals: each is half as fast as its reference."""
    ratios = {"speedup": Ratio(0.5, 0.48, 0.52, 150, 140), "noise": Ratio(1.01, 0.99, 1.02, 150, 140)}

    def made(bundle: Any, rival: Rival, *_: Any) -> RivalComparison:
        slow = Figures(Summary(150, 20, 22, 24, 26, 18), None, 50, None)
        fast = Figures(Summary(150, 10, 11, 12, 13, 9), None, 100, None)
        found = Measured("perf_counter", slow, fast, ratios["speedup"], None, ratios["noise"])
        return RivalComparison(rival, found)

    monkeypatch.setattr("tofe_export.bench.rivals.compare_rival", made)
    return ratios


def test_a_whole_run(bundle: Path, rivals: Path, tmp_path: Path) -> None:
    result = bench(bundle, *QUICK, "--rivals", rivals, "--json", tmp_path / "bench.json")
    assert result.exit_code == 0, result.stderr
    data = json.loads((tmp_path / "bench.json").read_text())
    assert len(data["comparisons"]) == 1
    (found,) = data["rivals"]
    assert found["rival"]["file"] == str(rivals / "plain.onnx")
    assert (found["rival"]["input"], found["rival"]["shape"]) == ("images", [1, 3, 8, 8])
    assert found["against"]["name"] == DENSE
    assert found["rival"]["sha256"] == found["against"]["sha256"]
    assert found["rival"]["latency"]["runs"] == found["speedup"]["rounds"] == 6
    assert found["verdict"] in ("faster", "slower", "no difference shown", "too noisy")
    assert "plain.onnx" in result.stdout


def test_rivals_alone_when_only_the_dense_variant_is_picked(
    bundle: Path, rivals: Path, claims: object
) -> None:
    result = bench(bundle, "--variant", DENSE, "--rivals", rivals / "plain.onnx", "--json", "-")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert (data["comparisons"], len(data["rivals"])) == ([], 1)
    assert bench(bundle, "--variant", DENSE).exit_code == 2  # without rivals there is nothing to compare


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plot", "figure.png"), "--plot: what is shown there are variants"),
        (("--alone", "--compare", "saved.json"), "--alone, --compare: what is shown there are variants"),
        (("--run-batch", 2), "only rivals are measured: leave it out"),
    ],
)
def test_what_is_about_variants_is_refused_where_only_rivals_are_measured(
    bundle: Path, rivals: Path, claims: object, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    bench(bundle, *QUICK, "--json", tmp_path / "saved.json")
    named = [tmp_path / str(word) if "." in str(word) else word for word in arguments]
    result = bench(bundle, "--variant", DENSE, "--rivals", rivals, *named)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not (tmp_path / "figure.png").exists()


def test_against_a_variant_by_name(bundle: Path, rivals: Path, claims: object) -> None:
    options = ("--variant", REDUCED, "--against", REDUCED, "--rivals", rivals, "--json", "-")
    data = json.loads(bench(bundle, *options).stdout)
    assert (data["comparisons"], data["rivals"][0]["against"]["name"]) == ([], REDUCED)


def test_the_table(bundle: Path, rivals: Path, claims: object) -> None:
    result = bench(bundle, "--variant", DENSE, "--rivals", rivals, "--quiet")
    (line,) = [line.split() for line in result.stdout.splitlines() if line.startswith("plain.onnx")]
    assert line == [
        *("plain.onnx", "8", "x", "8", "1", "20.000", DENSE, "10.000", "0.500", "0.480", "-", "0.520"),
        *("1.010", "slower"),
    ]
    assert "which do not spin while idle" in result.stdout


def test_a_noisy_machine_claims_nothing_of_a_rival(
    bundle: Path, rivals: Path, claims: dict[str, Ratio]
) -> None:
    claims["noise"] = Ratio(1.2, 1.1, 1.3, 150, 140)
    options = ("--variant", DENSE, "--rivals", rivals)
    result = bench(bundle, *options)
    assert result.exit_code == 0
    assert "too noisy to tell for 1 of 1 comparisons: dense-fp32-b1 differs" in result.stderr
    assert bench(bundle, *options, "--strict").exit_code == 1


def test_bad_rivals_are_refused_before_measuring(bundle: Path, rivals: Path, claims: object) -> None:
    text = rivals / "text.onnx"
    text.write_text("not a graph")
    for named, code, message in (
        (text, 3, "text.onnx"),
        (rivals / "nothing.onnx", 3, "there is no file"),
        (f"{rivals / 'plain.onnx'},{rivals / 'nothing.onnx'}", 3, "nothing.onnx"),
        (",", 2, "expected files or folders"),
    ):
        result = bench(bundle, "--rivals", named)
        assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
        assert result.stdout == ""


def test_rivals_do_not_run_on_engines(bundle: Path, rivals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tofe_export.bench.sides import How

    monkeypatch.setattr(
        "tofe_export.cli.bench_setup.how_of", lambda *_: How("tensorrt", "tensorrt", cuda_graph=True)
    )
    result = bench(bundle, "--rivals", rivals)
    assert result.exit_code == 2
    assert "add --backend onnxruntime" in result.stderr
