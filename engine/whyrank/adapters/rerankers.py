"""The rerankers library: its one interface to many rerankers, answered by whyrank."""

from __future__ import annotations

from typing import Any, TypeAlias

from whyrank.adapters.base import BaseAdapter, framework
from whyrank.adapters.metadata import evidence_of, noted, unnoted
from whyrank.ranking import Ranking
from whyrank.types import Document

with framework(extra="rerankers"):
    from rerankers.documents import Document as RerankersDocument
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result
    from rerankers.utils import prep_docs

__all__ = ["WhyrankRanker"]

Docs: TypeAlias = str | list[str] | RerankersDocument | list[RerankersDocument]
Ids: TypeAlias = list[str] | list[int] | None


class WhyrankRanker(BaseAdapter, BaseRanker):  # type: ignore[misc]  # which has no types
    """Results in order, best first, with score, contribution and evidence in their documents' metadata (see metadata.py).

    WhyrankRanker(base_url="http://localhost:8000", mode="evidence").rank(query, docs)
    """

    def rank(self, query: str, docs: Docs, doc_ids: Ids = None, metadata: list[dict[str, Any]] | None = None) -> Any:
        candidates = prep_docs(docs, doc_ids, metadata) if docs else []
        return self._results(
            query, candidates, self.rerank_documents(query, _texts(candidates)) if candidates else None
        )

    async def rank_async(
        self, query: str, docs: Docs, doc_ids: Ids = None, metadata: list[dict[str, Any]] | None = None
    ) -> Any:
        candidates = prep_docs(docs, doc_ids, metadata) if docs else []
        return self._results(
            query, candidates, await self.rerank_documents_async(query, _texts(candidates)) if candidates else None
        )

    def score(self, query: str, doc: str) -> float:
        ((score, _),) = self.numbers_of_pairs([(query, doc)])
        return score

    def _results(self, query: str, docs: list[RerankersDocument], ranking: Ranking | None) -> RankedResults:
        results = []
        for place, row in enumerate(ranking.results if ranking else (), 1):
            doc = docs[row.index]
            evidence = evidence_of(row) if self.replace_content else None
            text = doc.text if evidence is None else evidence
            document = RerankersDocument(text, doc.doc_id, noted(doc.metadata, row))
            results.append(Result(document, score=row.score, rank=place))
        return RankedResults(results, query, has_scores=True)


def _texts(docs: list[RerankersDocument]) -> list[Document]:
    return [Document(doc.text, metadata=unnoted(doc.metadata)) for doc in docs]
