#!/usr/bin/env python3
"""Where the memory of a server goes under mixed traffic: the growth of its two processes, in MiB per minute.

    scripts/probe_memory.py                    # the embedded model, ten minutes
    scripts/probe_memory.py --minutes 30 | tail -n 1 | python -m json.tool

Eight callers at once send, at random, scores of 1 to 60 documents and evidence with budgets, salts and deadlines of all sizes;
in one call of six the caller disconnects before the answer comes. Every text is new. The private memory of both processes is
read every ten seconds, and its growth is the slope of a line through the readings after the warm-up, by the Theil-Sen
estimator: the median of the slopes between all pairs, which a single jump does not move.
The last line of stdout is one JSON document; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import pydoc_data.topics
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import server_process
from bench_common import machine

CALLERS = 8
READ_EVERY_SECONDS = 10.0
WORDS = " ".join(pydoc_data.topics.topics.values()).split()


@dataclass
class Traffic:
    """What was sent, and how the calls ended."""

    calls: Counter[str] = field(default_factory=Counter)
    documents: int = 0


def fresh_body(chance: random.Random) -> dict[str, Any]:
    documents = [" ".join(chance.choices(WORDS, k=chance.randint(5, 200))) for _ in range(chance.randint(1, 60))]
    body: dict[str, Any] = {"query": " ".join(chance.choices(WORDS, k=8)), "documents": documents}
    if chance.random() < 0.5:
        body["cache_salt"] = f"salt {chance.random()}"
    if chance.random() < 0.2:
        body["deadline_ms"] = chance.randint(20, 2000)
    if chance.random() < 0.5:
        body |= {"mode": "evidence", "evidence_min_score": 0, "evidence_top_n": chance.randint(1, 8)}
        body |= {"max_contribution_tokens": chance.randint(1, 128), "max_evidence_tokens": chance.randint(1, 384)}
    return body


async def call(http: httpx.AsyncClient, chance: random.Random, traffic: Traffic) -> None:
    body = fresh_body(chance)
    patience = chance.uniform(0.01, 0.5) if chance.random() < 1 / 6 else None
    traffic.documents += len(body["documents"])
    try:
        async with asyncio.timeout(patience):
            response = await http.post("/v1/rerank", json=body)
        traffic.calls[str(response.status_code)] += 1
    except TimeoutError:
        traffic.calls["left"] += 1


async def send(http: httpx.AsyncClient, seed: int, traffic: Traffic) -> None:
    chance = random.Random(seed)
    while True:
        await call(http, chance, traffic)


def private_mib(pid: int) -> float:
    """Memory that belongs to this process alone, so that a forked process is not charged for its parent's memory."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


async def watch(pids: dict[str, int], minutes: float, traffic: Traffic) -> list[dict[str, float]]:
    began, readings = time.monotonic(), list[dict[str, float]]()
    while (now := time.monotonic() - began) < 60 * minutes:
        readings.append({"seconds": round(now, 1), **{name: round(private_mib(pid), 1) for name, pid in pids.items()}})
        print(readings[-1], traffic.documents, dict(traffic.calls), file=sys.stderr, flush=True)
        await asyncio.sleep(READ_EVERY_SECONDS)
    return readings


def growth_per_minute(readings: list[dict[str, float]], name: str, from_seconds: float) -> float:
    late = [(row["seconds"], row[name]) for row in readings if row["seconds"] >= from_seconds]
    slopes = [(b - a) / (t - s) for i, (s, a) in enumerate(late) for t, b in late[i + 1 :]]
    return round(60 * statistics.median(slopes), 2) if slopes else 0.0


async def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    server = server_process.start(args.model, args.flags, folder / "log")
    try:
        pids = {"server": server.process.pid, "engine": server.engine().pid}
        traffic = Traffic()
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
            callers = [asyncio.create_task(send(http, seed, traffic)) for seed in range(CALLERS)]
            readings = await watch(pids, args.minutes, traffic)
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
    finally:
        server.process.terminate()
        with contextlib.suppress(Exception):
            server.process.wait(60)
    warm_up = 60 * args.minutes * args.warm_up_share
    return {
        "mib_per_minute_after_warm_up": {name: growth_per_minute(readings, name, warm_up) for name in pids},
        "mib": {name: [row[name] for row in readings][:: max(1, len(readings) // 30)] for name in pids},
        "calls": dict(traffic.calls),
        "documents": traffic.documents,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--warm-up-share", type=float, default=0.3, help="of the time, in which growth is not counted")
    parser.add_argument("flags", nargs="*", help="further flags of `whyrank serve`, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(args, Path(folder)))
    print(json.dumps({"machine": machine(), "settings": vars(args), **result}))


if __name__ == "__main__":
    main()
