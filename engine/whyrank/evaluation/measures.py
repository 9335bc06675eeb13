"""Measures of one ranking, as trec_eval computes them, by way of pytrec_eval.

Names are those of ir-measures: nDCG@10, AP, AP@100, RR@10, P@10, R@100, RR(rel=2)@10. Two are not trec_eval's:

- RR@k is trec_eval's reciprocal rank, set to 0 below rank k. ir-measures takes another program for it, whose ties go another
  way: for scores that tie in single precision it may say 1 where its own RR says 0.5.
- nDCG_returned@k takes its ideal from the k documents that were returned, not from all judged ones. Some source documents
  call this nDCG. It is never smaller: what the first stage missed is forgiven.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whyrank.errors import DataError, EvalNotInstalled, InvalidRequest
from whyrank.evaluation.trec import trec_order

__all__ = ["DEFAULT_MEASURES", "Measure", "Measurer", "unjudged_share"]

DEFAULT_MEASURES = ("nDCG@10", "AP", "RR@10", "P@10", "R@100")

_TREC_NAMES = {"nDCG": "ndcg_cut", "AP": "map_cut", "P": "P", "R": "recall"}
_SPELLINGS = {name.lower(): name for name in (*_TREC_NAMES, "RR", "nDCG_returned")}
_SPELLINGS |= {"map": "AP", "mrr": "RR", "recall": "R", "precision": "P"}
_PATTERN = re.compile(r"(\w+?)(?:\(rel=(\d+)\))?(?:@(\d+))?")


@dataclass(frozen=True, slots=True)
class Measure:
    """`rel`: the least grade that counts as relevant. nDCG has no such line: it counts the grades themselves."""

    name: str
    cutoff: int | None = None
    rel: int = 1

    @classmethod
    def parse(cls, text: str) -> Measure:
        found = _PATTERN.fullmatch(text.strip())
        name = _SPELLINGS.get(found[1].lower()) if found else None
        if found is None or name is None:
            raise InvalidRequest(f"measure {text!r}: choose from nDCG@k, AP, RR@k, P@k, R@k, nDCG_returned@k")
        measure = cls(name, int(found[3]) if found[3] else None, int(found[2] or 1))
        if measure.cutoff == 0 or (measure.cutoff is None and name in ("P", "R", "nDCG_returned")):
            raise InvalidRequest(f"measure {text!r}: say how deep, as in {name}@10")
        if measure.rel < 1:
            raise InvalidRequest(f"measure {text!r}: rel is the least relevant grade, 1 or more")
        return measure

    def __str__(self) -> str:
        rel = f"(rel={self.rel})" if self.rel != 1 else ""
        return self.name + rel + (f"@{self.cutoff}" if self.cutoff else "")

    @property
    def asked_of_trec(self) -> tuple[str, str]:
        """How pytrec_eval wants it said, and under which key it answers."""
        if self.name == "RR":
            return "recip_rank", "recip_rank"
        if self.cutoff is None:
            return ("map", "map") if self.name == "AP" else ("ndcg", "ndcg")
        trec = _TREC_NAMES[self.name]
        return f"{trec}.{self.cutoff}", f"{trec}_{self.cutoff}"


class Measurer:
    """Measures rankings one query at a time. A query without any document gets zeros."""

    def __init__(self, measures: Iterable[str]) -> None:
        self._trec = _pytrec_eval()
        self.measures = tuple(Measure.parse(text) for text in measures)
        if not self.measures:
            raise InvalidRequest("measures is empty: give at least one, such as nDCG@10")
        self._of_trec = sorted({measure.rel for measure in self.measures if measure.name != "nDCG_returned"})

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(str, self.measures))

    def check_judged(self, highest_grade: int, where: object) -> None:
        """`highest_grade` of all judgements. Where nothing counts as relevant, no number means anything."""
        for measure in self.measures:
            if measure.rel > highest_grade:
                raise DataError(
                    f"{where}: no document is judged relevant, and {measure} needs grades of {measure.rel} or more (the "
                    f"highest is {highest_grade}): give data with such judgements, or choose other queries or measures"
                )

    def measure(self, judged: Mapping[str, int], scores: Mapping[str, float]) -> list[float]:
        """In the order of `names`. `scores`: document → margin, the larger the better."""
        if not scores or not judged:
            return [0.0] * len(self.measures)
        answers = {rel: self._ask_trec(rel, judged, scores) for rel in self._of_trec}
        return [_value(measure, answers, judged, scores) for measure in self.measures]

    def _ask_trec(self, rel: int, judged: Mapping[str, int], scores: Mapping[str, float]) -> Mapping[str, float]:
        names = {m.asked_of_trec[0] for m in self.measures if m.rel == rel and m.name != "nDCG_returned"}
        # Grades below 0 count as 0 in all these measures, and pytrec_eval's memory does not survive them.
        grades = {document: max(0, grade) for document, grade in judged.items()}
        evaluator = self._trec.RelevanceEvaluator({"q": grades}, names, relevance_level=rel)
        values: Mapping[str, float] = evaluator.evaluate({"q": dict(scores)})["q"]
        return values


def _value(
    measure: Measure,
    answers: Mapping[int, Mapping[str, float]],
    judged: Mapping[str, int],
    scores: Mapping[str, float],
) -> float:
    if measure.name == "nDCG_returned":
        return _ndcg_returned([max(0, judged.get(d, 0)) for d in trec_order(scores)[: measure.cutoff]])
    value = answers[measure.rel][measure.asked_of_trec[1]]
    too_deep = measure.name == "RR" and measure.cutoff is not None and value * measure.cutoff < 1 - 1e-9
    return 0.0 if too_deep else value


def _ndcg_returned(gains: Sequence[int]) -> float:
    ideal = _dcg(sorted(gains, reverse=True))
    return _dcg(gains) / ideal if ideal else 0.0


def _dcg(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def unjudged_share(judged: Mapping[str, int], scores: Mapping[str, float], depth: int = 10) -> float:
    """Of the best documents, those that nobody judged and that count as not relevant: many mean that a number is too low."""
    best = trec_order(scores)[:depth]
    return sum(document not in judged for document in best) / len(best) if best else 0.0


def _pytrec_eval() -> Any:
    try:
        import pytrec_eval
    except ImportError as cause:
        raise EvalNotInstalled("measures need pytrec_eval: pip install 'whyrank[eval]'") from cause
    return pytrec_eval
