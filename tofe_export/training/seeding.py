"""Random draws that depend on a key and nothing else: not on workers, ranks, order, or earlier draws.

A key is a purpose and some integers, such as (AUGMENT, seed, epoch, sample). A resumed run repeats its draws
by asking with the same keys, so no generator's state has to be saved. Our own draws take raw words of numpy's
Philox through `SeedSequence`, whose streams numpy promises never to change; code of others (augmentation,
mixing) draws from the global generators, which `seeded` sets for a moment and puts back.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# purposes: the first number of a key, so that no two uses share a stream
ORDER, AUGMENT, NOISE, REPLACE, SPLIT, MIX, BUDGET, FORWARD, LIMIT = range(9)

_WORD = 2**64 - 1  # keys are taken modulo 2^64, so that a negative seed is a seed too


def words(count: int, *key: int) -> npt.NDArray[np.uint64]:
    """`count` random 64-bit words of this key's stream."""
    raw = np.random.Philox(_sequence(key)).random_raw(count)
    return np.asarray(raw, dtype=np.uint64)


def permutation(count: int, *key: int) -> npt.NDArray[np.int64]:
    """The numbers 0 .. count - 1 in an order drawn for this key."""
    return np.argsort(words(count, *key), kind="stable").astype(np.int64)


def logistic(shape: tuple[int, ...], *key: int) -> Tensor:
    """Standard logistic noise, float32, always finite: the difference of two Gumbel draws (Eq. 9).

    u lies on a grid of 2^52 points that excludes 0 and 1, so |log(u / (1 - u))| < 37.
    """
    raw = words(int(np.prod(shape)), *key).reshape(shape)
    u = ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return torch.from_numpy((np.log(u) - np.log1p(-u)).astype(np.float32))


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Within this block the global generators of random, numpy and torch (CPU) start from the key.

    Afterwards they continue as if nothing had happened. Generators of accelerators are left alone.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    state = _sequence(key).generate_state(12)
    random.seed(int.from_bytes(state[:4].tobytes(), "little"))
    np.random.seed(state[4:8])
    torch.default_generator.manual_seed(int(state[8]) << 31 | int(state[9]) >> 1)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _sequence(key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([part & _WORD for part in key])
