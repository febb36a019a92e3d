"""`tofe-export calibrate`: what it writes, what it says, and everything that a user can get wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from absent import program_without
from click.testing import CliRunner, Result
from PIL import Image

from tofe_export.bundle import Bundle
from tofe_export.cli import main
from tofe_export.errors import CheckpointError
from tofe_export.keep import Measured
from tofe_export.latency.ladder import heads_of
from tofe_export.latency.table import Entry, Step, Table
from tofe_export.model.build import build_checkpoint
from tofe_export.model.checkpoint import load_checkpoint

MakeBundle = Callable[..., Path]
ARGUMENTS = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 3}
BUDGET = 0.00042
ROW = Measured(BUDGET, (6, 6, 5), None, "training")
HOST_ONLY = ("torch", "torchvision", "timm", "safetensors", "onnxscript", "accelerate")
SHORT = ("--budget", BUDGET, "--quiet", "--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tofe.pt, 24 pictures in pictures/, one among four broken in broken/, and empty/."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    checkpoint = build_checkpoint("vit_tiny_patch16_224", None, arguments=ARGUMENTS)
    with torch.no_grad():
        for name, weight in checkpoint.model.named_parameters():
            if weight.ndim >= 2:
                weight.copy_(weight[0].numel() ** -0.5 * torch.randn(weight.shape))
            elif name.endswith("bias"):
                weight.copy_(0.2 * torch.randn(weight.shape))
    replace(checkpoint, table=(ROW,), trained=True).save(folder / "tofe.pt")
    random = np.random.default_rng(0)
    (folder / "empty").mkdir()
    for name, count in (("pictures", 24), ("broken", 20)):
        (folder / name / "deep").mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 256, (20, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / "deep" / f"{index:02}.png")
    for index in (3, 4, 5, 6, 7, 8, 9):
        (folder / "broken/deep" / f"{index:02}.png").write_bytes(b"not a picture")
    return folder


def call(*words: object) -> Result:
    result = CliRunner().invoke(main, ["calibrate", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def said(result: Result) -> str:
    return " ".join(result.stderr.split())


def copied(source: Path, target: Path) -> Path:
    shutil.copy(source, target)
    return target


def test_tokens_and_thresholds_into_a_new_checkpoint(made: Path, tmp_path: Path) -> None:
    before, out = (made / "tofe.pt").read_bytes(), tmp_path / "out.pt"
    result = call(
        "--ckpt", made / "tofe.pt", "--images", made / "pictures", *SHORT, "--out", out, "--json", "-"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    data = json.loads(result.stdout)
    (found,) = data["results"]
    assert data["images"]["count"] == 24
    assert found["tokens"]["held_out_images"] == 12
    assert found["adaptive"]["gmacs_mean"] <= found["gmacs"]
    calibrated = load_checkpoint(out)
    (row,) = calibrated.table
    assert list(row.keep) == found["row"]["keep"]
    assert row.thresholds is not None
    assert calibrated.trained
    assert calibrated.history["calibration"][0]["images"] == data["images"]
    assert (made / "tofe.pt").read_bytes() == before


def test_what_people_read(made: Path, tmp_path: Path) -> None:
    result = call(
        *("--ckpt", made / "tofe.pt", "--images", made / "pictures", "--num-images", 20, "--seed", 7),
        *("--device", "cpu", "--out", tmp_path / "out.pt"),
    )
    assert result.exit_code == 0
    assert "20 of 24 pictures in" in result.stderr
    text = " ".join(result.stdout.split())
    for words in ("budget; 10 other pictures", "before", "best found", "thresholds", "0.000420 GMACs"):
        assert words in text
    assert f"tofe-export onnx --ckpt {tmp_path / 'out.pt'} --budget 0.000420" in text


@pytest.mark.parametrize(
    ("part", "there", "absent"), [("tokens", "tokens", "adaptive"), ("thresholds", "adaptive", "tokens")]
)
def test_each_part_alone(made: Path, tmp_path: Path, part: str, there: str, absent: str) -> None:
    out = tmp_path / "out.safetensors"
    images = ("--images", made / "pictures", "--out", out, "--only", part)
    assert call("--ckpt", made / "tofe.pt", *images, *SHORT).exit_code == 0
    (entry,) = load_checkpoint(out).history["calibration"]
    assert there in entry
    assert absent not in entry


def test_in_place_only_by_force_and_nothing_is_lost(made: Path, tmp_path: Path) -> None:
    own = copied(made / "tofe.pt", tmp_path / "own.pt")
    before = own.read_bytes()
    line = ("--ckpt", own, "--images", made / "pictures", "--only", "thresholds", *SHORT)
    refused = call(*line)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert own.read_bytes() == before
    assert call(*line, "--force").exit_code == 0
    (entry,) = load_checkpoint(own).history["calibration"]
    assert entry["replaced"][0]["source"] == "training"
    elsewhere = tmp_path / "other.pt"
    elsewhere.write_text("mine")
    assert call(*line, "--out", elsewhere).exit_code == 2
    assert elsewhere.read_text() == "mine"


def test_a_failure_on_the_way_leaves_the_file_alone(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = copied(made / "tofe.pt", tmp_path / "own.pt")
    before = own.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tofe_export.calibration.checkpoint.settle_thresholds", interrupted)
    line = ("--ckpt", own, "--images", made / "pictures", "--only", "thresholds", *SHORT, "--force")
    assert call(*line).exit_code == 130
    assert own.read_bytes() == before
    assert list(tmp_path.iterdir()) == [own]


def test_unreadable_pictures_are_counted_and_named(made: Path, tmp_path: Path) -> None:
    line = ("--ckpt", made / "tofe.pt", "--images", made / "broken", "--only", "thresholds")
    many = call(*line, *SHORT, "--out", tmp_path / "out.pt")
    assert many.exit_code == 3
    assert "at most 1 of 20 pictures to be unreadable (--max-corrupt), found 2" in said(many)
    assert "deep/03.png" in said(many)
    allowed = call(*line, *SHORT, "--max-corrupt", 0.5, "--out", tmp_path / "out.pt", "--json", "-")
    assert allowed.exit_code == 0
    assert "7 of 20 pictures cannot be read and were left out: deep/03.png" in said(allowed)
    assert "and 2 more" in said(allowed)
    facts = json.loads(allowed.stdout)["images"]
    assert (facts["count"], len(facts["unreadable"])) == (13, 7)
    (entry,) = load_checkpoint(tmp_path / "out.pt").history["calibration"]
    assert entry["images"]["unreadable"] == facts["unreadable"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--images", "nothing"), 3, "found nothing"),
        (("--images", "empty"), 3, "found a folder without any"),
        (("--images", "pictures", "--num-images", 25), 3, "at least 25 pictures, found 24"),
        (("--images", "pictures", "--num-images", 12), 3, "at least 16 readable pictures"),
        (("--images", "pictures", "--budget", 7), 2, "cannot be met"),
        (("--images", "pictures", "--budget-ms", 3), 2, "--latency TABLE"),
        (("--images", "pictures", "--latency", "table.json"), 2, "is there for --budget-ms"),
        (("--images", "pictures", "--budget-ms", 3, "--latency", "none.json"), 3, "a latency table"),
        (("--images", "pictures", "--budget-ms", 3, "--budget", 1, "--latency", "t"), 2, "not both"),
        (("--images", "pictures", "--batch", 8), 2, "is there for --budget-ms"),
        (("--images", "pictures", "--only", "int8"), 2, "it needs a bundle"),
        (("--images", "pictures", "--variant", "dense-fp32-b1"), 2, "--variant belongs to a bundle"),
        (("--images", "pictures", "--min-agreement", 0.9), 2, "--min-agreement belongs to a bundle"),
        (("--images", "pictures", "--only", "weights"), 2, "tokens, thresholds, int8"),
        (("--images", "pictures", "--device", "nosuch"), 5, "--device nosuch"),
    ],
)
def test_wrong_input_of_a_checkpoint(
    made: Path, tmp_path: Path, words: tuple[object, ...], code: int, message: str
) -> None:
    words = tuple(made / word if word in ("nothing", "empty", "pictures") else word for word in words)
    result = call("--ckpt", made / "tofe.pt", "--out", tmp_path / "out.pt", *words)
    assert result.exit_code == code, result.stderr
    assert message in said(result)
    assert not (tmp_path / "out.pt").exists()


def test_a_checkpoint_without_budgets_needs_one(made: Path, tmp_path: Path) -> None:
    plain = replace(load_checkpoint(made / "tofe.pt"), table=())
    plain.save(tmp_path / "plain.pt")
    line = ("--ckpt", tmp_path / "plain.pt", "--images", made / "pictures", "--out", tmp_path / "out.pt")
    result = call(*line)
    assert result.exit_code == 2
    assert "say which by --budget" in said(result)


def test_places_that_cannot_be_written(made: Path, tmp_path: Path) -> None:
    line = ("--ckpt", made / "tofe.pt", "--images", made / "pictures")
    assert call(*line, "--out", tmp_path / "no" / "out.pt").exit_code == 8
    assert call(*line, "--out", tmp_path).exit_code == 8
    missing = call("--ckpt", tmp_path / "none.pt", *line[2:], "--out", tmp_path / "out.pt")
    assert missing.exit_code == CheckpointError.exit_code


def latencies(path: Path, made: Path, **changes: Any) -> Path:
    """A table whose latency grows by 1 % of the dense one's with each token."""
    model = load_checkpoint(made / "tofe.pt").model
    steps = tuple(Step(keep, 0.3 + keep / 100, 0.3, None, 5) for keep in (2, 6, 12))
    entry = Entry((16, 16), "scatter", "fp32", 1, heads_of(model), model.cost(), 10.0, 0.01, steps)
    Table("vit_tiny_patch16_224", "2026-01-01T00:00:00+00:00", {}, {}, (replace(entry, **changes),)).save(
        path
    )
    return path


