"""Files and folders that may not be read or written: a message and an exit code, never a traceback.

Root may do everything, so the commands run in a process that gave up its capabilities.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MakeBundle = Callable[..., Path]
Ran = dict[str, Any]

_RUN = """
import ctypes, json, sys
from click.testing import CliRunner
header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capset(header, nothing) == 0
from tofe_export.cli import main
for words in json.load(sys.stdin):
    done = CliRunner().invoke(main, words)
    bug = None if isinstance(done.exception, (SystemExit, type(None))) else repr(done.exception)
    print(json.dumps({"code": done.exit_code, "err": done.stderr, "bug": bug}))
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="capabilities are Linux's")


def run(*commands: list[object]) -> list[Ran]:
    """What these commands do for a user without special rights."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run([sys.executable, "-c", _RUN], input=words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["bug"] for one in found] == [None] * len(commands)
    return found


@pytest.fixture
def closed() -> Iterator[Callable[[Path], None]]:
    """Take all permissions from a file or folder until the test is over."""
    before: list[tuple[Path, int]] = []

    def close(path: Path) -> None:
        before.append((path, path.stat().st_mode))
        path.chmod(0)

    yield close
    for path, mode in reversed(before):
        path.chmod(mode)


def test_nothing_can_be_reached(make_bundle: MakeBundle, closed: Callable[[Path], None]) -> None:
    bundle = make_bundle()
    folder = bundle.parent / "closed"
    folder.mkdir()
    closed(folder)
    commands: list[tuple[list[object], int, str]] = [
        (["inspect", folder / "b"], 4, "manifest.json cannot be read: "),
        (["verify", folder / "b"], 4, "manifest.json cannot be read: "),
        (["lint", folder / "b"], 4, "manifest.json cannot be read: "),
        (["lint", folder / "a.onnx"], 3, "a.onnx cannot be used: permission denied. "),
        (["predict", bundle, folder / "a.png"], 3, "a.png: the picture cannot be read"),
        (["verify", bundle, "--images", folder], 3, "closed: the folder cannot be read: Permission denied."),
        (["inspect", bundle, "--json", folder / "report.json"], 8, "report.json could not be written: "),
        (["init", "--model", "deit", "--out", folder / "a.pt"], 8, f"{folder} is not writable"),
        (
            ["train", "--model", "deit", "--backbone", "b", "--data", "d", "--out", folder / "a.pt"],
            8,
            "not wr",
        ),
    ]
    for (words, code, message), ran in zip(commands, run(*(words for words, _, _ in commands)), strict=True):
        assert (ran["code"], message in ran["err"]) == (code, True), (words, ran)


def test_graphs_that_may_not_be_read(make_bundle: MakeBundle, closed: Callable[[Path], None]) -> None:
    bundle = make_bundle()
    closed(bundle / "variants")
    for ran in run(["inspect", bundle], ["lint", bundle], ["verify", bundle]):
        assert (ran["code"], "found Permission denied" in ran["err"]) == (4, True), ran


def test_a_folder_among_the_pictures(make_bundle: MakeBundle, closed: Callable[[Path], None]) -> None:
    bundle = make_bundle()
    (bundle.parent / "pictures" / "red").mkdir(parents=True)
    (bundle.parent / "pictures" / "red" / "a.png").touch()
    (bundle.parent / "pictures" / "green").mkdir()
    closed(bundle.parent / "pictures" / "green")
    (ran,) = run(["verify", bundle, "--images", bundle.parent / "pictures"])
    assert (ran["code"], "pictures/green: the folder cannot be read" in ran["err"]) == (3, True), ran
