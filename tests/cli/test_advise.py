"""`advise` and `onnx --budget-ms` on a table that is made up; one run is real and tiny."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tofe_export.bench import machine
from tofe_export.cli import main
from tofe_export.latency.table import Entry, Step, Table
from tofe_export.model.backbone import create_backbone
from tofe_export.model.tofe import Structure, ToFe

MODEL = "vit_tiny_patch16_224"
ARGUMENTS = {"patch_size": 2, "embed_dim": 192, "depth": 4, "num_heads": 2, "num_classes": 5}
TINY: tuple[object, ...] = ("--model", MODEL, "--image-size", 8, "--locations", "1,2")
for _key, _value in ARGUMENTS.items():
    TINY += ("--model-arg", f"{_key}={_value}") if _key != "num_classes" else ("--num-classes", _value)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module", autouse=True)
def _quiet_torch() -> Iterator[None]:
    """Torch keeps thousands of records of a trace; they are not pytest's."""
    logger = logging.getLogger("torch.__trace")
    logger.propagate = False
    yield
    logger.propagate = True


@pytest.fixture(scope="module")
def tofe() -> ToFe:
    backbone = create_backbone(MODEL, {**ARGUMENTS, "img_size": [8, 8]})
    return ToFe(backbone, Structure((1, 2)))


@pytest.fixture
def table(tofe: ToFe) -> Table:
    """This machine's table of the tiny model: 0.5 + 0.03 K of 10 ms."""
    steps = tuple(Step(k, 0.5 + 0.03 * k, 0.4, 0.6, 20) for k in (2, 8, 16))
    entry = Entry((8, 8), "scatter", "fp32", 1, 2, tofe.cost(), 10.0, 0.01, steps)
    settings = {"backend": "onnxruntime", "provider": "cpu", "threads": 2}
    return Table(MODEL, "2025-01-02T03:04:05+00:00", dict(machine.facts()), settings, (entry,))


@pytest.fixture
def latency(table: Table, tmp_path: Path) -> Path:
    table.save(tmp_path / "latency.json")
    return tmp_path / "latency.json"


def test_a_table_is_read(latency: Path) -> None:
    result = run("advise", "--model", MODEL, "--latency", latency, "--json", "-")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert (data["kind"], data["this_machine"]) == ("tofe-export advice 1", True)
    (entry,) = data["entries"]
    assert (entry["batch"], entry["dense_ms"], entry["ship"]) == (1, 10.0, "reduced")
    assert all(row["ms"] < 10 for row in entry["rows"] if row["ms"] is not None)


def test_tables_for_people(latency: Path) -> None:
    result = run("advise", "--model", f"{MODEL}.augreg_in21k", "--latency", latency, "--budget-ms", 7)
    assert result.exit_code == 0, result.stderr
    assert "2 threads), measured 2025-01-02T03:04:05+00:00: this machine." in result.stdout
    assert "8x8, scatter, fp32, batch 1: dense 10.00 ms" in result.stdout
    (row,) = [line.split() for line in result.stdout.splitlines() if line.endswith("  yes")]
    assert float(row[4]) <= 7
    assert "token reduction pays here" in result.stdout