def test_a_budget_in_milliseconds(made: Path, tmp_path: Path) -> None:
    table = latencies(tmp_path / "table.json", made)
    line = ("--ckpt", made / "tofe.pt", "--images", made / "pictures", "--device", "cpu", "--quiet")
    done = call(*line, "--budget-ms", 3.6, "--latency", table, "--out", tmp_path / "out.pt", "--json", "-")
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["results"]
    assert found["target"] == "3.6 ms"
    assert all(2 <= count <= 12 for count in found["row"]["keep"])
    (row,) = [row for row in load_checkpoint(tmp_path / "out.pt").table if row != ROW]
    assert row.budget_gmacs == pytest.approx(found["gmacs"], rel=0.01)
    for budget in (1, 20):
        outside = call(*line, "--budget-ms", budget, "--latency", table, "--out", tmp_path / "no.pt")
        assert outside.exit_code == 2
        assert "expected a latency from 3.20 ms" in said(outside)


def test_latencies_of_another_model(made: Path, tmp_path: Path) -> None:
    table = latencies(tmp_path / "table.json", made, heads=7)
    line = ("--ckpt", made / "tofe.pt", "--images", made / "pictures", "--out", tmp_path / "out.pt")
    result = call(*line, "--budget-ms", 3.6, "--latency", table)
    assert result.exit_code == 3
    assert "other shapes (heads: 7 there, 2 here)" in said(result)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--only", "tokens"), 2, "needs a checkpoint: give --ckpt FILE"),
        (("--out", "x.pt"), 2, "--out belongs to a checkpoint"),
        (("--budget", 7), 2, "no variant with budget 7.00"),
        (("--variant", "nosuch"), 2, "no variant with variant nosuch"),
        (("--num-images", 99), 3, "at least 99 pictures"),
        (("--num-images", 1), 3, "at least 2 pictures to calibrate INT8 with, found 1"),
        (("--precision", "int8,fp16"), 2, "--precision fp16: expected what is calibrated, int8 or int8fp16"),
    ],
)
def test_wrong_input_of_a_bundle(
    made: Path, make_bundle: MakeBundle, words: tuple[object, ...], code: int, message: str
) -> None:
    result = call(make_bundle(), "--images", made / "pictures", *words)
    assert result.exit_code == code, result.stderr
    assert message in said(result)


