"""Wrong joins: parts of the source are put together in another way, so that something is said of the wrong thing.

They are found where two pieces of the evidence meet that are not neighbours in the source: there, the source shows what each
was taken from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from whyrank.grounding.differences.comparison import PART, Comparison, Difference, between
from whyrank.grounding.differences.parts import Meeting, Piece, is_coordinated, is_noun, is_verb, pieces
from whyrank.grounding.tokens import Clause, Token
from whyrank.grounding.values import Amount
from whyrank.types import DifferenceKind

__all__ = ["cut_off", "joins"]


def cut_off(comparison: Comparison, met: Sequence[Meeting]) -> Iterator[Difference]:
    for one, other, _ in met:
        if one.clause != other.clause and not is_coordinated(comparison, one.last, other.first):
            yield from _cut_and_joined(comparison, one, other)
    before: Piece | None = None
    for clause in comparison.alignment.reading.clauses:
        yield from _skips(comparison, clause)
        parts = list(pieces(comparison, clause))
        if before is not None and parts:
            yield from _across(comparison, before, parts[0])
        before = parts[-1] if parts else before


def _skips(comparison: Comparison, clause: Clause) -> Iterator[Difference]:
    """ "Raised by Lacey", where it was raised by Quill and introduced by Lacey."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    placed = [(mine, place) for mine in clause.tokens if (place := alignment.places[mine]) is not None]
    for (_, place), (following, after) in pairwise(placed):
        if not place + 2 < after or sources.clause_of[place] != sources.clause_of[after]:
            continue
        source, skipped = (
            sources.tokens[after],
            [sources.tokens[at] for at in range(place + 1, after) if at not in alignment.used],
        )
        if len(skipped) < 2 or not source.preposition or not _alike(comparison, source, skipped[0]):
            continue
        if any(not is_noun(comparison, other) and not other.preposition and not other.named for other in skipped[1:]):
            yield between("joined", comparison.tokens[following], skipped[0])


def _cut_and_joined(comparison: Comparison, one: Piece, other: Piece) -> Iterator[Difference]:
    token, last = comparison.tokens[other.first], comparison.tokens[one.last]
    after, before = _cut_off(comparison, one.last, 1), _cut_off(comparison, other.first, -1)
    if before and before[-1].key == last.key:
        return  # the same is said of it there
    subject = _cut_subject(comparison, other)
    if before and _is_other_object(comparison, other, after):
        yield between("joined", token, before[-1])
    elif comparison.language.name == "zh":
        return
    elif after and is_verb(comparison, last) and _is_in_place_of(comparison, token, after[0]):
        if token.value is None or _is_rival(token, after[0]):
            yield between("joined", token, after[0])
    elif subject is not None and last.named:
        yield between("joined", last, subject)
    elif before and _alike(comparison, last, before[-1]):
        if before[-1].named:
            yield between("joined", last, before[-1])
    elif last.named and not before and (behind := _subject_behind(comparison, other)) is not None:
        yield between("joined", last, behind)


def _subject_behind(comparison: Comparison, piece: Piece) -> Token | None:
    """A name that stands right behind a word, as subjects do in Spanish or German: "la proyectó Vidal"."""
    if not is_verb(comparison, comparison.tokens[piece.last]):
        return None
    behind = _cut_off(comparison, piece.last, 1)
    return next((token for token in behind[:2] if token.named and not token.preposition), None)


def _is_other_object(comparison: Comparison, piece: Piece, cut: Sequence[Token]) -> bool:
    """One does this, the other does that: the same word, and then another one."""
    if len(cut) < 2 or piece.last == piece.first or cut[0].key != comparison.tokens[piece.first].key:
        return False
    return cut[1].key != comparison.tokens[piece.first + 1].key


