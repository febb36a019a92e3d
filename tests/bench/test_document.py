"""The file that a run leaves, what may be compared with it, and what changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tofe_export.bench.document import KIND, Saved, changes, make_document
from tofe_export.bench.pairs import Pair
from tofe_export.bench.rounds import Plan
from tofe_export.bench.sides import How
from tofe_export.bundle import Bundle
from tofe_export.errors import InputError, UsageError

MACHINE: dict[str, dict[str, Any]] = {
    "identity": {"processor": "Fast 9000", "cores": 4, "gpu": None},
    "mode": {"governor": "performance"},
    "versions": {"onnxruntime": "1.2"},
}
HOW = How("onnxruntime", "cpu", threads=2)


@pytest.fixture
def save(bundle: Bundle, make_comparison: Any, tmp_path: Path) -> Callable[..., Path]:
    def write(**changed: Any) -> Path:
        data = make_document(bundle, HOW, Plan(), MACHINE, [make_comparison(**changed)])
        path = tmp_path / "saved.json"
        path.write_text(json.dumps(data))
        return path

    return write


def pairs(bundle: Bundle) -> list[Pair]:
    return [Pair(bundle.variant("2.00g-scatter-fp32-b1"), bundle.variant("dense-fp32-b1"))]


def edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    return path


def test_the_schema(save: Callable[..., Path], bundle: Bundle) -> None:
    data = json.loads(save().read_text())
    assert data["kind"] == KIND == "tofe-export bench 1"
    assert set(data) == {
        *("kind", "created", "bundle", "machine", "settings", "plan", "process_peak_bytes", "comparisons"),
        "rivals",
    }
    assert data["bundle"]["checkpoint_sha256"] == bundle.manifest.model.checkpoint_sha256
    assert data["settings"] == {
        "backend": "onnxruntime",
        "provider": "cpu",
        "threads": 2,
        "spinning": False,
        "cuda_graph": None,
        "run_batch": 1,
    }
    length = {"seconds": 10.0, "iterations": None, "warmup": 10, "least": 20}
    assert data["plan"] == {**length, "seed": 0, "openings": 1}


def test_the_same_machine_may_be_compared(save: Callable[..., Path], bundle: Bundle) -> None:
    saved = Saved.load(save())
    saved.require(MACHINE, HOW, bundle, pairs(bundle))
    saved.require({**MACHINE, "versions": {"onnxruntime": "9.9"}, "before": {}}, HOW, bundle, pairs(bundle))


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("identity", "processor", "Slow 1", "another machine .*Fast 9000 then, Slow 1 now"),
        ("identity", "cores", 2, "cores: 4 then, 2 now"),
        ("identity", "gpu", "L4", "gpu: None then, L4 now"),
        ("identity", "board", "Jetson", "board: None then, Jetson now"),
        ("mode", "governor", "powersave", "another mode .*performance then, powersave now"),
    ],
)
def test_another_machine_is_refused(
    part: str, key: str, value: object, message: str, save: Callable[..., Path], bundle: Bundle
) -> None:
    other = {**MACHINE, part: {**MACHINE[part], key: value}}
    with pytest.raises(UsageError, match=message):
        Saved.load(save()).require(other, HOW, bundle, pairs(bundle))


def test_a_file_without_facts_is_another_machine(save: Callable[..., Path], bundle: Bundle) -> None:
    path = edited(save(), lambda data: data["machine"].pop("identity"))
    with pytest.raises(UsageError, match="another machine"):
        Saved.load(path).require(MACHINE, HOW, bundle, pairs(bundle))


@pytest.mark.parametrize("how", [How("onnxruntime", "cpu", threads=1), How("tensorrt", "tensorrt")])
def test_another_way_of_measuring_is_refused(how: How, save: Callable[..., Path], bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="was measured in another way"):
        Saved.load(save()).require(MACHINE, how, bundle, pairs(bundle))


def test_another_model_is_refused(save: Callable[..., Path], bundle: Bundle) -> None:
    model = replace(bundle.manifest.model, checkpoint_sha256="1" * 64)
    other = Bundle(bundle.path, replace(bundle.manifest, model=model))
    with pytest.raises(UsageError, match="about another model"):
        Saved.load(save()).require(MACHINE, HOW, other, pairs(other))


def test_changes(save: Callable[..., Path], make_comparison: Any) -> None:
    saved = Saved.load(save(value=2.0))
    (change,) = changes(saved, [make_comparison(value=2.1, low=2.0, high=2.2)])
    assert (change.variant, change.against) == ("2.00g-scatter-fp32-b1", "dense-fp32-b1")
    assert (change.then, change.now, change.same_graph) == (2.0, 2.1, True)
    assert change.change == pytest.approx(0.05)
    assert change.repeats is False
    (near,) = changes(saved, [make_comparison(value=2.05)])
    assert near.repeats is True


def test_noise_then_or_now_allows_no_claim_of_change(save: Callable[..., Path], make_comparison: Any) -> None:
    (now,) = changes(Saved.load(save()), [make_comparison(noise=1.05)])
    (then,) = changes(Saved.load(save(noise=1.05)), [make_comparison()])
    assert (now.change, then.change, now.repeats, then.repeats) == (None, None, None, None)


def test_another_graph_of_the_same_name_is_pointed_out(
    save: Callable[..., Path], make_comparison: Any
) -> None:
    path = edited(save(), lambda data: data["comparisons"][0]["variant"].update(sha256="0" * 64))
    (change,) = changes(Saved.load(path), [make_comparison()])
    assert change.same_graph is False


def test_nothing_in_common(save: Callable[..., Path], bundle: Bundle) -> None:
    saved = Saved.load(save())
    other = [Pair(pair.against, pair.variant) for pair in pairs(bundle)]
    for asked in ([], other):
        with pytest.raises(UsageError, match=r"; it has 2\.00g-scatter-fp32-b1 against dense-fp32-b1"):
            saved.require(MACHINE, HOW, bundle, asked)
    saved.require(MACHINE, HOW, bundle, [*other, *pairs(bundle)])


def test_a_ratio_of_nothing_is_a_damaged_file(save: Callable[..., Path]) -> None:
    path = edited(save(), lambda data: data["comparisons"][0]["speedup"].update(value=0))
    with pytest.raises(InputError, match=r"speedup\.value: expected a ratio above 0, found 0"):
        Saved.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("{", "Expecting"),
        ("[]", "expected an object"),
        ('{"kind": "tofe-export bench 9"}', "expected one of tofe-export bench 1, found"),
        ('{"kind": "tofe-export bench 1"}', "created: expected this key"),
    ],
)
def test_what_is_no_saved_run(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=f"that `tofe-export bench --json` wrote .*{message}"):
        Saved.load(path)
