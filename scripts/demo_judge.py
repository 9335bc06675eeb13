"""Runs the embedded model for its exams, and plain word counting to compare it with."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from whyrank import Reranker
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.types import RankedDocument

__all__ = ["Bm25", "Judge", "Pair"]

Pair = tuple[str, str]


class Judge:
    """Takes pairs, and returns what whyrank says of them, in the same order."""

    def __init__(self, reranker: Reranker) -> None:
        self._reranker = reranker

    async def margins(self, pairs: Sequence[Pair]) -> list[float]:
        """logit(yes) - logit(no) for each pair."""
        return [row.margin for row in await self.rows(pairs, mode="score") if row.margin is not None]

    async def rows(self, pairs: Sequence[Pair], **options: Any) -> list[RankedDocument]:
        by_query: dict[str, dict[str, None]] = {}
        for query, document in pairs:
            by_query.setdefault(query, {})[document] = None
        answers = await self._reranker.rerank_many(
            RerankRequest.of(query, list(texts), evidence_top_n=len(texts), evidence_min_score=0.0, **options)
            for query, texts in by_query.items()
        )
        rows: dict[Pair, RankedDocument] = {}
        for query, answer in zip(by_query, answers, strict=True):
            if not isinstance(answer, Ranking):
                raise answer
            rows |= {(query, row.document.text): row for row in answer.results}
        return [rows[pair] for pair in pairs]


class Bm25:
    """Lucene's formula, over lowercased words and single Chinese characters."""

    def __init__(self, documents: Iterable[str]) -> None:
        counts = [Counter(self.words(text)) for text in documents]
        self._total = len(counts)
        self._mean = sum(count.total() for count in counts) / len(counts)
        self._holding = Counter(word for count in counts for word in count)

    @staticmethod
    def words(text: str) -> list[str]:
        return re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+", text.lower())

    def score(self, query: str, document: str) -> float:
        count = Counter(self.words(document))
        length = 1.2 * (0.25 + 0.75 * count.total() / self._mean)
        return sum(self._idf(word) * count[word] / (count[word] + length) for word in self.words(query))

    def _idf(self, word: str) -> float:
        holding = self._holding[word]
        return math.log(1 + (self._total - holding + 0.5) / (holding + 0.5))
