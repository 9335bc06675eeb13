"""Haystack: a ranker component, for pipelines or by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

from whyrank.adapters.base import BaseAdapter, framework
from whyrank.adapters.metadata import evidence_of, noted, unnoted
from whyrank.base import BaseReranker
from whyrank.client import Client
from whyrank.connect import API_KEY_VARIABLE
from whyrank.errors import InvalidRequest
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions
from whyrank.types import Document

with framework(extra="haystack"):
    from haystack import Document as HaystackDocument
    from haystack import component, default_from_dict, default_to_dict
    from haystack.utils import Secret

__all__ = ["WhyrankRanker"]


_KEY = Secret.from_env_var(API_KEY_VARIABLE, strict=False)


@component
class WhyrankRanker:
    """Documents ordered, best first, with score, contribution and evidence in their meta (see metadata.py).

        WhyrankRanker("http://localhost:8000", top_k=5, mode="evidence", replace_content=True)

    Options are those of `rerank`; top_k is its top_n. To load a saved pipeline that contains one, allow its module:
    Pipeline.load(file, allowed_modules=["whyrank.adapters.haystack"]).
    """

    def __init__(
        self,
        base_url: str | list[str] | None = None,
        api_key: Secret | None = _KEY,
        top_k: int | None = 10,
        replace_content: bool = False,
        timeout: float = 60.0,
        client: BaseReranker | Client | None = None,
        **options: Unpack[RerankOptions],
    ) -> None:
        if "top_n" in options:
            raise InvalidRequest("top_n is called top_k here, as in all of Haystack")
        settings: dict[str, Any] = {
            "base_url": base_url,
            "replace_content": replace_content,
            "timeout": timeout,
            **options,
        }
        key = api_key.resolve_value() if api_key else None
        self._written = settings | {"api_key": api_key, "top_k": top_k}
        self._adapter = BaseAdapter(**settings, api_key=key, top_n=top_k, client=client)

    def to_dict(self) -> dict[str, Any]:
        if self._adapter.client is not None:
            raise InvalidRequest("a component with a client cannot be serialised: give it base_url")
        return default_to_dict(self, **self._written)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> WhyrankRanker:
        return default_from_dict(cls, data)

    @component.output_types(documents=list[HaystackDocument])
    def run(
        self, query: str, documents: list[HaystackDocument], top_k: int | None = None
    ) -> dict[str, list[HaystackDocument]]:
        """`top_k`: for this run only."""
        if not documents:
            return {"documents": []}
        return self._ranked(documents, self._adapter.rerank_documents(query, _candidates(documents), top_n=top_k))

    @component.output_types(documents=list[HaystackDocument])
    async def run_async(
        self, query: str, documents: list[HaystackDocument], top_k: int | None = None
    ) -> dict[str, list[HaystackDocument]]:
        if not documents:
            return {"documents": []}
        return self._ranked(
            documents, await self._adapter.rerank_documents_async(query, _candidates(documents), top_n=top_k)
        )

    def close(self) -> None:
        self._adapter.close()

    def _ranked(self, documents: Sequence[HaystackDocument], ranking: Ranking) -> dict[str, list[HaystackDocument]]:
        ranked = []
        for row in ranking.results:
            document = documents[row.index]
            evidence = evidence_of(row) if self._adapter.replace_content else None
            content = document.content if evidence is None else evidence
            ranked.append(replace(document, content=content, score=row.score, meta=noted(document.meta, row)))
        return {"documents": ranked}


def _candidates(documents: Sequence[HaystackDocument]) -> list[Document]:
    return [_candidate(document, index) for index, document in enumerate(documents)]


def _candidate(document: HaystackDocument, index: int) -> Document:
    if document.content is None:
        raise InvalidRequest(f"documents[{index}] ({document.id}) has no content: only texts can be reranked")
    return Document(document.content, document.id, metadata=unnoted(document.meta))
