#!/usr/bin/env python3
"""Twenty agents at once. Each handles one question after another: search, rerank with evidence, pack what an LLM would read.

    examples/agent_loop.py --url http://localhost:8000
    examples/agent_loop.py --model infgrad/Prism-Qwen3.5-Reranker-0.8B --deadline-ms 5000

The first stage is BM25 over whyrank's own small corpus (pip install "whyrank[eval]"). Every answer comes within the
deadline, with what exists by then: a step is "degraded" if that is less than was requested, and "no time" if nothing was
ready. Without --deadline-ms one question is timed first, so that the deadline fits the machine. No LLM takes part; the
place where one would read the packed context is marked. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from whyrank import AsyncClient, BaseReranker, Document, Overloaded, Packed, Ranking, Reranker, Unreachable
from whyrank.evaluation import HOUSE

# A word; Chinese and Japanese, which have no spaces, character by character.
WORD = r"(?u)[^\W\u3040-\u9fff]+|[\u3040-\u9fff]"
MIN_DEADLINE_MS = 2000.0
# The deadline for the one question that is timed: a machine that takes longer is too slow for this example.
TIMED_DEADLINE_MS = 60_000.0


class Shelf:
    """The first stage: finds texts that share words with the question."""

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
    """`error`: why there is no answer at all, if the server had none in time."""

    question: str
    packed: Packed
    degraded: bool
    milliseconds: float
    error: Unreachable | Overloaded | None = None

    @property
    def outcome(self) -> str:
        """What is cited; if nothing is, "nothing relevant" only if everything that was requested was read."""
        if self.packed.citations:
            cites = " ".join(citation.id or "" for citation in self.packed.citations)
            return f"{cites} (degraded)" if self.degraded else cites
        return "no time" if self.degraded else "nothing relevant"


async def agent(
    reranker: BaseReranker,
    shelf: Shelf,
    questions: Sequence[str],
    options: argparse.Namespace,
    on_progress: Callable[[], None],
) -> list[Step]:
    steps = []
    for question in questions:
        steps.append(await step(reranker, shelf, question, options))
        # Here an LLM reads packed.text, cites by its marks, and decides what to look for next.
        on_progress()
    return steps


async def step(reranker: BaseReranker, shelf: Shelf, question: str, options: argparse.Namespace) -> Step:
    """Handles one question. If it gets no answer in time, the other questions still get theirs."""
    start = time.perf_counter()
    packed, degraded, error = Packed("", (), 0, 0), True, None
    try:
        ranking = await rerank(reranker, shelf, question, options, options.min_score, options.deadline_ms)
        degraded = ranking.degraded
        packed = ranking.pack(options.max_tokens, lambda text: len(text.split()))  # with an LLM: its own tokenizer
    except (Unreachable, Overloaded) as no_answer:
        error = no_answer
    return Step(question, packed, degraded, 1000 * (time.perf_counter() - start), error)


async def rerank(
    reranker: BaseReranker,
    shelf: Shelf,
    question: str,
    options: argparse.Namespace,
    min_score: float,
    deadline_ms: float,
) -> Ranking:
    return await reranker.rerank(
        question,
        shelf.search(question, options.candidates),
        mode="evidence",
        evidence_top_n=options.top_n,
        evidence_min_score=min_score,
        deadline_ms=deadline_ms,
    )


async def fitting_deadline(reranker: BaseReranker, shelf: Shelf, question: str, options: argparse.Namespace) -> float:
    """In ms: long enough for the last agent, even if the machine answers all of them one after another."""
    start = time.perf_counter()
    await rerank(reranker, shelf, question, options, 0, TIMED_DEADLINE_MS)
    agents: int = options.agents
    return max(MIN_DEADLINE_MS, 1000 * (time.perf_counter() - start) * agents)


async def run(options: argparse.Namespace) -> list[list[Step]]:
    """The steps of every agent. The agents share one client, whose calls share the engine."""
    corpus, queries = (_lines(HOUSE / name) for name in ("corpus.jsonl", "queries.jsonl"))
    shelf = Shelf([Document(line["text"], id=line["_id"]) for line in corpus])
    # The questions are dealt out to the agents in turn, and start over when there are no more.
    count = options.agents * options.questions
    questions = [queries[place % len(queries)]["text"] for place in range(count)]
    async with AsyncClient(options.url, options.api_key) if options.url else Reranker(options.model) as reranker:
        options.deadline_ms = options.deadline_ms or await fitting_deadline(reranker, shelf, questions[-1], options)
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("questions", total=count)
            shares = (questions[first :: options.agents] for first in range(options.agents))
            agents = (agent(reranker, shelf, share, options, lambda: bar.advance(task)) for share in shares)
            return await asyncio.gather(*agents)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table_of(steps: Sequence[Step]) -> Table:
    table = Table("question", "read", "instead of", "cites", "ms", title=f"{len(steps)} questions, words")
    for step in steps:
        read, raw = str(step.packed.tokens), str(step.packed.raw_tokens)
        table.add_row(step.question, read, raw, step.outcome, f"{step.milliseconds:.0f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", action="append", help="a whyrank server; several with one model")
    source.add_argument("--model", help="or a folder or hub name, to load here")
    parser.add_argument("--api-key", default=os.environ.get("WHYRANK_API_KEY"))
    parser.add_argument("--agents", type=int, default=20)
    parser.add_argument("--questions", type=int, default=3, help="of each agent")
    parser.add_argument("--candidates", type=int, default=20, help="documents of the first stage")
    parser.add_argument("--top-n", type=int, default=3, help="documents that evidence is written for")
    parser.add_argument("--min-score", type=float, default=0.5)
    parser.add_argument("--deadline-ms", type=float, help="of each question; by default what fits the machine")
    parser.add_argument("--max-tokens", type=int, default=200, help="words of a packed context")
    arguments = parser.parse_args()
    steps = [step for steps in asyncio.run(run(arguments)) for step in steps]
    errors = [step.error for step in steps if step.error]
    if len(errors) == len(steps):
        raise errors[0]
    Console().print(table_of(steps))
    seconds = sorted(step.milliseconds for step in steps)
    outcomes = [step.outcome for step in steps]
    summary = {
        "questions": len(steps),
        "answered": sum(bool(step.packed.citations) for step in steps),
        "nothing_relevant": outcomes.count("nothing relevant"),
        "no_time": outcomes.count("no time"),
        "degraded": sum(step.degraded for step in steps),
        "deadline_ms": round(arguments.deadline_ms, 1),
        "median_ms": round(statistics.median(seconds), 1),
        "slowest_ms": round(seconds[-1], 1),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
