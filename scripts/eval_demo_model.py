#!/usr/bin/env python3
"""Measure the embedded model on what it has never seen: generated questions with held-out words, and hand-written ones.

Label: ROC AUC overall, for each kind of near miss and for each family; the hand-written pairs of tests/data/demo/natural.toml;
ranking of 20 candidates against BM25; calibration. Evidence: how much of it is grounded, and holds the answer.
whyrank's own engine does the computing. Progress goes to stderr; the last line of stdout is one JSON document.

    scripts/eval_demo_model.py                                   # the model that is shipped
    scripts/eval_demo_model.py --write-card                      # ... and write the figures into its card
    scripts/eval_demo_model.py /tmp/demo-training/export --questions 40 --no-evidence    # a minute or less
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import sys
import time
import tomllib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from demo_data import HARD, Sample, Writer
from whyrank import Reranker
from whyrank.config import DEMO, EngineConfig
from whyrank.evaluation.charts import Axis, Chart, Series
from whyrank.grounding import ground
from whyrank.process import prepare_process
from whyrank.ranking import Ranking
from whyrank.request import Mode, RerankRequest
from whyrank.types import Evidence, RankedDocument

NATURAL = Path(__file__).parents[1] / "tests" / "data" / "demo" / "natural.toml"
_FAMILIES = ("relation", "event", "plain", "chinese")
_SHARES = (0.45, 0.25, 0.2, 0.1)
_CANDIDATES = 20
# What the model writes by itself.
EVIDENCE: dict[str, Any] = {"evidence_min_score": 0.0, "evidence_style": "rewrite"}

_TABLE_BEGINS, _TABLE_ENDS = "<!-- figures -->", "<!-- end of figures -->"

Pair = tuple[str, str]


# The model.


class Judge:
    """Pairs in, what whyrank says of them out, in the same order."""

    def __init__(self, reranker: Reranker) -> None:
        self._reranker = reranker

    async def margins(self, pairs: Sequence[Pair]) -> list[float]:
        """logit(yes) - logit(no) for each pair."""
        return [row.margin for row in await self._rows(pairs, "score") if row.margin is not None]

    async def evidence(self, pairs: Sequence[Pair]) -> list[Evidence]:
        return [row.evidence for row in await self._rows(pairs, "evidence") if row.evidence is not None]

    async def _rows(self, pairs: Sequence[Pair], mode: Mode) -> list[RankedDocument]:
        asked: dict[str, dict[str, None]] = {}
        for query, document in pairs:
            asked.setdefault(query, {})[document] = None
        answers = await self._reranker.rerank_many(
            RerankRequest.of(query, list(texts), mode=mode, evidence_top_n=len(texts), **EVIDENCE)
            for query, texts in asked.items()
        )
        rows: dict[Pair, RankedDocument] = {}
        for query, answer in zip(asked, answers, strict=True):
            if not isinstance(answer, Ranking):
                raise answer
            rows |= {(query, row.document.text): row for row in answer.results}
        return [rows[pair] for pair in pairs]


# What it is held against.


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The chance that an answer scores higher than what is none; a tie is half a chance."""
    ordered = sorted(negative)
    won = sum(bisect_left(ordered, value) + bisect_right(ordered, value) for value in positive) / 2
    return won / (len(positive) * len(negative))


def ndcg(ranked: Sequence[bool], depth: int = 10) -> float:
    """Of documents that are relevant or not, in the order of their rank."""
    gain = sum(1 / math.log2(at + 2) for at, relevant in enumerate(ranked[:depth]) if relevant)
    best = sum(1 / math.log2(at + 2) for at in range(min(depth, sum(ranked))))
    return gain / best


class Bm25:
    """Lucene's formula, over words in small letters and single Chinese characters."""

    def __init__(self, documents: Iterable[str]) -> None:
        counts = [Counter(self.words(text)) for text in documents]
        self._total = len(counts)
        self._mean = sum(count.total() for count in counts) / len(counts)
        self._holding = Counter(word for count in counts for word in count)

    @staticmethod
    def words(text: str) -> list[str]:
        return re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+", text.lower())

    def score(self, query: str, document: str) -> float:
        count = Counter(self.words(document))
        length = 1.2 * (0.25 + 0.75 * count.total() / self._mean)
        return sum(self._idf(word) * count[word] / (count[word] + length) for word in self.words(query))

    def _idf(self, word: str) -> float:
        holding = self._holding[word]
        return math.log(1 + (self._total - holding + 0.5) / (holding + 0.5))


