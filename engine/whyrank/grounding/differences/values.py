"""Amounts, dates, times and code that the source lacks, or has for something else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

from whyrank.grounding.differences.comparison import Comparison, Difference, between
from whyrank.grounding.scan import squeezed
from whyrank.grounding.tokens import Token
from whyrank.grounding.values import Amount, Dates, Time, Value
from whyrank.types import DifferenceKind

__all__ = ["lone_values", "values"]


def values(comparison: Comparison) -> Iterator[Difference]:
    for mine, token in enumerate(comparison.tokens):
        if comparison.alignment.places[mine] is not None or token.kind == "word":
            continue
        in_words = not any(map(str.isdigit, comparison.text[token.start : token.end]))
        if comparison.is_topic(token) or (token.kind == "code" and _is_quoted_code(comparison, token)):
            continue
        gap = [comparison.alignment.sources.tokens[place] for place in comparison.gap(mine)]
        free = [
            other
            for place, other in enumerate(comparison.alignment.sources.tokens)
            if place not in comparison.alignment.used and _comparable(token, other)
        ]
        counterpart = next((other for other in gap if _comparable(token, other)), None) or next(iter(free), None)
        if _is_one(token) and in_words and (not _has_unit(token) or not (counterpart in gap and _is_one(counterpart))):
            continue  # "one" may be a pronoun, and "annual" is "a year"
        certain = counterpart in gap or not comparison.is_known(token)
        if certain and not _is_in_slot(token, counterpart, gap):
            certain = (
                token.kind != "ordinal" and not _is_fraction(token.value) and not _is_computed(token.value, comparison)
            )
        if certain:
            yield between(_kind_of(token, counterpart), token, counterpart)


def _is_in_slot(token: Token, counterpart: Token | None, gap: list[Token]) -> bool:
    """Whether the source has exactly one other token in this place, a value of the same kind."""
    if counterpart is None or len(gap) != 1 or gap[0] is not counterpart:
        return False
    mine, other = token.value, counterpart.value
    return not (isinstance(mine, Amount) and isinstance(other, Amount)) or mine.dimension == other.dimension


def _is_fraction(value: Value | None) -> bool:
    """A half or a third is said of many things."""
    return isinstance(value, Amount) and value.unit is None and 0 < value.plain[0] < 1


def _is_one(token: Token | None) -> bool:
    return token is not None and isinstance(token.value, Amount) and token.value.plain == (1.0,)


def _has_unit(token: Token) -> bool:
    return isinstance(token.value, Amount) and token.value.unit is not None


def _is_quoted_code(comparison: Comparison, token: Token) -> bool:
    """Code that the source has without marks around it."""
    tokens = comparison.alignment.sources.tokens
    return bool(tokens) and token.key in squeezed(comparison.document[tokens[0].start : tokens[-1].end + 80].lower())


def _comparable(token: Token, other: Token) -> bool:
    if token.kind == other.kind or {token.kind, other.kind} <= {"amount", "date"}:
        return True
    return {token.kind, other.kind} <= {"amount", "time"}


def _kind_of(token: Token, other: Token | None) -> DifferenceKind:
    if token.kind == "code":
        return "code"
    if token.kind in ("date", "time"):
        return "date"
    if other is None or not (isinstance(token.value, Amount) and isinstance(other.value, Amount)):
        return "number"
    return "number" if set(token.value.plain).isdisjoint(other.value.plain) else "unit"


def _is_computed(value: Value | None, comparison: Comparison) -> bool:
    """From two values of the document: a sum or difference, a share, the time from one to the other."""
    if isinstance(value, Dates) or value is None:
        return False
    values = comparison.values()
    times = sorted({minute for other in values if isinstance(other, Time) for minute in other.minutes})
    amounts = [other for other in values if isinstance(other, Amount)]
    spans = [other.values[0] / 60 for other in amounts if other.dimension == "time"]
    if isinstance(value, Time):
        return any(
            value.minutes & {round(time - span) % 1440, round(time + span) % 1440} for time in times for span in spans
        )
    if value.dimension == "time" and any(value.values[0] == 60 * (late - early) for early in times for late in times):
        return True
    wanted = value.values[0]
    for one, other in combinations(amounts, 2):
        if one.dimension == other.dimension and one.dimension in (value.dimension, None):
            larger, smaller = sorted((one.values[0], other.values[0]), reverse=True)
            if wanted in (larger + smaller, larger - smaller) and smaller:
                return True
        times_many = [
            (many, much)
            for many, much in ((one, other), (other, one))
            if many.unit is None and much.dimension == value.dimension
        ]
        if any(
            math.isclose(wanted, many.plain[0] * much.values[0]) for many, much in times_many if 1 < many.plain[0] < 100
        ):
            return True
            if (
                value.dimension in (None, "share")
                and 0 < wanted < 1
                and larger
                and math.isclose(wanted, smaller / larger, rel_tol=0.02)
            ):
                return True
    return False


def lone_values(comparison: Comparison) -> Iterator[Difference]:
    """A value whose source sentence has nothing else in common with the value's clause."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    if comparison.ordered_share < 0.7 or not any(token.value for token in comparison.tokens):
        return
    for clause in alignment.reading.clauses:
        placed = [(mine, place) for mine in clause.tokens if (place := alignment.places[mine]) is not None]
        homes = [sources.sentence_of[place] for _, place in placed]
        for (mine, _), home in zip(placed, homes, strict=True):
            token = comparison.tokens[mine]
            if token.value is None or len(homes) < 3 or homes.count(home) > 1:
                continue
            others = [at for at, _ in placed if at != mine and not comparison.is_topic(comparison.tokens[at])]
            if others and any(
                sources.sentence_of[at] in homes
                and sources.sentence_of[at] != home
                and at not in alignment.used
                and (other.value is not None or other.kind == "code")
                for at, other in enumerate(sources.tokens)
            ):
                yield Difference("joined", token.start, token.end)
