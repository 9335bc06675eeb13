"""The command rerank: documents from arguments, files or stdin, and the answer as a table or as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from whyrank.cli import render
from whyrank.cli.common import ApiKey, AsJson, OptionalModel, Url, app, demo_model, opened, reported
from whyrank.cli.flags import Flags, flags_of
from whyrank.cli.terminal import Terminal, json_text
from whyrank.config import EngineConfig
from whyrank.connect import RerankerContext, open_reranker
from whyrank.errors import InvalidRequest
from whyrank.events import Event, Finished, Scored
from whyrank.process import prepare_process
from whyrank.request import RerankRequest
from whyrank.types import Document, DocumentLike
from whyrank.wire.responses import event_to_dict, ranking_to_dict

__all__: list[str] = []


@app.command()
@flags_of("options", RerankRequest)
@flags_of("engine", EngineConfig)
def rerank(
    query: Annotated[str, typer.Option("--query", "-q", help="What the documents should be relevant to.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Documents, one per argument.")] = None,
    documents: Annotated[
        str | None, typer.Option("--documents", "-d", help="A file of JSON lines or plain lines; - for stdin.")
    ] = None,
    model: OptionalModel = None,
    url: Url = None,
    api_key: ApiKey = None,
    *,
    options: Flags,
    engine: Flags,
    as_json: AsJson = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="One JSON event per line on stdout, as it happens.")
    ] = False,
) -> None:
    """Score documents against a query and order them, best first.

    `whyrank rerank -q "boiling point of water" "Water boils at 100 °C." "Everest is high."`

    `whyrank rerank -m Qwen/Qwen3-Reranker-0.6B -q QUERY -d documents.jsonl`

    `whyrank rerank -m MODEL -q QUERY -d documents.jsonl --top-n 5 --json | jq .results`

    `whyrank rerank -m infgrad/Prism-Qwen3.5-Reranker-0.8B -q QUERY -d documents.jsonl --mode evidence`

    `whyrank rerank --url http://localhost:8000 --api-key SECRET -q QUERY -d documents.jsonl`

    A file holds JSON lines (`{"text": ..., "id": ..., "title": ..., "metadata": {...}}`) or one document per line.
    Exit code 1 if a document has no score; its row says why.
    """
    with reported() as stdout:
        if model is None and not url:
            model = demo_model("--model Qwen/Qwen3-Reranker-0.6B")
        connection = open_reranker(model, url or (), api_key, engine)
        candidates = _documents(texts or [], documents)
        RerankRequest.of(query, candidates, **options)  # what is wrong is said before an engine starts
        prepare_process()
        show = (
            _show_json(stdout, as_jsonl) if as_json or as_jsonl else render.show_ranking(Terminal(file=stdout), query)
        )
        failed = asyncio.run(_rerank(connection, model or "the client", query, candidates, options, show))
    if failed:
        raise typer.Exit(1)


async def _rerank(
    connection: RerankerContext,
    name: str,
    query: str,
    documents: list[DocumentLike],
    options: Flags,
    show: render.Show,
) -> bool:
    """Whether a document has no score."""
    failed = False
    async with opened(connection, name) as reranker, aclosing(reranker.stream(query, documents, **options)) as events:
        with render.progress("scoring", len(documents)) as scored, show as on_event:
            async for event in events:
                if isinstance(event, Scored):
                    scored()
                elif isinstance(event, Finished):
                    failed = any(row.error for row in event.ranking.results)
                on_event(event)
    return failed


@contextmanager
def _show_json(stdout: Any, every: bool) -> Iterator[Callable[[Event], None]]:
    """Prints every event as a line of JSON, or the final ranking as one JSON document."""

    def on_event(event: Event) -> None:
        if every:
            print(json_text(event_to_dict(event)), file=stdout, flush=True)
        elif isinstance(event, Finished):
            print(json_text(ranking_to_dict(event.ranking)), file=stdout)

    yield on_event


def _documents(texts: list[str], source: str | None) -> list[DocumentLike]:
    if texts and source:
        raise InvalidRequest("documents: give them as arguments or with --documents, not both")
    if source is None:
        return list(texts)
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except OSError as cause:
        raise InvalidRequest(f"--documents {source}: {cause.strerror}") from cause
    except UnicodeDecodeError as cause:
        raise InvalidRequest(f"--documents {source}: not UTF-8 text ({cause.reason} at byte {cause.start})") from cause
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered or not numbered[0][1].lstrip().startswith("{"):
        return [line.rstrip("\r") for _, line in numbered]
    return [_json_line(line, f"{source}, line {number}") for number, line in numbered]


def _json_line(line: str, where: str) -> Document:
    try:
        return Document.of(json.loads(line), where)
    except json.JSONDecodeError as cause:
        raise InvalidRequest(f"{where}: not JSON ({cause.msg}), although the first line is an object") from cause
