"""Which sentences of a document are looked at, where it has more than can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log

from whyrank.grounding.words import content_keys, folded_words

__all__ = ["most_relevant"]


def most_relevant(texts: Sequence[str], query: str, count: int) -> list[int]:
    """The places of so many of these texts, in order: those that share most with the query, rare words first; of equals the
    earlier ones."""
    if len(texts) <= count:
        return list(range(len(texts)))
    wanted = set(content_keys(folded_words(query)))
    keys = [set(content_keys(folded_words(text))) & wanted for text in texts]
    frequency = Counter(key for of_one in keys for key in of_one)
    weights = [sum(log(1 + len(texts) / frequency[key]) for key in of_one) for of_one in keys]
    return sorted(sorted(range(len(texts)), key=lambda i: -weights[i])[:count])
