"""Time limits of connections, over real sockets, with limits of fractions of a second and a small application."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from waiting import until
from whyrank.serving.connections import LimitedProtocol

HALF = b"GET / HTTP/1.1\r\nHost: x\r\n"
LARGE = b"x" * (32 << 20)


class QuickProtocol(LimitedProtocol):
    header_seconds = 0.3
    stalled_seconds = 0.3
    closing_seconds = 0.3


async def application(scope: Any, receive: Any, send: Any) -> None:
    """/slow answers later than headers may take, /large with more than sockets hold, /early before the body has arrived."""
    if scope["type"] != "http":
        return
    while scope["path"] != "/early" and (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(2.5 * QuickProtocol.header_seconds)
    body = LARGE if scope["path"] == "/large" else b"done"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def server() -> AsyncIterator[uvicorn.Server]:
    limits = {"timeout_keep_alive": 1, "timeout_graceful_shutdown": 5}
    config = uvicorn.Config(application, http=QuickProtocol, log_level="error", **limits)
    running = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(running._serve([listening]))
    await until(lambda: running.started)
    yield running
    while writers:
        writers.pop().close()
    running.should_exit = True
    await asyncio.wait_for(task, 10)


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
writers: list[asyncio.StreamWriter] = []
"""Of the running test, which closes them in the end."""


async def connect(server: uvicorn.Server, data: bytes, **options: Any) -> Connection:
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    writers.append(writer)
    writer.write(data)
    return reader, writer


async def rest(reader: asyncio.StreamReader, seconds: float = 5) -> bytes:
    """Everything that arrives until the server closes."""
    try:
        return await asyncio.wait_for(reader.read(), seconds)
    except ConnectionError:
        return b""


def request(path: str, body: bytes = b"", announced: int | None = None) -> bytes:
    size = len(body) if announced is None else announced
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), size, body)


@pytest.mark.parametrize("sent", [b"", b"G", HALF, b"\r\n" * 10, request("/", b"body") + HALF])
async def test_half_sent_headers_are_closed(server: uvicorn.Server, sent: bytes) -> None:
    reader, _ = await connect(server, sent)
    assert (b"done" in await rest(reader)) == (b"body" in sent)


async def test_headers_that_trickle_are_closed(server: uvicorn.Server) -> None:
    reader, writer = await connect(server, HALF)
    start = time.monotonic()
    while not reader.at_eof() and reader.exception() is None:
        assert time.monotonic() - start < 4
        writer.write(b"a: b\r\n")
        await asyncio.sleep(0.05)


async def test_headers_without_end_are_closed(server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QuickProtocol, "header_seconds", 30.0)
    reader, _ = await connect(server, HALF + b"a: b\r\n" * 20_000)
    assert await rest(reader) == b""


@pytest.mark.parametrize("further", [b"", HALF])
async def test_an_answer_may_take_longer_than_headers(server: uvicorn.Server, further: bytes) -> None:
    reader, _ = await connect(server, request("/slow") + further)
    assert (await reader.readuntil(b"done")).endswith(b"done")


async def test_a_body_may_take_longer_than_headers(server: uvicorn.Server) -> None:
    reader, writer = await connect(server, request("/", b"a", announced=2))
    await asyncio.sleep(2.5 * QuickProtocol.header_seconds)
    writer.write(b"b")
    assert (await reader.readuntil(b"done")).endswith(b"done")


async def test_a_body_does_not_go_on_for_ever_after_its_answer(server: uvicorn.Server) -> None:
    reader, writer = await connect(server, request("/early", announced=1 << 30))
    await reader.readuntil(b"done")
    start = time.monotonic()
    while not reader.at_eof() and reader.exception() is None:
        assert time.monotonic() - start < 4
        writer.write(b"a")
        await asyncio.sleep(0.05)


async def test_who_reads_nothing_is_cut_off(server: uvicorn.Server) -> None:
    reader, _ = await connect(server, request("/large"), limit=1 << 10)
    await reader.readexactly(10)
    await until(lambda: not server.server_state.connections)
    assert len(await rest(reader)) < len(LARGE)


async def test_who_reads_slowly_gets_everything(server: uvicorn.Server) -> None:
    reader, _ = await connect(server, request("/large"), limit=1 << 10)
    header = await reader.readuntil(b"\r\n\r\n")
    assert b"200" in header
    for _ in range(32):
        await reader.readexactly(1 << 20)
        await asyncio.sleep(QuickProtocol.stalled_seconds / 10)


async def test_told_to_stop_it_waits_for_nobody_for_long(server: uvicorn.Server) -> None:
    unread, _ = await connect(server, request("/large"), limit=1 << 10)
    await unread.readexactly(10)
    half, _ = await connect(server, request("/", b"a", announced=2))
    await until(lambda: len(server.server_state.tasks) == 1)  # the half-sent body's; the other has written everything
    start = time.monotonic()
    await asyncio.wait_for(server.shutdown(), 4)
    assert time.monotonic() - start < 3
    assert not server.server_state.connections
    assert await rest(half) == b""


def test_a_process_that_does_not_end_is_ended_and_says_where_it_was() -> None:
    program = """
import threading
from whyrank.serving.connections import end_within
def work_that_nobody_waits_for(): threading.Event().wait()
threading.Thread(target=work_that_nobody_waits_for).start()
end_within(0.5)  # longer than this thread takes to its end
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "work_that_nobody_waits_for" in done.stderr
