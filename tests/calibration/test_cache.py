"""Stored calibrations: found by all they depend on, refused when damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tofe_export.calibration.cache import FOLDER, Cache
from tofe_export.errors import BundleError, WriteError

KEY: dict[str, Any] = {"graph": "a" * 64, "method": {"name": "max"}, "images": {"sha256": "b", "count": 3}}
VALUES = {"ranges": {"node": 1.5}, "images": {"folder": "photos"}}


def stored(root: Path) -> Path:
    Cache(root).put("ranges", KEY, VALUES)
    (path,) = (root / FOLDER).glob("ranges-*.json")
    return path


def test_what_was_stored_is_found(tmp_path: Path) -> None:
    made = Cache(tmp_path).put("ranges", KEY, VALUES)
    assert Cache(tmp_path).get("ranges", KEY) == made
    assert made.values == VALUES
    assert (tmp_path / made.file).is_file()


@pytest.mark.parametrize(
    "change", [{"graph": "c" * 64}, {"method": {"name": "entropy"}}, {"images": {"sha256": "x", "count": 3}}]
)
def test_another_key_finds_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    stored(tmp_path)
    assert Cache(tmp_path).get("ranges", KEY | change) is None


def test_another_kind_finds_nothing(tmp_path: Path) -> None:
    stored(tmp_path)
    assert Cache(tmp_path).get("int8", KEY) is None


def test_the_latest_that_fits(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    part = {"graph": KEY["graph"], "method": KEY["method"]}
    assert cache.latest("ranges", part) is None
    cache.put("ranges", KEY, VALUES)
    other = cache.put("ranges", KEY | {"graph": "other"}, VALUES)
    found = cache.latest("ranges", part)
    assert found is not None
    assert found.key == KEY
    assert cache.latest("ranges", {"graph": "other"}) == other


def damage(path: Path, how: str) -> None:
    data = json.loads(path.read_text())
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "edited":
        data["values"]["ranges"]["node"] = 15.0
        path.write_text(json.dumps(data))
    elif how == "field missing":
        del data["created"]
        path.write_text(json.dumps(data))
    elif how == "newer":
        data["schema"] = 99
        path.write_text(json.dumps(data))
    else:
        path.write_bytes(b"\xff\x00")


@pytest.mark.parametrize("how", ["truncated", "edited", "field missing", "newer", "binary"])
def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path, how: str) -> None:
    path = stored(tmp_path)
    damage(path, how)
    with pytest.raises(BundleError, match=f"{path.name}.*Delete this file"):
        Cache(tmp_path).get("ranges", KEY)
    with pytest.raises(BundleError, match="Delete this file"):
        Cache(tmp_path).latest("ranges", {})


def test_a_file_under_another_name_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path)
    Cache(tmp_path).put("ranges", KEY | {"graph": "z"}, VALUES)
    other = next(p for p in (tmp_path / FOLDER).glob("ranges-*.json") if p != path)
    path.write_bytes(other.read_bytes())
    with pytest.raises(BundleError, match="another key"):
        Cache(tmp_path).get("ranges", KEY)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file")
    with pytest.raises(WriteError):
        Cache(tmp_path).put("ranges", KEY, VALUES)
