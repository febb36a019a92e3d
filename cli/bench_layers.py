"""`bench --layers`: the runtime's own profile of every measured variant, as tables side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tofe_export.cli import console

if TYPE_CHECKING:
    from tofe_export.bench.layers import Profile, Share
    from tofe_export.bench.pairs import Pair
    from tofe_export.bench.sides import How
    from tofe_export.bundle import Bundle
    from tofe_export.manifest import Variant

_OPERATORS = 12  # lines of the operator table; the rest is summed


def sides_of(pairs: Sequence[Pair], picked: Sequence[Variant]) -> list[Variant]:
    """What is measured, each once: both sides of all pairs, or what was picked where there are none."""
    sides = [side for pair in pairs for side in (pair.against, pair.variant)] or picked
    return list({side.name: side for side in sides}.values())


def require(how: How) -> None:
    """Raise `UsageError` where a provider hides its layers."""
    from tofe_export.bench.layers import require_layers

    require_layers(how)


def measure(bundle: Bundle, variants: Sequence[Variant], how: How) -> list[Profile]:
    """A profile of each variant, with progress."""
    from tofe_export.bench.layers import profile

    found = []
    with console.progress("layers", len(variants)) as progress:
        for variant in variants:
            progress.show(variant.name)
            found.append(profile(bundle, variant, how))
            progress.advance(what=variant.name)
    return found


def text(profiles: Sequence[Profile]) -> str:
    """Both tables, and how to read them."""
    return "\n\n".join([module_table(profiles), operator_table(profiles), remark(profiles)])


def module_table(profiles: Sequence[Profile]) -> str:
    """One line per module in execution order, one column per variant; then what lies between the layers."""
    longest = max(profiles, key=lambda one: len(one.order))
    names = dict.fromkeys(share.name for share in longest.modules)
    names |= dict.fromkeys(share.name for one in profiles for share in one.modules)
    rows = _rows(list(names), profiles, lambda one: one.modules)
    if any(one.whole_ms is not None for one in profiles):
        rows.append(["between layers", *(_between(one) for one in profiles)])
    rows.append(
        ["whole run", *(_ms(one.sum_ms if one.whole_ms is None else one.whole_ms) for one in profiles)]
    )
    return _table("module, ms", rows, profiles)


def operator_table(profiles: Sequence[Profile]) -> str:
    """The operators that take most, over all variants."""
    total: dict[str, float] = {}
    for share in (share for one in profiles for share in one.operators):
        total[share.name] = total.get(share.name, 0.0) + share.ms
    names = sorted(total, key=lambda name: -total[name])
    rows = _rows(names[:_OPERATORS], profiles, lambda one: one.operators)
    if rest := set(names[_OPERATORS:]):
        sums = (sum(share.ms for share in one.operators if share.name in rest) for one in profiles)
        rows.append([f"{len(rest)} others", *map(_ms, sums)])
    return _table("operator, ms", rows, profiles)


def remark(profiles: Sequence[Profile]) -> str:
    """Where the figures are from."""
    runs = ", ".join(sorted({str(one.runs) for one in profiles}))
    return (
        f"{profiles[0].source}, medians of {runs} runs that were made for it: profiling costs time, "
        "so compare layers with one another, and whole runs by the table above."
    )


def _rows(
    names: Sequence[str], profiles: Sequence[Profile], shares: Callable[[Profile], list[Share]]
) -> list[list[str | None]]:
    found = [{share.name: share.ms for share in shares(one)} for one in profiles]
    return [[name, *(_ms(times.get(name)) for times in found)] for name in names]


def _between(one: Profile) -> str | None:
    return None if one.whole_ms is None else _ms(max(one.whole_ms - one.sum_ms, 0.0))


def _table(first: str, rows: Sequence[Sequence[str | None]], profiles: Sequence[Profile]) -> str:
    headers = [first, *(one.variant for one in profiles)]
    return console.table(headers, rows, right=range(1, len(headers)))


def _ms(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
