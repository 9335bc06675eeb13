# /// script
# dependencies = ["infinity-client", "xinference-client", "openai", "aiohttp"]
# [tool.conformance]
# works-with = ["infinity-client", "xinference-client", "openai"]
# ///
"""The clients of Infinity, Xinference and, for the list of models, OpenAI."""

from __future__ import annotations

import openai
import pytest
from infinity_client.api.default import rerank
from infinity_client.client import AuthenticatedClient
from infinity_client.models import RerankInput
from xinference_client import AsyncRESTfulClient, RESTfulClient

from served import DOCUMENTS, QUERY, SERVED, check


def infinity() -> AuthenticatedClient:
    url = f"{SERVED.url}/infinity"
    return AuthenticatedClient(base_url=url, token=SERVED.key, raise_on_unexpected_status=True)


@pytest.mark.parametrize("top_n", [None, 2])
def test_infinity(top_n: int | None) -> None:
    body = RerankInput(QUERY, DOCUMENTS, model="demo", top_n=top_n)
    answer = rerank.sync(client=infinity(), body=body)
    check([(row.index, row.relevance_score) for row in answer.results], top_n or 4)
    assert answer.usage.total_tokens > 0


async def test_infinity_async() -> None:
    answer = await rerank.asyncio(client=infinity(), body=RerankInput(QUERY, DOCUMENTS))
    check([(row.index, row.relevance_score) for row in answer.results])


def test_infinity_documents() -> None:
    answer = rerank.sync(client=infinity(), body=RerankInput(QUERY, DOCUMENTS, return_documents=True))
    assert [row.document for row in answer.results] == [DOCUMENTS[row.index] for row in answer.results]


def test_infinity_raw_scores() -> None:
    answer = rerank.sync(client=infinity(), body=RerankInput(QUERY, DOCUMENTS, raw_scores=True))
    native = {row["index"]: row["margin"] for row in SERVED.rows(QUERY, DOCUMENTS)}
    assert {row.index: row.relevance_score for row in answer.results} == pytest.approx(native, abs=2e-2)


def pairs(answer: dict) -> list[tuple[int, float]]:
    return [(row["index"], row["relevance_score"]) for row in answer["results"]]


def test_xinference() -> None:
    model = RESTfulClient(SERVED.url, api_key=SERVED.key).get_model("demo")
    check(pairs(model.rerank(DOCUMENTS, QUERY)))
    check(pairs(model.rerank(DOCUMENTS, QUERY, top_n=2)), 2)
    documents = model.rerank(DOCUMENTS, QUERY, return_documents=True, return_len=True)
    assert documents["results"][0]["document"]["text"] == DOCUMENTS[1]


async def test_xinference_async() -> None:
    client = AsyncRESTfulClient(SERVED.url, api_key=SERVED.key)
    model = await client.get_model("demo")
    check(pairs(await model.rerank(DOCUMENTS, QUERY, top_n=3)), 3)
    await model.close()
    await client.close()


def test_xinference_models() -> None:
    models = RESTfulClient(SERVED.url, api_key=SERVED.key).list_models()
    assert models["demo"]["object"] == "model"


def test_xinference_unknown_model() -> None:
    with pytest.raises(RuntimeError, match="not served here"):
        RESTfulClient(SERVED.url, api_key=SERVED.key).get_model("other")


def test_openai_models() -> None:
    client = openai.OpenAI(base_url=f"{SERVED.url}/v1", api_key=SERVED.key)
    assert [one.id for one in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
