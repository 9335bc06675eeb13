#!/usr/bin/env python3
"""Measure the embedded model on what it has never seen: generated questions with held-out words, and hand-written ones.

Label: ROC AUC overall, for each kind of near miss and for each family; the hand-written pairs of tests/data/demo/natural.toml;
ranking of 20 candidates against BM25; calibration. Evidence: how much of it is grounded, and holds the answer.
Plain transformers in fp32 does the computing. Progress goes to stderr; the last line of stdout is one JSON document.

    scripts/eval_demo_model.py /tmp/demo-training/export
    scripts/eval_demo_model.py /tmp/demo-training/export --questions 40 --no-evidence    # a minute or less
    scripts/eval_demo_model.py /tmp/demo-training/export --plot calibration.png
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from demo_data import HARD, Sample, Writer
from demo_tokens import PRISM
from whyrank.evidence import opening_text, parse
from whyrank.grounding import ground
from whyrank.tokens import EncodedDocument, PromptEncoder
from whyrank.types import Document

NATURAL = Path(__file__).parents[1] / "tests" / "data" / "demo" / "natural.toml"
_FAMILIES = ("relation", "event", "plain", "chinese")
_SHARES = (0.45, 0.25, 0.2, 0.1)
_CANDIDATES = 20

Pair = tuple[str, str]


# The model.


class Judge:
    """The checkpoint in plain transformers, in batches of like length."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_flush_denormal(True)
        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._encoder = PromptEncoder(PRISM, self._tokenizer.backend_tokenizer, 2048)

    def _ids(self, pair: Pair) -> list[int]:
        (row,) = self._encoder.encode(pair[0], [Document(pair[1])], None, "tail")
        assert isinstance(row, EncodedDocument)
        return list(row.prompts[0].ids)

    def margins(self, pairs: Sequence[Pair]) -> list[float]:
        """logit(yes) - logit(no) for each pair."""
        labels = self._encoder.labels
        assert labels is not None and labels.negative is not None
        rows = [self._ids(pair) for pair in pairs]
        found = [0.0] * len(rows)
        for part in _batches(rows, 64):
            with self._torch.inference_mode():
                # Padding stands on the right, and attention looks back only.
                table = self._padded([rows[i] for i in part], left=False)[0]
                last = self._torch.tensor([len(rows[i]) - 1 for i in part])
                hidden = self._model.model(input_ids=table).last_hidden_state[range(len(part)), last]
                logits = self._model.lm_head(hidden)
            for i, row in zip(part, logits, strict=True):
                found[i] = float(row[labels.positive] - row[labels.negative])
        return found

    def texts(self, pairs: Sequence[Pair]) -> list[str]:
        """The whole answers, greedily written from where whyrank lets them begin."""
        assert PRISM.continuation is not None
        opening = opening_text(PRISM.continuation)
        begun = list(self._encoder.encode_frame(opening))
        rows = [self._ids(pair) + begun for pair in pairs]
        found = [""] * len(rows)
        for part in _batches(rows, 32):
            table, mask = self._padded([rows[i] for i in part], left=True)
            with self._torch.inference_mode():
                written = self._model.generate(
                    input_ids=table,
                    attention_mask=mask,
                    max_new_tokens=200,
                    do_sample=False,
                    pad_token_id=self._tokenizer.pad_token_id,
                )
            for i, row in zip(part, written[:, table.shape[1] :].tolist(), strict=True):
                found[i] = opening + self._tokenizer.decode(row, skip_special_tokens=True)
        return found

    def _padded(self, rows: Sequence[list[int]], left: bool) -> tuple[Any, Any]:
        width = max(map(len, rows))
        gaps = [[0] * (width - len(row)) for row in rows]
        ids = [gap + row if left else row + gap for row, gap in zip(rows, gaps, strict=True)]
        mask = [gap + [1] * len(row) for row, gap in zip(rows, gaps, strict=True)]
        return self._torch.tensor(ids), self._torch.tensor(mask)


def _batches(rows: Sequence[list[int]], size: int) -> Iterable[list[int]]:
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return (order[at : at + size] for at in range(0, len(order), size))


