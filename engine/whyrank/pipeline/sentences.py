"""Chooses the sentences to look at in a document that has too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log

from whyrank.grounding.words import content_keys, folded_words

__all__ = ["most_relevant"]


def most_relevant(texts: Sequence[str], query: str, count: int) -> list[int]:
    """The positions of `count` of these texts, in order: those that share most words with the query, rare words counting more;
    of equal ones the earlier."""
    if len(texts) <= count:
        return list(range(len(texts)))
    wanted = set(content_keys(folded_words(query)))
    keys = [set(content_keys(folded_words(text))) & wanted for text in texts]
    frequency = Counter(key for of_one in keys for key in of_one)
    weights = [sum(log(1 + len(texts) / frequency[key]) for key in of_one) for of_one in keys]
    return sorted(sorted(range(len(texts)), key=lambda i: -weights[i])[:count])
