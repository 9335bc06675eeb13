"""Spans by score: the sentences of the chosen documents, scored like documents of their own. No text is generated, so every
route can do it, classifiers and encoders included.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from whyrank.errors import EngineDead, EnginePaused
from whyrank.events import EvidenceDone
from whyrank.grounding.words import is_unspaced, sentences
from whyrank.pipeline.deadline import Deadline
from whyrank.pipeline.request_state import RequestState
from whyrank.pipeline.scorer import Scorer
from whyrank.pipeline.sentences import most_relevant
from whyrank.prompting.scoring import ScoreRule
from whyrank.request import RerankRequest
from whyrank.types import Document, RankedDocument, ScoredSpan, Usage

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
        chosen = state.chosen()
        places: list[tuple[int, int, int]] = []
        limited: set[int] = set()
        documents: list[Document] = []
        for row in chosen:
            parts = passages(row.document)
            texts = [row.document.content[start:end] for start, end in parts]
            kept = most_relevant(texts, self._request.query, _MAX_PASSAGES)
            if len(kept) < len(parts):
                limited.add(row.index)
            places += [(row.index, *parts[i]) for i in kept]
            documents += [replace(row.document, text=texts[i], id=None) for i in kept]
        scores = await self._scores(documents, deadline) if documents else {}
        for row in chosen:
            spans = [
                ScoredSpan(start, end, scored.score)
                for place, (index, start, end) in enumerate(places)
                if index == row.index and (scored := scores.get(place)) is not None and scored.score is not None
            ]
            best = sorted(spans, key=lambda span: -span.score)
            wanted = [span for span in best if span.score >= self._request.span_min_score]
            yield EvidenceDone(
                state.add_spans(row.index, tuple(wanted[: self._request.max_spans]), row.index in limited)
            )

    async def _scores(self, documents: Sequence[Document], deadline: Deadline) -> dict[int, RankedDocument]:
        """By place; without those that failed or came too late."""
        request = replace(
            self._request,
            documents=tuple(documents),
            mode="score",
            top_n=None,
            min_score=None,
            truncation="tail",
            max_tokens_per_doc=None,
        )
        scorer, state = self._make_scorer(request), RequestState(request, self._rule)
        rows: dict[int, RankedDocument] = {}
        try:
            async with aclosing(scorer.read(state, deadline)) as scored:
                async for row in scored:
                    rows[row.index] = row
        except (EngineDead, EnginePaused):
            pass  # the documents have their scores: what is missing are spans
        self.usage = state.usage() + scorer.warm_usage
        return rows


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
