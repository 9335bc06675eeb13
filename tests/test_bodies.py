"""Bodies that do not arrive, bodies made to do harm, and answers larger than the request: other callers do not notice."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from inprocess import InProcess, prism_plan
from waiting import LoopWatch, until
from whyrank.errors import Overloaded
from whyrank.prompting.tokens import Bounds, EncodedDocument
from whyrank.serving.admission import Admission, Limits
from whyrank.serving.standalone import StandaloneServer
from whyrank.types import Document

MIB = 1 << 20
# Of the CPU, so that a busy machine makes no difference; before the fix, a megabyte of numbers took 4.5 seconds.
MAX_TURN_SECONDS = 1.0


@pytest.fixture(scope="module")
def make(checkpoint: Callable[[str], Path]) -> Callable[..., InProcess]:
    plan = prism_plan(checkpoint("qwen3"))
    return lambda *keys, **limits: InProcess(plan, *keys, **limits)


async def answered(server: InProcess, path: str, body: Any) -> tuple[httpx.Response, float]:
    """The answer, and the longest time for which the event loop was blocked, in seconds of CPU."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with server.client(**{"content-type": "application/json"}) as client, LoopWatch() as watch:
        answer = await client.post(path, content=content)
    return answer, watch.longest_turn


LISTS = [
    ("/v1/rerank", '{"query":"q","documents":'),
    ("/v1/rerank", '{"documents":["a"],"queries":'),
    ("/v1/rerank", '{"query":"q","documents":["a"],"rank_fields":'),
    ("/v1/rerank/batch", '{"requests":'),
    ("/v1/score", '{"text_1":"q","text_2":'),
    ("/v2/rerank", '{"query":"q","documents":'),
    ("/cohere/v1/rerank", '{"query":"q","documents":'),
    ("/jina/v1/rerank", '{"query":"q","documents":'),
    ("/voyage/v1/rerank", '{"query":"q","documents":'),
    ("/tei/rerank", '{"query":"q","texts":'),
]


@pytest.mark.parametrize("megabytes", [0.2, 1, 10])
@pytest.mark.parametrize(("path", "start"), LISTS)
async def test_a_list_of_numbers_is_refused_at_its_first(
    make: Callable[..., InProcess], path: str, start: str, megabytes: float
) -> None:
    numbers = b"1," * int(megabytes * 500_000)
    answer, turn = await answered(make(), path, start.encode() + b"[" + numbers + b"1]}")
    assert answer.status_code == (413 if megabytes >= 1 and "voyage" not in path else 422 if "tei" in path else 400)
    assert turn < MAX_TURN_SECONDS and len(answer.content) < 1000
    assert start.rpartition('"')[0].rpartition('"')[2] in answer.text
    assert "text_2" in answer.text or "[0]" in answer.text


@pytest.mark.parametrize(
    "path", ["/v2/rerank", "/cohere/v1/rerank", "/jina/v1/rerank", "/voyage/v1/rerank", "/tei/rerank"]
)
async def test_documents_are_counted_before_they_are_made(make: Callable[..., InProcess], path: str) -> None:
    """The second body is complete, too, except for its query: a server that built the documents first would report that."""
    many = ["a"] * 2000
    body = {"query": " ", "documents": many, "texts": many}
    answer, _ = await answered(make(), path, body)
    assert answer.status_code == (400 if "voyage" in path else 413)
    assert "2000 documents in one request" in answer.text


async def test_unknown_keys_are_named_in_short(make: Callable[..., InProcess]) -> None:
    body = {"queries": ["q"] * 200, "documents": ["a"]}
    many, _ = await answered(make(), "/v1/rerank", body | {f"k{i}": 1 for i in range(20_000)})
    assert len(many.content) < 400_000
    assert many.json()["rankings"][0]["warnings"][-1] == "19990 more unknown keys were ignored"
    long, turn = await answered(make(), "/v1/rerank", body | {"k" * 4_000_000: 1})
    assert len(long.content) < 400_000 and turn < MAX_TURN_SECONDS


@pytest.mark.parametrize(
    ("document", "remedy"), [("text", '\\"return_documents\\": false'), ("id", "give shorter ids")]
)
async def test_an_answer_far_larger_than_its_body_is_refused_unscored(
    make: Callable[..., InProcess], document: str, remedy: str
) -> None:
    server = make(body_mib=1)
    documents = [{"text": "a"} | {document: "x" * 100_000}]
    answer, _ = await answered(server, "/v1/rerank", {"queries": ["q"] * 20, "documents": documents})
    assert answer.status_code == 413 and remedy in answer.text
    assert server.runtime.prompts == []


