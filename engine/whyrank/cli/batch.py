"""The command batch: runs `whyrank.batch` with the command's options and prints a summary."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from whyrank.batch import Tally, answer_file, check_outputs, count_rows, rejects_beside, rerank_file
from whyrank.cli import render
from whyrank.cli.common import ApiKey, AsJson, OptionalModel, Url, app, kept, opened, reported
from whyrank.cli.flags import Flags, flags_of
from whyrank.cli.terminal import Terminal, json_text
from whyrank.client.retry import RetryPolicy
from whyrank.config import EngineConfig
from whyrank.connect import RerankerContext, open_reranker
from whyrank.errors import InvalidRequest, RetryableError
from whyrank.process import prepare_process
from whyrank.request import RerankRequest

__all__ = ["PATIENCE", "Waiting"]

# A batch is not interactive: a server may be slow, or unreachable for a while.
_PATIENCE_SECONDS = 600.0
_SECONDS_BETWEEN_WORDS = 30.0


class Waiting:
    """Prints from time to time, not for each row, which server the batch waits for and why."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._next = clock, 0.0

    def __call__(self, url: str, error: RetryableError) -> None:
        if (now := self._clock()) < self._next:
            return
        self._next = now + _SECONDS_BETWEEN_WORDS
        why = str(error).removeprefix(f"{url}: ")
        summary = f"waiting for {url}, at most {_PATIENCE_SECONDS:.0f} seconds per row: {why}"
        Terminal(stderr=True).print(summary, style="yellow", highlight=False, markup=False, soft_wrap=True)


PATIENCE: Mapping[str, Any] = {"timeout": _PATIENCE_SECONDS, "retry": RetryPolicy(sys.maxsize, waits=Waiting())}
"""Options of the client. The number of attempts is not limited, only their time."""

MaxConcurrency = Annotated[int, typer.Option(min=1, help="Rows in progress, and in memory, at the same time.")]
OnRay = Annotated[
    bool, typer.Option("--ray", help="By engines on a Ray cluster (docs/cluster.md). Needs whyrank[ray].")
]
Engines = Annotated[int, typer.Option(min=1, help="With --ray: how many.")]


@app.command()
@flags_of("options", RerankRequest)
@flags_of("engine", EngineConfig)
def batch(
    source: Annotated[Path, typer.Argument(metavar="INPUT.jsonl", help="One request per line.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.jsonl", help="One answer per line, in the same order.")],
    model: OptionalModel = None,
    url: Url = None,
    api_key: ApiKey = None,
    rejects: Annotated[
        Path | None, typer.Option(help="For rows that cannot be answered: OUTPUT.rejects.jsonl by default.")
    ] = None,
    max_concurrency: MaxConcurrency = 32,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier output instead of resuming.")] = False,
    on_ray: OnRay = False,
    engines: Engines = 1,
    *,
    options: Flags,
    engine: Flags,
    as_json: AsJson = False,
) -> None:
    """Answer a file of requests. If stopped or killed, the same command resumes.

    `whyrank batch requests.jsonl answers.jsonl --url http://localhost:8000`

    `whyrank batch requests.jsonl answers.jsonl -m Qwen/Qwen3-Reranker-0.6B --top-n 5`

    `whyrank batch requests.jsonl answers.jsonl --url http://a:8000 --url http://b:8000 --mode evidence --json`

    A line of INPUT: `{"query": "...", "documents": ["...", {"text": "...", "id": "d2"}], "id": "q1", "top_n": 3}`; options in
    a row take precedence over those of the command. A line of OUTPUT: what `whyrank rerank --json` prints, with the input
    line's number as `row`, its `hash` and its `id`. Exit code 1 if rows were rejected (the rejects file has the lines and the
    reasons) or a document in OUTPUT has no score (its `error` says why).
    """
    with reported() as stdout:
        RerankRequest.of("query", ["document"], **options)
        files = _files(source, output, rejects)
        if on_ray:
            work = _answer_on_ray(_config_on_ray(model, url, engine), files, options, engines, fresh)
        else:
            connection = open_reranker(model, url or (), api_key, engine, **PATIENCE)
            work = _answer(connection, model or "the client", files, options, max_concurrency, fresh)
        prepare_process()
        with kept("answered"):
            tally = asyncio.run(work)
        _show(Terminal(file=stdout), tally, files, as_json)
    if tally.rejected or tally.documents_without_score:
        raise typer.Exit(1)


def _files(source: Path, output: Path, rejects: Path | None) -> tuple[Path, Path, Path]:
    files = (source, output, rejects or rejects_beside(output))
    if len({path.resolve() for path in files}) < len(files):
        raise InvalidRequest("input, output and rejects must be three different files")
    return files


def _config_on_ray(model: str | None, urls: list[str] | None, engine: Flags) -> EngineConfig:
    if model is None or urls:
        raise InvalidRequest("--ray: the engines are started on the cluster: give --model, and no --url")
    return EngineConfig(model, **engine)


async def _answer_on_ray(
    config: EngineConfig, files: tuple[Path, Path, Path], options: Flags, engines: int, fresh: bool
) -> Tally:
    from whyrank.cluster.ray_data import answer_rows

    answer = answer_rows(config, options, engines=engines)
    count = count_rows(files[0])
    check_outputs(*files[1:])
    with render.progress("rows", count) as on_progress:
        return await answer_file(*files, answer, options, on_progress, fresh)


async def _answer(
    connection: RerankerContext,
    name: str,
    files: tuple[Path, Path, Path],
    options: Flags,
    max_concurrency: int,
    fresh: bool,
) -> Tally:
    count = count_rows(files[0])
    check_outputs(*files[1:])
    async with opened(connection, name) as reranker:
        with render.progress("rows", count) as on_progress:
            return await rerank_file(*files, reranker, options, max_concurrency, on_progress, fresh)


def _show(console: Terminal, tally: Tally, files: tuple[Path, Path, Path], as_json: bool) -> None:
    _, output, rejects = files
    if as_json:
        summary = {**asdict(tally), "output": str(output), "rejects": str(rejects) if tally.rejected else None}
        console.file.write(json_text(summary) + "\n")
        return
    console.print(f"{tally.answered} rows answered: {output}", highlight=False, markup=False, soft_wrap=True)
    if tally.rejected:
        console.print(f"{tally.rejected} rows rejected: {rejects}", highlight=False, markup=False, soft_wrap=True)
    if tally.documents_without_score:
        failed = f"{tally.documents_without_score} documents without a score: their 'error' in {output} says why"
        console.print(failed, highlight=False, markup=False, soft_wrap=True)
