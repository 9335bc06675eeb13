"""A network and servers that misbehave: every call ends in the right answer or in a typed error, and nothing is left behind."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import random
import re
import socket
import struct
import time
import traceback
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from whyrank import (
    AsyncClient,
    Finished,
    InvalidRequest,
    Overloaded,
    Ranked,
    RankedDocument,
    RetryableError,
    Scored,
    TooLarge,
    Unauthorized,
    Unreachable,
    WhyrankError,
)
from whyrank.client.retry import RetryPolicy
from whyrank.client.transport import Transport
from whyrank.events import Event

QUICK = RetryPolicy(attempts=6, first_pause=0.01, longest_pause=0.05)


def margin(query: str, text: str) -> float:
    """What the fake server returns for a pair; for another pair it would return something else."""
    return zlib.crc32(f"{query}\n{text}".encode()) / 2**29 - 4


def ranking(body: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {"index": i, "id": None, "rank": None, "score": 0.5, "margin": margin(body["query"], text), "label_mass": 0.9}
        | {"truncation": None, "neutralised": False, "error": None}
        for i, text in enumerate(body["documents"])
    ]
    usage = {"prompt_tokens": len(rows), "cached_tokens": 0, "computed_tokens": len(rows), "output_tokens": 0}
    return {"results": rows, "usage": usage, "evidence_usage": usage, "model": "m", "prompt": "p@1", "degraded": False}


def answer(path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    if path == "/v1/rerank/batch":
        return 200, json.dumps({"answers": [refused(one) or ranking(one) for one in body["requests"]]}).encode()
    if path == "/v1/rerank/stream":
        rows = [f"event: score\ndata: {json.dumps(row)}\n\n" for row in ranking(body)["results"]]
        end = json.dumps(ranking(body))
        return 200, "".join([*rows, f"event: ranking\ndata: {end}\n\nevent: done\ndata: {end}\n\n"]).encode()
    error = refused(body)
    return (400 if error else 200), json.dumps(error or ranking(body)).encode()


def refused(body: dict[str, Any]) -> dict[str, Any] | None:
    """Some requests are invalid, whoever sends them and however often."""
    if "forbidden" not in body["query"]:
        return None
    return {"error": {"type": "InvalidRequest", "message": f"not this query: {body['query']}"}}


def reply(status: int, content: bytes, length: int | None = None, **headers: str) -> bytes:
    fixed = {"Content-Type": "application/json", "Content-Length": str(len(content) if length is None else length)}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in (fixed | headers).items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + content


@dataclass
class Misbehaving:
    """Reads HTTP requests from sockets, and answers each in the way that `fault` chooses from its body."""

    fault: Callable[[bytes], str]
    attempts: Counter[bytes] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    stalling: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    counts: Counter[str] = field(default_factory=Counter)
    """Queries whose answer was sent completely."""
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.exchange(reader, writer):
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client has hung up
        finally:
            writer.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handles one request. Returns whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        path = head.split()[1]
        body = await reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n")[0]))
        self.attempts[body] += 1
        fault = self.fault(body)
        self.faults[fault] += 1
        request = json.loads(body)
        status, good = answer(path, request)
        match fault:
            case "reset":
                hang_up(writer)
                return False
            case "half a head":
                writer.write(reply(200, good)[:20])
                return False
            case "half a body":
                writer.write(reply(200, good[: len(good) // 2], len(good)))
                return False
            case "half, then reset":
                writer.write(reply(200, good[: len(good) // 2], len(good)))
                await writer.drain()
                hang_up(writer)
                return False
            case "closed after":
                self.note(request)
                writer.write(reply(status, good, Connection="close"))
                return False
            case "busy":
                writer.write(reply(429, b'{"error": {"type": "Overloaded", "message": "busy"}}', Retry_After="0"))
            case "busy for 1 s":
                writer.write(reply(429, b"{}", Retry_After="1"))
            case "broken":
                writer.write(reply(500, b"<h1>Internal Server Error</h1>"))
            case "stall":
                self.stalling.release()
                await asyncio.wait_for(reader.read(1), 60)  # until the client hangs up
                return False
            case "no JSON":
                writer.write(reply(200, good[:-1]))
            case "other JSON":
                writer.write(reply(200, b'{"answers": [{"results": 5}], "results": null}'))
            case "too few":
                writer.write(reply(200, json.dumps({"answers": []}).encode()))
            case "well":
                self.note(request)
                writer.write(reply(status, good))
            case status_alone:
                writer.write(reply(int(status_alone), b'{"error": {"message": "said once"}}'))
        return True

    async def stalled(self, count: int) -> None:
        for _ in range(count):
            await self.stalling.acquire()

    def note(self, request: dict[str, Any]) -> None:
        self.counts.update(one["query"] for one in request.get("requests", [request]))


def hang_up(writer: asyncio.StreamWriter) -> None:
    """Closes with a reset instead of an orderly end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def listening(fault: Callable[[bytes], str]) -> AsyncIterator[Misbehaving]:
    server = Misbehaving(fault)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=1 << 24)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


