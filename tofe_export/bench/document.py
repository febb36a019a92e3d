"""The JSON that a run leaves, and whether a later run may be compared with it.

Latencies of two machines differ for a hundred reasons, so a table that puts them side by side says nothing
about a model. `Saved.require` refuses: another machine, the same machine in another mode, another way of
measuring, another checkpoint. Other versions of a runtime are allowed, since that is a reason to measure
again, and so is another graph of the same name, which `changes` points out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tofe_export.bench.comparison import TOO_NOISY, Comparison
from tofe_export.bench.pairs import Pair
from tofe_export.bench.rivals import RivalComparison
from tofe_export.bench.rounds import Plan
from tofe_export.bench.sides import How, peak_memory
from tofe_export.bundle import Bundle
from tofe_export.errors import InputError, UsageError
from tofe_export.fields import Fields

KIND = "tofe-export bench 1"
REPEATS_WITHIN = 0.03

Facts = dict[str, Any]


def make_document(
    bundle: Bundle,
    how: How,
    plan: Plan,
    machine: Mapping[str, Any],
    comparisons: Sequence[Comparison],
    rivals: Sequence[RivalComparison] = (),
) -> Facts:
    """Everything of one run, see docs/bench.md."""
    model = bundle.manifest.model
    return {
        "kind": KIND,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": {
            "path": str(bundle.path),
            "backbone": model.backbone,
            "checkpoint_sha256": model.checkpoint_sha256,
            "trained": model.trained,
        },
        "machine": dict(machine),
        "settings": settings_of(how),
        "plan": asdict(plan),
        "process_peak_bytes": peak_memory(),
        "comparisons": [comparison.to_json() for comparison in comparisons],
        "rivals": [rival.to_json() for rival in rivals],
    }


def settings_of(how: How) -> Facts:
    """The way of measuring; what does not concern the backend is null."""
    on_cpu = not how.on_gpu
    return {
        "backend": how.backend,
        "provider": how.provider,
        "threads": how.threads,
        "spinning": how.spinning if on_cpu else None,
        "cuda_graph": how.cuda_graph if how.backend == "tensorrt" else None,
        "run_batch": how.batch,
    }


@dataclass(frozen=True)
class Row:
    """A comparison of an earlier run."""

    variant: str
    against: str
    sha256: str
    speedup: float
    too_noisy: bool


@dataclass(frozen=True)
class Saved:
    """An earlier run, as far as it is compared with."""

    path: Path
    created: str
    checkpoint_sha256: str
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    rows: tuple[Row, ...]

    @classmethod
    def load(cls, path: Path) -> Saved:
        """Read a file of `--json`. Raises InputError: not there, not JSON, not of this kind, or damaged."""
        try:
            data = Fields(json.loads(path.read_text(encoding="utf-8")), "")
            data.text("kind", (KIND,))
            return cls(
                path=path,
                created=data.text("created"),
                checkpoint_sha256=data.child("bundle").text("checkpoint_sha256"),
                machine=data.mapping("machine"),
                settings=data.mapping("settings"),
                rows=tuple(_row(item) for item in data.children("comparisons")),
            )
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"{path}: expected a file that `tofe-export bench --json` wrote ({KIND}), found: {error}"
            ) from error

    def require(self, machine: Mapping[str, Any], how: How, bundle: Bundle, pairs: Sequence[Pair]) -> None:
        """Raise UsageError unless a run of these pairs, here and now, may be compared with this one."""
        what = {"identity": "was measured on another machine", "mode": "found this machine in another mode"}
        for key, complaint in what.items():
            self._same(self.machine.get(key), machine[key], complaint)
        self._same(self.settings, settings_of(how), "was measured in another way")
        if self.checkpoint_sha256 != bundle.manifest.model.checkpoint_sha256:
            raise UsageError(f"{self.path} is about another model than {bundle.path}: its checkpoint differs")
        earlier = {(row.variant, row.against) for row in self.rows}
        wanted = [(pair.variant.name, pair.against.name) for pair in pairs]
        if earlier.isdisjoint(wanted):
            raise UsageError(
                f"{self.path} has none of the comparisons that would be made now ({_listed(wanted)}); it has "
                f"{_listed(sorted(earlier))}"
            )

    def _same(self, then: object, here: Mapping[str, Any], complaint: str) -> None:
        before = then if isinstance(then, Mapping) else {}
        keys = [*here, *(key for key in before if key not in here)]
        differing = [key for key in keys if before.get(key) != here.get(key)]
        if differing:
            found = "; ".join(f"{key}: {before.get(key)} then, {here.get(key)} now" for key in differing)
            raise UsageError(f"{self.path} {complaint} ({found}). Measure both in the same place and way")


@dataclass(frozen=True)
class Change:
    """One comparison then and now; `change` is None where either run was too noisy."""

    variant: str
    against: str
    then: float
    now: float
    same_graph: bool
    change: float | None

    @property
    def repeats(self) -> bool | None:
        """Whether both runs agree within 3 %."""
        return None if self.change is None else abs(self.change) <= REPEATS_WITHIN


def changes(saved: Saved, comparisons: Sequence[Comparison]) -> list[Change]:
    """What both runs measured."""
    earlier = {(row.variant, row.against): row for row in saved.rows}
    found = []
    for comparison in comparisons:
        names = (comparison.pair.variant.name, comparison.pair.against.name)
        if (row := earlier.get(names)) is None:
            continue
        clean = not row.too_noisy and comparison.verdict != TOO_NOISY
        value = comparison.speedup.value
        same = row.sha256 == comparison.pair.variant.sha256
        found.append(Change(*names, row.speedup, value, same, value / row.speedup - 1 if clean else None))
    return found


def _listed(names: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{variant} against {against}" for variant, against in names) or "nothing"


def _row(data: Fields) -> Row:
    variant, speedup = data.child("variant"), data.child("speedup")
    if (value := speedup.number("value")) <= 0:
        raise ValueError(f"{speedup.place('value')}: expected a ratio above 0, found {value}")
    return Row(
        variant=variant.text("name"),
        against=data.child("against").text("name"),
        sha256=variant.text("sha256"),
        speedup=value,
        too_noisy=data.child("noise").flag("too_noisy"),
    )
