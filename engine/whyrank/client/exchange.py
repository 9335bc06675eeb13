"""HTTP exchanges with whichever server should have them, tried again where that can help. Everything awaited has an end."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from whyrank.client.answers import error_of
from whyrank.client.policy import Breaker, Replica, RetryPolicy, in_order_of_affinity
from whyrank.errors import InvalidRequest, Overloaded, RetryableError, Unreachable, WhyrankError

__all__ = ["Exchange"]

# Requests and bytes on their way at once; who comes later waits for a place.
_REQUESTS_AT_ONCE = 8
_BYTES_AT_ONCE = 64 << 20
# The server answers at its deadline; the way back takes a little longer.
_WAY_BACK_SECONDS = 1.0


class Exchange:
    def __init__(
        self,
        urls: Sequence[str],
        api_key: str | None,
        timeout: float,
        retry: RetryPolicy,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        if not urls or not all(url.startswith(("http://", "https://")) for url in urls):
            raise InvalidRequest(f"base_url is {list(urls)!r:.200}: give URLs such as http://localhost:8000")
        self._replicas = [Replica(url.rstrip("/"), Breaker(time.monotonic)) for url in urls]
        self._timeout, self._retry = timeout, retry
        self._places = asyncio.Semaphore(_REQUESTS_AT_ONCE)
        self._room = asyncio.Condition()
        self._bytes = 0
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            transport=transport,
            timeout=timeout,
            limits=httpx.Limits(max_connections=2 * _REQUESTS_AT_ONCE, keepalive_expiry=60),
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    def preferred(self, affinity: str) -> Replica:
        """Where a request with this affinity goes if nothing is wrong there."""
        return in_order_of_affinity(self._replicas, affinity)[0]

    async def identity(self, affinity: str, older_than: float) -> str | None:
        """Of the preferred server, asked anew where it was not heard for so many seconds."""
        replica = self.preferred(affinity)
        if time.monotonic() - replica.heard < older_than:
            return replica.identity
        async with self._tried("GET", "/v1/formats", None, affinity) as (_, replica):
            return replica.identity

    async def post(self, path: str, body: Mapping[str, Any], affinity: str) -> tuple[Any, str | None]:
        """The answer's JSON, and the identity of the server that gave it."""
        async with self._tried("POST", path, body, affinity) as (answer, replica):
            return answer.json(), replica.identity

    async def events(self, path: str, body: Mapping[str, Any], affinity: str) -> AsyncGenerator[tuple[str, Any], None]:
        """Server-sent events. Tried again only until the first byte: what was told cannot be untold."""
        async with self._tried("POST", path, body, affinity, streamed=True) as (answer, _):
            name = ""
            try:
                async for line in answer.aiter_lines():
                    field, _, value = line.partition(": ")
                    if field == "event":
                        name = value
                    elif field == "data":
                        data = json.loads(value)
                        if name == "error":
                            raise error_of(503, {"error": data}, None, answer.headers.get("x-request-id"))
                        yield name, data
            except (httpx.HTTPError, json.JSONDecodeError) as cause:
                raise Unreachable(f"the stream from {answer.url} broke off: {_told(cause)}") from cause

    @asynccontextmanager
    async def _tried(
        self, method: str, path: str, body: Mapping[str, Any] | None, affinity: str, streamed: bool = False
    ) -> AsyncIterator[tuple[httpx.Response, Replica]]:
        """A good answer, from one server or another, in the time there is. The caller's own work with it is not limited."""
        deadline_ms = (body or {}).get("deadline_ms")
        seconds = self._timeout if deadline_ms is None else min(self._timeout, deadline_ms / 1000 + _WAY_BACK_SECONDS)
        end = time.monotonic() + seconds
        content = b"" if body is None else _json(body)
        async with self._place(len(content)):
            for attempt in itertools.count(1):
                replica = self._choose(affinity, attempt)
                if deadline_ms is not None and body is not None and attempt > 1:
                    content = _json(
                        {**body, "deadline_ms": max(1.0, 1000 * (end - time.monotonic() - _WAY_BACK_SECONDS))}
                    )
                try:
                    answer = await self._once(replica, method, path, content, end, streamed)
                    break
                except RetryableError as error:
                    pause = self._pause(attempt, error)
                    if pause is None or time.monotonic() + pause >= end:
                        raise
                    await asyncio.sleep(pause)
            try:
                yield answer, replica
            finally:
                await answer.aclose()

    def _choose(self, affinity: str, attempt: int) -> Replica:
        order = in_order_of_affinity(self._replicas, affinity)
        return order[(attempt - 1) % len(order)]

    def _pause(self, attempt: int, error: RetryableError) -> float | None:
        pause = self._retry.pause(attempt, error)
        # Another server that is well need not wait for the pause of this one.
        others = attempt < len(self._replicas) and any(replica.breaker.closed for replica in self._replicas)
        return 0.0 if others and pause is not None else pause

    async def _once(
        self, replica: Replica, method: str, path: str, content: bytes, end: float, streamed: bool
    ) -> httpx.Response:
        """One attempt. Raises what the server or the network said."""
        try:
            async with asyncio.timeout(end - time.monotonic()):
                request = self._http.build_request(
                    method, replica.url + path, content=content, headers={"Content-Type": "application/json"}
                )
                answer = await self._http.send(request, stream=True)
                try:
                    await self._check(answer, streamed)
                except BaseException:
                    await answer.aclose()
                    raise
        except TimeoutError as cause:
            replica.breaker.failed()
            raise Unreachable(f"no answer from {replica.url} in {self._timeout:g} s") from cause
        except httpx.HTTPError as cause:
            replica.breaker.failed()
            raise Unreachable(f"{replica.url}: {_told(cause)}") from cause
        except WhyrankError as error:
            if isinstance(error, RetryableError) and not isinstance(error, Overloaded):
                replica.breaker.failed()
            raise
        replica.breaker.succeeded()
        replica.identity = answer.headers.get("x-whyrank-identity")
        replica.heard = time.monotonic()
        return answer

    async def _check(self, answer: httpx.Response, streamed: bool) -> None:
        """Read the answer, unless it is a good stream; anything but a good answer is an error."""
        if streamed and answer.status_code == 200:
            return
        await answer.aread()
        try:
            body = answer.json()
        except ValueError as cause:
            if answer.status_code < 400:
                raise Unreachable(f"the answer of {answer.url} is not JSON") from cause
            body = None
        if answer.status_code != 200:
            headers = answer.headers
            raise error_of(answer.status_code, body, headers.get("retry-after"), headers.get("x-request-id"))

    @asynccontextmanager
    async def _place(self, size: int) -> AsyncIterator[None]:
        async with self._places:
            async with self._room:
                await self._room.wait_for(lambda: not self._bytes or self._bytes + size <= _BYTES_AT_ONCE)
                self._bytes += size
            try:
                yield
            finally:
                self._bytes -= size
                async with self._room:
                    self._room.notify_all()


def _json(body: Mapping[str, Any]) -> bytes:
    # Lone surrogates cannot travel as UTF-8; escaped, they can, and the server reads them as it would in-process.
    return json.dumps(body).encode("ascii")


def _told(cause: Exception) -> str:
    return str(cause) or type(cause).__name__
