"""Reranker and AsyncClient in one test suite, with their values compared; and what only a client has: few requests for many
calls, memory of scores, callers who disconnect, threads."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import venv
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import whyrank
from conftest import Serve
from inprocess import InProcess, prism_plan
from samples import DOCUMENTS, QUERY
from server_process import Server
from whyrank import (
    AsyncClient,
    Client,
    Document,
    EvidenceDelta,
    EvidenceDone,
    Finished,
    InvalidRequest,
    Ranked,
    RankedDocument,
    Ranking,
    RerankRequest,
    Scored,
    TooLarge,
    Unreachable,
)
from whyrank.base import BaseReranker

TEXTS = list(DOCUMENTS.values())
EVIDENCE: dict[str, Any] = {
    "mode": "evidence",
    "evidence_min_score": 0,
    "evidence_top_n": 2,
    "max_contribution_tokens": 8,
    "max_evidence_tokens": 12,
}
NAMED = [
    {"text": "Water boils at 100 °C.", "id": "d1", "title": "Boiling", "year": 1998},
    Document("Everest is high.", "d2", metadata={"tags": ["peak", "snow"]}),
    {"text": "", "id": 7, "title": "Only a title"},
    "no name",
]


@pytest.fixture
async def reranker(serve: Serve) -> BaseReranker:
    reranker: BaseReranker = (await serve("prism")).reranker
    return reranker


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.url) as client:
        yield client


@pytest.fixture(params=["in process", "over HTTP"])
def face(request: pytest.FixtureRequest, reranker: BaseReranker, client: AsyncClient) -> BaseReranker:
    return reranker if request.param == "in process" else client


def same(ours: Sequence[RankedDocument], theirs: Sequence[RankedDocument]) -> None:
    """Compares row by row, except for the last digits of what was computed in a batch with other documents."""
    for row, other in zip(ours, theirs, strict=True):
        assert (row.score, row.label_mass) == pytest.approx((other.score, other.label_mass), abs=1e-6)
        assert row.margin == pytest.approx(other.margin, abs=1e-5)
        bare = {"score": None, "margin": None, "label_mass": None}
        assert replace(row, **bare) == replace(other, **bare)


# Both in the same way.


async def test_rerank_orders_and_gives_back_what_was_brought(face: BaseReranker) -> None:
    ranking = await face.rerank(QUERY, NAMED)
    assert [row.rank for row in ranking.results] == [1, 2, 3, 4]
    margins = [row.margin or 0.0 for row in ranking.results]
    assert margins == sorted(margins, reverse=True)
    rows = {row.index: row for row in ranking.results}
    assert [rows[i].id for i in range(4)] == ["d1", "d2", "7", None]
    assert rows[0].document == Document("Water boils at 100 °C.", "d1", "Boiling", {"year": 1998})
    assert rows[1].document is NAMED[1]
    assert rows[2].document.content == "Only a title "
    assert ranking.prompt.startswith("prism@") and ranking.usage.prompt_tokens > 0 and not ranking.degraded


async def test_score_keeps_the_order_of_the_documents(face: BaseReranker) -> None:
    rows = await face.score(QUERY, TEXTS)
    assert [row.index for row in rows] == list(range(len(TEXTS)))
    same(sorted((await face.rerank(QUERY, TEXTS)).results, key=lambda row: row.index), rows)


async def test_titles_and_texts_are_read_as_one(face: BaseReranker) -> None:
    rows = await face.score(QUERY, [{"text": "at 100 °C", "title": "Water boils"}, "Water boils at 100 °C"])
    assert rows[0].score == pytest.approx(rows[1].score, abs=1e-6)


async def test_equal_documents_have_equal_rows(face: BaseReranker) -> None:
    twins = ["a", {"text": "b", "id": "1"}, "a", {"text": "b", "id": "2"}, "a"]
    rows = await face.score(QUERY, twins)
    assert len({row.margin for row in rows}) == 2
    assert [row.id for row in rows] == [None, "1", None, "2", None]
    assert len((await face.rerank(QUERY, twins, top_n=3)).results) == 3


async def test_texts_that_no_file_could_hold(face: BaseReranker) -> None:
    texts = ["\ud800", "\udfff", "tail \udfff\ud800 end", "\x00", "<|im_end|>\n<|im_start|>", "plain"]
    rows = await face.score("half \ud83d a pair", texts)
    assert all(row.error is None and row.score is not None for row in rows)
    assert [row.document.text for row in rows] == texts
    assert [row.neutralised for row in rows] == [False] * 4 + [True, False]


async def test_top_n_and_min_score_shorten_the_answer(face: BaseReranker) -> None:
    whole = (await face.rerank(QUERY, TEXTS)).results
    assert whole[4].score is not None
    same((await face.rerank(QUERY, TEXTS, top_n=3)).results, whole[:3])
    between = (whole[4].score + (whole[5].score or 0)) / 2
    same((await face.rerank(QUERY, TEXTS, min_score=between)).results, whole[:5])
    assert (await face.rerank(QUERY, TEXTS, min_score=1)).results == ()


async def test_rows_say_what_was_cut(face: BaseReranker) -> None:
    long = " ".join([DOCUMENTS["long"]] * 3)
    cut = {policy: (await face.score(QUERY, [long], truncation=policy))[0] for policy in ("tail", "head", "middle")}
    for policy, row in cut.items():
        assert row.truncation is not None and row.truncation.truncated and row.truncation.policy == policy
    assert len({row.margin for row in cut.values()}) == 3


async def test_a_callers_bound_cuts_documents_and_says_so(face: BaseReranker) -> None:
    whole, wide = await asyncio.gather(face.score(QUERY, TEXTS), face.score(QUERY, TEXTS, max_tokens_per_doc=100_000))
    same(wide, whole)
    bound = await face.score(QUERY, TEXTS, max_tokens_per_doc=9)
    for row, before in zip(bound, whole, strict=True):
        assert row.truncation is not None and before.truncation is not None
        assert row.truncation.used_tokens == min(9, before.truncation.original_tokens)
        if row.truncation.truncated:
            assert abs((row.margin or 0.0) - (before.margin or 0.0)) > 1e-5
        else:
            same([row], [replace(before, rank=row.rank)])


async def test_a_grid_is_one_score_per_query(face: BaseReranker) -> None:
    queries = [QUERY, "How high is Everest?", "水", QUERY]
    grid = await face.score_grid(queries, NAMED)
    for query, rows in zip(queries, grid, strict=True):
        same(rows, await face.score(query, NAMED))
    with pytest.raises(InvalidRequest, match="queries is 'one'"):
        await face.score_grid("one", TEXTS)


async def test_one_bad_request_costs_the_others_nothing(face: BaseReranker) -> None:
    answers = await face.rerank_many(
        [
            {"query": QUERY, "documents": TEXTS[:3]},
            {"query": " ", "documents": TEXTS[:3]},
            {"query": QUERY, "documents": ["a"], "topn": 3},
            {"query": QUERY, "documents": ["a", "b"], "instruction": "be kind"},
            RerankRequest.of("other", ["b"], deadline_ms=60_000),
            {"query": QUERY, "documents": ["a"], **EVIDENCE},
        ]
    )
    assert [type(answer) for answer in answers] == [Ranking, *[InvalidRequest] * 3, Ranking, Ranking]
    messages = [str(answer) for answer in answers]
    assert (
        "requests[1]: query is empty" in messages[1] and "topn" in messages[2] and "instruction: fixed" in messages[3]
    )
    good = answers[0]
    assert isinstance(good, Ranking)
    same(good.results, (await face.rerank(QUERY, TEXTS[:3])).results)
    assert await face.rerank_many([]) == []


async def test_evidence_is_written_for_the_best(face: BaseReranker) -> None:
    ranking = await face.rerank(QUERY, TEXTS[:5], **EVIDENCE)
    written = [row.evidence for row in ranking.results]
    assert [evidence is not None for evidence in written] == [True, True, False, False, False]
    assert all(evidence and evidence.finish in ("complete", "budget", "repetition") for evidence in written[:2])
    assert ranking.evidence_usage.output_tokens == sum(e.output_tokens for e in written if e) > 0


async def test_spans_are_found_in_the_best(face: BaseReranker) -> None:
    options: dict[str, Any] = {"mode": "spans", "evidence_min_score": 0, "evidence_top_n": 2, "span_min_score": 0}
    ranking = await face.rerank(QUERY, TEXTS[:5], **options)
    assert [row.spans is not None for row in ranking.results] == [True, True, False, False, False]
    for row in ranking.results[:2]:
        assert bool(row.spans) == bool(row.document.text.strip())
        assert all(0 <= span.start < span.end <= len(row.document.content) for span in row.spans or ())
    events = [event async for event in face.stream(QUERY, TEXTS[:5], **options)]
    spans = {event.row.index: event.row.spans for event in events if isinstance(event, EvidenceDone)}
    assert spans == {row.index: row.spans for row in ranking.results[:2]}


async def test_verbatim_evidence_says_so(face: BaseReranker) -> None:
    ranking = await face.rerank(
        QUERY, TEXTS[:5], **EVIDENCE | {"evidence_style": "verbatim", "max_evidence_tokens": 40}
    )
    for row in ranking.results[:2]:
        assert row.evidence is not None and row.evidence.grounding is not None
        assert row.evidence.grounding.method == "verbatim"


async def test_a_deadline_marks_what_it_cost(face: BaseReranker) -> None:
    ranking = await face.rerank(QUERY, [f"{n} {DOCUMENTS['long']}" for n in range(100)], deadline_ms=30)
    assert ranking.degraded and len(ranking.results) == 100
    late = [row.error.code for row in ranking.results if row.error]
    assert late and set(late) == {"deadline"}


async def test_the_stream_tells_scores_ranking_evidence_and_the_end(face: BaseReranker) -> None:
    events = [event async for event in face.stream(QUERY, [*NAMED, NAMED[3]], **EVIDENCE)]
    kinds = [type(event) for event in events]
    assert kinds[:6] == [Scored] * 5 + [Ranked] and kinds[-1] is Finished
    assert kinds.count(EvidenceDone) == 2 and EvidenceDelta in kinds
    scored = {event.row.index: event.row for event in events if isinstance(event, Scored)}
    assert [scored[i].id for i in range(5)] == ["d1", "d2", "7", None, None]
    last = events[-1]
    assert isinstance(last, Finished)
    assert {row.index: row.margin for row in last.ranking.results} == {i: row.margin for i, row in scored.items()}
    for done in events:
        if isinstance(done, EvidenceDone):
            assert done.row.evidence is not None
            mine = [one for one in events if isinstance(one, EvidenceDelta) and one.index == done.row.index]
            expected = {
                part: "".join(one.text for one in mine if one.part == part) for part in ("contribution", "evidence")
            }
            assert expected["contribution"].strip() == done.row.evidence.contribution
            assert expected["evidence"].strip() == done.row.evidence.evidence


async def test_a_stream_left_early_costs_nothing(face: BaseReranker) -> None:
    async with aclosing(face.stream(QUERY, TEXTS)) as events:
        first = await anext(events)
    assert isinstance(first, Scored)
    assert (await face.score(QUERY, ["still there"]))[0].score is not None


BAD: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "no query": ("", ["a"], {}, "query is empty"),
    "query is no text": (5, ["a"], {}, "query is a int"),
    "no documents": ("q", [], {}, "documents is empty"),
    "one text": ("q", "a", {}, "documents is a str"),
    "no text": ("q", ["a", {"body": "b"}], {}, r"documents\[1\] has no 'text'"),
    "text is no text": ("q", ["a", {"text": 1}], {}, r"documents\[1\]: 'text' must be a string"),
    "top_n": ("q", ["a"], {"top_n": 0}, "top_n is 0"),
    "min_score": ("q", ["a"], {"min_score": 2}, "min_score is 2"),
    "truncation": ("q", ["a"], {"truncation": "none"}, "truncation is 'none'"),
    "deadline": ("q", ["a"], {"deadline_ms": 0}, "deadline_ms is 0"),
    "salt": ("q", ["a"], {"cache_salt": "\ud800"}, "cache_salt is"),
    "fixed instruction": ("q", ["a"], {"instruction": "be kind"}, "instruction: fixed for prompt 'prism'"),
    "its deadline, too": ("q", ["a"], {"instruction": "be kind", "deadline_ms": 1e4}, "instruction: fixed"),
}


@pytest.mark.parametrize("what", BAD)
async def test_bad_input_is_the_same_error(face: BaseReranker, what: str) -> None:
    query, documents, options, message = BAD[what]
    with pytest.raises(InvalidRequest, match=message):
        await face.rerank(query, documents, **options)
    with pytest.raises(InvalidRequest, match=message):
        async for _ in face.stream(query, documents, **options):
            pass


async def test_an_option_that_nobody_knows(face: BaseReranker) -> None:
    with pytest.raises(TypeError, match="topn"):
        await face.rerank("q", ["a"], topn=3)  # type: ignore[call-arg]


# One compared with the other.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_n": 2},
        {"min_score": 0.5},
        {"truncation": "middle"},
        {"max_tokens_per_doc": 5},
        {"deadline_ms": 60_000},
        {"cache_salt": "s"},
        EVIDENCE,
    ],
    ids=lambda options: " ".join(options) or "plain",
)
async def test_both_say_the_same(reranker: BaseReranker, client: AsyncClient, options: dict[str, Any]) -> None:
    documents = [*NAMED, *TEXTS, NAMED[0], "\ud800", "<|im_end|>"]
    ours, theirs = await asyncio.gather(
        reranker.rerank(QUERY, documents, **options), client.rerank(QUERY, documents, **options)
    )
    same(theirs.results, ours.results)
    assert theirs.prompt == ours.prompt


# What only a client has. The in-process server answers at once, or when told to.


class Counting(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner, self.paths = inner, list[str]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.path)
        return await self.inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self.inner.aclose()


MakeServer = Callable[..., InProcess]


@pytest.fixture(scope="module")
def make(checkpoint: Callable[[str], Path]) -> MakeServer:
    plan = prism_plan(checkpoint("qwen3"))
    return lambda **limits: InProcess(plan, **limits)


def client_of(server: InProcess, **options: Any) -> tuple[AsyncClient, Counting]:
    counting = Counting(httpx.ASGITransport(server.app))
    return AsyncClient("http://test", transport=counting, **options), counting


def call(n: int, count: int = 5) -> tuple[str, list[str]]:
    return f"late deliveries of report {n}", [
        f"Report {n}, department {i}: {n * i} parts were late." for i in range(count)
    ]


def scores(rows: Sequence[RankedDocument]) -> list[float | None]:
    return [row.score for row in rows]


def margins(rows: Sequence[RankedDocument]) -> list[float | None]:
    return [row.margin for row in rows]


async def test_a_thousand_calls_travel_in_few_requests_and_mix_up_nothing(make: MakeServer) -> None:
    server = make()
    client, counting = client_of(server)
    async with client:
        answers = await asyncio.gather(*(client.score(*call(n)) for n in range(1000)))
    alone = [await server.service.reranker.score(*call(n)) for n in range(1000)]
    assert [margins(rows) for rows in answers] == [margins(rows) for rows in alone]
    assert len({margin for rows in alone for margin in margins(rows)}) > 1000
    assert len(counting.paths) <= 100


async def test_a_thousand_calls_of_a_real_server(server: Server) -> None:
    counting = Counting(httpx.AsyncHTTPTransport())
    async with AsyncClient(server.url, transport=counting) as client, AsyncClient(server.url) as serial:
        answers = await asyncio.gather(*(client.score(*call(n)) for n in range(1000)))
        assert len(counting.paths) <= 100
        assert all(row.error is None for rows in answers for row in rows)
        for n in range(0, 1000, 10):
            assert scores(answers[n]) == pytest.approx(scores(await serial.score(*call(n))), abs=1e-6)


async def test_what_is_known_is_not_asked_again_until_the_server_is_another(make: MakeServer) -> None:
    server = make()
    client, counting = client_of(server)
    async with client:
        first = await client.rerank("q", ["a", "b"])
        again = await client.rerank("q", ["b", {"text": "c"}, {"text": "a", "id": "A"}])
        assert [len(server.runtime.prompts), len(counting.paths)] == [3, 2]
        both = await client.rerank("q", [{"text": "a", "id": "mine"}, "b"], top_n=1)
        assert len(server.runtime.prompts) == 3 and len(counting.paths) == 2
        assert both.results[0].margin == first.results[0].margin and both.usage.prompt_tokens == 0
        assert {row.id for row in again.results} == {None, "A"} and both.model == first.model == "tiny"
        server.service.instance_id = "started anew"
        await client.score("p", ["x"])  # the client notices the change here
        await client.rerank("q", ["a", "b"])
        assert len(server.runtime.prompts) == 6
    async with client_of(server, remembered_pairs=0)[0] as forgetful:
        for _ in range(2):
            await forgetful.score("q", ["a"])
    assert len(server.runtime.prompts) == 8


async def test_callers_who_ask_the_same_share_one_request(make: MakeServer) -> None:
    server = make()
    client, counting = client_of(server)
    async with client:
        rankings = await asyncio.gather(*(client.rerank("q", ["a", "b", f"own {n % 2}"]) for n in range(40)))
    assert len(server.runtime.prompts) == 4 and len(counting.paths) == 1
    assert len({tuple(row.index for row in ranking.results) for ranking in rankings}) <= 2
    assert sum(ranking.usage.prompt_tokens for ranking in rankings) == sum(map(len, server.runtime.prompts))


async def asked_and_held(
    server: InProcess, client: AsyncClient, *calls: tuple[str, list[str]]
) -> list[asyncio.Task[Any]]:
    """Calls that have reached the server, which has not answered them yet."""
    server.runtime.open.clear()
    tasks = [asyncio.create_task(client.score(*one)) for one in calls]
    await asyncio.wait_for(server.runtime.reached.wait(), 5)
    return tasks


async def test_who_leaves_costs_the_others_nothing(make: MakeServer) -> None:
    server = make()
    client, counting = client_of(server)
    async with client:
        leaver, same_pair, same_batch = await asked_and_held(
            server, client, ("q", ["a", "b"]), ("q", ["b", "c"]), ("p", ["d"])
        )
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        server.runtime.open.set()
        rows = [*await same_pair, *await same_batch]
    assert [row.error for row in rows] == [None] * 3 and len(counting.paths) == 1
    direct = server.service.reranker
    assert margins(rows) == margins([*await direct.score("q", ["b", "c"]), *await direct.score("p", ["d"])])


async def test_when_all_have_left_the_server_is_free(make: MakeServer) -> None:
    server = make()
    client, _ = client_of(server)
    async with client:
        tasks = await asked_and_held(server, client, ("q", ["a"]), ("q", ["a", "b"]), ("p", ["d"]))
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks, return_exceptions=True)
        )
        await asyncio.wait_for(client.aclose(), 5)
    assert server.service.admission.documents == 0 and server.runtime.left > 0


async def test_another_callers_mistake_is_not_ours(make: MakeServer) -> None:
    server = make(documents=20)
    client, _ = client_of(server)
    async with client:
        bad, good, other = await asyncio.gather(
            client.score("q", ["shared", *map(str, range(20))]),
            client.score("q", ["shared"]),
            client.score("p", ["shared"]),
            return_exceptions=True,
        )
    assert isinstance(bad, TooLarge) and "21 documents in one request" in str(bad) and bad.request_id
    assert not isinstance(good, BaseException) and not isinstance(other, BaseException)
    assert good[0].error is None and other[0].error is None


async def test_a_document_that_the_server_does_not_take_is_a_row(make: MakeServer) -> None:
    server = make(characters=100)
    client, _ = client_of(server)
    async with client:
        for _ in range(2):  # the second time, half comes from memory
            good, long = await client.score("q", ["short", "x" * 101])
            assert good.score is not None and good.error is None
            assert long.error is not None and long.error.code == "too_large"
            assert "the document has 101 characters; this server accepts at most 100" in long.error.message
    assert len(server.runtime.prompts) == 1


@pytest.mark.parametrize("options", [{}, {"deadline_ms": 60_000.0}])
async def test_nan_in_metadata_costs_nothing_and_comes_back(make: MakeServer, options: Any) -> None:
    client, _ = client_of(make())
    given = Document("a", metadata={"price": float("nan"), "nested": [float("-inf")]})
    async with client:
        rows = await client.score("q", [given, "b"], **options)
        events = [event async for event in client.stream("q", [given])]
    assert [row.error for row in rows] == [None, None] and rows[0].document is given
    assert isinstance(events[0], Scored) and events[0].row.document is given


async def test_a_call_larger_than_a_batch(make: MakeServer) -> None:
    server = make()
    client, counting = client_of(server)
    query, documents = call(3, 700)
    async with client:
        rows = await client.score(query, documents)
    assert margins(rows) == margins(await server.service.reranker.score(query, documents))
    assert len(counting.paths) == 3


async def test_batches_that_the_server_finds_too_large_are_halved(make: MakeServer) -> None:
    server = make(documents=20)
    client, counting = client_of(server)
    async with client:
        answers = await asyncio.gather(*(client.score(*call(n)) for n in range(16)))
        with pytest.raises(TooLarge):
            await client.score(*call(99, 21))
    direct = [await server.service.reranker.score(*call(n)) for n in range(16)]
    assert [margins(rows) for rows in answers] == [margins(rows) for rows in direct]
    assert len(counting.paths) == 1 + 2 + 4 + 1


async def test_closing_waits_for_what_is_under_way(make: MakeServer) -> None:
    server = make()
    client, _ = client_of(server)
    (task,) = await asked_and_held(server, client, ("q", ["a"]))
    closing = asyncio.create_task(client.aclose())
    done, _ = await asyncio.wait((task, closing), timeout=0.1)
    assert not done
    with pytest.raises(InvalidRequest, match="this client is closed"):
        await client.score("q", ["b"])
    with pytest.raises(InvalidRequest, match="this client is closed"):
        await anext(client.stream("q", ["b"]))
    server.runtime.open.set()
    await closing
    assert task.done() and (await task)[0].score is not None
    await client.aclose()


async def test_an_open_stream_breaks_off_when_the_client_is_closed(server: Server) -> None:
    client = AsyncClient(server.url)
    async with aclosing(client.stream(QUERY, [f"{n} {DOCUMENTS['long']}" for n in range(60)])) as events:
        await anext(events)
        await client.aclose()
        with pytest.raises(Unreachable):
            async for _ in events:
                pass


@pytest.mark.parametrize(
    ("url", "options"),
    [([], {}), ("localhost:8000", {}), ("http://a", {"api_key": "line\nbreak"}), (["http://a", "ftp://b"], {})],
)
async def test_what_no_client_can_be_made_of(url: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        AsyncClient(url, **options)
    threads = threading.active_count()
    with pytest.raises(InvalidRequest):
        Client(url, **options)
    assert threading.active_count() == threads


# Without await.


async def test_client_within_a_running_event_loop(server: Server, reranker: BaseReranker) -> None:
    """As in a notebook: it blocks this loop, while its own loop goes on."""
    with Client(server.url) as client:
        ranking = client.rerank(QUERY, NAMED)
        grid = client.score_grid([QUERY, "other"], NAMED)
        many = client.rerank_many([{"query": QUERY, "documents": TEXTS[:2]}, {"query": "", "documents": TEXTS}])
        events = [*client.stream(QUERY, NAMED)]
        for event in client.stream(QUERY, TEXTS):
            assert isinstance(event, Scored)
            break
        with pytest.raises(InvalidRequest, match="top_n is 0"):
            client.score(QUERY, TEXTS, top_n=0)
    same(ranking.results, (await reranker.rerank(QUERY, NAMED)).results)
    same(grid[0], await reranker.score(QUERY, NAMED))
    assert isinstance(many[0], Ranking) and isinstance(many[1], InvalidRequest)
    assert [type(event) for event in events] == [Scored] * 4 + [Ranked, Finished]
    client.close()


def test_threads_share_a_client(server: Server) -> None:
    counting = Counting(httpx.AsyncHTTPTransport())
    with Client(server.url, transport=counting, window_ms=20) as client, ThreadPoolExecutor(32) as threads:
        answers = [*threads.map(lambda n: client.score(*call(n, 2)), range(64))]
        again = [client.score(*call(n, 2)) for n in range(64)]
    assert [margins(rows) for rows in answers] == [margins(rows) for rows in again]
    assert len(counting.paths) < 32


def test_a_closed_client_says_so_and_leaves_no_thread(server: Server) -> None:
    before = {*threading.enumerate()}
    client = Client(server.url)
    client.close()
    assert {*threading.enumerate()} <= before
    with pytest.raises(InvalidRequest, match="this client is closed"):
        client.score(QUERY, ["a"])
    with pytest.raises(InvalidRequest, match="this client is closed"):
        next(client.stream(QUERY, ["a"]))


def test_whoever_calls_while_it_closes_gets_an_answer_or_an_error(server: Server) -> None:
    client = Client(server.url)

    def ask(n: int) -> str:
        try:
            return str(len(client.score(*call(n))))
        except InvalidRequest as error:
            return str(error)

    with ThreadPoolExecutor(16) as threads:
        calls = [threads.submit(ask, n) for n in range(400)]
        stream = client.stream(QUERY, TEXTS)
        next(stream)
        client.close()
        outcomes = Counter(one.result(timeout=20) for one in calls)
    assert set(outcomes) <= {"5", "this client is closed: create a new one"} and len(outcomes) == 2
    with pytest.raises(InvalidRequest, match="this client is closed"):
        next(stream)


# With hardly any packages installed.


def distributions_of(*names: str) -> dict[str, Distribution]:
    """These distributions and everything they require, as installed here."""
    distributions: dict[str, Distribution] = {}
    left = [*names]
    while left:
        name = canonicalize_name(left.pop())
        if name not in distributions:
            distributions[name] = distribution(name)
            wanted = map(Requirement, distributions[name].requires or [])
            left += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return distributions


ASK_FROM_THERE = """
import asyncio, importlib.util, json, sys
from whyrank import AsyncClient, Client

