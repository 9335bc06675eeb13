"""Two result files over the same data: do the models agree, where do they drift apart, and is one of them better?"""

from __future__ import annotations

import array
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whyrank.errors import DataError, InvalidRequest
from whyrank.evaluation.consistency import Impossible, impossible_pairs
from whyrank.evaluation.measures import Measurer
from whyrank.evaluation.results import RESULTS, Header, Result, read_header, read_results
from whyrank.evaluation.scorecard import Costs, read_costs
from whyrank.evaluation.significance import Difference, Mover, Values, paired_difference, top_movers
from whyrank.evaluation.trec import trec_order

__all__ = ["Comparison", "Gate", "compare", "kendall"]

_DEPTH = 10


@dataclass(frozen=True)
class Comparison:
    """Means over queries. kendall: tau-b of the margins, or ranks, over queries where it is defined; overlap: share of the top
    10 that both have in common; drifts: |score of b - score of a| of each document that has a score in both."""

    a: Header
    b: Header
    queries: int
    kendall: float
    overlap: float
    drift_mean: float
    drift_p99: float
    drift_max: float
    margin_drift_mean: float
    means: Mapping[str, tuple[float, float]]
    differences: Mapping[str, Difference]
    deltas: Values
    """b - a for each query, in the first measure."""
    drifts: Values
    costs: tuple[Costs, Costs]
    gained: tuple[Mover, ...]
    lost: tuple[Mover, ...]
    impossible: tuple[Impossible, ...]

    def figures(self) -> dict[str, float]:
        """All figures that a gate can name."""
        values = {
            "kendall": self.kendall,
            f"overlap@{_DEPTH}": self.overlap,
            "drift": self.drift_mean,
            "drift_p99": self.drift_p99,
            "drift_max": self.drift_max,
            "margin_drift": self.margin_drift_mean,
        }
        for name, difference in self.differences.items():
            values[f"delta({name})"] = difference.mean
            values[f"low({name})"], values[f"high({name})"] = difference.low, difference.high
            values[f"p({name})"] = difference.p
        return values

    def costs_a_query(self) -> dict[str, dict[str, float]]:
        """For a and b, unless its costs were not kept."""
        sides = {side: costs for side, costs in zip("ab", self.costs, strict=True) if costs.seconds}
        names = ("seconds", "prompt_tokens", "computed_tokens", "output_tokens")
        return {
            side: {name: round(getattr(costs, name) / self.queries, 6) for name in names}
            for side, costs in sides.items()
        }

    def document(self) -> dict[str, Any]:
        """For json.dumps, as JSON has no NaN."""
        figures = {name: None if math.isnan(value) else round(value, 9) for name, value in self.figures().items()}
        return {
            "a": self.a.model,
            "b": self.b.model,
            "data": self.a.data,
            "queries": self.queries,
            "means": {name: {"a": a, "b": b} for name, (a, b) in self.means.items()},
            "differences": {name: asdict(difference) for name, difference in self.differences.items()},
            "figures": figures,
            "costs": self.costs_a_query(),
            "impossible": [pair.message for pair in self.impossible],
        }


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition under which CI should fail: "delta(nDCG@10) < -0.01", "high(nDCG@10) < 0", "overlap@10 < 0.9"."""

    name: str
    below: bool
    limit: float

    @classmethod
    def parse(cls, text: str) -> Gate:
        match = re.fullmatch(r"\s*(\S+?)\s*([<>])\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*", text)
        try:
            return cls(match[1], match[2] == "<", float(match[3]))  # type: ignore[index]  # the except below
        except (TypeError, ValueError) as cause:
            raise InvalidRequest(
                f'--fail-if {text!r}: write NAME < NUMBER or NAME > NUMBER, as in "kendall < 0.9"'
            ) from cause

    def fires(self, comparison: Comparison) -> bool:
        """Whether the gate fires. It also does when the figure cannot be computed."""
        figures = comparison.figures()
        if self.name not in figures:
            raise InvalidRequest(f"--fail-if {self.name!r}: choose from {', '.join(figures)}")
        value = figures[self.name]
        return math.isnan(value) or (value < self.limit if self.below else value > self.limit)

    def describe(self, comparison: Comparison) -> str:
        """The message for people when the gate fires."""
        return f"failed: {self} (it is {comparison.figures()[self.name]:.6g})"

    def __str__(self) -> str:
        return f"{self.name} {'<' if self.below else '>'} {self.limit:g}"


def compare(a: Path, b: Path, measures: Sequence[str]) -> Comparison:
    """Compares two folders of `whyrank eval`. Reads both side by side: memory holds a few numbers and the text of each query,
    and two numbers of each document."""
    headers = read_header(a / RESULTS), read_header(b / RESULTS)
    _check_same_data(*headers, a, b)
    measurer = Measurer(measures)
    names, is_graded = measurer.names, False
    queries: list[str] = []
    texts: list[str] = []
    values = array.array("d"), array.array("d")
    taus, overlaps, drifts, margin_drifts = (array.array("d") for _ in range(4))
    for left, right in _side_by_side(a, b, headers[0].topics):
        queries.append(left.query)
        texts.append(left.text)
        is_graded |= left.is_graded
        orders = left.reranked(), right.reranked()
        for side, scores in zip(values, orders, strict=True):
            side.extend(measurer.measure(left.judged, scores))
        overlaps.append(_overlap(*orders))
        taus.append(_kendall_of_both(*orders))
        margin_a, margin_b, score_a, score_b = _scored_by_both(left, right).T
        drifts.extend(np.abs(score_b - score_a))
        margin_drifts.extend(np.abs(margin_b - margin_a))
    first, second = (np.array(side).reshape(-1, len(names)) for side in values)
    means = [dict(zip(names, table.mean(axis=0).tolist(), strict=True)) for table in (first, second)]
    deltas, drift = second[:, 0] - first[:, 0], np.array(drifts)
    gained, lost = top_movers(queries, texts, deltas)
    return Comparison(
        *headers,
        queries=len(queries),
        kendall=_mean(np.array(taus)),
        overlap=_mean(np.array(overlaps)),
        drift_mean=_mean(drift),
        drift_p99=float(np.quantile(drift, 0.99)) if len(drift) else math.nan,
        drift_max=float(drift.max()) if len(drift) else math.nan,
        margin_drift_mean=_mean(np.array(margin_drifts)),
        means={name: (means[0][name], means[1][name]) for name in names},
        differences={name: paired_difference(first[:, i], second[:, i]) for i, name in enumerate(names)},
        deltas=deltas,
        drifts=drift,
        costs=(read_costs(a), read_costs(b)),
        gained=gained,
        lost=lost,
        impossible=tuple(pair for row in means for pair in impossible_pairs(row, is_graded)),
    )


def _check_same_data(left: Header, right: Header, a: Path, b: Path) -> None:
    for name in ("fingerprint", "top_k", "topics"):
        if getattr(left, name) != getattr(right, name):
            raise DataError(
                f"{a} and {b} were not made from the same data: "
                f"{name} is {getattr(left, name)!r} and {getattr(right, name)!r}"
            )


def _side_by_side(a: Path, b: Path, topics: int) -> Iterator[tuple[Result, Result]]:
    """The results of both for each query; raises in the end where some of the queries are missing."""
    done = 0
    try:
        for left, right in zip(read_results(a / RESULTS), read_results(b / RESULTS), strict=True):
            if left.query != right.query or [row.document for row in left.rows] != [row.document for row in right.rows]:
                raise DataError(f"{a} and {b} differ at query {left.query!r}: evaluate both again")
            done += 1
            yield left, right
    except ValueError as cause:
        if isinstance(cause, DataError):
            raise
        raise DataError(f"{a} and {b}: one of them is not finished; finish it with whyrank eval") from cause
    if done < topics:
        raise DataError(f"{a} and {b}: {done} of {topics} queries are done; finish it with whyrank eval")


def _scored_by_both(left: Result, right: Result) -> Values:
    """One row per document: margin in a, margin in b, score in a, score in b."""
    pairs = zip(left.rows, right.rows, strict=True)
    numbers = [(row.margin, other.margin, row.score, other.score) for row, other in pairs]
    return np.array([four for four in numbers if None not in four], np.float64).reshape(-1, 4)


def kendall(a: Values | Sequence[float], b: Values | Sequence[float]) -> float:
    """tau-b, which allows for ties; NaN where all values of one side are equal."""
    signs_a, signs_b = (np.sign(np.subtract.outer(values, values)) for values in (a, b))
    pairs = math.sqrt(float((signs_a**2).sum()) * float((signs_b**2).sum()))
    return float((signs_a * signs_b).sum()) / pairs if pairs else math.nan


def _kendall_of_both(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Over the documents that have a place in both orders."""
    both = [document for document in a if document in b]
    return kendall([a[document] for document in both], [b[document] for document in both])


def _overlap(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    best = set(trec_order(a)[:_DEPTH]), set(trec_order(b)[:_DEPTH])
    larger = max(map(len, best))
    return len(best[0] & best[1]) / larger if larger else math.nan


def _mean(values: Values) -> float:
    """The mean of the values that are not NaN."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
