"""Computes, from judged pairs, a threshold with its uncertainty, and calibrated scores.

Pairs of one query resemble each other, so every interval comes from resampling whole queries, not pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from whyrank.calibration import Calibration, CalibrationMethod
from whyrank.errors import DataError, InvalidRequest
from whyrank.evaluation.results import RESULTS, read_results

__all__ = ["Aim", "Pairs", "Threshold", "Verdict", "calibrate", "fit", "judged_pairs"]

_SAMPLES = 500
_SEED = 7
_EPSILON = 1e-12
_MIN_PAIRS = 20
"""Of relevant pairs, and of others. With fewer, no threshold is meaningful."""

Aim = Literal["precision", "recall"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Judged pairs, by descending margin. `query` numbers the queries from 0."""

    margin: Floats
    score: Floats
    relevant: Floats
    query: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Threshold:
    """Keep pairs with at least this margin; `score` is the same cut-off for min_score. Intervals are 95 % intervals;
    `margin_interval` is where the threshold would lie in other samples of queries."""

    margin: float
    score: float
    precision: float
    precision_interval: tuple[float, float]
    recall: float
    recall_interval: tuple[float, float]
    margin_interval: tuple[float, float]
    kept: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`auc`: how often a relevant pair has a larger margin than one that is not relevant. Either `threshold` is set, or
    `no_separation` says why there is none."""

    aim: Aim
    target: float
    pairs: int
    relevant: int
    queries: int
    auc: float
    auc_interval: tuple[float, float]
    threshold: Threshold | None
    no_separation: str | None


def judged_pairs(folder: Path, rel: int = 1) -> Pairs:
    """The judged pairs of the result file in a folder of `whyrank eval`."""
    rows: list[tuple[float, float, bool, int]] = []
    for number, result in enumerate(read_results(folder / RESULTS)):
        relevance = result.relevance(rel)
        for row in result.rows:
            if row.margin is not None and row.score is not None and row.document in relevance:
                rows.append((row.margin, row.score, relevance[row.document], number))
    rows.sort(key=lambda row: -row[0])
    margin, score, relevant, query = np.array(rows, np.float64).reshape(-1, 4).T
    positives = int(relevant.sum())
    if min(positives, len(rows) - positives) < _MIN_PAIRS:
        raise DataError(
            f"{folder / RESULTS}: {positives} relevant judged pairs and {len(rows) - positives} others; "
            f"calibration needs at least {_MIN_PAIRS} of each"
        )
    return Pairs(margin, score, relevant, query.astype(np.int64))


def calibrate(pairs: Pairs, aim: Aim, target: float) -> Verdict:
    if not 0 < target <= 1:
        raise InvalidRequest(f"the target {aim} is {target}: give a share above 0, at most 1")
    ones = np.ones(len(pairs.margin))
    auc = _auc(pairs, ones)
    low, high = _interval([_auc(pairs, weight) for weight in _bootstrap_weights(pairs.query)])
    threshold, why = None, None
    if low <= 0.5:
        why = f"relevant pairs do not have larger margins than others (AUC {auc:.3f}, 95 % {low:.3f} to {high:.3f})"
    elif (last := _last_kept(pairs, ones, aim, target)) is None:
        why = f"no threshold keeps a share of {target:g} relevant"
    else:
        threshold, why = _threshold(pairs, last, aim, target)
    counts = len(pairs.margin), int(pairs.relevant.sum()), len(np.unique(pairs.query))
    return Verdict(aim, target, *counts, auc, (low, high), threshold, why)


def _bootstrap_weights(queries: NDArray[np.int64]) -> Iterator[Floats]:
    """How often each pair occurs when queries are drawn with replacement. The same draws each time, one in memory."""
    unique, query = np.unique(queries, return_inverse=True)
    rng, count = np.random.default_rng(_SEED), len(unique)
    for _ in range(_SAMPLES):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        yield times[query].astype(np.float64)


def _threshold(pairs: Pairs, last: int, aim: Aim, target: float) -> tuple[Threshold | None, str | None]:
    """The threshold that keeps all pairs up to `last`, or the reason why it is not reliable."""
    precision, recall = (float(curve[last]) for curve in _curves(pairs, np.ones(len(pairs.margin))))
    precisions, recalls, margins = [], [], []
    for weight in _bootstrap_weights(pairs.query):
        precision_curve, recall_curve = _curves(pairs, weight)
        precisions.append(float(precision_curve[last]))
        recalls.append(float(recall_curve[last]))
        if (drawn := _last_kept(pairs, weight, aim, target)) is not None:
            margins.append(float(pairs.margin[drawn]))
    if len(margins) < _SAMPLES / 2:
        return (
            None,
            f"a {aim} of {target:g} is reached here by chance: fewer than half of the bootstrap samples reach it",
        )
    intervals, base = (_interval(precisions), _interval(recalls), _interval(margins)), float(pairs.relevant.mean())
    if intervals[0][0] <= base:
        return None, f"what the threshold keeps is hardly better than everything: {base:.3f} of all are relevant"
    margin, score = float(pairs.margin[last]), float(pairs.score[last])
    return Threshold(margin, score, precision, intervals[0], recall, *intervals[1:], last + 1), None


def _curves(pairs: Pairs, weight: Floats) -> tuple[Floats, Floats]:
    """Precision and recall of keeping the first 1, 2, 3, ... pairs."""
    hits, kept = np.cumsum(weight * pairs.relevant), np.cumsum(weight)
    return hits / np.maximum(kept, _EPSILON), hits / max(float(hits[-1]), _EPSILON)


def _last_kept(pairs: Pairs, weight: Floats, aim: Aim, target: float) -> int | None:
    """The last pair to keep: the last that still has the target precision, or the first that has the target recall."""
    precision, recall = _curves(pairs, weight)
    # Equal margins are kept or dropped together.
    last_of_equals = np.append(pairs.margin[1:] != pairs.margin[:-1], True)
    reached = (precision if aim == "precision" else recall) >= target - _EPSILON
    (places,) = np.nonzero(reached & last_of_equals & (recall > 0))
    if not len(places):
        return None
    return int(places[-1] if aim == "precision" else places[0])


def _auc(pairs: Pairs, weight: Floats) -> float:
    """Area under the ROC curve; ties count half."""
    _, group = np.unique(-pairs.margin, return_inverse=True)
    good = np.bincount(group, weight * pairs.relevant)
    bad = np.bincount(group, weight * (1 - pairs.relevant))
    below = bad.sum() - np.cumsum(bad)
    return float((good * (below + bad / 2)).sum() / max(good.sum() * bad.sum(), _EPSILON))


def _interval(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def fit(pairs: Pairs, method: CalibrationMethod, model: str, prompt: str, verdict: Verdict) -> Calibration:
    scale, offset = _fit_temperature(pairs) if method == "temperature" else (1.0, 0.0)
    points = _fit_isotonic(pairs) if method == "isotonic" else ()
    threshold = verdict.threshold.margin if verdict.threshold else None
    return Calibration(method, model, prompt, scale, offset, points, threshold, asdict(verdict))


def _fit_temperature(pairs: Pairs) -> tuple[float, float]:
    """Logistic regression on the margin, by Newton's method, with Platt's smoothed targets: perfectly separated pairs would
    otherwise need an infinite scale."""
    positives = float(pairs.relevant.sum())
    negatives = len(pairs.relevant) - positives
    targets = np.where(pairs.relevant > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    middle, spread = float(pairs.margin.mean()), float(pairs.margin.std()) or 1.0
    columns = np.stack([(pairs.margin - middle) / spread, np.ones(len(targets))])
    solution = np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(solution @ columns, -700, 700)))
        hessian = (columns * (p * (1 - p))) @ columns.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, columns @ (targets - p))
        length = float(np.abs(step).max())
        solution += step * min(1.0, 2 / max(length, _EPSILON))  # far from the solution, a full step may overshoot
        if length < 1e-10:
            break
    if solution[0] <= 0:  # a larger margin would mean less relevant: it tells nothing, so all pairs get one score
        return 0.0, math.log(positives / negatives)
    scale = float(solution[0]) / spread
    return scale, float(solution[1]) - scale * middle


def _fit_isotonic(pairs: Pairs) -> tuple[tuple[float, float], ...]:
    """The calibration curve. Margins in one pool share one probability; the pool's first and last are points of the curve."""
    margins, group, counts = np.unique(pairs.margin, return_inverse=True, return_counts=True)
    relevant = np.bincount(group, pairs.relevant)
    first = isotonic_regression(relevant / counts, weights=counts).blocks[:-1]
    last = np.append(first[1:], len(margins)) - 1
    shares = np.add.reduceat(relevant, first) / np.add.reduceat(counts, first)
    return tuple(
        (float(margins[at]), float(share))
        for start, end, share in zip(first, last, shares, strict=True)
        for at in sorted({start, end})
    )
