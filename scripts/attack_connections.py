"""Attacks by connections: bodies that do not arrive, endless headers, answers that nobody reads, and SIGTERM meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from attack_registry import attack
from attack_target import SHUTDOWN_TIMEOUT, Result, Target, connect, is_open, request_head

__all__: list[str] = []

# A reader has 60 seconds from the last byte that it took; the operating system may take some for it until its buffers are full.
_CLOSED_WITHIN = 130
_ANNOUNCED = f"Content-Length: {32 << 20}"
_CHUNKED = "Transfer-Encoding: chunked"
_TEXT = "The lighthouse keeper wrote down every ship that passed the cape. " * 60


@asynccontextmanager
async def _connections(
    target: Target, count: int, first: bytes, buffer: int | None = None
) -> AsyncIterator[list[socket.socket]]:
    """Opens `count` connections, sends the same first bytes on each, and closes all of them at the end."""
    opened: list[socket.socket] = []
    try:
        for _ in range(0, count, 200):
            with contextlib.suppress(OSError, TimeoutError):
                batch = min(200, count - len(opened))
                opened += await asyncio.gather(*(connect(target, buffer) for _ in range(batch)))
        for connection in opened:
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(connection, first), 10)
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def _dribble(connections: list[socket.socket], piece: bytes, pause: float, seconds: float) -> None:
    """Sends a piece on every connection that accepts it, again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.send(piece)
        await asyncio.sleep(pause)


@attack("silent-bodies-8", 50, count=8, seconds=30)
@attack("silent-bodies-64", 30, count=64, seconds=10)
async def silent_bodies(target: Target, result: Result, count: int, seconds: float) -> None:
    """Connections announce bodies of 32 MiB and send nothing.

    A body that is announced but does not arrive occupies nothing: honest tenants are answered all the while.
    """
    async with _connections(target, count, request_head(target, "/v1/rerank", _ANNOUNCED)) as opened:
        await asyncio.sleep(seconds)
        result.figures["still_open"] = sum(map(is_open, opened))


@attack("trickled-bodies", 30, count=64, seconds=12)
async def trickled_bodies(target: Target, result: Result, count: int, seconds: float) -> None:
    """Connections announce 32 MiB and send one byte per second."""
    async with _connections(target, count, request_head(target, "/v1/rerank", _ANNOUNCED)) as opened:
        await _dribble(opened, b"{", 1, seconds)
        result.figures["still_open"] = sum(map(is_open, opened))


@attack("endless-chunks", 30, count=16, seconds=12)
async def endless_chunks(target: Target, result: Result, count: int, seconds: float) -> None:
    """Chunked bodies that never end, sent as fast as the server takes them (at most 2 MiB/s per connection).

    They are cut off at the largest body that the server accepts, and honest tenants are not refused because of them.
    """
    first = request_head(target, "/v1/rerank", _CHUNKED) + b'1\r\n"\r\n'
    async with _connections(target, count, first) as opened:
        await _dribble(opened, b"8000\r\n" + b"x" * 0x8000 + b"\r\n", 1 / 64, seconds)
        result.figures["still_open"] = sum(map(is_open, opened))


