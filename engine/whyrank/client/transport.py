"""HTTP requests to the best replica, retried where that can help. Every wait has a time limit."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import httpx

from whyrank.client.decode import error_of
from whyrank.client.retry import Breaker, Replica, RetryPolicy, affinity_hash, in_order_of_affinity, next_replica
from whyrank.connect import masked
from whyrank.errors import InvalidRequest, Overloaded, RetryableError, Unreachable, WhyrankError

__all__ = ["PendingRequest", "Transport"]

# Limits for requests and bytes in flight; later requests wait for a slot.
_MAX_CONCURRENT_REQUESTS = 64
_MAX_BYTES_IN_FLIGHT = 64 << 20
_CONNECT_SECONDS = 5.0
# Close idle connections before the server does: vLLM's timeout is 5 seconds.
_IDLE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request, and until when (time.monotonic) its answer is of use. `content` is given the number of seconds left."""

    path: str
    content: Callable[[float], bytes]
    affinity: str
    end: float
    method: str = "POST"
    streamed: bool = False


class Transport:
    def __init__(
        self,
        urls: Sequence[str],
        api_key: str | None,
        timeout: float,
        retry: RetryPolicy,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        if not urls or not all(map(_is_url, urls)):
            raise InvalidRequest(
                f"base_url is {[*map(masked, map(str, urls))]!r:.200}: give URLs such as http://localhost:8000"
            )
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise InvalidRequest("api_key has characters that no HTTP header can carry: is there a line break in it?")
        self._replicas = [*map(_replica, dict.fromkeys(urls))]
        self._retry, self._places = retry, _ByteSemaphore(_MAX_CONCURRENT_REQUESTS, _MAX_BYTES_IN_FLIGHT)
        self._hearing: dict[str, tuple[asyncio.Task[str | None], float]] = {}
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            transport=transport,
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            # Streams hold their connections for as long as their callers read.
            limits=httpx.Limits(max_keepalive_connections=_MAX_CONCURRENT_REQUESTS, keepalive_expiry=_IDLE_SECONDS),
        )

    async def aclose(self) -> None:
        for task, _ in self._hearing.values():
            task.cancel()
        await self._http.aclose()

    def preferred(self, affinity: str) -> Replica:
        """The replica that a request with this affinity goes to if it is healthy."""
        return in_order_of_affinity(self._replicas, affinity)[0]

    async def identity(self, affinity: str, older_than: float, end: float) -> str | None:
        """Instance id of the preferred server, requested again if last heard `older_than` seconds ago, once for all callers."""
        while True:
            replica = self.preferred(affinity)
            if time.monotonic() - replica.heard < older_than:
                return replica.identity
            task, its_end = self._hearing.get(replica.url) or self._start_hearing(replica, affinity, end)
            await asyncio.wait((task,), timeout=end - time.monotonic())
            if not task.done():
                raise Unreachable(f"{replica.url} did not send its instance id in time")
            error = task.exception()
            if error is None:
                return task.result()
            # A caller with less time may have started this request and run out of it: one with more time tries again.
            if its_end >= end or not isinstance(error, RetryableError):
                raise copy(error)  # a copy for each caller

    def _start_hearing(self, replica: Replica, affinity: str, end: float) -> tuple[asyncio.Task[str | None], float]:
        task = asyncio.ensure_future(
            self._hear(PendingRequest("/v1/formats", lambda seconds: b"", affinity, end, "GET"))
        )
        self._hearing[replica.url] = task, end
        task.add_done_callback(lambda task: self._heard(replica, task))
        return task, end

    async def _hear(self, pending: PendingRequest) -> str | None:
        _, _, replica = await self._answer(pending)
        return replica.identity

    def _heard(self, replica: Replica, task: asyncio.Task[str | None]) -> None:
        del self._hearing[replica.url]
        if not task.cancelled():
            task.exception()  # mark as retrieved: the caller may be gone, and asyncio would log it

    async def post(self, pending: PendingRequest) -> tuple[Any, str | None]:
        """The response's JSON, and the instance id of the server that sent it."""
        answer, body, _ = await self._answer(pending)
        return body, answer.headers.get("x-whyrank-identity")

    async def events(self, pending: PendingRequest) -> AsyncGenerator[tuple[str, Any], None]:
        """Server-sent events. Retried only until the first byte: events already delivered cannot be taken back."""
        answer, _, _ = await self._answer(replace(pending, streamed=True))
        name = ""
        try:
            async for line in _lines(answer):
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    data = json.loads(value)
                    if name == "error":
                        raise error_of(503, {"error": data}, None, answer.headers.get("x-request-id"))
                    yield name, data
                    if name == "done":
                        return
            raise Unreachable(f"the stream from {answer.url} ended before its 'done' event")
        except WhyrankError:
            raise
        except (httpx.HTTPError, httpx.StreamError, ValueError, OSError) as cause:
            raise Unreachable(f"the stream from {answer.url} broke off: {_described(cause)}") from cause
        finally:
            await answer.aclose()

    async def _answer(self, pending: PendingRequest) -> tuple[httpx.Response, Any, Replica]:
        """A successful response with its JSON, from any replica, before the request's end. A stream's body is read later."""
        tried = Counter[str]()
        while True:
            replica = next_replica(self._replicas, pending.affinity, tried)
            tried[replica.url] += 1
            try:
                answer, body = await self._once(replica, pending)
                return answer, body, replica
            except RetryableError as error:
                pause = self._retry.pause(tried.total(), error)
                following = next_replica(self._replicas, pending.affinity, tried)
                if pause is not None and following.breaker.closed and not tried[following.url]:
                    pause = 0.0  # another healthy server need not wait for this one
                if pause is None or time.monotonic() + pause >= pending.end:
                    raise
                self._retry.waits(replica.url, error)
            await asyncio.sleep(pause)

    async def _once(self, replica: Replica, pending: PendingRequest) -> tuple[httpx.Response, Any]:
        """One attempt. Raises the error of the server or the network."""
        try:
            async with asyncio.timeout(pending.end - time.monotonic()):
                content = pending.content(pending.end - time.monotonic())
                async with self._places.passed(len(content)):
                    return await self._exchanged(replica, pending, content)
        except TimeoutError as cause:
            raise Unreachable(f"no answer from {replica.url} before the timeout") from cause

    async def _exchanged(self, replica: Replica, pending: PendingRequest, content: bytes) -> tuple[httpx.Response, Any]:
        replica.breaker.began()
        try:
            request = self._http.build_request(
                pending.method,
                replica.url + pending.path,
                content=content,
                # A load balancer can keep equal queries together by the second (deploy/haproxy.cfg).
                headers={"Content-Type": "application/json", "X-Whyrank-Affinity": affinity_hash(pending.affinity)},
            )
            answer = await self._http.send(request, stream=True, auth=replica.auth)
            try:
                body = await _read(answer, pending.streamed)
            except BaseException:
                await answer.aclose()
                raise
        except (httpx.HTTPError, OSError) as cause:
            replica.breaker.failed()
            raise Unreachable(f"{replica.url}: {_described(cause)}") from cause
        except asyncio.CancelledError:
            # The request timed out, or the caller gave up. Only a timeout counts against the server.
            if time.monotonic() >= pending.end - 0.01:
                replica.breaker.failed()
            raise
        except RetryableError as error:
            if not isinstance(error, Overloaded):
                replica.breaker.failed()
            raise
        except WhyrankError:
            replica.breaker.succeeded()  # a server that refuses a request is healthy
            raise
        replica.breaker.succeeded()
        replica.identity = answer.headers.get("x-whyrank-identity")
        replica.heard = time.monotonic()
        return answer, body


