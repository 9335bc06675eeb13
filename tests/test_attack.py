"""scripts/attack.py against a small server in this test, which behaves well or badly."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import attack
import attack_connections
from attack_honest import Observation, watching
from attack_registry import ATTACKS, Attack
from attack_soak import slope
from attack_target import Result, Target
from waiting import until

CHECKED = [ATTACKS["numbers-as-documents-1mb"], ATTACKS["disguised-paths"]]


class SmallServer:
    """Answers every request with five margins, and 401 without a key."""

    def __init__(self) -> None:
        self.margin = 1.0
        self.refuses = False
        self.calls: Counter[str] = Counter()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
                await reader.readexactly(int(length or 0))
                writer.write(self.answer(head))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def answer(self, head: str) -> bytes:
        self.calls["rerank" if "rerank" in head else "other"] += 1
        rows = [{"index": index, "margin": self.margin} for index in range(5)]
        body = json.dumps({"results": rows, "usage": {"cached_tokens": 0}})
        status = 401 if "Bearer" not in head else 429 if self.refuses and "rerank" in head else 200
        return f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


@asynccontextmanager
async def small_server() -> AsyncIterator[tuple[SmallServer, Target]]:
    fake = SmallServer()
    server = await asyncio.start_server(fake.connected, "127.0.0.1", 0, limit=1 << 26)
    try:
        yield fake, Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()


async def observed(server: SmallServer, target: Target, alone: Observation | None = None) -> Observation:
    server.calls.clear()
    async with watching(target, alone.margins if alone else None) as watch:
        await until(lambda: server.calls["rerank"] >= 10 and server.calls["other"] >= 30)
        return await watch.stop()


def failures(seen: Observation, alone: Observation) -> str:
    result = Result()
    attack.judge(result, seen, alone)
    return "; ".join(result.failures)


async def test_honest_tenants_tell_right_answers_from_wrong_and_refused_ones() -> None:
    async with small_server() as (fake, target):
        alone = await observed(fake, target)
        assert alone.pairs >= 5 and alone.probes > 5 and not alone.refused and alone.wrong == 0
        fake.margin += 0.01
        assert "scores wrong" in failures(await observed(fake, target, alone), alone)
        fake.refuses = True
        assert "refused {'429'" in failures(await observed(fake, target, alone), alone)


@pytest.mark.parametrize("chosen", CHECKED, ids=lambda chosen: chosen.name)
async def test_an_attack_runs_and_is_judged(chosen: Attack) -> None:
    async with small_server() as (_, target):
        result = Result()
        await chosen.run(target, result)
        assert result.failures == [] and result.figures


async def test_connections_send_what_they_should_and_are_closed() -> None:
    async with small_server() as (_, target):
        result = Result()
        await attack_connections.silent_bodies(target, result, count=20, seconds=0.1)
        assert result.figures == {"still_open": 20}


def test_only_loopback_is_attacked() -> None:
    with pytest.raises(ValueError, match="not on loopback"):
        Target("http://192.0.2.1:8000")


def test_a_slope_is_megabytes_a_minute_after_a_third() -> None:
    assert slope([(second, (500 if second < 20 else second) << 20) for second in range(60)]) == 60


def test_every_attack_is_listed() -> None:
    script = Path(attack.__file__)
    listed = subprocess.run([sys.executable, script, "--list"], capture_output=True, text=True, timeout=60, check=True)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(ATTACKS)
