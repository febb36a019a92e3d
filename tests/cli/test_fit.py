"""The command line of `fit`: from backbone weights and pictures to a checkpoint that other commands take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner, Result
from PIL import Image

from tofe_export.cli import main
from tofe_export.errors import BudgetError, ImageError, TofeError, UsageError, WriteError

ARGUMENTS: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 2,
    "num_classes": 3,
}
NAME = "vit_tiny_patch16_224"
BUDGET = "0.0003"

Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """backbone.pth, and pictures/ with 48 pictures in two sub-folders."""
    made = tmp_path_factory.mktemp("fit")
    torch.manual_seed(0)
    model = timm.create_model(NAME, **ARGUMENTS)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(std=max(1, weight[0].numel()) ** -0.5)
    torch.save(model.state_dict(), made / "backbone.pth")
    random = np.random.default_rng(0)
    for number in range(48):
        path = made / "pictures" / str(number % 2) / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (18, 16, 3), dtype=np.uint8)).save(path)
    return made


@pytest.fixture
def fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setattr("tofe_export.fitting.modules.STEPS", 10)  # enough for what is tested here

    def call(*words: object, budget: str | None = BUDGET, images: Path | None = None) -> Result:
        model = [part for key, value in ARGUMENTS.items() for part in ("--model-arg", f"{key}={value}")]
        given = ["fit", "--model", NAME, *model, "--backbone", folder / "backbone.pth"]
        given += ["--images", images or folder / "pictures", "--quiet", "--device", "cpu"]
        given += [] if budget is None else ["--budget", budget]
        return CliRunner().invoke(main, [str(word) for word in [*given, *words]])

    return call


def error_of(result: Result) -> TofeError:
    """What ended the command: `CliRunner` stops at the exit, behind which the error is."""
    context = result.exception.__context__ if result.exception else None
    assert isinstance(context, TofeError), result.output
    return context


@pytest.mark.slow
def test_what_fit_writes_other_commands_take(fit: Call, folder: Path, tmp_path: Path) -> None:
    from tofe_export.model.checkpoint import load_checkpoint

    out, report = tmp_path / "tofe.pt", tmp_path / "report.json"
    result = fit("--out", out, "--steps", 3, "--json", report)
    assert result.exit_code == 0, result.output
    for words in ("keep counts by measurement", "blocks refitted", "same class", f"wrote {out}"):
        assert words in result.output
    checkpoint = load_checkpoint(out)
    assert checkpoint.trained
    (row,) = checkpoint.table
    assert (row.source, row.budget_gmacs) == ("fit", float(BUDGET))
    assert row.thresholds is not None
    tried = json.loads(report.read_text())["fit"]["locations"]["tried"]
    assert set(tried) == {"1/2/3", "1/2"}
    places = "/".join(map(str, checkpoint.model.structure.locations))
    assert tried[places] == min(tried.values())
    assert len(row.keep) == len(row.thresholds) == len(checkpoint.model.structure.locations)
    images = checkpoint.history["calibration"][0]["images"]
    assert (images["count"], images["folder"]) == (48, "pictures")
    assert json.loads(report.read_text())["fit"]["keep"] == list(row.keep)
    bundle = tmp_path / "bundle"
    exported = CliRunner().invoke(
        main,
        [
            "onnx",
            "--ckpt",
            str(out),
            "--budget",
            BUDGET,
            "--precision",
            "fp32",
            "--out",
            str(bundle),
            "--quiet",
        ],
    )
    assert exported.exit_code == 0, exported.output
    assert "NOT TRAINED" not in exported.output
    assert CliRunner().invoke(main, ["verify", str(bundle), "--quiet"]).exit_code == 0


@pytest.mark.slow
def test_the_backbone_can_be_kept(fit: Call, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tofe.safetensors"
    result = fit("--out", out, "--steps", 0, "--keep-backbone", "--no-search")
    assert result.exit_code == 0, result.output
    assert "refitted" not in result.output
    assert "selections before blocks 1, 2, 3\n" in result.output
    from tofe_export.model.checkpoint import load_checkpoint

    weights = load_checkpoint(out).model.backbone.vit.state_dict()
    given = torch.load(folder / "backbone.pth", weights_only=True)
    assert all(weights[name].equal(given[name]) for name in given)


def test_locations_that_were_asked_for_stay(fit: Call, tmp_path: Path) -> None:
    from tofe_export.model.checkpoint import load_checkpoint

    out = tmp_path / "tofe.pt"
    result = fit("--out", out, "--steps", 0, "--locations", "1,3")
    assert result.exit_code == 0, result.output
    assert "selections before blocks 1, 3\n" in result.output
    assert load_checkpoint(out).model.structure.locations == (1, 3)


@pytest.mark.parametrize(
    ("words", "budget", "kind", "says"),
    [
        ((), None, UsageError, "expected one --budget, found none"),
        (("--budget", "0.0004"), BUDGET, UsageError, "expected one --budget, found 2"),
        ((), "9", BudgetError, "reaches"),
        (("--approximator", "depthwise"), BUDGET, UsageError, "bottleneck and identity"),
        (("--num-images", "99"), BUDGET, ImageError, "expected at least 99 pictures, found 48"),
        (("--num-images", "31"), BUDGET, ImageError, "at least 32 readable pictures to fit on"),
    ],
)
def test_what_cannot_be_asked_for(
    words: tuple[str, ...], budget: str | None, kind: type[TofeError], says: str, fit: Call, tmp_path: Path
) -> None:
    result = fit("--out", tmp_path / "tofe.pt", *words, budget=budget)
    assert result.exit_code == kind.exit_code, result.output
    assert says in result.output
    assert isinstance(error_of(result), kind)
    assert not (tmp_path / "tofe.pt").exists()


def test_unusable_pictures(fit: Call, tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    for number in range(40):
        (broken / f"{number}.png").write_bytes(b"no picture")
    for images, says in ((empty, "without any"), (broken, "unreadable"), (tmp_path / "no", "found nothing")):
        result = fit("--out", tmp_path / "tofe.pt", images=images)
        assert result.exit_code == ImageError.exit_code
        assert says in result.output


def test_files_are_not_lost(fit: Call, tmp_path: Path) -> None:
    out = tmp_path / "mine.pt"
    out.write_text("mine")
    result = fit("--out", out)
    assert result.exit_code == UsageError.exit_code
    assert "--force" in result.output
    assert out.read_text() == "mine"
    assert fit("--out", tmp_path / "no" / "tofe.pt").exit_code == WriteError.exit_code


def test_the_report_says_what_was_undone(capsys: Any) -> None:
    from tofe_export.calibration.divergence import Loss
    from tofe_export.cli.fit_report import text
    from tofe_export.fitting.fit import Done, Fitted
    from tofe_export.fitting.locations import Choice
    from tofe_export.fitting.modules import Way

    done = (
        Done("modules", Loss(0.5, 0.75), True, 3.0),
        Done("blocks", Loss(0.6, 0.7), False, 2.0),
        Done("tune", Loss(0.4, 0.8), True, 2.0, {"part": 0.25}),
    )
    fitted = Fitted(2.0, (9, 5, 2), 1.99, Way("update", 0.0), done, Loss(0.0, 1.0), 5.0)
    said = text(fitted, Choice((1, 4), {(2, 4): 0.25, (1, 4): 0.125}))
    assert "before blocks 1, 4: the least divergence on some of the pictures (2/4 0.2500, 1/4 0.1250)" in said
    assert "did not help: undone" in said
    assert "25% of the way" in said
    assert "keep 9/5/2" in said
    assert "run dense" not in said  # the backbone is what it was
    headless = Fitted(
        2.0,
        (9,),
        1.99,
        Way(None, 1.0),
        (Done("blocks", Loss(0.5, float("nan")), True, 1),),
        Loss(0.1, float("nan")),
        1,
    )
    assert "run dense, the model is 0.1000 from what it was. --keep-backbone" in text(
        headless, Choice((3,), {})
    )
