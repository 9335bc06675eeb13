#!/usr/bin/env python3
"""Two servers of the demo model behind HAProxy with deploy/haproxy.cfg, one of them killed in the middle: is any call lost?

    apt-get install haproxy
    scripts/try_load_balancer.py        # two minutes on two cores, 4 GB of memory

First each of some queries is sent twice with the client's affinity header: both must reach the same server. Then `--calls`
calls are made, 16 at a time, every other one by AsyncClient, which tries again by itself, and the others by plain HTTP, which
leaves that to HAProxy and asks again only if its connection is closed. After half of them one server is killed with SIGKILL,
engine and all. Exit status 1 unless every call was answered with the scores that the other server gives.

The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench_common import machine
from server_process import SMALL_CACHE, Server, free_port, start
from whyrank import AsyncClient, RetryPolicy
from whyrank.errors import WhyrankError

CONFIG = Path(__file__).parents[1] / "deploy/haproxy.cfg"
_AT_ONCE = 16
_PATIENCE_SECONDS = 30.0
_TOLERANCE = 1e-5
_QUERIES_FOR_AFFINITY = 20

Call = tuple[str, list[str]]


@dataclass
class Outcome:
    answered: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    servers: Counter[str] = field(default_factory=Counter)
    client_retries: int = 0
    plain_asked_again: int = 0
    largest_difference: float = 0.0


def calls_of(count: int) -> list[Call]:
    woods = ("glass", "oak", "steel", "cork", "brass")
    return [
        (
            f"Which room of house {n} has a door of glass?",
            [f"Room {room} of house {n} has a door of {woods[room]}." for room in range(5)],
        )
        for n in range(count)
    ]


def body_of(call: Call) -> dict[str, Any]:
    return {"query": call[0], "documents": call[1], "return_documents": False}


def scores_of(answer: httpx.Response) -> dict[int, float]:
    return {row["index"]: row["score"] for row in answer.json()["results"]}


def expected_scores(url: str, calls: Sequence[Call]) -> list[dict[int, float]]:
    with httpx.Client(base_url=url, timeout=60) as client:
        return [scores_of(client.post("/v1/rerank", json=body_of(call)).raise_for_status()) for call in calls]


@contextlib.contextmanager
def balanced(servers: Sequence[Server]) -> Iterator[str]:
    """HAProxy's URL, when it answers."""
    port = free_port()
    addresses = {
        f"WHYRANK_{name}": server.url.removeprefix("http://") for name, server in zip("AB", servers, strict=True)
    }
    process = subprocess.Popen(
        ["haproxy", "-db", "-f", str(CONFIG)],
        env=os.environ | addresses | {"WHYRANK_PORT": str(port)},
        stdout=sys.stderr,
    )
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + _PATIENCE_SECONDS
    try:
        while not _is_healthy(url):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit("HAProxy did not start: see its message above")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(_PATIENCE_SECONDS)


def _is_healthy(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health").status_code == 200
    return False


def kill(server: Server) -> None:
    processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    server.process.wait()


def affinity(url: str, calls: Sequence[Call]) -> dict[str, Any]:
    """Where the client's header leads: each query twice, by a new client each time."""
    places: list[list[str]] = []

    class Noting(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await super().handle_async_request(request)
            if request.method == "POST":
                places[-1].append(answer.headers["x-whyrank-server"])
            return answer

    async def ask(call: Call) -> None:
        async with AsyncClient(url, transport=Noting()) as client:
            await client.score(*call)

    for call in calls:
        places.append([])
        asyncio.run(ask(call))
        asyncio.run(ask(call))
    return {
        "queries": dict(Counter(first for first, _ in places)),
        "came_back": sum(len({*pair}) == 1 for pair in places),
    }


async def ask_twice(client: httpx.AsyncClient, body: dict[str, Any], outcome: Outcome) -> httpx.Response:
    """HAProxy closes the connection of a request that was in work when its server was killed."""
    try:
        return await client.post("/v1/rerank", json=body)
    except httpx.RemoteProtocolError:
        outcome.plain_asked_again += 1
        return await client.post("/v1/rerank", json=body)


async def many_calls(url: str, calls: Sequence[Call], expected: Sequence[dict[int, float]], victim: Server) -> Outcome:
    outcome, places, finished = Outcome(), asyncio.Semaphore(_AT_ONCE), 0

    def retried(url: str, error: WhyrankError) -> None:
        outcome.client_retries += 1

    async def one(number: int, client: AsyncClient, plain: httpx.AsyncClient) -> None:
        nonlocal finished
        async with places:
            kind = "client" if number % 2 else "plain"
            try:
                if kind == "client":
                    rows = await client.score(*calls[number])
                    scores = {row.index: row.score for row in rows if row.score is not None}
                else:
                    answer = await ask_twice(plain, body_of(calls[number]), outcome)
                    outcome.servers[answer.headers.get("x-whyrank-server", "none")] += 1
                    scores = scores_of(answer.raise_for_status())
            except (WhyrankError, httpx.HTTPError) as error:
                outcome.errors.append(f"{kind}: {type(error).__name__}: {error}")
            else:
                outcome.answered[kind] += 1
                differences = (abs(scores.get(index, inf) - score) for index, score in expected[number].items())
                outcome.largest_difference = max(outcome.largest_difference, *differences)
            finished += 1
            if finished == len(calls) // 2:
                await asyncio.to_thread(kill, victim)

    async with (
        AsyncClient(url, window_ms=0, retry=RetryPolicy(waits=retried)) as client,
        httpx.AsyncClient(base_url=url, timeout=60) as plain,
    ):
        await asyncio.gather(*(one(number, client, plain) for number in range(len(calls))))
    return outcome


def measure(count: int, folder: Path) -> dict[str, Any]:
    servers: list[Server] = []
    try:
        for name in "ab":
            servers.append(start(Path("demo"), SMALL_CACHE, folder / f"{name}.log", OMP_NUM_THREADS="1"))
        calls = calls_of(count)
        expected = expected_scores(servers[0].url, calls)
        with balanced(servers) as url:
            place = affinity(url, calls[:_QUERIES_FOR_AFFINITY])
            metrics = httpx.get(f"{url}/metrics").status_code
            began = time.monotonic()
            outcome = asyncio.run(many_calls(url, calls, expected, servers[1]))
    finally:
        for server in servers:
            if server.process.poll() is None:
                kill(server)
    return {
        "calls": count,
        "answered": dict(outcome.answered),
        "errors": outcome.errors,
        "plain_calls_by_server": dict(outcome.servers),
        "client_retries": outcome.client_retries,
        "plain_asked_again": outcome.plain_asked_again,
        "largest_difference": outcome.largest_difference,
        "seconds": round(time.monotonic() - began, 1),
        "affinity": place,
        "metrics_through_the_balancer": metrics,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, help="of five documents each")
    options = parser.parse_args()
    if shutil.which("haproxy") is None:
        raise SystemExit("HAProxy is not installed: apt-get install haproxy")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.calls, Path(folder))
    print(json.dumps({"machine": machine(), **result}))
    came_back = result["affinity"]["came_back"] == _QUERIES_FOR_AFFINITY
    sys.exit(0 if not result["errors"] and result["largest_difference"] <= _TOLERANCE and came_back else 1)


if __name__ == "__main__":
    main()
