"""A Python in which some packages are absent, for tests of what needs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HIDE = """
import importlib, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in {packages!r}
        return None if hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


def run_without(packages: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process where none of the packages can be imported."""
    line = [sys.executable, "-c", HIDE.format(packages=packages) + code]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)


def program_without(packages: tuple[str, ...], *words: object) -> subprocess.CompletedProcess[str]:
    """Run `tofe-export WORDS` where none of the packages can be imported."""
    line = ["tofe-export", *map(str, words)]
    return run_without(packages, f"from tofe_export.cli import main\nsys.argv = {line!r}\nmain()")
