"""Conditions and other limits of the source that the evidence leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from whyrank.grounding.differences.comparison import PART, Comparison, Difference, between, is_exact, negations_of
from whyrank.grounding.tokens import Clause

__all__ = ["conditions", "cut_short", "narrowing"]


def conditions(comparison: Comparison) -> Iterator[Difference]:
    sources, alignment = comparison.alignment.sources, comparison.alignment
    mine = {clause.condition for clause in alignment.reading.clauses if clause.condition}
    marks = {mark.key for clause in alignment.reading.clauses for mark in clause.marks}
    negated = bool(negations_of(alignment.reading.clauses))
    verbatim = comparison.nearly_verbatim and not mine and None not in alignment.places
    for number, clause in enumerate(sources.clauses):
        if not clause.condition:
            continue
        held = [at for at in sources.tokens_of(number) if at in alignment.used]
        size = len(clause.tokens)
        if clause.condition == "else" or (clause.condition == "setting" and 2 * len(held) >= size > 0):
            if 2 * len(held) >= size > 0 and not mine and comparison.share >= 0.75:
                yield _lost(comparison, clause, held)
            continue
        turned = negated and not negations_of(sources.clauses[max(0, number - 1) : number + 2])
        lost_marker = held and "except" not in mine and not turned and not marks & {"only", "must", "need"}
        if (
            clause.condition == "except"
            and lost_marker
            and 4 * len(held) >= size
            and _draws_on_beside(number, comparison)
        ):
            if comparison.share >= 0.7:
                yield _lost(comparison, clause, held)
        elif verbatim and clause.condition in ("if", "except", "setting") and len(held) * 4 < max(1, size):
            main = _main_clause(number, comparison)
            yield from [_lost(comparison, clause, main)] if main else []
    if comparison.nearly_verbatim:
        yield from _lost_limits(comparison)


def _lost_limits(comparison: Comparison) -> Iterator[Difference]:
    """ "Only with consent" is left out with all its words."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    mine = {mark.key for clause in alignment.reading.clauses for mark in clause.marks}
    for number in {sources.clause_of[place] for place in alignment.used}:
        for mark in sources.clauses[number].marks:
            at = next((place for place, token in enumerate(sources.tokens) if token is mark.token), 0)
            gone = mark.token is not None and at not in alignment.used and at - 1 in alignment.used
            places = list(sources.tokens_of(number))
            mostly = 2 * sum(place in alignment.used for place in places) >= len(places) and len(places) > 2
            if (
                mark.key == "only"
                and gone
                and mostly
                and "only" not in mine
                and sources.clause_of[at - 1] == sources.clause_of[at] == number
            ):
                yield between("dropped", comparison.tokens[-1], mark)


def _is_modifier(place: int, places: list[int], used: set[int], comparison: Comparison) -> bool:
    """Left out after a word that is there, within the condition or at the end of one that opens its sentence; or an amount."""
    sources = comparison.alignment.sources
    end = place
    while end + 1 in places and end + 1 not in used:
        end += 1
    run = [sources.tokens[at] for at in range(place, end + 1)]
    if not _is_short_gap(place, places, used):
        return False
    if any(token.value is not None for token in run) and end + 1 in used:
        return True
    return place - 1 in used and (end + 1 in used or sources.clause_of[place] in sources.first_clauses)


def _is_coordinated(place: int, comparison: Comparison) -> bool:
    """It follows an "and": another statement, not a modifier."""
    tokens = comparison.alignment.sources.tokens
    left = max((at for at in comparison.alignment.used if at < place), default=place)
    words = PART.findall(comparison.document[tokens[left].end : tokens[place].start].lower())
    return any(word in comparison.language.joiners for word in words)


def _is_short_gap(place: int, places: list[int], used: set[int]) -> bool:
    """Up to three unused tokens beside used ones are a modifier; more may be another statement."""
    first = last = place
    while first - 1 in places and first - 1 not in used:
        first -= 1
    while last + 1 in places and last + 1 not in used:
        last += 1
    return last - first < 3 and (first - 1 in used or last + 1 in used)


