"""What a ToFe model costs, in multiply-accumulates (MACs), counted exactly in integers.

One account would be simpler, but two are true. *The paper's account* (``macs``) is what a budget means: it
prices every approximator on all N patch tokens, as Eq. 16 trains it, because the shares that Table IV prints
(2.52 %, 0.059 %, 31.67 %) fit only that. *The executed account* (``macs_executed``) is what a lowering really
runs, and what a profiler must agree with. Both are sums over the same parts (stem, stages 0..S, head), so the
rows of ``describe`` add up to either total to the last MAC.

A transformer block on n tokens costs Eq. 4, with n counting the prefix tokens too:

    n * token_macs + 2 * n^2 * attention_width        token_macs = 4 D^2 + 2 D hidden for a plain ViT

Graphs compute less in the last block where the head reads prefix tokens alone (``last_rows``): keys and
values of all n tokens, and everything else for r of them,

    n * 2 D attention_width + r * (token_macs - 2 D attention_width) + 2 n r * attention_width

What the account leaves out, as the paper does: normalisation, activations, softmax, TopK and data movement.

Letters: N patch tokens, P prefix tokens, D width, S stages, K_s patch tokens kept in stage s (K_0 = N).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from math import floor, log10
from typing import Any, TypeVar, cast

SELECTORS = ("mlp", "dynamicvit")
APPROXIMATORS = ("bottleneck", "identity", "depthwise", "block")
LOWERINGS = ("scatter", "concat", "adaptive", "dense")
OUTPUTS = ("logits", "features", "tokens")

_SMALL = 0.1  # GMACs below which two decimals are too few
_PAPER, _DENSE = "paper", "dense"  # accounts: the first beside the lowerings' own
_AT_LEAST_ONE = ("tokens", "width", "depth", "attention_width", "token_macs")
_AT_LEAST_ZERO = ("prefix", "stem_macs", "head_macs", "head_token_macs", "head_prefix_macs", "last_rows")
_MAY_BE_MISSING = {"last_rows"}  # in manifests from before


Number = TypeVar("Number")  # int, float, or a tensor: anything with + and *


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Everything needed to price a ToFe model. Raises ValueError where the numbers describe no model."""

    tokens: int  # N, patch tokens
    prefix: int  # P, prefix tokens: CLS, distillation, registers
    width: int  # D
    depth: int  # blocks
    attention_width: int  # heads x head width, usually D
    token_macs: int  # all linear layers of one block, per token
    stem_macs: int
    head_macs: int  # the part of the head that no token count changes
    head_token_macs: int  # per patch token kept in the last stage, where the head reads those
    head_prefix_macs: int = 0  # per prefix token, where the head reads those
    locations: tuple[int, ...]  # the 0-based block before which selection s happens
    selector: str
    approximator: str
    reuse: bool  # frozen tokens come back at the next selection
    last_rows: int = 0  # rows that graphs compute in the last block, where the head reads no others; 0: all

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            _require_int(name, getattr(self, name), 1)
        for name in _AT_LEAST_ZERO:
            _require_int(name, getattr(self, name), 0)
        blocks = f"increasing block indices from 0 to {self.depth - 1}"
        _require("locations", self.locations, blocks, _increasing_below(self.locations, self.depth))
        _require_one_of("selector", self.selector, SELECTORS)
        _require_one_of("approximator", self.approximator, APPROXIMATORS)
        _require("reuse", self.reuse, "true or false", type(self.reuse) is bool)

    @property
    def stages(self) -> int:
        """S, the number of selections."""
        return len(self.locations)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that ``json`` can write."""
        return asdict(self) | {"locations": list(self.locations)}

    @classmethod
    def from_json(cls, data: object) -> Cost:
        """The inverse of ``to_json``. Raises ValueError for missing, unknown or impossible entries."""
        names = {field.name for field in fields(cls)}
        if not isinstance(data, dict):
            raise ValueError(f"cost: expected an object, found {type(data).__name__}")
        if missing := names - _MAY_BE_MISSING - data.keys():
            raise ValueError(f"cost: missing {', '.join(sorted(missing))}")
        if unknown := data.keys() - names:
            raise ValueError(f"cost: unknown {', '.join(sorted(map(str, unknown)))}")
        _require("locations", data["locations"], "a list", isinstance(data["locations"], list))
        return cls(**data | {"locations": tuple(data["locations"])})


@dataclass(frozen=True)
class StageRow:
    """One printed line of a plan: the stem, a stage, the head, or the total."""

    name: str
    blocks: str  # "3-5"; empty where there are none
    tokens: int | None  # P + K_s; None outside the stages
    keep: int | None  # K_s
    share: float | None  # K_s / N
    macs: int  # the paper's account
    executed: int


def macs(cost: Cost, keep: Sequence[int]) -> int:
    """MACs per image in the paper's account, which budgets use. Raises ValueError as ``check_keep`` does."""
    return sum(_parts(cost, keep, _PAPER))


