"""A bundle of a model that reduces tokens and is small enough to be written down: 16 patches, one selection.

Its graphs have what matters to TensorRT routes: a selector up to TopK, LayerNormalization, gathering and
scattering rows, a probe, a typed variant with its float32 twin. The reference is the float32 graph's own
answer in ONNX Runtime, which stands in for PyTorch here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tofe_export import __version__
from tofe_export.budget import Cost, dense_macs, gmacs, macs, macs_executed
from tofe_export.files import sha256_bytes, sha256_file
from tofe_export.manifest import File, Manifest, Model, ReferenceInfo, Variant, WeightsFile
from tofe_export.preprocess import Preprocessing, apply
from tofe_export.reference import Reference

TOKENS, WIDTH, KEEP, IMAGES = 16, 8, 8, 3
CLASSES = ("red", "green", "blue")
PREPROCESSING = Preprocessing((8, 8), 1.0, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NORM = "blocks.0.norm1/LayerNormalization"
HELD = [NORM, "selectors.0/MatMul", "selectors.0/Reshape", "selectors.0/TopK"]
REDUCED, DENSE, DYNAMIC = "0.01g-scatter-{}-b1", "dense-{}-b1", "dense-fp32-bdyn"

Array = npt.NDArray[Any]


def weights() -> dict[str, Array]:
    """All weights, float32, from a fixed seed."""
    random = np.random.RandomState(7)
    shapes = {"stem": (WIDTH, 3, 2, 2), "gain": (WIDTH,), "selector": (WIDTH, 1), "head": (WIDTH, 3)}
    shapes |= {"mlp": (WIDTH, WIDTH)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def make_graph(dense: bool, half: bool, probe: bool) -> onnx.ModelProto:
    """One graph: float32 throughout, or its block in half precision between two Casts."""
    nodes: list[onnx.NodeProto] = []

    def add(kind: str, name: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    add("Conv", "stem/Conv", ["images", "stem"], "map", strides=[2, 2])
    add("Reshape", "stem/Reshape", ["map", "to_columns"], "columns")
    add("Transpose", "stem/Transpose", ["columns"], "tokens", perm=[0, 2, 1])
    add("LayerNormalization", NORM, ["tokens", "gain"], "normed")
    add("Reshape", "blocks.0/Reshape", ["normed", "to_rows"], "rows")
    chosen = "rows"
    if not dense:
        add("MatMul", "selectors.0/MatMul", ["rows", "selector"], "scores_column")
        add("Reshape", "selectors.0/Reshape", ["scores_column", "to_scores"], "scores_1")
        nodes.append(
            helper.make_node("TopK", ["scores_1", "k"], ["top", "own"], name="selectors.0/TopK", axis=-1)
        )
        kept = "own"
        if probe:
            kept = add("Where", "probe/Where", ["use_force", "force_1", "own"], "kept_1")
            add("Identity", "probe/Identity", ["all_ids"], "ids_1")
        add("Reshape", "freeze.0/Reshape", [kept, "to_list"], "list")
        chosen = add("Gather", "freeze.0/Gather", ["rows", "list"], "chosen", axis=0)
    inside = add("Cast", "blocks.1/Cast_in", [chosen], "half_in", to=TensorProto.FLOAT16) if half else chosen
    out = add("MatMul", "blocks.1/MatMul", [inside, "mlp"], "mixed")
    out = add("Erf", "blocks.1/Erf", [out], "bent")
    out = add("Cast", "blocks.1/Cast_out", [out], "float_out", to=TensorProto.FLOAT) if half else out
    out = add("Add", "blocks.1/Add", [out, chosen], "added")
    if not dense:
        add("Reshape", "thaw.0/Reshape", [kept, "to_index"], "index")
        out = add("ScatterND", "thaw.0/ScatterND", ["rows", "index", out], "thawed")
    add("ReduceMean", "head/ReduceMean", [out], "mean", axes=[0], keepdims=1)
    add("MatMul", "head/MatMul", ["mean", "head"], "logits")
    return _model(nodes, half, probe)


def dynamic_graph() -> onnx.ModelProto:
    """A dense graph of any batch: colours' means through the head."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], name="head/ReduceMean", axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "colours"], ["logits"], name="head/MatMul"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    stored = [numpy_helper.from_array(weights()["head"][:3], "colours")]
    graph = helper.make_graph(nodes, "tiny", [images], [logits], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _model(nodes: list[onnx.NodeProto], half: bool, probe: bool) -> onnx.ModelProto:
    constants: dict[str, Array] = weights()
    if half:
        constants["mlp"] = constants["mlp"].astype(np.float16)
    shapes = {"to_columns": (1, WIDTH, TOKENS), "to_rows": (TOKENS, WIDTH), "to_scores": (1, TOKENS)}
    shapes |= {"to_list": (KEEP,), "to_index": (KEEP, 1), "k": (KEEP,)}
    constants |= {name: np.array(shape, np.int64) for name, shape in shapes.items()}
    constants["all_ids"] = np.arange(TOKENS, dtype=np.int64)[None]
    used = {name for node in nodes for name in node.input}
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])]
    if probe:
        inputs.append(helper.make_tensor_value_info("force_1", TensorProto.INT64, [1, KEEP]))
        inputs.append(helper.make_tensor_value_info("use_force", TensorProto.BOOL, [1]))
        outputs.append(helper.make_tensor_value_info("scores_1", TensorProto.FLOAT, [1, TOKENS]))
        outputs += [
            helper.make_tensor_value_info(name, TensorProto.INT64, [1, size])
            for name, size in (("ids_1", TOKENS), ("kept_1", KEEP))
        ]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


