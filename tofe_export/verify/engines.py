"""What is particular about judging TensorRT engines: which there are, and the device they belong to.

Imports TensorRT only inside functions that are called with the backend "tensorrt".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tofe_export.bundle import Bundle
from tofe_export.manifest import Variant
from tofe_export.trt.engines import engine_here, find_engine
from tofe_export.trt.platform import Platform
from tofe_export.verify.report import VariantReport
from tofe_export.verify.views import Judge, three_way

UNSEEN = "kept tokens not seen, since no probe was built here (tofe-export trt --probe)"


def prove_engines(bundle: Bundle, variants: Iterable[Variant]) -> None:
    """Read every engine's plan. Raises MissingBackend (none that fits) and BundleError (damaged)."""
    here = Platform.here()
    for variant in variants:
        find_engine(bundle, variant, here.device, here.features).load()


def has_probe(bundle: Bundle, variant: Variant) -> bool:
    """Whether a probe of this variant was built for this device."""
    here = Platform.here()
    return engine_here(bundle, variant, here.device, here.features, probe=True) is not None


def engine_report(bundle: Bundle, variant: Variant, report: VariantReport, judge: Judge) -> VariantReport:
    """Add to an engine's report what was not seen, and the view of ONNX Runtime."""
    here = Platform.here()
    engine = find_engine(bundle, variant, here.device, here.features)
    unseen = not variant.dense and not has_probe(bundle, variant)
    views = three_way(bundle, variant, report, engine.sidecar, judge)
    return replace(report, notes=(UNSEEN,) if unseen else (), three_way=views)


def engine_facts() -> dict[str, str]:
    """The device and the versions that engines run on."""
    here = Platform.here()
    return {
        "tensorrt": here.features.text,
        "device": here.describe(),
        "gpu": here.device.gpu,
        "compute_capability": here.device.compute_capability,
        "cuda": here.device.cuda_runtime,
        "driver": here.device.driver or "unknown",
    }
