"""`tofe-export inspect`: the facts of a bundle, and no graph is run for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tofe_export.cli import inspect, main

MakeBundle = Callable[..., Path]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def test_the_facts_that_people_ask_for(make_bundle: MakeBundle) -> None:
    result = run(make_bundle())
    assert (result.exit_code, result.stderr) == (0, "")
    for fact in ("tiny, trained", "16 (4 x 4) and 1 prefix", "8 x 8, crop 1 (center), bicubic", "1.23 kB"):
        assert fact in result.stdout
    (line,) = (line for line in result.stdout.split("\n") if line.startswith("0.01g-scatter"))
    assert "8/4" in line  # kept patch tokens
    assert "17/9/5" in line  # tokens in each stage, with the prefix
    assert "8.6, 10.3" in line


def test_stages_appear_when_a_variant_is_picked(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    assert "stage 1" not in run(bundle).stdout
    picked = run(bundle, "--variant", "0.01g-scatter-fp32-b1").stdout
    assert "stage 1" in picked
    assert "dense-fp32-b1" not in picked


def test_json_holds_both_accounts_and_the_stages(make_bundle: MakeBundle) -> None:
    data = json.loads(run(make_bundle(), "--json", "-", "--quiet").stdout)
    reduced = next(v for v in data["variants"] if v["lowering"] == "scatter")
    assert data["model"]["backbone"] == "tiny"
    assert data["preprocessing"]["size"] == [8, 8]
    total = reduced["stages"][-1]
    assert total["executed"] / 1e9 == pytest.approx(reduced["gmacs_executed"])
    assert total["macs"] / 1e9 == pytest.approx(reduced["gmacs"])
    assert 0 < reduced["share_of_dense"] < 1.1


def test_an_untrained_model_is_said_loudly(make_bundle: MakeBundle) -> None:
    result = run(make_bundle(trained=False))
    assert "NOT TRAINED" in result.stdout
    assert "NOT TRAINED" in result.stderr


@pytest.mark.parametrize("account", [{}, {"images": 3, "method": {}}, [], "on some pictures"])
@pytest.mark.parametrize("key", ["calibration", "int8"])
def test_a_damaged_account_of_a_calibration(make_bundle: MakeBundle, key: str, account: object) -> None:
    bundle = make_bundle()
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["variants"][0][key] = account
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    result = run(bundle)
    assert result.exit_code == 4
    assert f"variant {manifest['variants'][0]['name']}: expected under {key!r}" in result.stderr


def test_a_damaged_bundle_is_described_and_then_refused(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    (bundle / "variants" / "dense-fp32-b1.onnx").unlink()
    result = run(bundle)
    assert result.exit_code == 4
    assert "missing" in result.stdout
    assert "dense-fp32-b1.onnx" in result.stderr


def test_keep_counts_that_fit_no_such_model_are_damage(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["variants"][1]["keep"] = [8, 4, 2]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    result = run(bundle)
    assert result.exit_code == 4
    assert "expected 2 keep counts" in result.stderr


def test_no_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    result = run(tmp_path / "nothing")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "tofe-export onnx" in result.stderr


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (90_822_993, "90.8 MB"), (5_000_000_000_000, "5e+03 GB")],
)
def test_sizes(count: int, text: str) -> None:
    assert inspect.size(count) == text


def test_recipes_for_other_tools_stand_alone(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    config = run(bundle, "--triton", "tensorrt")
    assert (config.exit_code, config.stderr) == (0, "")
    assert config.stdout.startswith("# models/0.01g-scatter-fp32-b1/config.pbtxt")
    assert "dims: [ 1, 3, 8, 8 ]" in config.stdout
    assert "GMACs" not in config.stdout
    line = run(bundle, "--trtexec", "trt-10.3", "--variant", "dense-fp32-b1").stdout
    graph = f"--onnx={bundle}/variants/dense-fp32-b1.onnx"
    assert line == f"trtexec {graph} --saveEngine=dense-fp32-b1.plan --noTF32 --stronglyTyped\n"
    both = json.loads(
        run(bundle, "--triton", "onnxruntime", "--trtexec", "jetpack-6.2", "--json", "-").stdout
    )
    assert set(both["0.01g-scatter-fp32-b1"]) == {"triton", "trtexec"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--trtexec", "trt-7.2"), "too old"),
        (("--trtexec", "trt-11.4"), "meant for TensorRT 8.6, 10.3"),
        (("--triton", "pytorch"), "--triton"),
    ],
)
def test_recipes_that_cannot_be_given(make_bundle: MakeBundle, options: tuple[str, ...], said: str) -> None:
    result = run(make_bundle(), *options)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
