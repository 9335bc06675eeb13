"""Spans by score: the sentences of the chosen documents, scored like documents of their own. No text is generated, so every
route can do it, classifiers and encoders included.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from whyrank.errors import EngineDead, EnginePaused
from whyrank.events import EvidenceDone
from whyrank.fan_out import in_thread
from whyrank.grounding.words import is_unspaced, sentences
from whyrank.pipeline.deadline import Deadline
from whyrank.pipeline.request_state import RequestState
from whyrank.pipeline.scorer import Scorer
from whyrank.pipeline.sentences import most_relevant
from whyrank.prompting.scoring import ScoreRule
from whyrank.request import RerankRequest
from whyrank.types import Document, ScoredSpan, Usage

__all__ = ["SpanFinder", "passages"]

# A passage grows sentence by sentence until it has so many characters: a few dozen tokens, enough to be understood alone.
_MIN_CHARACTERS, _MIN_CHARACTERS_UNSPACED = 80, 24
# Of one document. Each is a prompt of its own.
_MAX_PASSAGES = 64


class SpanFinder:
    def __init__(self, request: RerankRequest, rule: ScoreRule, make_scorer: Callable[[RerankRequest], Scorer]) -> None:
        self._request, self._rule, self._make_scorer = request, rule, make_scorer
        self.usage = Usage()

    async def explain(self, state: RequestState, deadline: Deadline) -> AsyncGenerator[EvidenceDone, None]:
        """One event for every chosen document, in their order, all when all passages are scored."""
        request, chosen = self._request, state.chosen()
        # In a thread, because documents may be long.
        passages = await in_thread(self._most_relevant_passages, [row.document for row in chosen])
        documents = [
            replace(row.document, text=row.document.content[start:end], id=None)
            for row, (places, _) in zip(chosen, passages, strict=True)
            for start, end in places
        ]
        scores = iter(await self._scores(documents, deadline))
        for row, (places, limited) in zip(chosen, passages, strict=True):
            spans = [
                ScoredSpan(start, end, score)
                for (start, end), score in zip(places, scores, strict=False)  # the next of them are the next document's
                if score is not None and score >= request.span_min_score
            ]
            best = sorted(spans, key=lambda span: -span.score)[: request.max_spans]
            yield EvidenceDone(state.add_spans(row.index, tuple(best), limited))

    def _most_relevant_passages(self, document: Document) -> tuple[list[tuple[int, int]], bool]:
        """The positions of the passages, and whether there are more than these."""
        places = passages(document)
        texts = [document.content[start:end] for start, end in places]
        kept = most_relevant(texts, self._request.query, _MAX_PASSAGES)
        return [places[i] for i in kept], len(kept) < len(places)

    async def _scores(self, documents: Sequence[Document], deadline: Deadline) -> list[float | None]:
        """In the order of the documents; None for one that failed or came too late."""
        request = replace(self._request.to_score(documents), truncation="tail", max_tokens_per_doc=None)
        scorer, state = self._make_scorer(request), RequestState(request, self._rule)
        try:
            async with aclosing(scorer.read(state, deadline)) as scored:
                async for _ in scored:
                    pass
        except (EngineDead, EnginePaused):
            pass  # the documents have their scores; only their spans are missing
        self.usage = state.usage() + scorer.warm_usage
        return [row.score for row in sorted(state.results(), key=lambda row: row.index)]


def passages(document: Document) -> list[tuple[int, int]]:
    """The document's sentences, short ones together with those after them, as places in its content. The title is none."""
    text, origin = document.text, len(document.content) - len(document.text)
    places: list[tuple[int, int]] = []
    begun: int | None = None
    for start, end in sentences(text):
        begun = start if begun is None else begun
        enough = _MIN_CHARACTERS_UNSPACED if is_unspaced(text[begun]) else _MIN_CHARACTERS
        if end - begun >= enough:
            places.append((origin + begun, origin + end))
            begun = None
        last = end
    if begun is not None:
        if places and last - begun < _MIN_CHARACTERS_UNSPACED:  # a short end belongs to what it follows
            places[-1] = (places[-1][0], origin + last)
        else:
            places.append((origin + begun, origin + last))
    return places
