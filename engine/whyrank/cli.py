"""The command `whyrank`. Thin: options in, one call, rendering out."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.markup import escape

from whyrank import render
from whyrank.config import Dtype, EngineConfig
from whyrank.errors import InvalidRequest, WhyrankError
from whyrank.events import Event, Finished, Scored
from whyrank.formats import PROMPTS, Route, builtin_formats
from whyrank.opening import API_KEY_VARIABLE, Opening, open_either
from whyrank.requests import Mode, RerankOptions, RerankRequest
from whyrank.types import Document, DocumentLike, TruncationPolicy
from whyrank.wire import RankingBody, event_document

__all__ = ["app"]

app = typer.Typer(
    help="Rerank documents with generative rerankers on vLLM.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(EngineConfig)}


def _choice(values: Any) -> str:
    return "[" + "|".join(get_args(values)) + "]"


Model = Annotated[str, typer.Option("--model", "-m", help="A folder or a hub name, e.g. Qwen/Qwen3-Reranker-0.6B.")]
OptionalModel = Annotated[
    str | None, typer.Option("--model", "-m", help="A folder or a hub name, to load in this process.")
]
Url = Annotated[
    list[str] | None, typer.Option("--url", help="Or a whyrank server to ask; more than once: several with one model.")
]
ApiKey = Annotated[str | None, typer.Option(help=f"The server's; {API_KEY_VARIABLE} where this is not given.")]
Prompt = Annotated[str | None, typer.Option(help="A prompt's name (see `whyrank formats`) or a TOML file of your own.")]
RouteOption = Annotated[
    str | None, typer.Option("--route", metavar=_choice(Route), help="The prompt's first by default.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
DtypeOption = Annotated[str, typer.Option("--dtype", metavar=_choice(Dtype), help="auto: what the device does best.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens of a prompt; the prompt file's by default.")]
KvCache = Annotated[float | None, typer.Option(help="GiB for the prefix cache on a CPU.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the Python code that the checkpoint brings.")
]
Calibration = Annotated[str | None, typer.Option(metavar="FILE", help="What `whyrank calibrate` wrote for this model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Exactly one JSON document on stdout.")]


@app.command()
def rerank(
    query: Annotated[str, typer.Option("--query", "-q", help="What the documents should be relevant to.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Documents, one an argument.")] = None,
    documents: Annotated[
        str | None, typer.Option("--documents", "-d", help="A file of JSON lines or plain lines; - for stdin.")
    ] = None,
    model: OptionalModel = None,
    url: Url = None,
    api_key: ApiKey = None,
    instruction: Annotated[
        str | None, typer.Option(help="What relevant means, where the prompt lets you say it.")
    ] = None,
    top_n: Annotated[int | None, typer.Option(help="Show only the best N.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Show only scores from here up (0 to 1).")] = None,
    truncation: Annotated[
        str, typer.Option(metavar=_choice(TruncationPolicy), help="What of an over-long document is given up.")
    ] = "tail",
    mode: Annotated[str, typer.Option(metavar=_choice(Mode), help="evidence: also write why, for the best.")] = "score",
    evidence_top_n: Annotated[int, typer.Option(help="How many documents evidence is written for, at most.")] = 5,
    evidence_min_score: Annotated[float, typer.Option(help="... and from which score up.")] = 0.5,
    max_contribution_tokens: Annotated[int | None, typer.Option(help="The prompt file's by default.")] = None,
    max_evidence_tokens: Annotated[int | None, typer.Option(help="The prompt file's by default.")] = None,
    temperature: Annotated[float, typer.Option(help="For the writing; scores have none.")] = 0.0,
    deadline_ms: Annotated[float | None, typer.Option(help="Answer with what exists by then.")] = None,
    prompt: Prompt = _DEFAULTS["prompt"],
    route: RouteOption = _DEFAULTS["route"],
    revision: Revision = _DEFAULTS["revision"],
    dtype: DtypeOption = _DEFAULTS["dtype"],
    max_length: MaxLength = _DEFAULTS["max_length"],
    kv_cache_gib: KvCache = _DEFAULTS["kv_cache_gib"],
    trust_remote_code: TrustRemoteCode = _DEFAULTS["trust_remote_code"],
    calibration: Calibration = _DEFAULTS["calibration"],
    as_json: AsJson = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON event a line on stdout, as they happen.")] = False,
) -> None:
    """Score documents against a query and order them, best first.

    `whyrank rerank -m Qwen/Qwen3-Reranker-0.6B -q "boiling point of water" "Water boils at 100 °C." "Everest is high."`

    `whyrank rerank -m MODEL -q QUERY -d documents.jsonl --top-n 5 --json | jq .results`

    `whyrank rerank -m infgrad/Prism-Qwen3.5-Reranker-0.8B -q QUERY -d documents.jsonl --mode evidence`

    `whyrank rerank --url http://localhost:8000 --api-key SECRET -q QUERY -d documents.jsonl`

    A file holds JSON lines (`{"text": ..., "id": ..., "title": ..., "metadata": {...}}`) or one document a line.
    """
    with _reported() as stdout:
        engine = (prompt, route, revision, dtype, max_length, kv_cache_gib, trust_remote_code, calibration)
        opening = open_either(model, url or (), api_key, engine)
        candidates = _documents(texts or [], documents)
        options: RerankOptions = {
            "instruction": instruction,
            "top_n": top_n,
            "min_score": min_score,
            "truncation": truncation,  # type: ignore[typeddict-item]
            "mode": mode,  # type: ignore[typeddict-item]
            "evidence_top_n": evidence_top_n,
            "evidence_min_score": evidence_min_score,
            "max_contribution_tokens": max_contribution_tokens,
            "max_evidence_tokens": max_evidence_tokens,
            "temperature": temperature,
            "deadline_ms": deadline_ms,
        }
        RerankRequest.of(query, candidates, **options)  # what is wrong is said before an engine starts
        show = _show_json(stdout, as_jsonl) if as_json or as_jsonl else render.show_ranking(Console(file=stdout), query)
        asyncio.run(_rerank(opening, model or "the client", query, candidates, options, show))


async def _rerank(
    opening: Opening, name: str, query: str, documents: list[DocumentLike], options: RerankOptions, show: render.Show
) -> None:
    async with AsyncExitStack() as stack:
        with render.waiting(f"starting {name}"):
            reranker = await stack.enter_async_context(opening)
        events = await stack.enter_async_context(aclosing(reranker.stream(query, documents, **options)))
        with render.progress("scoring", len(documents)) as scored, show as tell:
            async for event in events:
                if isinstance(event, Scored):
                    scored()
                tell(event)


@contextmanager
def _show_json(stdout: Any, every: bool) -> Iterator[Callable[[Event], None]]:
    """Every event as a line, or the last one's ranking as the only document."""

    def tell(event: Event) -> None:
        if every:
            print(json.dumps(event_document(event), ensure_ascii=False), file=stdout, flush=True)
        elif isinstance(event, Finished):
            print(json.dumps(RankingBody.of(event.ranking).document(), ensure_ascii=False), file=stdout)

    yield tell


