"""EmbedAnything: its Reranker, answered by an engine in this process. Code written for it runs with only the import changed.

from whyrank.adapters.embed_anything import Dtype, Reranker

reranker = Reranker.from_pretrained("zhiqing/Qwen3-Reranker-0.6B-ONNX", dtype=Dtype.F32)
results = reranker.rerank(["What is machine learning?"], documents, top_k=2)
"""

from __future__ import annotations

import logging
import re
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

from whyrank.adapters.base import numbers_of
from whyrank.base import BaseReranker
from whyrank.connect import RerankerContext, open_reranker
from whyrank.errors import InvalidRequest
from whyrank.loop_thread import LoopThread
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest

__all__ = ["DocumentRank", "Dtype", "Reranker", "RerankerResult"]

_log = logging.getLogger(__name__)

# EmbedAnything's guide says to put this around the texts of Qwen3-Reranker. Here the prompt format does that.
_FORMATTED_QUERY = re.compile(r"<Instruct>: (?P<instruction>.*?)\n<Query>: (?P<query>.*?)\n?", re.DOTALL)
_FORMATTED_DOCUMENT = re.compile(r"<Document>: (?P<document>.*)", re.DOTALL)


class Dtype(Enum):
    F32 = "float32"
    F16 = "float16"
    BF16 = "bfloat16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class DocumentRank:
    document: str
    relevance_score: float
    """From 0 to 1."""
    rank: int
    """1 is the best."""


@dataclass(frozen=True, slots=True)
class RerankerResult:
    query: str
    documents: list[DocumentRank]


class Reranker:
    """Methods block until there are results. They work in any thread and in notebooks, because the engine's event loop has its
    own thread. The engine ends with the object, or with `close`."""

    def __init__(self, opened: RerankerContext) -> None:
        self._thread = LoopThread("whyrank-embed-anything")
        try:
            self._reranker: BaseReranker = self._thread.wait(opened.__aenter__())
        except BaseException:
            self._thread.stop()
            raise
        self.close = weakref.finalize(self, _end, self._thread, opened)
        # atexit would be too late: by then no thread pool takes work, which ending an engine needs.
        self.close.atexit = False
        threading._register_atexit(self.close)  # type: ignore[attr-defined]

    @classmethod
    def from_pretrained(
        cls,
        model_id: str,
        revision: str | None = None,
        dtype: Dtype | None = None,
        path_in_repo: str | None = None,
        **options: Any,
    ) -> Self:
        """`options`: further options of EngineConfig, such as kv_cache_gib. vLLM cannot load ONNX: if the name ends in -ONNX,
        the model without that ending is loaded."""
        if dtype is Dtype.INT8:
            raise InvalidRequest(
                f"dtype is INT8: write an int8 checkpoint with `whyrank quantize {model_id} OUT`, and name that"
            )
        source = re.sub(r"-ONNX$", "", model_id, flags=re.IGNORECASE)
        if source != model_id:
            _log.warning("%s is an ONNX export: loading %s", model_id, source)
        elif path_in_repo is not None:
            raise InvalidRequest(
                f"path_in_repo is {path_in_repo!r}: name a repository or folder with the checkpoint at its top"
            )
        given = {"revision": revision, "dtype": dtype and dtype.value, **options}
        return cls(open_reranker(source, (), None, {name: value for name, value in given.items() if value is not None}))

    def rerank(self, query: Sequence[str], documents: Sequence[str], top_k: int) -> list[RerankerResult]:
        """The best `top_k` documents for each query."""
        results = []
        for text, ranking in zip(query, self._rankings(query, documents, top_k), strict=True):
            rows = [(documents[row.index], numbers_of(row, f"documents[{row.index}]")[0]) for row in ranking.results]
            ranks = [DocumentRank(document, score, rank) for rank, (document, score) in enumerate(rows, 1)]
            results.append(RerankerResult(text, ranks))
        return results

    def compute_scores(
        self, query: Sequence[str], documents: Sequence[str], batch_size: int | None = None
    ) -> list[list[float]]:
        """One score from 0 to 1 per document for each query, in order. `batch_size` has no effect: the engine batches."""
        rankings = self._rankings(query, documents, None)
        in_order = [sorted(ranking.results, key=lambda row: row.index) for ranking in rankings]
        return [[numbers_of(row, f"documents[{row.index}]")[0] for row in rows] for rows in in_order]

    def _rankings(self, query: Sequence[str], documents: Sequence[str], top_n: int | None) -> list[Ranking]:
        for name, texts in (("query", query), ("documents", documents)):
            if isinstance(texts, str):
                raise InvalidRequest(f"{name} is {texts!r:.60}: give a list of strings")
        bare = [_bare_document(document) for document in documents]
        requests = [_request(text, f"query[{place}]", bare, top_n) for place, text in enumerate(query)]
        answers = self._thread.wait(self._reranker.rerank_many(requests))
        rankings = [answer for answer in answers if isinstance(answer, Ranking)]
        for error in answers:
            if not isinstance(error, Ranking):
                raise error
        return rankings


def _request(text: str, where: str, documents: Sequence[str], top_n: int | None) -> RerankRequest:
    if not isinstance(text, str):
        raise InvalidRequest(f"{where} is {text!r:.60}: give a string")
    formatted = _FORMATTED_QUERY.fullmatch(text)
    query, instruction = (formatted["query"], formatted["instruction"]) if formatted else (text, None)
    return RerankRequest.of(query, documents, instruction=instruction, top_n=top_n)


def _bare_document(text: str) -> str:
    formatted = isinstance(text, str) and _FORMATTED_DOCUMENT.fullmatch(text)
    return formatted["document"] if formatted else text


def _end(thread: LoopThread, opened: RerankerContext) -> None:
    try:
        thread.wait(opened.__aexit__(None, None, None))
    finally:
        thread.stop()
