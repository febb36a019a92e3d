"""FAKE TensorRTs of every version, and bundles with and without engines."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import fake_tensorrt
import pytest
import tiny_bundle
from command_line import run
from PIL import Image

Install = Callable[..., fake_tensorrt.FakeModule]


@pytest.fixture(params=fake_tensorrt.VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install the fake of a version."""
    return lambda version, **device: fake_tensorrt.install(monkeypatch, version, **device)


@pytest.fixture
def trt(install: Install, version: str) -> fake_tensorrt.FakeModule:
    """The fake, installed."""
    return install(version)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle as it comes from the host."""
    return tiny_bundle.write_bundle(tmp_path_factory.mktemp("host") / "bundle")


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy without engines."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def shelf(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Bundles with the probes and engines of a version, each built once."""
    ready: dict[str, Path] = {}

    def give(version: str) -> Path:
        if version not in ready:
            folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("device") / "bundle"))
            with pytest.MonkeyPatch.context() as patch:
                fake_tensorrt.install(patch, version)
                assert run("trt", folder, "--probe", "--quiet").exit_code == 0
            ready[version] = folder
        return ready[version]

    return give


@pytest.fixture
def built(shelf: Callable[[str], Path], version: str, tmp_path: Path) -> Path:
    """A copy of the bundle with all engines of the version."""
    return Path(shutil.copytree(shelf(version), tmp_path / "built"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (12, 10), (200, 10, 10)).save(path)
    return path
