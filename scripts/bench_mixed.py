#!/usr/bin/env python3
"""How long a small call for scores waits while evidence is being written: alone, and beside 64, 300 and 1,000 documents.

    scripts/bench_mixed.py                            # the embedded model; about two minutes on two cores
    scripts/bench_mixed.py --written 64 --calls 100
    scripts/bench_mixed.py | tail -n 1 | python -m json.tool

Calls of five fresh documents go to one Reranker, one after the other with a short pause, beside calls in mode "evidence"
that continue so many documents each and are made again when they end. Seconds a call: median, 99th percentile and maximum;
`ratio` is the 99th percentile by that alone.
The last line of stdout is one JSON document; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator

from bench_common import machine
from whyrank import EngineConfig, Reranker

_WORDS = "water boils at a hundred degrees while the kettle sings and steam rises over the quiet kitchen table".split()
_PAUSE_SECONDS = 0.05


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words)) + f" {chance.random()}"


async def _waits(reranker: Reranker, calls: int, chance: random.Random) -> list[float]:
    seconds = []
    for _ in range(calls):
        documents = [_text(chance, 60) for _ in range(5)]
        began = time.perf_counter()
        await reranker.rerank(_text(chance, 6), documents)
        seconds.append(time.perf_counter() - began)
        await asyncio.sleep(_PAUSE_SECONDS)
    return sorted(seconds)


@contextlib.asynccontextmanager
async def _writing(reranker: Reranker, documents: int, chance: random.Random) -> AsyncIterator[list[int]]:
    """Writes again and again; gives the documents finished so far."""
    finished = [0]

    async def write() -> None:
        while True:
            texts = [_text(chance, 60) for _ in range(documents)]
            stream = reranker.stream(
                _text(chance, 6), texts, mode="evidence", evidence_top_n=documents, evidence_min_score=0
            )
            async with contextlib.aclosing(stream) as events:
                async for event in events:
                    finished[0] += type(event).__name__ == "EvidenceDone"
                    started.set()

    started = asyncio.Event()
    task = asyncio.create_task(write())
    try:
        await asyncio.wait_for(started.wait(), 120)
        yield finished
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _row(written: int, seconds: list[float], alone: float | None) -> dict[str, float]:
    p99 = seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))]
    row = {"written": written, "p50": statistics.median(seconds), "p99": p99, "max": seconds[-1]}
    return row if alone is None else row | {"ratio": p99 / alone}


async def measure(options: argparse.Namespace) -> list[dict[str, float]]:
    chance = random.Random(7)
    async with Reranker(EngineConfig(options.model)) as reranker:
        await _waits(reranker, 5, chance)
        rows = [_row(0, await _waits(reranker, options.calls, chance), None)]
        print(f"alone: {rows[0]}", file=sys.stderr)
        for written in options.written:
            async with _writing(reranker, written, chance) as finished:
                began, before = time.perf_counter(), finished[0]
                row = _row(written, await _waits(reranker, options.calls, chance), rows[0]["p99"])
                row["written_per_second"] = (finished[0] - before) / (time.perf_counter() - began)
            rows.append(row)
            print(f"beside {written}: {row}", file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--written", type=int, nargs="+", default=[64, 300, 1000])
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args()
    print(json.dumps({"machine": machine(), "model": options.model, "rows": asyncio.run(measure(options))}))


if __name__ == "__main__":
    main()
