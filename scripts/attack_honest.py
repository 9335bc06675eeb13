"""Two honest tenants and a probe of the event loop, in a separate process, so that the attacker's work does not slow them down.

Each tenant sends, one after the other, score calls of 5 documents, whose margins are known from a quiet measurement, and
/health. Every sixth call is padded to 3 MiB, because large bodies are admitted by rules of their own; its time is counted
separately. The probe requests a small answer every 10 ms: how long it waits is how long the event loop was blocked. The part
of that wait in which the server's main thread queued for a processor (Linux reports it) is caused by the machine, and is
subtracted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

from attack_target import Target

__all__ = ["Observation", "Watch", "watching"]

_TOLERANCE = 1e-4
_PAUSE_SECONDS = 0.15
_PROBE_SECONDS = 0.01
_CALL_TIMEOUT = 20.0
_GRACE_SECONDS = 3.0
_POOL = 24
_PADDING = 3 << 20

Margins = dict[int, list[float]]
"""Number of a call of the pool → margins of its documents."""


@dataclass
class Observation:
    """What the honest tenants saw while they were watching."""

    seconds: list[float] = field(default_factory=list)
    began: list[float] = field(default_factory=list)
    """When each of these calls began, by time.monotonic."""
    large_seconds: list[float] = field(default_factory=list)
    health_seconds: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    pairs: int = 0
    wrong: int = 0
    worst_difference: float = 0.0
    longest_gap: float = 0.0
    """Longest block of the event loop, without the time that its thread waited for a processor."""
    longest_wait: float = 0.0
    """The same as the probe measured it."""
    probes: int = 0
    probe_errors: int = 0
    margins: Margins = field(default_factory=dict)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def figures(self) -> dict[str, Any]:
        return {
            "calls": len(self.seconds),
            "refused": sum(self.refused.values()),
            "refused_why": dict(self.refused),
            "pairs": self.pairs,
            "wrong": self.wrong,
            "worst_margin_difference": round(self.worst_difference, 7),
            "p50_s": round(statistics.median(self.seconds), 3) if self.seconds else None,
            "p99_s": round(self.percentile(0.99), 3),
            "max_s": round(max(self.seconds, default=0.0), 3),
            "large_max_s": round(max(self.large_seconds, default=0.0), 3),
            "health_max_s": round(max(self.health_seconds, default=0.0), 3),
            "loop_gap_ms": round(1000 * self.longest_gap, 1),
            "probe_wait_ms": round(1000 * self.longest_wait, 1),
            "probes": self.probes,
            "probe_errors": self.probe_errors,
        }


class Watch:
    """A running observation; `stop` ends it."""

    def __init__(self, target: Target, expected: Margins | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        arguments = (there, target, expected)
        self._process = context.Process(target=_child, args=arguments, daemon=True)
        self._process.start()
        there.close()

    async def ready(self) -> None:
        await asyncio.to_thread(self._receive, 30.0)

    async def stop(self) -> Observation:
        self._here.send("stop")
        observation = await asyncio.to_thread(self._receive, _GRACE_SECONDS + 10)
        assert isinstance(observation, Observation)
        return observation

    def _receive(self, patience: float) -> Any:
        if not self._here.poll(patience):
            raise RuntimeError("the process of the honest tenants says nothing")
        return self._here.recv()

    def close(self) -> None:
        self._process.kill()
        self._process.join(5)
        self._here.close()


@asynccontextmanager
async def watching(target: Target, expected: Margins | None = None) -> AsyncIterator[Watch]:
    """If no margins are expected, `stop` returns those that were seen."""
    watch = Watch(target, expected)
    try:
        await watch.ready()
        yield watch
    finally:
        watch.close()


def _child(pipe: Connection, target: Target, expected: Margins | None) -> None:
    pipe.send("ready")
    pipe.send(asyncio.run(_observe(pipe, target, expected)))


async def _observe(pipe: Connection, target: Target, expected: Margins | None) -> Observation:
    observation = Observation()
    tasks = [asyncio.create_task(_tenant(target, key, expected, observation)) for key in target.keys[1:]]
    tasks.append(asyncio.create_task(_probe(target, observation)))
    with contextlib.suppress(EOFError):
        await asyncio.to_thread(pipe.recv)
    stopping.set()
    _, late = await asyncio.wait(tasks, timeout=_GRACE_SECONDS)
    for task in late:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    return observation


stopping = asyncio.Event()
"""For the child process, which makes only one observation."""


async def _tenant(target: Target, key: str, expected: Margins | None, seen: Observation) -> None:
    number = 0
    async with target.client(key, _CALL_TIMEOUT) as http:
        while not stopping.is_set():
            await _score(http, number % _POOL, number % 6 == 5, expected, seen)
            if number % 5 == 0:
                await _health(http, seen)
            number += 1
            await _pause(_PAUSE_SECONDS)


async def _pause(seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)


def _body(number: int) -> dict[str, Any]:
    subjects = ("boiler", "bridge", "harbour", "orchard", "railway")
    documents = [
        f"The {name} of district {number} was repaired in {1900 + number}. " * (2 + i)
        for i, name in enumerate(subjects)
    ]
    return {
        "query": f"When was the {subjects[number % 5]} repaired?",
        "documents": documents,
        "return_documents": False,
    }


async def _score(
    http: httpx.AsyncClient, number: int, large: bool, expected: Margins | None, seen: Observation
) -> None:
    began, what = time.monotonic(), "large " if large else ""
    content = json.dumps(_body(number)).encode() + b" " * (_PADDING if large else 0)
    try:
        async with asyncio.timeout(_CALL_TIMEOUT):
            answer = await http.post("/v1/rerank", content=content, headers={"Content-Type": "application/json"})
    except (httpx.TransportError, TimeoutError) as error:
        seen.refused[what + type(error).__name__] += 1
        return
    except asyncio.CancelledError:
        seen.refused[what + "unanswered"] += 1
        raise
    finally:
        if large:
            seen.large_seconds.append(time.monotonic() - began)
        else:
            seen.began.append(began)
            seen.seconds.append(time.monotonic() - began)
    if answer.status_code != 200:
        seen.refused[f"{what}{answer.status_code}"] += 1
        return
    rows = sorted(answer.json()["results"], key=lambda row: int(row["index"]))
    _compare([row["margin"] for row in rows], number, expected, seen)


def _compare(margins: list[float | None], number: int, expected: Margins | None, seen: Observation) -> None:
    known = (expected or seen.margins).setdefault(number, [margin or 0.0 for margin in margins])
    for margin, right in zip(margins, known, strict=True):
        difference = float("inf") if margin is None else abs(margin - right)
        seen.pairs += 1
        seen.wrong += difference > _TOLERANCE
        seen.worst_difference = max(seen.worst_difference, difference)


async def _health(http: httpx.AsyncClient, seen: Observation) -> None:
    began = time.monotonic()
    try:
        status = str((await http.get("/health")).status_code)
    except httpx.TransportError as error:
        status = type(error).__name__
    seen.health_seconds.append(time.monotonic() - began)
    if status != "200":
        seen.refused[f"health {status}"] += 1


async def _probe(target: Target, seen: Observation) -> None:
    while not stopping.is_set():
        try:
            await _probe_connection(target, seen)
        except (OSError, asyncio.IncompleteReadError):
            seen.probe_errors += 1
            await _pause(0.1)


async def _probe_connection(target: Target, seen: Observation) -> None:
    """Any answer will do: it shows that the event loop runs."""
    reader, writer = await asyncio.open_connection(*target.address)
    request = f"GET /version HTTP/1.1\r\nHost: probe\r\nAuthorization: Bearer {target.keys[1]}\r\n\r\n".encode()
    try:
        while not stopping.is_set():
            began, queued = time.monotonic(), _queued(target.pid)
            try:
                writer.write(request)
                await _read_answer(reader)
            finally:
                wait = time.monotonic() - began
                seen.longest_wait = max(seen.longest_wait, wait)
                seen.longest_gap = max(seen.longest_gap, wait - (_queued(target.pid) - queued))
            seen.probes += 1
            await asyncio.sleep(_PROBE_SECONDS)
    finally:
        writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    lengths = [line.partition(":")[2] for line in head.splitlines() if line.startswith("content-length:")]
    await reader.readexactly(int(lengths[0]) if lengths else 0)


def _queued(pid: int | None) -> float:
    """Seconds for which the server's main thread was ready to run but had no processor; 0 if the system does not report it."""
    if pid is None:
        return 0.0
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    return 0.0
