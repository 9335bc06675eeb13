"""The real server process: under load, with callers who disconnect, with an engine that dies, and at shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from conftest import StartServer
from samples import DOCUMENTS, QUERY
from server_process import SMALL_CACHE, Server
from waiting import until

CALLS, DOCUMENTS_EACH = 200, 20


def body(call: int, count: int = DOCUMENTS_EACH) -> dict[str, Any]:
    documents = [f"Report {call} of department {n}: {n * call} parts were delivered late." for n in range(count)]
    return {"query": f"late deliveries of report {call}", "documents": documents, "return_documents": False}


def margins(answer: httpx.Response) -> list[float]:
    return [row["margin"] for row in sorted(answer.json()["results"], key=lambda row: row["index"])]


def client(server: Server) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=server.url, timeout=240, limits=limits)


async def unfinished(server: Server) -> float:
    async with client(server) as http:
        text = (await http.get("/metrics")).text
    waiting = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", text, re.MULTILINE)
    assert len(waiting) == 2
    return sum(map(float, waiting))


async def is_idle(server: Server) -> bool:
    return await unfinished(server) == 0


async def test_until_it_is_ready_a_server_says_little(server: Server) -> None:
    async with client(server) as http:
        assert (await http.post("/v1/rerank", json=body(0, 2))).status_code == 200
    log = server.log.read_text()
    lines = log.splitlines()
    (ready,) = [i for i, line in enumerate(lines) if line.startswith("ready in ")]
    assert ready < 15
    assert f"playground: {server.url}/playground" in lines[:ready]
    assert not re.search("INFO|WARNING|/v1/rerank|--enable-prefix-caching", log)


async def test_200_calls_at_once_are_answered_or_refused_and_never_wrong(server: Server) -> None:
    memory = psutil.Process(server.process.pid).memory_info().rss
    async with client(server) as http:
        answers = await asyncio.gather(*(http.post("/v1/rerank", json=body(call)) for call in range(CALLS)))
    async with client(server) as http:  # the server closes those of the other one, which have been idle for long
        for call, answer in enumerate(answers):
            assert answer.status_code in (200, 429, 503), answer.text
            if answer.status_code != 200:
                assert int(answer.headers["retry-after"]) >= 1
            elif call % 20 == 0:
                alone = await http.post("/v1/rerank", json=body(call))
                assert margins(answer) == pytest.approx(margins(alone), abs=1e-4)
    assert sum(answer.status_code == 200 for answer in answers) > CALLS / 2
    assert psutil.Process(server.process.pid).memory_info().rss - memory < 300 << 20
    await until(lambda: is_idle(server))


async def test_100_callers_who_leave_free_the_engine(server: Server) -> None:
    long = [f"{n} {DOCUMENTS['long'][:4000]}" for n in range(40)]
    calls = [
        {
            "query": f"{QUERY} {call}",
            "documents": long,
            "stream": call % 2 == 0,
            "mode": "evidence",
            "evidence_min_score": 0,
        }
        for call in range(100)
    ]

    async def leave(http: httpx.AsyncClient, ask: dict[str, Any]) -> None:
        with pytest.raises(httpx.TimeoutException):
            async with http.stream("POST", "/v1/rerank", json=ask, timeout=httpx.Timeout(60, read=0.5)) as answer:
                answer.raise_for_status()
                async for _ in answer.aiter_bytes():
                    pass

    async with client(server) as http:
        await asyncio.gather(*(leave(http, ask) for ask in calls[:50]))
        await asyncio.gather(*(leave(http, ask) for ask in calls[50:]))
    await until(lambda: is_idle(server))


async def test_a_stream_over_http_tells_scores_ranking_evidence_and_the_end(server: Server) -> None:
    ask = body(7, 3) | {
        "mode": "evidence",
        "evidence_min_score": 0,
        "max_evidence_tokens": 16,
        "max_contribution_tokens": 8,
    }
    async with client(server) as http, http.stream("POST", "/v1/rerank/stream", json=ask) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        names = [line.removeprefix("event: ") async for line in answer.aiter_lines() if line.startswith("event: ")]
    assert names[:4] == ["score"] * 3 + ["ranking"]
    assert names[-1] == "done"
    assert names.count("evidence") == 3
    assert "delta" in names


@pytest.fixture
def own_server(checkpoint: Callable[[str], Path], start_server: StartServer) -> Server:
    """A server that a test may break."""
    return start_server(checkpoint("qwen3"), "--prompt", "prism", *SMALL_CACHE)


async def test_told_to_stop_it_finishes_scores(own_server: Server) -> None:
    async with client(own_server) as http:
        call = asyncio.create_task(http.post("/v1/rerank", json=body(1, 300)))
        await until(lambda: unfinished(own_server))
        own_server.process.send_signal(signal.SIGTERM)
        answer = await call
    assert answer.status_code == 200, answer.text
    assert [row["error"] for row in answer.json()["results"]] == [None] * 300
    assert await asyncio.to_thread(own_server.process.wait, 30) == 0
    assert "Traceback" not in own_server.log.read_text()


async def test_a_dead_engine_is_told_at_once_and_ends_the_server_with_an_error(own_server: Server) -> None:
    async with client(own_server) as http:
        calls = [asyncio.create_task(http.post("/v1/rerank", json=body(call, 200))) for call in range(5)]
        await until(lambda: unfinished(own_server))
        own_server.engine().kill()
        began = time.monotonic()
        for answer in await asyncio.gather(*calls):
            assert answer.status_code == 503
            assert answer.json()["error"]["type"] == "EngineDead"
        assert time.monotonic() - began < 5
        with contextlib.suppress(httpx.TransportError):  # vLLM's watchdog may have ended the server already
            assert (await http.get("/health")).status_code == 503
    assert await asyncio.to_thread(own_server.process.wait, 60) == 2
    assert "error: the server ended because the engine's process died" in own_server.log.read_text()


async def test_told_to_stop_it_finishes_scores_and_says_which_evidence_was_aborted(
    checkpoint: Callable[[str], Path], start_server: StartServer
) -> None:
    server = start_server(checkpoint("qwen3"), "--prompt", "prism", "--shutdown-timeout", "2", *SMALL_CACHE)
    ask = body(1, 200) | {"mode": "evidence", "evidence_top_n": 200, "evidence_min_score": 0}
    async with client(server) as http:
        call = asyncio.create_task(http.post("/v1/rerank", json=ask))
        await until(lambda: unfinished(server))
        server.process.send_signal(signal.SIGTERM)
        answer = await call
    rows = answer.json()["results"]
    assert [row["error"] for row in rows] == [None] * 200
    assert "aborted" in {row["finish"] for row in rows} <= {"aborted", "complete", "budget", "repetition"}
    assert await asyncio.to_thread(server.process.wait, 30) == 0


async def test_neither_silent_connections_nor_killed_callers_keep_it_from_stopping(
    checkpoint: Callable[[str], Path], start_server: StartServer
) -> None:
    flags = ("--prompt", "prism", "--shutdown-timeout", "2", "--api-key", "K1", "K2", "--verbose", *SMALL_CACHE)
    server = start_server(checkpoint("qwen3"), *flags)
    log = server.log.read_text()
    assert "K1" not in log and "K2" not in log
    for part in (
        "vllm serve ",
        "--api-key '***' '***'",
        "Available routes are",
        "Application startup complete",
        "GET /health",
    ):
        assert part in log
    async with client(server) as http:
        for key in ("wrong", "K1"):
            headers = {"authorization": f"Bearer {key}"}
            answers = [await http.post(path, json={}, headers=headers) for path in ("/invocations", "/tokenize")]
            assert {answer.status_code for answer in answers} == {404 if key == "K1" else 401}
    host, port = server.url.removeprefix("http://").split(":")
    begin = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\n"
    halves = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
    for _, writer in halves:
        writer.write(begin)
    async with asyncio.timeout(15):
        for reader, _ in halves:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
    head = "Authorization: Bearer K1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    large = json.dumps({"query": "q", "documents": ["water boils " * 8000 for _ in range(50)]}).encode()
    for limit, text, size in ((1 << 10, large, len(large)), (1 << 16, b"{", 1000)):
        reader, writer = await asyncio.open_connection(host, int(port), limit=limit)
        writer.write(begin + (head % size).encode() + text)
        if text is large:
            await reader.readexactly(10)
        halves.append((reader, writer))  # kept open and unread
    evidence = body(1, 100) | {"mode": "evidence", "evidence_top_n": 100, "evidence_min_score": 0}
    killed = [await asyncio.open_connection(host, int(port)) for _ in range(10)]
    for _, writer in killed:
        text = json.dumps(evidence).encode()
        writer.write(begin + (head % len(text)).encode() + text)
    await until(lambda: unfinished(server))
    for _, writer in killed:
        writer.transport.abort()  # as when its process is killed
    server.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.process.wait, 20) == 0
    for _, writer in halves:
        writer.transport.abort()
    assert "EngineDeadError" not in server.log.read_text()
