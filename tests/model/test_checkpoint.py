"""A ToFe checkpoint comes back as it went, in both formats, and says what is wrong with any other file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tofe_export.errors import CheckpointError, WriteError
from tofe_export.files import sha256_file
from tofe_export.keep import Measured
from tofe_export.model.checkpoint import FORMAT, Checkpoint, load_checkpoint
from tofe_export.model.tofe import ToFe
from tofe_export.preprocess import Preprocessing

MakeModel = Callable[..., ToFe]
MakeImages = Callable[..., Tensor]
both = pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
STRUCTURES: list[tuple[str, dict[str, Any]]] = [
    ("deit_tiny_patch16_224", {}),
    ("deit_tiny_patch16_224", {"reuse": False, "selector": "dynamicvit"}),
    ("lvvit_s", {"approximator": "block", "conditioned": True}),
    ("vit_base_patch16_siglip_224", {"approximator": "depthwise"}),
]
CLASSES = tuple(f"classé {i}" for i in range(10))


@pytest.fixture
def checkpoint(make_model: MakeModel) -> Checkpoint:
    preprocessing = Preprocessing(
        (64, 64), 0.875, "center", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.1)
    )
    table = (
        Measured(0.01, (9, 6, 3), (0.1, -0.25, 1 / 3), "training"),
        Measured(0.02, (12, 8, 4), None, "calibration"),
    )
    return Checkpoint(
        make_model(), preprocessing, CLASSES, table, trained=True, history={"steps": 3, "by": "ü"}
    )


@both
def test_round_trip(suffix: str, checkpoint: Checkpoint, make_images: MakeImages, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    checkpoint.save(path)
    found = load_checkpoint(path)
    for name in ("preprocessing", "classes", "table", "trained", "history"):
        assert getattr(found, name) == getattr(checkpoint, name), name
    assert found.sha256 == sha256_file(path)
    assert found.model.structure == checkpoint.model.structure
    assert not found.model.training
    images = make_images(found.model)
    assert torch.equal(found.model.backbone.dense(images), checkpoint.model.backbone.dense(images))


@both
@pytest.mark.parametrize(("name", "structure"), STRUCTURES)
def test_weights_come_back_bit_by_bit(
    name: str, structure: dict[str, Any], suffix: str, make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model(name, **structure)
    Checkpoint(model, model.backbone.preprocessing()).save(tmp_path / f"a{suffix}")
    found = load_checkpoint(tmp_path / f"a{suffix}")
    assert (found.classes, found.table, found.trained, found.history) == (None, (), False, {})
    expected, state = model.state_dict(), found.model.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert found.model.structure == model.structure
    assert found.model.backbone.arguments == model.backbone.arguments


@both
def test_a_file_from_before_conditioning_loads(suffix: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    checkpoint.save(path)
    rewrite(path, lambda content: content["meta"]["structure"].pop("conditioned"))
    assert load_checkpoint(path).model.structure == checkpoint.model.structure
    rewrite(path, lambda content: content["meta"]["structure"].update(conditioned="yes"))
    with pytest.raises(CheckpointError, match="conditioned: expected true or false, found 'yes'"):
        load_checkpoint(path)


def test_budgets_that_conditioned_selectors_never_saw(checkpoint: Checkpoint, make_model: MakeModel) -> None:
    asked = (0.009, 0.00999, 0.01, 0.015, 0.02, 0.02004, 0.021)
    assert checkpoint.untrained_budgets(asked) == []  # each row stands for itself
    checkpoint.model = make_model(conditioned=True)
    assert checkpoint.untrained_budgets(asked) == [0.009, 0.00999, 0.021]
    checkpoint.table = ()
    assert checkpoint.untrained_budgets(asked) == []


def test_a_safetensors_checkpoint_may_have_any_name(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "downloaded")
    assert load_checkpoint(tmp_path / "downloaded").classes == CLASSES


@both
def test_saving_twice_gives_the_same_bytes(suffix: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / f"a{suffix}")
    first = (tmp_path / f"a{suffix}").read_bytes()
    checkpoint.save(tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == first


@both
@pytest.mark.parametrize("after", [0, 5000])
def test_a_full_disk_leaves_what_was_there(
    suffix: str, after: int, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"the only copy")

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(memoryview(data)[:after])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tofe_export.files.open", Full, raising=False)  # in the module, hides the builtin
    with pytest.raises(WriteError, match="no space left on device; free some space"):
        checkpoint.save(path)
    assert path.read_bytes() == b"the only copy"
    assert list(tmp_path.iterdir()) == [path]


@both
def test_a_place_that_cannot_be_written(suffix: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="create the folder first"):
        checkpoint.save(tmp_path / "none" / f"a{suffix}")
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="a part of that path is a file"):
        checkpoint.save(tmp_path / "file" / f"a{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a saved checkpoint's content {format, meta, weights} in place."""
    if path.suffix == ".pt":
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)
        return
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        content = json.loads(file.metadata()["tofe"]) | {"weights": weights}
    change(content)
    save_file(content.pop("weights", {}), path, {"tofe": json.dumps(content)})


@both
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda c: c.update(format="tofe-export checkpoint 2"),
            f"says 'tofe-export checkpoint 2', expected '{FORMAT}'",
        ),
        (lambda c: c.pop("meta"), "lost its description"),
        (lambda c: c["weights"].pop("selectors.1.fc2.bias"), r"missing: selectors\.1\.fc2\.bias"),
        (
            lambda c: c["weights"]["selectors.0.fc1.weight"].fill_(float("nan")),
            "NaN or infinite values in 1 of",
        ),
        (lambda c: c["meta"].pop("table"), "table: expected this key, found none"),
        (
            lambda c: c["meta"]["structure"].update(selector="best"),
            "selector: expected one of mlp, dynamicvit",
        ),
        (lambda c: c["meta"]["structure"].update(locations=[3, 2, 1]), "increasing blocks"),
        (
            lambda c: c["meta"]["backbone"].update(name="swin_tiny_patch4_window7_224"),
            "does not describe a model",
        ),
        (lambda c: c["meta"]["table"][0].update(keep=[9, 6]), "expected 3 keep counts"),
        (lambda c: c["meta"]["table"][0].update(keep=[9, 6, 17]), "keep counts from 1 to 16, found 17"),
        (lambda c: c["meta"].update(classes=["one"]), "expected 10 class names, one per output, found 1"),
    ],
)
def test_edited_and_newer_files(
    change: Callable[[dict[str, Any]], None],
    complaint: str,
    suffix: str,
    checkpoint: Checkpoint,
    tmp_path: Path,
) -> None:
    path = tmp_path / f"a{suffix}"
    checkpoint.save(path)
    rewrite(path, lambda content: None)
    load_checkpoint(path)  # rewriting by itself is harmless
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=complaint) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("header", ["not json", "[1]", "{}"])
def test_a_damaged_header(header: str, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", {"tofe": header})
    with pytest.raises(CheckpointError, match=r"a\.safetensors (has a damaged header|says 'no format')"):
        load_checkpoint(tmp_path / "a.safetensors")


@both
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_truncated(suffix: str, share: float, checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    checkpoint.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="fetch or copy it again"):
        load_checkpoint(path)
