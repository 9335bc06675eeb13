#!/usr/bin/env python3
"""Mode "spans": how often it finds the answer, and what it costs compared with scores alone.

    scripts/bench_spans.py                      # the embedded model; some two minutes on two cores
    scripts/bench_spans.py --model MODEL_DIR
    scripts/bench_spans.py | tail -n 1 | python -m json.tool

Quality: from the texts of scripts/house_corpus.toml, one document for each invented place, eleven sentences or more in random
order, and a question about each of its facts. Found means: the answer is in the first span, or in one of the first two.
Cost: calls with 50 documents of about 300 words, alternating with the same calls in mode "score"; medians of the ratios.
Progress goes to stderr; the last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pydoc_data.topics
import random
import statistics
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench_common import machine
from make_house_corpus import FACTS, HERE, capital
from whyrank import Reranker
from whyrank.config import DEMO
from whyrank.process import prepare_process

_DOCUMENTS, _WORDS = 50, 300
_CHOSEN = (5, 10, 20, 50)


@dataclass(frozen=True)
class Question:
    """`answer`: the text in the document that answers the query."""

    language: str
    query: str
    document: str
    answer: str


def questions(seed: int = 27) -> Iterator[Question]:
    source = tomllib.loads((HERE / "house_corpus.toml").read_text(encoding="utf-8"))
    chance = random.Random(seed)
    for turn, (language, templates) in enumerate(source["languages"].items()):
        for place, name in enumerate(templates["names"]):
            values = {key: row[(place + turn) % len(row)] for key, row in source["facts"].items()} | {"name": name}
            texts = {fact: capital(chance.choice(templates[fact]["texts"]).format(**values)) for fact in FACTS}
            parts = [*texts.values(), capital(templates["teaser"].format(**values))]
            chance.shuffle(parts)
            document = ("" if language in ("zh", "ja") else " ").join(parts)
            for fact in FACTS:
                query = capital(templates[fact]["query"].format(**values))
                yield Question(language, query, document, texts[fact])


async def quality(reranker: Reranker) -> dict[str, Any]:
    """Shares of the questions whose answer overlaps the first span, and one of the first two."""
    hits: dict[str, list[tuple[bool, bool]]] = {}
    for number, question in enumerate(questions(), 1):
        options = {"mode": "spans", "evidence_min_score": 0.0, "span_min_score": 0.0, "max_spans": 2}
        (row,) = await reranker.score(question.query, [question.document], **options)  # type: ignore[arg-type]
        overlaps = [_overlaps(question, span.start, span.end) for span in row.spans or ()]
        hits.setdefault(question.language, []).append((any(overlaps[:1]), any(overlaps)))
        if number % 50 == 0:
            print(f"{number} questions", file=sys.stderr)
    every = [hit for of_language in hits.values() for hit in of_language]
    return {
        "questions": len(every),
        "answer_in_first": round(statistics.mean(first for first, _ in every), 3),
        "answer_in_first_two": round(statistics.mean(second for _, second in every), 3),
        "by_language": {name: round(statistics.mean(second for _, second in of), 3) for name, of in hits.items()},
    }


def _overlaps(question: Question, start: int, end: int) -> bool:
    """Whether the span contains at least half of the answer, or lies within it."""
    at = question.document.index(question.answer)
    common = min(end, at + len(question.answer)) - max(start, at)
    return common >= min(end - start, len(question.answer)) / 2


async def cost(reranker: Reranker, repeats: int) -> dict[str, float]:
    words = " ".join(pydoc_data.topics.topics.values()).split()
    chance, ratios = random.Random(3), dict[str, float]()
    for chosen in _CHOSEN:
        taken = []
        for repeat in range(repeats + 1):
            documents = [_text(words, chance) for _ in range(_DOCUMENTS)]
            spans = await _timed(
                reranker, f"question {chosen} {repeat} a?", documents, mode="spans", evidence_top_n=chosen
            )
            documents = [_text(words, chance) for _ in range(_DOCUMENTS)]
            scores = await _timed(reranker, f"question {chosen} {repeat} b?", documents)
            if repeat:  # the first one is the warm-up
                taken.append(spans / scores)
        ratios[str(chosen)] = round(statistics.median(taken), 3)
        print(f"{chosen} chosen: {ratios[str(chosen)]} x the time of scores alone", file=sys.stderr)
    return ratios


def _text(words: list[str], chance: random.Random) -> str:
    start = chance.randrange(len(words) - _WORDS)
    return " ".join(words[start : start + _WORDS])


async def _timed(reranker: Reranker, query: str, documents: list[str], **options: Any) -> float:
    began = time.perf_counter()
    await reranker.rerank(query, documents, evidence_min_score=0.0, span_min_score=0.0, **options)
    return time.perf_counter() - began


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    async with Reranker(options.model, kv_cache_gib=options.kv_cache_gib) as reranker:
        return {
            "machine": machine(),
            "model": options.model,
            "quality": await quality(reranker),
            "time_over_scores_alone_by_chosen": await cost(reranker, options.repeats),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kv-cache-gib", type=float, default=1.0)
    options = parser.parse_args()
    prepare_process()
    print(json.dumps(asyncio.run(measure(options))))


if __name__ == "__main__":
    main()