# The held-out sets.


def labelled(questions: int, seed: str) -> list[tuple[str, Sample]]:
    """For each question a document of each kind, with the question's family."""
    writer = Writer(seed, "held-out")
    rows = []
    for _ in range(questions):
        question = writer.question(writer.chance.choices(_FAMILIES, _SHARES)[0])
        rows += [(question.family, writer.document(question, kind)) for kind in question.cores]
    return rows


def candidates(queries: int, seed: str) -> list[list[Sample]]:
    """For each query one to three answers among 20 documents, half of the others near misses."""
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


def natural() -> list[tuple[Pair, bool]]:
    questions = tomllib.loads(NATURAL.read_text(encoding="utf-8"))["question"]
    return [
        ((entry["query"], text), answers == "yes")
        for entry in questions
        for answers in ("yes", "no")
        for text in entry[answers]
    ]


# The figures.


async def label_figures(judge: Judge, questions: int) -> tuple[dict[str, Any], list[tuple[float, bool]]]:
    rows = labelled(questions, "label")
    margins = await judge.margins([(s.query, s.document) for _, s in rows])
    scored = [(family, s.kind, margin) for (family, s), margin in zip(rows, margins, strict=True)]

    def within(kinds: Sequence[str], families: Sequence[str] = _FAMILIES) -> float:
        negative = [m for f, k, m in scored if k in kinds and f in families]
        # A kind is held against the answers of those families alone that have it.
        having = {f for f, k, _ in scored if k in kinds and f in families}
        return auc([m for f, k, m in scored if k == "answer" and f in having], negative)

    every = ("random", *HARD)
    figures: dict[str, Any] = {"auc": within(every)}
    figures["auc_by_kind"] = {kind: within((kind,)) for kind in every}
    figures["auc_by_family"] = {family: within(every, (family,)) for family in _FAMILIES}
    right = sum((margin > 0) == (kind == "answer") for _, kind, margin in scored)
    figures["right_at_half"] = right / len(scored)
    return figures, [(1 / (1 + math.exp(-margin)), kind == "answer") for _, kind, margin in scored]


async def natural_figures(judge: Judge) -> dict[str, float]:
    rows = natural()
    margins = await judge.margins([pair for pair, _ in rows])
    index = Bm25(pair[1] for pair, _ in rows)
    matched = [index.score(*pair) for pair, _ in rows]

    def divided(scores: Sequence[float]) -> float:
        told = [(score, relevant) for score, (_, relevant) in zip(scores, rows, strict=True)]
        return auc([s for s, relevant in told if relevant], [s for s, relevant in told if not relevant])

    return {"auc": divided(margins), "bm25_auc": divided(matched)}


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
    return ndcg([row[i].relevant for i in order])


async def evidence_figures(judge: Judge, questions: int, show: int) -> dict[str, float]:
    samples = [sample for _, sample in labelled(questions, "evidence") if sample.relevant]
    written = await judge.evidence([(s.query, s.document) for s in samples])
    found = {"complete": 0, "grounded": 0, "holds_answer": 0, "as_wanted": 0}
    for at, (sample, told) in enumerate(zip(samples, written, strict=True)):
        evidence = told.evidence.strip()
        found["complete"] += told.finish == "complete"
        found["grounded"] += bool(evidence) and ground(evidence, sample.document, sample.query).supported >= 0.9
        found["holds_answer"] += sample.answer.lower() in evidence.lower()
        found["as_wanted"] += evidence == sample.evidence
        if at < show:
            print(f"\nquery:    {sample.query}\nwanted:   {sample.evidence}\nwritten:  {told}", file=sys.stderr)
    return {name: count / len(samples) for name, count in found.items()}


