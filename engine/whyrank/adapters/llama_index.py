"""LlamaIndex: a node postprocessor, for query engines or by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whyrank.adapters.base import BaseAdapter, framework
from whyrank.adapters.metadata import KEYS, evidence_of, noted, unnoted
from whyrank.errors import InvalidRequest
from whyrank.ranking import Ranking
from whyrank.types import Document, RankedDocument

with framework(extra="llama-index"):
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle

__all__ = ["WhyrankPostprocessor"]


class WhyrankPostprocessor(BaseAdapter, BaseNodePostprocessor):
    """Nodes ordered, best first, with score, contribution and evidence in their metadata (see metadata.py).

        WhyrankPostprocessor(base_url="http://localhost:8000", mode="evidence", top_n=5, replace_content=True)

    The model reads what an embedding model would: content, and the metadata that the node does not exclude. The metadata that
    we add are excluded for embedding and LLM; otherwise the LLM would get evidence and document at once.
    """

    @classmethod
    def class_name(cls) -> str:
        return "WhyrankPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        return self._reranked(nodes, self.rerank_documents(query, _candidates(nodes))) if nodes else []

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        return self._reranked(nodes, await self.rerank_documents_async(query, _candidates(nodes))) if nodes else []

    def _reranked(self, nodes: Sequence[NodeWithScore], ranking: Ranking) -> list[NodeWithScore]:
        return [NodeWithScore(node=self._noted(nodes[row.index].node, row), score=row.score) for row in ranking.results]

    def _noted(self, node: BaseNode, row: RankedDocument) -> BaseNode:
        update: dict[str, Any] = {"metadata": noted(node.metadata, row)}
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys"):
            update[name] = list(dict.fromkeys([*getattr(node, name), *KEYS]))
        copy = node.model_copy(update=update)
        if self.replace_content and (evidence := evidence_of(row)):
            copy.set_content(evidence)
        return copy


def _query(bundle: QueryBundle | None) -> str:
    if bundle is None:
        raise InvalidRequest("there is no query: give query_bundle or query_str")
    return bundle.query_str


def _candidates(nodes: Sequence[NodeWithScore]) -> list[Document]:
    return [
        Document(one.node.get_content(MetadataMode.EMBED), one.node.node_id, metadata=unnoted(one.node.metadata))
        for one in nodes
    ]