def sockets() -> int:
    gc.collect()
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except FileNotFoundError:
            continue  # the task that lists them
    return count


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """Checks that no task and no socket of the test remains."""
    tasks, before = asyncio.all_tasks(), sockets()
    yield
    end = time.monotonic() + 5
    while (left := asyncio.all_tasks() - tasks - {asyncio.current_task()}) or sockets() > before:
        assert time.monotonic() < end, (left, sockets() - before)
        await asyncio.sleep(0.01)


pytestmark = pytest.mark.usefixtures("nothing_left")


def is_right(query: str, texts: list[str], rows: tuple[RankedDocument, ...]) -> bool:
    return [row.margin for row in rows] == [margin(query, text) for text in texts]


def by_chance(seed: int, **share: float) -> Callable[[bytes], str]:
    """Draws each fault for its share of a hundred requests; "broken" comes in bursts of up to four."""
    chance = random.Random(seed)
    names = [name.replace("_", " ") for name in share]
    burst = 0

    def fault(body: bytes) -> str:
        nonlocal burst
        if burst:
            burst -= 1
            return "broken"
        chosen = chance.choices(["well", *names], [100 - sum(share.values()), *share.values()])[0]
        if chosen == "broken":
            burst = chance.randrange(4)
        return chosen

    return fault


RAGE = {
    "reset": 5,
    "half a head": 3,
    "half a body": 5,
    "half, then reset": 3,
    "closed after": 5,
    "busy": 8,
    "broken": 2,
}
RAGE |= {"stall": 0.5, "no JSON": 4, "other JSON": 2, "too few": 2}


async def test_two_thousand_calls_through_everything_that_goes_wrong() -> None:
    """A hundred callers, so that their calls travel in more than a thousand requests, invalid ones beside valid ones."""
    outcomes, places = Counter[str](), asyncio.Semaphore(100)

    async def call(client: AsyncClient, n: int) -> None:
        query = f"forbidden {n}" if n % 50 == 7 else f"query {n % 700}"
        texts = [f"document {n} {i}" for i in range(3)]
        options: Any = {"deadline_ms": 20_000} if n % 3 == 0 else {}
        try:
            async with places:
                rows = await asyncio.wait_for(client.score(query, texts, **options), 30)
        except InvalidRequest as error:
            assert "forbidden" in query and query in str(error)
            outcomes["refused"] += 1
        except RetryableError:
            outcomes["gave up"] += 1
        else:
            assert is_right(query, texts, rows) and "forbidden" not in query
            outcomes["right"] += 1

    async with listening(by_chance(7, **RAGE)) as server, AsyncClient(server.url, timeout=2.0, retry=QUICK) as client:
        await asyncio.gather(*(call(client, n) for n in range(2000)))
    assert outcomes.total() == 2000 and outcomes["refused"] + outcomes["gave up"] >= 40
    assert outcomes["right"] > 1500, outcomes
    assert set(server.faults) == {"well", *RAGE}
    assert {times for query, times in server.counts.items() if "forbidden" in query} == {1}


# One fault at a time.


def first(*faults: str) -> Callable[[bytes], str]:
    """These faults, for one request each; after that, all is well."""
    coming = iter(faults)
    return lambda body: next(coming, "well")


BROKEN = [
    "reset",
    "half a head",
    "half a body",
    "half, then reset",
    "broken",
    "no JSON",
    "502",
    "408",
]


@pytest.mark.parametrize("fault", [*BROKEN, "busy", "closed after"])
async def test_what_can_be_tried_again_is(fault: str) -> None:
    async with listening(first(*[fault] * 3)) as server, AsyncClient(server.url, retry=QUICK) as client:
        assert is_right("q", ["a", "b"], await client.score("q", ["a", "b"]))
        assert is_right("p", ["a"], await client.score("p", ["a"], deadline_ms=5000))


@pytest.mark.parametrize("fault", BROKEN)
async def test_and_not_for_ever(fault: str) -> None:
    async with listening(lambda body: fault) as server, AsyncClient(server.url, retry=QUICK) as client:
        with pytest.raises(Unreachable):
            await client.score("q", ["a"])
        assert [*server.attempts.values()] == [QUICK.attempts]
        with pytest.raises(Unreachable):
            await client.score("q", ["a"], deadline_ms=5000)


