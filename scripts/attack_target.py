"""What attack.py attacks: its own server on loopback, which is watched and killed at 8 GiB; and badly behaved connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

import server_process

__all__ = ["Answer", "GuardedServer", "MemorySample", "Result", "Target", "connect", "is_open", "post", "request_head"]

KEYS = ("attack-hostile-key", "attack-honest-key-1", "attack-honest-key-2")
SHUTDOWN_TIMEOUT = 5
MAX_RSS = 8 << 30
_MAX_ANSWER = 256 << 20
_SAMPLE_SECONDS = 0.25


@dataclass(frozen=True)
class Target:
    """A server on loopback, and the keys that the hostile caller and the two honest tenants use there."""

    url: str
    keys: tuple[str, str, str] = KEYS
    pid: int | None = None
    log: Path | None = None

    def __post_init__(self) -> None:
        if urlsplit(self.url).hostname not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError(f"{self.url} is not on loopback: attacks run against servers of this machine only")

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80

    def client(self, key: str | None = None, seconds: float = 60) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.keys[0] if key is None else key}"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=seconds, limits=limits)


@dataclass
class Result:
    """What an attack measured, and in what the server failed."""

    figures: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def require(self, holds: bool, failure: str) -> None:
        if not holds:
            self.failures.append(failure)


@dataclass(frozen=True)
class Answer:
    """`status` 0: no answer in time, or the connection broke."""

    status: int
    seconds: float
    size: int = 0
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)

    def figures(self) -> dict[str, Any]:
        return {"status": self.status, "seconds": round(self.seconds, 2), "answer_mib": round(self.size / (1 << 20), 2)}


async def post(target: Target, path: str, body: bytes | dict[str, Any], seconds: float, keep: int = 1 << 20) -> Answer:
    """Posts as the hostile caller. Reads at most 256 MiB of the answer, counts them, and keeps the first `keep` bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    began, status, size, kept = time.monotonic(), 0, 0, b""
    with contextlib.suppress(httpx.TransportError, TimeoutError):
        async with (
            asyncio.timeout(seconds),
            target.client(seconds=seconds) as http,
            http.stream("POST", path, content=content, headers=headers) as response,
        ):
            async for chunk in response.aiter_raw(1 << 20):
                size += len(chunk)
                kept += chunk[: max(0, keep - len(kept))]
                if size > _MAX_ANSWER:
                    break
            status = response.status_code
    return Answer(status, time.monotonic() - began, size, kept)


def request_head(target: Target, path: str, *lines: str, method: str = "POST", key: str | None = None) -> bytes:
    """The head of a request as bytes, including the blank line."""
    head = [f"{method} {path} HTTP/1.1", f"Host: {target.address[0]}", "Content-Type: application/json", *lines]
    return "\r\n".join([*head, f"Authorization: Bearer {key or target.keys[0]}", "", ""]).encode()


async def connect(target: Target, receive_buffer: int | None = None) -> socket.socket:
    """A connection that reads only when told to; with a small receive_buffer the server notices this soon."""
    connection = socket.socket()
    connection.setblocking(False)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(connection, target.address), 10)
    except BaseException:
        connection.close()
        raise
    return connection


def is_open(connection: socket.socket) -> bool:
    """Reads what has arrived, and tells whether the server has kept its side open."""
    while True:
        try:
            if not connection.recv(1 << 16):
                return False
        except BlockingIOError:
            return True
        except OSError:
            return False


@dataclass(frozen=True)
class MemorySample:
    """Resident bytes at one moment."""

    at: float
    api: int
    engine: int


class GuardedServer:
    """`whyrank serve demo` with three tenants. A thread samples its memory, and kills it at MAX_RSS."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starts = 0
        self._server: server_process.Server | None = None
        self._closed = threading.Event()
        self.samples: list[MemorySample] = []
        self.killed_for_memory = False
        self._thread = threading.Thread(target=self._guard, daemon=True)
        self._thread.start()

    async def target(self) -> Target:
        """A server that answers: the running one if it still does, otherwise a new one."""
        if self._server is None or not await self._answers(self._server):
            await asyncio.to_thread(self.stop)
            await asyncio.to_thread(self._start)
        assert self._server is not None
        return Target(self._server.url, pid=self._server.process.pid, log=self._server.log)

    def _start(self) -> None:
        self._starts += 1
        self.killed_for_memory = False
        # With the full log, because that is checked for keys.
        flags = ["--verbose", "--api-key", *KEYS, "--shutdown-timeout", str(SHUTDOWN_TIMEOUT)]
        flags += server_process.SMALL_CACHE
        log = self._folder / f"log-{self._starts}"
        self._server = server_process.start(Path("demo"), flags, log, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")

    async def _answers(self, server: server_process.Server) -> bool:
        if server.process.poll() is not None:
            return False
        for _ in range(2):
            with contextlib.suppress(httpx.HTTPError):
                async with httpx.AsyncClient(base_url=server.url, timeout=3) as http:
                    if (await http.get("/health")).status_code == 200:
                        return True
            await asyncio.sleep(1)
        return False

    def stop(self, patience: float = SHUTDOWN_TIMEOUT + 3) -> None:
        """Asks it to end, then kills it with all its children."""
        server, self._server = self._server, None
        if server is None:
            return
        family = _family(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(patience)
        _kill(family)
        server.process.wait(10)

    def close(self) -> None:
        self._closed.set()
        self.stop()
        self._thread.join(5)

    def _guard(self) -> None:
        while not self._closed.wait(_SAMPLE_SECONDS):
            server = self._server
            if server is None or server.process.poll() is not None:
                continue
            family = _family(server.process.pid)
            sizes = [_resident(process) for process in family]
            self.samples.append(MemorySample(time.monotonic(), sizes[0] if sizes else 0, sum(sizes[1:])))
            if sum(sizes) > MAX_RSS:
                self.killed_for_memory = True
                _kill(family)


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _kill(family: list[psutil.Process]) -> None:
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
