# /// script
# dependencies = ["langchain-cohere", "langchain-voyageai", "langchain-community", "langchain-reranker", "infinity-client"]
# [tool.conformance]
# works-with = ["langchain-cohere", "langchain-voyageai", "langchain-community", "langchain-reranker"]
# ///
"""LangChain's document compressors for the services whose API whyrank speaks, alone and behind a retriever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from infinity_client.client import Client
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_cohere import CohereRerank
from langchain_community.document_compressors import InfinityRerank, JinaRerank
from langchain_community.document_compressors import jina_rerank as jina_module
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_reranker.rerankers import BaseReranker, init_reranker
from langchain_voyageai import VoyageAIRerank

from served import DOCUMENTS, QUERY, SERVED, check_texts


def cohere(top: int | None, mount: str = "") -> CohereRerank:
    return CohereRerank(base_url=SERVED.url + mount, cohere_api_key=SERVED.key, model="rerank-v3.5", top_n=top)


def voyage(top: int | None, mount: str = "/v1") -> VoyageAIRerank:
    return VoyageAIRerank(base_url=SERVED.url + mount, api_key=SERVED.key, model="rerank-2.5", top_k=top)


def jina(top: int | None, mount: str = "/v1") -> JinaRerank:
    jina_module.JINA_API_URL = f"{SERVED.url}{mount}/rerank"  # it has no other way of being told
    return JinaRerank(jina_api_key=SERVED.key, top_n=top)


def infinity(top: int | None) -> InfinityRerank:
    # It takes no AuthenticatedClient.
    client = Client(base_url=f"{SERVED.url}/infinity", headers={"Authorization": f"Bearer {SERVED.key}"})
    return InfinityRerank(client=client, model="demo", top_n=top)


def custom(top: int | None, mount: str = "/v1") -> BaseReranker:
    return init_reranker("custom:demo", base_url=SERVED.url + mount, api_key=SERVED.key, top_n=top)


COMPRESSORS: dict[str, Callable[[int | None], BaseDocumentCompressor]] = {
    "cohere": cohere,
    "cohere at /cohere": lambda top: cohere(top, "/cohere"),
    "voyage": voyage,
    "voyage at /voyage/v1": lambda top: voyage(top, "/voyage/v1"),
    "jina": jina,
    "jina at /jina/v1": lambda top: jina(top, "/jina/v1"),
    "infinity": infinity,
    "custom": custom,
    "custom at /jina/v1": lambda top: custom(top, "/jina/v1"),
}
pytestmark = pytest.mark.parametrize("name", COMPRESSORS)


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(text, metadata={"place": place}) for place, text in enumerate(DOCUMENTS)]


def texts(documents: list[Document]) -> list[tuple[str, float]]:
    assert all(one.metadata["place"] == DOCUMENTS.index(one.page_content) for one in documents)
    return [(one.page_content, one.metadata["relevance_score"]) for one in documents]


@pytest.mark.parametrize("top", [None, 1, 3])
def test_compress(name: str, top: int | None) -> None:
    given = Shelf().invoke(QUERY)
    check_texts(texts(COMPRESSORS[name](top).compress_documents(given, QUERY)), top or 4)


async def test_acompress(name: str) -> None:
    given = Shelf().invoke(QUERY)
    check_texts(texts(await COMPRESSORS[name](2).acompress_documents(given, QUERY)), 2)


def test_nothing_to_compress(name: str) -> None:
    assert list(COMPRESSORS[name](2).compress_documents([], QUERY)) == []


async def test_behind_a_retriever(name: str) -> None:
    retriever = ContextualCompressionRetriever(base_compressor=COMPRESSORS[name](2), base_retriever=Shelf())
    check_texts(texts(retriever.invoke(QUERY)), 2)
    check_texts(texts(await retriever.ainvoke(QUERY)), 2)
