"""Summarises a result file in numbers. One pass over it; memory holds a few numbers and the text of each query."""

from __future__ import annotations

import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from whyrank.errors import DataError
from whyrank.evaluation.consistency import Impossible, impossible_pairs
from whyrank.evaluation.measures import EVIDENCE_MEASURES, Measurer, unjudged_share
from whyrank.evaluation.results import COSTS, RESULTS, Header, Result, read_header, read_results
from whyrank.evaluation.significance import Difference, Mover, Values, paired_difference, top_movers
from whyrank.jsonl import json_object, numbered_lines

__all__ = ["FIRST", "ORACLE", "RERANKED", "Costs", "Scorecard", "make_scorecard", "read_costs"]

FIRST, RERANKED, ORACLE = "first stage", "reranked", "oracle ceiling"
_BINS = 20


@dataclass(frozen=True, slots=True)
class Costs:
    """`seconds`: wall time, summed over sessions. `latencies`: of each query, measured while others were in flight."""

    pairs: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    latencies: tuple[float, ...] = ()

    @property
    def pairs_per_second(self) -> float:
        return self.pairs / self.seconds if self.seconds else 0.0

    @property
    def computed_tokens(self) -> int:
        """Tokens that the model read and wrote: those of the prompts that the prefix cache did not have, and the answers'."""
        return self.prompt_tokens - self.cached_tokens + self.output_tokens

    @property
    def cached_share(self) -> float:
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


@dataclass(slots=True)
class Bins:
    """Equal bins of the scores 0..1: the number of pairs, how many of them are relevant, and the sum of their scores."""

    size: int = _BINS
    count: list[int] = field(init=False)
    relevant: list[int] = field(init=False)
    total: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.count, self.relevant, self.total = [0] * self.size, [0] * self.size, [0.0] * self.size

    def add(self, score: float, relevant: bool) -> None:
        at = min(self.size - 1, int(score * self.size))
        self.count[at] += 1
        self.relevant[at] += relevant
        self.total[at] += score

    def calibration_error(self) -> float:
        """Expected calibration error: mean distance between score and share of relevant pairs, weighted by count."""
        distances = (abs(t - r) for t, r in zip(self.total, self.relevant, strict=True))
        return sum(distances) / max(1, sum(self.count))


@dataclass(frozen=True)
class Scorecard:
    """`table`: system → measure → mean. `values`: the same per query, in the order of `queries`."""

    header: Header
    measures: tuple[str, ...]
    queries: Sequence[str]
    values: Mapping[str, Mapping[str, Values]]
    table: Mapping[str, Mapping[str, float]]
    difference: Difference | None
    """Reranked minus first stage, in the first measure; None without a first stage."""
    gained: tuple[Mover, ...]
    lost: tuple[Mover, ...]
    unjudged: float
    missing: int
    failed: int
    raw: Bins
    calibrated: Bins | None
    evidence: Mapping[str, float]
    written: int
    costs: Costs
    impossible: Mapping[str, Sequence[Impossible]]

    def document(self) -> dict[str, Any]:
        """The scorecard for json.dumps."""
        costs = {name: value for name, value in asdict(self.costs).items() if name != "latencies"}
        bins = self.calibrated or self.raw
        return {
            "data": self.header.data,
            "model": self.header.model,
            "preset": self.header.preset,
            "top_k": self.header.top_k,
            "queries": len(self.queries),
            "queries_without_candidates": self.missing,
            "documents_without_score": self.failed,
            "unjudged@10": round(self.unjudged, 6),
            "measures": {system: {n: round(v, 6) for n, v in row.items()} for system, row in self.table.items()},
            "difference": asdict(self.difference) if self.difference else None,
            "impossible": [pair.message for pairs in self.impossible.values() for pair in pairs],
            "evidence": {name: round(value, 6) for name, value in self.evidence.items()},
            "calibration_error": round(bins.calibration_error(), 6) if sum(bins.count) else None,
            "costs": {**costs, "pairs_per_second": round(self.costs.pairs_per_second, 3)},
        }


