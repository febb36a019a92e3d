"""Three views of one variant: PyTorch's reference, ONNX Runtime on the engine's own graph, the engine.

An engine that differs from PyTorch can be wrong for three reasons, and each has another address: the graph
(our export), its typing (our half precision), or what TensorRT compiled of it. ONNX Runtime on the very graph
that the engine was built from separates the first two from the third, and on the float32 graph of the same
variant the first from the second. ONNX Runtime keeps float32 between half-precision operators, so it cannot
see what rounding or overflow does; the export's own evaluation, where the manifest has it, speaks for that.
It cannot run bfloat16 graphs at all: there only the float32 graph is looked at, once the engine fails.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from tofe_export.bundle import Bundle
from tofe_export.manifest import Variant
from tofe_export.trt.sidecar import Sidecar
from tofe_export.verify.report import ThreeWay, VariantReport, View

Judge = Callable[[Variant], VariantReport]  # runs a variant in ONNX Runtime; remembers what it ran

COMPILED = "what TensorRT compiled is wrong"
NOT_RUN = "the engine did not run"
ENGINE, SAME, FLOAT32 = "engine", "onnxruntime, the engine's graph", "onnxruntime, the float32 graph"


def three_way(
    bundle: Bundle, variant: Variant, engine: VariantReport, sidecar: Sidecar, judge: Judge
) -> ThreeWay:
    """The views, and whom a failure of the engine points at."""
    views = [view_of(ENGINE, engine)]
    if find_spec("onnxruntime") is None:
        lacks = "pip install 'tofe-export[ort]' lets verify say whether graph, typing or compiler is wrong"
        return ThreeWay(tuple(views), None, "" if engine.passed else lacks)
    source = bundle.variant(sidecar.twin) if sidecar.twin else variant
    same = judge(source) if source.precision != "bf16" else None
    if same is not None:
        views.append(view_of(SAME, same))
    if engine.passed:
        return ThreeWay(tuple(views), None, "")
    if views[0].passed is None:
        return ThreeWay(tuple(views), None, f"{NOT_RUN}: nothing is known of what it would answer")
    names = {other.name: other for other in bundle.manifest.variants}
    twin = names.get(str(source.extra.get("twin"))) if source.precision != "fp32" else None
    plain = judge(twin) if twin is not None and not (same and same.passed) else None
    if plain is not None:
        views.append(view_of(FLOAT32, plain))
    blame, sentence = accuse(variant, source, same, plain)
    return ThreeWay(tuple(views), blame, sentence)


def view_of(name: str, report: VariantReport) -> View:
    """A report in one line."""
    runs = all(check.name != "runs" for check in report.checks)
    detail = "; ".join(f"{check.name}: {check.detail}" for check in report.failed)
    worst = report.output.worst if report.output else None
    return View(name, report.passed if runs else None, worst, detail)


def accuse(
    variant: Variant, source: Variant, same: VariantReport | None, plain: VariantReport | None
) -> tuple[str | None, str]:
    """Of an engine that failed: "graph", "typing", "compiler" or None, and why."""
    if same is None:
        return _from_float32(variant, plain)
    if view_of(SAME, same).passed is None:
        return None, "ONNX Runtime cannot run the engine's graph, so it cannot tell graph from compiler"
    if same.passed:
        return "compiler", _compiled(variant, source)
    if source.precision == "fp32":
        return "graph", f"ONNX Runtime gives wrong answers on {source.file} too: the graph is wrong"
    if plain is None:
        wrong = f"ONNX Runtime gives wrong answers on {source.file} too: the graph or its typing is wrong"
        return None, f"{wrong}; the bundle has no float32 variant that would tell"
    if plain.passed:
        return "typing", (
            f"ONNX Runtime is wrong on the typed graph {source.file} and right on the float32 graph: the "
            "typing is wrong"
        )
    return "graph", f"ONNX Runtime is wrong on {source.file} and on its float32 graph: the graph is wrong"


def _from_float32(variant: Variant, plain: VariantReport | None) -> tuple[str | None, str]:
    """The same, where only the float32 graph can run."""
    if plain is None:
        return None, "the bundle has no float32 variant that would tell graph from compiler"
    if not plain.passed:
        return "graph", "ONNX Runtime gives wrong answers on the float32 graph too: the graph is wrong"
    right = "ONNX Runtime gives the right answers on the float32 graph"
    if "evaluated" in variant.extra:
        return "compiler", f"{right}, and the export's rounding evaluation passed: {COMPILED}"
    return None, f"{right}: the typing, or what TensorRT compiled of it, is wrong"


def _compiled(variant: Variant, source: Variant) -> str:
    right = f"ONNX Runtime gives the right answers on {source.file}, the engine does not"
    if variant.precision == "fp32":
        return f"{right}: {COMPILED}"
    if source is not variant:
        return (
            f"{right}: {COMPILED}, or half precision as TensorRT places it is not "
            "enough for this model; compare with the fp32 engine"
        )
    if "evaluated" in variant.extra:
        return f"{right}, and the export's rounding evaluation passed: {COMPILED}"
    return (
        f"{right}: {COMPILED}, or rounding that ONNX Runtime does not do (the manifest "
        "has no evaluation of it)"
    )
