"""INT8 variants from float32 ones: ranges, what is stored and found again, what the manifest says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tofe_export.calibration import quantizer as module
from tofe_export.calibration import ranges
from tofe_export.calibration.defaults import METHODS
from tofe_export.calibration.int8 import Pictures, Settings, make_job
from tofe_export.calibration.quantizer import Quantizer
from tofe_export.calibration.ranges import measure_ranges, rebatched
from tofe_export.errors import BundleError, InputError, PrecisionError, UsageError
from tofe_export.graph.quantizing.quantized import plan_for, quantized_nodes
from tofe_export.graph.quantizing.session import temporary_session, with_outputs
from tofe_export.manifest import Variant
from tofe_export.runtime.batching import run_all

Free = Any
SHOWN = Path("tofe_bundle")
PREPROCESSING = {"size": [8, 8], "crop": 1.0}


class Feed:
    """Batches of 5, counting how often they are gone through."""

    def __init__(self, images: Free) -> None:
        self.images, self.passes = images, 0

    def __iter__(self) -> Iterator[Free]:
        self.passes += 1
        return (self.images[start : start + 5] for start in range(0, len(self.images), 5))


def pictures(images: Free, sha256: str = "5" * 64) -> Pictures:
    return Pictures(Feed(images), {"folder": "photos", "count": len(images), "sha256": sha256})


def quantizer(
    root: Path, given: Pictures | None, settings: Settings | None = None, **changes: Free
) -> Quantizer:
    def place(relative: str) -> Path:
        return root / relative

    chosen = settings or Settings(min_agreement=0.0)
    made = Quantizer(root, SHOWN, place, PREPROCESSING, "logits", chosen, given)
    return replace(made, **changes)


def make(
    root: Path, twin: Variant, given: Pictures | None, settings: Settings | None = None, **changes: Free
) -> Variant:
    job = make_job(twin.name.replace("fp32", "int8"), "int8", ("8.6",), twin, [twin])
    (made,), _ = quantizer(root, given, settings, **changes).make([job])
    return made


@pytest.mark.parametrize("form", [{}, {"flat": True}, {"batch": 3}], ids=str)
def test_ranges_are_the_largest_activations(small: Free, images: Free, tmp_path: Path, form: Free) -> None:
    model = small(**form)
    sites = plan_for(model, tmp_path).placement.sites
    measured = measure_ranges(model, tmp_path, sites, Feed(images), "max")
    found, means = measured["ranges"], measured["means"]
    single = small(flat=form.get("flat", False))
    names = [site.activation for site in sites]
    with temporary_session(with_outputs(single, names), tmp_path) as session:
        outputs = [session.infer({"images": image[None]}) for image in images]
    for site in sites:
        sizes = np.stack([np.abs(output[site.activation]) for output in outputs])
        assert found[site.node] == pytest.approx(sizes.max(), rel=1e-5)
        assert means[site.node] == pytest.approx(sizes.mean(), rel=1e-5)


def test_other_methods_cut_off(small: Free, images: Free, tmp_path: Path) -> None:
    sites = plan_for(small(), tmp_path).placement.sites
    found = {m: measure_ranges(small(), tmp_path, sites, Feed(images), m)["ranges"] for m in METHODS}
    for site in sites:
        assert 0 < found["percentile"][site.node] <= found["max"][site.node]
        assert 0 < found["entropy"][site.node] <= found["max"][site.node]
    assert found["entropy"] != found["max"]


def test_the_stem_reads_the_images_themselves(small: Free, images: Free, tmp_path: Path) -> None:
    sites = plan_for(small(), tmp_path, stem=True).placement.sites
    found = measure_ranges(small(), tmp_path, sites, Feed(images), "max")["ranges"]
    assert found["stem/Conv"] == pytest.approx(float(np.abs(images).max()))


def test_no_temporary_graph_is_left(small: Free, images: Free, tmp_path: Path) -> None:
    sites = plan_for(small(), tmp_path).placement.sites
    measure_ranges(small(), tmp_path, sites, Feed(images), "max")
    assert list(tmp_path.iterdir()) == []


def test_batches_of_any_size_become_the_graphs(images: Free) -> None:
    made = list(rebatched(Feed(images), 8))
    assert [(len(batch), count) for batch, count in made] == [(8, 8), (8, 4)]
    assert np.array_equal(np.concatenate([batch for batch, _ in made])[:12], images)
    assert np.array_equal(made[1][0][4:], np.repeat(images[-1:], 4, axis=0))


@pytest.mark.parametrize("form", [{}, {"flat": True}], ids=str)
def test_what_fills_up_a_batch_does_not_count(
    small: Free, images: Free, tmp_path: Path, form: Free, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the last image would weigh several times as much in a histogram."""
    monkeypatch.setattr(ranges, "PERCENTILE", 50.0)
    one, five = (
        measure_ranges(
            small(batch=batch, **form),
            tmp_path,
            plan_for(small(batch=batch, **form), tmp_path).placement.sites,
            Feed(images[-6:]),
            "percentile",
        )["ranges"]
        for batch in (1, 5)
    )
    assert one == pytest.approx(five, rel=0.02)


