"""A fake: a two-stage token-reducing model in numpy, with faults that can be switched on one by one.

It proves the logic of verify, never a runtime. Every block's result is perturbed by about one rounding error,
so that two sessions differ as two runtimes do; `score_noise` widens that for scores, to provoke near ties.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tofe_export.runtime.session import Session, TensorInfo
from tofe_export.verify.case import Case
from tofe_export.verify.report import VariantReport
from tofe_export.verify.sets import margins
from tofe_export.verify.variant import verify_variant

Array = npt.NDArray[Any]
Run = Callable[..., VariantReport]
MakeCase = Callable[..., Case]

GRID, PATCH, WIDTH, CLASSES, DEPTH = 6, 2, 12, 10, 6
LOCATIONS, KEEP = (2, 4), (15, 7)
TOKENS, SIDE = GRID * GRID, GRID * PATCH


@dataclass
class Fake:
    """Weights and arithmetic; faults are the fields with a default."""

    seed: int
    reuse: bool = True
    thresholds: tuple[float, ...] | None = None
    keep: tuple[int, ...] = KEEP
    noise: float = 1e-7
    score_noise: float = 0.0
    negate: tuple[int, ...] = ()  # selectors whose scores have the wrong sign
    lowest: tuple[int, ...] = ()  # selections that take the lowest scores
    swap_selectors: bool = False
    shift_ids: dict[int, int] = field(default_factory=dict)  # stage: offset of all kept ids
    shift_gather: dict[int, int] = field(default_factory=dict)  # stage: offset of the gathered rows only
    shift_thaw: int = 0
    duplicate: bool = False  # the last kept id repeats the first
    channels: tuple[int, int, int] = (0, 1, 2)
    clip: dict[int, float] = field(default_factory=dict)  # block: ceiling of its output
    clip_output: float = np.inf
    stale: str = ""  # name of a weight that is another one's
    nan_block: int = -1
    constant: bool = False
    roll_rows: int = 0
    deaf: bool = False  # a probe that ignores use_force
    stubborn: bool = False  # a probe that always uses force

    def __post_init__(self) -> None:
        random = np.random.RandomState(self.seed)
        shapes = {"stem": (3 * PATCH * PATCH, WIDTH), "position": (TOKENS, WIDTH), "cls": (1, WIDTH)}
        shapes |= {f"mix_{b}": (WIDTH, WIDTH) for b in range(DEPTH)} | {
            f"mlp_{b}": (WIDTH, WIDTH) for b in range(DEPTH)
        }
        shapes |= {f"selector_{s}": (WIDTH, 1) for s in range(2)} | {"approximator": (WIDTH, WIDTH)}
        shapes |= {"head": (WIDTH, CLASSES)}
        draw = {name: random.standard_normal(shape) / np.sqrt(shape[0]) for name, shape in shapes.items()}
        self.weights = {name: value.astype(np.float32) for name, value in draw.items()}
        if self.stale:
            old = self.weights[self.stale]
            self.weights[self.stale] = (old * 0.98 + 0.02 * random.standard_normal(old.shape)).astype(
                np.float32
            )
        self.random = np.random.RandomState(self.seed + 1)

    def block(self, x: Array, b: int) -> Array:
        mixed = np.tanh(x @ self.weights[f"mix_{b}"]).mean(1, keepdims=True)
        x = x + mixed + np.tanh(x @ self.weights[f"mlp_{b}"])
        x = x * (1 + self.noise * self.random.standard_normal(x.shape))
        x = np.clip(x, -self.clip.get(b, np.inf), self.clip.get(b, np.inf))
        return np.asarray(x * np.nan if b == self.nan_block else x, np.float32)

    def score(self, x: Array, stage: int) -> Array:
        weight = self.weights[f"selector_{1 - stage if self.swap_selectors else stage}"]
        scores = np.tanh(x @ weight)[..., 0] + x[..., 0] * 0.1
        noise = self.score_noise * self.random.uniform(-1, 1, scores.shape)
        scores = scores + noise * np.ptp(scores, axis=1, keepdims=True)
        return np.asarray(-scores if stage in self.negate else scores, np.float32)

    def choose(self, scores: Array, stage: int) -> Array:
        """Positions of kept tokens, (b, K); for thresholds b is 1."""
        if self.thresholds is not None:
            above = scores[0] > self.thresholds[stage]
            above[scores[0].argmax()] = True
            return np.flatnonzero(above)[None]
        order = np.argsort(scores if stage in self.lowest else -scores, axis=1, kind="stable")
        order = order[:, : self.keep[stage]]
        if self.duplicate:
            order[:, -1] = order[:, 0]
        return order

    def __call__(self, images: Array, force: list[Array] | None = None) -> dict[str, Array]:
        n = len(images)
        x = images[:, list(self.channels)].reshape(n, 3, GRID, PATCH, GRID, PATCH)
        x = x.transpose(0, 2, 4, 1, 3, 5).reshape(n, TOKENS, -1) @ self.weights["stem"]
        if self.constant:
            x = x * np.float32(0)
        x = np.concatenate(
            [np.broadcast_to(self.weights["cls"], (n, 1, WIDTH)), x + self.weights["position"]], 1
        )
        x, found = self._stages(x, np.tile(np.arange(TOKENS), (n, 1)), force)
        logits = np.clip(x[:, 0] @ self.weights["head"], -self.clip_output, self.clip_output)
        return {"logits": np.roll(logits, self.roll_rows, 0), **found}

    def _stages(self, x: Array, ids: Array, force: list[Array] | None) -> tuple[Array, dict[str, Array]]:
        """x (n, 1 + N, D); ids (n, N) spatial ids of the tokens at hand."""
        found: dict[str, Array] = {}
        whole, chosen = x, ids
        for b in range(DEPTH):
            if b in LOCATIONS:
                s = LOCATIONS.index(b)
                if s and self.reuse:
                    x, ids = self._thaw(x, whole, chosen), np.tile(np.arange(TOKENS), (len(x), 1))
                scores = self.score(x[:, 1:], s)
                place = self.choose(scores, s)
                if force is not None:
                    place = (ids[:, None, :] == force[s][:, :, None]).argmax(-1)
                chosen = (place + self.shift_ids.get(s, 0)) % ids.shape[1]
                found |= {f"scores_{s + 1}": scores, f"ids_{s + 1}": ids}
                whole = x
                ids = np.take_along_axis(ids, chosen, 1)
                found[f"kept_{s + 1}"] = ids
                rows = (chosen + self.shift_gather.get(s, 0)) % (whole.shape[1] - 1)
                x = np.concatenate([x[:, :1], np.take_along_axis(x[:, 1:], rows[..., None], 1)], 1)
            x = self.block(x, b)
        return x, found

    def _thaw(self, x: Array, whole: Array, chosen: Array) -> Array:
        """Frozen tokens through the approximator, kept ones back in their places."""
        spatial = whole[:, 1:] + np.tanh(whole[:, 1:] @ self.weights["approximator"]) * 0.1
        places = (chosen + self.shift_thaw) % TOKENS
        np.put_along_axis(spatial, places[..., None], x[:, 1:], 1)
        return np.concatenate([x[:, :1], spatial.astype(np.float32)], 1)


class FakeSession(Session):
    """Product or probe of a Fake."""

    def __init__(self, fake: Fake, probe: bool, batch: int | str) -> None:
        self.fake, self.probe, self.provider = fake, probe, "fake"
        self.batch, self.outputs = batch, {}
        shapes: dict[str, tuple[str, tuple[int | str, ...]]] = {"images": ("float32", (batch, 3, SIDE, SIDE))}
        if probe:
            shapes["use_force"] = ("bool", (1,))
            for s, k in enumerate(fake.keep):
                mask = fake.thresholds is not None
                shapes[f"force_{s + 1}"] = ("float32", (batch, TOKENS)) if mask else ("int64", (batch, k))
        self.inputs = {
            name: TensorInfo(name, np.dtype(kind), shape) for name, (kind, shape) in shapes.items()
        }

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        if not self.probe:
            return {"logits": self.fake(feeds["images"])["logits"]}
        force = [feeds[f"force_{s + 1}"] for s in range(2)]
        if self.fake.thresholds is not None:
            force = [np.flatnonzero(mask[0])[None] for mask in force]
        use = (feeds["use_force"][0] and not self.fake.deaf) or self.fake.stubborn
        return self.fake(feeds["images"], force if use else None)

    def close(self) -> None:
        return None


def _case(
    seed: int,
    n: int = 8,
    adaptive: bool = False,
    reuse: bool = True,
    tight: bool = False,
    images: Array | None = None,
) -> Case:
    """What a clean fake without noise does; `tight` takes the n images with the closest ties of 50 n."""
    count = 50 * n if tight else n
    if images is None:
        images = np.random.RandomState(seed + 99).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)
    thresholds = (0.1, 0.5) if adaptive else None
    fake = Fake(seed, noise=0.0, thresholds=thresholds, reuse=reuse)
    found = [fake(image[None]) for image in images]
    scores = np.full((count, 2, TOKENS), np.nan, np.float32)
    kept = np.zeros((count, 2, TOKENS), bool)
    for i, s in np.ndindex(count, 2):
        scores[i, s, found[i][f"ids_{s + 1}"][0]] = found[i][f"scores_{s + 1}"][0]
        kept[i, s, found[i][f"kept_{s + 1}"][0]] = True
    case = Case(
        name="fake",
        lowering="adaptive" if adaptive else "scatter",
        precision="fp32",
        batch=2,
        output="logits",
        keep=KEEP,
        thresholds=thresholds,
        locations=LOCATIONS,
        depth=DEPTH,
        rounding=0.0,
        images=images,
        expected=np.concatenate([one["logits"] for one in found]),
        scores=scores,
        kept=kept,
    )
    return case.only(np.argsort(margins(scores, kept, thresholds).min(1))[:n]) if tight else case


@pytest.fixture
def make_case() -> MakeCase:
    """(seed, n, adaptive, reuse, tight, images) -> Case."""
    return _case


@pytest.fixture
def make_session() -> Callable[..., Session]:
    """(seed, probe, **fields of Fake) -> Session with batch 2."""
    return lambda seed, probe, **fields: FakeSession(Fake(seed, **fields), probe, 2)


@pytest.fixture
def run(make_case: MakeCase) -> Run:
    """Verify a fake variant: `both`, `product`, `probe` are Fake's fields for these graphs."""

    def verify(
        seed: int = 0,
        *,
        both: dict[str, Any] | None = None,
        product: dict[str, Any] | None = None,
        probe: dict[str, Any] | None = None,
        case: dict[str, Any] | None = None,
        adaptive: bool = False,
        reuse: bool = True,
        batch: int | str = 2,
        tight: bool = False,
        remade: Array | None = None,
    ) -> VariantReport:
        expected = make_case(seed, adaptive=adaptive, reuse=reuse, tight=tight)
        common = {"thresholds": expected.thresholds, "reuse": reuse, **(both or {})}
        size = 1 if adaptive else batch
        first = FakeSession(Fake(seed, **{**common, **(product or {})}), False, size)
        second = FakeSession(Fake(seed, **{**common, **(probe or {})}), True, size)
        second.fake.random = np.random.RandomState(seed + 2)
        return verify_variant(replace(expected, **(case or {})), first, second, remade=remade)

    return verify
