# /// script
# dependencies = ["voyageai"]
# ///
"""Voyage's own SDK, awaited and not, at /v1 and at /voyage/v1."""

from __future__ import annotations

import pytest
import voyageai
from voyageai.error import AuthenticationError, InvalidRequestError

from served import DOCUMENTS, QUERY, SERVED, check

pytestmark = pytest.mark.parametrize("mount", ["/v1", "/voyage/v1"])


def client(mount: str, kind: type = voyageai.Client, key: str = SERVED.key) -> voyageai.Client:
    return kind(api_key=key, base_url=SERVED.url + mount)


def pairs(answer: object) -> list[tuple[int, float]]:
    assert all(row.document == DOCUMENTS[row.index] for row in answer.results)
    return [(row.index, row.relevance_score) for row in answer.results]


@pytest.mark.parametrize("model", ["rerank-2.5", "rerank-2.5-lite", "rerank-2", "rerank-1", "demo"])
def test_rerank(mount: str, model: str) -> None:
    answer = client(mount).rerank(QUERY, DOCUMENTS, model=model)
    check(pairs(answer))
    assert answer.total_tokens > 0


@pytest.mark.parametrize("top_k", [1, 2, 4, 100])
def test_top_k(mount: str, top_k: int) -> None:
    check(pairs(client(mount).rerank(QUERY, DOCUMENTS, model="rerank-2.5", top_k=top_k)), min(top_k, 4))


@pytest.mark.parametrize("truncation", [True, False])
def test_truncation(mount: str, truncation: bool) -> None:
    check(pairs(client(mount).rerank(QUERY, DOCUMENTS, model="rerank-2.5", truncation=truncation)))


async def test_async(mount: str) -> None:
    check(pairs(await client(mount, voyageai.AsyncClient).rerank(QUERY, DOCUMENTS, model="rerank-2.5", top_k=3)), 3)


def test_errors(mount: str) -> None:
    with pytest.raises(InvalidRequestError, match="documents is empty"):
        client(mount).rerank(QUERY, [], model="rerank-2.5")
    with pytest.raises(InvalidRequestError, match="longer than the model reads"):
        client(mount).rerank(QUERY, ["word " * 20_000], model="rerank-2.5", truncation=False)


async def test_errors_async(mount: str) -> None:
    with pytest.raises(InvalidRequestError, match="documents is empty"):
        await client(mount, voyageai.AsyncClient).rerank(QUERY, [], model="rerank-2.5")


def test_a_wrong_key(mount: str) -> None:
    wrong = client(mount, key="wrong")
    if SERVED.is_open:
        check(pairs(wrong.rerank(QUERY, DOCUMENTS, model="rerank-2.5")))
        return
    with pytest.raises(AuthenticationError, match="Authorization: Bearer KEY"):
        wrong.rerank(QUERY, DOCUMENTS, model="rerank-2.5")