async def events_of(url, texts):
    async with AsyncClient(url) as client:
        return [type(event).__name__ async for event in client.stream("boiling point", texts)]

url, texts = sys.argv[1], sys.argv[2:]
with Client(url) as client:
    scores = [row.score for row in client.score("boiling point", texts)]
heavy = ("numpy", "rich", "tokenizers", "torch", "transformers", "typer", "vllm")
there = [name for name in heavy if importlib.util.find_spec(name)]
print(json.dumps({"scores": scores, "events": asyncio.run(events_of(url, texts)), "there": there}))
"""


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """The Python of an environment that contains only httpx, pydantic, the dependencies of those two, and whyrank."""
    venv.create(tmp_path, with_pip=False, symlinks=True)
    (site,) = tmp_path.glob("lib/python*/site-packages")
    for one in distributions_of("httpx", "pydantic").values():
        for name in {path.parts[0] for path in one.files or [] if path.parts[0] not in ("..", "__pycache__")}:
            (site / name).symlink_to(str(one.locate_file(name)))
    (site / "whyrank.pth").write_text(str(Path(whyrank.__file__).parents[1]))
    return tmp_path / "bin" / "python"


def test_httpx_and_pydantic_are_all_it_needs(server: Server, bare_python: Path) -> None:
    command = [str(bare_python), "-I", "-W", "error", "-c", ASK_FROM_THERE, server.url, *TEXTS[:3]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["there"] == [] and result["events"] == ["Scored"] * 3 + ["Ranked", "Finished"]
    with Client(server.url) as client:
        assert result["scores"] == pytest.approx(scores(client.score("boiling point", TEXTS[:3])), abs=1e-6)
