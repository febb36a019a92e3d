"""The trtexec line that builds a variant as `tofe-export trt` does, for people who build with NVIDIA's tool.

Which graph is parsed and how it is typed is decided by the same code (`request.make_job`). trtexec of 8.6
holds layers by name only; what `hold.py` finds besides, by walking back from every TopK, it cannot, so there
the line is close and not equal. Options as trtexec of 8.6 and 10.3 lists them; 11.x removed the precision
flags and is always strongly typed (NVIDIA's guide "Migrating trtexec Usage from TensorRT 10.x to 11.x").
"""

from __future__ import annotations

import shlex

from tofe_export.bundle import Bundle
from tofe_export.errors import UsageError
from tofe_export.lint.targets import Target
from tofe_export.manifest import DYNAMIC, Variant
from tofe_export.trt.compat import Features
from tofe_export.trt.request import BuildOptions, Job, make_job


def trtexec_line(bundle: Bundle, variant: Variant, target: Target) -> str:
    """One shell line. Raises UsageError: not for that TensorRT, or the graph it needs is missing."""
    job = make_job(bundle, variant, features_of(target), BuildOptions())
    source = bundle.variant(job.twin or variant.name)
    if target.version not in source.targets:
        raise UsageError(
            f"{source.name} is meant for TensorRT {', '.join(source.targets) or '(none)'}, not for "
            f"{target.version}: name another version, or another variant"
        )
    words = [
        "trtexec",
        f"--onnx={bundle.file(job.graph.file)}",
        f"--saveEngine={variant.name}.plan",
        "--noTF32",
    ]
    return shlex.join([*words, *_typing(job, target), *_shapes(bundle, job)])


def features_of(target: Target) -> Features:
    """What decides how an engine of that TensorRT is built, where it is not installed."""
    strong = target.within("10.0")
    return Features(
        text=target.version,
        version=(target.major, target.minor, 0),
        explicit_batch=not strong,
        strong_types=strong,
        weak_types=not target.within("11.0"),
        progress=strong,
        parser_nodes=strong,
        bf16=strong,
    )


def _typing(job: Job, target: Target) -> list[str]:
    if job.typing == "strong":
        return [] if target.within("11.0") else ["--stronglyTyped"]
    if job.typing == "float32":
        return []
    flags = [f"--{job.variant.precision}", "--precisionConstraints=obey"]
    held = ",".join(f"{name}:fp32" for name in job.hold_float32)
    return [*flags, f"--layerPrecisions={held}"] if held else flags


def _shapes(bundle: Bundle, job: Job) -> list[str]:
    """The profile of a dynamic batch."""
    if job.variant.batch != DYNAMIC or job.options.profile is None:
        return []
    sizes = "x".join(map(str, bundle.manifest.image_shape))
    kinds = zip(("min", "opt", "max"), job.options.profile, strict=True)
    return [f"--{kind}Shapes=images:{batch}x{sizes}" for kind, batch in kinds]