def macs_of(cost: Cost, kept: Sequence[Number]) -> Number:
    """The paper's account for S counts that are numbers of any kind: floats, or tensors with gradients.

    This is what the budget loss minimises (Eq. 13), so that a target and a printed cost mean the same.
    Nothing is checked: a mean count need not be whole. Raises ValueError for another number of counts.
    """
    if len(kept) != cost.stages:
        raise ValueError(f"expected {cost.stages} keep counts, one per selection, found {len(kept)}")
    return cast(Number, sum(_account(cost, (cost.tokens, *kept), _PAPER)))


def macs_executed(cost: Cost, keep: Sequence[int], lowering: str, output: str = "logits") -> int:
    """MACs per image that a lowering runs. "dense" reads no keep counts; "tokens" runs no head.

    "features" is priced like "logits": a model without classifier already has it left out of its head.
    Raises ValueError for unusable keep counts and for a lowering that the approximator does not have.
    """
    _require_one_of("lowering", lowering, LOWERINGS)
    return sum(_parts(cost, keep, lowering, output, _rows(cost, output)))


def dense_macs(cost: Cost) -> int:
    """MACs per image of the backbone alone: every token in every block, no selector, no approximator."""
    return sum(_parts(cost, (), _DENSE))


def gmacs(n: int) -> float:
    """Giga multiply-accumulates, the unit of budgets (the paper's "GFLOPs")."""
    return n / 1e9


def printed(gmacs: float) -> str:
    """A budget or cost as people see it, and as "within the budget" compares it.

    Two decimals; below 0.1, where they would tell small models' budgets apart no longer, three digits.
    """
    decimals = 2 - floor(log10(gmacs)) if 0 < gmacs < _SMALL else 2
    return f"{gmacs:.{decimals}f}"


def check_keep(cost: Cost, keep: Sequence[int]) -> None:
    """Raise ValueError unless keep holds S counts in 1..N that, without reuse, never increase."""
    if len(keep) != cost.stages:
        raise ValueError(f"expected {cost.stages} keep counts, one per selection, found {len(keep)}")
    for count in keep:
        if not 1 <= count <= cost.tokens:
            raise ValueError(f"expected keep counts from 1 to {cost.tokens}, found {count}")
    if not cost.reuse and any(later > earlier for earlier, later in pairwise(keep)):
        found = ", ".join(map(str, keep))
        raise ValueError(f"without reuse no stage can keep more than the one before, found {found}")


def describe(cost: Cost, keep: Sequence[int], lowering: str, output: str = "logits") -> list[StageRow]:
    """The plan, line by line: stem, stages 0..S, head, total.

    A stage's MACs are its blocks, the selector in front and the approximator behind. "dense" reads no keep
    counts. Raises ValueError as ``macs_executed`` does.
    """
    _require_one_of("lowering", lowering, LOWERINGS)
    paper = _parts(cost, keep, _DENSE if lowering == _DENSE else _PAPER)
    run = _parts(cost, keep, lowering, output, _rows(cost, output))
    kept = _kept(cost, keep, lowering)
    bounds = (0, *cost.locations, cost.depth)
    stages = [
        StageRow(f"stage {s}", _span(bounds[s], bounds[s + 1]), cost.prefix + k, k, k / cost.tokens, *pair)
        for s, (k, pair) in enumerate(zip(kept, zip(paper[1:-1], run[1:-1], strict=True), strict=True))
    ]
    return [
        StageRow("stem", "", None, None, None, paper[0], run[0]),
        *stages,
        StageRow("head", "", None, None, None, paper[-1], run[-1]),
        StageRow("total", "", None, None, None, sum(paper), sum(run)),
    ]


def _rows(cost: Cost, output: str) -> int:
    """Rows that a graph computes in the last block; 0: all."""
    return 0 if output == "tokens" else cost.last_rows