COST = Cost(
    tokens=TOKENS,
    prefix=0,
    width=WIDTH,
    depth=2,
    attention_width=WIDTH,
    token_macs=512,
    stem_macs=10_000_000,
    head_macs=24,
    head_token_macs=0,
    locations=(1,),
    selector="mlp",
    approximator="bottleneck",
    reuse=True,
)
MODEL = Model(
    backbone="tiny",
    arguments={},
    checkpoint_sha256="0" * 64,
    trained=True,
    selector="mlp",
    approximator="bottleneck",
    reuse=True,
    locations=(1,),
    tokens=TOKENS,
    prefix=0,
    grid=(4, 4),
    num_classes=3,
    output="logits",
)


def variant(folder: Path, precision: str, dense: bool, dynamic: bool = False) -> Variant:
    """Write the graphs of a variant and describe it."""
    name = DYNAMIC if dynamic else (DENSE if dense else REDUCED).format(precision)
    half, file, probe = precision != "fp32", f"variants/{name}.onnx", f"variants/{name}.probe.onnx"
    onnx.save(dynamic_graph() if dynamic else make_graph(dense, half, False), folder / file)
    if not dense:
        onnx.save(make_graph(dense, half, True), folder / probe)
    extra: dict[str, Any] = {"hold_float32": HELD[:1] if dense else HELD}
    if half:
        reasons = {NORM: "layer norm"} | ({} if dense else dict.fromkeys(HELD[1:], "selector"))
        extra = {"float32_nodes": reasons, "twin": (DENSE if dense else REDUCED).format("fp32")}
    return Variant(
        name=name,
        file=file,
        sha256=sha256_file(folder / file),
        probe=None if dense else File(probe, sha256_file(folder / probe)),
        budget_gmacs=None if dense else 0.01,
        gmacs=gmacs(dense_macs(COST) if dense else macs(COST, (KEEP,))),
        gmacs_executed=gmacs(macs_executed(COST, (KEEP,), "dense" if dense else "scatter")),
        keep=None if dense else (KEEP,),
        thresholds=None,
        source="dense" if dense else "training",
        lowering="dense" if dense else "scatter",
        precision=precision,
        batch="dyn" if dynamic else 1,
        opset=17,
        targets=("8.6", "10.3", "10.13", "10.16", "11.4") if not half else ("10.3", "10.13", "10.16", "11.4"),
        reference="dynamic" if dynamic else "dense" if dense else f"keep-{KEEP}",
        extra=extra,
    )


def write_bundle(folder: Path, precisions: tuple[str, ...] = ("fp32", "fp16"), dynamic: bool = False) -> Path:
    """Write the bundle: a reduced and a dense variant of each precision, and one of any batch if asked."""
    (folder / "variants").mkdir(parents=True)
    random = np.random.default_rng(3)
    sources = [random.integers(0, 256, (9, 11, 3), dtype=np.uint8) for _ in range(IMAGES)]
    images = np.stack([apply(source, PREPROCESSING) for source in sources])
    reference = _reference(images, Reference(images, sources, {}))
    reference.save(folder / "reference.npz")
    (folder / "variants" / "weights.bin").write_bytes(b"w" * 16)
    manifest = Manifest(
        tool_version=__version__,
        created="2025-01-01T00:00:00+00:00",
        model=MODEL,
        cost=COST,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        reference=ReferenceInfo(
            "reference.npz",
            sha256_file(folder / "reference.npz"),
            reference.images_sha256(),
            "random images",
            len(images),
        ),
        weights=(WeightsFile("variants/weights.bin", sha256_bytes(b"w" * 16), 16),),
        variants=(
            *(variant(folder, precision, dense) for dense in (True, False) for precision in precisions),
            *((variant(folder, "fp32", True, dynamic=True),) if dynamic else ()),
        ),
    )
    (folder / "manifest.json").write_text(json.dumps(manifest.to_json()))
    return folder


def _reference(images: Array, reference: Reference) -> Reference:
    force = {"force_1": np.zeros((1, KEEP), np.int64), "use_force": np.array([False])}
    dense, _ = _answers(images, make_graph(True, False, False), {})
    reduced, found = _answers(images, make_graph(False, False, True), force)
    kept = np.zeros((len(images), 1, TOKENS), bool)
    for row, ids in zip(kept, found["kept_1"], strict=True):
        row[0, ids] = True
    reference = reference.with_entry("dense", dense)
    reference = reference.with_entry("dynamic", _answers(images, dynamic_graph(), {})[0])
    return reference.with_entry(f"keep-{KEEP}", reduced, found["scores_1"][:, None], kept)


def _answers(images: Array, model: onnx.ModelProto, more: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows = [session.run(names, {"images": image[None], **more}) for image in images]
    joined = {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)}
    return joined["logits"], joined
