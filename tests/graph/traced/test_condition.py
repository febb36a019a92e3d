"""One conditioned model, several budgets: every bound graph says what PyTorch says for that budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from tofe_export.budget import dense_macs, gmacs, printed
from tofe_export.bundle import Bundle
from tofe_export.graph import export as module
from tofe_export.graph.export import Pictures, export
from tofe_export.graph.passes.bind_budget import BUDGET_INPUT
from tofe_export.graph.request import Request
from tofe_export.graph.trace import Template
from tofe_export.keep import Measured
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.references import adaptive_answers, static_answers
from tofe_export.model.tofe import condition_of
from tofe_export.verify.run import verify_bundle

Traced = Callable[[str], Any]  # by the name of a recipe in conftest.py
Infer = Callable[..., dict[str, Any]]
Case = Any  # conftest.Traced
Array = npt.NDArray[Any]

pytestmark = pytest.mark.slow  # needs a trace

LIMIT = 1e-5  # of the output's range (decision 7)
SHARES = (0.6, 0.95)  # of the dense model's cost
both = pytest.mark.parametrize("name", ["conditioned", "conditioned-lvvit"])


def budgets(case: Case) -> list[float]:
    dense = gmacs(dense_macs(case.model.cost()))
    return [float(printed(share * dense)) for share in SHARES]


def answers(case: Case, budget: float, lowering: str) -> Any:
    case.model.set_budget(budget)
    if lowering == "adaptive":
        return adaptive_answers(case.model, case.images, case.thresholds, "head", lambda n: None)
    return static_answers(case.model, case.images, case.keep, "head", lambda n: None)


def error(got: Array, expected: Array) -> float:
    spread = expected.max(axis=1) - expected.min(axis=1)
    return float((np.abs(got - expected).max(axis=1) / spread).max())


@both
@pytest.mark.parametrize(("lowering", "batch"), [("scatter", 4), ("concat", None), ("adaptive", 1)])
def test_every_budget_agrees_with_pytorch(
    name: str, lowering: str, batch: int | None, traced: Traced, infer: Infer
) -> None:
    case = traced(name)
    kept = []
    for budget in budgets(case):
        expected = answers(case, budget, lowering)
        model = case.bind(lowering, batch, condition=condition_of(case.model.cost(), budget))
        parts = np.split(case.images, 4 // (batch or 4))
        got = np.concatenate([infer(model, {"images": part}, case.folder)["logits"] for part in parts])
        assert error(got, expected.output) <= LIMIT
        kept.append(expected.kept)
    assert not np.array_equal(*kept)  # the budget decides what is kept, so parity is no accident


@both
def test_the_template_asks_for_the_budget_and_bound_graphs_do_not(name: str, traced: Traced) -> None:
    case = traced(name)
    assert [value.name for value in case.template.model.graph.input] == ["images", BUDGET_INPUT]
    for lowering in ("scatter", "concat", "adaptive", "dense"):
        assert [value.name for value in case.bind(lowering).graph.input] == ["images"]


@pytest.mark.parametrize("lowering", ["scatter", "concat", "adaptive", "dense"])
def test_a_bound_graph_has_the_nodes_of_one_that_never_knew_a_budget(lowering: str, traced: Traced) -> None:
    """LV-ViT in both forms: same operators, hence the same speed."""

    def operators(name: str) -> Counter[str]:
        return Counter(node.op_type for node in traced(name).bind(lowering).graph.node)

    assert operators("conditioned-lvvit") == operators("lvvit")


def test_what_binding_changes_is_in_the_graph_and_all_else_in_the_weights_file(traced: Traced) -> None:
    case = traced("conditioned")
    model = case.bind("scatter", condition=0.5)
    selector = case.model.selectors[1].fc1
    node = next(n for n in model.graph.node if n.name.startswith("selectors.1.fc1/Add"))
    (bias,) = [t for t in model.graph.initializer if t.name in node.input]
    assert bias.data_location == onnx.TensorProto.DEFAULT
    found = onnx.numpy_helper.to_array(bias)
    assert found.nbytes > 1024
    np.testing.assert_array_equal(found, (selector.bias + 0.5 * selector.condition).detach().numpy())
    inline = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.DEFAULT]
    assert sum(len(t.raw_data) for t in inline if len(t.raw_data) >= 1024) == 3 * found.nbytes


@pytest.fixture
def exported(
    traced: Traced, pictures: Callable[..., Pictures], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bundle:
    """Two budgets with the same counts, in two lowerings."""
    case = traced("conditioned")
    path = case.folder / case.template.weights_file

    def copied(model: object, folder: Path, output: str, frames: object = None) -> Template:
        (folder / path.name).write_bytes(path.read_bytes())
        template: Template = case.template
        return template

    monkeypatch.setattr(module, "trace", copied)
    table = tuple(Measured(budget, case.keep, None, "training") for budget in budgets(case))
    checkpoint = Checkpoint(case.model, case.model.backbone.preprocessing(), table=table, sha256="d" * 64)
    for budget in budgets(case):  # the second extends what the first made
        request = Request(budgets=(budget,), keep=(4, 3, 2), lowerings=("scatter", "adaptive"))
        bundle = export(checkpoint, request, tmp_path / "bundle", pictures())
    return bundle


def test_a_bundle_serves_every_budget(exported: Bundle, traced: Traced) -> None:
    case, reference = traced("conditioned"), exported.reference()
    names = [printed(budget) for budget in budgets(case)]
    static = [v for v in exported.manifest.variants if v.lowering == "scatter"]
    assert [v.reference for v in static] == [f"static-4-3-2-for-{name}g" for name in names]
    first, second = (reference.output(v.reference) for v in static)
    assert not np.allclose(first, second, atol=1e-3)
    for variant in exported.manifest.variants:
        case.model.set_budget(variant.budget_gmacs)
        if variant.lowering == "scatter":
            expected = static_answers(case.model, reference.images, (4, 3, 2), "head", lambda n: None)
            np.testing.assert_array_equal(reference.output(variant.reference), expected.output)


def test_verify_finds_every_budget_right(exported: Bundle) -> None:
    report = verify_bundle(exported, exported.manifest.variants)
    assert report.passed
