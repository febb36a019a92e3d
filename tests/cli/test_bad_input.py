"""Everything a user can get wrong: a clear message, its own exit code, and nothing half-written.

One tiny checkpoint and one real bundle are made once; every case runs the real command line in-process.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tofe_export.cli import main
from tofe_export.files import sha256_file

ARCHITECTURE = [
    *("--model", "deit_tiny_patch16_224", "--image-size", "64", "--num-classes", "10"),
    *("--model-arg", "depth=4", "--model-arg", "embed_dim=192"),
]
pytestmark = pytest.mark.slow


class Ran:
    """Exit code and output of one command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Run = Callable[..., Ran]
Make = Callable[[Path, Path], Path]
Damage = Callable[[Path], None]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> Ran:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Ran(int(stop.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with backbone.pth (official layout), tofe.pt and a bundle."""
    import timm

    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    plain = timm.create_model("deit_tiny_patch16_224", img_size=64, num_classes=10, depth=4)
    torch.save({"model": plain.state_dict()}, folder / "backbone.pth")
    commands = (
        ["init", *ARCHITECTURE, "--backbone", folder / "backbone.pth", "--out", folder / "tofe.pt"],
        ["onnx", "--ckpt", folder / "tofe.pt", "--budget", "0.02", "--out", folder / "bundle"],
    )
    for command in commands:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in command])
        assert not stop.value.code
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to damage."""
    return Path(shutil.copytree(made / "bundle", tmp_path / "bundle"))


class Payload:
    """Unpickled, this would leave a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def _missing(folder: Path, made: Path) -> Path:
    return folder / "nothing.pt"


def _truncated(folder: Path, made: Path) -> Path:
    data = (made / "tofe.pt").read_bytes()
    (folder / "cut.pt").write_bytes(data[: len(data) // 2])
    return folder / "cut.pt"


def _malicious(folder: Path, made: Path) -> Path:
    torch.save({"model": Payload(folder / "executed")}, folder / "evil.pt")
    return folder / "evil.pt"


def _raw_pickle(folder: Path, made: Path) -> Path:
    (folder / "raw.pt").write_bytes(pickle.dumps({"model": Payload(folder / "executed")}))
    return folder / "raw.pt"


def _text(folder: Path, made: Path) -> Path:
    (folder / "notes.pt").write_text("these are not weights")
    return folder / "notes.pt"


def _not_finite(folder: Path, made: Path) -> Path:
    content = torch.load(made / "tofe.pt", weights_only=True)
    next(iter(content["weights"].values())).view(-1)[0] = float("nan")
    torch.save(content, folder / "nan.pt")
    return folder / "nan.pt"


def _plain(folder: Path, made: Path) -> Path:
    return made / "backbone.pth"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_missing, "does not exist"),
        (_truncated, "fetch or copy it again"),
        (_malicious, "could execute code"),
        (_raw_pickle, "not a torch checkpoint"),
        (_text, "not a torch checkpoint"),
        (_not_finite, "NaN"),
        (_plain, "tofe-export init --model"),
    ],
)
def test_bad_checkpoints(make: Make, says: str, run: Run, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = run("onnx", "--ckpt", make(tmp_path, made), "--budget", "0.02", "--out", out)
    assert ran.code == 3
    assert says in ran.err
    assert not out.exists()
    assert not (tmp_path / "executed").exists()


def test_wrong_architecture_for_model(run: Run, made: Path, tmp_path: Path) -> None:
    words = (
        "--model",
        "deit_small_patch16_224",
        "--backbone",
        made / "backbone.pth",
        "--out",
        tmp_path / "o.pt",
    )
    ran = run("init", *words)
    assert ran.code == 3
    assert "do not fit deit_small_patch16_224" in ran.err
    assert not (tmp_path / "o.pt").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--budget", "0.001"), "reach"),
        (("--budget", "99"), "reach"),
        (("--budget", "nan"), "above 0"),
        (("--budget", "-2"), "above 0"),
        (("--keep", "17,8,4"), "17"),
        (("--keep", "8,4"), "3"),
        ((), "--budget"),
        (("--budget", "0.02", "--lowering", "adaptive", "--batch", "8"), "--batch 1"),
        (("--budget", "0.02", "--precision", "fp8"), "expected some of fp32, fp16, bf16"),
        (("--budget", "0.02", "--float32", "blocks.77"), "no such node"),
    ],
)
def test_what_cannot_be_asked_for(
    words: tuple[str, ...], says: str, run: Run, made: Path, tmp_path: Path
) -> None:
    ran = run("onnx", "--ckpt", made / "tofe.pt", *words, "--out", tmp_path / "out")
    assert ran.code == 2
    assert says in ran.err
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written(run: Run, made: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        ran = run("onnx", "--ckpt", made / "tofe.pt", "--budget", "0.02", "--out", out)
        assert ran.code == 8
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk(run: Run, made: Path, make_disk: Callable[[str], Path]) -> None:
    small = make_disk("1m")
    ran = run("onnx", "--ckpt", made / "tofe.pt", "--budget", "0.02", "--out", small / "bundle")
    assert ran.code == 8
    assert "space" in ran.err
    ran = run("init", *ARCHITECTURE, "--out", small / "tofe.pt")
    assert ran.code == 8
    assert list(small.iterdir()) == []


def _damage_changed(bundle: Path) -> None:
    graph = next(bundle.glob("variants/0.0200g*b1.onnx"))
    graph.write_bytes(graph.read_bytes() + b"\0")


def _damage_missing(bundle: Path) -> None:
    next(bundle.glob("variants/weights-*.bin")).unlink()


def _damage_reference(bundle: Path) -> None:
    (bundle / "reference.npz").write_bytes((bundle / "reference.npz").read_bytes()[:1000])


def _damage_escape(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["variants"][0]["file"] = "../../etc/passwd"
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def _damage_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").write_text((bundle / "manifest.json").read_text()[:500])


def _damage_schema(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text()) | {"schema_version": 99}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage",
    [_damage_changed, _damage_missing, _damage_reference, _damage_escape, _damage_manifest, _damage_schema],
)
def test_damaged_bundles(damage: Damage, run: Run, bundle: Path) -> None:
    damage(bundle)
    ran = run("verify", bundle)
    assert ran.code == 4
    assert ran.err.count("error:") == 1


def test_no_bundle_and_no_such_variant(run: Run, bundle: Path, tmp_path: Path) -> None:
    ran = run("verify", tmp_path / "elsewhere")
    assert ran.code == 4
    assert "tofe-export onnx --ckpt" in ran.err
    ran = run("verify", bundle, "--variant", "2.00g-scatter-fp16-b1")
    assert ran.code == 2
    assert "0.0200g-scatter-fp32-b1" in ran.err


def test_a_provider_that_is_not_there(run: Run, bundle: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    assert run("verify", bundle, "--provider", "cuda").code == 5


def _huge_png(path: Path) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)))
    return path


def test_bad_pictures(run: Run, bundle: Path, made: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "text.png", _huge_png(tmp_path / "huge.png"), tmp_path / "gone.png"):
        ran = run("predict", bundle, path)
        assert ran.code == 3
        assert path.name in ran.err
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        words = ("--budget", "0.02", "--images", folder, "--out", tmp_path / "out")
        ran = run("onnx", "--ckpt", made / "tofe.pt", *words)
        assert ran.code == 3
        assert not (tmp_path / "out").exists()


def test_another_checkpoint_needs_force(run: Run, bundle: Path, made: Path, tmp_path: Path) -> None:
    assert run("init", *ARCHITECTURE, "--seed", "1", "--out", tmp_path / "other.pt").code == 0
    before = {path: sha256_file(path) for path in bundle.rglob("*") if path.is_file()}
    ran = run("onnx", "--ckpt", tmp_path / "other.pt", "--budget", "0.02", "--out", bundle)
    assert ran.code == 2
    assert "--force" in ran.err
    assert before == {path: sha256_file(path) for path in bundle.rglob("*") if path.is_file()}


def test_nothing_of_the_case_above_is_an_accident(run: Run, bundle: Path) -> None:
    assert run("verify", bundle).code == 0
    assert run("verify", bundle, "--variant", "dense-fp32-b1", "--json", "-").out.startswith("{")