@app.command()
def formats(
    where: Annotated[bool, typer.Option("--where", help="Print the folder of the prompt files.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the prompt formats that come with whyrank."""
    with _reported() as stdout:
        if where:
            print(PROMPTS, file=stdout)
        elif as_json:
            print(json.dumps([f.model_dump(mode="json") for f in builtin_formats().values()]), file=stdout)
        else:
            Console(file=stdout).print(render.formats_table(builtin_formats().values()))


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="A folder or a hub name.")],
    prompt: Prompt = _DEFAULTS["prompt"],
    route: RouteOption = _DEFAULTS["route"],
    revision: Revision = _DEFAULTS["revision"],
    dtype: DtypeOption = _DEFAULTS["dtype"],
    max_length: MaxLength = _DEFAULTS["max_length"],
    kv_cache_gib: KvCache = _DEFAULTS["kv_cache_gib"],
    trust_remote_code: TrustRemoteCode = _DEFAULTS["trust_remote_code"],
    calibration: Calibration = _DEFAULTS["calibration"],
) -> None:
    """Say whether a checkpoint can be trusted as served: prompt, labels, parity with transformers, cache.

    `whyrank doctor Qwen/Qwen3-Reranker-0.6B`

    Exit code 1 where it cannot.
    """
    with _reported() as stdout:
        from whyrank.doctor import examine

        engine = (prompt, route, revision, dtype, max_length, kv_cache_gib, trust_remote_code, calibration)
        config = EngineConfig(model, *engine)  # type: ignore[arg-type]
        with render.waiting(f"examining {model}"):
            report = asyncio.run(examine(config))
        Console(file=stdout).print(render.report_table(report, model))
    if not report.trusted:
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A folder or a hub name.")],
    prompt: Prompt = _DEFAULTS["prompt"],
    route: RouteOption = _DEFAULTS["route"],
    calibration: Calibration = _DEFAULTS["calibration"],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the vLLM command, with our defaults, and stop.")
    ] = False,
) -> None:
    """Serve a checkpoint over HTTP, inside vLLM's own server; takes any flag of `vllm serve`, too.

    `whyrank serve Qwen/Qwen3-Reranker-0.6B --port 8000 --api-key SECRET`

    `curl localhost:8000/v1/rerank -H "Authorization: Bearer SECRET" -d '{"query": "...", "documents": ["..."]}'`

    Then: `/playground` in a browser, `/docs` for the API, `/metrics` for Prometheus. WHYRANK_MAX_DOCUMENTS, _CHARACTERS,
    _BODY_MIB and _WAITING_DOCUMENTS limit what is taken. Set TLS and the rest with vLLM's flags.
    """
    with _reported():
        from whyrank.serving.launch import serve as launch

        launch(model, prompt, route, calibration, context.args, dry_run)  # type: ignore[arg-type]


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


@contextmanager
def _reported() -> Iterator[Any]:
    """Give the command the real stdout, send everything else (engines print, too) to stderr, and say errors in one line."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)
        try:
            yield stdout
        except WhyrankError as error:
            Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(2) from error
        finally:
            stdout.flush()
            os.dup2(stdout.fileno(), 1)