def _cut_subject(comparison: Comparison, piece: Piece) -> Token | None:
    """A name before it that opens a clause after an "and": "and Oona, her neighbour, knitted it"."""
    place, sources = comparison.alignment.places[piece.first] or 0, comparison.alignment.sources
    keys = {token.key for token in comparison.tokens}
    for at in comparison.free_before(place):
        token = sources.tokens[at]
        if token.named and at and token.key not in keys and sources.clause_of[at - 1] != sources.clause_of[at]:
            written = comparison.document[sources.tokens[at - 1].end : token.start].lower()
            return token if ";" in written or set(PART.findall(written)) & comparison.language.joiners else None
    return None


def _across(comparison: Comparison, one: Piece, other: Piece) -> Iterator[Difference]:
    """A clause of the evidence that has another neighbour than in the source: it may belong to another name there."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    place, token = alignment.places[other.first] or 0, comparison.tokens[one.last]
    row = comparison.free_before(place)
    if not row or not token.named or alignment.places[one.last] == row[-1] - 1:
        return
    source = sources.tokens[row[0]]
    if source.named and source.key != token.key:
        yield between("joined", token, source)


def _cut_off(comparison: Comparison, mine: int, step: int) -> list[Token]:
    """What the source has beside the token, in its clause and in order, and the evidence lacks."""
    place = comparison.alignment.places[mine] or 0
    tokens = [comparison.alignment.sources.tokens[at] for at in comparison.free_beside(place, step)]
    return [token for token in tokens[::step] if not token.light]


def _is_in_place_of(comparison: Comparison, one: Token, other: Token) -> bool:
    """ "It opens with a song": behind a word, the same preposition brings in what it is about."""
    if one.kind in ("date", "time"):
        return False
    return _alike(comparison, one, other) or (bool(one.preposition) and one.preposition == other.preposition)


def _is_rival(one: Token, other: Token) -> bool:
    return (
        isinstance(one.value, Amount)
        and isinstance(other.value, Amount)
        and one.value.dimension == other.value.dimension
    )


def _alike(comparison: Comparison, one: Token, other: Token) -> bool:
    """Whether one may take the other's place: two names, two amounts of one kind, two nouns after the same preposition."""
    if one.preposition != other.preposition:
        return False
    if one.named or other.named:
        return one.named and other.named
    if one.value is not None or other.value is not None:
        return one.kind == other.kind
    determiners = comparison.language.determiners
    return one.before in determiners and other.before in determiners


def joins(comparison: Comparison) -> Iterator[Difference]:
    """Within one clause, words of distant sentences alternate."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    if len(sources.first_clauses) > 1 and comparison.share >= 0.95 and comparison.nearly_verbatim:
        for clause in alignment.reading.clauses:
            drawn_from = [
                place
                for mine in clause.tokens
                if (place := alignment.places[mine]) is not None and not comparison.is_topic(comparison.tokens[mine])
            ]
            homes = [sources.sentence_of[place] for place in drawn_from]
            turns = sum(home != following for home, following in pairwise([*homes, -1]))
            often = [home for home in set(homes) if homes.count(home) >= 2]
            if (len(often) >= 2 and turns >= 3) or len(set(homes)) >= 3:
                yield _over(comparison, clause, "joined")
    several = sum(bool(clause.tokens) for clause in alignment.reading.clauses) > 1
    if several and comparison.share >= 0.9 and not all(alignment.ordered):
        yield from _exchanged_halves(comparison)


def _exchanged_halves(comparison: Comparison) -> Iterator[Difference]:
    """Two clauses of the evidence take words from the same two of the source."""
    alignment, sources, drawn = comparison.alignment, comparison.alignment.sources, []
    for clause in alignment.reading.clauses:
        if any(comparison.tokens[mine].kind == "word" for mine in clause.tokens):
            places = [place for mine in clause.tokens if (place := alignment.places[mine]) is not None]
            homes = {sources.clause_of[place] for place in places}
            if len(homes) >= 2 and homes in drawn:
                yield _over(comparison, clause, "role")
            drawn.append(homes)


def _over(comparison: Comparison, clause: Clause, kind: DifferenceKind) -> Difference:
    first, last = comparison.tokens[clause.tokens[0]], comparison.tokens[clause.tokens[-1]]
    return Difference(kind, first.start, last.end)
