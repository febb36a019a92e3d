"""Which variants a ladder has, and what it cannot have: all that can be refused before any work."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tofe_export.errors import UsageError
from tofe_export.graph.passes.lower_concat import TOPK_LIMIT
from tofe_export.graph.request import Planned, Request, variants
from tofe_export.graph.typing.half import HALVES
from tofe_export.latency.rungs import default_counts
from tofe_export.model.tofe import ToFe


@dataclass(frozen=True)
class Ladder:
    """What to make; `counts` empty: `default_counts`."""

    counts: tuple[int, ...] = ()
    batches: tuple[int, ...] = (1,)
    lowerings: tuple[str, ...] = ("scatter",)
    precisions: tuple[str, ...] = ("fp32",)


def plan(model: ToFe, ladder: Ladder) -> list[Planned]:
    """The ladder's variants, dense ones first. Raises UsageError for what cannot be exported."""
    cost, precisions = model.cost(), ("fp32", *HALVES)
    if unknown := [name for name in ladder.precisions if name not in precisions]:
        raise UsageError(
            f"--precision {','.join(unknown)}: a ladder can have {', '.join(precisions)}; what is calibrated "
            "on pictures is measured on the exported model, by `tofe-export bench`"
        )
    counts = tuple(sorted(set(ladder.counts))) or default_counts(cost.tokens, TOPK_LIMIT)
    if len(counts) < 2 or counts[0] < 1 or counts[-1] > cost.tokens:
        raise UsageError(
            f"--tokens: expected two or more different counts from 1 to {cost.tokens}, the model's patch "
            f"tokens, found {', '.join(map(str, counts))}"
        )
    planned: dict[str, Planned] = {}
    for count in counts:
        request = Request(
            keep=(count,) * cost.stages,
            lowerings=ladder.lowerings,
            batches=ladder.batches,
            precisions=ladder.precisions,
        )
        for variant in variants(cost, request, ()):
            end = f"{variant.precision}-b{variant.batch}"
            name = f"k{count}-{variant.lowering}-{end}" if variant.plan else variant.name
            planned[name] = replace(variant, name=name)
    return sorted(planned.values(), key=lambda variant: variant.plan is not None)
