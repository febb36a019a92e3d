"""The command line of `train` and `eval`, and what both make of the pictures of a small folder."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from tofe_export.cli import main, recipe_options, train
from tofe_export.errors import UsageError, WriteError
from tofe_export.model.backbone import create_backbone
from tofe_export.training.recipe import Recipe

ARGUMENTS = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 3}
LV_VIT = {"img_size": 64, "embed_dim": 96, "depth": 8, "num_heads": 3, "num_classes": 3}
SHORT = ["--epochs", "2", "--fixed-epochs", "0.5", "--batch-size", "8", "--augment", "none", "--ema", "0.9"]
QUIET = ["--quiet", "--cpu", "--workers", "0"]


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@click.command()
@recipe_options.recipe
def bare(recipe: Recipe) -> None:
    click.echo(json.dumps(recipe.to_json()))


def parsed(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(bare, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    data: dict[str, Any] = json.loads(result.output)
    return data


def test_every_field_of_the_recipe_is_an_option_with_its_default() -> None:
    assert list(recipe_options.HELP) == [field.name for field in fields(Recipe)]
    assert parsed() == Recipe().to_json()


def test_values_reach_the_recipe() -> None:
    found = parsed(
        *("--budget", "1.5,2", "--budget", "2.6", "--fixed-epochs", "0.5", "--batch-size", "64"),
        *("--ratios", "0.5,0.5,0.25", "--lambda-budget", "7", "--budget-control", "multiplier"),
    )
    assert found["budgets"] == [1.5, 2.0, 2.6]
    assert found["ratios"] == [0.5, 0.5, 0.25]
    assert (found["fixed_epochs"], found["batch_size"], found["lambda_budget"]) == (0.5, 64, 7.0)
    assert found["budget_control"] == "multiplier"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "0"], "epochs: expected at least 1, found 0"),
        (["--min-lr", "1"], "min-lr: expected at most lr"),
        (["--ratios", "2"], "ratios: expected shares in"),
    ],
)
def test_values_that_make_no_sense_are_usage_errors(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(bare, words, catch_exceptions=False)


def test_out_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="create it first"):
        train.check_out(tmp_path / "no" / "tofe.pt", resume=False, force=False)
    with pytest.raises(WriteError, match="that is a folder"):
        train.check_out(tmp_path, resume=False, force=False)
    (tmp_path / "tofe.pt.state").touch()
    with pytest.raises(UsageError, match="go on with --resume"):
        train.check_out(tmp_path / "tofe.pt", resume=False, force=False)
    train.check_out(tmp_path / "tofe.pt", resume=True, force=False)
    (tmp_path / "done.pt").touch()
    with pytest.raises(UsageError, match=r"is there already.*--force"):
        train.check_out(tmp_path / "done.pt", resume=False, force=False)
    train.check_out(tmp_path / "done.pt", resume=False, force=True)


def test_ctrl_c_asks_once_and_ends_at_once_the_second_time() -> None:
    before = signal.getsignal(signal.SIGINT)
    with train.stopping() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_only_the_first_process_reports_a_wrong_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def wrong() -> None:
        with train.one_voice():
            raise UsageError("wrong")

    monkeypatch.setenv("RANK", "1")
    assert CliRunner().invoke(wrong).exit_code == UsageError.exit_code
    monkeypatch.setenv("RANK", "0")
    assert isinstance(CliRunner().invoke(wrong).exception, UsageError)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 48 training and 24 validation pictures of 3 classes, and two backbones."""
    folder = tmp_path_factory.mktemp("work")
    random = np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 8)):
        for number, name in enumerate(("red", "green", "blue")):
            (folder / "data" / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 160, (20, 18, 3), dtype=np.uint8)
                pixels[..., number] += 80
                Image.fromarray(pixels).save(folder / "data" / part / name / f"{index}.png")
    torch.manual_seed(0)
    torch.save(create_backbone("vit_tiny_patch16_224", ARGUMENTS).vit.state_dict(), folder / "vit.pth")
    torch.save(create_backbone("lvvit_s", LV_VIT).vit.state_dict(), folder / "lvvit.pth")
    return folder


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def succeed(*words: object) -> Result:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result


def model(name: str, arguments: dict[str, int]) -> list[str]:
    pairs = [f"{key}={value}" for key, value in arguments.items() if key not in ("img_size", "num_classes")]
    extra = [word for pair in pairs for word in ("--model-arg", pair)]
    return ["--model", name, "--image-size", str(arguments["img_size"]), "--crop", "1.0", *extra]


VIT = model("vit_tiny_patch16_224", ARGUMENTS)