async def test_a_salt_is_short(make: Callable[..., InProcess]) -> None:
    answer, _ = await answered(make(), "/v1/rerank", {"query": "q", "documents": ["a"], "cache_salt": "s" * 513})
    assert answer.status_code == 400 and "cache_salt has 513 characters" in answer.text


# Windows.


async def test_a_document_of_too_many_windows_costs_its_own_row(make: Callable[..., InProcess]) -> None:
    server = make()
    body = {"query": "q", "documents": ["word " * 60_000, "a"], "truncation": "windows", "max_tokens_per_doc": 128}
    answer, _ = await answered(server, "/v1/rerank", body)
    short, long = sorted(answer.json()["results"], key=lambda row: -row["index"])
    assert short["score"] is not None
    assert long["error"]["code"] == "too_large" and "raise max_tokens_per_doc" in long["error"]["message"]
    assert len(server.runtime.prompts) == 1


async def test_a_call_has_a_bound_on_its_windows(make: Callable[..., InProcess]) -> None:
    server = make()
    texts = [f"{i} " + "word " * 20_000 for i in range(60)]
    rows = server.service.plan.encoder.encode("q", [Document(texts[0])], None, "windows", Bounds(128))
    assert isinstance(rows[0], EncodedDocument)
    each = len(rows[0].prompts)
    body = {"query": "q", "documents": texts, "truncation": "windows", "max_tokens_per_doc": 128}
    results = (await answered(server, "/v1/rerank", body | {"return_documents": False}))[0].json()["results"]
    scored = [row["index"] for row in results if row["error"] is None]
    assert sorted(scored) == list(range(8000 // each)) and len(server.runtime.prompts) <= 8000
    assert {row["error"]["code"] for row in results if row["error"]} == {"too_large"}


# Admission.


def test_nobody_is_kept_out_by_one_tenant() -> None:
    admission = Admission(Limits(waiting_documents=100), tenants=4)
    with admission.admitted(50, "greedy"):
        with pytest.raises(Overloaded, match="at most half of them from one API key"), admission.admitted(1, "greedy"):
            pytest.fail("more than half")
        with admission.admitted(50, "other"), admission.admitted(25, "third"):
            pass  # the server is full, but a quarter of it is reserved for the third tenant
    assert admission.documents == 0


def test_bytes_count_when_they_arrive() -> None:
    admission = Admission(Limits(body_mib=1))
    with admission.holding("silent"), admission.holding("greedy") as hold:
        hold(MIB)
        hold(MIB)
        with pytest.raises(Overloaded):
            hold(1)
        with admission.holding("honest") as hold_honest:
            hold_honest(MIB)
    with admission.holding("greedy") as hold:
        hold(MIB)


def test_processes_of_a_server_share_its_limits() -> None:
    admission = Admission(Limits(waiting_documents=100, body_mib=1), processes=4)
    with (
        admission.admitted(25),
        pytest.raises(Overloaded, match="the server accepts 25 at once in each of its 4 processes"),
        admission.admitted(1),
    ):
        pytest.fail("more than its share")
    with admission.admitted(100):
        pass  # a call that is alone is always let in
    with admission.holding("one") as hold, admission.holding("another") as hold_another:
        hold(MIB)
        with pytest.raises(Overloaded):
            hold(1)
        hold_another(MIB)
        with pytest.raises(Overloaded), admission.holding("third") as hold_third:
            hold_third(1)
            hold_third(1)


def test_idle_time_does_not_slow_the_pace() -> None:
    now = 0.0
    admission = Admission(Limits(waiting_documents=100), clock=lambda: now)
    for _ in range(3):
        with admission.admitted(50):
            now += 1
        now += 1000
    with (
        admission.admitted(100),
        pytest.raises(Overloaded) as refused,
        admission.admitted(1),
    ):
        pytest.fail("it was full")
    assert refused.value.retry_after == 2


async def test_a_thread_can_wait_until_the_last_call_has_left() -> None:
    admission = Admission(Limits())
    with admission.admitted(1):
        waiting = asyncio.create_task(asyncio.to_thread(admission.wait_until_empty, 60))
        with admission.admitted(1):
            pass
        assert not admission.wait_until_empty(0)
    assert await asyncio.wait_for(waiting, 10)


# Over a socket.


@asynccontextmanager
async def serving(server: InProcess) -> AsyncIterator[int]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = StandaloneServer(server.service, "127.0.0.1", port, shutdown_seconds=0.2)
    task = asyncio.create_task(running.serve())
    try:
        await until(lambda: running.started)
        yield port
    finally:
        running.should_exit = True
        await asyncio.wait_for(task, 15)


def headers(framing: str) -> bytes:
    return f"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n\r\n".encode()


@pytest.mark.parametrize(
    "sent", [headers("Content-Length: 33554432"), headers("Transfer-Encoding: chunked") + b"1\r\n{\r\n"]
)
async def test_a_body_that_does_not_come_ends_with_its_connection(make: Callable[..., InProcess], sent: bytes) -> None:
    server = make()
    server.service.body_seconds = 0.3
    async with serving(server) as port:
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        for _, writer in connections:
            writer.write(sent)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            honest = await client.post("/v1/rerank", json={"query": "q", "documents": ["a" * 2 * MIB]})
        assert honest.status_code == 200
        for reader, writer in connections:
            answer = await asyncio.wait_for(reader.read(), 5)
            assert answer.startswith(b"HTTP/1.1 408") and b"the body arrived too slowly" in answer
            writer.close()


async def test_a_stream_that_nobody_reads_gives_its_places_back(make: Callable[..., InProcess]) -> None:
    server = make(waiting_documents=1000)
    documents = [{"text": "a", "id": f"{i}" + "x" * 4000} for i in range(1000)]  # more than sockets hold
    body = json.dumps({"query": "q", "documents": documents, "stream": True}).encode()
    async with serving(server) as port:
        with closing(socket.create_connection(("127.0.0.1", port))) as unread:
            unread.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(unread, headers(f"Content-Length: {len(body)}") + body)
            await asyncio.wait_for(server.runtime.reached.wait(), 10)
            await until(lambda: not server.service.admission.documents)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                honest = await client.post("/v1/rerank", json={"query": "q", "documents": ["a"] * 1000})
            assert honest.status_code == 200


# Compressed bodies and answers.


async def sent_packed(server: InProcess, content: bytes, encoding: str = "gzip") -> httpx.Response:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    async with server.client(**headers) as client:
        return await client.post("/v1/rerank", content=content)


async def test_a_body_may_be_compressed(make: Callable[..., InProcess]) -> None:
    body = json.dumps({"query": "q", "documents": ["a", "b " * MIB]}).encode()
    for content in (gzip.compress(body), gzip.compress(body, 0)):
        answer = (await sent_packed(make(), content)).raise_for_status()
        assert len(answer.json()["results"]) == 2
    assert (await sent_packed(make(), body, "identity")).status_code == 200


async def test_a_body_that_unpacks_to_too_much_is_refused(make: Callable[..., InProcess]) -> None:
    server = make(body_mib=1)
    for size in (2 * MIB, 200 * MIB):
        bomb = gzip.compress(b'{"query": "' + b" " * size + b'"}')
        assert len(bomb) < MIB
        answer = await sent_packed(server, bomb)
        assert answer.status_code == 413 and "WHYRANK_MAX_BODY_MIB" in answer.text
    assert server.service.admission.documents == 0


async def test_what_is_not_compressed_as_it_says_is_refused(make: Callable[..., InProcess]) -> None:
    body = json.dumps({"query": "q", "documents": ["a"]}).encode()
    for content, encoding, message in (
        (body, "gzip", "the body is not gzip"),
        (gzip.compress(body)[:-9], "gzip", "the gzip body is incomplete"),
        (b"", "gzip", "the gzip body is incomplete"),
        (body, "br", "send the body uncompressed or as gzip"),
    ):
        answer = await sent_packed(make(), content, encoding)
        assert answer.status_code == 400 and message in answer.text, message


async def test_a_large_answer_is_compressed_for_who_takes_that(make: Callable[..., InProcess]) -> None:
    server, body = make(), {"query": "q", "documents": ["word " * 20_000]}
    async with server.client(**{"accept-encoding": "gzip"}) as client:
        packed = await client.post("/v1/rerank", json=body)
        small = await client.post("/v1/rerank", json=body | {"return_documents": False})
    async with server.client(**{"accept-encoding": "identity"}) as client:
        plain = await client.post("/v1/rerank", json=body)
    assert packed.headers["content-encoding"] == "gzip" and int(packed.headers["content-length"]) < 10_000
    assert "content-encoding" not in plain.headers and "content-encoding" not in small.headers
    assert packed.json()["results"] == plain.json()["results"]
