"""Which backend runs which variants, where the user leaves that open.

On a device with engines the question is what the engines answer, so they are chosen by themselves; without
engines that fit here, ONNX Runtime is. Nothing is passed over silently: what was decided and which variants
have no engine comes back as sentences, and a variant that was asked for by name is never left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tofe_export.bundle import Bundle
from tofe_export.errors import MissingBackend, UsageError
from tofe_export.manifest import Variant
from tofe_export.trt.plan import FOLDER

DEFAULT = "onnxruntime"
DEFAULT_PROVIDER = "cpu"


@dataclass(frozen=True)
class Choice:
    """A backend, what it runs, and what has to be said about it."""

    backend: str
    provider: str  # what a report names: ONNX Runtime's provider, or "tensorrt"
    variants: tuple[Variant, ...]
    left_out: tuple[str, ...] = ()  # names of variants without an engine here
    remark: str | None = None


def choose(
    bundle: Bundle,
    variants: Sequence[Variant],
    backend: str | None = None,
    provider: str | None = None,
    named: bool = False,
) -> Choice:
    """Decide. `backend` None: TensorRT where engines of these variants fit this device, else ONNX Runtime.

    `named`: the variants were asked for one by one, so each must run. Raises UsageError (a provider for
    TensorRT) and MissingBackend (TensorRT was asked for, or fits some of the named variants only).
    """
    if backend == "tensorrt" and provider is not None:
        raise UsageError("--provider is ONNX Runtime's: leave it out, or use --backend onnxruntime")
    if backend == DEFAULT or provider is not None or (backend is None and not has_engines(bundle)):
        return _onnxruntime(variants, provider or DEFAULT_PROVIDER, named)
    try:
        return _engines(bundle, variants, named)
    except NothingFits as error:
        if backend == "tensorrt":
            raise
        remark = f"the engines of {bundle.path} cannot run here, so ONNX Runtime runs its graphs: {error}"
        choice = _onnxruntime(variants, DEFAULT_PROVIDER, named)
        return replace(choice, remark=f"{remark}. {choice.remark}" if choice.remark else remark)


def _onnxruntime(variants: Sequence[Variant], provider: str, named: bool) -> Choice:
    """All variants that ONNX Runtime can compute: its CPU provider has no bfloat16 arithmetic."""
    able = [variant for variant in variants if provider != "cpu" or variant.precision != "bf16"]
    missing = tuple(variant.name for variant in variants if variant not in able)
    if not missing:
        return Choice(DEFAULT, provider, tuple(able))
    remark = (
        f"ONNX Runtime's CPU provider has no bfloat16 arithmetic and cannot run {', '.join(missing)}: what "
        "the export found out about them is in the manifest (`evaluated`)"
    )
    if named or not able:
        raise MissingBackend(f"{remark}. Run them with --provider cuda, or build engines: tofe-export trt")
    return Choice(DEFAULT, provider, tuple(able), missing, remark)


class NothingFits(MissingBackend):
    """No engine of the variants can run here."""


def has_engines(bundle: Bundle) -> bool:
    """Whether the bundle holds engines, for whatever device."""
    return any((bundle.path / FOLDER).glob("*.plan"))


def _engines(bundle: Bundle, variants: Sequence[Variant], named: bool) -> Choice:
    from tofe_export.trt.engines import engine_here, find_engine
    from tofe_export.trt.platform import Platform

    try:
        here = Platform.here()
    except MissingBackend as error:
        raise NothingFits(str(error)) from error
    fitting = [variant for variant in variants if engine_here(bundle, variant, here.device, here.features)]
    missing = [variant for variant in variants if variant not in fitting]
    if missing and (named or not fitting):
        try:
            find_engine(bundle, missing[0], here.device, here.features)
        except MissingBackend as error:
            raise (MissingBackend if fitting else NothingFits)(str(error)) from error
    return Choice("tensorrt", "tensorrt", tuple(fitting), tuple(variant.name for variant in missing))
