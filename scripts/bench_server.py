#!/usr/bin/env python3
"""What HTTP costs: POST /v1/rerank compared with Reranker.score in process, and with vLLM's own /generative_scoring.

    scripts/bench_server.py                          # a tiny checkpoint with random weights; two minutes on two cores
    scripts/bench_server.py --shape qwen3-0.6b       # the real size: meant for a GPU
    scripts/bench_server.py --repeats 15 | tail -n 1 | python -m json.tool

whyrank_http         one POST /v1/rerank without return_documents, on a kept-alive connection
whyrank_in_process   Reranker.score on the same checkpoint, in this process, with an engine of its own
generative_scoring   vLLM's route on the same server, with the same prompts as text: what comes before the document as its
                     query, the document and what follows as its items

Both engines are alive at once, and only the one that is called works; each repeat gives the same fresh query and documents
to all three, in an order that rotates; cache salts keep the two on the server apart. A ratio is the median over repeats of
their seconds / ours. vLLM's route tokenises query and items separately, so its prompts are not quite those of the card:
`largest_score_difference` from ours shows by how much.
The last line of stdout is one JSON document; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

import server_process
from bench_common import SHAPES, Work, Writer, card_text, label_ids, machine, write_model
from whyrank import EngineConfig, Reranker
from whyrank.checkpoints import Plan, make_plan

_TARGETS = {"overhead_over_in_process": 0.10, "generative_scoring": 1.0}
_MIN_KV_GIB = 1.0

Score = Callable[[Work], Awaitable[list[float]]]
"""Probabilities of the positive label, in the order of the documents."""


def over_http(http: httpx.AsyncClient) -> Score:
    async def score(work: Work) -> list[float]:
        body = {"query": work.query, "documents": work.documents, "return_documents": False, "cache_salt": "ours"}
        answer = (await http.post("/v1/rerank", json=body)).raise_for_status()
        return [row["score"] for row in sorted(answer.json()["results"], key=lambda row: row["index"])]

    return score


def in_process(reranker: Reranker) -> Score:
    async def score(work: Work) -> list[float]:
        return [row.score or 0.0 for row in await reranker.score(work.query, work.documents)]

    return score


def generative_scoring(http: httpx.AsyncClient, plan: Plan) -> Score:
    labels = list(label_ids(plan))

    async def score(work: Work) -> list[float]:
        before, after = card_text(plan.format, work.query, "\0").split("\0")
        body = {
            "query": before,
            "items": [text + after for text in work.documents],
            "label_token_ids": labels,
            "add_special_tokens": False,
            "cache_salt": "theirs",
        }
        answer = (await http.post("/generative_scoring", json=body)).raise_for_status()
        return [row["score"] for row in sorted(answer.json()["data"], key=lambda row: row["index"])]

    return score


def kv_cache_gib(plan: Plan) -> float:
    """Room for one prompt of full length, without which vLLM does not start, and as much again for others. How a hybrid's
    layers share the cache is vLLM's to say: it needs less."""
    a_token = 4 * (plan.checkpoint.kv_elements_per_token or 0)
    return max(_MIN_KV_GIB, 2 * a_token * (plan.encoder.max_length + plan.reserved_tokens) / (1 << 30))


async def measure(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    model = write_model(args.shape, folder)
    print("starting two engines", file=sys.stderr)
    kv_gib = kv_cache_gib(make_plan(EngineConfig(str(model))))
    memory = ("--kv-cache-memory-bytes", str(int(kv_gib * (1 << 30))))
    server = server_process.start(model, ("--vllm-routes", *memory, *args.server_flags), folder / "log")
    try:
        config = EngineConfig(str(model), kv_cache_gib=kv_gib)
        plan = make_plan(config)
        async with Reranker(config) as reranker, httpx.AsyncClient(base_url=server.url, timeout=600) as http:
            systems = {
                "whyrank_http": over_http(http),
                "whyrank_in_process": in_process(reranker),
                "generative_scoring": generative_scoring(http, plan),
            }
            writer = Writer(plan, args.pair_tokens)
            return [await compare(systems, writer, count, args.repeats) for count in args.counts]
    finally:
        server.process.terminate()
        server.process.wait(60)


async def compare(systems: dict[str, Score], writer: Writer, count: int, repeats: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    difference = dict.fromkeys(list(systems)[1:], 0.0)
    for repeat in range(-1, repeats):  # the first one is the warm-up
        print(f"{count} documents, repeat {repeat + 1} of {repeats}", file=sys.stderr)
        work = writer.work(count, f"{count} {repeat}")
        names = list(systems)[repeat % 3 :] + list(systems)[: repeat % 3]
        scores = {}
        for name in names:
            began = time.perf_counter()
            scores[name] = await systems[name](work)
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - began)
        for name in difference:
            pairs = zip(scores[name], scores["whyrank_http"], strict=True)
            difference[name] = max(difference[name], *(abs(theirs - ours) for theirs, ours in pairs))

    def ratio(name: str) -> float:
        pairs = zip(seconds[name], seconds["whyrank_http"], strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)

    return {
        "documents": count,
        "milliseconds": {name: round(1000 * statistics.median(taken), 1) for name, taken in seconds.items()},
        "overhead_over_in_process": round(1 / ratio("whyrank_in_process") - 1, 3),
        "generative_scoring": round(ratio("generative_scoring"), 3),
        "largest_score_difference": {name: round(value, 6) for name, value in difference.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="tiny-qwen3", choices=list(SHAPES))
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--pair-tokens", type=int, default=300, help="tokens of a query and a document together")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--server-flags", type=str.split, default=[], help="more for the server: '--api-server-count 2'"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = asyncio.run(measure(Path(folder), args))
    print(json.dumps({"machine": machine(), "settings": vars(args), "targets": _TARGETS, "results": results}))


if __name__ == "__main__":
    main()
