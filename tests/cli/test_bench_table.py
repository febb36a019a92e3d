"""`bench LADDER --table FILE` before it measures: what it refuses, and which rungs it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tofe_export.bundle import Bundle
from tofe_export.cli import bench_table, main
from tofe_export.errors import MissingBackend
from tofe_export.latency.rungs import LADDER
from tofe_export.runtime.choice import Choice

MakeBundle = Callable[..., Path]
ALL: dict[str, tuple[Any, ...]] = dict.fromkeys(
    ("names", "budgets", "lowerings", "precisions", "batches"), ()
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--against", "k4-scatter-fp32-b1"), "leave out --against"),
        (("--alone", "--strict"), "leave out --alone, --strict"),
        (("--iterations", 3), "at least 6 iterations"),
        (("--iterations", 9, "--seconds", 2), "give one of them"),
        ((), "expected a ladder"),
        (("--table", "nosuch/t.json"), "there is no folder"),
    ],
)
def test_tables_of_what_is_no_ladder(
    make_bundle: MakeBundle, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    line = ("bench", make_bundle(), "--table", tmp_path / "t.json")
    result = CliRunner().invoke(main, [*map(str, line), *map(str, arguments)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not (tmp_path / "t.json").exists()


def ladder_of(folder: Path, precisions: tuple[str, ...]) -> Bundle:
    """The small bundle as a ladder of two rungs in each precision; nothing of it is ever run."""
    bundle = Bundle.open(folder)
    dense, reduced = (replace(v, extra={LADDER: {"heads": 2}}) for v in bundle.manifest.variants)
    made = []
    for precision in precisions:
        made.append(replace(dense, name=f"dense-{precision}-b1", precision=precision))
        for k in (1, 4):
            name = f"k{k}-scatter-{precision}-b1"
            made.append(replace(reduced, name=name, precision=precision, keep=(k, k)))
    return Bundle(folder, replace(bundle.manifest, variants=tuple(made)))


@pytest.mark.parametrize(
    ("precisions", "measured", "remark"),
    [
        (("fp32", "fp16"), ["fp32"], "left out fp16: ONNX Runtime imitates it on a processor"),
        (("fp16",), ["fp16"], ""),
    ],
)
def test_half_precision_on_a_processor_is_measured_where_there_is_nothing_else(
    make_bundle: MakeBundle,
    precisions: tuple[str, ...],
    measured: list[str],
    remark: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = ladder_of(make_bundle(), precisions)
    rungs, choice = bench_table.rungs_and_backend(bundle, ALL, bench_table.Way("onnxruntime"))
    assert [group.dense.precision for group in rungs] == measured
    assert choice.provider == "cpu"
    assert remark in capsys.readouterr().err


def test_rungs_whose_dense_model_cannot_run_are_left_out(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = ladder_of(make_bundle(), ("fp32", "fp16"))

    def without(*names: str) -> None:
        able = tuple(v for v in bundle.manifest.variants if v.name not in names)
        choice = Choice("tensorrt", "tensorrt", able)
        monkeypatch.setattr("tofe_export.cli.bundles.choose_backend", lambda *_: choice)

    without("dense-fp32-b1")
    rungs, _ = bench_table.rungs_and_backend(bundle, ALL, bench_table.Way())
    assert [group.dense.name for group in rungs] == ["dense-fp16-b1"]
    without("dense-fp32-b1", "dense-fp16-b1")
    with pytest.raises(MissingBackend, match="no engines here for a rung and its dense model, such as k1"):
        bench_table.rungs_and_backend(bundle, ALL, bench_table.Way())
