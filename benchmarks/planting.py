"""Ten kinds of silent faults, planted in a copy of an exported bundle.

Each kind is one function that changes a `Scene` and says what it did: which causes name the fault exactly,
which fit it (the right place, the cause left open), and the selection at which it shows first. A fault sits
in the product graph and its probe, as if the export had made it, or in the product alone, as if only that
file had gone wrong.

What to plant is drawn from a seed, so every fault can be planted again.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import onnx
from onnx import numpy_helper
from scene import Array, Base, Fault, Scene, in_scope, insert_after, insert_before, type_of

from tofe_export.graph.bind import Binding, bind
from tofe_export.manifest import DYNAMIC
from tofe_export.model.references import adaptive_answers, dense_answers, static_answers
from tofe_export.reference import Reference

CROPS = (0.75, 0.8, 0.875, 0.9, 0.95, 1.0)
NORMALISATIONS = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "ImageNet, channels reversed": ((0.406, 0.456, 0.485), (0.225, 0.224, 0.229)),
    "Inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "CLIP": ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def gather_off_by_one(scene: Scene) -> Fault:
    """Row indices of one selection, or the kept ids themselves, are one too high or too low, and clamped."""
    stage, step = scene.random.randint(1, scene.stages), scene.random.choice((1, -1))
    rows = scene.variant.lowering == "adaptive" or scene.random.random() < 0.5

    def change(graph: onnx.GraphProto) -> None:
        nodes = in_scope(graph, f"stage{stage}.freeze/")
        if rows:
            node = next(n for n in nodes if n.op_type.startswith("Gather") and _is_float(graph, n.output[0]))
            dims = type_of(graph, node.input[0]).shape.dim
            last = dims[1 if node.op_type == "GatherND" else 0].dim_value - 1
            insert_before(graph, node, 1, "Clip", np.array(0), np.array(last))
            clip = next(n for n in graph.node if node.input[1] in n.output)
            insert_before(graph, clip, 0, "Add", np.array(step))
        else:
            ids = next(n for n in nodes if n.op_type == "TopK").output[1]
            last = scene.base.bundle.manifest.model.tokens - 1
            insert_after(graph, ids, "Clip", np.array(0), np.array(last))
            insert_after(graph, f"{ids}/right", "Add", np.array(step))

    scene.edit(change)
    what = f"{'rows gathered' if rows else 'kept ids'} of selection {stage} off by {step:+d}"
    return scene.fault(what, "ids-shifted", "stage", "head", "duplicate-tokens", stage=stage)


def _is_float(graph: onnx.GraphProto, tensor: str) -> bool:
    return type_of(graph, tensor).elem_type == onnx.TensorProto.FLOAT


def stages_swapped(scene: Scene) -> Fault:
    """Two selectors have each other's weights."""
    first, second = sorted(scene.random.sample(range(scene.stages), 2))

    def change(graph: onnx.GraphProto) -> None:
        constants = {initializer.name for initializer in graph.initializer}
        ours, theirs = (
            [n for n in graph.node if re.match(rf"selectors\.{s}[./]", n.name)] for s in (first, second)
        )
        for a, b in zip(ours, theirs, strict=True):
            assert a.op_type == b.op_type, f"{a.name} is not {b.name}'s counterpart"
            for at, (x, y) in enumerate(zip(a.input, b.input, strict=True)):
                if x in constants and y in constants:
                    a.input[at], b.input[at] = y, x

    scene.edit(change)
    what = f"selectors {first + 1} and {second + 1} exchanged"
    return scene.fault(what, "stages-swapped", "selector-weights", stage=first + 1)


def scores_negated(scene: Scene) -> Fault:
    """One selector's scores have the other sign: it keeps what it should freeze."""
    stage = scene.random.randint(1, scene.stages)
    scene.edit(lambda graph: insert_after(graph, f"scores_{stage}", "Neg"))
    return scene.fault(f"scores of selection {stage} negated", "scores-negated", stage=stage)


