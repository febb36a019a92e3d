"""Keep counts for a budget, chosen by what they change in the model's answers on the user's images.

Training arrives at counts N^s for its own budget and its own images. For another budget those counts are
scaled, which assumes that the best shares stay the same; on other images they may not. So the shares are
measured: what the model keeps here (sampled, as training measures it) is one starting point among others, and
`search` looks for shares that lose least within the budget. What is lost is measured against the model's own
answer, so no labels are needed (see `divergence`):

    dense      the same weights with every token in every block
    adaptive   each image for itself, at the same mean cost: what training optimised most directly

The search sees every second picture. Its winner must then do better, on the other half, than the counts that
would be exported without it; otherwise those stay. That half saw no search, so what does better there is the
likelier bet, however small the difference (asking for 95 % gave away more than it saved).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tofe_export.budget import gmacs, macs
from tofe_export.calibration.divergence import Judge, Paired
from tofe_export.calibration.search import Scored, search
from tofe_export.calibration.stream import ImageStream
from tofe_export.calibration.targets import Keep, Target
from tofe_export.calibration.tensors import Tensors
from tofe_export.calibration.thresholds import settle_thresholds
from tofe_export.errors import ImageError
from tofe_export.keep import PAPER_PROFILE
from tofe_export.model.masked import above, masked_forward
from tofe_export.model.tofe import ToFe
from tofe_export.training.measure import Counts, measure_counts

AGAINST = ("dense", "adaptive")
HERE = "measured on these images"
LEAST_IMAGES = 16
"""Half of them are searched on, half confirm: with fewer no difference could be told from chance."""

Say = Callable[[str], None]
"""Told what is being done."""


@dataclass(frozen=True)
class Images:
    """The two halves of the pictures, both of which may be gone through again and again."""

    searched: ImageStream
    held_out: ImageStream

    @classmethod
    def of(cls, stream: ImageStream) -> Images:
        """Even and odd places of a stream's pictures, once they were all looked at.

        Raises ImageError for fewer than 16 pictures.
        """
        if stream.count < LEAST_IMAGES:
            raise ImageError(
                f"{stream.selection.root}: expected at least {LEAST_IMAGES} readable pictures to choose keep "
                f"counts on, found {stream.count}. Give more with --num-images or another --images"
            )
        return cls(stream.part(0, 2), stream.part(1, 2))


@dataclass(frozen=True)
class Solved:
    """What became of one budget."""

    target: Target
    keep: Keep
    """The counts to export."""
    gmacs: float
    """What they cost, in the paper's account."""
    start: Keep
    """The counts that would be exported without calibration."""
    start_source: str
    sampled: Counts
    """What the model keeps on these images by itself."""
    candidates: tuple[Scored, ...]
    """All that was measured on the first half, the best first."""
    held_out: Paired
    """The start against the search's best, on the second half."""
    against: str

    @property
    def changed(self) -> bool:
        """Whether the search's best replaced the start."""
        return self.keep != self.start

    def to_json(self) -> dict[str, Any]:
        """Plain data: the choice, and the figures behind it."""
        before, after = self.held_out.losses
        return {
            "against": self.against,
            "keep": list(self.keep),
            "gmacs": self.gmacs,
            "changed": self.changed,
            "start": {"keep": list(self.start), "source": self.start_source, **before._asdict()},
            "best": {"keep": list(self.candidates[0].keep), **after._asdict()},
            "difference": self.held_out.difference,
            "standard_error": self.held_out.error,
            "held_out_images": self.held_out.images,
            "sampled": {"keep_mean": list(self.sampled.keep_mean), "gmacs_mean": self.sampled.gmacs_mean},
            "candidates": [
                {"keep": list(c.keep), "divergence": c.loss, "origin": c.origin} for c in self.candidates
            ],
        }


def solve_tokens(
    model: ToFe,
    images: Images,
    target: Target,
    *,
    against: str = AGAINST[0],
    say: Say = lambda text: None,
) -> Solved:
    """The counts within a budget whose answers on `images` change least.

    Raises InputError and ImageError for images that are not usable.
    """
    cost, plan = model.cost(), target.plan
    searched, held_out = Tensors(images.searched, model), Tensors(images.held_out, model)
    say("what the model keeps on these images")
    sampled = measure_counts(model, searched.drawn(images.searched.selection.seed), plan.budget_gmacs)
    start, source = plan.keep, plan.source
    if not target.learned:
        start, source = target.fill(whole(sampled.keep_mean, cost.reuse)), HERE
    refer = _reference(model, searched, start, plan.budget_gmacs, against, say)
    with Judge(model, searched, refer) as judge:

        def measure(plans: Sequence[Keep]) -> list[float]:
            say(f"{len(plans)} sets of keep counts, among them {'/'.join(map(str, plans[0]))}")
            return [loss.divergence for loss in judge.judge(plans)]

        starts = [(source, start), (HERE, sampled.keep_mean), *_known(cost.stages)]
        found = search(target.fill, measure, starts, reuse=cost.reuse)
    say("the best of them on the other half of the images")
    with Judge(model, held_out, refer) as judge:
        paired = judge.compare(start, found[0].keep)
    keep = found[0].keep if paired.second_is_better else start
    price = gmacs(macs(cost, keep))
    return Solved(target, keep, price, start, source, sampled, tuple(found), paired, against)


def whole(means: Sequence[float], reuse: bool) -> tuple[int, ...]:
    """A profile of whole numbers from mean counts; without reuse no share is above the one before."""
    shares = [max(1, round(100 * mean)) for mean in means]
    return tuple(shares if reuse else (min(shares[: place + 1]) for place in range(len(shares))))


def _known(stages: int) -> list[tuple[str, tuple[float, ...]]]:
    """Profiles worth a look whatever the model."""
    known: list[tuple[str, tuple[float, ...]]] = [
        ("even profile", (1.0,) * stages),
        ("halving profile", tuple(0.5**stage for stage in range(stages))),
    ]
    return [*known, ("paper profile", PAPER_PROFILE)] if stages == len(PAPER_PROFILE) else known


def _reference(
    model: ToFe, images: Tensors, keep: Keep, budget_gmacs: float, against: str, say: Say
) -> Callable[[Tensor], Tensor]:
    """The answers (B, C) that counts are measured against."""
    if against == "dense":
        return model.backbone.dense
    found = settle_thresholds(model, images, keep, budget_gmacs, say)
    choose = above(found.values)
    return lambda batch: masked_forward(model, batch, choose).output