def words(work: Path, out: Path, *more: object) -> list[object]:
    files = ["--backbone", work / "vit.pth", "--data", work / "data", "--out", out]
    return ["train", *VIT, *files, *SHORT, *QUIET, *more]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "backbone", "budgets"),
    [
        ("vit_tiny_patch16_224", ARGUMENTS, "vit.pth", "0.00042,0.00052"),
        ("lvvit_s", LV_VIT, "lvvit.pth", "0.099"),
    ],
    ids=["vit, two budgets", "lv-vit"],
)
def test_from_pictures_to_verified_graphs(
    work: Path, tmp_path: Path, name: str, arguments: dict[str, int], backbone: str, budgets: str
) -> None:
    out, bundle, val = tmp_path / "tofe.pt", tmp_path / "bundle", work / "data" / "val"
    files = ["--backbone", work / backbone, "--data", work / "data", "--out", out]
    told = succeed("train", *model(name, arguments), *files, "--budget", budgets, *SHORT, *QUIET)
    assert "top-1 of 24 held-out images" in told.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tofe.pt", "tofe.pt.jsonl"]

    both = ("--lowering", "scatter,adaptive", "--precision", "fp32")
    succeed("onnx", "--ckpt", out, "--budget", budgets, *both, "--images", val, "--out", bundle, "--quiet")
    report = tmp_path / "report.json"
    succeed("verify", bundle, "--images", val, "--ckpt", out, "--json", report)
    accuracy = json.loads(report.read_text())["accuracy"]
    assert len(accuracy) == 1 + 2 * len(budgets.split(","))
    assert [entry["top1"] for entry in accuracy] == [entry["pytorch"]["top1"] for entry in accuracy]

    for mode in ("static", "adaptive", "dense"):
        found = tmp_path / f"{mode}.json"
        succeed(
            "eval", "--ckpt", out, "--data", work / "data", "--mode", mode, "--device", "cpu", "--json", found
        )
        results = json.loads(found.read_text())["results"]
        exported = [entry for entry in accuracy if mode.replace("static", "scatter") in entry["name"]]
        assert [result["top1"] for result in results] == [entry["top1"] for entry in exported]


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_file(work: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    budget = ("--budget", "0.00045", "--save-every", "0")
    succeed(*words(work, whole, *budget))

    real, steps = train.stopping, list[None]()

    class Impatient:
        def __enter__(self) -> Any:
            return lambda: steps.append(None) or len(steps) > 5  # type: ignore[func-returns-value]

        def __exit__(self, *error: object) -> None:
            return None

    train.stopping = Impatient  # type: ignore[assignment]
    try:
        stopped = call(*words(work, cut, *budget))
    finally:
        train.stopping = real
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr
    assert not cut.exists()

    assert "go on with --resume" in call(*words(work, cut, *budget)).stderr
    changed = call(*words(work, cut, *budget, "--lr", "0.5", "--resume"))
    assert (changed.exit_code, "lr: 0.0001 -> 0.5" in changed.stderr) == (2, True)
    succeed(*words(work, cut, *budget, "--resume"))
    assert cut.read_bytes() == whole.read_bytes()
    log = [json.loads(line)["step"] for line in (tmp_path / "cut.pt.jsonl").read_text().splitlines()]
    assert log == sorted(set(log))
    assert log[-1] == 12


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--budget", "9"], 2, "cannot be met"),
        ([], 2, "expected a budget in GMACs"),
        (["--budget", "0.0005", "--resume"], 2, "Start without --resume"),
        (["--budget", "0.0005", "--batch-size", "64"], 2, "Choose --batch-size 48 or less"),
        (["--budget", "0.0005", "--data", "nowhere"], 3, "no such folder"),
    ],
)
def test_bad_input(work: Path, tmp_path: Path, more: list[object], code: int, message: str) -> None:
    result = call(*words(work, tmp_path / "tofe.pt", *more))
    assert (result.exit_code, message in result.stderr) == (code, True), result.output
    assert not (tmp_path / "tofe.pt").exists()


def test_another_number_of_classes(work: Path, tmp_path: Path) -> None:
    result = call(*words(work, tmp_path / "tofe.pt", "--budget", "0.0005", "--data", work / "data/.."))
    assert result.exit_code == 3, result.output


def test_a_loss_that_is_not_finite_keeps_the_state(work: Path, tmp_path: Path) -> None:
    result = call(
        *words(work, tmp_path / "tofe.pt", "--budget", "0.0005", "--lr", "1e30", "--fixed-epochs", "0")
    )
    assert result.exit_code == 1, result.output
    assert "the loss is not finite at step" in result.stderr
    assert (tmp_path / "tofe.pt.state").exists()
