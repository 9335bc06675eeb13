#!/usr/bin/env python3
"""How long a small score call takes while evidence is being written for other documents, in process and through a server.

    scripts/bench_mixed.py                                  # the embedded model; some minutes on two cores
    scripts/bench_mixed.py --ways server --seconds 30 | tail -n 1 | python -m json.tool

One caller asks for the scores of 5 documents, again and again with a short pause: first alone, then beside one call with 64,
300 or 1,000 documents, evidence being written for each; that call is restarted as soon as it ends. Times count from its first
piece of evidence on. Every text is new. The target is p99_over_alone of at most 5. What is written meanwhile is counted, too.
The last line of stdout is one JSON document; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import pydoc_data.topics
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import server_process
from bench_common import machine
from whyrank import EvidenceDelta, Reranker
from whyrank.client import AsyncClient

TARGET = 5.0
SCORED, PAUSE_SECONDS = 5, 0.02
# Until 1,000 documents are scored and evidence for the first of them is being written.
START_SECONDS = 300
WORDS = " ".join(pydoc_data.topics.topics.values()).split()
SEEDS = itertools.count()


def fresh_call(count: int) -> tuple[str, list[str]]:
    chance = random.Random(next(SEEDS))
    return " ".join(chance.choices(WORDS, k=8)), [" ".join(chance.choices(WORDS, k=60)) for _ in range(count)]


async def score_times(reranker: Any, seconds: float) -> list[float]:
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        query, documents = fresh_call(SCORED)
        began = time.perf_counter()
        rows = await reranker.score(query, documents)
        times.append(time.perf_counter() - began)
        if failed := [row.error for row in rows if row.error]:
            raise RuntimeError(f"a document has no score: {failed[0]}")
        await asyncio.sleep(PAUSE_SECONDS)
    return times


async def write_on(reranker: Any, count: int, pieces: list[str], began: asyncio.Event) -> None:
    while True:
        query, documents = fresh_call(count)
        options = {"evidence_top_n": count, "evidence_min_score": 0.0}
        async with aclosing(reranker.stream(query, documents, mode="evidence", **options)) as events:
            async for event in events:
                if isinstance(event, EvidenceDelta):
                    pieces.append(event.text)
                    began.set()


async def beside(reranker: Any, count: int, seconds: float) -> dict[str, Any]:
    pieces, writing = list[str](), asyncio.Event()
    writer = asyncio.create_task(write_on(reranker, count, pieces, writing)) if count else None
    if writer is not None:
        await asyncio.wait_for(writing.wait(), START_SECONDS)
    pieces.clear()
    began = time.perf_counter()
    times = await score_times(reranker, seconds)
    took = time.perf_counter() - began
    if writer is not None:
        writer.cancel()
        (ended,) = await asyncio.gather(writer, return_exceptions=True)
        if not isinstance(ended, asyncio.CancelledError):
            raise RuntimeError("the writing call ended") from ended
    result = summary(count, times) | {"pieces_written_per_second": round(len(pieces) / took, 1)}
    print(result, file=sys.stderr, flush=True)
    return result


def summary(count: int, times: Sequence[float]) -> dict[str, Any]:
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    values = {"p50": cuts[49], "p99": cuts[98], "max": max(times)}
    return {"beside": count, "calls": len(times), **{name: round(value, 4) for name, value in values.items()}}


async def compare(reranker: Any, counts: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    await score_times(reranker, min(3.0, seconds))
    await reranker.rerank(*fresh_call(SCORED), mode="evidence", evidence_min_score=0.0)  # compiles the grammar
    results = [await beside(reranker, count, seconds) for count in (0, *counts)]
    for result in results[1:]:
        result["p99_over_alone"] = round(result["p99"] / results[0]["p99"], 2)
    return results


async def measure(way: str, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    print(f"{way}: starting", file=sys.stderr)
    async with AsyncExitStack() as stack:
        if way == "server":
            server = server_process.start(args.model, (), folder / "log")
            stack.callback(server.process.wait, 60)
            stack.callback(server.process.terminate)
            reranker: Any = await stack.enter_async_context(AsyncClient(server.url, timeout=600))
        else:
            reranker = await stack.enter_async_context(Reranker(args.model))
        return await compare(reranker, args.counts, args.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--counts", type=int, nargs="+", default=[64, 300, 1000])
    parser.add_argument("--ways", nargs="+", default=["in_process", "server"], choices=["in_process", "server"])
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {way: asyncio.run(measure(way, args, Path(folder))) for way in args.ways}
    print(json.dumps({"machine": machine(), "settings": vars(args), "target_p99_over_alone": TARGET, **results}))


if __name__ == "__main__":
    main()
