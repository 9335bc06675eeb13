"""Two result files over the same data: do the models agree, where do they drift apart, and is one of them better?"""

from __future__ import annotations

import array
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whyrank.errors import DataError, InvalidRequest
from whyrank.evaluation.consistency import Impossible, impossible_pairs
from whyrank.evaluation.measures import Measurer
from whyrank.evaluation.results import RESULTS, Header, Result, read_header, read_results
from whyrank.evaluation.significance import Difference, paired_difference
from whyrank.evaluation.top_movers import Mover, TopMovers
from whyrank.evaluation.trec import trec_order

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["Comparison", "Gate", "compare", "kendall"]

_DEPTH = 10


@dataclass(frozen=True)
class Comparison:
    """Means over queries. kendall: tau-b of the margins, of queries where it exists; overlap: shared part of both top 10;
    drift: |score of b - score of a| of each document."""

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
    """b - a of each query, in the first measure."""
    drifts: Values
    gained: tuple[Mover, ...]
    lost: tuple[Mover, ...]
    impossible: tuple[Impossible, ...]

    def figures(self) -> dict[str, float]:
        """All that a gate may ask for, by name."""
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

    def document(self) -> dict[str, Any]:
        """For json.dumps, which knows no NaN."""
        figures = {name: None if math.isnan(value) else round(value, 9) for name, value in self.figures().items()}
        return {
            "a": self.a.model,
            "b": self.b.model,
            "data": self.a.data,
            "queries": self.queries,
            "means": {name: {"a": a, "b": b} for name, (a, b) in self.means.items()},
            "differences": {name: asdict(difference) for name, difference in self.differences.items()},
            "figures": figures,
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
        found = re.fullmatch(r"\s*(\S+?)\s*([<>])\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*", text)
        try:
            return cls(found[1], found[2] == "<", float(found[3]))  # type: ignore[index]  # the except below
        except (TypeError, ValueError) as cause:
            raise InvalidRequest(
                f'--fail-if {text!r}: write NAME < NUMBER or NAME > NUMBER, as in "kendall < 0.9"'
            ) from cause

    def fires(self, comparison: Comparison) -> bool:
        """What cannot be computed does not pass."""
        figures = comparison.figures()
        if self.name not in figures:
            raise InvalidRequest(f"--fail-if {self.name!r}: choose from {', '.join(figures)}")
        value = figures[self.name]
        return math.isnan(value) or (value < self.limit if self.below else value > self.limit)

    def describe(self, comparison: Comparison) -> str:
        """For people, when it fires."""
        return f"failed: {self} (it is {comparison.figures()[self.name]:.6g})"

    def __str__(self) -> str:
        return f"{self.name} {'<' if self.below else '>'} {self.limit:g}"


def compare(a: Path, b: Path, measures: Sequence[str]) -> Comparison:
    """Of two folders of `whyrank eval`. Reads both side by side; memory holds a few numbers a query and one a document."""
    headers = read_header(a / RESULTS), read_header(b / RESULTS)
    _same_data(*headers, a, b)
    tally = _Tally(Measurer(measures))
    for left, right in _side_by_side(a, b):
        tally.add(left, right)
    return tally.comparison(*headers)


class _Tally:
    def __init__(self, measurer: Measurer) -> None:
        self.measurer = measurer
        self.values = array.array("d"), array.array("d")
        self.taus, self.overlaps, self.drifts, self.margin_drifts = (array.array("d") for _ in range(4))
        self.extremes = TopMovers()
        self.graded = False

    def add(self, left: Result, right: Result) -> None:
        margins = left.margins(), right.margins()
        a, b = (self.measurer.measure(left.judged, scores) for scores in margins)
        self.values[0].extend(a)
        self.values[1].extend(b)
        self.extremes.add(left.query, left.text, b[0] - a[0])
        self.graded |= left.is_graded
        self.taus.append(_agreement(*margins))
        self.overlaps.append(_overlap(*margins))
        for row, other in zip(left.rows, right.rows, strict=True):
            if None not in (row.score, other.score, row.margin, other.margin):
                self.drifts.append(abs(row.score - other.score))  # type: ignore[operator]  # looked at in the line above
                self.margin_drifts.append(abs(row.margin - other.margin))  # type: ignore[operator]

    def comparison(self, a: Header, b: Header) -> Comparison:
        import numpy as np

        names = self.measurer.names
        left, right = (np.frombuffer(side, np.float64).reshape(-1, len(names)) for side in self.values)
        means = [dict(zip(names, map(float, table.mean(axis=0)), strict=True)) for table in (left, right)]
        drifts = np.frombuffer(self.drifts, np.float64)
        return Comparison(
            a,
            b,
            len(self.taus),
            _mean(np.frombuffer(self.taus, np.float64)),
            _mean(np.frombuffer(self.overlaps, np.float64)),
            _mean(drifts),
            float(np.quantile(drifts, 0.99)) if len(drifts) else math.nan,
            float(drifts.max()) if len(drifts) else math.nan,
            _mean(np.frombuffer(self.margin_drifts, np.float64)),
            {name: (means[0][name], means[1][name]) for name in names},
            {name: paired_difference(left[:, i], right[:, i]) for i, name in enumerate(names)},
            right[:, 0] - left[:, 0],
            drifts,
            self.extremes.gained(),
            self.extremes.lost(),
            tuple(pair for row in means for pair in impossible_pairs(row, self.graded)),
        )


def _same_data(left: Header, right: Header, a: Path, b: Path) -> None:
    for name in ("fingerprint", "top_k", "topics"):
        if getattr(left, name) != getattr(right, name):
            raise DataError(
                f"{a} and {b} were not made from the same data: "
                f"{name} is {getattr(left, name)!r} and {getattr(right, name)!r}"
            )


def _side_by_side(a: Path, b: Path) -> Iterator[tuple[Result, Result]]:
    try:
        for left, right in zip(read_results(a / RESULTS), read_results(b / RESULTS), strict=True):
            if left.query != right.query or [row.document for row in left.rows] != [row.document for row in right.rows]:
                raise DataError(f"{a} and {b} differ at query {left.query!r}: evaluate both anew")
            yield left, right
    except ValueError as cause:
        if isinstance(cause, DataError):
            raise
        raise DataError(f"{a} and {b}: one of them is not finished; go on with whyrank eval") from cause


def _agreement(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    both = [document for document in a if document in b]
    return kendall([a[document] for document in both], [b[document] for document in both])


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """tau-b, which allows for ties; NaN where one side has nothing but ties."""
    import numpy as np

    if len(a) < 2:
        return math.nan
    one, two = (np.sign(np.subtract.outer(values, values)) for values in (np.array(a), np.array(b)))
    room = math.sqrt(float((one**2).sum()) * float((two**2).sum()))
    return float((one * two).sum()) / room if room else math.nan


def _overlap(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    best = set(trec_order(a)[:_DEPTH]), set(trec_order(b)[:_DEPTH])
    most = max(map(len, best))
    return len(best[0] & best[1]) / most if most else math.nan


def _mean(values: Values) -> float:
    """Over those that exist."""
    import numpy as np

    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else math.nan