def test_ship_dense_and_whose_figures(table: Table, tmp_path: Path) -> None:
    slow = tuple(replace(step, share=1.01) for step in table.entries[0].steps)
    foreign: dict[str, Any] = {
        "identity": {**table.machine["identity"], "processor": "Another 1", "board": "Orin"}
    }
    other = replace(table, machine=foreign).with_entries([replace(table.entries[0], steps=slow)])
    other.save(tmp_path / "t.json")
    result = run("advise", "--model", MODEL, "--latency", tmp_path / "t.json")
    assert result.exit_code == 0
    assert "on Orin" in result.stdout
    assert "NOT this machine" in result.stdout
    assert "ship dense: the best of these budgets" in result.stdout
    assert "no, under 5 %" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--model", "deit_small_patch16_224"), 3, f"is about {MODEL}, and --model asks for deit_small"),
        (("--batch", 8), 3, "nothing for batch 8; it has 8x8, scatter, fp32, batch 1"),
        (("--image-size", "16,8"), 3, "nothing for image size 16x8"),
        (("--lowering", "concat"), 3, "nothing for lowering concat"),
        (("--precision", "fp16"), 3, "nothing for precision fp16"),
        (("--locations", "1,3"), 3, "was measured with locations (1, 2), and (1, 3) was asked for"),
        (("--no-reuse",), 3, "was measured with reuse True, and False was asked for"),
        (
            ("--threads", 2, "--ladder", "x"),
            2,
            "reads a table and measures nothing: leave out --ladder, --threads",
        ),
        (("--budget-ms", 12), 2, "to below 10.00 ms (dense)"),
        (("--budget", 7), 2, "A budget of 7.00 GMACs cannot be met"),
        (("--image-size", "1,2,3"), 2, "expected H or H,W"),
        (("--budget-ms", "fast"), 2, "expected a number"),
    ],
)
def test_what_a_table_does_not_answer(
    latency: Path, arguments: tuple[object, ...], code: int, message: str
) -> None:
    result = run("advise", "--model", MODEL, "--latency", latency, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_budgets_that_only_some_entries_reach(table: Table, tmp_path: Path) -> None:
    slow = replace(table.entries[0], batch=8, dense_ms=80.0)
    table.with_entries([table.entries[0], slow]).save(tmp_path / "t.json")
    line = ("advise", "--model", MODEL, "--latency", tmp_path / "t.json", "--json", "-")
    result = run(*line, "--budget-ms", "7,70")
    assert result.exit_code == 0, result.stderr
    first, second = json.loads(result.stdout)["entries"]
    assert [len(first["rows"]), len(second["rows"])] == [1, 1]
    assert first["rows"][0]["ms"] <= 7
    assert second["rows"][0]["ms"] <= 70
    assert "warning: 8x8, scatter, fp32, batch 8: expected a latency from 44.80 ms" in result.stderr
    nothing = json.loads(run(*line, "--budget-ms", "200").stdout)["entries"]
    assert [entry["ship"] for entry in nothing] == ["unknown", "unknown"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ladder", "x", "--threads", 2), "--ladder only writes graphs: leave out --threads"),
        (("--lowering", "adaptive"), "--lowering: expected scatter or concat"),
        (("--batch", "dyn"), "--batch: expected numbers"),
        (("--tokens", "5"), "--tokens: expected two or more different counts from 1 to 16"),
    ],
)
def test_what_cannot_be_measured(arguments: tuple[object, ...], message: str, tmp_path: Path) -> None:
    result = run("advise", *TINY, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_file_that_is_no_table_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"kind": "mine"}')
    result = run("advise", *TINY, "--out", tmp_path / "t.json")
    assert result.exit_code == 3
    assert "expected a latency table" in result.stderr
    assert (tmp_path / "t.json").read_text() == '{"kind": "mine"}'


@pytest.mark.slow
def test_from_a_name_to_keep_counts(tmp_path: Path) -> None:
    """Everything real: ladder, table by `bench --table`, advice, and a plan for milliseconds."""
    ladder, latency = tmp_path / "ladder", tmp_path / "latency.json"
    made = run("advise", *TINY, "--tokens", "4,16", "--batch", "1,2", "--ladder", ladder)
    assert made.exit_code == 0, made.stderr
    assert f"tofe-export bench {ladder} --table latency.json" in made.stdout
    common = ("bench", ladder, "--table", latency, "--iterations", 6, "--threads", 1)
    for batch in (2, 1):
        measured = run(*common, "--batch", batch)
        assert measured.exit_code == 0, measured.stderr
    table = Table.load(latency)
    assert [(entry.batch, [step.keep for step in entry.steps]) for entry in table.entries] == [
        (1, [4, 16]),
        (2, [4, 16]),
    ]
    assert all(step.rounds == 6 for entry in table.entries for step in entry.steps)
    assert table.machine.keys() == {"identity", "mode", "versions", "before", "after"}

    other = run(*common[:-1], 2, "--batch", 1)
    assert other.exit_code == 2
    assert "is a table of another way of measuring (threads: 1 there, 2 now)" in other.stderr

    advised = run("advise", "--model", MODEL, "--latency", latency)
    assert advised.exit_code == 0, advised.stderr
    assert "8x8, scatter, fp32, batch 2" in advised.stdout


