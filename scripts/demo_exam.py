"""The embedded model's written exam (tests/data/demo/held_out): texts by an author who wrote none of the training texts."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from check_demo_texts import held_out
from demo_judge import Judge
from demo_written import asks
from whyrank.grounding import ground
from whyrank.grounding.words import folded_words

__all__ = [
    "ExamQuery",
    "auc",
    "echo_figures",
    "exam",
    "explained_figures",
    "marks",
    "ndcg",
    "sigmoid",
]


@dataclass(frozen=True, slots=True)
class ExamQuery:
    query: str
    language: str
    documents: tuple[str, ...]
    relevance: tuple[int, ...]
    """Grades: 2: it answers; 1: it answers in part; 0: it does not."""
    answers: tuple[tuple[str, ...], ...]
    """For each document, the sentences that answer."""

    @property
    def answerable(self) -> bool:
        return 2 in self.relevance


def exam() -> list[ExamQuery]:
    return [
        ExamQuery(
            record["query"],
            record["language"],
            tuple(candidate["text"] for candidate in record["candidates"]),
            tuple(candidate["relevance"] for candidate in record["candidates"]),
            tuple(tuple(candidate["answer"]) for candidate in record["candidates"]),
        )
        for record in held_out("queries")
    ]


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The probability that an answer scores higher than a text that is none; a tie counts as one half."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(positive, negative).statistic) / (len(positive) * len(negative))


def ndcg(ranked: Sequence[float], depth: int = 10) -> float:
    """nDCG of relevances in the order of rank."""

    def gain(relevance: Sequence[float]) -> float:
        return sum(value / math.log2(at + 2) for at, value in enumerate(relevance[:depth]))

    return float(gain(ranked) / gain(sorted(ranked, reverse=True)))


def marks(queries: Sequence[ExamQuery], scores: Sequence[Sequence[float]], resamples: int = 500) -> dict[str, Any]:
    """All measures, each with the middle 95 % of its values over resampled queries."""
    chance = random.Random(1)
    rows = list(zip(queries, scores, strict=True))
    drawn = [_marks(chance.choices(rows, k=len(rows))) for _ in range(resamples)]
    found = {}
    for name, value in _marks(rows).items():
        ordered = sorted(figures[name] for figures in drawn)
        low, high = ordered[int(0.025 * resamples)], ordered[int(0.975 * resamples) - 1]
        found[name] = {"value": value, "low": low, "high": high}
    return found


def _marks(rows: Sequence[tuple[ExamQuery, Sequence[float]]]) -> dict[str, float]:
    answerable = [(query, scores) for query, scores in rows if query.answerable]
    best = [max(range(len(scores)), key=scores.__getitem__) for _, scores in answerable]
    pairs = [
        (score, relevance) for query, scores in rows for score, relevance in zip(scores, query.relevance, strict=True)
    ]
    return {
        "ndcg@10": _mean(ndcg(_ranked(query, scores)) for query, scores in answerable),
        "first": _mean(query.relevance[at] == 2 for at, (query, _) in zip(best, answerable, strict=True)),
        "auc": auc([s for s, r in pairs if r == 2], [s for s, r in pairs if r == 0]),
        "auc_within": _mean(_within(query, scores) for query, scores in answerable),
        "answerable_auc": auc(
            [max(scores) for _, scores in answerable], [max(scores) for query, scores in rows if not query.answerable]
        ),
    }


def _ranked(query: ExamQuery, scores: Sequence[float]) -> list[float]:
    return [query.relevance[i] for i in sorted(range(len(scores)), key=lambda i: -scores[i])]


def _within(query: ExamQuery, scores: Sequence[float]) -> float:
    pairs = list(zip(scores, query.relevance, strict=True))
    return auc([s for s, r in pairs if r == 2], [s for s, r in pairs if r == 0])


def _mean(values: Iterable[float]) -> float:
    return fmean(values)


def sigmoid(margin: float) -> float:
    return 1 / (1 + math.exp(-margin))


# Figures that need the model.


async def echo_figures(judge: Judge) -> dict[str, int]:
    """For documents that only repeat the query in other forms: how many pass for an answer, or rank above the true one."""
    records = held_out("echo")
    above_half = ahead = total = 0
    for record in records:
        documents = [record["answer"], *record["echoes"]]
        answer, *echoes = await judge.margins([(record["query"], text) for text in documents])
        above_half += sum(margin > 0 for margin in echoes)
        ahead += sum(margin >= answer for margin in echoes)
        total += len(echoes)
    return {"echoes": total, "above_half": above_half, "ahead_of_the_answer": ahead}


async def explained_figures(judge: Judge, queries: Sequence[ExamQuery], show: int) -> dict[str, float]:
    """What is written about documents that answer, and where in them the answer is found."""
    wanted = [
        (query.query, text, answers)
        for query in queries
        for text, relevance, answers in zip(query.documents, query.relevance, query.answers, strict=True)
        if relevance == 2
    ]
    pairs = [(query, text) for query, text, _ in wanted]
    quoted = await judge.rows(pairs, mode="evidence", evidence_style="verbatim")
    spanned = await judge.rows(pairs, mode="spans", span_min_score=0.0, max_spans=2)
    plain = {word for ask in asks() for word in folded_words(ask.contribution)}
    found = {"quotes_an_answer": 0, "spans_hold_an_answer": 0, "whole_words": 0, "not_altered": 0}
    for at, ((query, text, answers), quote, spans) in enumerate(zip(wanted, quoted, spanned, strict=True)):
        assert quote.evidence is not None
        contribution = quote.evidence.contribution.strip()
        places = [(text.index(answer), text.index(answer) + len(answer)) for answer in answers]
        grounding = quote.evidence.grounding
        sources = [(span.start, span.end) for span in grounding.spans] if grounding else []
        found["quotes_an_answer"] += _overlap(places, sources)
        found["spans_hold_an_answer"] += _overlap(places, [(span.start, span.end) for span in spans.spans or ()])
        words = set(folded_words(contribution))
        found["whole_words"] += bool(words) and words <= {*folded_words(text), *folded_words(query), *plain}
        found["not_altered"] += bool(words) and not ground(contribution, text, query).altered
        if at < show:
            print(f"\nquery:    {query}\nwanted:   {answers}\nwritten:  {quote.evidence}", file=sys.stderr)
    return {name: count / len(wanted) for name, count in found.items()}


def _overlap(places: Sequence[tuple[int, int]], found: Sequence[tuple[int, int]]) -> bool:
    """Whether at least half of one of the answers lies in what was found."""
    return any(
        sum(max(0, min(end, stop) - max(start, begin)) for begin, stop in found) >= (end - start) / 2
        for start, end in places
    )
