#!/usr/bin/env python3
"""One RAG step: search, rerank with evidence, pack what is relevant into a context for an LLM.

    examples/rag_pipeline.py "When does Ferry 14 leave from Pier 3?" --url http://localhost:8000

The first stage is BM25 over whyrank's own small corpus (pip install "whyrank[eval]"). No LLM takes part: the prompt that
one would get is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json

import bm25s

from whyrank import AsyncClient, Document, Packed
from whyrank.evaluation import HOUSE

PROMPT = """Answer the question from the sources alone, and cite them by their marks.

{context}

Question: {question}"""


def search(question: str, count: int) -> list[Document]:
    """The first stage. In your pipeline this is a vector database, a search engine, or both."""
    lines = (HOUSE / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    documents = [Document(row["text"], id=row["_id"]) for row in map(json.loads, lines)]
    index = bm25s.BM25()
    index.index(bm25s.tokenize([document.text for document in documents], show_progress=False), show_progress=False)
    (places,), _ = index.retrieve(bm25s.tokenize([question], show_progress=False), k=count, show_progress=False)
    return [documents[place] for place in places]


async def context_for(question: str, url: str) -> Packed:
    async with AsyncClient(url) as client:
        ranking = await client.rerank(
            question, search(question, 20), mode="evidence", evidence_top_n=3, deadline_ms=10_000
        )
    return ranking.pack(500, lambda text: len(text.split()))  # with an LLM: its own tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    parser.add_argument(
        "--url", default="http://localhost:8000", help="a whyrank server with a model that writes evidence"
    )
    arguments = parser.parse_args()
    packed = asyncio.run(context_for(arguments.question, arguments.url))
    if not packed.citations:
        print("No document is relevant: better no answer than one from nowhere.")
        return
    print(PROMPT.format(context=packed.text, question=arguments.question))
    print(f"\n{packed.tokens} words instead of {packed.raw_tokens}")


if __name__ == "__main__":
    main()