@pytest.mark.parametrize("fault", ["other JSON", "too few"])
async def test_an_answer_that_is_not_whyranks_would_be_the_same_again(fault: str) -> None:
    async with listening(first(fault)) as server, AsyncClient(server.url, retry=QUICK) as client:
        with pytest.raises(Unreachable, match="not what whyrank sends"):
            await client.score("q", ["a"])
        assert is_right("q", ["a"], await client.score("q", ["a"]))
    assert server.attempts.total() == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("400", InvalidRequest),
        ("401", Unauthorized),
        ("403", Unauthorized),
        ("404", InvalidRequest),
        ("413", TooLarge),
        ("422", InvalidRequest),
        ("307", InvalidRequest),
    ],
)
async def test_what_is_permanent_is_asked_once(status: str, kind: type[WhyrankError]) -> None:
    async with listening(lambda body: status) as server, AsyncClient(server.url, retry=QUICK) as client:
        for options in ({}, {"deadline_ms": 5000}):
            with pytest.raises(kind, match="said once") as refused:
                await client.rerank("q", ["a"], **options)  # type: ignore[arg-type]
            assert refused.value.status == int(status)
        with pytest.raises(kind):
            await anext(client.stream("q", ["a"]))
    assert [*server.attempts.values()] == [1, 1, 1]


async def test_a_busy_server_is_left_alone_for_as_long_as_it_says() -> None:
    async with listening(first("busy for 1 s")) as server, AsyncClient(server.url, timeout=5, retry=QUICK) as client:
        began = time.monotonic()
        assert is_right("q", ["a"], await client.score("q", ["a"]))
        assert time.monotonic() - began >= 1.0


async def test_who_has_less_time_than_that_is_told_without_waiting() -> None:
    async with listening(lambda body: "busy for 1 s") as server, AsyncClient(server.url, timeout=0.9) as client:
        with pytest.raises(Overloaded) as busy:
            await client.score("q", ["a"])
    assert server.attempts.total() == 1 and busy.value.retry_after == 1


def slowly(body: bytes) -> str:
    return "stall" if b"slow" in body else "well"


async def test_a_stall_costs_its_own_calls_and_no_more_than_their_time() -> None:
    async with listening(slowly) as server, AsyncClient(server.url, timeout=1.0) as client:
        began = time.monotonic()
        slow = asyncio.create_task(client.score("slow", ["a"]))
        await server.stalled(1)
        for n in range(20):
            assert is_right(f"q{n}", ["a"], await client.score(f"q{n}", ["a"]))
        assert not slow.done()
        with pytest.raises(Unreachable, match="before the timeout"):
            await slow
        assert 1.0 <= time.monotonic() - began < 5.0  # else it would never end


async def test_a_shared_request_for_the_identity_does_not_end_with_its_first_callers_time() -> None:
    attempts: list[str] = []

    async def stalls_once(request: httpx.Request) -> httpx.Response:
        attempts.append(request.url.path)
        if len(attempts) == 1:
            await asyncio.Event().wait()
        return httpx.Response(200, json={}, headers={"x-whyrank-identity": "known"})

    exchange = Transport(["http://a"], None, 60.0, QUICK, httpx.MockTransport(stalls_once))
    now = time.monotonic()
    answers = await asyncio.gather(
        *(exchange.identity("q", 1.0, now + seconds) for seconds in (0.05, 0.04, 20.0, 30.0)), return_exceptions=True
    )
    await exchange.aclose()
    assert [isinstance(one, Unreachable) for one in answers[:2]] == [True, True]
    assert answers[2:] == ["known", "known"] and attempts == ["/v1/formats"] * 2


async def test_who_leaves_while_it_stalls_leaves_nothing_behind() -> None:
    async with listening(lambda body: "stall") as server, AsyncClient(server.url) as client:
        tasks = [asyncio.create_task(client.score("q", ["a"], **options)) for options in ({}, {"deadline_ms": 9000})]  # type: ignore[arg-type]
        tasks.append(asyncio.create_task(anext(client.stream("q", ["a"]))))  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            await server.stalled(3)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends)


async def test_where_nobody_listens_another_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
    async with (
        listening(first()) as server,
        AsyncClient([dead, server.url], retry=RetryPolicy(first_pause=30)) as client,
    ):
        queries = [f"q{n}" for n in range(30)]
        answers = await asyncio.gather(*(client.score(query, ["a"]) for query in queries))
        assert all(is_right(query, ["a"], rows) for query, rows in zip(queries, answers, strict=True))
    async with AsyncClient(dead, retry=QUICK) as client:
        with pytest.raises(Unreachable, match=dead):
            await client.score("q", ["a"])


