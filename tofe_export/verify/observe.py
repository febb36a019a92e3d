"""Run a graph on the reference's images and bring what it reports into one form.

The product graph gives the output. The probe graph, the same computation with its decisions made visible,
also gives `scores_s`, `ids_s` (the spatial id of each score: token order is relative in some lowerings) and
`kept_s`, and takes `force_s`, the kept sets to use instead of its own when `use_force` is true.

While the probe chooses for itself, `force_s` carries sets that nobody would choose (the first K ids): a
probe that never listens to `use_force` is thereby found out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tofe_export.errors import BundleError
from tofe_export.runtime.batching import run_batches
from tofe_export.runtime.session import Session
from tofe_export.verify.case import Case
from tofe_export.verify.compare import Array, Bools

Feeds = dict[str, Array]

PADDING = -1  # fills lists of ids that are shorter than others, as in adaptive graphs


@dataclass(frozen=True)
class Observation:
    """What a probe reported on n images, in spatial order."""

    output: Array  # (n, ...)
    scores: Array  # float32 (n, S, N), NaN where not scored
    scored: Bools  # (n, S, N)
    kept: Bools  # (n, S, N)
    listed: Array  # int (n, S): ids in kept_s, repeated and impossible ones included
    ids_valid: Bools  # (n, S): ids_s are distinct and within 0..N-1


def run_product(case: Case, session: Session, images: Array | None = None) -> Array:
    """The product graph's output for all images, (n, ...)."""
    return _run(case, session, case.images if images is None else images, {}, {})[case.output]


def run_probe(case: Case, session: Session, force: Bools | None = None) -> Observation:
    """The probe on all images: by its own choice, or under the kept sets `force` (n, S, N).

    Raises BundleError when the probe lacks an input or output that every probe has.
    """
    for name in ("images", "use_force", *(f"force_{s + 1}" for s in range(case.stages))):
        if name not in session.inputs:
            raise _lacks(case, "input", name)
    sets = _unlikely_sets(case, session) if force is None else force
    use = {"use_force": np.array([force is not None])}
    forced = {  # TensorRT 8.6 takes int32 where the graph has int64
        name: values.astype(session.inputs[name].dtype) for name, values in _force(case, sets).items()
    }
    return _in_spatial_order(case, _run(case, session, case.images, forced, use))


def forced_widths(case: Case, session: Session) -> tuple[int, ...]:
    """Tokens that the probe's `force_s` inputs take, per stage: K_s as the graph has it."""
    sizes = [session.inputs[f"force_{s + 1}"].shape[-1] for s in range(case.stages)]
    return tuple(size if isinstance(size, int) else k for size, k in zip(sizes, case.keep, strict=True))


def _unlikely_sets(case: Case, session: Session) -> Bools:
    sets = np.zeros(case.kept.shape, bool)
    for s, width in enumerate((1,) * case.stages if case.adaptive else forced_widths(case, session)):
        sets[:, s, :width] = True
    return sets


def _force(case: Case, sets: Bools) -> Feeds:
    """Kept sets (n, S, N) as the probe takes them: ids int64 (n, K_s); adaptive: float32 masks (n, N)."""
    if case.adaptive:
        return {f"force_{s + 1}": sets[:, s].astype(np.float32) for s in range(case.stages)}
    ids = [[np.flatnonzero(row) for row in sets[:, s]] for s in range(case.stages)]
    return {f"force_{s + 1}": np.stack(rows).astype(np.int64) for s, rows in enumerate(ids)}


def _run(case: Case, session: Session, images: Array, per_image: Feeds, constant: Feeds) -> Feeds:
    """All outputs over all images. A dynamic batch is tried with two sizes; adaptive graphs run singly."""
    batch = 1 if case.adaptive else min(8, len(images) // 2 + 1)
    parts: dict[str, list[Array]] = {}
    for _, outputs in run_batches(session, images, per_image, constant, batch):
        for name, value in outputs.items():
            parts.setdefault(name, []).extend(value)
    if len(parts.get(case.output, [])) != len(images):
        raise _lacks(case, "output", case.output)
    return {name: _stack(rows) for name, rows in parts.items()}


def _stack(rows: list[Array]) -> Array:
    if len({row.shape for row in rows}) == 1:
        return np.stack(rows)
    padded = np.full((len(rows), max(len(row) for row in rows)), PADDING, rows[0].dtype)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def _lacks(case: Case, what: str, name: str) -> BundleError:
    return BundleError(f"{case.name}: expected an {what} {name!r} in its graph, found none; export it again")


def _in_spatial_order(case: Case, found: dict[str, Array]) -> Observation:
    n, stages, tokens = len(case.images), case.stages, case.tokens
    scores = np.full((n, stages, tokens), np.nan, np.float32)
    scored, kept = np.zeros((2, n, stages, tokens), bool)
    listed, valid = np.zeros((n, stages), int), np.zeros((n, stages), bool)
    for s in range(stages):
        names = [f"{what}_{s + 1}" for what in ("scores", "ids", "kept")]
        if missing := [name for name in names if name not in found]:
            raise _lacks(case, "output", missing[0])
        for i, (values, ids, keeps) in enumerate(zip(*(found[name] for name in names), strict=True)):
            good = (ids >= 0) & (ids < tokens)
            scores[i, s, ids[good]] = values[good]
            scored[i, s, ids[good]] = True
            present = ids[ids != PADDING] if case.adaptive else ids
            valid[i, s] = good.sum() == len(present) == len(np.unique(present))
            within = keeps[(keeps >= 0) & (keeps < tokens)]
            kept[i, s, within] = True
            listed[i, s] = np.count_nonzero(keeps != PADDING) if case.adaptive else len(keeps)
    return Observation(found[case.output], scores, scored, kept, listed, valid)
