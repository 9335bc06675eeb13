# /// script
# dependencies = ["langchain-tests", "langchain-classic", "whyrank[langchain]"]
# [tool.conformance]
# works-with = ["langchain-tests", "langchain-classic"]
# ///
"""LangChain's standard tests of retrievers, for whyrank's compressor in LangChain's ContextualCompressionRetriever."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

from served import DOCUMENTS, QUERY, SERVED, check_texts
from whyrank.adapters.langchain import WhyrankCompressor


class Shelf(BaseRetriever):
    """All it has, or the first `k`, as stores of vectors give them."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any, k: int | None = None) -> list[Document]:
        return [Document(text) for text in DOCUMENTS][:k]


class BestFew(ContextualCompressionRetriever):
    """The `k` best of a shelf: how many is for the compressor to say, or for the call."""

    def __init__(self, k: int | None = None, **options: Any) -> None:
        compressor = WhyrankCompressor(base_url=SERVED.url, api_key=SERVED.key, top_n=k, **options)
        super().__init__(base_compressor=compressor, base_retriever=Shelf())


class TestRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return BestFew

    @property
    def retriever_query_example(self) -> str:
        return QUERY


class TestSpans(TestRetriever):
    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"mode": "spans"}


class TestBare(RetrieversIntegrationTests):
    """As their class is, which has no parameter for the number of results."""

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return ContextualCompressionRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        compressor = WhyrankCompressor(base_url=SERVED.url, api_key=SERVED.key)
        return {"base_compressor": compressor, "base_retriever": Shelf()}

    @property
    def retriever_query_example(self) -> str:
        return QUERY


@pytest.mark.parametrize("k", [None, 1, 3])
async def test_what_it_gives(k: int | None) -> None:
    retriever = BestFew(k=k)
    for found in (retriever.invoke(QUERY), await retriever.ainvoke(QUERY)):
        check_texts([(one.page_content, one.metadata["relevance_score"]) for one in found], k or 4)


async def test_batches_and_events() -> None:
    retriever = BestFew(k=1)
    for (best,) in (*retriever.batch([QUERY, QUERY]), *await retriever.abatch([QUERY])):
        assert best.page_content == DOCUMENTS[1]
    events = [one["event"] async for one in retriever.astream_events(QUERY, version="v2")]
    assert events[0] == "on_retriever_start" and events[-1] == "on_retriever_end"