def calibration(scored: Sequence[tuple[float, bool]]) -> list[dict[str, float]]:
    """Ten equal steps of the score: its mean there, and how many are answers. Answers weigh as much as all others together."""
    answers = sum(relevant for _, relevant in scored)
    weight = (len(scored) - answers) / answers
    bins = []
    for step in range(10):
        inside = [
            (s, weight if relevant else 1.0, relevant)
            for s, relevant in scored
            if step <= min(s * 10, 9.999) < step + 1
        ]
        if inside:
            total = sum(w for _, w, _ in inside)
            mean = sum(s * w for s, w, _ in inside) / total
            bins.append({"score": mean, "answers": sum(w for _, w, r in inside if r) / total, "count": len(inside)})
    return bins


def plot(bins: Sequence[dict[str, float]]) -> str:
    """The calibration as an SVG file."""
    return Chart(
        "How often a score of so much is that of an answer; on the dashed line it would be as often as it says",
        Axis(0, 1, "score"),
        Axis(0, 1, "share of answers"),
        [Series("held-out questions, half answers", "first", [(b["score"], b["answers"]) for b in bins], "dots")],
        diagonal=True,
    ).file()


# The model's card.


def write_card(figures: dict[str, Any]) -> None:
    """Figures and plot beside the shipped model, and the table in its card."""
    folder = Path(EngineConfig(DEMO).source)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    (folder / "calibration.svg").write_text(plot(figures["calibration"]))
    card = folder / "README.md"
    before, _, rest = card.read_text(encoding="utf-8").partition(_TABLE_BEGINS)
    after = rest.partition(_TABLE_ENDS)[2]
    card.write_text(f"{before}{_TABLE_BEGINS}\n{_table(figures)}\n{_TABLE_ENDS}{after}", encoding="utf-8")


def _table(figures: dict[str, Any]) -> str:
    label, ranking, evidence = figures["label"], figures["ranking"], figures["evidence"]
    kinds = {
        "random": "... against unrelated documents",
        **{kind: f"... against {kind.replace('_', ' ')}" for kind in HARD},
    }
    rows = [("ROC AUC, generated questions with held-out words", label["auc"])]
    rows += [(name, label["auc_by_kind"][kind]) for kind, name in kinds.items()]
    rows += [(f"... in the family {family}", value) for family, value in label["auc_by_family"].items()]
    rows += [
        (
            "ROC AUC, hand-written pairs (BM25 on the same: {bm25_auc:.3f})".format(**figures["natural"]),
            figures["natural"]["auc"],
        ),
        ("nDCG@10 over 20 candidates (BM25 on the same: {:.3f})".format(ranking["bm25_ndcg@10"]), ranking["ndcg@10"]),
        ("evidence: grounded, at least 0.9 supported", evidence["grounded"]),
        ("evidence: holds the answer", evidence["holds_answer"]),
        ("evidence: word for word what the generator wanted", evidence["as_wanted"]),
        ("evidence: whole, within its budget", evidence["complete"]),
    ]
    return "\n".join(["| what | figure |", "|---|---|", *(f"| {name} | {value:.3f} |" for name, value in rows)])


async def measure(model: str, questions: int, evidence: bool, show: int) -> dict[str, Any]:
    async with Reranker(model, prompt="prism") as reranker:
        judge = Judge(reranker)
        label, scored = await label_figures(judge, questions)
        figures: dict[str, Any] = {"label": label, "natural": await natural_figures(judge)}
        print(json.dumps(figures, indent=1), file=sys.stderr)
        figures["calibration"] = calibration(scored)
        figures["ranking"] = await ranking_figures(judge, questions // 2)
        if evidence:
            figures["evidence"] = await evidence_figures(judge, questions // 2, show)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default=DEMO, help="a folder; the shipped model by default")
    parser.add_argument(
        "--questions", type=int, default=400, help="held-out questions; half as many are ranked and quoted"
    )
    parser.add_argument("--no-evidence", action="store_true")
    parser.add_argument("--show", type=int, default=0, help="print so many answers with what was wanted")
    parser.add_argument("--write-card", action="store_true", help="figures, table and plot of the shipped model")
    asked = parser.parse_args()
    if asked.write_card and (asked.no_evidence or asked.checkpoint != DEMO):
        parser.error("--write-card is for the shipped model, with evidence")
    prepare_process()
    began = time.monotonic()
    figures = _rounded(asyncio.run(measure(asked.checkpoint, asked.questions, not asked.no_evidence, asked.show)))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    if asked.write_card:
        write_card(figures)
    print(json.dumps(figures))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
