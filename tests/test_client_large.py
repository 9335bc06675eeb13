"""More documents than a server accepts at once: the client's parts make the ranking that a Reranker makes in one call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from inprocess import InProcess, prism_plan
from whyrank import AsyncClient, InvalidRequest, RerankRequest, TooLarge, Unreachable
from whyrank.client.split import rejoined, split, with_evidence
from whyrank.errors import EngineDead, WhyrankError
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions
from whyrank.types import Document, Evidence, RankedDocument, Usage

QUERY = "late deliveries"
TEXTS = [f"Department {n}: {n * n % 97} parts were late." for n in range(698)] + ["twin", "twin"]
SOON: RerankOptions = {"deadline_ms": 60_000.0}
WHY: RerankOptions = {"mode": "evidence"}

MakeServer = Callable[..., InProcess]


class Recording(httpx.AsyncBaseTransport):
    """Records what was requested as (path, body); each request is answered after a pause."""

    def __init__(self, server: InProcess, pause: float = 0.0) -> None:
        self.inner, self.pause = httpx.ASGITransport(server.app), pause
        self.calls: list[tuple[str, Any]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.calls.append((request.url.path, json.loads(await request.aread())))
        await asyncio.sleep(self.pause)
        return await self.inner.handle_async_request(request)


@pytest.fixture(scope="module")
def make(checkpoint: Callable[[str], Path]) -> MakeServer:
    plan = prism_plan(checkpoint("qwen3"))
    return lambda **limits: InProcess(plan, **{"documents": 300, **limits})


def client_of(server: InProcess, pause: float = 0.0) -> tuple[AsyncClient, Recording]:
    recording = Recording(server, pause)
    return AsyncClient("http://test", transport=recording), recording


@pytest.mark.parametrize(
    "options",
    [
        SOON,
        SOON | {"top_n": 7},
        SOON | {"min_score": 0.9},
        SOON | {"top_n": 7, "min_score": 0.97},
        WHY,
        WHY | {"top_n": 3},
        WHY | {"top_n": 7, "evidence_top_n": 2},
        WHY | {"min_score": 0.6, "evidence_min_score": 0.95, "evidence_top_n": 200},
        WHY | {"evidence_min_score": 1.0},
        WHY | SOON,
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items()),
)
async def test_parts_make_the_ranking_of_one_go(options: RerankOptions, make: MakeServer) -> None:
    server = make()
    reranker = server.service.reranker
    client, recording = client_of(server)
    async with client:
        theirs = await client.rerank(QUERY, TEXTS, **options)
    ours = await reranker.rerank(QUERY, TEXTS, **options)
    assert theirs.results == ours.results
    assert (theirs.model, theirs.prompt, theirs.evidence_usage) == (ours.model, ours.prompt, ours.evidence_usage)
    chosen = [row.document for row in ours.results if row.evidence is not None]
    assert len(recording.calls) == 1 + 3 + bool(chosen)
    assert [len(body["documents"]) for _, body in recording.calls[1:4]] == [256, 256, 188]
    again = (await reranker.rerank(QUERY, chosen)).usage if chosen else Usage()
    assert theirs.usage == ours.usage + again  # the real usage: the chosen documents are scored once more


async def test_what_is_late_is_late(make: MakeServer) -> None:
    server = make()
    server.runtime.open.clear()
    client, recording = client_of(server)
    for mode in ("score", "evidence"):
        theirs = await client.rerank(QUERY, TEXTS, deadline_ms=400, mode=mode)  # type: ignore[arg-type]
        ours = await server.service.reranker.rerank(QUERY, TEXTS, deadline_ms=50, mode=mode)  # type: ignore[arg-type]
        assert theirs.results == ours.results and len(theirs.results) == len(TEXTS) and theirs.degraded
    assert {row.error.code for row in theirs.results if row.error} == {"deadline"}
    assert len(recording.calls) == 2 * 4
    await client.aclose()


async def test_a_part_is_told_what_is_left_of_the_deadline(make: MakeServer) -> None:
    client, recording = client_of(make(), pause=0.1)
    async with client:
        await client.rerank(QUERY, TEXTS, deadline_ms=5000, mode="evidence", evidence_top_n=1)
    whole, *parts, evidence = (body["deadline_ms"] for _, body in recording.calls)
    assert whole <= 5000 and len(parts) == 3
    assert all(4000 < part <= 4900 for part in parts) and evidence <= 4800


async def test_spans_come_for_the_best_of_all_parts(make: MakeServer) -> None:
    server = make()
    client, _ = client_of(server)
    options: dict[str, Any] = {"mode": "spans", "evidence_top_n": 3, "evidence_min_score": 0.0, "span_min_score": 0.0}
    async with client:
        theirs = await client.rerank(QUERY, TEXTS, **options)
    ours = await server.service.reranker.rerank(QUERY, TEXTS, **options)
    assert theirs.results == ours.results and sum(row.spans is not None for row in theirs.results) == 3


@pytest.mark.parametrize("deadline_ms", [None, 60_000])
async def test_an_engine_that_dies_while_it_writes_costs_no_score(deadline_ms: float | None, make: MakeServer) -> None:
    server = make()
    server.runtime.writing_failure = EngineDead("gone")
    client, _ = client_of(server)
    async with client:
        theirs = await client.rerank(QUERY, TEXTS, mode="evidence", deadline_ms=deadline_ms)
    ours = await server.service.reranker.rerank(QUERY, TEXTS, mode="evidence", deadline_ms=deadline_ms)
    assert theirs.results == ours.results and theirs.degraded
    assert {row.evidence.finish for row in theirs.results if row.evidence} == {"error"}


@pytest.mark.parametrize("options", [SOON, WHY])
async def test_what_is_wrong_costs_what_it_must(options: RerankOptions, make: MakeServer) -> None:
    client, _ = client_of(make(characters=100))
    async with client:
        ranking = await client.rerank(QUERY, [*TEXTS[:600], "x" * 101], **options)
        assert [(row.index, row.error.code) for row in ranking.results if row.error] == [(600, "too_large")]
        with pytest.raises(InvalidRequest, match="instruction: fixed for prompt 'prism'"):
            await client.rerank(QUERY, TEXTS, instruction="be kind", **options)


@pytest.mark.parametrize("options", [SOON, WHY])
async def test_what_no_split_can_help_is_asked_once(options: RerankOptions, make: MakeServer) -> None:
    client, recording = client_of(make(documents=20))
    async with client:
        with pytest.raises(TooLarge, match="21 documents in one request; this server accepts at most 20"):
            await client.rerank(QUERY, TEXTS[:21], **options)
    assert len(recording.calls) == 1


async def test_a_stream_says_what_to_do(make: MakeServer) -> None:
    client, _ = client_of(make())
    async with client:
        with pytest.raises(
            TooLarge, match=r"this server accepts at most 300 .* A stream is always one request; `rerank` splits"
        ):
            await anext(client.stream(QUERY, TEXTS))
        with pytest.raises(TooLarge, match=r"Shorten it: the model reads only its first few thousand tokens anyway$"):
            await anext(client.stream("x" * 1_000_001, ["y"]))


# Without a server.


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([], []),
        ([99], [(0, 1)]),
        ([1] * 3, [(0, 3)]),
        ([1] * 7, [(0, 3), (3, 6), (6, 7)]),
        ([4, 4, 4], [(0, 2), (2, 3)]),
        ([99, 1, 99, 99], [(0, 1), (1, 2), (2, 3), (3, 4)]),
    ],
)
def test_parts_hold_so_many_documents_and_bytes(sizes: list[int], parts: list[tuple[int, int]]) -> None:
    assert [(part.start, part.stop) for part in split([b"x" * size for size in sizes], 3, 10)] == parts


REQUEST = RerankRequest.of("q", ["a", "b", "c"])
FIRST, SECOND = range(2), range(2, 3)


def answered(*margins: float, model: str = "m") -> Ranking:
    rows = (RankedDocument(i, Document(str(i)), 1, 0.5, margin) for i, margin in enumerate(margins))
    return Ranking(tuple(rows), Usage(len(margins), 0, 1), model, "p@1")


def test_a_part_that_is_lost_costs_its_own_rows() -> None:
    ranking = rejoined(REQUEST, {FIRST: Unreachable("no way"), SECOND: answered(1.0)})
    assert [(row.index, row.rank) for row in ranking.results] == [(2, 1), (0, None), (1, None)]
    assert {row.error.code for row in ranking.results if row.error} == {"unreachable"} and ranking.degraded


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (Unreachable("no way"), Unreachable("neither"), "no way"),
        (InvalidRequest("wrong"), answered(1.0), "wrong"),
        (Unreachable("no way"), InvalidRequest("wrong"), "no way"),
        (answered(1.0, 2.0), answered(1.0, model="n"), "answered by different models"),
    ],
)
def test_no_ranking_is_made_of_these(
    first: Ranking | WhyrankError, second: Ranking | WhyrankError, message: str
) -> None:
    with pytest.raises(WhyrankError, match=message):
        rejoined(REQUEST, {FIRST: first, SECOND: second})


def test_evidence_that_did_not_come_is_told() -> None:
    ranking = rejoined(REQUEST, {FIRST: answered(1.0, 3.0), SECOND: answered(2.0)})
    chosen = ranking.results[:2]
    assert [row.index for row in chosen] == [1, 2]
    lost = with_evidence(ranking, chosen, None, "deadline")
    assert [row.evidence for row in lost.results] == [Evidence("", "", "deadline")] * 2 + [None]
    assert lost.usage == ranking.usage and lost.degraded
    with pytest.raises(Unreachable, match="answered by different models"):
        with_evidence(ranking, chosen, answered(1.0, 2.0, model="n"), "error")
