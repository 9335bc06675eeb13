"""Whether a difference over the same queries could be chance. Seeded: the same values give the same answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["Difference", "paired_difference"]

_SAMPLES = 10_000
_CELLS_AT_ONCE = 2_000_000
_SEED = 7


@dataclass(frozen=True, slots=True)
class Difference:
    """mean: of b - a over queries; low..high: its 95 % interval, by paired bootstrap; p: two-sided permutation test,
    which turns round the sign of each query's difference by chance. The counts are of queries."""

    mean: float
    low: float
    high: float
    p: float
    better: int
    worse: int
    same: int


def paired_difference(a: Values, b: Values) -> Difference:
    import numpy as np

    deltas = b - a
    if not len(deltas):
        return Difference(0.0, 0.0, 0.0, 1.0, 0, 0, 0)
    better, worse = int((deltas > 1e-12).sum()), int((deltas < -1e-12).sum())
    means, extreme = [], 0
    rng = np.random.default_rng(_SEED)
    mean = float(deltas.mean())
    step = max(1, min(_SAMPLES, _CELLS_AT_ONCE // len(deltas)))
    for start in range(0, _SAMPLES, step):
        shape = (min(step, _SAMPLES - start), len(deltas))
        means.append(deltas[rng.integers(0, len(deltas), shape)].mean(axis=1))
        signs = 2 * rng.integers(0, 2, shape, dtype=np.int8) - 1
        extreme += int((np.abs(signs @ deltas / len(deltas)) >= abs(mean) - 1e-12).sum())
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    # One more of each: the order that was found is one of those that chance may give.
    p = (extreme + 1) / (_SAMPLES + 1)
    return Difference(mean, float(low), float(high), p, better, worse, len(deltas) - better - worse)