@pytest.mark.parametrize("fault", ["half a body", "half, then reset"])
async def test_a_stream_that_breaks_off_says_so_after_what_it_told(fault: str) -> None:
    async with listening(lambda body: fault) as server, AsyncClient(server.url, retry=QUICK) as client:
        events: list[Event] = []
        with pytest.raises(Unreachable, match=r"ended before its 'done' event|broke off"):
            async for event in client.stream("q", [*"abcdefgh"]):
                events.append(event)
        assert events and all(isinstance(event, Scored) for event in events)
    assert server.attempts.total() == 1  # events that were already delivered cannot be taken back


async def test_a_stream_is_begun_again_until_it_tells_something() -> None:
    async with listening(first("reset", "broken", "busy")) as server, AsyncClient(server.url, retry=QUICK) as client:
        events = [event async for event in client.stream("q", ["a", "b"])]
    assert [type(event) for event in events] == [Scored, Scored, Ranked, Finished]


async def test_rows_that_the_network_cost_are_marked() -> None:
    """More documents than fit into one request, and one of the requests never arrives."""
    texts = [f"document {n}" for n in range(600)]
    async with listening(lambda body: "broken" if b'"document 400"' in body else "well") as server:
        client = AsyncClient(server.url, retry=QUICK)
        ranking = await client.rerank("q", texts)
        whole = await client.rerank("q", texts[:300])
        await client.aclose()
    rows = {row.index: row for row in ranking.results}
    lost = {index for index, row in rows.items() if row.error}
    assert ranking.degraded and not whole.degraded
    assert 400 in lost and len(lost) == 256 and len(rows) == 600
    assert {rows[index].error.code for index in lost} == {"unreachable"}  # type: ignore[union-attr]
    assert all(rows[index].margin == margin("q", texts[index]) for index in set(rows) - lost)
    assert [row.rank for row in ranking.results] == [*range(1, 345), *[None] * 256]


async def test_a_load_balancer_can_keep_equal_queries_together_without_reading_them() -> None:
    sent: list[tuple[str, str]] = []

    def reply(request: httpx.Request) -> httpx.Response:
        sent.append((request.url.path, request.headers["X-Whyrank-Affinity"]))
        body = json.loads(request.content) if request.content else None
        return httpx.Response(200, json={"answers": [*map(ranking, body["requests"])]} if body else {})

    for query in ("a secret query", "a secret query", "another"):
        async with AsyncClient("http://balancer", transport=httpx.MockTransport(reply)) as client:
            await client.score(query, ["a document"])
    first, second, other = ([key for path, key in sent if path == "/v1/rerank/batch"][n] for n in range(3))
    assert first == second != other
    assert all(re.fullmatch("[0-9a-f]{16}", key) for _, key in sent)


SECRET_URL = "http://user:hunter2@host.invalid:1/base"


async def test_a_password_in_a_url_is_sent_and_stands_in_no_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    shown: list[str | None] = []

    def reply(request: httpx.Request) -> httpx.Response:
        shown.append(request.headers.get("Authorization"))
        if len(shown) == 1:
            return httpx.Response(200, content=b"not JSON")
        if len(shown) == 2:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, content=b"event: score\ndata: {}\n\n" if "stream" in request.url.path else b"{}")

    once = RetryPolicy(attempts=1)
    async with AsyncClient(SECRET_URL, "key", retry=once, transport=httpx.MockTransport(reply)) as client:
        for _ in range(3):
            with pytest.raises(WhyrankError) as error:
                await client.rerank("q", ["a"])
            assert "hunter2" not in "".join(traceback.format_exception(error.value))
        with pytest.raises(WhyrankError) as error:
            [event async for event in client.stream("q", ["a"])]
        assert "hunter2" not in "".join(traceback.format_exception(error.value))
        assert "hunter2" not in repr(client._transport._replicas)
    assert shown == ["Basic " + base64.b64encode(b"user:hunter2").decode()] * 4
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("url", ["ftp://user:hunter2@host", "http://user:hunter2@", "http://user:hun/ter2@host"])
async def test_a_url_that_is_none_is_told_without_its_password(url: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        AsyncClient([url, "http://user:hunter2@good"])
    assert "hunter2" not in str(error.value) and "ter2@" not in str(error.value)
    assert "://***@" in str(error.value)
