"""The command retrieve: candidates for `whyrank eval` to rerank."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from whyrank.cli import render
from whyrank.cli.common import AsJson, app, choice, evaluation_reported, kept
from whyrank.cli.terminal import Terminal, json_text
from whyrank.errors import InvalidRequest
from whyrank.process import is_cpu_build, prepare_process, set_engine_environment

# What imports numpy or bm25s, which the eval extra brings, is imported by the command.
if TYPE_CHECKING:
    from whyrank.retrieval.first_stage import Searcher
    from whyrank.retrieval.passages import Passages

__all__: list[str] = []

# By default vLLM would round to 16 bits, and take half of the memory for a cache that embedding hardly uses.
_ON_CPU = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 2 << 30, "use_tqdm_on_load": False}
Method = Literal["bm25", "dense", "hybrid"]


@app.command("retrieve")
def retrieve_command(
    data: Annotated[Path, typer.Argument(help="A BEIR folder: corpus.jsonl, queries.jsonl and qrels.")],
    method: Annotated[str, typer.Option(metavar=choice(Method), help="hybrid: both, fused by rank.")] = "bm25",
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="An embedding checkpoint, e.g. Qwen/Qwen3-Embedding-0.6B.")
    ] = None,
    stemmer: Annotated[
        str | None, typer.Option(help="Stem the words for BM25: a language of PyStemmer, e.g. english.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Documents a query.")] = 100,
    split: Annotated[str, typer.Option(help="Whose qrels name the queries.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="The TREC run. By default run.trec in the folder, where eval looks for it.")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Where the documents' embeddings are kept. By default beside the run, as .f32.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace an existing run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find candidates for every judged query: by shared words, by embeddings, or by both.

    `whyrank retrieve beir/scifact --stemmer english`

    `whyrank retrieve beir/scifact --method dense -m Qwen/Qwen3-Embedding-0.6B --out dense.trec`

    `whyrank retrieve annual-reports --method hybrid -m Qwen/Qwen3-Embedding-0.6B --top-k 20`

    Embedding a corpus, stopped, goes on where it was when the command is called again. Then:
    `whyrank eval -m MODEL --data beir/scifact`
    """
    with evaluation_reported() as stdout:
        if method not in get_args(Method):
            raise InvalidRequest(f"method is {method!r}: choose from {', '.join(get_args(Method))}")
        if (method == "bm25") != (model is None):
            raise InvalidRequest("methods dense and hybrid need --model, an embedding checkpoint; bm25 takes none")
        run = out or data / "run.trec"
        if run.exists() and not fresh:
            raise InvalidRequest(f"{run} already exists: give another --out, or --fresh to replace it")
        counts = _retrieve(data, method, model, stemmer, top_k, split, run, vectors or run.with_suffix(".f32"))
        if as_json:
            print(json_text({"run": str(run), **counts}), file=stdout)
        else:
            Terminal(file=stdout).plain(
                f"{run}: {counts['found']} documents for {counts['queries']} queries, of {counts['documents']}"
            )


def _retrieve(
    data: Path, method: str, model: str | None, stemmer: str | None, top_k: int, split: str, run: Path, vectors: Path
) -> dict[str, int]:
    from whyrank.retrieval.first_stage import search_all, write_run
    from whyrank.retrieval.passages import Passages, judged_queries

    passages, queries = Passages(data), judged_queries(data, split)
    searchers: list[Searcher] = []
    # Before bm25s is imported: vLLM's start looks at all modules, and stumbles over numba's, which bm25s uses.
    if model is not None:
        searchers.append(_dense(passages, model, vectors))
    if method != "dense":
        from whyrank.retrieval.bm25 import Bm25

        with render.waiting("indexing words"):
            searchers.append(Bm25(passages.texts(), stemmer))
    with render.progress("queries", len(queries)) as on_progress:
        tag = "+".join(searcher.name for searcher in searchers)
        candidates = write_run(run, passages.ids, search_all(searchers, queries, top_k, on_progress), tag)
    return {"documents": len(passages.ids), "queries": len(queries), "found": candidates}


def _dense(passages: Passages, model: str, vectors: Path) -> Searcher:
    prepare_process()
    set_engine_environment(is_cpu_build())
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    with render.waiting(f"starting {model}"):
        from whyrank.retrieval.dense import Dense, VllmEmbedder, read_or_embed

        embedder = VllmEmbedder(model, **(_ON_CPU if is_cpu_build() else {}))
    with render.progress("documents", len(passages.ids)) as on_progress, kept("embedded"):
        return Dense(read_or_embed(passages, embedder, vectors, on_progress), embedder)
