"""The command line of `init`: what it leaves alone, and the next step that it names."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tofe_export.cli import main

TINY = ["--model", "vit_tiny_patch16_224", "--image-size", "32"]
TINY += [part for text in ("depth=4", "embed_dim=24", "num_heads=2") for part in ("--model-arg", text)]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize("locations", ["1,2,3", "3"])
def test_the_next_step_works_as_it_is_printed(tmp_path: Path, locations: str) -> None:
    out = tmp_path / "a b" / "vit's.pt"
    out.parent.mkdir()
    made = run("init", *TINY, "--locations", locations, "--out", out)
    assert made.exit_code == 0, made.output
    command = shlex.split(made.stdout.partition("export it with: ")[2])
    assert command[:4] == ["tofe-export", "onnx", "--ckpt", str(out)]
    planned = run(*command[1:], "--dry-run")
    assert planned.exit_code == 0, planned.output


def test_a_checkpoint_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "trained.pt").write_text("weeks of work")
    refused = run("init", *TINY, "--out", tmp_path / "trained.pt")
    assert (refused.exit_code, "--force" in refused.stderr) == (2, True)
    assert (tmp_path / "trained.pt").read_text() == "weeks of work"
    assert run("init", *TINY, "--out", tmp_path / "trained.pt", "--force").exit_code == 0
