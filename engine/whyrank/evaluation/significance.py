"""Two rankings of the same queries: whether their difference may be chance, and which queries changed most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "Mover", "Values", "paired_difference", "top_movers"]

Values = NDArray[np.float64]

_SAMPLES = 10_000
_MAX_CELLS = 2_000_000  # in memory at a time
_SEED = 7  # fixed: the same values give the same result
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class Difference:
    """mean: of b - a over queries; low..high: its 95 % interval, by paired bootstrap; p: two-sided permutation test, which
    flips the sign of each query's difference at random. The counts are of queries."""

    mean: float
    low: float
    high: float
    p: float
    better: int
    worse: int
    same: int


def paired_difference(a: Values, b: Values) -> Difference:
    deltas = b - a
    if not len(deltas):
        return Difference(0.0, 0.0, 0.0, 1.0, 0, 0, 0)
    better, worse = int((deltas > _EPSILON).sum()), int((deltas < -_EPSILON).sum())
    means, extreme = [], 0
    rng = np.random.default_rng(_SEED)
    mean = float(deltas.mean())
    step = max(1, min(_SAMPLES, _MAX_CELLS // len(deltas)))
    for start in range(0, _SAMPLES, step):
        shape = (min(step, _SAMPLES - start), len(deltas))
        means.append(deltas[rng.integers(0, len(deltas), shape)].mean(axis=1))
        signs = 2 * rng.integers(0, 2, shape, dtype=np.int8) - 1
        extreme += int((np.abs(signs @ deltas / len(deltas)) >= abs(mean) - _EPSILON).sum())
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    # Plus one in both: the observed signs are one of the possible permutations.
    p = (extreme + 1) / (_SAMPLES + 1)
    return Difference(mean, float(low), float(high), p, better, worse, len(deltas) - better - worse)


@dataclass(frozen=True, slots=True)
class Mover:
    query: str
    text: str
    delta: float


def top_movers(
    queries: Sequence[str], texts: Sequence[str], deltas: Values, count: int = 5
) -> tuple[tuple[Mover, ...], tuple[Mover, ...]]:
    """The queries with the largest gains and those with the largest losses."""
    gained, lost = (
        tuple(
            Mover(queries[at], texts[at], float(deltas[at]))
            for at in np.argsort(-sign * deltas, kind="stable")[:count].tolist()
            if sign * deltas[at] > 0
        )
        for sign in (1, -1)
    )
    return gained, lost
