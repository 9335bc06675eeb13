"""Measures of a ranking, as trec_eval computes them, through pytrec_eval; and rule-based measures of generated evidence.

Names follow ir-measures: nDCG@10, AP, AP@100, RR@10, P@10, R@100, RR(rel=2)@10. Two differ from trec_eval's:

- RR@k is trec_eval's reciprocal rank, set to 0 below rank k. ir-measures computes it with another program, which breaks ties
  differently: for scores that tie in single precision it may give 1 where its own RR gives 0.5.
- nDCG_returned@k takes its ideal from the k documents that were returned, not from all judged ones. Some papers call this
  nDCG. It is never smaller, because it does not count what the first stage missed.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from whyrank.errors import DataError, InvalidRequest
from whyrank.evaluation.trec import trec_order
from whyrank.types import RankedDocument

__all__ = ["DEFAULT_MEASURES", "EVIDENCE_MEASURES", "Measure", "Measurer", "evidence_measures", "unjudged_share"]

DEFAULT_MEASURES = ("nDCG@10", "AP", "RR@10", "P@10", "R@100")

EVIDENCE_MEASURES: Mapping[str, str] = {
    "format": "both texts are there and complete",
    "grounded": "share of the evidence that its document supports",
    "unsupported": "something checkable is not in the document",
    "compression": "length of the evidence relative to its document's",
    "repetition": "it repeats itself",
    "truncated": "it was cut at its budget or deadline",
    "wrong_language": "not the language of document or query",
    "answer_recall": "share of the gold answers that it holds",
}
"""Means over the documents with evidence, each 0 to 1. Higher is better for format, grounded and answer_recall, lower for the
rest."""

_TREC_NAMES = {"nDCG": "ndcg", "AP": "map", "RR": "recip_rank", "P": "P", "R": "recall"}
_TREC_CUT_NAMES = {**_TREC_NAMES, "nDCG": "ndcg_cut", "AP": "map_cut"}
_SPELLINGS = {name.lower(): name for name in (*_TREC_NAMES, "nDCG_returned")}
_SPELLINGS |= {"map": "AP", "mrr": "RR", "recall": "R", "precision": "P"}
_PATTERN = re.compile(r"(\w+?)(?:\(rel=(\d+)\))?(?:@(\d+))?")


@dataclass(frozen=True, slots=True)
class Measure:
    """`rel`: the lowest grade that counts as relevant. It does not apply to nDCG, which uses the grades themselves."""

    name: str
    cutoff: int | None = None
    rel: int = 1

    @classmethod
    def parse(cls, text: str) -> Measure:
        match = _PATTERN.fullmatch(text.strip())
        name = _SPELLINGS.get(match[1].lower()) if match else None
        if match is None or name is None:
            raise InvalidRequest(f"measure {text!r}: choose from nDCG@k, AP, RR@k, P@k, R@k, nDCG_returned@k")
        measure = cls(name, int(match[3]) if match[3] else None, int(match[2] or 1))
        if measure.cutoff == 0 or (measure.cutoff is None and name in ("P", "R", "nDCG_returned")):
            raise InvalidRequest(f"measure {text!r}: give a depth, as in {name}@10")
        if measure.rel < 1:
            raise InvalidRequest(f"measure {text!r}: rel is the lowest relevant grade, 1 or more")
        return measure

    def __str__(self) -> str:
        rel = f"(rel={self.rel})" if self.rel != 1 else ""
        return self.name + rel + (f"@{self.cutoff}" if self.cutoff else "")

    @property
    def trec_name(self) -> str | None:
        """None for measures that trec_eval does not have."""
        if self.cutoff is None or self.name == "RR":
            return _TREC_NAMES.get(self.name)
        return f"{_TREC_CUT_NAMES[self.name]}.{self.cutoff}" if self.name in _TREC_CUT_NAMES else None


class Measurer:
    """Measures rankings, one query at a time. A query without documents gets zeros."""

    def __init__(self, measures: Iterable[str]) -> None:
        import pytrec_eval  # imported here, so that presets can be read without it

        self._evaluator = pytrec_eval.RelevanceEvaluator
        self.measures = tuple(Measure.parse(text) for text in measures)
        self.names = tuple(map(str, self.measures))
        if not self.measures:
            raise InvalidRequest("measures is empty: give at least one, such as nDCG@10")
        self._trec_names: dict[int, set[str]] = {}
        for measure in self.measures:
            if measure.trec_name:
                self._trec_names.setdefault(measure.rel, set()).add(measure.trec_name)

    def check_judged(self, highest_grade: int, where: object) -> None:
        """Raise if no document counts as relevant for some measure. `highest_grade`: of all judgements."""
        for measure in self.measures:
            if measure.rel > highest_grade:
                raise DataError(
                    f"{where}: no document is judged relevant, and {measure} needs grades of {measure.rel} or more (the "
                    f"highest is {highest_grade}): give data with such judgements, or choose other queries or measures"
                )

    def measure(self, judged: Mapping[str, int], scores: Mapping[str, float]) -> list[float]:
        """The measures' values, in the order of `names`. `scores`: document → margin, higher is better."""
        if not scores or not judged:
            return [0.0] * len(self.measures)
        # All these measures count grades below 0 as 0; passed as they are, they corrupt pytrec_eval's memory.
        grades = {document: max(0, grade) for document, grade in judged.items()}
        values = {
            rel: self._evaluator({"q": grades}, names, relevance_level=rel).evaluate({"q": dict(scores)})["q"]
            for rel, names in self._trec_names.items()
        }
        return [_value(measure, values.get(measure.rel, {}), grades, scores) for measure in self.measures]


