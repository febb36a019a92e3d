"""The package that users install: complete, light, and startable outside the checkout.

An explicit package list drops a forgotten sub-package from the wheel while an editable install hides that, so
the list is compared with the disk, and a real wheel is built, installed and run somewhere else.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tofe_export import __version__
from tofe_export.cli import main

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()
LINKED = {"cli": "../cli", "calibration": "../calibration"}
HEAVY = ("torch", "timm", "onnx", "onnxruntime", "onnxscript", "tensorrt", "numpy", "PIL")


def listed_packages() -> set[str]:
    found = re.search(r"^packages = (\[.*?\])", PYPROJECT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return set(ast.literal_eval(found[1]))


def packages_on_disk() -> set[str]:
    folders = {Path(folder) for folder, _, files in os.walk(ROOT / "tofe_export", followlinks=True) if files}
    return {".".join(f.relative_to(ROOT).parts) for f in folders if any(f.glob("*.py"))}


def sources() -> list[Path]:
    folders = ("tofe_export", "cli", "calibration")
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def test_the_package_list_is_what_is_on_disk() -> None:
    assert listed_packages() == packages_on_disk()


def test_every_package_has_an_init_file() -> None:
    missing = [p for p in packages_on_disk() if not (ROOT / p.replace(".", "/") / "__init__.py").is_file()]
    assert missing == []


@pytest.mark.parametrize("name", LINKED)
def test_the_folders_at_the_root_are_linked_into_the_package(name: str) -> None:
    link = ROOT / "tofe_export" / name
    if not link.is_symlink():
        pytest.skip("a checkout without symbolic links; the wheel does not need them")
    assert os.readlink(link) == LINKED[name]


def test_every_extra_that_an_error_message_names_exists() -> None:
    declared = PYPROJECT.split("[project.optional-dependencies]")[1]
    extras = set(re.findall(r"^(\w+) = \[", declared, re.MULTILINE))
    text = "\n".join(path.read_text() for path in sources())
    named = set(re.findall(r"MissingExtra\([^()]*,\s*\"(\w+)\"\)", text))
    assert named
    assert named <= extras


@pytest.mark.parametrize("file", ["pyproject.toml", "Makefile", ".ci/run"])
def test_the_build_files_name_no_host(file: str) -> None:
    assert "://" not in (ROOT / file).read_text()


@pytest.mark.parametrize("command", [None, *main.commands])
def test_help_answers_without_heavy_imports(command: str | None) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    code = (
        "import sys\nfrom tofe_export.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as end: assert end.code == 0\n"
        f"sys.exit(', '.join(name for name in {HEAVY!r} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: tofe-export")


def test_the_module_is_the_program() -> None:
    line = [sys.executable, "-m", "tofe_export.cli", "--version"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tofe-export {__version__}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_a_wheel_runs_outside_the_checkout(tmp_path: Path, links: bool) -> None:
    """Also from a checkout on a file system without symbolic links, where git leaves a text file for each."""
    wheel = build_wheel(tmp_path, links)
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    expected = {
        f"{package.replace('.', '/')}/{path.name}"
        for package in listed_packages()
        for path in (ROOT / package.replace(".", "/")).glob("*.py")
    }
    info = f"tofe_export-{__version__}.dist-info"
    data = {"tofe_export/py.typed", "tofe_export/lint/matrix.json"}
    assert {name for name in held if not name.startswith(info)} == expected | data
    assert f"{info}/licenses/LICENSE" in held

    target = tmp_path / "installed"
    pip("install", "--no-deps", "--target", str(target), str(wheel), cwd=tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(target), "PYTHONSAFEPATH": "1"}
    code = "import tofe_export.cli as c; print(c.__file__, flush=True); c.main(['--help'])"
    for program in ([str(target / "bin" / "tofe-export"), "--help"], ["-c", code]):
        line = [sys.executable, *program]
        done = subprocess.run(
            line, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: tofe-export" in done.stdout
    assert done.stdout.startswith(str(target))


def build_wheel(tmp_path: Path, links: bool) -> Path:
    checkout = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("tofe_export", "cli", "calibration"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout / name)
    if not links:
        for name, to in LINKED.items():
            (checkout / "tofe_export" / name).unlink()
            (checkout / "tofe_export" / name).write_text(to)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), ".", cwd=checkout)
    (wheel,) = tmp_path.glob("*.whl")
    return wheel


def pip(*arguments: str, cwd: Path) -> None:
    line = [sys.executable, "-m", "pip", *arguments, "--quiet", "--no-index", "--disable-pip-version-check"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