@pytest.mark.slow
def test_one_command_measures_and_keeps(tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    result = run("advise", *TINY, "--tokens", "4,16", "--seconds", 0, "--threads", 1, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "8x8, scatter, fp32, batch 1: dense" in result.stdout
    assert len(Table.load(out).entries) == 1


@pytest.mark.slow
def test_a_table_of_another_machine_is_not_added_to(table: Table, tmp_path: Path) -> None:
    """Found out before anything is measured, and the table stays as it was."""
    machine = {"identity": {**table.machine["identity"], "processor": "Another 1"}, "mode": {}}
    replace(table, machine=machine).save(tmp_path / "t.json")
    before = (tmp_path / "t.json").read_bytes()
    result = run("advise", *TINY, "--tokens", "4,16", "--seconds", 0, "--out", tmp_path / "t.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is a table of another machine" in result.stderr
    assert (tmp_path / "t.json").read_bytes() == before


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ckpt") / "model.pt"
    assert run("init", *TINY, "--out", path).exit_code == 0
    return path


def test_milliseconds_become_keep_counts(ckpt: Path, latency: Path) -> None:
    result = run(
        "onnx", "--ckpt", ckpt, "--budget-ms", "7,9", "--latency", latency, "--dry-run", "--json", "-"
    )
    assert result.exit_code == 0, result.stderr
    variants = [v for v in json.loads(result.stdout)["variants"] if v["keep"] and v["precision"] == "fp32"]
    small, large = (variant["keep"] for variant in variants)
    assert small < large
    assert variants[0]["source"].startswith("halving profile, scaled to 6.")
    assert "measured 2025-01-02T03:04:05+00:00: this machine" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--budget-ms", 4), 2, "expected a latency from 5.60 ms (2 tokens in each stage)"),
        (("--budget-ms", 10), 2, "to below 10.00 ms (dense)"),
        (("--budget-ms", 7, "--budget", 0.02), 2, "leave out --budget and --keep"),
        (("--budget-ms", 7, "--output", "tokens"), 2, "--output tokens has none"),
        (("--budget", 0.02), 2, "--latency is there for --budget-ms"),
        (("--budget-ms", 7, "--batch", 4), 3, "nothing for batch 4"),
        (("--budget-ms", 7, "--lowering", "concat"), 3, "nothing for lowering concat"),
    ],
)
def test_milliseconds_out_of_reach(
    ckpt: Path, latency: Path, arguments: tuple[object, ...], code: int, message: str
) -> None:
    result = run("onnx", "--ckpt", ckpt, "--latency", latency, *arguments, "--dry-run")
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_milliseconds_of_the_same_tokens_are_one_variant(ckpt: Path, latency: Path) -> None:
    line = ("onnx", "--ckpt", ckpt, "--latency", latency, "--dry-run", "--json", "-", "--precision", "fp32")
    result = run(*line, "--budget-ms", "7,7.001")
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)["variants"]) == 2  # with the dense one
    assert "7.001 ms: the same tokens as before" in result.stderr


def test_milliseconds_need_a_table(ckpt: Path) -> None:
    result = run("onnx", "--ckpt", ckpt, "--budget-ms", 7)
    assert result.exit_code == 2
    assert f"--latency TABLE. Measure them: tofe-export advise --model {MODEL}" in result.stderr


def test_a_table_of_another_model_is_refused(ckpt: Path, table: Table, tmp_path: Path) -> None:
    table.with_entries([replace(table.entries[0], heads=4)]).save(tmp_path / "t.json")
    result = run("onnx", "--ckpt", ckpt, "--budget-ms", 7, "--latency", tmp_path / "t.json")
    assert result.exit_code == 3
    assert "of other shapes (heads: 4 there, 2 here)" in result.stderr


def test_milliseconds_belong_to_one_variant(ckpt: Path, table: Table, tmp_path: Path) -> None:
    half = replace(table.entries[0], precision="fp16")
    table.with_entries([table.entries[0], half]).save(tmp_path / "t.json")
    both = run("onnx", "--ckpt", ckpt, "--budget-ms", 7, "--latency", tmp_path / "t.json", "--dry-run")
    assert both.exit_code == 2
    assert "Name one of each beside --budget-ms" in both.stderr
    one = ("--precision", "fp16", "--dry-run")
    assert (
        run("onnx", "--ckpt", ckpt, "--budget-ms", 7, "--latency", tmp_path / "t.json", *one).exit_code == 0
    )


def test_a_noisy_table_is_warned_of(ckpt: Path, table: Table, tmp_path: Path) -> None:
    table.with_entries([replace(table.entries[0], noise=0.2)]).save(tmp_path / "t.json")
    result = run("onnx", "--ckpt", ckpt, "--budget-ms", 7, "--latency", tmp_path / "t.json", "--dry-run")
    assert result.exit_code == 0
    assert "warning: too noisy for advice" in result.stderr
