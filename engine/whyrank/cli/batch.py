"""The command batch: options in, batch.py's work, a line about it out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from whyrank.batch import Tally, count_rows, rejects_beside, rerank_file
from whyrank.cli import render
from whyrank.cli.common import (
    DEFAULTS,
    ApiKey,
    AsJson,
    Calibration,
    DtypeOption,
    KvCache,
    MaxLength,
    OptionalModel,
    Prompt,
    Revision,
    RouteOption,
    TrustRemoteCode,
    Url,
    app,
    choice,
    opened,
    reported,
)
from whyrank.cli.terminal import Terminal, json_text
from whyrank.client.retry import RetryPolicy
from whyrank.connect import RerankerContext, open_reranker
from whyrank.errors import InvalidRequest, RetryableError
from whyrank.process import prepare_process
from whyrank.request import Mode, RerankOptions, RerankRequest

__all__: list[str] = []

# Nobody waits in front of a batch: a server may take its time, and be away for a moment.
_PATIENCE_SECONDS, _ATTEMPTS = 600.0, 10


@app.command()
def batch(
    source: Annotated[Path, typer.Argument(metavar="INPUT.jsonl", help="One request a line.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.jsonl", help="One answer a line, in the same order.")],
    model: OptionalModel = None,
    url: Url = None,
    api_key: ApiKey = None,
    rejects: Annotated[
        Path | None, typer.Option(help="For rows that cannot be answered: OUTPUT.rejects.jsonl by default.")
    ] = None,
    max_concurrency: Annotated[int, typer.Option(min=1, help="Rows under way, and in memory, at once.")] = 32,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away an earlier output, instead of going on.")] = False,
    instruction: Annotated[str | None, typer.Option(help="For rows that say no other; so with the next ones.")] = None,
    top_n: Annotated[int | None, typer.Option(help="Only the best N.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Only scores from here up (0 to 1).")] = None,
    mode: Annotated[str, typer.Option(metavar=choice(Mode), help="evidence: also write why, for the best.")] = "score",
    evidence_top_n: Annotated[int, typer.Option(help="How many documents evidence is written for, at most.")] = 5,
    evidence_min_score: Annotated[float, typer.Option(help="... and from which score up.")] = 0.5,
    prompt: Prompt = DEFAULTS["prompt"],
    route: RouteOption = DEFAULTS["route"],
    revision: Revision = DEFAULTS["revision"],
    dtype: DtypeOption = DEFAULTS["dtype"],
    max_length: MaxLength = DEFAULTS["max_length"],
    kv_cache_gib: KvCache = DEFAULTS["kv_cache_gib"],
    trust_remote_code: TrustRemoteCode = DEFAULTS["trust_remote_code"],
    calibration: Calibration = DEFAULTS["calibration"],
    as_json: AsJson = False,
) -> None:
    """Answer a file of requests. Stopped or killed, it goes on where it was when it is called again.

    `whyrank batch requests.jsonl answers.jsonl --url http://localhost:8000`

    `whyrank batch requests.jsonl answers.jsonl -m Qwen/Qwen3-Reranker-0.6B --top-n 5`

    `whyrank batch requests.jsonl answers.jsonl --url http://a:8000 --url http://b:8000 --mode evidence --json`

    A line of INPUT: `{"query": "...", "documents": ["...", {"text": "...", "id": "d2"}], "id": "q1", "top_n": 3}`; what a row
    says goes before the options here. A line of OUTPUT: what `whyrank rerank --json` prints, with the input line's number as
    `row`, its `hash` and its `id`. Exit code 1 where rows were rejected; the rejects file says why and holds the lines.
    """
    with reported() as stdout:
        engine = (prompt, route, revision, dtype, max_length, kv_cache_gib, trust_remote_code, calibration)
        patience = {"timeout": _PATIENCE_SECONDS, "retry": RetryPolicy(_ATTEMPTS)}
        connection = open_reranker(model, url or (), api_key, engine, **patience)
        options: RerankOptions = {
            "instruction": instruction,
            "top_n": top_n,
            "min_score": min_score,
            "mode": mode,  # type: ignore[typeddict-item]
            "evidence_top_n": evidence_top_n,
            "evidence_min_score": evidence_min_score,
        }
        RerankRequest.of("query", ["document"], **options)
        files = (source, output, rejects or rejects_beside(output))
        if len({path.resolve() for path in files}) < len(files):
            raise InvalidRequest("input, output and rejects must be three different files")
        if fresh:
            for path in files[1:]:
                path.unlink(missing_ok=True)
        prepare_process()
        tally = asyncio.run(_answer(connection, model or "the client", files, options, max_concurrency))
        _show(Terminal(file=stdout), tally, files, as_json)
    if tally.rejected:
        raise typer.Exit(1)


async def _answer(
    connection: RerankerContext, name: str, files: tuple[Path, Path, Path], options: RerankOptions, max_concurrency: int
) -> Tally:
    count = count_rows(files[0])
    async with opened(connection, name) as reranker:
        with render.progress("rows", count) as on_progress:
            try:
                return await rerank_file(*files, reranker, options, max_concurrency, on_progress)
            except RetryableError as error:
                error.args = (f"{error}; what was answered is kept: the same command goes on from there",)
                raise


def _show(console: Terminal, tally: Tally, files: tuple[Path, Path, Path], as_json: bool) -> None:
    _, output, rejects = files
    if as_json:
        summary = {"answered": tally.answered, "rejected": tally.rejected, "output": str(output)}
        console.file.write(json_text({**summary, "rejects": str(rejects) if tally.rejected else None}) + "\n")
        return
    console.print(f"{tally.answered} rows answered: {output}", highlight=False, markup=False, soft_wrap=True)
    if tally.rejected:
        console.print(f"{tally.rejected} rows rejected: {rejects}", highlight=False, markup=False, soft_wrap=True)
