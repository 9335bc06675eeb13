#!/usr/bin/env python3
"""Twenty agents at once: each asks its questions one after another, searches, reranks with evidence, and packs what to read.

    examples/agent_loop.py --url http://localhost:8000
    examples/agent_loop.py --model infgrad/Prism-Qwen3.5-Reranker-0.8B --deadline-ms 5000

The first stage is BM25 over whyrank's own small corpus (pip install "whyrank[examples]"). Every answer comes within the
deadline, with what exists by then: a step is degraded where that is less than was asked for. No LLM takes part; the place
where one would read the packed context is marked. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
from rich.console import Console
from rich.table import Table

from whyrank import Document
from whyrank.cli.render import progress
from whyrank.evaluation.presets import HOUSE
from whyrank.opening import open_either
from whyrank.packing import Packed
from whyrank.verbs import Verbs

# A word; Chinese and Japanese, which have no spaces, sign by sign.
WORD = r"(?u)[^\W\u3040-\u9fff]+|[\u3040-\u9fff]"


class Shelf:
    """The first stage: finds what shares words with the question."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents
        self.index = bm25s.BM25()
        self.index.index(_words([document.text for document in documents]), show_progress=False)

    def search(self, question: str, count: int) -> list[Document]:
        count = min(count, len(self.documents))
        (places,), _ = self.index.retrieve(_words([question]), k=count, show_progress=False)
        return [self.documents[place] for place in places]


def _words(texts: Sequence[str]) -> Any:
    return bm25s.tokenize(list(texts), token_pattern=WORD, stopwords=None, show_progress=False)


@dataclass(frozen=True, slots=True)
class Step:
    question: str
    packed: Packed
    degraded: bool
    milliseconds: float


async def agent(
    reranker: Verbs, shelf: Shelf, questions: Sequence[str], asked: argparse.Namespace, told: Callable[[], None]
) -> list[Step]:
    steps = []
    for question in questions:
        began = time.perf_counter()
        found = shelf.search(question, asked.candidates)
        ranking = await reranker.rerank(
            question,
            found,
            mode="evidence",
            evidence_top_n=asked.top_n,
            evidence_min_score=asked.min_score,
            deadline_ms=asked.deadline_ms,
        )
        packed = ranking.pack(asked.max_tokens, lambda text: len(text.split()))  # with an LLM: its own tokenizer
        # Here an LLM reads packed.text, cites by its marks, and says what to ask next.
        steps.append(Step(question, packed, ranking.degraded, 1000 * (time.perf_counter() - began)))
        told()
    return steps


async def run(asked: argparse.Namespace) -> list[list[Step]]:
    """The steps of every agent. Agents share one client, whose calls share the engine."""
    corpus, queries = (_lines(HOUSE / name) for name in ("corpus.jsonl", "queries.jsonl"))
    shelf = Shelf([Document(line["text"], id=line["_id"]) for line in corpus])
    # The agents take turns with the questions, and begin anew when there are no more.
    count = asked.agents * asked.questions
    questions = [queries[place % len(queries)]["text"] for place in range(count)]
    async with open_either(asked.model, asked.url, asked.api_key, ()) as reranker:
        with progress("questions", count) as told:
            shares = (questions[first :: asked.agents] for first in range(asked.agents))
            return await asyncio.gather(*(agent(reranker, shelf, share, asked, told) for share in shares))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table_of(steps: Sequence[Step]) -> Table:
    table = Table("question", "read", "instead of", "cites", "ms", title=f"{len(steps)} questions, words")
    for step in steps:
        cites = " ".join(citation.id or "" for citation in step.packed.citations) or "nothing relevant"
        read, raw = str(step.packed.tokens), str(step.packed.raw_tokens)
        table.add_row(step.question, read, raw, cites + " (degraded)" * step.degraded, f"{step.milliseconds:.0f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", action="append", default=[], help="a whyrank server; several with one model")
    parser.add_argument("--api-key")
    parser.add_argument("--model", help="or a folder or hub name, to load here")
    parser.add_argument("--agents", type=int, default=20)
    parser.add_argument("--questions", type=int, default=3, help="of each agent")
    parser.add_argument("--candidates", type=int, default=20, help="documents of the first stage")
    parser.add_argument("--top-n", type=int, default=3, help="documents that evidence is written for")
    parser.add_argument("--min-score", type=float, default=0.5)
    parser.add_argument("--deadline-ms", type=float, default=2000.0)
    parser.add_argument("--max-tokens", type=int, default=200, help="words of a packed context")
    steps = [step for steps in asyncio.run(run(parser.parse_args())) for step in steps]
    Console().print(table_of(steps))
    seconds = sorted(step.milliseconds for step in steps)
    summary = {
        "questions": len(steps),
        "answered": sum(bool(step.packed.citations) for step in steps),
        "degraded": sum(step.degraded for step in steps),
        "median_ms": round(statistics.median(seconds), 1),
        "slowest_ms": round(seconds[-1], 1),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
