"""The picture: its panels, its formats, its refusals."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tofe_export.bench.pairs import Pair
from tofe_export.bench.plot import check_plot, draw, panels_of
from tofe_export.errors import MissingExtra, UsageError


def test_one_panel_per_batch_and_precision(make_comparison: Any) -> None:
    first = make_comparison()
    half = Pair(replace(first.pair.variant, precision="fp16"), first.pair.against)
    others = [replace(first, batch=8), replace(first, pair=half), first]
    panels = panels_of([first, *others])
    assert {panel: len(members) for panel, members in panels.items()} == {
        (1, "fp32"): 2,
        (8, "fp32"): 1,
        (1, "fp16"): 1,
    }


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.SVG", b"<?xml")])
def test_a_picture_is_written(name: str, start: bytes, make_comparison: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    comparisons = [make_comparison(), make_comparison(noise=1.2), replace(make_comparison(), batch=8)]
    draw(comparisons, tmp_path / name, "toy, cpu")
    data = (tmp_path / name).read_bytes()
    assert data.startswith(start)
    if start == b"<?xml":
        assert b"matplotlib" in data


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ending in .png or .svg, found a.jpg"):
        check_plot(tmp_path / "a.jpg")


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tofe-export\[plot\]'"):
        check_plot(Path("a.png"))