def stale_weight(scene: Scene) -> Fault:
    """One large tensor is another training step's: noise of 3 to 10 % of its std everywhere in it.

    In the product alone, the tensor is in the graph; else in the weights file, which all variants share.
    """
    graph = onnx.load(scene.product, load_external_data=False).graph
    tensor = scene.random.choice([i for i in graph.initializer if i.external_data])
    size = scene.random.uniform(0.03, 0.10)
    entry = {item.key: item.value for item in tensor.external_data}
    path, offset = scene.product.parent / entry["location"], int(entry["offset"])
    values = np.fromfile(path, np.float32, int(entry["length"]) // 4, offset=offset)
    noise = np.random.RandomState(scene.random.getrandbits(32)).standard_normal(values.shape)
    values += (size * values.std() * noise).astype(np.float32)
    if scene.product_only:
        scene.edit(lambda graph: _put_inline(graph, tensor.name, values.reshape(tuple(tensor.dims))))
    else:
        data = bytearray(path.read_bytes())
        data[offset : offset + values.nbytes] = values.tobytes()
        path.write_bytes(data)
    stage, cause = _module_of(scene, tensor.name)
    early = {"stage"} if scene.product_only and cause == "weights-or-reference" else set()
    where = "product" if scene.product_only else "weights file"
    fits = frozenset(early | {"product-only"} if scene.product_only else early)
    what = f"{tensor.name} moved by {size:.1%} of its std"
    return Fault(where, what, frozenset({cause}), fits, scene.diagnosed_at(stage))


def _put_inline(graph: onnx.GraphProto, name: str, values: Array) -> None:
    tensor = next(initializer for initializer in graph.initializer if initializer.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def _module_of(scene: Scene, tensor: str) -> tuple[int, str]:
    """The selection at which a tensor shows first (from 1), and the cause that names it."""
    match = re.match(r"(blocks|selectors|approximators)\.(\d+)", tensor)
    kind, number = match.groups() if match else ("stem", "-1")
    if kind == "selectors":
        return int(number) + 1, "selector-weights"
    if kind == "approximators":
        return int(number) + 2, "approximator"
    if re.match(r"(head|norm|fc_norm|aux_head|attn_pool)", tensor):
        return scene.stages + 1, "head"
    stage = scene.shows_at(int(number))
    if stage == 1:
        return stage, "weights-or-reference"
    return stage, "stage" if stage <= scene.stages else "head"


def channel_order(scene: Scene) -> Fault:
    """The graph takes its channels in another order than the images have."""
    order = scene.random.choice(((2, 1, 0), (2, 1, 0), (1, 0, 2), (1, 2, 0)))

    def change(graph: onnx.GraphProto) -> None:
        for node in [node for node in graph.node if "images" in node.input]:
            insert_before(graph, node, list(node.input).index("images"), "Gather", np.array(order), axis=1)

    scene.edit(change)
    name = "".join("RGB"[c] for c in order)
    return scene.fault(f"channels taken as {name}", "channel-order")


def crop(scene: Scene) -> Fault:
    """The manifest names another crop than the images were made with."""
    right = scene.base.checkpoint.preprocessing
    resized = {value: [int(side / value) for side in right.size] for value in (*CROPS, right.crop)}
    wrong = scene.random.choice([value for value in CROPS if resized[value] != resized[right.crop]])
    scene.edit_manifest(lambda manifest: manifest["preprocessing"].update(crop=wrong))
    return Fault("manifest", f"crop {right.crop} became {wrong}", frozenset({"crop"}))


def mean_and_std(scene: Scene) -> Fault:
    """The manifest names another data set's mean, std or both."""
    right = scene.base.checkpoint.preprocessing
    stated = {"mean": right.mean, "std": right.std}
    options = [
        {
            key: value
            for key, value in zip(stated, values, strict=True)
            if key in keys and value != stated[key]
        }
        for values in NORMALISATIONS.values()
        for keys in (("mean",), ("std",), ("mean", "std"))
    ]
    wrong = scene.random.choice([option for option in options if option])
    scene.edit_manifest(lambda manifest: manifest["preprocessing"].update(wrong))
    what = ", ".join(f"{key} became {value}" for key, value in wrong.items())
    return Fault("manifest", what, frozenset({"+".join(wrong)}))


def saturated(scene: Scene) -> Fault:
    """Activations of one block stick at a bound that some of the reference images' reach."""
    graph = onnx.load(scene.product, load_external_data=False).graph
    block = scene.random.randrange(scene.base.bundle.manifest.cost.depth)
    scope = scene.random.choice((f"blocks.{block}.mlp.act/", f"blocks.{block}/"))
    tensor = in_scope(graph, scope)[-1].output[0]
    share = scene.random.uniform(99.0, 99.95)
    bound = np.float32(np.percentile(np.abs(scene.activations(tensor)), share))
    scene.edit(lambda graph: insert_after(graph, tensor, "Clip", np.array(-bound), np.array(bound)))
    stage = scene.diagnosed_at(scene.shows_at(block))
    what = f"{scope[:-1]} clipped at {bound:.3g}, percentile {share:.2f}"
    return scene.fault(what, "saturation", "stage", "head", stage=stage)


def stale_reference(scene: Scene) -> Fault:
    """The answers are another checkpoint's, of the same shape."""
    model, variant = scene.base.stranger().model, scene.variant
    path = scene.folder / scene.base.bundle.manifest.reference.file
    reference = Reference.load(path)
    dense = dense_answers(model, reference.images, "head", lambda done: None)
    if variant.thresholds is not None:
        answers = adaptive_answers(model, reference.images, variant.thresholds, "head", lambda done: None)
    else:
        answers = static_answers(model, reference.images, variant.keep or (), "head", lambda done: None)
    reference = reference.with_entry("dense", *dense).with_entry(variant.reference, *answers)
    reference.save(path)
    causes = frozenset({"weights-or-reference", "reference"})
    return Fault("reference", "answers of another seed's weights", causes, stage=1)


def k_off_by_one(scene: Scene) -> Fault:
    """The graph keeps one token more or less in one stage."""
    manifest, keep = scene.base.bundle.manifest, scene.variant.keep or ()
    possible = []
    for stage, step in itertools.product(range(scene.stages), (1, -1)):
        other = (*keep[:stage], keep[stage] + step, *keep[stage + 1 :])
        falling = manifest.model.reuse or list(other) == sorted(other, reverse=True)
        if falling and min(other) > 0 and max(other) <= manifest.model.tokens:
            possible.append((stage, other))
    stage, other = scene.random.choice(possible)
    for path in scene.graphs:
        binding = Binding(
            lowering=scene.variant.lowering,
            tokens=manifest.model.tokens,
            prefix=manifest.model.prefix,
            keep=other,
            batch=None if scene.variant.batch == DYNAMIC else int(scene.variant.batch),
            reuse=manifest.model.reuse,
            stages=scene.stages,
            probe=path != scene.product,
        )
        path.write_bytes(bind(scene.base.template, binding, {}).SerializeToString())
    what = f"selection {stage + 1} keeps {other[stage]} instead of {keep[stage]}"
    return scene.fault(what, "keep-count", stage=stage + 1)


KINDS: dict[str, Callable[[Scene], Fault]] = {
    "gather off by one": gather_off_by_one,
    "stages swapped": stages_swapped,
    "scores negated": scores_negated,
    "stale weight": stale_weight,
    "channel order": channel_order,
    "crop": crop,
    "mean and std": mean_and_std,
    "saturation": saturated,
    "stale reference": stale_reference,
    "K off by one": k_off_by_one,
}
STATIC_ONLY = ("K off by one",)  # adaptive graphs have no K


def plant(kind: str, base: Base, folder: Path, seed: str) -> tuple[Scene, Fault]:
    """Copy the bundle to `folder` and plant a fault there."""
    random, model = Random(f"{kind}, {seed}"), base.bundle.manifest.model
    lowerings = ("scatter", "concat") if kind in STATIC_ONLY else ("scatter", "concat", "adaptive")
    variants = [
        variant
        for variant in base.bundle.manifest.variants
        if variant.lowering in lowerings and max(variant.keep or (0,)) < model.tokens
    ]
    shutil.copytree(base.bundle.path, folder)
    scene = Scene(base, folder, random.choice(variants), random.random() < 0.4, random)
    fault = KINDS[kind](scene)
    scene.refresh_hashes()
    return scene, fault
