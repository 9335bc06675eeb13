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

__all__ = ["lone_values", "misplaced_values", "unknown_units", "values"]


def values(comparison: Comparison) -> Iterator[Difference]:
    for mine, token in enumerate(comparison.tokens):
        if isinstance(token.value, Dates) and _adds_year(token.value, comparison.source(mine), comparison.document):
            yield between("date", token, comparison.source(mine), False)
        if comparison.alignment.places[mine] is not None or token.kind == "word":
            continue
        if isinstance(token.value, Amount) and token.value.plain == (1.0,) and token.value.unit is None:
            continue  # "one" may be a pronoun
        if comparison.is_topic(token) or (token.kind == "code" and _is_quoted_code(comparison, token)):
            continue
        gap = [comparison.alignment.sources.tokens[place] for place in comparison.gap(mine)]
        free = [
            other
            for place, other in enumerate(comparison.alignment.sources.tokens)
            if place not in comparison.alignment.used and _comparable(token, other)
        ]
        counterpart = next((other for other in gap if _comparable(token, other)), None) or next(iter(free), None)
        known = comparison.is_known(token)
        kind = _kind_of(token, counterpart)
        certain = counterpart in gap or not known
        if certain and not _is_in_slot(token, counterpart, gap):
            certain = (
                token.kind != "ordinal" and not _is_fraction(token.value) and not _is_computed(token.value, comparison)
            )
        written = comparison.text[token.start : token.end]
        if _is_one(token) and not any(map(str.isdigit, written)) and not (counterpart in gap and _is_one(counterpart)):
            certain = False  # "annual" is "a year"
        yield between(kind, token, counterpart, certain)


def _is_in_slot(token: Token, counterpart: Token | None, gap: list[Token]) -> bool:
    """Whether the source has exactly one other token in this place, a value of the same kind."""
    if counterpart is None or len(gap) != 1 or gap[0] is not counterpart:
        return False
    mine, other = token.value, counterpart.value
    return not (isinstance(mine, Amount) and isinstance(other, Amount)) or mine.dimension == other.dimension


def _adds_year(dates: Dates, source: Token | None, document: str) -> bool:
    if source is None or not isinstance(source.value, Dates):
        return False
    years = [date[0] for date in dates.readings if date[0]]
    return not any(date[0] for date in source.value.readings) and not all(str(year) in document for year in years)


def _is_fraction(value: Value | None) -> bool:
    """A half or a third is said of many things."""
    return isinstance(value, Amount) and value.unit is None and 0 < value.plain[0] < 1


def _is_one(token: Token | None) -> bool:
    return token is not None and isinstance(token.value, Amount) and token.value.plain == (1.0,)


def _is_quoted_code(comparison: Comparison, token: Token) -> bool:
    """Code that the source has without marks around it."""
    tokens = comparison.alignment.sources.tokens
    return bool(tokens) and token.key in squeezed(comparison.document[tokens[0].start : tokens[-1].end + 80].lower())


def _comparable(token: Token, other: Token) -> bool:
    if token.kind == other.kind or {token.kind, other.kind} <= {"amount", "date"}:
        return True
    return {token.kind, other.kind} <= {"amount", "time"}


def unknown_units(comparison: Comparison) -> Iterator[Difference]:
    """22 metres for 22 of something that is not there: the numbers are the same, what they count may not be."""
    sources, used = comparison.alignment.sources, comparison.alignment.used
    for mine, token in enumerate(comparison.tokens):
        place = comparison.alignment.places[mine]
        if place is None or not isinstance(token.value, Amount):
            continue
        source = sources.tokens[place]
        if not isinstance(source.value, Amount) or (source.value.unit is None) == (token.value.unit is None):
            continue
        following = sources.tokens[place + 1] if place + 1 < len(sources.tokens) else None
        counted = source.value.unit is None and following is not None and following.start - source.end <= 1
        if counted and following is not None and place + 1 not in used and following.kind == "word":
            yield between("unit", token, following, False)


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