def test_no_images(small: Free, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none"):
        measure_ranges(small(), tmp_path, plan_for(small(), tmp_path).placement.sites, [], "max")


@pytest.mark.parametrize("method", METHODS)
def test_activations_that_are_not_finite(small: Free, images: Free, tmp_path: Path, method: Free) -> None:
    images[3, 0, 0, 0] = np.inf
    with pytest.raises(PrecisionError, match="finite"):
        measure_ranges(small(), tmp_path, plan_for(small(), tmp_path).placement.sites, [images], method)


@pytest.mark.parametrize("method", METHODS)
def test_activations_that_no_scale_reaches(small: Free, images: Free, tmp_path: Path, method: Free) -> None:
    model = small()
    gain = next(tensor for tensor in model.graph.initializer if tensor.name == "gain")
    gain.CopyFrom(onnx.numpy_helper.from_array(np.full(gain.dims, 1e8, np.float32), "gain"))
    with pytest.raises(PrecisionError, match=r"reads numbers up to .*expected at most 8\.3e\+06"):
        measure_ranges(model, tmp_path, plan_for(model, tmp_path).placement.sites, [images], method)


def test_one_picture_is_refused_before_anything(
    twin: Free, images: Free, tmp_path: Path, counted: list[str]
) -> None:
    with pytest.raises(InputError, match="at least 2 pictures to calibrate INT8 with, found 1"):
        make(tmp_path, twin(), pictures(images[:1]))
    assert counted == []
    assert not (tmp_path / "calibration").exists()


def test_a_variant_and_its_account(twin: Free, images: Free, tmp_path: Path) -> None:
    source = twin()
    made = make(tmp_path, source, pictures(images))
    assert made.name == "2.00g-scatter-int8-b1"
    assert (made.precision, made.opset, made.targets) == ("int8", 17, ("8.6",))
    assert (made.keep, made.reference, made.gmacs) == (source.keep, source.reference, source.gmacs)
    assert made.extra.keys() == {"twin", "int8", "calibration"}
    assert made.extra["twin"] == source.name
    account = made.extra["int8"]
    assert account["images"] == {"folder": "photos", "count": 12, "sha256": "5" * 64}
    assert account["method"] == {"name": "max"}
    assert account["held_out_images"] == 6
    assert account["products"] == 8
    assert 0.5 < account["share_of_macs"] < 1
    assert account["left_out"] == {}
    assert set(account["excluded"].values()) == {"selector", "convolution", "head"}
    assert (tmp_path / account["ranges"]).is_file()
    json.dumps(made.extra)
    graph = onnx.load(tmp_path / made.file, load_external_data=False)
    assert len(quantized_nodes(graph)) == 8
    assert len(made.weights) == 1
    assert (tmp_path / made.weights[0]).is_file()


def test_siblings_share_ranges_and_weights(twin: Free, images: Free, tmp_path: Path) -> None:
    known = [twin(), twin(batch=4)]
    jobs = [make_job(t.name.replace("fp32", "int8"), "int8", ("8.6",), t, known) for t in known]
    assert {job.settled_on.name for job in jobs} == {known[0].name}
    variants, weights = quantizer(tmp_path, pictures(images)).make(jobs)
    assert len(weights) == 1
    assert variants[0].weights == variants[1].weights == (weights[0].file,)
    assert variants[0].extra["int8"]["ranges"] == variants[1].extra["int8"]["ranges"]
    first, second = (scales(onnx.load(tmp_path / v.file, load_external_data=False)) for v in variants)
    assert first == second != {}


def scales(model: onnx.ModelProto) -> dict[str, float]:
    """Of the activations, by name."""
    found = [tensor for tensor in model.graph.initializer if tensor.name.endswith("/scale")]
    return {tensor.name: onnx.numpy_helper.to_array(tensor).item() for tensor in found}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes every inference over the pictures: for ranges, and for agreement."""
    done: list[str] = []
    measure, run = ranges.measure_ranges, run_all

    def measuring(*given: Free) -> Free:
        done.append("ranges")
        return measure(*given)

    def running(*given: Free) -> Free:
        done.append("answers")
        return run(*given)

    monkeypatch.setattr(module, "measure_ranges", measuring)
    monkeypatch.setattr(module, "run_all", running)
    return done


def test_a_second_run_computes_nothing(twin: Free, images: Free, tmp_path: Path, counted: list[str]) -> None:
    first = make(tmp_path, twin(), pictures(images))
    assert set(counted) == {"ranges", "answers"}
    counted.clear()
    again = pictures(images)
    assert make(tmp_path, twin(), again) == first
    assert counted == []
    assert isinstance(again.batches, Feed)
    assert again.batches.passes == 0


def test_without_pictures_the_stored_ones_count(
    twin: Free, images: Free, tmp_path: Path, counted: list[str]
) -> None:
    first = make(tmp_path, twin(), pictures(images))
    counted.clear()
    assert make(tmp_path, twin(), None) == first
    assert counted == []


def test_without_pictures_and_without_stored_ones(twin: Free, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--images DIR"):
        make(tmp_path, twin(), None)


@pytest.mark.parametrize("changed", ["graph", "method", "images", "preprocessing", "stem"])
def test_whatever_changes_is_measured_again(
    twin: Free, images: Free, tmp_path: Path, counted: list[str], changed: str
) -> None:
    source, settings = twin(), Settings(min_agreement=0.0)
    make(tmp_path, source, pictures(images), settings)
    counted.clear()
    given, changes = pictures(images), dict[str, Free]()
    if changed == "graph":
        source = twin(flat=True)
    elif changed == "images":
        given = pictures(images, "6" * 64)
    elif changed == "preprocessing":
        changes["preprocessing"] = {**PREPROCESSING, "crop": 0.875}
    else:
        settings = replace(settings, **({"method": "entropy"} if changed == "method" else {"stem": True}))
    make(tmp_path, source, given, settings, **changes)
    assert "ranges" in counted


def test_another_agreement_needs_no_new_ranges(
    twin: Free, images: Free, tmp_path: Path, counted: list[str]
) -> None:
    make(tmp_path, twin(), pictures(images))
    counted.clear()
    make(tmp_path, twin(), pictures(images), Settings(min_agreement=0.5))
    assert set(counted) == {"answers"}


def test_damaged_ranges_are_refused(twin: Free, images: Free, tmp_path: Path) -> None:
    made = make(tmp_path, twin(), pictures(images))
    path = tmp_path / made.extra["int8"]["ranges"]
    path.write_text(path.read_text().replace('"count": 12', '"count": 13'))
    with pytest.raises(BundleError, match=f"^{SHOWN / 'calibration' / path.name}: .*Delete this file"):
        make(tmp_path, twin(), pictures(images))
    path.unlink()
    assert make(tmp_path, twin(), pictures(images)).sha256 == made.sha256


def test_what_spoils_the_answers_is_left_out(twin: Free, images: Free, tmp_path: Path) -> None:
    """A range that was measured a thousand times too small saturates one unit, and only that is left out."""
    source = twin()
    many = np.random.RandomState(7).standard_normal((80, 3, 8, 8)).astype(np.float32)
    measure = ranges.measure_ranges

    def spoilt(*given: Free) -> dict[str, dict[str, float]]:
        found = measure(*given)
        sizes = {
            node: size / (1000 if node.startswith("approximators") else 1)
            for node, size in found["ranges"].items()
        }
        return {**found, "ranges": sizes}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "measure_ranges", spoilt)
        made = make(tmp_path, source, pictures(many), Settings(min_agreement=0.9))
    account = made.extra["int8"]
    assert {node.partition(".")[0] for node in account["left_out"]} == {"approximators"}
    assert all("moves the answers by" in why for why in account["left_out"].values())
    assert account["agreement"] >= 0.9 > account["agreement_with_nothing_left_out"]
    assert account["products"] == 6
    assert set(account["left_out"]).isdisjoint(
        quantized_nodes(onnx.load(tmp_path / made.file, load_external_data=False))
    )


def test_a_product_whose_numbers_would_vanish_is_left_out(twin: Free, images: Free, tmp_path: Path) -> None:
    """A massive activation stretches a range until all else is 0, even where the answers agree."""
    source = twin()
    measure = ranges.measure_ranges

    def stretched(*given: Free) -> dict[str, dict[str, float]]:
        found = measure(*given)
        return {**found, "ranges": {**found["ranges"], "approximators.0.fc1/MatMul": 5000.0}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "measure_ranges", stretched)
        account = make(tmp_path, source, pictures(images), Settings(min_agreement=0.1)).extra["int8"]
        everything = make(tmp_path, source, pictures(images), Settings(min_agreement=0.0)).extra["int8"]
    assert account["agreement_with_nothing_left_out"] >= 0.1
    assert {node.partition(".")[0] for node in account["left_out"]} == {"approximators"}
    (reason,) = set(account["left_out"].values())
    assert reason.startswith("outliers: approximators.0.fc1/MatMul reads numbers up to 5.0e+03")
    assert account["products"] == 6
    assert everything["left_out"] == {}


def test_a_graph_without_a_place_for_integers_is_refused(twin: Free, images: Free, tmp_path: Path) -> None:
    source = twin()
    model = onnx.load(tmp_path / source.file)
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1].endswith(".weight"):
            node.input[0], node.input[1] = node.input[1], node.input[0]
    onnx.save(model, tmp_path / source.file)
    with pytest.raises(PrecisionError, match=r"found none \(convolution\)"):
        make(tmp_path, source, pictures(images))


def test_the_half_form_needs_the_half_graph(twin: Free) -> None:
    source = twin()
    with pytest.raises(UsageError, match="fp16"):
        make_job("x", "int8fp16", ("10.3",), source, [source])
