"""Checks whether the means in a published table can be true at all: which values of two measures are possible together.

For one query with R relevant documents, every way of placing some of them within the first k gives nDCG@k, AP, RR@k and
P@k. The mean over any queries lies in the convex hull of these points. So a pair of means outside the hull cannot come
from one set of judgements: nDCG@10 = 1 means that the first document is relevant each time, and then RR@10 is 1.

With graded judgements nDCG may be arbitrarily low, but not higher than with binary ones at the same RR: shifting a
falling sequence of gains costs at least what it costs for the best of its steps. Pairs of nDCG with measures other than RR
are then skipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

from whyrank.evaluation.measures import Measure

__all__ = ["Impossible", "impossible_pairs"]

# Allows for the rounding of printed means.
_TOLERANCE = 6e-4
# All 2^k placings are enumerated.
_MAX_DEPTH = 12
_LARGE_COUNTS = (30, 100, 1_000, 10_000)


@dataclass(frozen=True, slots=True)
class Impossible:
    first: str
    second: str
    message: str


def impossible_pairs(
    means: Mapping[str, float], graded: bool = False, most_relevant: int | None = None
) -> list[Impossible]:
    """Pairs of means, given by measure name, that contradict each other. `most_relevant`: the most relevant documents that
    any query has.

    Only measures with the same cutoff (AP has none) and the same `rel` are compared.
    """
    measures = {name: Measure.parse(name) for name in means}
    impossible = []
    for (one, a), (two, b) in combinations(measures.items(), 2):
        depths = {m.cutoff for m in (a, b) if m.name != "AP"}
        if len(depths) != 1 or not _comparable(a, b, graded):
            continue
        (depth,) = depths
        if depth is None or depth > _MAX_DEPTH:
            continue
        x, y = means[one], means[two]
        hull = _hull(a.name, b.name, depth, graded, most_relevant)
        if (hull.equations @ (x, y, 1.0)).max() > _TOLERANCE:  # distance to each edge, positive outside the hull
            message = f"{one} = {x:.4f} and {two} = {y:.4f} cannot come from the same judgements"
            impossible.append(Impossible(one, two, f"{message}: {_possible(one, two, x, hull)}"))
    return impossible


def _comparable(a: Measure, b: Measure, graded: bool) -> bool:
    names = {a.name, b.name}
    if len(names) == 1 or not names <= {"nDCG", "AP", "RR", "P"} or any(m.name == "AP" and m.cutoff for m in (a, b)):
        return False
    if "nDCG" in names:
        # nDCG counts every grade from 1 up, so the other measure must, too.
        return a.rel == b.rel == 1 and (not graded or names == {"nDCG", "RR"})
    return a.rel == b.rel


@cache
def _hull(one: str, two: str, depth: int, graded: bool, most_relevant: int | None) -> Any:
    from scipy.spatial import ConvexHull  # imported here, so that presets can be read without scipy

    points = {(0.0, 0.0)}  # nothing found, or nothing to find
    for placing in _placings(depth, most_relevant):
        points.add((placing[one], placing[two]))
        if graded and "nDCG" in (one, two):
            points.add((0.0, placing[two]) if one == "nDCG" else (placing[one], 0.0))
    return ConvexHull(sorted(points))


@cache
def _placings(depth: int, most_relevant: int | None) -> tuple[dict[str, float], ...]:
    counts = [*range(1, 2 * depth + 1), *_LARGE_COUNTS]
    if most_relevant is not None:
        counts = [count for count in counts if count <= most_relevant] or [1]
    return tuple(
        placing
        for count in range(depth + 1)
        for ranks in combinations(range(1, depth + 1), count)
        for relevant in counts
        if relevant >= count
        for placing in _measured(ranks, relevant, depth)
    )


def _measured(ranks: Sequence[int], relevant: int, depth: int) -> Iterator[dict[str, float]]:
    """The measures with relevant documents at these ranks up to `depth`; the rest are never found, or follow at once."""
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(relevant, depth) + 1))
    ndcg = sum(1 / math.log2(rank + 1) for rank in ranks) / ideal
    precisions = sum(place / rank for place, rank in enumerate(ranks, 1))
    for total in (precisions, precisions + _behind(len(ranks), relevant, depth)):
        rr = 1 / ranks[0] if ranks else 0.0
        yield {"nDCG": ndcg, "RR": rr, "AP": total / relevant, "P": len(ranks) / depth}


@cache
def _behind(retrieved: int, relevant: int, depth: int) -> float:
    """The most that the relevant documents missing from the first `depth` can add to the sum of precisions."""
    return sum((retrieved + i) / (depth + i) for i in range(1, relevant - retrieved + 1))


def _possible(one: str, two: str, x: float, hull: Any) -> str:
    """The values of `two` that are possible with x: those between the hull's lower and upper edges at x."""
    values = []
    for edge in hull.points[hull.simplices].tolist():
        (left, low), (right, high) = sorted(edge)
        if left <= x <= right:
            values += [low, high] if left == right else [low + (high - low) * (x - left) / (right - left)]
    if not values:
        return "never together"
    return f"at {one} = {x:.4f}, {two} lies between {min(values):.4f} and {max(values):.4f}"