async def _read(answer: httpx.Response, streamed: bool) -> Any:
    """The JSON of a successful response, or None for a stream, which is read later; raises on anything else."""
    if streamed and answer.status_code == 200:
        return None
    await answer.aread()
    try:
        body = json.loads(answer.content)
    except ValueError as cause:
        if answer.status_code < 400:
            raise Unreachable(f"the answer of {answer.url} is not JSON") from cause
        body = None
    if answer.status_code != 200:
        headers = answer.headers
        raise error_of(answer.status_code, body, headers.get("retry-after"), headers.get("x-request-id"))
    return body


async def _lines(answer: httpx.Response) -> AsyncIterator[str]:
    """Lines of server-sent events. httpx's own iterator also splits at U+2028 and the like, which JSON may contain."""
    rest = b""
    async for piece in answer.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode()


class _ByteSemaphore:
    """Limits requests and bytes in flight, first come, first served. A single request passes whatever its size."""

    def __init__(self, requests: int, size: int) -> None:
        self._max_requests, self._max_bytes = requests, size
        self._requests = self._bytes = 0
        self._waiting = deque[tuple[asyncio.Future[None], int]]()

    @asynccontextmanager
    async def passed(self, size: int) -> AsyncIterator[None]:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, size))
        self._open()
        try:
            await turn
            yield
        finally:
            if not turn.cancelled():
                self._requests -= 1
                self._bytes -= size
            self._open()

    def _open(self) -> None:
        while self._waiting:
            turn, size = self._waiting[0]
            if not turn.cancelled():
                full = self._requests >= self._max_requests or self._bytes + size > self._max_bytes
                if self._requests and full:
                    return
                self._requests += 1
                self._bytes += size
                turn.set_result(None)
            self._waiting.popleft()


def _is_url(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host)


def _replica(url: str) -> Replica:
    parsed = httpx.URL(url)
    auth = (parsed.username, parsed.password) if parsed.userinfo else None
    plain = str(parsed.copy_with(username=None, password=None)) if auth else url
    return Replica(plain.rstrip("/"), Breaker(time.monotonic), auth=auth)


def _described(cause: Exception) -> str:
    return str(cause) or type(cause).__name__