def test_a_bundle_needs_float32_variants(made: Path, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    manifest = json.loads((bundle / "manifest.json").read_text())
    for variant in manifest["variants"]:
        variant["precision"] = "fp16"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    result = call(bundle, "--images", made / "pictures")
    assert result.exit_code == 2
    assert "no variant with precision fp32" in said(result)


@pytest.mark.parametrize("package", ["onnx", "onnx_graphsurgeon"])
def test_a_bundle_needs_what_edits_graphs(made: Path, make_bundle: MakeBundle, package: str) -> None:
    done = program_without((package,), "calibrate", make_bundle(), "--images", made / "pictures")
    assert done.returncode == 5, done.stderr
    assert "pip install 'tofe-export[graph]'" in " ".join(done.stderr.split())


def test_either_a_bundle_or_a_checkpoint(made: Path, tmp_path: Path) -> None:
    both = call(tmp_path, "--ckpt", made / "tofe.pt", "--images", made / "pictures")
    assert both.exit_code == 2
    assert "not both" in said(both)
    none = call(tmp_path / "nothing", "--images", made / "pictures")
    assert none.exit_code == 4
    assert "tofe-export onnx" in said(none)


@pytest.mark.slow
def test_the_whole_way(made: Path, tmp_path: Path) -> None:
    images = ("--images", made / "pictures", "--quiet")
    calibrated, bundle = tmp_path / "calibrated.pt", tmp_path / "bundle"
    assert call("--ckpt", made / "tofe.pt", *images, *SHORT, "--out", calibrated).exit_code == 0
    words = (
        "--ckpt",
        calibrated,
        "--budget",
        BUDGET,
        "--lowering",
        "scatter,adaptive",
        "--precision",
        "fp32",
    )
    exported = CliRunner().invoke(main, ["onnx", *map(str, words), "--out", str(bundle)])
    assert exported.exit_code == 0, exported.stderr
    (row,) = load_checkpoint(calibrated).table
    variants = {variant.lowering: variant for variant in Bundle.open(bundle).manifest.variants}
    assert variants["scatter"].keep == row.keep
    assert row.thresholds is not None
    assert variants["adaptive"].thresholds == pytest.approx(row.thresholds)
    assert "calibration" not in variants["dense"].extra
    assert variants["scatter"].extra["calibration"]["images"]["count"] == 24
    looked = CliRunner().invoke(main, ["inspect", str(bundle), "--quiet"])
    assert "thresholds on 24 of 24 pictures of pictures (seed 0, sha256" in " ".join(looked.stdout.split())
    chosen = ("--lowering", "scatter", "--min-agreement", 0)
    done = program_without(HOST_ONLY, "calibrate", bundle, *images, *chosen)
    assert done.returncode == 0, done.stderr
    names = [variant.name for variant in Bundle.open(bundle).manifest.variants]
    assert "0.000420g-scatter-int8-b1" in names
    assert "dense-int8-b1" not in names
    looked = CliRunner().invoke(main, ["inspect", str(bundle), "--quiet"])
    assert "ranges by max on half of 24 pictures of pictures" in " ".join(looked.stdout.split())
    verified = CliRunner().invoke(main, ["verify", str(bundle), "--lowering", "adaptive", "--quiet"])
    assert verified.exit_code == 0, verified.stdout