# What it is held against.


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The chance that an answer scores higher than what is none."""
    ranked = sorted([(value, 1) for value in positive] + [(value, 0) for value in negative])
    below = won = 0.0
    at = 0
    while at < len(ranked):
        same = [kind for value, kind in ranked[at:] if value == ranked[at][0]] if _tied(ranked, at) else [ranked[at][1]]
        won += sum(same) * (below + 0.5 * (len(same) - sum(same)))
        below += len(same) - sum(same)
        at += len(same)
    return won / (len(positive) * len(negative))


def _tied(ranked: Sequence[tuple[float, int]], at: int) -> bool:
    return at + 1 < len(ranked) and ranked[at + 1][0] == ranked[at][0]


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


def label_figures(judge: Judge, questions: int) -> tuple[dict[str, Any], list[tuple[float, bool]]]:
    rows = labelled(questions, "label")
    margins = judge.margins([(s.query, s.document) for _, s in rows])
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


def natural_figures(judge: Judge) -> dict[str, float]:
    rows = natural()
    margins = judge.margins([pair for pair, _ in rows])
    index = Bm25(pair[1] for pair, _ in rows)
    matched = [index.score(*pair) for pair, _ in rows]

    def divided(scores: Sequence[float]) -> float:
        told = [(score, relevant) for score, (_, relevant) in zip(scores, rows, strict=True)]
        return auc([s for s, relevant in told if relevant], [s for s, relevant in told if not relevant])

    return {"auc": divided(margins), "bm25_auc": divided(matched)}


def ranking_figures(judge: Judge, queries: int) -> dict[str, float]:
    sets = candidates(queries, "ranking")
    index = Bm25(s.document for row in sets for s in row)
    margins = iter(judge.margins([(s.query, s.document) for row in sets for s in row]))
    ours, theirs = [], []
    for row in sets:
        ours.append(_ranked_ndcg(row, [next(margins) for _ in row]))
        theirs.append(_ranked_ndcg(row, [index.score(s.query, s.document) for s in row]))
    return {"ndcg@10": sum(ours) / len(ours), "bm25_ndcg@10": sum(theirs) / len(theirs)}


def _ranked_ndcg(row: Sequence[Sample], scores: Sequence[float]) -> float:
    order = sorted(range(len(row)), key=lambda i: -scores[i])
    return ndcg([row[i].relevant for i in order])


def evidence_figures(judge: Judge, questions: int, show: int) -> dict[str, float]:
    samples = [sample for _, sample in labelled(questions, "evidence") if sample.relevant]
    texts = judge.texts([(s.query, s.document) for s in samples])
    assert PRISM.continuation is not None
    complete = grounded = holding = same = 0
    for at, (sample, text) in enumerate(zip(samples, texts, strict=True)):
        parsed = parse(PRISM.continuation, text)
        evidence = parsed.texts.get("evidence", "").strip()
        complete += parsed.complete
        grounded += bool(evidence) and ground(evidence, sample.document, sample.query).supported >= 0.9
        holding += sample.answer.lower() in evidence.lower()
        same += evidence == sample.evidence
        if at < show:
            print(f"\nquery:    {sample.query}\nwanted:   {sample.evidence}\nwritten:  {text!r}", file=sys.stderr)
    n = len(samples)
    return {"complete": complete / n, "grounded": grounded / n, "holds_answer": holding / n, "as_wanted": same / n}


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


def plot(bins: Sequence[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, pane = pyplot.subplots(figsize=(4.5, 4.5))
    pane.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    pane.plot([b["score"] for b in bins], [b["answers"] for b in bins], marker="o")
    pane.set(
        xlabel="score", ylabel="share of answers", xlim=(0, 1), ylim=(0, 1), title="held-out questions, half answers"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--questions", type=int, default=400, help="held-out questions; half as many are ranked and quoted"
    )
    parser.add_argument("--no-evidence", action="store_true")
    parser.add_argument("--show", type=int, default=0, help="print so many answers with what was wanted")
    parser.add_argument("--plot", type=Path, help="write the calibration as a picture")
    asked = parser.parse_args()
    random.seed(0)
    began = time.monotonic()
    judge = Judge(asked.checkpoint)
    label, scored = label_figures(judge, asked.questions)
    figures: dict[str, Any] = {"label": label, "natural": natural_figures(judge), "calibration": calibration(scored)}
    print(json.dumps(figures["label"], indent=1), figures["natural"], file=sys.stderr)
    figures["ranking"] = ranking_figures(judge, asked.questions // 2)
    if not asked.no_evidence:
        figures["evidence"] = evidence_figures(judge, asked.questions // 2, asked.show)
    if asked.plot:
        plot(figures["calibration"], asked.plot)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    print(json.dumps(_rounded(figures)))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
