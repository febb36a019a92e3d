"""Bound graphs against PyTorch: outputs, scores and sets, for every lowering, structure and batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from tofe_export.errors import UsageError

Traced = Callable[[str], Any]  # by the name of a recipe in conftest.py
Toy = Any  # of conftest.py, which no test can import
Infer = Callable[..., dict[str, Any]]
Static = Callable[..., Any]
Case = Any  # conftest.Traced
Array = npt.NDArray[Any]

LIMIT = 1e-5  # of the output's range (decision 7)
NAMES = ("deit", "registers", "siglip", "lvvit", "no-reuse", "four-tied")
STATIC = [("scatter", 1), ("scatter", 4), ("scatter", None), ("concat", 1), ("concat", 4), ("concat", None)]


def error(got: Array, expected: Array) -> float:
    """Largest difference, as a share of each image's range."""
    got, expected = got.reshape(len(got), -1), expected.reshape(len(expected), -1)
    spread = expected.max(axis=1) - expected.min(axis=1)
    return float((np.abs(got - expected).max(axis=1) / spread).max())


def run(
    infer: Infer, case: Case, model: onnx.ModelProto, forces: list[Array] | None = None
) -> list[dict[str, Array]]:
    """All images through a graph, one dictionary per image; `forces` per stage over all images."""
    asked = {value.name for value in model.graph.input}
    size = model.graph.input[0].type.tensor_type.shape.dim[0]
    batch, results = size.dim_value or 4, []
    for start in range(0, 4, batch):
        feeds = {"images": case.images[start : start + batch]}
        if "use_force" in asked:
            feeds["use_force"] = np.array([forces is not None])
            for value in (v for v in model.graph.input if v.name.startswith("force_")):
                shape = [d.dim_value or batch for d in value.type.tensor_type.shape.dim]
                kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                stage = int(value.name.removeprefix("force_")) - 1
                feeds[value.name] = (
                    np.zeros(shape, kind) if forces is None else forces[stage][start : start + batch]
                )
        outputs = infer(model, feeds, case.folder)
        results += [{name: array[i] for name, array in outputs.items()} for i in range(batch)]
    return results


def stacked(results: list[dict[str, Array]], name: str) -> Array:
    return np.stack([result[name] for result in results])


def look(case: Case, results: list[dict[str, Array]]) -> tuple[Array, Array]:
    """Scores (n, S, N) in spatial order, NaN where not scored, and kept masks (n, S, N)."""
    scores = np.full((4, case.model.stages, case.tokens), np.nan, np.float32)
    kept = np.zeros(scores.shape, np.bool_)
    for image, result in enumerate(results):
        for stage in range(case.model.stages):
            scores[image, stage, result[f"ids_{stage + 1}"]] = result[f"scores_{stage + 1}"]
            ids = result[f"kept_{stage + 1}"]
            assert len(set(ids.tolist())) == len(ids)
            kept[image, stage, ids] = True
    return scores, kept


@pytest.mark.slow
@pytest.mark.parametrize(("lowering", "batch"), STATIC)
@pytest.mark.parametrize("name", NAMES)
def test_static_lowerings_agree_with_pytorch(
    name: str, lowering: str, batch: int | None, traced: Traced, infer: Infer
) -> None:
    case = traced(name)
    if (name, lowering) == ("registers", "concat"):
        with pytest.raises(UsageError, match="depthwise"):
            case.bind(lowering, batch)
        return
    answers, output = case.static(), case.template.output
    assert error(stacked(run(infer, case, case.bind(lowering, batch)), output), answers.output) <= LIMIT

    probe = case.bind(lowering, batch, probe=True)
    results = run(infer, case, probe)
    assert error(stacked(results, output), answers.output) <= LIMIT
    scores, kept = look(case, results)
    np.testing.assert_allclose(scores, answers.scores, atol=1e-4)  # NaN in the same places
    np.testing.assert_array_equal(kept, answers.kept)

    masks = case.random_sets
    forces = [
        np.stack([np.flatnonzero(mask)[::-1] for mask in masks[:, stage]])
        for stage in range(case.model.stages)
    ]
    results = run(infer, case, probe, forces)
    assert error(stacked(results, output), case.forced) <= LIMIT
    np.testing.assert_array_equal(look(case, results)[1], masks)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "four-tied"])
