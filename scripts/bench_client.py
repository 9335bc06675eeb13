#!/usr/bin/env python3
"""What the client's batching gains and costs: calls that travel together, compared with the same calls one by one.

    scripts/bench_client.py                          # a tiny checkpoint with random weights; three minutes on two cores
    scripts/bench_client.py --repeats 9 | tail -n 1 | python -m json.tool

batched        AsyncClient with its defaults
one_by_one     the same client, each call in a request of its own (a call with a deadline is not held back for others)
plain_httpx    httpx.post and json.loads for each call; nothing is checked, and no objects are made of the answer

free engine    a server in another process that answers at once: this measures only clients and HTTP
distinct       the real server; no two callers ask for the same (query, document) pair
overlapping    the real server; 20 agents ask about the same queries, each with documents that other agents also send
lone call      one caller who waits for each answer before asking again, alternately with and without batching

Each repeat gives every system the same fresh texts, in an order that rotates, with a new client and a separate cache salt.
`speed` and `cpu` are medians over repeats of what another system took divided by what batched took: above 1, batching gains.
CPU is that of this process, which does all the clients' work and none of the servers'. The lone call's `p50` is batched /
one_by_one.
The last line of stdout is one JSON document; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import server_process
from bench_common import machine, write_model
from whyrank import AsyncClient

_TARGETS = {
    "free_engine": {"speed": 2.0, "cpu": 2.0},
    "distinct": {"speed": 1.0},
    "overlapping": {"speed": 3.0},
    "lone_call": {"p50": 1.05},
}
_CALLERS = 64
_AGENTS = 20
_DOCUMENTS = 5
# Longer than any call takes: it only makes the call travel alone.
_ALONE_MS = 60_000.0

Score = Callable[[str, Sequence[str]], Awaitable[Any]]
Call = tuple[str, list[str]]


# A server that costs nothing.


async def free_engine(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that gives any document any score."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event["body"], event["more_body"]
    request = json.loads(body)
    if "requests" in request:
        answer: Any = {"answers": [_ranking(len(one["documents"])) for one in request["requests"]]}
    else:
        answer = _ranking(len(request["documents"]))
    headers = [(b"content-type", b"application/json"), (b"x-whyrank-identity", b"free")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(answer, separators=(",", ":")).encode()})


def _ranking(documents: int) -> dict[str, Any]:
    cut: dict[str, Any] = {"original_tokens": 50, "used_tokens": 50, "policy": "tail", "truncated": False}
    row: dict[str, Any] = {"id": None, "score": 0.5123456789, "margin": 0.0493827160, "label_mass": 0.99}
    row |= {"truncation": cut | {"query_tokens_cut": 0, "window": None}, "neutralised": False, "error": None}
    usage = {"prompt_tokens": 300, "cached_tokens": 200, "computed_tokens": 100, "output_tokens": 0}
    rows = [{"index": i, "rank": i + 1, **row} for i in range(documents)]
    return {"results": rows, "usage": usage, "evidence_usage": usage, "model": "m", "prompt": "p@1", "degraded": False}


def _serve(listener: socket.socket) -> None:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(free_engine, log_level="error", access_log=False, lifespan="off"))
    server.run(sockets=[listener])


@contextmanager
def free_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        process = multiprocessing.get_context("fork").Process(target=_serve, args=(listener,), daemon=True)
        process.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.terminate()
            process.join()


# The systems.


@asynccontextmanager
async def batched(url: str, salt: str) -> AsyncIterator[Score]:
    async with AsyncClient(url) as client:
        yield lambda query, documents: client.score(query, documents, cache_salt=salt)


@asynccontextmanager
async def one_by_one(url: str, salt: str) -> AsyncIterator[Score]:
    async with AsyncClient(url) as client:
        yield lambda query, documents: client.score(query, documents, cache_salt=salt, deadline_ms=_ALONE_MS)


@asynccontextmanager
async def plain_httpx(url: str, salt: str) -> AsyncIterator[Score]:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:

        async def score(query: str, documents: Sequence[str]) -> Any:
            body = {"query": query, "documents": documents, "return_documents": False, "cache_salt": salt}
            return (await http.post("/v1/rerank", json=body)).raise_for_status().json()

        yield score


_SYSTEMS = {"batched": batched, "one_by_one": one_by_one, "plain_httpx": plain_httpx}


# The requests.


class Texts:
    def __init__(self, seed: str) -> None:
        self._chance = random.Random(seed)

    def text(self, words: int) -> str:
        return " ".join("".join(self._chance.choices("abcdefghijklmnop", k=5)) for _ in range(words))

    def distinct(self, calls: int) -> list[Call]:
        return [(self.text(8), [self.text(24) for _ in range(_DOCUMENTS)]) for _ in range(calls)]

    def overlapping(self, queries: int) -> list[list[Call]]:
        """The calls of each agent: every query with five of the ten documents that all agents together found for it."""
        calls = [(self.text(8), [self.text(24) for _ in range(2 * _DOCUMENTS)]) for _ in range(queries)]
        return [[(query, self._chance.sample(texts, _DOCUMENTS)) for query, texts in calls] for _ in range(_AGENTS)]


@dataclass(frozen=True, slots=True)
class Cost:
    seconds: float
    cpu: float


async def cost(score: Score, callers: Sequence[Sequence[Call]]) -> Cost:
    """The cost of all calls, where each caller waits for an answer before asking again."""

    async def ask(calls: Sequence[Call]) -> None:
        for query, documents in calls:
            await score(query, documents)

    await score("the first call", ["opens the connection"])
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(ask(calls) for calls in callers))
    return Cost(time.perf_counter() - began, time.process_time() - cpu)


async def compare(
    url: str, names: Sequence[str], repeats: int, work: Callable[[str], list[list[Call]]]
) -> dict[str, Any]:
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for repeat in range(-1, repeats):  # the first one is the warm-up
        callers = work(f"{repeat}")
        for name in [*names[repeat % len(names) :], *names[: repeat % len(names)]]:
            async with _SYSTEMS[name](url, name) as score:
                spent = await cost(score, callers)
            if repeat >= 0:
                costs[name].append(spent)
    calls = sum(map(len, callers))

    def ratio(name: str, what: Callable[[Cost], float]) -> float:
        return _median(what(one) / what(ours) for one, ours in zip(costs[name], costs["batched"], strict=True))

    return {
        "calls": calls,
        "calls_per_second": {name: round(calls / _median(c.seconds for c in costs[name])) for name in names},
        "cpu_microseconds_per_call": {name: round(1e6 * _median(c.cpu for c in costs[name]) / calls) for name in names},
        "speed": {name: round(ratio(name, lambda c: c.seconds), 3) for name in names[1:]},
        "cpu": {name: round(ratio(name, lambda c: c.cpu), 3) for name in names[1:]},
    }


async def lone_call(url: str, calls: int) -> dict[str, Any]:
    """Pairs of calls, one of each kind directly after the other, so that other load on the machine affects both alike."""
    seconds: dict[str, list[float]] = {"batched": [], "one_by_one": []}
    async with batched(url, "batched") as together, one_by_one(url, "one_by_one") as alone:
        for n, (query, documents) in enumerate(Texts("lone").distinct(calls + 20)):
            both = [("batched", together), ("one_by_one", alone)]
            for name, score in both if n % 2 else reversed(both):
                began = time.perf_counter()
                await score(query, documents)
                if n >= 20:
                    seconds[name].append(time.perf_counter() - began)
    p50 = {name: _median(taken) for name, taken in seconds.items()}
    return {
        "p50_milliseconds": {name: round(1000 * value, 3) for name, value in p50.items()},
        "p50": round(p50["batched"] / p50["one_by_one"], 3),
    }


def _median(values: Any) -> float:
    return float(statistics.median(values))


async def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    with free_server() as url:
        print("free engine", file=sys.stderr)
        await _answers(url)
        each = args.free_calls // _CALLERS
        results["free_engine"] = await compare(
            url, [*_SYSTEMS], args.repeats, lambda seed: [Texts(f"{seed} {n}").distinct(each) for n in range(_CALLERS)]
        )
        results["free_engine_lone_call"] = await lone_call(url, args.lone_calls)
    print("starting a real server", file=sys.stderr)
    server = server_process.start(write_model("tiny-qwen3", folder), server_process.SMALL_CACHE, folder / "log")
    try:
        both = ["batched", "one_by_one"]
        each = max(1, args.calls // _CALLERS)
        print("distinct pairs", file=sys.stderr)
        results["distinct"] = await compare(
            server.url, both, args.repeats, lambda seed: [Texts(f"{seed} {n}").distinct(each) for n in range(_CALLERS)]
        )
        print("overlapping pairs", file=sys.stderr)
        results["overlapping"] = await compare(
            server.url, both, args.repeats, lambda seed: Texts(f"{seed} shared").overlapping(args.queries)
        )
        print("lone calls", file=sys.stderr)
        results["lone_call"] = await lone_call(server.url, args.lone_calls // 2)
    finally:
        server.process.terminate()
        server.process.wait(60)
    return results


async def _answers(url: str) -> None:
    """Returns as soon as the free server answers."""
    async with AsyncClient(url) as client:
        await client.score("are you", ["there?"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--free-calls", type=int, default=1024)
    parser.add_argument("--calls", type=int, default=256, help="of distinct pairs, to the real server")
    parser.add_argument("--queries", type=int, default=12, help="that all agents ask")
    parser.add_argument("--lone-calls", type=int, default=400)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = asyncio.run(measure(args, Path(folder)))
    print(json.dumps({"machine": machine(), "settings": vars(args), "targets": _TARGETS, "results": results}))


if __name__ == "__main__":
    main()
