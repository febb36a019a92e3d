"""From ranges and a decision what to leave out to INT8 graphs in a bundle that is being written.

Both are settled once per budget and lowering, on one graph, and looked up before they are measured. The
weights file comes in between: it holds what may be quantised in any of the graphs, so that measuring what to
leave out already reads the weights that the variants will read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_export.calibration import sensitivity
from tofe_export.calibration.cache import Cache, Record
from tofe_export.calibration.histogram import Array
from tofe_export.calibration.int8 import GIVE, HALF_FORM, NEEDED, Job, Pictures, Settings
from tofe_export.calibration.ranges import (
    KIND,
    Ranges,
    measure_ranges,
    outlying,
    ranges_key,
    read_ranges,
)
from tofe_export.errors import BuildFailed, PrecisionError, UsageError
from tofe_export.files import sha256_file, write_atomic
from tofe_export.manifest import DYNAMIC, File, Variant, WeightsFile
from tofe_export.runtime.batching import run_all

if TYPE_CHECKING:
    import onnx

    from tofe_export.graph.quantizing.quantized import Plan
    from tofe_export.graph.quantizing.weights import Int8Weights, WeightSource

DECISION = "int8"
_OF_THE_BASE = ("evaluated", "hold_float32", "hold_float32_probe", "twin")


@dataclass(frozen=True)
class _Group:
    """What holds for all jobs of one group."""

    ranges: Ranges
    left_out: Mapping[str, str]
    decision: Record


@dataclass
class Quantizer:
    """Makes INT8 variants in a bundle that is being written."""

    root: Path
    """The folder of the bundle in the making; what it has of `calibration/` is used and added to."""
    shown: Path
    """The bundle that the user knows, for messages."""
    place: Callable[[str], Path]
    """Where to write a file of the bundle (`BundleWriter.path`)."""
    preprocessing: Mapping[str, Any]
    output: str
    settings: Settings
    pictures: Pictures | None
    """None: what is stored must be enough."""
    say: Callable[[str], None] = lambda text: None
    _plans: dict[str, Plan] = field(default_factory=dict)

    @cached_property
    def _held_out(self) -> Array:
        assert self.pictures is not None  # callers looked
        return self.pictures.held_out()

    @property
    def _folder(self) -> Path:
        return self.root / "variants"

    def make(self, jobs: Sequence[Job]) -> tuple[list[Variant], list[WeightsFile]]:
        """Write the variants; returns them and their weights file.

        Raises:
            UsageError: no pictures were given and none was calibrated with before.
            InputError: only one picture was given.
            PrecisionError: INT8 does not agree with float32 as often as asked for, or has no place at all.
            BundleError: a stored calibration is damaged.
            BuildFailed: a graph could not be made; a bug here.
        """
        from tofe_export.graph.quantizing.weights import write_int8_weights

        if not jobs:
            return [], []
        if self.pictures is not None:
            self.pictures.require_two()
        firsts = {job.group: job for job in reversed(jobs)}
        every: dict[str, WeightSource] = {}
        for job in firsts.values():  # of both forms, so that they share the file
            every |= self._plan(job.settled_on, half=False).weights
        weights = write_int8_weights(every, self._folder)
        groups = {group: self._settle(job, weights) for group, job in firsts.items()}
        made = [self._make(job, groups[job.group], weights) for job in jobs]
        return made, [WeightsFile(f"variants/{weights.file}", weights.sha256, weights.bytes)]

    def _settle(self, job: Job, weights: Int8Weights) -> _Group:
        """Ranges and what to leave out, for all siblings of a job."""
        twin, half = job.settled_on, job.precision == HALF_FORM
        _require_sites(job, self._plan(twin, half=half))
        ranges = self._ranges(twin)
        key = {
            "ranges": ranges.record.key,
            "form": job.precision,
            "stem": self.settings.stem,
            "min_agreement": self.settings.min_agreement,
        }
        cache = Cache(self.root, self.shown)
        decision = cache.get(DECISION, key)
        if decision is None:
            if self.pictures is None:
                raise self._needs_pictures(twin)
            found = self._search(twin, self._plan(twin, half=half), ranges, weights)
            decision = cache.put(DECISION, key, vars(found))
        return _Group(ranges, decision.values["left_out"], decision)

    def _ranges(self, twin: Variant) -> Ranges:
        """Of all products that any form may quantise."""
        sites = self._plan(twin, half=False).placement.sites
        cache, method = Cache(self.root, self.shown), self.settings.method
        key = ranges_key(twin.sha256, self.preprocessing, method, None) | {"stem": self.settings.stem}
        if self.pictures is None:
            record = cache.latest(KIND, key)
            if record is None:
                raise self._needs_pictures(twin)
            return read_ranges(record, sites)
        self.say(f"ranges in {twin.name}")
        facts = self.pictures.facts
        key |= {"images": {name: facts[name] for name in ("sha256", "count")}}
        record = cache.get(KIND, key)
        if record is None:
            model = self._load(twin.file)
            found = measure_ranges(model, self._folder, sites, self.pictures.ranging(), method)
            record = cache.put(KIND, key, {**found, "images": dict(facts)})
        return read_ranges(record, sites)

    def _search(self, twin: Variant, plan: Plan, ranges: Ranges, weights: Int8Weights) -> sensitivity.Settled:
        from tofe_export.graph.quantizing.quantized import quantize_graph
        from tofe_export.graph.quantizing.session import temporary_session

        model, images = self._load(twin.file), self._held_out

        def attempt(left_out: Sequence[str], step: int) -> Array:
            chosen = {site.node: ranges.values[site.node] for site in plan.placement.without(left_out)}
            graph = quantize_graph(model, chosen, plan, weights, {}) if chosen else model
            with temporary_session(graph, self._folder) as session:
                return run_all(session, images[::step])[self.output]

        everything = plan.placement.units
        expected = attempt(everything, 1)
        say = _prefixed(self.say, f"INT8 in {twin.name}")
        least, outliers = self.settings.min_agreement, outlying(ranges, plan.placement.sites)
        return sensitivity.settle(everything, expected, self.output, least, attempt, outliers, say)

    def _make(self, job: Job, group: _Group, weights: Int8Weights) -> Variant:
        self.say(f"quantising {job.name}")
        plan = self._plan(job.twin, half=job.precision == HALF_FORM)
        sites = plan.placement.without(tuple(group.left_out))
        if missing := [site.node for site in sites if site.node not in group.ranges.values]:
            raise BuildFailed(f"{job.name}: expected the products of its sibling, found {missing[0]} besides")
        chosen = {site.node: group.ranges.values[site.node] for site in sites}
        product = self._write(job, job.base.file, f"variants/{job.name}.onnx", chosen, plan, weights)
        probe = None
        if job.base.probe is not None:
            file = f"variants/{job.name}.probe.onnx"
            probe = self._write(job, job.base.probe.file, file, chosen, plan, weights)
        opset, read = self._facts(product.file)
        kept = {key: value for key, value in job.base.extra.items() if key not in _OF_THE_BASE}
        extra = {**kept, "twin": job.twin.name, "int8": self._account(job, group, plan, chosen)}
        return replace(
            job.base,
            name=job.name,
            file=product.file,
            sha256=product.sha256,
            probe=probe,
            precision=job.precision,
            opset=opset,
            targets=job.targets,
            weights=tuple(sorted({*read, *(self._facts(probe.file)[1] if probe else ())})),
            extra=extra,
        )

    def _write(
        self,
        job: Job,
        source: str,
        target: str,
        ranges: Mapping[str, float],
        plan: Plan,
        weights: Int8Weights,
    ) -> File:
        from tofe_export.graph.quantizing.quantized import quantize_graph
        from tofe_export.graph.static_form import check_static

        model = self._load(source)
        metadata = {item.key: item.value for item in model.metadata_props}
        metadata |= {"tofe.variant": job.name, "tofe.precision": job.precision}
        made = quantize_graph(model, ranges, plan, weights, metadata)
        adaptive, dynamic = job.twin.lowering == "adaptive", job.twin.batch == DYNAMIC
        check_static(made, adaptive=adaptive, dynamic_batch=dynamic)
        path = self.place(target)
        write_atomic(path, made.SerializeToString())
        return File(target, sha256_file(path))

    def _account(self, job: Job, group: _Group, plan: Plan, chosen: Mapping[str, float]) -> dict[str, Any]:
        """What the manifest says about how the variant was made."""
        from tofe_export.graph.macs import macs_by_node

        found = macs_by_node(
            self._load(job.twin.file), 1 if job.twin.batch == DYNAMIC else int(job.twin.batch)
        )
        decided, units = group.decision.values, {site.node: site.unit for site in plan.placement.sites}
        left = {  # in the order in which units were left out
            node: why
            for left_out, why in group.left_out.items()
            for node, unit in units.items()
            if unit == left_out
        }
        return {
            "images": dict(group.ranges.images),
            "method": group.ranges.record.key["method"],
            "made": group.ranges.record.created,
            "ranges": group.ranges.record.file,
            "products": len(chosen),
            "share_of_macs": sum(found[node] for node in chosen) / sum(found.values()),
            "left_out": left,
            "excluded": plan.placement.excluded,
            "min_agreement": self.settings.min_agreement,
            "agreement": decided["agreement"],
            "agreement_with_nothing_left_out": decided["agreement_of_all"],
            "held_out_images": decided["images"],
        }

    def _plan(self, twin: Variant, *, half: bool) -> Plan:
        from tofe_export.graph.quantizing.quantized import plan_for

        key = f"{twin.name} {half}"
        if key not in self._plans:
            model = self._load(twin.file)
            self._plans[key] = plan_for(model, self._folder, stem=self.settings.stem, half=half)
        return self._plans[key]

    def _load(self, file: str) -> onnx.ModelProto:
        import onnx

        return onnx.load(self.root / file, load_external_data=False)

    def _facts(self, file: str) -> tuple[int, set[str]]:
        """Opset and weights files of a graph."""
        from tofe_export.graph.typing.weights import files_of

        model = self._load(file)
        return int(model.opset_import[0].version), {f"variants/{name}" for name in files_of(model)}

    def _needs_pictures(self, twin: Variant) -> UsageError:
        return UsageError(
            f"{NEEDED} for {twin.name} by the method {self.settings.method!r} and these settings: {GIVE}"
        )


def _prefixed(say: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    return lambda text: say(f"{prefix}: {text}")


def _require_sites(job: Job, plan: Plan) -> None:
    """Raise PrecisionError where nothing may be quantised: the variant would be its twin by another name."""
    if not plan.placement.sites:
        reasons = ", ".join(sorted(set(plan.placement.excluded.values()))) or "no products with weights"
        raise PrecisionError(
            f"{job.name}: expected products that INT8 may compute, found none ({reasons}). Export it without "
            f"{job.precision}"
        )