@attack("half-headers", 60, count=5000, seconds=10)
async def half_headers(target: Target, result: Result, count: int, seconds: float) -> None:
    """Thousands of connections send half a header each and wait."""
    async with _connections(target, count, b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nX-Slow: ") as opened:
        await _dribble(opened, b"y", 3, seconds)
        result.figures |= {"opened": len(opened), "still_open": sum(map(is_open, opened))}


@attack("idle-connections", 60, count=5000, seconds=8)
async def idle_connections(target: Target, result: Result, count: int, seconds: float) -> None:
    """Thousands of connections send nothing at all."""
    async with _connections(target, count, b"") as opened:
        await asyncio.sleep(seconds)
        result.figures |= {"opened": len(opened), "still_open": sum(map(is_open, opened))}


@attack("slow-clients-are-closed", 150)
async def slow_clients_are_closed(target: Target, result: Result) -> None:
    """One slow client of every kind: the server disconnects whoever neither sends nor reads within a time limit."""
    large = _ranking_body(1000, max_tokens_per_doc=40)
    ordinary = request_head(target, "/v1/rerank", f"Content-Length: {len(large)}") + large
    kinds = {
        "silent body": request_head(target, "/v1/rerank", _ANNOUNCED),
        "silent chunks": request_head(target, "/v1/rerank", _CHUNKED) + b"1\r\n{\r\n",
        "silent without a key": request_head(target, "/v1/rerank", _ANNOUNCED, key="wrong"),
        "half header": b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        "trickled header": b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        "trickled body": request_head(target, "/v1/rerank", _ANNOUNCED),
        "idle": b"",
        "idle after an answer": request_head(target, "/health", method="GET"),
        "unread answer": ordinary,
    }
    async with contextlib.AsyncExitStack() as stack:
        connections = {
            kind: (await stack.enter_async_context(_connections(target, 1, first, 4096)))[0]
            for kind, first in kinds.items()
        }
        closed = await _seconds_until_closed(target, connections, _CLOSED_WITHIN + 5)
    result.figures["closed_after_s"] = closed
    late = [kind for kind, seconds in closed.items() if seconds is None or seconds > _CLOSED_WITHIN]
    result.require(not late, f"still open after {_CLOSED_WITHIN} s: {', '.join(late)}")


async def _seconds_until_closed(
    target: Target, connections: dict[str, socket.socket], patience: float
) -> dict[str, float | None]:
    began, closed = time.monotonic(), dict[str, float | None].fromkeys(connections)
    while None in closed.values() and time.monotonic() - began < patience:
        await asyncio.sleep(1)
        for kind, connection in connections.items():
            if closed[kind] is not None:
                continue
            if kind.startswith("trickled"):
                with contextlib.suppress(OSError):
                    connection.send(b"y")
            # An unread answer may be in the system's buffers, which end the connection only once somebody reads it.
            if not (_let_go(target, connection) if kind == "unread answer" else is_open(connection) is False):
                continue
            closed[kind] = round(time.monotonic() - began, 1)
    return closed


def _let_go(target: Target, connection: socket.socket) -> bool:
    """Whether the server's process has closed its end."""
    port = connection.getsockname()[1]
    held = psutil.Process(target.pid).net_connections("tcp")
    return all(other.raddr.port != port for other in held if other.raddr)


def _peer_gone(connection: socket.socket) -> bool:
    """Whether the server has closed or reset the connection, without reading from it (Linux)."""
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state not in (1, 2, 3)  # established, or about to be


def _ranking_body(documents: int, **options: object) -> bytes:
    texts = [f"{number} {_TEXT}" for number in range(documents)]
    return json.dumps({"query": "Which ships passed?", "documents": texts, "return_documents": True} | options).encode()


@attack("unread-streams", 40, path="/v1/rerank/stream", count=4, seconds=20)
@attack("unread-answers", 40, path="/v1/rerank", count=4, seconds=20)
async def unread(target: Target, result: Result, path: str, count: int, seconds: float, documents: int = 1000) -> None:
    """Calls of 1,000 documents whose answers nobody reads.

    Documents that are scored no longer count as in flight: honest tenants are answered while the answers stay unread.
    """
    body = _ranking_body(documents, max_tokens_per_doc=40)
    first = request_head(target, path, f"Content-Length: {len(body)}") + body
    async with _connections(target, count, first, 4096) as opened:
        await asyncio.sleep(seconds)
        result.figures["still_open"] = sum(not _peer_gone(connection) for connection in opened)


@attack("leaving-callers", 30, count=100)
async def leaving_callers(target: Target, result: Result, count: int) -> None:
    """Callers send 50 documents each and disconnect at once: their work is dropped."""
    body = _ranking_body(50, max_tokens_per_doc=200)
    first = request_head(target, "/v1/rerank", f"Content-Length: {len(body)}") + body
    for _ in range(count):
        async with _connections(target, 1, first):
            await asyncio.sleep(0.05)


@attack("sigterm", 60, ends_server=True)
async def sigterm(target: Target, result: Result) -> None:
    """SIGTERM while an answer and a stream lie unread and two bodies are half sent: it ends within its timeout plus 5 s."""
    assert target.pid is not None
    process = psutil.Process(target.pid)
    body = _ranking_body(1000, max_tokens_per_doc=40)
    length = f"Content-Length: {len(body)}"
    starts = [request_head(target, path, length) + body for path in ("/v1/rerank", "/v1/rerank/stream")]
    starts += [request_head(target, "/v1/rerank", _ANNOUNCED) + b"{", request_head(target, "/v1/rerank", _CHUNKED)]
    async with contextlib.AsyncExitStack() as stack:
        for first in starts:
            await stack.enter_async_context(_connections(target, 1, first, 4096))
        await asyncio.sleep(8)
        began = time.monotonic()
        os.kill(target.pid, signal.SIGTERM)
        allowed = SHUTDOWN_TIMEOUT + 5
        await asyncio.to_thread(psutil.wait_procs, [process], allowed + 15)
        ended = None if _running(process) else round(time.monotonic() - began, 1)
        result.figures["ended_after_s"] = ended
        result.require(ended is not None and ended <= allowed, f"not ended within {allowed} s of SIGTERM: {ended} s")


def _running(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
