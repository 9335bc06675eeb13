"""Aligns the words of two sentences: first those in the same order, then the others, then other forms of a word."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from whyrank.grounding.scan import holds_code
from whyrank.grounding.tokens import Clause, Reading, Token
from whyrank.grounding.values import same_value
from whyrank.grounding.words import have_same_stem

__all__ = ["Alignment", "Sources", "align"]


_MAX_PLACES = 24  # of one word that are looked at


@dataclass(slots=True)
class Sources:
    """Sentences of the document as one row of tokens. `clause_of` and `sentence_of` number them through."""

    tokens: list[Token] = field(default_factory=list)
    clauses: list[Clause] = field(default_factory=list)
    clause_of: list[int] = field(default_factory=list)
    sentence_of: list[int] = field(default_factory=list)
    first_clauses: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> Sources:
        made = cls()
        for number, reading in enumerate(readings):
            made.first_clauses.append(len(made.clauses))
            made.clause_of += (token.clause + len(made.clauses) for token in reading.tokens)
            made.sentence_of += [number] * len(reading.tokens)
            made.tokens += reading.tokens
            made.clauses += reading.clauses
        return made

    def tokens_of(self, clause: int) -> range:
        """They stand side by side."""
        return range(bisect_left(self.clause_of, clause), bisect_right(self.clause_of, clause))


@dataclass(slots=True)
class Alignment:
    """`places`: for each token of the evidence, the source token that says the same. `ordered`: found in the same order."""

    reading: Reading
    sources: Sources
    places: list[int | None]
    ordered: list[bool]
    used: set[int]


def align(reading: Reading, sources: Sources) -> Alignment:
    tokens, others = reading.tokens, sources.tokens
    candidates = _candidates(tokens, others)
    places = _shortest_way(candidates, sources)
    used = {place for place in places if place is not None}
    if len(used) + places.count(None) < len(places):  # a word said twice may have one place
        for mine, options in enumerate(candidates):
            if places.count(places[mine]) > 1 and (
                free := next((place for place in options if place not in used), None)
            ):
                places[mine] = free
                used.add(free)
    ordered = _ordered(places)
    for mine, token in enumerate(tokens):
        if places[mine] is None and token.kind == "word" and len(token.key) > 2 and " " not in token.key:
            place = _other_form(token, others, used)
            if place is not None:
                places[mine] = place
                ordered[mine] = _fits(places, ordered, mine)
                used.add(place)
    return Alignment(reading, sources, places, ordered, used)


def _shortest_way(candidates: Sequence[Sequence[int]], sources: Sources) -> list[int | None]:
    """A place for each token that has one, chosen so that neighbours rarely change clause, sentence or order."""
    clause_of, sentence_of = sources.clause_of, sources.sentence_of
    steps: list[tuple[int, list[tuple[float, int, int]]]] = []  # token; its places with cost and which one was before
    last = [(0.0, -1, -1)]
    for mine, options in enumerate(candidates):
        if not options:
            continue
        if len(options) == 1 == len(last):
            last = [(last[0][0], options[0], 0)]
        else:
            last = [_cheapest(last, place, clause_of, sentence_of) for place in options]
        steps.append((mine, last))
    places: list[int | None] = [None] * len(candidates)
    number = min(range(len(last)), key=lambda one: last[one][0])
    for mine, row in reversed(steps):
        _, places[mine], number = row[number]
    return places


def _cheapest(
    last: Sequence[tuple[float, int, int]], place: int, clause_of: Sequence[int], sentence_of: Sequence[int]
) -> tuple[float, int, int]:
    """Of equally good alignments, the one that changes clause earlier: what follows a subject belongs together."""
    cost, _, number = min(
        (cost + _step_cost(before, place, clause_of, sentence_of), -cost, number)
        for number, (cost, before, _) in enumerate(last)
    )
    return cost, place, number


def _step_cost(before: int, place: int, clause_of: Sequence[int], sentence_of: Sequence[int]) -> float:
    if place == before + 1 or before < 0:
        return 0.0
    if sentence_of[before] != sentence_of[place]:
        return 3.0
    away = min(8, abs(place - before)) / 16
    if clause_of[before] != clause_of[place]:
        return 1.0 + away if place > before else 2.5
    return away if place > before else 2.0 + away


def _ordered(places: Sequence[int | None]) -> list[bool]:
    """Which of these are in the longest increasing subsequence."""
    placed = [place for place in places if place is not None]
    if all(before < after for before, after in pairwise(placed)):
        return [place is not None for place in places]
    kept = {mine for mine, _ in _longest_ordered([[] if place is None else [place] for place in places])}
    return [mine in kept for mine in range(len(places))]


def _candidates(tokens: Sequence[Token], others: Sequence[Token]) -> list[list[int]]:
    by_key: dict[str, list[int]] = {}
    for place, other in enumerate(others):
        if other.value is None:
            by_key.setdefault(other.key, []).append(place)
    valued = [place for place, other in enumerate(others) if other.value is not None]
    codes = [place for place, other in enumerate(others) if other.kind == "code"]
    candidates = []
    for token in tokens:
        if token.value is not None:
            candidates.append([place for place in valued if same_value(token.value, others[place].value)][:_MAX_PLACES])
        elif token.kind == "code" and token.key not in by_key:
            candidates.append([place for place in codes if holds_code(token.key, others[place].key)])
        else:
            candidates.append(by_key.get(token.key, [])[:_MAX_PLACES])
    return candidates


def _longest_ordered(candidates: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """The longest sequence of pairs that increases on both sides (Hunt and Szymanski)."""
    ends: list[int] = []
    links: list[tuple[int, int, int]] = []  # token, place, link before
    last: list[int] = []
    for mine, options in enumerate(candidates):
        for place in reversed(options):
            size = bisect_left(ends, place)
            links.append((mine, place, last[size - 1] if size else -1))
            if size == len(ends):
                ends.append(place)
                last.append(len(links) - 1)
            else:
                ends[size], last[size] = place, len(links) - 1
    pairs, link = [], last[-1] if last else -1
    while link >= 0:
        mine, place, link = links[link]
        pairs.append((mine, place))
    return pairs[::-1]


def _other_form(token: Token, others: Sequence[Token], used: set[int]) -> int | None:
    for place, other in enumerate(others):
        if other.kind == "word" and place not in used and have_same_stem(token.key, other.key):
            return place
    return None


def _fits(places: Sequence[int | None], ordered: Sequence[bool], mine: int) -> bool:
    before = next((places[i] for i in range(mine - 1, -1, -1) if ordered[i]), -1)
    after = next((places[i] for i in range(mine + 1, len(places)) if ordered[i]), None)
    place = places[mine]
    return (before is None or place > before) and (after is None or place < after)  # type: ignore[operator]
