"""The client's decisions, without a network: when to retry, where to send, what is known, what travels together."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from waiting import until
from whyrank import (
    Document,
    DocumentError,
    EngineDead,
    InvalidRequest,
    Overloaded,
    RankedDocument,
    RerankRequest,
    RetryableError,
    Stopping,
    Unauthorized,
    Unreachable,
)
from whyrank.client.batching import Batcher, PendingBatch
from whyrank.client.cache import CachedRow, ScoreCache, pair_key
from whyrank.client.decode import error_of
from whyrank.client.encode import batch_of, encode_documents, encode_request, pair_head
from whyrank.client.retry import Breaker, Replica, RetryPolicy, in_order_of_affinity, next_replica
from whyrank.serving.native.requests import BatchRequest, NativeRequest


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


# When to retry.


def test_pauses_double_up_to_the_longest_and_end() -> None:
    policy = RetryPolicy(attempts=6, first_pause=0.1, longest_pause=0.5)
    longest = [policy.pause(attempt, Unreachable(""), lambda: 1.0) for attempt in range(1, 7)]
    assert longest == [*map(pytest.approx, [0.1, 0.2, 0.4, 0.5, 0.5]), None]
    shortest = [policy.pause(attempt, Unreachable(""), lambda: 0.0) for attempt in range(1, 6)]
    assert shortest == pytest.approx([0.05, 0.1, 0.2, 0.25, 0.25])


def test_callers_who_failed_together_do_not_come_back_together() -> None:
    for error in (Unreachable(""), Overloaded("", 3)):
        pauses = {RetryPolicy().pause(1, error) for _ in range(50)}
        assert len(pauses) > 40


def test_an_overloaded_server_is_believed_as_often_as_it_says_so() -> None:
    policy = RetryPolicy(attempts=2, first_pause=0.01)
    for attempt in (1, 2, 5, 5000):
        pause = policy.pause(attempt, Overloaded("", 7), lambda: 0.0)
        assert pause is not None and 7 <= pause < 8


def test_come_back_at_once_is_not_taken_at_its_word() -> None:
    pause = RetryPolicy(first_pause=0.1).pause(3, Overloaded("", 0), lambda: 0.0)
    assert pause == pytest.approx(0.2)


def test_any_servers_wish_counts_and_attempts_end() -> None:
    dead = error_of(503, {"error": {"type": "EngineDead", "message": "x"}}, "10", None)
    assert isinstance(dead, EngineDead) and dead.retry_after == 10
    assert RetryPolicy().pause(1, dead, lambda: 0.0) == 10
    assert RetryPolicy(attempts=3).pause(3, dead) is None


@pytest.mark.parametrize(
    ("status", "body", "retry_after", "kind", "message"),
    [
        (429, None, "5", Overloaded, "the server answered with status 429"),
        (429, {"error": "busy"}, "Wed, 21 Oct 2026 07:28:00 GMT", Overloaded, "the server answered with status 429"),
        (503, {"error": {"type": "Stopping", "message": "bye"}}, None, Stopping, "bye"),
        (502, None, None, Unreachable, "the server answered with status 502"),
        (500, {"error": {"type": "InternalError", "message": "oh"}}, None, Unreachable, "oh"),
        (500, {"error": {"type": "__all__", "message": "oh"}}, None, Unreachable, "oh"),
        (500, {"error": {"type": "WhyrankError", "message": "oh"}}, None, Unreachable, "oh"),
        (408, None, None, Unreachable, "the server answered with status 408"),
        (400, {"error": {"type": "InvalidRequest", "message": "no"}}, None, InvalidRequest, "no"),
        (401, {"error": "Unauthorized"}, None, Unauthorized, "the server answered with status 401"),
        (404, {"detail": "Not Found"}, None, InvalidRequest, "is this the base URL of a whyrank server?"),
        (307, None, None, InvalidRequest, "the server answered with status 307"),
        (418, [1], None, InvalidRequest, "the server answered with status 418"),
    ],
)
def test_errors_are_what_the_server_meant(
    status: int, body: Any, retry_after: str | None, kind: type[Exception], message: str
) -> None:
    error = error_of(status, body, retry_after, "r1")
    assert type(error) is kind
    assert message in str(error)
    assert (error.status, error.request_id) == (status, "r1")


# When to avoid a server, and where to go instead.


def test_a_breaker_opens_after_failures_in_a_row() -> None:
    clock = Clock()
    breaker = Breaker(clock, threshold=3, rest=5)
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()
    for _ in range(2):
        breaker.failed()
    assert breaker.closed
    breaker.failed()
    assert not breaker.closed
    clock.now += 4.9
    assert not breaker.closed


def test_after_its_rest_one_may_try() -> None:
    clock = Clock()
    breaker = Breaker(clock, threshold=1, rest=5)
    breaker.failed()
    clock.now += 5
    assert breaker.closed
    breaker.began()
    assert not breaker.closed  # for all other callers
    breaker.failed()
    clock.now += 4.9
    assert not breaker.closed
    clock.now += 0.1
    breaker.began()
    breaker.succeeded()
    assert breaker.closed
    breaker.began()
    assert breaker.closed


def test_one_who_tries_and_is_never_heard_of_again_blocks_nobody_for_long() -> None:
    clock = Clock()
    breaker = Breaker(clock, threshold=1, rest=5)
    breaker.failed()
    clock.now += 5
    breaker.began()
    clock.now += 5
    assert breaker.closed


def replicas(count: int = 4, clock: Clock | None = None) -> list[Replica]:
    return [Replica(f"http://server{n}", Breaker(clock or Clock(), threshold=1)) for n in range(count)]


def test_the_same_query_goes_to_the_same_server_and_queries_spread() -> None:
    servers = replicas()
    first = {f"query {n}": in_order_of_affinity(servers, f"query {n}") for n in range(400)}
    for query, order in first.items():
        assert in_order_of_affinity(list(reversed(servers)), query) == order
        assert len(order) == 4
    counts = Counter(order[0].url for order in first.values())
    assert len(counts) == 4 and min(counts.values()) > 60


def test_keys_of_a_server_that_rests_are_spread_and_others_stay() -> None:
    servers = replicas()
    queries = [f"query {n}" for n in range(400)]
    before = {query: in_order_of_affinity(servers, query)[0].url for query in queries}
    servers[0].breaker.failed()
    after = {query: in_order_of_affinity(servers, query)[0].url for query in queries}
    moved = Counter(after[query] for query in queries if before[query] == "http://server0")
    assert len(moved) == 3 and min(moved.values()) > 10
    assert all(after[query] == url for query, url in before.items() if url != "http://server0")
    assert all(in_order_of_affinity(servers, query)[-1].url == "http://server0" for query in queries)


def test_broken_text_has_a_place_too() -> None:
    servers = replicas()
    orders = {in_order_of_affinity(servers, chr(0xD800 + n))[0].url for n in range(64)}
    assert len(orders) == 4  # each query has an order of its own


def test_after_a_failure_the_next_is_tried_even_where_the_order_changes() -> None:
    servers = replicas(2)
    best, second = in_order_of_affinity(servers, "q")
    best.breaker.failed()  # now it is avoided, and comes last
    assert next_replica(servers, "q", {best.url: 1}) is second
    assert next_replica(servers, "q", {best.url: 1, second.url: 1}) is second  # no other one is healthy
    second.breaker.failed()
    assert next_replica(servers, "q", {best.url: 1, second.url: 2}) is best  # all are avoided: it is tried all the same


# What is known.


def request(query: str = "q", document: Any = "text", **options: Any) -> RerankRequest:
    return RerankRequest.of(query, [document], **options)


def key_of(request: RerankRequest) -> bytes:
    return pair_key(pair_head(request), encode_documents(request)[0])


DIFFERENT = {
    "plain": request(),
    "query": request("Q"),
    "text": request(document="Text"),
    "title": request(document={"text": "text", "title": "t"}),
    "empty text": request(document={"text": "", "title": "t"}),
    "metadata": request(document={"text": "text", "hop": 1}),
    "other metadata": request(document={"text": "text", "hop": 2}),
    "number as text": request(document={"text": "text", "hop": "1"}),
    "instruction": request(instruction="be strict"),
    "no instruction": request(instruction=""),
    "truncation": request(truncation="windows"),
    "bound": request(max_tokens_per_doc=5),
    "other bound": request(max_tokens_per_doc=6),
    "salt": request(cache_salt="s"),
    "surrogate": request("\ud800"),
    "other surrogate": request("\udfff"),
    "surrogate in text": request(document="\ud800"),
    "query runs into text": request('q","documents":["text"]}'),
}
SAME = {
    "top_n": request(top_n=3),
    "min_score": request(min_score=0.5),
    "id": request(document={"text": "text", "id": "d1"}),
    "Document": request(document=Document("text")),
}


def test_everything_that_a_score_depends_on_changes_the_key() -> None:
    keys = {name: key_of(sent) for name, sent in DIFFERENT.items()}
    assert len(set(keys.values())) == len(keys)
    assert {key_of(sent) for sent in SAME.values()} == {keys["plain"]}


@pytest.mark.parametrize("sent", [*DIFFERENT.values(), *SAME.values()], ids=[*DIFFERENT, *SAME])
def test_the_server_reads_what_was_asked(sent: RerankRequest) -> None:
    content = encode_request(sent, encode_documents(sent))
    (read,) = NativeRequest.model_validate(json.loads(content)).to_requests()
    unnamed = RerankRequest(
        sent.query,
        tuple(Document(one.text, None, one.title, dict(one.metadata)) for one in sent.documents),
        **{name: getattr(sent, name) for name in ("instruction", "top_n", "min_score", "truncation")},
        max_tokens_per_doc=sent.max_tokens_per_doc,
        cache_salt=sent.cache_salt,
    )
    assert read == unnamed
    (of_batch,) = BatchRequest.model_validate(json.loads(batch_of([content]))).requests
    assert of_batch.to_requests() == [read]


def test_every_option_travels() -> None:
    original = RerankRequest.of(
        "q",
        ["a", "b"],
        instruction="i",
        top_n=1,
        min_score=0.0,
        truncation="head",
        max_tokens_per_doc=7,
        mode="evidence",
        evidence_top_n=2,
        evidence_min_score=0,
        max_contribution_tokens=3,
        max_evidence_tokens=4,
        temperature=1,
        deadline_ms=5,
        cache_salt="s",
    )
    assert NativeRequest.model_validate(
        json.loads(encode_request(original, encode_documents(original)))
    ).to_requests() == [original]


def test_metadata_that_json_does_not_know_travels_as_text() -> None:
    class Odd:
        def __str__(self) -> str:
            return "odd"

    odd = request(document=Document("x", metadata={"when": Odd(), 1: 2, (3, 4): 5, "n": None}))
    assert json.loads(encode_documents(odd)[0]) == {"text": "x", "metadata": {"when": "odd", "1": 2, "n": None}}
    circular: dict[str, Any] = {}
    circular["self"] = circular
    with pytest.raises(InvalidRequest, match=r"documents\[0\]: 'metadata' cannot be written as JSON"):
        encode_documents(request(document=Document("x", metadata=circular)))


def test_numbers_that_json_does_not_know_travel_as_null() -> None:
    nan, infinite = float("nan"), float("inf")
    nested = {"price": nan, "n": 1.5, "list": [infinite, {"x": (nan, "NaN", 2)}], nan: "a key", "when": Path("p")}
    written = encode_documents(request(document=Document("x", metadata=nested)))[0]
    assert json.loads(written, parse_constant=pytest.fail)["metadata"] == {
        "price": None,
        "n": 1.5,
        "list": [None, {"x": [None, "NaN", 2]}],
        "NaN": "a key",
        "when": "p",
    }


def row(score: float = 0.5, **parts: Any) -> CachedRow:
    return CachedRow(RankedDocument(0, Document(""), None, score, 0.0, **parts), ("model", "prompt"))


def test_the_book_forgets_what_was_not_asked_for_longest() -> None:
    book = ScoreCache(3)
    for n in range(3):
        book.put("id", b"%d" % n, row(n))
    assert book.get("id", b"0") == row(0)
    book.put("id", b"3", row(3))
    assert book.get("id", b"1") is None
    assert [book.get("id", b"%d" % n) for n in (0, 2, 3)] == [row(0), row(2), row(3)]
    assert len(book) == 3


def test_the_book_keeps_no_errors_and_nothing_of_strangers() -> None:
    book = ScoreCache(10)
    book.put("id", b"0", row(error=DocumentError("deadline", "late")))
    book.put(None, b"1", row())
    assert len(book) == 0 and book.get(None, b"1") is None
    ScoreCache(0).put("id", b"0", row())
    book.put("id", b"0", row())
    assert book.get("another", b"0") is None and book.get(None, b"0") is None


# What travels together.


@dataclass
class Post:
    """A fake `send`: records each batch, and answers when told to."""

    batches: list[list[PendingBatch]] = field(default_factory=list)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, asks: Sequence[PendingBatch]) -> None:
        self.batches.append(list(asks))
        await self.answered.wait()
        for ask in asks:
            ask.done.set_result(None)


def ask(query: str = "q", documents: int = 1, server: str = "", size: int = 10, wanted: int = 1) -> PendingBatch:
    return PendingBatch(query, [bytes([n]) for n in range(documents)], b"x" * size, 0.0, server, wanted)


def batcher(post: Post, window: float = 0.05, max_concurrency: int = 8) -> Batcher:
    return Batcher(post, window, max_documents=10, max_bytes=1000, max_concurrency=max_concurrency)


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_when_idle_the_next_turn_of_the_loop_sends_what_came_in_this_one() -> None:
    batching = batcher(post := Post(), window=60)
    asks = [ask(), ask(), ask()]
    for one in asks:
        batching.add(one)
    assert not post.batches
    await turns()
    assert post.batches == [asks]
    post.answered.set()
    await batching.finish()


async def test_when_busy_it_waits_for_company() -> None:
    batching = batcher(post := Post(), window=0.3)
    batching.add(ask())
    await turns()
    late = [ask(), ask()]
    batching.add(late[0])
    await turns()
    batching.add(late[1])
    await turns()
    assert len(post.batches) == 1
    await until(lambda: len(post.batches) > 1)
    assert post.batches[1:] == [late]
    post.answered.set()
    await batching.finish()


async def test_without_a_window_nothing_waits() -> None:
    batching = batcher(post := Post(), window=0)
    for _ in range(3):
        batching.add(ask())
        await turns()
    assert [len(batch) for batch in post.batches] == [1, 1, 1]
    post.answered.set()
    await batching.finish()


async def test_batches_are_no_larger_than_they_may_be() -> None:
    batching = batcher(post := Post())
    for documents in (4, 6, 1, 30, 9):
        batching.add(ask(documents=documents))
    for size in (600, 500, 5000, 10):
        batching.add(ask(size=size))
    await turns()
    batches = [[(len(one.keys), len(one.content)) for one in batch] for batch in post.batches]
    assert batches[:4] == [[(4, 10), (6, 10)], [(1, 10)], [(30, 10)], [(9, 10), (1, 600)]]
    assert batches[4:] == [[(1, 500)], [(1, 5000)], [(1, 10)]]
    post.answered.set()
    await batching.finish()
    assert sum(len(batch) for batch in post.batches) == 9


async def test_asks_of_one_query_stand_side_by_side_in_the_order_of_queries() -> None:
    batching = batcher(post := Post())
    for query in "zazbza":
        batching.add(ask(query))
    await turns()
    assert [one.query for one in post.batches[0]] == [*"zzzaab"]
    post.answered.set()
    await batching.finish()


async def test_asks_for_different_servers_travel_apart() -> None:
    batching = batcher(post := Post())
    for n in range(6):
        batching.add(ask(str(n), server="one" if n % 2 else "two"))
    await turns()
    assert [{one.server for one in batch} for batch in post.batches] == [{"two"}, {"one"}]
    post.answered.set()
    await batching.finish()


async def test_who_comes_when_all_places_are_taken_gets_into_a_fuller_batch() -> None:
    batching = batcher(post := Post(), window=0, max_concurrency=2)
    asks = [ask(str(n)) for n in range(12)]
    for one in asks:
        batching.add(one)
        await turns()
    assert [len(batch) for batch in post.batches] == [1, 1]
    post.answered.set()
    await batching.finish()
    assert [len(batch) for batch in post.batches] == [1, 1, 10]
    assert [one for batch in post.batches for one in batch] == asks


async def test_asks_that_nobody_wants_any_more_are_dropped() -> None:
    batching = batcher(post := Post())
    kept, dropped = ask("kept"), ask("dropped")
    for one in (kept, dropped):
        batching.add(one)
    dropped.wanted = 0
    await turns()
    assert post.batches == [[kept]]
    post.answered.set()
    await batching.finish()
    assert kept.done.done() and not dropped.done.done()


async def test_a_request_ends_when_nobody_wants_any_of_it() -> None:
    batching = batcher(post := Post())
    asks = [ask("a"), ask("b")]
    for one in asks:
        batching.add(one)
    await turns()
    asks[0].wanted = 0
    batching.leave(asks[0])
    await turns()
    assert batching._sending
    asks[1].wanted = 0
    batching.leave(asks[1])
    await turns()
    assert not batching._sending and not post.answered.is_set()


async def test_finish_sends_what_waits_and_waits_for_what_is_sent() -> None:
    batching = batcher(post := Post(), window=60, max_concurrency=1)
    asks = [ask(str(n), documents=10) for n in range(4)]
    for one in asks:
        batching.add(one)
        await turns()
    asyncio.get_running_loop().call_later(0.02, post.answered.set)
    await batching.finish()
    assert all(one.done.done() for one in asks)
    assert all(len(batch) == 1 for batch in post.batches)
    await batching.finish()


def test_growing_pauses_never_overflow() -> None:
    policy = RetryPolicy(attempts=10**6)
    pauses = [policy.pause(attempt, RetryableError(""), lambda: 1.0) or 0.0 for attempt in (1, 10, 100, 10_000)]
    assert all(first <= second for first, second in pairwise(pauses))