def test_adaptive_agrees_with_pytorch(name: str, traced: Traced, infer: Infer) -> None:
    case = traced(name)
    answers, output = case.adaptive(case.thresholds), case.template.output
    assert len({tuple(counts) for counts in answers.kept.sum(axis=2)}) > 1  # images differ in their counts
    assert error(stacked(run(infer, case, case.bind("adaptive")), output), answers.output) <= LIMIT

    probe = case.bind("adaptive", probe=True)
    results = run(infer, case, probe)
    assert error(stacked(results, output), answers.output) <= LIMIT
    scores, kept = look(case, results)
    np.testing.assert_allclose(scores, answers.scores, atol=1e-4)
    np.testing.assert_array_equal(kept, answers.kept)

    masks = case.random_sets
    results = run(infer, case, probe, list(masks.transpose(1, 0, 2).astype(np.float32)))
    assert error(stacked(results, output), case.forced) <= LIMIT
    np.testing.assert_array_equal(look(case, results)[1], masks)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4, None])
@pytest.mark.parametrize("name", NAMES)
def test_dense_is_the_backbone(name: str, batch: int | None, traced: Traced, infer: Infer) -> None:
    case = traced(name)
    got = stacked(run(infer, case, case.bind("dense", batch)), case.template.output)
    assert error(got, case.dense().output) <= LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["one", "all"])
@pytest.mark.parametrize(("lowering", "batch"), STATIC)
@pytest.mark.parametrize("name", ["deit", "siglip", "no-reuse"])
def test_the_ends_of_the_range(
    name: str, lowering: str, batch: int | None, keep: str, traced: Traced, infer: Infer
) -> None:
    case = traced(name)
    counts = (1 if keep == "one" else case.tokens,) * case.model.stages
    answers = case.static(counts)
    got = run(infer, case, case.bind(lowering, batch, keep=counts))
    assert error(stacked(got, case.template.output), answers.output) <= LIMIT
    _, kept = look(case, run(infer, case, case.bind(lowering, batch, keep=counts, probe=True)))
    np.testing.assert_array_equal(kept, answers.kept)


@pytest.mark.slow
@pytest.mark.parametrize(("lowering", "batch"), STATIC)
def test_tied_scores_keep_the_lowest_ids(
    lowering: str, batch: int | None, traced: Traced, infer: Infer
) -> None:
    case = traced("four-tied")
    scores, kept = look(case, run(infer, case, case.bind(lowering, batch, probe=True)))
    assert not scores.any()
    for stage, count in enumerate(case.keep):
        np.testing.assert_array_equal(kept[:, stage], np.tile(np.arange(case.tokens) < count, (4, 1)))


@pytest.mark.slow
def test_adaptive_keeps_all_tied_tokens(traced: Traced, infer: Infer) -> None:
    case = traced("four-tied")
    for threshold in (0.0, 1.0):  # the best score is kept even if it is below the threshold
        model = case.bind("adaptive", thresholds=(threshold,) * 4, probe=True)
        assert look(case, run(infer, case, model))[1].all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output"), [("deit", "logits"), ("siglip", "features"), ("no-reuse", "tokens")]
)
def test_the_file_says_what_it_is(name: str, output: str, traced: Traced) -> None:
    case = traced(name)
    model = case.bind("scatter", None)
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == [output]
    assert {p.key: p.value for p in model.metadata_props} == {"tofe.variant": "test"}
    assert (model.graph.name, model.ir_version, model.producer_name) == ("test", 8, "tofe-export")
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert not model.functions
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert b"site-packages" not in model.SerializeToString()  # no paths of the machine that exported


@pytest.mark.slow
@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.parametrize(("lowering", "batch"), [*STATIC, ("adaptive", 1)])
@pytest.mark.parametrize("name", ["siglip", "no-reuse", "four-tied"])
def test_no_name_occurs_twice(
    name: str, lowering: str, batch: int | None, probe: bool, traced: Traced
) -> None:
    case = traced(name)
    graph = case.bind(lowering, batch, probe=probe, thresholds=(0.0,) * case.model.stages).graph
    tensors = Counter(
        [o for n in graph.node for o in n.output] + [t.name for t in (*graph.initializer, *graph.input)]
    )
    assert [name for name, count in tensors.items() if count > 1] == []
    assert max(Counter(node.name for node in graph.node).values()) == 1
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert not {t.name for t in graph.initializer} - read
    assert not read - tensors.keys()


@pytest.mark.slow
def test_binding_leaves_the_template_as_it_was(traced: Traced) -> None:
    case = traced("deit")
    before = case.template.model.SerializeToString(deterministic=True)
    first = case.bind("concat").SerializeToString(deterministic=True)
    case.bind("scatter", 4, probe=True)
    assert case.bind("concat").SerializeToString(deterministic=True) == first
    assert case.template.model.SerializeToString(deterministic=True) == before
