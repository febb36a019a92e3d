"""What each rewrite brings: the graphs differ in it alone, and all of them answer the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from latency import ablation, alignment, crossover, figures, rejected, rewrites
from latency.ablation import Recipe, Turns, Workshop, in_words, parity, require_parity, same_graph
from latency.alignment import Point
from latency.cases import AGAIN, DENSE, TINY, Case
from latency.crossover import OURS
from latency.sides import Side, SideList
from latency.turns import How

from tofe_export.bench.statistics import paired_ratio
from tofe_export.budget import macs_executed

SMALL = {"patch_size": 2, "embed_dim": 24, "depth": 6, "num_heads": 2, "num_classes": 5}
SMALL_CASE = Case("small", "deit_tiny_patch16_224", 0.00038, 8, arguments=SMALL)
CLOSE = 1e-6

pytestmark = pytest.mark.benchmarks


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A DeiT on 16 tokens, traced once per set of steps."""
    return Workshop(SMALL_CASE, tmp_path_factory.mktemp("rewrites"))


def _paths(workshop: Workshop, recipes: list[Recipe], lowering: str, batch: int) -> dict[str, Path]:
    return {recipe.name: workshop.path(workshop.make(recipe, lowering, batch)) for recipe in recipes}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("lowering", [DENSE, "concat", "scatter"])
def test_every_rewrite_changes_the_graph_and_no_answer(workshop: Workshop, lowering: str, batch: int) -> None:
    listed = [item for item in rewrites.REWRITES if item.applies("deit_tiny", lowering, batch)]
    files = _paths(workshop, rewrites.recipes(listed), lowering, batch)
    found = parity(files, rewrites.NONE)
    require_parity(found)
    assert max(found.values()) < CLOSE
    for item in listed:
        assert not same_graph(files[rewrites.alone(item.name)], files[rewrites.NONE]), item.name
        assert not same_graph(files[rewrites.without(item.name)], files[rewrites.ALL]), item.name


def test_what_does_not_apply_would_change_nothing(workshop: Workshop) -> None:
    cases = {(lowering, batch) for lowering in (DENSE, "concat", "scatter") for batch in (1, 3)}
    for item in rewrites.REWRITES:
        if "deit" not in item.models:
            continue  # a trace per step: that the steps fit LV-ViT alone is proven in tests/model
        for lowering, batch in cases:
            files = _paths(
                workshop,
                [rewrites.recipe_of([], rewrites.NONE), rewrites.recipe_of([item.name], f"only {item.name}")],
                lowering,
                batch,
            )
            same = same_graph(*files.values())
            assert same == (not item.applies("deit_tiny", lowering, batch)), (item.name, lowering, batch)


def test_all_rewrites_together_are_what_is_exported(workshop: Workshop) -> None:
    listed = [item for item in rewrites.REWRITES if item.applies("deit_tiny", "concat", 1)]
    every = rewrites.recipe_of([item.name for item in listed], "every")
    files = _paths(workshop, [every, Recipe("exported", ("last rows",))], "concat", 1)
    assert same_graph(*files.values())


def test_one_gather_is_one_gather(workshop: Workshop) -> None:
    files = _paths(workshop, rewrites.recipes([rewrites.REWRITES[-1]]), "concat", 3)

    def wide_gathers(name: str) -> int:
        graph = onnx.load(files[name], load_external_data=False).graph
        shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
        return sum(node.op_type == "Gather" and len(shapes[node.output[0]]) == 3 for node in graph.node)

    assert wide_gathers(rewrites.NONE) == 3
    assert wide_gathers(rewrites.ALL) == 5  # kept and frozen rows apart in two stages, kept ones in the last


@pytest.mark.slow
@pytest.mark.parametrize(("lowering", "batch"), [("concat", 1), (DENSE, 8)])  # each candidate fits one
def test_every_candidate_changes_the_graph_and_no_answer(
    workshop: Workshop, lowering: str, batch: int
) -> None:
    tried = [c for c in rejected.CANDIDATES if lowering in c.lowerings and batch in c.batches]
    files = _paths(workshop, [Recipe(rejected.NOW), *(c.recipe() for c in tried)], lowering, batch)
    require_parity(parity(files, rejected.NOW))
    in_place = ("affine of norms in the weights", "selector on all rows")  # weights alone; a Slice that moves
    for item in tried:
        same = same_graph(files[item.name], files[rejected.NOW])
        assert not same, item.name
        operators = [_operators(files[name]) for name in (item.name, rejected.NOW)]
        assert (operators[0] == operators[1]) == (item.name in in_place), item.name


