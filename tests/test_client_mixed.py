"""Servers with two models behind one client, as during a rolling update: a ranking comes from one model, or is an error."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from whyrank import AsyncClient, Ranking
from whyrank.client.retry import RetryPolicy
from whyrank.client.split import odd_ones
from whyrank.errors import MixedModels

URLS = ["http://a", "http://b"]
TEXTS = [f"text {number}" for number in range(1000)]
QUICK = RetryPolicy(attempts=6, first_pause=0.001, longest_pause=0.002)


def margin(model: str, text: str) -> float:
    return zlib.crc32(f"{model}\n{text}".encode()) / 2**29 - 4


def answer(model: str, request: dict[str, Any]) -> dict[str, Any]:
    evidence = {"contribution": model, "evidence": model, "finish": "complete", "output_tokens": 1, "grounding": None}
    rows = [
        {"index": i, "id": None, "rank": None, "score": 0.9, "margin": margin(model, text), "label_mass": 0.9}
        | {"truncation": None, "neutralised": False, "error": None}
        | (evidence if request.get("mode") == "evidence" else {})
        for i, text in enumerate(request["documents"])
    ]
    usage = {"prompt_tokens": len(rows), "cached_tokens": 0, "computed_tokens": len(rows), "output_tokens": 0}
    return {
        "results": rows,
        "usage": usage,
        "evidence_usage": usage,
        "model": model,
        "prompt": "p@1",
        "degraded": False,
    }


Chooses = Callable[[int, str], str | None]
"""The number of a scoring or writing request, from 0, and its host → the model that answers it; None: nobody does."""


class Fleet(httpx.AsyncBaseTransport):
    """`scored`: documents scored so far. Accepts at most 300 documents per request."""

    def __init__(self, chooses: Chooses) -> None:
        self.chooses, self.requests, self.scored = chooses, 0, 0
        self.answering = ""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if request.url.path == "/v1/formats":
            return self.reply(200, {}, self.answering)
        body = json.loads(await request.aread())
        requests = body.get("requests", [body])
        if sum(len(one["documents"]) for one in requests) > 300:
            return self.reply(413, {"error": {"type": "TooLarge", "message": "too many"}}, "")
        number, self.requests = self.requests, self.requests + 1
        model = self.chooses(number, request.url.host)
        if model is None:
            return self.reply(503, {"error": {"type": "Stopping", "message": "being replaced"}}, "")
        self.answering = model
        self.scored += sum(len(one["documents"]) for one in requests)
        answers = [answer(model, one) for one in requests]
        return self.reply(200, {"answers": answers} if "requests" in body else answers[0], model)

    @staticmethod
    def reply(status: int, body: Any, identity: str) -> httpx.Response:
        return httpx.Response(status, json=body, headers={"X-Whyrank-Identity": identity})


def client_of(fleet: Fleet) -> AsyncClient:
    return AsyncClient(URLS, retry=QUICK, transport=fleet)


def check_one_model(ranking: Ranking, model: str, count: int = len(TEXTS)) -> None:
    assert ranking.model == model and len(ranking.results) == count and not ranking.degraded
    for row in ranking.results:
        assert row.margin == margin(model, row.document.text)
        assert row.evidence is None or row.evidence.evidence == model


SOON = {"deadline_ms": 60_000.0}
WHY = {"mode": "evidence"}


@pytest.mark.parametrize("options", [{}, SOON, WHY])
async def test_one_batch_that_went_elsewhere_is_asked_again(options: Any) -> None:
    """The preferred server is away for one request, and the other one already has another model."""
    hosts: list[str] = []

    def chooses(number: int, host: str) -> str | None:
        hosts.append(host)
        if number == 2:
            return None
        return "old" if host == hosts[0] else "new"

    fleet = Fleet(chooses)
    async with client_of(fleet) as client:
        check_one_model(await client.rerank("q", TEXTS, **options), "old")
    assert {*hosts} == {"a", "b"}
    assert fleet.scored <= len(TEXTS) + 256 + 5  # only that batch again, and the evidence


@pytest.mark.parametrize("options", [{}, SOON, WHY])
@pytest.mark.parametrize("replaced", [1, 2, 3, 4])
async def test_a_server_that_is_replaced_in_the_middle(replaced: int, options: Any) -> None:
    fleet = Fleet(lambda number, host: "old" if number < replaced else "new")
    async with client_of(fleet) as client:
        ranking = await client.rerank("q", TEXTS, **options)
    check_one_model(ranking, "old" if replaced == 4 and options != WHY else "new")


@pytest.mark.parametrize("options", [{}, SOON, WHY])
async def test_servers_that_never_agree_are_an_error_that_names_both_models(options: Any) -> None:
    fleet = Fleet(lambda number, host: f"m{number}")
    async with client_of(fleet) as client:
        with pytest.raises(
            MixedModels, match=r"m\d+ with p@1 and m\d+ with p@1.*: give base_url only servers with one model"
        ):
            await client.rerank("q", TEXTS, **options)
    assert fleet.requests < 50


async def test_memory_of_the_old_model_makes_no_ranking_with_the_new_one() -> None:
    fleet = Fleet(lambda number, host: "old" if number < 2 else "new")
    async with client_of(fleet) as client:
        check_one_model(await client.rerank("q", TEXTS[:400]), "old", 400)
        check_one_model(await client.rerank("q", TEXTS), "new")
        check_one_model(await client.rerank("q", TEXTS[:400]), "new", 400)


async def test_calls_that_share_what_is_under_way_each_get_one_model() -> None:
    fleet = Fleet(lambda number, host: "new" if number % 3 == 1 and number < 8 else "old")
    async with client_of(fleet) as client:
        parts = [slice(0, 600), slice(300, 900), slice(500, 1000), slice(0, 1000)]
        rankings = await asyncio.gather(*(client.rerank("q", TEXTS[part]) for part in parts))
    for part, ranking in zip(parts, rankings, strict=True):
        check_one_model(ranking, ranking.model, len(TEXTS[part]))


def test_what_most_have_answered_is_kept_unless_a_newer_model_answers() -> None:
    served = {1: ("old", "p"), 2: ("old", "p"), 3: ("new", "p")}
    assert odd_ones(served, None) == [3]
    assert odd_ones(served, ("new", "p")) == [1, 2]
    assert odd_ones({}, None) == [] == odd_ones({1: ("old", "p")}, None)
    assert odd_ones({1: ("old", "p@1"), 2: ("old", "p@1"), 3: ("old", "p@2")}, None) == [3]
