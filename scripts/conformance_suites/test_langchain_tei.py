# /// script
# dependencies = ["langchain-dartmouth", "langchain-classic"]
# [tool.conformance]
# works-with = ["langchain-dartmouth"]
# ///
"""LangChain's document compressor for TEI, alone and behind a retriever: it gives the best documents without their scores.

LangChain's own packages have none: langchain-huggingface asks TEI for embeddings only, and langchain-community loads cross
encoders into its own process.
"""

from __future__ import annotations

from typing import Any

import pytest
import requests
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_dartmouth.cross_encoders import TextEmbeddingInferenceClient
from langchain_dartmouth.retrievers.document_compressors import TeiCrossEncoderReranker

from served import DOCUMENTS, QUERY, SERVED, check, expected

pytestmark = pytest.mark.parametrize("mount", ["", "/tei"])


def client(mount: str, key: str = SERVED.key) -> TextEmbeddingInferenceClient:
    return TextEmbeddingInferenceClient(f"{SERVED.url}{mount}/", headers={"Authorization": f"Bearer {key}"})


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(text) for text in DOCUMENTS]


def best(top: int) -> list[str]:
    return [DOCUMENTS[index] for index, _ in expected()][:top]


def test_scores(mount: str) -> None:
    scores = client(mount).rerank(QUERY, DOCUMENTS)
    check(sorted(enumerate(scores), key=lambda pair: -pair[1]))


@pytest.mark.parametrize("top", [1, 3, 10])
def test_compress(mount: str, top: int) -> None:
    compressor = TeiCrossEncoderReranker(client=client(mount), top_n=top)
    found = compressor.compress_documents(Shelf().invoke(QUERY), QUERY)
    assert [one.page_content for one in found] == best(top)


async def test_behind_a_retriever(mount: str) -> None:
    compressor = TeiCrossEncoderReranker(client=client(mount), top_n=2)
    retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=Shelf())
    for found in (retriever.invoke(QUERY), await retriever.ainvoke(QUERY)):
        assert [one.page_content for one in found] == best(2)


def test_a_wrong_key(mount: str) -> None:
    if SERVED.is_open:
        assert len(client(mount, "wrong").rerank(QUERY, DOCUMENTS)) == len(DOCUMENTS)
        return
    with pytest.raises(requests.HTTPError, match="401"):
        client(mount, "wrong").rerank(QUERY, DOCUMENTS)