def _operators(path: Path) -> list[str]:
    return sorted(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


@pytest.mark.slow
def test_what_candidates_save(workshop: Workshop) -> None:
    files = _paths(
        workshop, [Recipe(rejected.NOW), *(c.recipe() for c in rejected.CANDIDATES[:5])], "concat", 1
    )
    count = {name: _operators(path) for name, path in files.items()}
    now = count[rejected.NOW]
    assert now.count("Mul") - count["attention scale in Wq"].count("Mul") == SMALL["depth"]
    shared = count["selector and block share a norm"]
    assert now.count("LayerNormalization") - shared.count("LayerNormalization") == workshop.model.stages
    assert now.count("Gather") - count["one gather and two slices"].count("Gather") == 2


def test_candidates_refuse_what_they_do_not_fit(workshop: Workshop) -> None:
    from latency.candidates import affine_in_weights, scale_in_weights

    not_folded = Recipe("not folded", passes=rejected._with_shared_norms)
    with pytest.raises(ValueError, match="cannot be shared"):
        workshop.make(not_folded, "concat", 1)
    model = scale_in_weights(workshop.model)
    model.backbone.blocks[0].attn.q_norm = torch.nn.LayerNorm(12)  # type: ignore[union-attr]  # a plain ViT
    with pytest.raises(ValueError, match="a norm between"):
        scale_in_weights(model)
    model.selectors[0] = torch.nn.Identity()
    with pytest.raises(ValueError, match="found Identity"):
        affine_in_weights(model)


def test_another_function_is_not_a_row() -> None:
    require_parity({"same": 1e-6})
    for wrong in (2e-5, float("nan")):
        with pytest.raises(SystemExit, match="within 1e-05"):
            require_parity({"same": 0.0, "other": wrong})


def _turns(seconds: Mapping[str, list[float]]) -> Turns:
    times = {name: np.array(values) for name, values in seconds.items()}
    return Turns(times, paired_ratio(times["a"], times[AGAIN]))


def test_ratios_and_their_verdicts() -> None:
    twelve = [1.0] * 12
    turns = _turns({"a": twelve, AGAIN: twelve, "b": [0.5] * 12})
    assert turns.ratio("a", "b")["value"] == 2
    assert turns.ratio("a", "b")["verdict"] == "faster"
    assert turns.ratio("b", "a")["verdict"] == "slower"
    assert set(turns.sides()) == {"a", "b"}
    noisy = _turns({"a": twelve, AGAIN: [1.1] * 12, "b": [0.5] * 12})
    assert noisy.ratio("a", "b")["verdict"] == "too noisy"
    assert in_words({"value": 1.041, "low": 0.99, "high": 1.052}) == "+4.1 % (-1.0 to +5.2)"


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose every run takes as long as the file's name is long."""

    def turns(files: Mapping[str, Path], twice: str, how: How, number: int = 0) -> Turns:
        seconds = {name: np.full(8, len(name) / 1000) for name in files}
        return Turns({**seconds, AGAIN: seconds[twice]}, paired_ratio(seconds[twice], seconds[twice]))

    for module in (ablation, alignment, crossover):
        monkeypatch.setattr(module, "take_turns", turns)
    monkeypatch.setattr(rewrites, "LOWERINGS", {"small": ("concat",)})
    monkeypatch.setattr(rejected, "CASE", "small")
    for module in (rewrites, rejected):
        monkeypatch.setattr(module, "CASES", (SMALL_CASE,))


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("script", [rewrites, pytest.param(rejected, marks=pytest.mark.slow)])
def test_commands_measure_once(
    script: Any,
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "Workshop", lambda *given: workshop)
    out = tmp_path / "x.json"
    line = ["--lowerings", "concat", "--batches", "1", "--work", str(tmp_path), "--out", str(out)]
    script.main([*line, "--make"])
    assert not out.exists()
    script.main([*line, "--made", "--openings", "2"])
    record = _json(out)["groups"][0]
    assert record["case"] == "small concat"
    assert all(row["expected"] for row in record["rows"])
    assert max(side["parity"] for side in record["sides"].values()) < CLOSE
    shown = capsys.readouterr().out
    assert all(row["rewrite"] in shown for row in record["rows"])
    assert len(record["times_ms"][AGAIN]) == 16
    script.main([*line, "--made", "--openings", "2"])
    assert capsys.readouterr().out == ""
    script.main([*line, "--made", "--openings", "3"])
    (record,) = _json(out)["groups"]
    assert len(record["times_ms"][AGAIN]) == 24
    script.main([*line, "--made", "--openings", "1", "--again"])
    assert [group["openings"] for group in _json(out)["groups"]] == [1]


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _points(step: float) -> list[Point]:
    """A straight line, but for K at multiples of 8, which cost `step` less."""
    shares = {keep: (0.1 + keep / 200) * (1 - step * (keep % 8 == 0)) for keep in range(8, 197)}
    return [Point(keep, share, share, share) for keep, share in shares.items()]


def test_a_multiple_that_saves_is_found_and_one_that_does_not_is_not() -> None:
    found = alignment.savings(_points(0.05), 0)
    assert found[8]["saved"] == pytest.approx(0.05 * 7 / 8, abs=0.005)
    assert found[16]["saved"] == pytest.approx(0.05 * 7 / 8, abs=0.005)
    assert abs(found[1]["saved"]) < 0.01  # the curve itself lies an eighth of the step lower
    assert alignment.default_align(found) == 8
    assert alignment.default_align(alignment.savings(_points(0.05), 1)) == 1  # asked of K + 1
    assert alignment.default_align(alignment.savings(_points(0.0), 0)) == 1


def test_what_a_whole_group_shares_is_no_period() -> None:
    smooth = _points(0.0)
    groups = np.random.default_rng(0).integers(0, 10, len(smooth)).tolist()
    disturbed = [replace(p.scaled(1 + 0.02 * g), group=g) for p, g in zip(smooth, groups, strict=True)]
    level = [
        point.share / other.share for point, other in zip(alignment.levelled(disturbed), smooth, strict=True)
    ]
    assert np.ptp(level) < 0.01 < np.ptp([p.share / q.share for p, q in zip(disturbed, smooth, strict=True)])
    assert Point(8, 0.5, None, 0.6).scaled(2) == Point(8, 1.0, None, 1.2)


def test_every_count_is_in_one_group() -> None:
    for batch in (1, 8):
        drawn = [keep for group in alignment.groups_of(batch) for keep in group]
        assert sorted(drawn) == alignment.counts_of(batch)
        assert alignment.groups_of(batch) == alignment.groups_of(batch)
    assert alignment.counts_of(1) == list(range(8, 197))


@pytest.mark.usefixtures("_quick")
def test_alignment_grows_piece_by_piece(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(alignment, "counts_of", lambda batch: list(range(2, 10)))
    monkeypatch.setattr(alignment, "TOGETHER", 4)
    monkeypatch.setattr(alignment, "CASE", "small")
    monkeypatch.setattr(alignment, "CASES", (SMALL_CASE,))
    monkeypatch.setattr(alignment, "Workshop", lambda *given: workshop)
    line = ["--batches", "1", "--work", str(tmp_path), "--out", str(tmp_path / "x.json")]
    alignment.main([*line, "--pieces", "1"])
    assert "--align" not in capsys.readouterr().out
    alignment.main([*line, "--pieces", "5", "--figure", str(tmp_path / "x.svg")])
    (curve,) = _json(tmp_path / "x.json")["curves"]
    assert [point["keep"] for point in curve["curve"]] == list(range(2, 10))
    assert curve["align"] == 1
    assert "--align should be 1" in capsys.readouterr().out
    assert (tmp_path / "x.svg").read_text().lstrip().startswith("<?xml")


def test_opponents_are_as_large_as_fits(workshop: Workshop) -> None:
    cost = workshop.model.cost()
    dense = macs_executed(cost, (), DENSE)
    assert crossover.fitting_depth(cost, dense) == cost.depth - 1
    assert crossover.fitting_depth(cost, dense // 2) == 3  # half of 6, by the narrower last block
    assert crossover.fitting_size(cost, dense) == 4 * crossover.PATCH
    assert crossover.fitting_size(cost, dense - 1) == 3 * crossover.PATCH
    with pytest.raises(ValueError, match="empty"):
        crossover.fitting_depth(cost, 1)


def test_long_runs_are_left_out() -> None:
    assert crossover.batches_of(224, (1, 2, 4, 8)) == [1, 2, 4, 8]
    assert crossover.batches_of(592, (1, 2, 4, 8)) == [1, 2]


@pytest.mark.usefixtures("_quick")
def test_the_map_is_measured_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = SideList(tmp_path / "crossover-224")
    made.folder.mkdir()
    for batch in (1, 2):
        for name, cost in ((DENSE, 4.6), (OURS, 2.0), ("144 px", 1.9), ("5 blocks", 1.8), (TINY, 1.2)):
            made.add(Side(name, f"{name}.onnx", batch, cost, "sources"))
    line = ["--sizes", "224", "--batches", "1,2", "--work", str(tmp_path), "--out", str(tmp_path / "x.json")]
    crossover.main([*line, "--made"])
    groups = _json(tmp_path / "x.json")["groups"]
    assert [(group["tokens"], group["batch"]) for group in groups] == [(196, 1), (196, 2)]
    assert list(groups[0]["ours_as_fast_as"]) == [DENSE, "144 px", "5 blocks", TINY]
    assert groups[0]["sides"]["5 blocks"]["gmacs"] == 1.8
    assert "5 blocks" in capsys.readouterr().out
    for name in ("one.svg", "two.svg"):
        figures.draw_crossover(groups, tmp_path / name)
    picture = (tmp_path / "one.svg").read_text()
    assert picture.count("<svg") == 1


def test_ablation_measures_for_real(workshop: Workshop) -> None:
    files = _paths(workshop, [Recipe("all")], DENSE, 1)
    turns = ablation.take_turns(files, "all", How("cpu", 1, 0.05))
    assert len(turns.seconds["all"]) == len(turns.seconds[AGAIN]) >= 8
    assert turns.noise_json()["limit"] == 0.03
