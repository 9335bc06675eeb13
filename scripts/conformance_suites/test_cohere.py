# /// script
# dependencies = ["cohere"]
# ///
"""Cohere's own SDK: versions 1 and 2, awaited and not, at the server's address and at /cohere."""

from __future__ import annotations

import cohere
import pytest

from served import DOCUMENTS, QUERY, SERVED, check

pytestmark = pytest.mark.parametrize("mount", ["", "/cohere"])


def pairs(answer: object) -> list[tuple[int, float]]:
    return [(row.index, row.relevance_score) for row in answer.results]


def v2(mount: str) -> cohere.ClientV2:
    return cohere.ClientV2(api_key=SERVED.key, base_url=SERVED.url + mount)


def v1(mount: str) -> cohere.Client:
    return cohere.Client(api_key=SERVED.key, base_url=SERVED.url + mount)


@pytest.mark.parametrize("model", ["demo", "rerank-v3.5", "rerank-v4.0-pro"])
def test_v2(mount: str, model: str) -> None:
    answer = v2(mount).rerank(model=model, query=QUERY, documents=DOCUMENTS)
    check(pairs(answer))
    assert answer.id and answer.meta.billed_units.search_units == 1 and answer.meta.api_version.version == "2"


@pytest.mark.parametrize("top_n", [1, 2, 4, 100])
def test_v2_top_n(mount: str, top_n: int) -> None:
    check(pairs(v2(mount).rerank(model="demo", query=QUERY, documents=DOCUMENTS, top_n=top_n)), min(top_n, 4))


def test_v2_all_parameters(mount: str) -> None:
    answer = v2(mount).rerank(
        model="demo", query=QUERY, documents=DOCUMENTS, top_n=3, max_tokens_per_doc=4096, priority=1
    )
    check(pairs(answer), 3)
    assert not answer.meta.warnings


def test_v2_raw_response(mount: str) -> None:
    raw = v2(mount).with_raw_response.rerank(model="demo", query=QUERY, documents=DOCUMENTS)
    check(pairs(raw.data))
    assert raw.headers["x-request-id"]


async def test_v2_async(mount: str) -> None:
    async with cohere.AsyncClientV2(api_key=SERVED.key, base_url=SERVED.url + mount) as client:
        check(pairs(await client.rerank(model="demo", query=QUERY, documents=DOCUMENTS)))


@pytest.mark.parametrize("top_n", [None, 2])
def test_v1(mount: str, top_n: int | None) -> None:
    answer = v1(mount).rerank(model="demo", query=QUERY, documents=DOCUMENTS, top_n=top_n)
    check(pairs(answer), top_n or 4)
    assert answer.meta.billed_units.search_units == 1


def test_v1_documents_come_back(mount: str) -> None:
    answer = v1(mount).rerank(model="demo", query=QUERY, documents=DOCUMENTS, return_documents=True)
    assert [row.document.text for row in answer.results] == [DOCUMENTS[row.index] for row in answer.results]


def test_v1_objects(mount: str) -> None:
    documents = [{"text": text, "source": "s"} for text in DOCUMENTS]
    check(pairs(v1(mount).rerank(model="demo", query=QUERY, documents=documents)))
    titled = [{"text": text, "title": "t"} for text in DOCUMENTS]
    check(pairs(v1(mount).rerank(model="demo", query=QUERY, documents=titled, rank_fields=["text"])))


def test_v1_max_chunks(mount: str) -> None:
    check(pairs(v1(mount).rerank(model="demo", query=QUERY, documents=DOCUMENTS, max_chunks_per_doc=10)))


async def test_v1_async(mount: str) -> None:
    async with cohere.AsyncClient(api_key=SERVED.key, base_url=SERVED.url + mount) as client:
        check(pairs(await client.rerank(model="demo", query=QUERY, documents=DOCUMENTS)))


def test_v1_client_at_v2(mount: str) -> None:
    check(pairs(v1(mount).v2.rerank(model="demo", query=QUERY, documents=DOCUMENTS)))


@pytest.mark.parametrize("make", [v1, v2])
def test_errors(mount: str, make: object) -> None:
    with pytest.raises(cohere.BadRequestError, match="documents is empty"):
        make(mount).rerank(model="demo", query=QUERY, documents=[])
    with pytest.raises(cohere.BadRequestError, match="query is empty"):
        make(mount).rerank(model="demo", query=" ", documents=DOCUMENTS)


@pytest.mark.parametrize("kind", [cohere.Client, cohere.ClientV2])
def test_a_wrong_key(mount: str, kind: object) -> None:
    client = kind(api_key="wrong", base_url=SERVED.url + mount)
    if SERVED.is_open:
        check(pairs(client.rerank(model="demo", query=QUERY, documents=DOCUMENTS)))
        return
    with pytest.raises(cohere.UnauthorizedError, match="Authorization: Bearer KEY"):
        client.rerank(model="demo", query=QUERY, documents=DOCUMENTS)
