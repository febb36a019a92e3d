"""What a TensorRT can do is asked of its module; what cannot be used is refused with the reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tofe_export.errors import MissingBackend
from tofe_export.trt import compat
from tofe_export.trt.compat import FAULTS, Features, known_faults, load, parse_version


@pytest.mark.parametrize(
    ("version", "expected"),
    [  # explicit_batch, strong_types, weak_types, progress, parser_nodes, bf16
        ("8.6", (True, False, True, False, False, False)),
        ("10.3", (False, True, True, True, True, True)),
        ("10.13", (False, True, True, True, True, True)),
        ("11.4", (False, True, False, True, True, True)),
    ],
)
def test_features_of_each_version(
    api_module: Callable[[str], Any], version: str, expected: tuple[bool, ...]
) -> None:
    f = Features.of(api_module(version))
    found = (f.explicit_batch, f.strong_types, f.weak_types, f.progress, f.parser_nodes, f.bf16)
    assert found == expected
    assert f.text.startswith(version)
    assert f.version[:2] == tuple(map(int, version.split(".")))


@pytest.mark.parametrize(
    ("text", "version"),
    [("8.6.1", (8, 6, 1)), ("10.13.3.9", (10, 13, 3)), ("11.4", (11, 4, 0)), ("10.0.0b6", (10, 0, 0))],
)
def test_parse_version(text: str, version: compat.Version) -> None:
    assert parse_version(text) == version


def test_what_is_no_version() -> None:
    with pytest.raises(MissingBackend, match=r"expected a TensorRT version.*found 'eleven'"):
        parse_version("eleven")


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "l4t_release", lambda: None)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.fixture
def jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "l4t_release", lambda: "36.4.3")


@pytest.mark.usefixtures("desktop")
def test_load_gives_the_module(monkeypatch: pytest.MonkeyPatch, api_module: Callable[[str], Any]) -> None:
    module = api_module("8.6")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    assert load() is module


@pytest.mark.usefixtures("desktop")
def test_not_installed_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    line = r"pip install 'tofe-export\[tensorrt\]'"
    with pytest.raises(MissingBackend, match=f"not installed.*{line}") as caught:
        load()
    assert caught.value.exit_code == 5


@pytest.mark.usefixtures("jetson")
def test_not_installed_on_a_jetson_names_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(MissingBackend, match=r"apt-get install tensorrt.*--system-site-packages"):
        load()


@pytest.mark.usefixtures("desktop")
def test_a_broken_installation_keeps_the_linkers_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvdla_compiler.so: cannot open shared object')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingBackend, match=r"cannot be loaded: libnvdla_compiler.so: cannot open"):
        load()


@pytest.mark.usefixtures("desktop")
@pytest.mark.parametrize("version", ["8.5.2", "8.4.1.5", "7.1.3"])
def test_too_old(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    module = ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(MissingBackend, match=f"found TensorRT {version}; expected TensorRT 8.6 or newer"):
        load()


@pytest.mark.parametrize("release", ["35.4.1", "32.7.1"])
def test_jetpack_5_is_refused_before_anything_is_imported(
    monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    monkeypatch.setattr(compat, "l4t_release", lambda: release)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingBackend, match=f"L4T {release}, which is JetPack 5 or older.*LayerNorm"):
        load()


@pytest.mark.parametrize(
    ("version", "precision", "capability", "dynamic", "issues"),
    [
        ("8.6.1", "fp16", "8.7", True, []),
        ("10.3.0", "fp32", "8.7", False, []),
        ("10.3.0", "fp32", "8.7", True, ["4419"]),
        ("10.3.0", "fp16", "8.7", False, ["4723"]),
        ("10.4.0", "fp32", "8.9", False, ["4742"]),
        ("10.5.0", "fp16", "8.9", True, []),
        ("10.16.1.11", "bf16", "12.0", False, ["4837"]),
        ("10.16.2", "bf16", "12.0", False, []),
        ("11.1.0.106", "fp32", "12.0", False, ["4813"]),
        ("11.1.0.106", "fp32", "9.0", False, []),
    ],
)
def test_known_faults(
    api_module: Callable[[str], Any],
    version: str,
    precision: str,
    capability: str,
    dynamic: bool,
    issues: list[str],
) -> None:
    module = api_module("10.3")
    module.__version__ = version
    found = known_faults(Features.of(module), precision, capability, dynamic)
    assert len(found) == len(issues)
    assert all(f"issue {issue})" in text for issue, text in zip(issues, found, strict=True))
    assert all("tofe-export verify" in text for text in found)


def test_the_documentation_names_every_known_fault() -> None:
    text = (Path(__file__).parents[2] / "docs" / "tensorrt.md").read_text(encoding="utf-8")
    assert [fault.source for fault in FAULTS if fault.source.split()[-1] not in text] == []