def make_scorecard(folder: Path, measures: Sequence[str]) -> Scorecard:
    tally = _Tally(Measurer(measures), read_header(folder / RESULTS))
    for result in read_results(folder / RESULTS):
        tally.add(result)
    if len(tally.queries) != tally.header.topics:
        raise DataError(
            f"{folder / RESULTS}: {len(tally.queries)} of {tally.header.topics} queries are done; finish it with whyrank eval"
        )
    tally.measurer.check_judged(tally.highest_grade, folder / RESULTS)
    return tally.scorecard(read_costs(folder))


class _Tally:
    def __init__(self, measurer: Measurer, header: Header) -> None:
        self.measurer, self.header = measurer, header
        systems = (*([FIRST] if header.first_stage else []), RERANKED, ORACLE)
        self.values = {system: array.array("d") for system in systems}
        self.queries: list[str] = []
        self.texts: list[str] = []
        self.raw, self.calibrated = Bins(), Bins()
        self.missing = self.failed = self.highest_grade = 0
        self.unjudged = 0.0
        self.evidence: dict[str, list[float]] = defaultdict(list)

    def add(self, result: Result) -> None:
        order = result.reranked()
        self.queries.append(result.query)
        self.texts.append(result.text)
        self.missing += not result.rows
        self.failed += len(result.failed)
        self.highest_grade = max(self.highest_grade, *result.judged.values(), 0)
        self.unjudged += unjudged_share(result.judged, order)
        for system, values in self.values.items():
            scores = order if system == RERANKED else result.first_stage() if system == FIRST else _best_order(result)
            values.extend(self.measurer.measure(result.judged, scores))
        relevance = result.relevance()
        for row in result.rows:
            for bins, score in ((self.raw, row.score), (self.calibrated, row.calibrated_score)):
                if score is not None and row.document in relevance:
                    bins.add(score, relevance[row.document])
        for measured in result.evidence.values():
            for name, value in measured.items():
                self.evidence[name].append(value)

    def scorecard(self, costs: Costs) -> Scorecard:
        names = self.measurer.names
        tables = {system: np.array(v).reshape(-1, len(names)) for system, v in self.values.items()}
        values = {system: dict(zip(names, table.T, strict=True)) for system, table in tables.items()}
        means = {system: {name: float(v.mean()) for name, v in row.items()} for system, row in values.items()}
        difference = None
        gained: tuple[Mover, ...] = ()
        lost: tuple[Mover, ...] = ()
        if FIRST in values:
            first, reranked = values[FIRST][names[0]], values[RERANKED][names[0]]
            difference = paired_difference(first, reranked)
            gained, lost = top_movers(self.queries, self.texts, reranked - first)
        return Scorecard(
            header=self.header,
            measures=names,
            queries=self.queries,
            values=values,
            table=means,
            difference=difference,
            gained=gained,
            lost=lost,
            unjudged=self.unjudged / len(self.queries),
            missing=self.missing,
            failed=self.failed,
            raw=self.raw,
            calibrated=self.calibrated if sum(self.calibrated.count) else None,
            evidence={n: sum(vs) / len(vs) for n in EVIDENCE_MEASURES if (vs := self.evidence.get(n))},
            written=max(map(len, self.evidence.values()), default=0),
            costs=costs,
            impossible={system: impossible_pairs(row, self.highest_grade > 1) for system, row in means.items()},
        )


def _best_order(result: Result) -> dict[str, float]:
    best = sorted((row.document for row in result.rows), key=lambda document: -result.judged.get(document, 0))
    return {document: -float(place) for place, document in enumerate(best)}


def read_costs(folder: Path) -> Costs:
    path = folder / COSTS
    sessions: dict[float, float] = {}
    totals = Counter[str]()
    latencies = array.array("d")
    for line in numbered_lines(path) if path.exists() else ():
        cost = json_object(line)
        try:
            sessions[cost["session"]] = cost["since_start"]
            totals.update({name: cost[name] for name in ("pairs", "prompt_tokens", "cached_tokens", "output_tokens")})
            if cost["pairs"]:
                latencies.append(cost["seconds"])
        except (KeyError, TypeError) as cause:
            raise DataError(f"{line.where}: not a cost of whyrank eval ({cause})") from cause
    return Costs(seconds=sum(sessions.values()), latencies=tuple(latencies), **totals)
