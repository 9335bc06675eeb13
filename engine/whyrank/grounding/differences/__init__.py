"""The differences between a sentence and its source: one function for each kind.

There is a difference only if the rest of the wording shows that the two places are about the same thing. What just might be one
is not looked for: a sentence without differences is not supported for that, but only by proof.
"""

from __future__ import annotations

from collections.abc import Iterator

from whyrank.grounding.differences.comparison import ENOUGH, NEARLY_ALL, Comparison, Difference
from whyrank.grounding.differences.insertions import inserted_words
from whyrank.grounding.differences.joins import cut_off, joins
from whyrank.grounding.differences.limits import conditions, cut_short, narrowing
from whyrank.grounding.differences.parts import meetings
from whyrank.grounding.differences.polarity import modals, negations
from whyrank.grounding.differences.roles import changed_sides, roles
from whyrank.grounding.differences.scope import degrees, opposites, orders, quantifiers
from whyrank.grounding.differences.values import lone_values, values

__all__ = ["ENOUGH", "Comparison", "Difference", "differences"]


def differences(comparison: Comparison) -> Iterator[Difference]:
    if comparison.share >= ENOUGH:
        yield from values(comparison)
        if comparison.is_marked:
            yield from negations(comparison)
            yield from modals(comparison)
            yield from quantifiers(comparison)
            yield from orders(comparison)
            yield from degrees(comparison)
        yield from opposites(comparison)
        yield from conditions(comparison)
        yield from narrowing(comparison)
        yield from cut_short(comparison)
        yield from roles(comparison)
        yield from joins(comparison)
        if comparison.share >= NEARLY_ALL:
            met = list(meetings(comparison))
            yield from changed_sides(comparison, met)
            yield from cut_off(comparison, met)
            yield from lone_values(comparison)
    yield from inserted_words(comparison)
