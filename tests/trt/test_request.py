"""Which graph answers a request, typed how, per TensorRT; and what one call builds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError, UsageError
from tofe_export.manifest import DYNAMIC, Variant
from tofe_export.trt.jobs import choose, meant_for, plan_jobs, with_dense
from tofe_export.trt.platform import Platform
from tofe_export.trt.request import DEFAULT_PROFILE, BuildOptions, make_job

FP16, FP32 = "2.00g-scatter-fp16-b1", "2.00g-scatter-fp32-b1"
MakePlatform = Callable[..., Platform]
NO_OPTIONS = BuildOptions()


def names(variants: Sequence[Variant]) -> list[str]:
    return [variant.name for variant in variants]


def edited(bundle: Bundle, name: str, **changes: object) -> Bundle:
    """The bundle with one variant changed."""
    variants = [replace(v, **changes) if v.name == name else v for v in bundle.manifest.variants]  # type: ignore[arg-type]
    return Bundle(bundle.path, replace(bundle.manifest, variants=tuple(variants)))


@pytest.mark.parametrize("version", ["10.3", "10.13", "11.4"])
@pytest.mark.parametrize("name", [FP16, FP32, "2.00g-scatter-bf16-b1"])
def test_newer_versions_build_the_variants_own_graph_strongly_typed(
    typed_bundle: Bundle, make_platform: MakePlatform, version: str, name: str
) -> None:
    variant = typed_bundle.variant(name)
    job = make_job(typed_bundle, variant, make_platform(version).features, NO_OPTIONS)
    assert (job.typing, job.twin, job.graph.file) == ("strong", None, variant.file)
    assert job.hold_float32 == ()


def test_8_6_builds_half_precision_from_the_twin(typed_bundle: Bundle, make_platform: MakePlatform) -> None:
    features = make_platform("8.6").features
    job = make_job(typed_bundle, typed_bundle.variant(FP16), features, NO_OPTIONS)
    assert (job.typing, job.twin, job.graph.file) == ("weak", FP32, f"variants/{FP32}.onnx")
    assert job.hold_float32 == ("selector/MatMul",)
    probe = make_job(typed_bundle, typed_bundle.variant(FP16), features, NO_OPTIONS, probe=True)
    assert (probe.graph.file, probe.name) == (f"variants/{FP32}.probe.onnx", f"{FP16} (probe)")
    extra = {"hold_float32": ["selector/MatMul"], "hold_float32_probe": ["stage1.probe/Where"]}
    more = edited(typed_bundle, FP32, extra=extra)
    both = make_job(more, more.variant(FP16), features, NO_OPTIONS, probe=True).hold_float32
    assert both == ("selector/MatMul", "stage1.probe/Where")
    large = edited(typed_bundle, FP16, extra={"twin": FP32, "float32_nodes": {"fc2/MatMul": "magnitude 1e5"}})
    held = make_job(large, large.variant(FP16), features, NO_OPTIONS).hold_float32
    assert held == ("selector/MatMul", "fc2/MatMul")
    plain = make_job(typed_bundle, typed_bundle.variant(FP32), features, NO_OPTIONS)
    assert (plain.typing, plain.twin, plain.hold_float32) == ("float32", None, ())


def test_8_6_cannot_build_bf16(typed_bundle: Bundle, make_platform: MakePlatform) -> None:
    with pytest.raises(UsageError, match=r"TensorRT 8.6.1 cannot build bf16 .*needs 10.0 or newer"):
        make_job(
            typed_bundle,
            typed_bundle.variant("2.00g-scatter-bf16-b1"),
            make_platform("8.6").features,
            NO_OPTIONS,
        )


@pytest.mark.parametrize(
    ("name", "extra", "error", "message"),
    [
        (FP16, {}, BundleError, "expected the name of its float32 twin, found none. Export again"),
        (FP16, {"twin": "x"}, UsageError, "from the float32 graph x, which is not in .*--precision fp32"),
        (FP16, {"twin": "dense-bf16-b1"}, UsageError, "which is not in"),
        (FP32, {}, BundleError, "expected the layers that must stay in float32, found none"),
        (FP32, {"hold_float32": [1]}, BundleError, "expected the layers that must stay in float32"),
    ],
)
def test_8_6_without_what_it_needs(
    typed_bundle: Bundle,
    make_platform: MakePlatform,
    name: str,
    extra: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    bundle = edited(typed_bundle, name, extra=extra)
    with pytest.raises(error, match=message):
        make_job(bundle, bundle.variant(FP16), make_platform("8.6").features, NO_OPTIONS)


def test_a_dense_variant_has_no_probe(typed_bundle: Bundle, make_platform: MakePlatform) -> None:
    with pytest.raises(UsageError, match="dense-fp16-b1 has no probe graph, since it selects no tokens"):
        make_job(
            typed_bundle,
            typed_bundle.variant("dense-fp16-b1"),
            make_platform().features,
            NO_OPTIONS,
            probe=True,
        )


def test_a_profile_belongs_to_a_dynamic_batch(typed_bundle: Bundle, make_platform: MakePlatform) -> None:
    bundle = edited(typed_bundle, FP16, batch=DYNAMIC)
    features, asked = make_platform().features, BuildOptions(profile=(1, 2, 4))
    static = make_job(bundle, bundle.variant(FP32), features, asked)
    dynamic = make_job(bundle, bundle.variant(FP16), features, asked)
    default = make_job(bundle, bundle.variant(FP16), features, NO_OPTIONS)
    found = [job.options.profile for job in (static, dynamic, default)]
    assert found == [None, (1, 2, 4), DEFAULT_PROFILE]


def test_without_a_wish_fp32_and_fp16_are_chosen(typed_bundle: Bundle) -> None:
    everything = typed_bundle.manifest.variants
    assert {v.precision for v in choose(typed_bundle, everything, ())} == {"fp32", "fp16"}
    assert {v.precision for v in choose(typed_bundle, everything, ["bf16"])} == {"bf16"}
    only = [typed_bundle.variant("dense-bf16-b1")]
    assert choose(typed_bundle, only, ()) == only
    both = [typed_bundle.variant("dense-bf16-b1"), typed_bundle.variant(FP16)]
    assert choose(typed_bundle, both, (), everything=True) == both


def test_a_precision_without_a_graph_names_the_hosts_command(bundle: Bundle) -> None:
    command = rf"tofe-export onnx --ckpt FILE --budget 1.5,2 --precision fp16,int8 --out {bundle.path}"
    with pytest.raises(UsageError, match=rf"no fp16 and no int8 graph.*it has fp32.*: {command}"):
        choose(bundle, bundle.manifest.variants, ["fp16", "int8", "fp16"])


def test_the_dense_model_is_beside_the_picked_ones(typed_bundle: Bundle) -> None:
    picked = [typed_bundle.variant(FP16)]
    assert names(with_dense(typed_bundle, picked)) == ["dense-fp16-b1", FP16]
    other_batch = [typed_bundle.variant("1.50g-scatter-fp16-b4")]
    assert names(with_dense(typed_bundle, other_batch)) == ["1.50g-scatter-fp16-b4"]


@pytest.mark.parametrize(
    ("version", "targets", "meant"),
    [
        ("10.3.0", ("10.3",), True),
        ("10.3.0", ("8.6", "10.13"), False),
        ("10.7.0", ("10.13",), True),
        ("10.7.0", ("8.6",), False),
        ("11.5.0", ("11.4",), True),
        ("8.6.1", ("10.3",), False),
        ("10.3.0", (), False),
    ],
)
def test_meant_for(
    bundle: Bundle, make_platform: MakePlatform, version: str, targets: tuple[str, ...], meant: bool
) -> None:
    features = make_platform().features
    parts = tuple(map(int, version.split(".")))
    changed = replace(features, version=(parts[0], parts[1], parts[2]))
    assert meant_for(replace(bundle.manifest.variants[0], targets=targets), changed) == meant


def test_plan_of_everything(typed_bundle: Bundle, make_platform: MakePlatform) -> None:
    everything = typed_bundle.manifest.variants
    plan = plan_jobs(typed_bundle, everything, (), make_platform("10.3"), NO_OPTIONS)
    assert len(plan.jobs) == 6
    assert plan.skipped == ()
    with_probes = plan_jobs(typed_bundle, everything, ["fp16"], make_platform("8.6"), NO_OPTIONS, probe=True)
    assert [job.name for job in with_probes.jobs] == [
        "dense-fp16-b1",
        FP16,
        f"{FP16} (probe)",
        "1.50g-scatter-fp16-b4",
        "1.50g-scatter-fp16-b4 (probe)",
    ]


def test_what_is_not_meant_for_this_tensorrt_is_left_out_unless_named(
    typed_bundle: Bundle, make_platform: MakePlatform
) -> None:
    bundle = edited(typed_bundle, FP16, targets=("10.13", "11.4"))
    platform = make_platform("10.3")
    plan = plan_jobs(bundle, bundle.manifest.variants, ["fp16"], platform, NO_OPTIONS)
    assert FP16 not in [job.variant.name for job in plan.jobs]
    assert plan.skipped == (f"{FP16}: meant for TensorRT 10.13, 11.4; name it by --variant to build it",)
    named = plan_jobs(bundle, [bundle.variant(FP16)], (), platform, NO_OPTIONS, named=True)
    assert [job.variant.name for job in named.jobs] == [FP16]
    with pytest.raises(UsageError, match=r"nothing to build for this TensorRT: 2\.00g"):
        plan_jobs(bundle, [bundle.variant(FP16)], (), platform, NO_OPTIONS)


def test_what_cannot_be(typed_bundle: Bundle, make_platform: MakePlatform) -> None:
    everything = typed_bundle.manifest.variants
    platform = make_platform("10.3")
    with pytest.raises(UsageError, match="--profile is for a dynamic batch"):
        plan_jobs(typed_bundle, everything, (), platform, BuildOptions(profile=(1, 2, 3)))
    old = replace(platform, device=replace(platform.device, compute_capability="7.5"))
    with pytest.raises(
        UsageError, match=r"bf16 needs compute capability 8.0.*this GPU has 7.5: build --fp16"
    ):
        plan_jobs(typed_bundle, everything, ["bf16"], old, NO_OPTIONS)
    dense = [typed_bundle.variant("dense-fp16-b1")]
    with pytest.raises(UsageError, match="--probe: none of these variants has a probe"):
        plan_jobs(typed_bundle, dense, ["fp16"], platform, NO_OPTIONS, probe=True)


def test_the_manifest_keeps_what_the_builder_needs(typed_bundle: Bundle) -> None:
    entry = json.loads((typed_bundle.path / "manifest.json").read_text())["variants"]
    assert [v["twin"] for v in entry if v["name"] == FP16] == [FP32]
