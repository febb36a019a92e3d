"""The trtexec line of a variant: the right graph and the right typing for each version."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import UsageError
from tofe_export.lint.targets import TARGETS, parse_target
from tofe_export.trt.compat import Features
from tofe_export.trt.trtexec import features_of, trtexec_line

WEAK = ["--fp16", "--precisionConstraints=obey", "--layerPrecisions=selector/MatMul:fp32"]
REMOVED_IN_11 = ("--fp16", "--int8", "--bf16", "--best", "--precisionConstraints", "--layerPrecisions")


def words(bundle: Bundle, name: str, target: str) -> list[str]:
    program, *found = shlex.split(trtexec_line(bundle, bundle.variant(name), parse_target(target)))
    assert program == "trtexec"
    assert found[1] == f"--saveEngine={name}.plan"
    return found


@pytest.mark.parametrize(
    ("target", "precision", "graph", "flags"),
    [
        ("8.6", "fp32", "fp32", []),
        ("8.6", "fp16", "fp32", WEAK),
        ("10.3", "fp32", "fp32", ["--stronglyTyped"]),
        ("jetpack-6.2", "fp16", "fp16", ["--stronglyTyped"]),
        ("10.16", "bf16", "bf16", ["--stronglyTyped"]),
        ("11.4", "fp16", "fp16", []),
    ],
)
def test_graph_and_typing(
    typed_bundle: Bundle, target: str, precision: str, graph: str, flags: list[str]
) -> None:
    found = words(typed_bundle, f"2.00g-scatter-{precision}-b1", target)
    assert found[0] == f"--onnx={typed_bundle.path}/variants/2.00g-scatter-{graph}-b1.onnx"
    assert found[2:] == ["--noTF32", *flags]


def test_nothing_that_11_removed(typed_bundle: Bundle) -> None:
    for variant in typed_bundle.manifest.variants:
        line = trtexec_line(typed_bundle, variant, parse_target("11.4"))
        assert not [flag for flag in REMOVED_IN_11 if flag in line]


@pytest.mark.parametrize(("model_input", "shape"), [("float32", "3x8x8"), ("uint8", "8x8x3")])
def test_a_dynamic_batch_has_a_profile(typed_bundle: Bundle, model_input: str, shape: str) -> None:
    manifest = typed_bundle.manifest
    variants = [replace(v, batch="dyn", targets=("8.6", "10.13")) for v in manifest.variants]
    model = replace(manifest.model, input=model_input)
    bundle = Bundle(typed_bundle.path, replace(manifest, model=model, variants=tuple(variants)))
    found = words(bundle, "dense-fp32-b1", "10.13")
    assert found[3:] == ["--stronglyTyped"] + [
        f"--{kind}Shapes=images:{batch}x{shape}" for kind, batch in (("min", 1), ("opt", 8), ("max", 32))
    ]
    with pytest.raises(UsageError, match=r"is meant for TensorRT 8\.6, 10\.13, not for 10\.3"):
        words(bundle, "dense-fp32-b1", "10.3")


def test_what_8_6_cannot_build(typed_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="cannot build bf16"):
        words(typed_bundle, "2.00g-scatter-bf16-b1", "8.6")
    half = [v for v in typed_bundle.manifest.variants if v.precision != "fp32"]
    alone = Bundle(typed_bundle.path, replace(typed_bundle.manifest, variants=tuple(half)))
    with pytest.raises(UsageError, match=r"builds .* from the float32 graph .*--precision fp32"):
        words(alone, "2.00g-scatter-fp16-b1", "8.6")


def test_a_path_with_spaces_is_one_word(typed_bundle: Bundle) -> None:
    folder = typed_bundle.path.rename(typed_bundle.path.with_name("my bundle"))
    found = words(Bundle.open(folder), "dense-fp32-b1", "10.3")
    assert found[0] == f"--onnx={folder}/variants/dense-fp32-b1.onnx"
    assert json.loads((folder / "manifest.json").read_text())


def test_versions_can_what_their_modules_can(api_module: object) -> None:
    """`features_of` says of a version what looking at its module says."""
    decisive = ("explicit_batch", "strong_types", "weak_types", "bf16")
    for target in TARGETS:
        if target.version == "10.16":
            continue  # no inventory of it
        seen, said = Features.of(api_module(target.version)), features_of(target)  # type: ignore[operator]
        assert [getattr(said, name) for name in decisive] == [getattr(seen, name) for name in decisive]
