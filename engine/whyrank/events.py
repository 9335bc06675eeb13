"""The events of `Reranker.stream`, in order: every score, the ranking, evidence as it is generated, the final ranking."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from whyrank.ranking import Ranking
from whyrank.types import RankedDocument

__all__ = ["Event", "EvidenceDelta", "EvidenceDone", "Finished", "Ranked", "Scored", "collect_ranking"]


@dataclass(frozen=True, slots=True)
class Scored:
    """One document's score, as soon as it is known; its rank is not known yet."""

    row: RankedDocument


@dataclass(frozen=True, slots=True)
class Ranked:
    """All scores, ordered. No evidence yet."""

    ranking: Ranking


@dataclass(frozen=True, slots=True)
class EvidenceDelta:
    """The next piece of text generated for the document with this index."""

    index: int
    part: Literal["contribution", "evidence"]
    text: str


@dataclass(frozen=True, slots=True)
class EvidenceDone:
    """The evidence of a document is finished; `row.evidence.finish` says how."""

    row: RankedDocument


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event: what `rerank` returns."""

    ranking: Ranking


Event = Scored | Ranked | EvidenceDelta | EvidenceDone | Finished


async def collect_ranking(events: AsyncGenerator[Event, None]) -> Ranking:
    async with aclosing(events):
        async for event in events:
            last = event
    assert isinstance(last, Finished)
    return last.ranking
