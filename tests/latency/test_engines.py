"""A ladder's engines of a FAKE TensorRT through `bench --table`: what is opened, and what the table says.

The fake keeps no time: its events always say 1.5 ms. Nothing here is a latency.
"""

from __future__ import annotations

import json
from pathlib import Path

import fake_tensorrt
import pytest
import tiny_bundle
from click.testing import CliRunner, Result

from tofe_export.cli import main
from tofe_export.latency.rungs import LADDER
from tofe_export.latency.table import Table

COUNTS = (4, 8)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> fake_tensorrt.FakeModule:
    return fake_tensorrt.install(monkeypatch, "10.3")


@pytest.fixture
def ladder(trt: fake_tensorrt.FakeModule, tmp_path: Path) -> Path:
    """The tiny bundle, its variant with token reduction once per count, with engines."""
    folder = tiny_bundle.write_bundle(tmp_path / "ladder")
    manifest = json.loads((folder / "manifest.json").read_text())
    made = []
    for variant in manifest["variants"]:
        variant[LADDER] = {"heads": 2}
        if variant["keep"] is None:
            made.append(variant)
            continue
        for count in COUNTS:
            name = f"k{count}-{variant['lowering']}-{variant['precision']}-b1"
            rung = variant | {"name": name, "keep": [count] * len(variant["keep"])}
            made.append(rung | ({"twin": f"k{count}-scatter-fp32-b1"} if "twin" in variant else {}))
    manifest["variants"] = made
    (folder / "manifest.json").write_text(json.dumps(manifest))
    result = run("trt", folder, "--quiet")
    assert result.exit_code == 0, result.stderr
    return folder


def test_engines_become_a_table(ladder: Path, trt: fake_tensorrt.FakeModule, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    result = run("bench", ladder, "--table", path, "--iterations", 8, "--warmup", 1)
    assert result.exit_code == 0, result.stderr
    table = Table.load(path)
    assert table.settings["backend"] == "tensorrt"
    assert table.settings["cuda_graph"] is True
    assert table.machine["identity"]["gpu"] == "FAKE GPU"
    assert [entry.precision for entry in table.entries] == ["fp16", "fp32"]
    for entry in table.entries:
        assert entry.dense_ms == pytest.approx(1.5)  # the fake's events
        assert [(step.keep, step.share) for step in entry.steps] == [(4, 1.0), (8, 1.0)]
    assert trt.cudart.live == {}


def test_a_missing_engine_leaves_no_table(ladder: Path, tmp_path: Path) -> None:
    for file in (ladder / "engines").glob("dense-*"):
        file.unlink()
    result = run("bench", ladder, "--table", tmp_path / "latency.json", "--iterations", 8)
    assert result.exit_code == 5
    assert "dense-fp32-b1" in result.stderr
    assert not (tmp_path / "latency.json").exists()
