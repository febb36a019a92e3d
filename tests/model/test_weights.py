"""Weights files: both formats, every wrapper, and each kind of damage with a message of its own."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tofe_export.errors import CheckpointError
from tofe_export.model.weights import load_exactly, read_file, refuse_non_finite, state_dict_in

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    return {"head.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.tensor([1.0, -1.0])}


def wrapped(state: State) -> dict[str, Any]:
    """The ways in which training scripts save a state dict."""
    return {
        "flat": state,
        "deit": {"model": state},
        "deit, training": {"model": state, "epoch": 3, "args": argparse.Namespace(lr=1e-3, name="deit")},
        "timm": {"epoch": 3, "arch": "x", "state_dict": state, "metric": 0.5},
        "averaged": {"state_dict_ema": state},
        "parallel": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        "nested": {"model": {"state_dict": state}},
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("how", wrapped({}))
def test_torch_files(how: str, zipped: bool, state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth.tar"
    torch.save(wrapped(state)[how], path, _use_new_zipfile_serialization=zipped)
    found = state_dict_in(read_file(path), path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.st"])
def test_safetensors_files_are_known_by_their_content_too(name: str, state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / name)
    found = state_dict_in(read_file(tmp_path / name), tmp_path / name)
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize(
    "content", [3, {}, [torch.zeros(1)], {"a": 1}, {"model": {"x": "y"}}, {"format": "png"}]
)
def test_no_state_dict(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt holds no state dict: expected tensors by name"):
        state_dict_in(read_file(tmp_path / "x.pt"), tmp_path / "x.pt")


def test_missing_directory_and_empty(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt does not exist"):
        read_file(tmp_path / "none.pt")
    with pytest.raises(
        CheckpointError, match=r"is a directory: expected a \.safetensors or torch checkpoint"
    ):
        read_file(tmp_path)
    (tmp_path / "empty.pt").touch()
    with pytest.raises(CheckpointError, match=r"empty\.pt is empty: the download or copy was cut off"):
        read_file(tmp_path / "empty.pt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"data")
    (tmp_path / "x.pt").chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        read_file(tmp_path / "x.pt")


def test_a_read_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case above for everybody: `open` itself refuses."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.pt").write_bytes(b"data")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        read_file(tmp_path / "x.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated(kind: str, share: float, tmp_path: Path) -> None:
    state, path = (
        {"weight": torch.randn(50, 50)},
        tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pt"),
    )
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: max(1, int(share * len(whole)))])
    with pytest.raises(CheckpointError, match="fetch or copy it again"):
        read_file(path)


def test_a_web_page_instead_of_weights(tmp_path: Path) -> None:
    """The commonest failed download; torch would advise to load it with weights_only=False."""
    (tmp_path / "x.pth").write_text("<!DOCTYPE html><html>Not found</html>")
    with pytest.raises(CheckpointError, match="not a torch checkpoint") as caught:
        read_file(tmp_path / "x.pth")
    assert "weights_only" not in str(caught.value)
    assert "execute code" not in str(caught.value)


class Hostile:
    """A pickle of this runs a command when it is loaded without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_would_execute_code_does_not(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    torch.save({"model": Hostile(marker)}, tmp_path / "zip.pt")
    torch.save({"model": Hostile(marker)}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "protocol2.pt").write_bytes(pickle.dumps(Hostile(marker), protocol=2))
    (tmp_path / "protocol0.pt").write_bytes(pickle.dumps(Hostile(marker), protocol=0))
    for name in ("zip.pt", "legacy.pt", "protocol2.pt", "protocol0.pt"):
        with pytest.raises(CheckpointError) as caught:
            read_file(tmp_path / name)
        assert not marker.exists()
        assert "could execute code: refused" in str(caught.value)
    pickle.loads((tmp_path / "protocol2.pt").read_bytes())
    assert marker.exists()  # the files were dangerous


def test_a_whole_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(
        CheckpointError, match=r"Save the weights alone, torch\.save\(model\.state_dict\(\), FILE\)"
    ):
        read_file(tmp_path / "x.pt")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_weights_are_named(bad: float, state: State) -> None:
    refuse_non_finite(state | {"count": torch.tensor(3)}, Path("x.pt"))
    state["head.bias"][1] = bad
    with pytest.raises(
        CheckpointError, match=r"NaN or infinite values in 1 of 2 tensors, first in head\.bias"
    ):
        refuse_non_finite(state, Path("x.pt"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, "missing: bias"),
        ({"bias": torch.zeros(2), "extra": torch.zeros(1)}, "not in the model: extra"),
        ({"bias": torch.zeros(3)}, "shapes: bias is (3,), expected (2,)"),
        (
            {f"x{i}": torch.zeros(1) for i in range(9)},
            "missing: bias; not in the model: x0, x1, x2, x3, x4, x5 and 3 more",
        ),
    ],
)
def test_every_key_and_shape_must_fit(change: Mapping[str, Tensor], complaint: str) -> None:
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    whole = re.escape(f"the weights do not fit toy; {complaint}. Check --model")
    with pytest.raises(CheckpointError, match=f"^{whole}$"):
        load_exactly(module, {"weight": torch.ones(2, 3), **change}, "toy")
    assert torch.equal(module.weight, before)
