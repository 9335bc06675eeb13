"""The embedded model's generated exam: questions from the generator with words that are never trained on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from demo_data import HARD, Sample, Writer
from demo_exam import auc, ndcg
from demo_judge import Bm25, Judge
from whyrank.grounding import ground

__all__ = ["evidence_figures", "label_figures", "ranking_figures"]

_FAMILIES = ("relation", "event", "plain", "chinese")
_SHARES = (0.45, 0.25, 0.2, 0.1)
_CANDIDATES = 20


def labelled(questions: int, seed: str) -> list[tuple[str, Sample]]:
    """For each question a document of each kind, with the family of the question."""
    writer = Writer(seed, "held-out")
    rows = []
    for _ in range(questions):
        question = writer.question(writer.chance.choices(_FAMILIES, _SHARES)[0])
        rows += [(question.family, writer.document(question, kind)) for kind in question.cores]
    return rows


def candidates(queries: int, seed: str) -> list[list[Sample]]:
    """For each query one to three answers among 20 documents; half of the other documents are near misses."""
    writer = Writer(seed, "held-out")
    sets = []
    for _ in range(queries):
        question = writer.question(writer.chance.choices(_FAMILIES, _SHARES)[0])
        hard = [kind for kind in question.cores if kind in HARD]
        kinds = ["answer"] * writer.chance.randint(1, 3)
        while len(kinds) < _CANDIDATES:
            kinds.append(writer.chance.choice(hard) if writer.chance.random() < 0.5 else "random")
        writer.chance.shuffle(kinds)
        sets.append([writer.document(question, kind) for kind in kinds])
    return sets


async def label_figures(judge: Judge, questions: int) -> dict[str, Any]:
    rows = labelled(questions, "label")
    margins = await judge.margins([(s.query, s.document) for _, s in rows])
    scored = [(family, s.kind, margin) for (family, s), margin in zip(rows, margins, strict=True)]

    def within(kinds: Sequence[str], families: Sequence[str] = _FAMILIES) -> float:
        negative = [m for f, k, m in scored if k in kinds and f in families]
        # A kind is compared only with the answers of families that have this kind.
        having = {f for f, k, _ in scored if k in kinds and f in families}
        return auc([m for f, k, m in scored if k == "answer" and f in having], negative)

    every = ("random", *HARD)
    figures: dict[str, Any] = {"auc": within(every)}
    figures["auc_by_kind"] = {kind: within((kind,)) for kind in every}
    figures["auc_by_family"] = {family: within(every, (family,)) for family in _FAMILIES}
    right = sum((margin > 0) == (kind == "answer") for _, kind, margin in scored)
    figures["right_at_half"] = right / len(scored)
    return figures


async def ranking_figures(judge: Judge, queries: int) -> dict[str, float]:
    sets = candidates(queries, "ranking")
    index = Bm25(s.document for row in sets for s in row)
    margins = iter(await judge.margins([(s.query, s.document) for row in sets for s in row]))
    ours, theirs = [], []
    for row in sets:
        ours.append(_ranked_ndcg(row, [next(margins) for _ in row]))
        theirs.append(_ranked_ndcg(row, [index.score(s.query, s.document) for s in row]))
    return {"ndcg@10": sum(ours) / len(ours), "bm25_ndcg@10": sum(theirs) / len(theirs)}


def _ranked_ndcg(row: Sequence[Sample], scores: Sequence[float]) -> float:
    order = sorted(range(len(row)), key=lambda i: -scores[i])
    return ndcg([float(row[i].relevant) for i in order])


async def evidence_figures(judge: Judge, questions: int, show: int) -> dict[str, float]:
    samples = [sample for _, sample in labelled(questions, "evidence") if sample.relevant]
    rows = await judge.rows([(s.query, s.document) for s in samples], mode="evidence", evidence_style="rewrite")
    found = {"complete": 0, "grounded": 0, "holds_answer": 0, "as_wanted": 0}
    for at, (sample, row) in enumerate(zip(samples, rows, strict=True)):
        assert row.evidence is not None
        evidence = row.evidence.evidence.strip()
        found["complete"] += row.evidence.finish == "complete"
        found["grounded"] += bool(evidence) and ground(evidence, sample.document, sample.query).supported >= 0.9
        found["holds_answer"] += sample.answer.lower() in evidence.lower()
        found["as_wanted"] += evidence == sample.evidence
        if at < show:
            print(f"\nquery:    {sample.query}\nwanted:   {sample.evidence}\nwritten:  {row.evidence}", file=sys.stderr)
    return {name: count / len(samples) for name, count in found.items()}
