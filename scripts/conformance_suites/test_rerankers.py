# /// script
# dependencies = ["rerankers", "requests", "whyrank[rerankers]"]
# [tool.conformance]
# works-with = ["rerankers"]
# ///
"""The APIs that the library rerankers knows and whyrank speaks, and whyrank's own ranker in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rerankers import Document, Reranker
from rerankers.models.api_rankers import APIRanker

from served import DOCUMENTS, QUERY, SERVED, check_texts, expected
from whyrank.adapters.rerankers import WhyrankRanker


def api(provider: str, path: str) -> Callable[[], Any]:
    return lambda: APIRanker("rerank-2.5", SERVED.key, provider, verbose=0, url=SERVED.url + path)


RANKERS: dict[str, Callable[[], Any]] = {
    "cohere": api("cohere", "/v1/rerank"),
    "cohere at /cohere": api("cohere", "/cohere/v1/rerank"),
    "cohere, version 2": api("cohere", "/v2/rerank"),
    "jina": api("jina", "/v1/rerank"),
    "jina at /jina": api("jina", "/jina/v1/rerank"),
    "voyage": api("voyage", "/v1/rerank"),
    "voyage at /voyage": api("voyage", "/voyage/v1/rerank"),
    "tei": api("text-embeddings-inference", "/rerank"),
    "tei at /tei": api("text-embeddings-inference", "/tei/rerank"),
    "by its own factory": lambda: Reranker(
        "cohere", model_type="APIRanker", api_provider="cohere", api_key=SERVED.key, url=f"{SERVED.url}/v1/rerank"
    ),
    "whyrank": lambda: WhyrankRanker(base_url=SERVED.url, api_key=SERVED.key),
}
pytestmark = pytest.mark.parametrize("name", RANKERS)


def texts(found: Any) -> list[tuple[str, float]]:
    return [(one.document.text, one.score) for one in found.results]


def test_rank(name: str) -> None:
    found = RANKERS[name]().rank(query=QUERY, docs=DOCUMENTS)
    check_texts(texts(found))
    check_texts([(one.document.text, one.score) for one in found.top_k(2)], 2)
    assert found.has_scores and [one.rank for one in found.results] == [1, 2, 3, 4]


def test_rank_documents(name: str) -> None:
    given = [Document(text, doc_id=f"d{place}", metadata={"place": place}) for place, text in enumerate(DOCUMENTS)]
    found = RANKERS[name]().rank(query=QUERY, docs=given)
    check_texts(texts(found))
    assert [one.document.doc_id for one in found.results] == [f"d{index}" for index, _ in expected()]


def test_ids(name: str) -> None:
    found = RANKERS[name]().rank(query=QUERY, docs=DOCUMENTS, doc_ids=[*"abcd"])
    assert found.results[0].document.doc_id == "b" and found.get_score_by_docid("b") == found.results[0].score


def test_score(name: str) -> None:
    assert abs(RANKERS[name]().score(QUERY, DOCUMENTS[1]) - dict(expected())[1]) < 2e-3
