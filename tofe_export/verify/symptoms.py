"""What typical faults look like in scores and kept sets: pure functions on arrays, used by diagnose.py.

Each answers one question with yes or no (or a number) from n images, and most ask for agreement on every
image, so that a coincidence on one picture does not name a culprit. Scores are (n, N), kept sets bool (n, N).
"""

from __future__ import annotations

import numpy as np

from tofe_export.verify.compare import Array, Bools, errors, span

MAX_SHIFT = 8  # off by one, or off by the number of prefix tokens
TOWERS = 12.0  # largest over median error from which errors count as concentrated
STUCK = 3  # elements that share the extreme value before it counts as a ceiling


def negated(found: Array, expected: Array, limit: float) -> bool:
    """The scores are the reference's with the sign turned."""
    return bool((errors(-found, expected) <= limit).all())


def rearranged(found: Array, expected: Array, limit: float) -> bool:
    """The same values at other places (NaN sorts last on both sides)."""
    return bool((errors(np.sort(found, axis=1), np.sort(expected, axis=1)) <= limit).all())


def displaced(found: Array, expected: Array, kept: Bools, limit: float) -> int | None:
    """d, where each kept token's score is found d places behind its own; ids at the border are left out."""
    unit, tokens = span(expected), found.shape[1]
    image, token = np.nonzero(kept)
    for d in sorted(range(-MAX_SHIFT, MAX_SHIFT + 1), key=abs):
        inside = (token + d >= 0) & (token + d < tokens)
        i, t = image[inside], token[inside]
        error = np.abs(found[i, t + d].astype(np.float64) - expected[i, t]) / unit[i]
        if d and i.size and (error <= limit).all():
            return d
    return None


def correlation(found: Array, expected: Array) -> float:
    """Mean Pearson correlation over images; tokens that either side lacks are left out."""
    values = []
    for a, b in zip(found.astype(np.float64), expected.astype(np.float64), strict=True):
        both = np.isfinite(a) & np.isfinite(b)
        a, b = a[both] - a[both].mean(), b[both] - b[both].mean()
        norm = np.sqrt((a * a).sum() * (b * b).sum())
        values.append(float((a * b).sum() / norm) if norm > 0 else 0.0)
    return float(np.mean(values))


def keeps_lowest(kept: Bools, scores: Array) -> bool:
    """Every kept token scores below every frozen one: the sort runs the wrong way."""
    top = np.where(kept, scores, -np.inf).max(1)
    bottom = np.where(kept | np.isnan(scores), np.inf, scores).min(1)
    return bool((np.isfinite(bottom) & (top <= bottom)).all())


def shift(found: Bools, expected: Bools) -> int | None:
    """d, where the kept ids are the reference's plus d; one id per image may be lost at the border."""
    if np.array_equal(found, expected):
        return None
    for d in sorted(range(-MAX_SHIFT, MAX_SHIFT + 1), key=abs):
        missing = (found & ~np.roll(expected, d, axis=1)).sum(1)
        if d and (missing <= abs(d)).all() and (missing < (found & ~expected).sum(1)).all():
            return d
    return None


def crossed(found: Array, expected: Array, wrong: list[int]) -> tuple[int, int] | None:
    """Two stages whose scores resemble each other's reference more than their own; arrays (n, S, N)."""
    for a in wrong:
        for b in (stage for stage in wrong if stage > a):
            own = correlation(found[:, a], expected[:, a]) + correlation(found[:, b], expected[:, b])
            other = correlation(found[:, a], expected[:, b]) + correlation(found[:, b], expected[:, a])
            if other > own + 0.2:
                return a, b
    return None


def ceiling(found: Array, expected: Array) -> float | None:
    """The value at which many elements stick although the reference's go beyond it, on some image."""
    for a, b in zip(found.reshape(len(found), -1), expected.reshape(len(expected), -1), strict=True):
        for sign in (1, -1):
            edge = np.nanmax(sign * a)
            if (sign * a == edge).sum() >= STUCK and ((sign * b) > edge).sum() >= STUCK:
                return float(sign * edge)
    return None


def concentrated(found: Array, expected: Array, among: Bools | None = None) -> bool:
    """Errors of a few tokens tower over the others' (`among` the tokens given): clipping, not weights.

    Measured on a ViT: largest over median error is 4 to 7 for changed weights, whatever their size, and 10 to
    200 where one value in a hundred to one in ten thousand is clipped.
    """
    error = errors(found, expected)
    error[~np.isfinite(error) | (np.isnan(found) & np.isnan(expected))] = np.nan
    if among is not None:
        error[~among] = np.nan
    middle = np.nanmedian(error, axis=1)
    largest = np.nanmax(error, axis=1)
    ratio = largest / np.maximum(middle, 1e-7)
    return bool((largest > 0).all() and np.median(ratio) > TOWERS)


def shrinks(found: Array, expected: Array) -> bool:
    """Large values come out smaller, small ones as they should: what saturation does.

    Compares the slope of found over expected among the outer tenth with the slope among the inner half.
    """
    a = found.reshape(len(found), -1).astype(np.float64)
    b = expected.reshape(len(expected), -1).astype(np.float64)
    a, b = a - np.nanmedian(b, 1, keepdims=True), b - np.nanmedian(b, 1, keepdims=True)
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 20 or correlation(a[None], b[None]) < 0.95:
        return False
    size = np.abs(b)
    inner, outer = size <= np.quantile(size, 0.5), size >= np.quantile(size, 0.9)
    slopes = [(a[part] * b[part]).sum() / max((b[part] ** 2).sum(), 1e-300) for part in (inner, outer)]
    return bool(abs(slopes[0] - 1) < 0.1 and slopes[1] < 0.9 * slopes[0])
