#!/usr/bin/env python3
"""Reranks a company's small handbook for a few questions, and says why. scripts/demo runs it."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from pathlib import Path

from rich.rule import Rule

from whyrank import Reranker
from whyrank.cli import render
from whyrank.cli.terminal import Terminal
from whyrank.events import EvidenceDone
from whyrank.process import prepare_process
from whyrank.types import Document

CORPUS = Path(__file__).with_name("demo_corpus.jsonl")
QUERIES = (
    "Who founded Harbour Systems?",
    "I lost my badge, what does a new one cost?",
    "Can we deploy on a Friday?",
    "林海公司成立于哪一年？",
    "What is the dress code?",
)
SHOWN = 4

INTRO = (
    "[bold]whyrank[/] reads {documents} pages of a handbook for {queries} questions: a score for every page, and for the best "
    "one what it contributes and the passage that says it. The engine is vLLM; the model is the small one that comes with "
    "whyrank. It has four million parameters, so it errs where a question is put in quite other words. No page answers "
    "the last question.\n"
)
OUTRO = (
    "{pairs} scores and {passages} passages in {seconds:.1f} s, after {start:.0f} s of starting up. One page is hostile: it "
    'holds the model\'s own control tokens and an answer "yes". They were read as plain text. Nothing came from the cache: '
    "this model reads what its prompts share as fewer tokens than a block of the cache holds.\n"
)
NEXT = {
    "the same model on your own pages": 'whyrank rerank -q "your question" -d your_documents.jsonl',
    "a model that understands": 'whyrank rerank -m Qwen/Qwen3-Reranker-0.6B -q "..." -d ...',
    "can a checkpoint be trusted as served?": "whyrank doctor Qwen/Qwen3-Reranker-0.6B",
    "a server, with a page to try it on at http://localhost:8000/playground": "whyrank serve demo",
}


async def main() -> None:
    console = Terminal()
    documents = [Document.of(json.loads(line), CORPUS.name) for line in CORPUS.read_text("utf-8").splitlines()]
    console.print(INTRO.format(documents=len(documents), queries=len(QUERIES)))
    async with AsyncExitStack() as stack:
        began = time.monotonic()
        with render.waiting("starting the engine (vLLM), some ten seconds"):
            reranker = await stack.enter_async_context(Reranker("demo", kv_cache_gib=0.5))
        ready, passages = time.monotonic(), 0
        for query in QUERIES:
            passages += await show(console, reranker, query, documents)
        done = time.monotonic()
    pairs = len(QUERIES) * len(documents)
    console.print(Rule(style="dim"))
    console.print(OUTRO.format(pairs=pairs, passages=passages, seconds=done - ready, start=ready - began))
    console.print("[bold]What next?[/]")
    for what, command in NEXT.items():
        console.print(f"  {what}\n    [cyan].venv/bin/{command}[/]", highlight=False)


async def show(console: Terminal, reranker: Reranker, query: str, documents: list[Document]) -> int:
    """Shows one question: its table, then the evidence for the best page as it is written. Returns how many passages were."""
    passages = 0
    with render.show_ranking(console, query) as tell:
        async for event in reranker.stream(query, documents, top_n=SHOWN, mode="evidence", evidence_top_n=1):
            passages += isinstance(event, EvidenceDone)
            tell(event)
    console.print()
    return passages


if __name__ == "__main__":
    prepare_process()
    asyncio.run(main())
