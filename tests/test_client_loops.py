"""One client and several event loops, threads and processes."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from whyrank import AsyncClient, Client, InvalidRequest

USAGE = {"prompt_tokens": 1, "cached_tokens": 0, "output_tokens": 0}


def ranking(request: dict[str, Any]) -> dict[str, Any]:
    row = {"id": None, "rank": None, "score": 0.5, "label_mass": 1.0, "truncation": None, "neutralised": False}
    rows = [row | {"index": i, "margin": 0.0, "error": None} for i in range(len(request["documents"]))]
    return {"results": rows, "usage": USAGE, "evidence_usage": USAGE, "model": "m", "prompt": "p@1"}


@dataclass
class Local:
    url: str = ""
    ports: list[int] = field(default_factory=list)
    """The connection on which each request came."""


@pytest.fixture
def local() -> Iterator[Local]:
    seen = Local()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            seen.ports.append(self.client_address[1])
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("/stream"):
                done = json.dumps(ranking(request))
                body = f"event: ranking\ndata: {done}\n\nevent: done\ndata: {done}\n\n".encode()
            else:
                body = json.dumps({"answers": [*map(ranking, request["requests"])]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        seen.url = f"http://127.0.0.1:{server.server_address[1]}"
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield seen
        server.shutdown()
        serving.join()


# Processes


def in_a_fork(work: Callable[[], None]) -> None:
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(20)
    still_running = child.is_alive()
    child.kill()
    child.join()
    assert not still_running and child.exitcode == 0


def test_a_forked_child_makes_its_own_connections_and_the_parents_go_on(local: Local) -> None:
    def ask_and_close() -> None:
        assert client.score("child", ["a"])[0].score == 0.5
        assert len([*client.stream("child", ["a"])]) == 2
        client.close()
        with pytest.raises(InvalidRequest, match="closed"):
            client.score("child", ["b"])

    with Client(local.url) as client:
        client.score("parent", ["a"])
        in_a_fork(ask_and_close)
        in_a_fork(client.close)
        client.score("parent", ["b"])
    before, *of_child, after = local.ports
    assert before == after and len(of_child) == 2 and before not in of_child


def test_a_fork_while_another_thread_holds_the_lock(local: Local) -> None:
    def ask() -> None:
        assert client.score("child", ["a"])[0].score == 0.5

    with Client(local.url) as client, client._turn:
        in_a_fork(ask)


def test_a_fork_in_the_middle_of_a_stream(local: Local) -> None:
    def go_on() -> None:
        with pytest.raises(InvalidRequest, match="started before a fork"):
            next(events)
        assert client.score("child", ["a"])[0].score == 0.5

    with Client(local.url) as client:
        events = client.stream("parent", ["a"])
        next(events)
        in_a_fork(go_on)
        assert len([*events]) == 1


def test_a_closed_client_is_closed_in_a_fork_too(local: Local) -> None:
    def ask() -> None:
        with pytest.raises(InvalidRequest, match="closed"):
            client.score("child", ["a"])
        client.close()

    client = Client(local.url)
    client.close()
    in_a_fork(ask)


def test_a_transport_cannot_be_made_anew_after_a_fork() -> None:
    def ask() -> None:
        with pytest.raises(InvalidRequest, match="a transport of its own in each process"):
            client.score("child", ["a"])

    with Client("http://a", transport=httpx.AsyncHTTPTransport()) as client:
        in_a_fork(ask)


# Event loops


def test_an_async_client_says_that_it_belongs_to_a_loop_that_has_ended(local: Local) -> None:
    client = AsyncClient(local.url)
    asyncio.run(client.score("q", ["a"]))
    works: list[Callable[[], Any]] = [
        lambda: client.score("q", ["b"]),
        lambda: client.rerank_many([{"query": "q", "documents": ["b"]}]),
        lambda: anext(client.stream("q", ["b"])),
        client.aclose,
    ]
    for work in works:

        async def once(work: Callable[[], Any] = work) -> None:
            await work()

        with pytest.raises(InvalidRequest, match="belongs to another event loop: make one per loop, or use Client"):
            asyncio.run(once())


async def test_an_async_client_says_that_it_belongs_to_another_threads_loop(local: Local) -> None:
    async with AsyncClient(local.url) as client:
        await client.score("q", ["a"])
        with pytest.raises(InvalidRequest, match="belongs to another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(client.score("q", ["b"])))
        assert (await client.score("q", ["c"]))[0].score == 0.5