def _parts(
    cost: Cost, keep: Sequence[int], account: str, output: str = "logits", last_rows: int = 0
) -> list[int]:
    """MACs of the stem, of stages 0..S and of the head: S + 3 numbers."""
    _require_one_of("output", output, OUTPUTS)
    return _account(cost, _kept(cost, keep, account), account, output, last_rows)


def _account(
    cost: Cost, kept: Sequence[Any], account: str, output: str = "logits", last_rows: int = 0
) -> list[Any]:
    """The same from patch tokens in stages 0..S, which may be numbers of any kind."""
    bounds = (0, *cost.locations, cost.depth)
    stages = [
        (bounds[s + 1] - bounds[s]) * _block(cost, cost.prefix + k)
        + _selector(cost, kept, s, account)
        + _approximator(cost, kept, s, account)
        for s, k in enumerate(kept)
    ]
    if last_rows:
        n = cost.prefix + kept[-1]
        stages[-1] += _last_block(cost, n, last_rows) - _block(cost, n)
    head = cost.head_macs + cost.prefix * cost.head_prefix_macs + kept[-1] * cost.head_token_macs
    return [cost.stem_macs, *stages, 0 if output == "tokens" else head]


def _kept(cost: Cost, keep: Sequence[int], account: str) -> tuple[int, ...]:
    """Patch tokens in stages 0..S: N, K_1..K_S, or N everywhere in the dense model."""
    if account == _DENSE:
        return (cost.tokens,) * (1 + cost.stages)
    check_keep(cost, keep)
    return (cost.tokens, *keep)


def _block(cost: Cost, n: Number) -> Number:
    """Eq. 4 on n tokens."""
    return cast(Number, n * cost.token_macs + 2 * n * n * cost.attention_width)  # type: ignore[operator]  # a number


def _last_block(cost: Cost, n: int, rows: int) -> int:
    """The last block on n tokens of which only `rows` are read afterwards."""
    keys_and_values = 2 * cost.width * cost.attention_width
    read = rows * (cost.token_macs - keys_and_values) + 2 * n * rows * cost.attention_width
    return n * keys_and_values + read


def _selector(cost: Cost, kept: Sequence[Any], s: int, account: str) -> Any:  # noqa: ANN401 - a number
    """The selector in front of stage s: Eq. 8 with D -> D/2 -> D/4 -> 2, after D -> D for DynamicViT's."""
    if s == 0 or account == _DENSE:
        return 0
    d = cost.width
    per_token = d * (d // 2) + (d // 2) * (d // 4) + (d // 4) * 2
    if cost.selector == "dynamicvit":
        per_token += d * d
    return per_token * (cost.tokens if cost.reuse else kept[s - 1])


def _approximator(cost: Cost, kept: Sequence[Any], s: int, account: str) -> Any:  # noqa: ANN401 - a number
    """The approximator behind stage s (Eq. 6): after every selection but the last, and only with reuse."""
    if account == _DENSE or not cost.reuse or not 0 < s < cost.stages or cost.approximator == "identity":
        return 0
    if cost.approximator == "block":
        return _block(cost, cost.tokens)
    if cost.approximator == "depthwise":
        if account == "concat":
            raise ValueError("a depthwise approximator needs spatial order: lower with scatter, not concat")
        return cost.tokens * 9 * cost.width
    rows = {_PAPER: cost.tokens, "concat": cost.tokens - kept[s]}.get(account, cost.prefix + cost.tokens)
    return rows * 2 * cost.width * (cost.width // 2)


def _span(first: int, end: int) -> str:
    """The blocks of [first, end) as people write them: "0-2", "3", or nothing."""
    if end - first > 1:
        return f"{first}-{end - 1}"
    return str(first) if end > first else ""


def _increasing_below(locations: object, depth: int) -> bool:
    """Whether locations is a tuple of one or more increasing integers in 0..depth-1."""
    if not isinstance(locations, tuple) or not locations or any(type(at) is not int for at in locations):
        return False
    return locations == tuple(sorted(set(locations))) and locations[0] >= 0 and locations[-1] < depth


def _require(name: str, found: object, expected: str, holds: bool) -> None:
    if not holds:
        raise ValueError(f"{name}: expected {expected}, found {found!r}")


def _require_int(name: str, found: object, least: int) -> None:
    _require(name, found, f"an integer of at least {least}", type(found) is int and found >= least)


def _require_one_of(name: str, found: object, names: Sequence[str]) -> None:
    _require(name, found, f"one of {', '.join(names)}", found in names)
