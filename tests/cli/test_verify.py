"""`tofe-export verify` around the verdict: what is printed, what is written, how it exits.

The judging itself is tested beside `tofe_export/verify`; here the dense variant of a tiny bundle is enough.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tofe_export.cli import main

MakeBundle = Callable[..., Path]
Picture = Callable[[str, tuple[int, int, int]], Path]
DENSE = ("--variant", "dense-fp32-b1")


def verify(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def break_reference(bundle: Path) -> None:
    """Let the reference hold other answers, with hashes that fit."""
    from tofe_export.files import sha256_file
    from tofe_export.reference import Reference

    path = bundle / "reference.npz"
    reference = Reference.load(path)
    reference.with_entry("dense", -reference.output("dense")).save(path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["reference"]["sha256"] = sha256_file(path)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def folder(picture: Picture, tmp_path: Path) -> Path:
    """Four labelled pictures, one of them with a wrong label, and one in a folder that is no class."""
    picture("labelled/red/1.png", (255, 0, 0))
    picture("labelled/red/2.png", (200, 10, 10))
    picture("labelled/blue/1.png", (0, 0, 255))
    picture("labelled/blue/2.png", (0, 255, 0))
    picture("labelled/other/1.png", (0, 255, 0))
    return tmp_path / "labelled"


def test_parity(make_bundle: MakeBundle) -> None:
    result = verify(make_bundle(), *DENSE)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "dense-fp32-b1" in result.stdout
    assert "ok" in result.stdout
    assert "FAILED" not in result.stdout


def test_no_parity_is_exit_code_1_after_the_report(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    break_reference(bundle)
    result = verify(bundle, *DENSE, "--json", tmp_path / "report.json")
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert result.stderr.startswith("error: no parity with PyTorch: 1 of 1 variants (dense-fp32-b1) failed")
    assert json.loads((tmp_path / "report.json").read_text())["passed"] is False


def test_json_on_stdout_is_nothing_but_json(make_bundle: MakeBundle) -> None:
    data = json.loads(verify(make_bundle(), *DENSE, "--json", "-").stdout)
    assert data["passed"] is True
    assert data["trained"] is True
    assert data["accuracy"] is None
    assert data["variants"][0]["name"] == "dense-fp32-b1"


def test_accuracy_counts_only_pictures_with_labels(make_bundle: MakeBundle, folder: Path) -> None:
    result = verify(make_bundle(), *DENSE, "--images", folder, "--json", "-")
    assert result.exit_code == 0
    (accuracy,) = json.loads(result.stdout)["accuracy"]
    assert accuracy == {"name": "dense-fp32-b1", "images": 4, "top1": 0.75, "top5": 1.0, "pytorch": None}
    assert "75.00%" in verify(make_bundle("second"), *DENSE, "--images", folder).stdout


def test_a_sample_of_the_pictures(make_bundle: MakeBundle, folder: Path) -> None:
    result = verify(make_bundle(), *DENSE, "--images", folder, "--num-images", 2, "--json", "-")
    assert json.loads(result.stdout)["accuracy"][0]["images"] == 2


def test_an_untrained_model_is_said_loudly(make_bundle: MakeBundle) -> None:
    result = verify(make_bundle(trained=False), *DENSE, "--quiet")
    assert result.exit_code == 0
    assert "NOT TRAINED" in result.stderr


def test_pytorch_without_torch_says_what_to_install(
    make_bundle: MakeBundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = verify(make_bundle(), *DENSE, "--images", folder, "--ckpt", "a.pt")
    assert (result.exit_code, result.stdout) == (5, "")
    assert "pip install 'tofe-export[export]'" in result.stderr


def test_a_folder_without_labels_is_refused_before_the_work(
    make_bundle: MakeBundle, picture: Picture, tmp_path: Path
) -> None:
    picture("photos/holiday/1.png", (1, 2, 3))
    result = verify(make_bundle(), *DENSE, "--images", tmp_path / "photos")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "such as 'red', found 'holiday'" in result.stderr


@pytest.mark.parametrize(
    ("changes", "message"), [({"classes": None}, "no class names"), ({"output": "features"}, "no classifier")]
)
def test_labels_mean_nothing_to_this_bundle(
    changes: dict[str, object], message: str, make_bundle: MakeBundle, folder: Path
) -> None:
    result = verify(make_bundle(**changes), *DENSE, "--images", folder)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("option", [("--ckpt", "a.pt"), ("--num-images", 3)])
def test_options_of_accuracy_need_pictures(option: tuple[object, ...], make_bundle: MakeBundle) -> None:
    result = verify(make_bundle(), *option)
    assert result.exit_code == 2
    assert "--images DIR" in result.stderr


def test_a_damaged_file_is_exit_code_4(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    (bundle / "variants" / "dense-fp32-b1.onnx").write_bytes(b"")
    result = verify(bundle, *DENSE)
    assert result.exit_code == 4
    assert "dense-fp32-b1.onnx" in result.stderr


def test_an_unknown_variant_lists_the_names(make_bundle: MakeBundle) -> None:
    result = verify(make_bundle(), "--variant", "nosuch")
    assert result.exit_code == 2
    assert "0.01g-scatter-fp32-b1" in result.stderr