def cut_short(comparison: Comparison) -> Iterator[Difference]:
    """A quotation that ends before its clause does: "entry is free", where it goes on "for children"."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    if not all(alignment.ordered) or not alignment.places or comparison.share < 1:
        return
    last = alignment.places[-1]
    if last is None or last + 1 >= len(sources.tokens) or sources.clause_of[last + 1] != sources.clause_of[last]:
        return
    following = sources.tokens[last + 1]
    contiguous = all(after == before + 1 for before, after in pairwise(alignment.places))  # type: ignore[operator]
    quoted = contiguous and all(is_exact(comparison, mine) for mine in range(len(comparison.tokens)))
    linked_by = comparison.document[sources.tokens[last].end : following.start].lower().strip()
    goes_on = not following.light and following.before not in comparison.language.joiners
    if quoted and goes_on and linked_by in comparison.language.limits:
        yield between("dropped", comparison.tokens[-1], following)


def _draws_on_beside(number: int, comparison: Comparison) -> bool:
    sources, used = comparison.alignment.sources, comparison.alignment.used
    beside = [list(sources.tokens_of(other)) for other in (number - 1, number + 1) if 0 <= other < len(sources.clauses)]
    return any(places and 2 * sum(at in used for at in places) >= len(places) for places in beside)


def _main_clause(number: int, comparison: Comparison) -> list[int]:
    """Used tokens of the clause that the condition belongs to, where most of it is used up to the condition."""
    sources = comparison.alignment.sources
    follows = number not in sources.first_clauses and not sources.clauses[number].apart
    beside = number - 1 if follows else number + 1
    while not follows and beside + 1 < len(sources.clauses) and sources.clauses[beside].condition == "until":
        beside += 1
    if not 0 <= beside < len(sources.clauses) or (not follows and beside in sources.first_clauses):
        return []
    places = list(sources.tokens_of(beside))
    held = [at for at in places if at in comparison.alignment.used]
    whole = bool(held) and 2 * len(held) >= len(places) and (len(held) >= 2 or len(places) == 1)
    return held if whole and places[-1 if follows else 0] in held else []


def _lost(comparison: Comparison, clause: Clause, held: list[int]) -> Difference:
    places = [mine for mine, place in enumerate(comparison.alignment.places) if place in held]
    token = comparison.tokens[places[-1] if places else -1]
    return Difference("dropped", token.start, token.end, clause.condition_start, clause.condition_end)


def narrowing(comparison: Comparison) -> Iterator[Difference]:
    """A modifier left out of a condition, or a bound left out anywhere, makes the sentence say more than its source."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    if not comparison.nearly_verbatim:
        return
    in_order = {
        place
        for place, ordered in zip(alignment.places, alignment.ordered, strict=True)
        if ordered and place is not None
    }
    keys = {token.key for token in comparison.tokens}
    for number in sorted({sources.clause_of[place] for place in alignment.used}):
        places = list(sources.tokens_of(number))
        held = [at for at in places if at in in_order]
        condition = sources.clauses[number].condition
        kept = condition in {clause.condition for clause in alignment.reading.clauses}
        for place in places:
            token = sources.tokens[place]
            if place in alignment.used or token.light or not held or (not condition and 2 * len(held) < len(places)):
                continue
            if condition == "until" and place > held[-1] and (token.preposition or token.key in keys):
                break  # what follows says something else, or is said already
            bounded = (
                token.kind == "amount"
                and any(mark.kind == "bound" for mark in token.marks)
                and _is_short_gap(place, places, in_order)
                and not _is_coordinated(place, comparison)
            )
            before = sources.tokens[place - 1] if place - 1 in held else None
            universal = before is not None and before.kind == "word" and any(mark.key == "all" for mark in before.marks)
            if bounded or universal or condition in ("if", "until", "except"):
                narrowed = condition == "if" and kept and _is_modifier(place, places, in_order, comparison)
                if bounded or universal or narrowed:
                    mine = alignment.places.index(max((at for at in held if at < place), default=held[0]))
                    yield between("dropped", comparison.tokens[mine], token)
                break
