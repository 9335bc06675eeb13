"""The parts of a sentence that are together in its source, and the kind of a word, judged by its spelling."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from whyrank.grounding.differences.comparison import PART, Comparison
from whyrank.grounding.tokens import Clause, Token

__all__ = [
    "Meeting",
    "Piece",
    "changed",
    "is_coordinated",
    "is_genitive",
    "is_noun",
    "is_noun_in_both",
    "is_verb",
    "meetings",
    "pieces",
]


class Piece(NamedTuple):
    """First and last token of the evidence, and the clause of the source."""

    first: int
    last: int
    clause: int


Meeting = tuple[Piece, Piece, Clause]


def meetings(comparison: Comparison) -> Iterator[Meeting]:
    """Two pieces that meet within a clause of the evidence. A topic before the others may stand for any subject."""
    for clause in comparison.alignment.reading.clauses:
        parts = list(pieces(comparison, clause))
        if len(parts) > 2 and parts[0].clause != parts[1].clause and _is_topic(comparison, parts[0]):
            parts = parts[1:]
        yield from ((one, other, clause) for one, other in pairwise(parts))


def pieces(comparison: Comparison, clause: Clause) -> Iterator[Piece]:
    places, clause_of = comparison.alignment.places, comparison.alignment.sources.clause_of
    run: list[int] = []
    for mine in clause.tokens:
        place = places[mine]
        if place is None:
            continue
        if run:
            last = places[run[-1]] or 0
            if clause_of[last] != clause_of[place] or place <= last:
                yield Piece(run[0], run[-1], clause_of[last])
                run = []
        run.append(mine)
    if run:
        yield Piece(run[0], run[-1], clause_of[places[run[0]] or 0])


def _is_topic(comparison: Comparison, piece: Piece) -> bool:
    return all(comparison.is_topic(token) for token in comparison.tokens[piece.first : piece.last + 1])


def changed(comparison: Comparison, one: Piece, other: Piece) -> tuple[list[int], list[int]]:
    """What of the second piece stands before the first in the source, and what of the first stands behind that."""
    places = comparison.alignment.places
    placed = [(mine, place) for mine in range(one.first, other.last + 1) if (place := places[mine]) is not None]
    last, first = places[one.last] or 0, places[other.first] or 0
    moved = [mine for mine, place in placed if mine >= other.first and place < last]
    return moved, [mine for mine, place in placed if mine <= one.last and place > first]


def is_noun(comparison: Comparison, token: Token) -> bool:
    if token.light:
        return False
    return token.named or (token.value is None and token.before in comparison.language.determiners)


def is_noun_in_both(comparison: Comparison, mine: int) -> bool:
    """A name may open a sentence in one of them, where it does not look like one."""
    source, token = comparison.source(mine), comparison.tokens[mine]
    if source is None:
        return False
    if token.named or source.named:
        return token.key == source.key or (token.named and source.named)
    return is_noun(comparison, token) and is_noun(comparison, source)


def is_verb(comparison: Comparison, token: Token) -> bool:
    """As far as spelling shows: neither a noun nor a value."""
    return token.kind == "word" and not is_noun(comparison, token)


def is_genitive(comparison: Comparison, token: Token) -> bool:
    return comparison.text[token.end : token.end + 2] in ("'s", "’s")


def is_coordinated(comparison: Comparison, one: int, other: int) -> bool:
    """An "and" is between them."""
    text = comparison.text[comparison.tokens[one].end : comparison.tokens[other].start].lower()
    return any(word in comparison.language.joiners for word in PART.findall(text))