def _value(
    measure: Measure, values: Mapping[str, float], grades: Mapping[str, int], scores: Mapping[str, float]
) -> float:
    if measure.trec_name is None:
        gains = [grades.get(document, 0) for document in trec_order(scores)[: measure.cutoff]]
        ideal = _dcg(sorted(gains, reverse=True))
        return _dcg(gains) / ideal if ideal else 0.0
    value = values[measure.trec_name.replace(".", "_")]
    below_cutoff = measure.name == "RR" and measure.cutoff is not None and value * measure.cutoff < 1 - 1e-9
    return 0.0 if below_cutoff else value


def _dcg(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def unjudged_share(judged: Mapping[str, int], scores: Mapping[str, float], depth: int = 10) -> float:
    """Share of the best documents that are unjudged and so count as not relevant. If it is high, the measures are too low."""
    best = trec_order(scores)[:depth]
    return sum(document not in judged for document in best) / len(best) if best else 0.0


def evidence_measures(row: RankedDocument, answers: Sequence[str] = ()) -> dict[str, float]:
    """Measures of one document's evidence. answer_recall is included only with gold answers.

    The thresholds for repetition, length and language are those of `whyrank.grounding`."""
    evidence = row.evidence
    if evidence is None:
        return {}
    grounding = evidence.grounding
    flags = grounding.flags if grounding else ()
    is_written = bool(evidence.contribution.strip() and evidence.evidence.strip())
    values = {
        "format": float(evidence.finish == "complete" and is_written),
        "grounded": round(grounding.supported, 6) if grounding else 0.0,
        "unsupported": float(bool(grounding and grounding.unsupported)),
        "compression": round(len(evidence.evidence) / max(1, len(row.document.content)), 6),
        "repetition": float(evidence.finish == "repetition" or "repetition" in flags),
        "truncated": float(evidence.finish in ("budget", "deadline", "aborted")),
        "wrong_language": float("language" in flags),
    }
    if answers:
        text = _folded(f"{evidence.contribution} {evidence.evidence}")
        values["answer_recall"] = round(sum(_folded(answer) in text for answer in answers) / len(answers), 6)
    return values


def _folded(text: str) -> str:
    """Normalises case, width, the encoding of accents and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