def misplaced_values(comparison: Comparison) -> Iterator[Difference]:
    """A value from elsewhere in the source, where the words beside it have a value of their own."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    for mine, token in enumerate(comparison.tokens):
        place = alignment.places[mine]
        if place is None or not (token.value is not None or token.kind == "code" or token.named):
            continue
        in_order = [i for i in alignment.reading.clauses[token.clause].tokens if alignment.ordered[i]]
        before = max((i for i in in_order if i < mine), default=None)
        after = min((i for i in in_order if i > mine), default=None)
        slots = [] if before is None else _slot(comparison, alignment.places[before], place, -1)
        slots += [] if after is None else _slot(comparison, place, alignment.places[after], 0)
        rivals = [at for at in slots if _rivals(token, sources.tokens[at])]
        if rivals:
            rival = sources.tokens[rivals[0]]
            a_range = token.value is not None and abs(rivals[-1] - place) == 1 and rival.kind == token.kind
            if token.named and all(sources.tokens[at].named or sources.tokens[at].kind != "word" for at in slots):
                continue  # one of a list of names
            near = any(sources.sentence_of[at] == sources.sentence_of[place] for at in rivals)
            certain = comparison.share >= 0.75 and not a_range and (near or comparison.nearly_verbatim)
            if not token.named:
                yield between("joined", token, rival, certain and _is_matched(comparison, token.clause))
            elif comparison.nearly_verbatim:
                yield between("joined", token, rival, False)


def _is_matched(comparison: Comparison, clause: int) -> bool:
    """No word of the clause is from elsewhere."""
    tokens, places = comparison.tokens, comparison.alignment.places
    return all(
        places[mine] is not None or tokens[mine].kind != "word" or tokens[mine].light
        for mine in comparison.alignment.reading.clauses[clause].tokens
    )


def _slot(comparison: Comparison, left: int | None, right: int | None, value: int) -> list[int]:
    """Unused source tokens between two places. `value`: which of the two is the value that may come from another sentence;
    then the slot is the token beside the other one."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    if left is None or right is None:
        return []
    if sources.sentence_of[left] == sources.sentence_of[right]:
        return [at for at in range(left + 1, right) if at not in alignment.used]
    beside, step = (left, 1) if value == -1 else (right, -1)
    if comparison.is_topic(comparison.tokens[alignment.places.index(beside)]):
        return []
    return comparison.free_beside(beside, step)[:1]


def _rivals(token: Token, other: Token) -> bool:
    if token.named or other.named:
        return token.named and other.named
    if token.kind == "amount" and other.kind == "amount":
        if (1.0,) in (token.value.plain, other.value.plain):  # type: ignore[union-attr]
            return False
        units = {token.value.dimension, other.value.dimension}  # type: ignore[union-attr]
        return len(units) == 1 or units <= {"time", "months"}
    return token.kind == other.kind


def lone_values(comparison: Comparison) -> Iterator[Difference]:
    """A value whose source sentence has nothing else in common with the value's clause."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    for clause in alignment.reading.clauses:
        homes = [
            (mine, sources.sentence_of[place])
            for mine in clause.tokens
            if (place := alignment.places[mine]) is not None
        ]
        for mine, home in homes:
            if comparison.tokens[mine].value is None or len(homes) < 3 or [other for _, other in homes].count(home) > 1:
                continue
            others = [at for at, _ in homes if at != mine and not comparison.is_topic(comparison.tokens[at])]
            if not others:
                continue
            elsewhere = {other for _, other in homes} - {home}
            rival = any(
                sources.sentence_of[at] in elsewhere
                and at not in alignment.used
                and (token.value is not None or token.kind == "code")
                for at, token in enumerate(sources.tokens)
            )
            yield Difference(
                "joined",
                comparison.tokens[mine].start,
                comparison.tokens[mine].end,
                certain=rival and comparison.share >= 0.9 and comparison.ordered_share >= 0.7,
            )
