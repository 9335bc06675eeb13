"""LangChain: a document compressor, for ContextualCompressionRetriever or by itself."""

from __future__ import annotations

from collections.abc import Sequence

from whyrank.adapters.base import BaseAdapter, framework
from whyrank.adapters.metadata import evidence_of, noted, unnoted
from whyrank.ranking import Ranking
from whyrank.types import Document

with framework(extra="langchain"):
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor
    from langchain_core.documents import Document as LangChainDocument

__all__ = ["WhyrankCompressor"]


class WhyrankCompressor(BaseAdapter, BaseDocumentCompressor):
    """Documents ordered, best first, with score, contribution and evidence in their metadata (see metadata.py).

    WhyrankCompressor(base_url="http://localhost:8000", mode="evidence", top_n=5, replace_content=True)
    """

    def compress_documents(
        self, documents: Sequence[LangChainDocument], query: str, callbacks: Callbacks | None = None
    ) -> list[LangChainDocument]:
        if not documents:
            return []
        return self._compressed(documents, self.rerank_documents(query, _candidates(documents)))

    async def acompress_documents(
        self, documents: Sequence[LangChainDocument], query: str, callbacks: Callbacks | None = None
    ) -> list[LangChainDocument]:
        if not documents:
            return []
        return self._compressed(documents, await self.rerank_documents_async(query, _candidates(documents)))

    def _compressed(self, documents: Sequence[LangChainDocument], ranking: Ranking) -> list[LangChainDocument]:
        compressed = []
        for row in ranking.results:
            document = documents[row.index]
            evidence = evidence_of(row) if self.replace_content else None
            content = document.page_content if evidence is None else evidence
            update = {"page_content": content, "metadata": noted(document.metadata, row)}
            compressed.append(document.model_copy(update=update))
        return compressed


def _candidates(documents: Sequence[LangChainDocument]) -> list[Document]:
    return [Document(document.page_content, document.id, metadata=unnoted(document.metadata)) for document in documents]
