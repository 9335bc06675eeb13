"""Parts of the source put together otherwise: what is said of one is said of another.

The evidence's clauses are cut into pieces that stand in one clause of the source each, in the same order. Where two pieces meet
that the source does not have side by side, it shows what they were cut off from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from whyrank.grounding.differences.comparison import PART, Comparison, Difference, between, is_exact, stand_together
from whyrank.grounding.tokens import Clause, Token
from whyrank.grounding.values import Amount

__all__ = ["mixed_names", "moves"]


_OF = frozenset({"of", "von", "de"})


class Piece(NamedTuple):
    """First and last token of the evidence, and the clause of the source."""

    first: int
    last: int
    clause: int


def moves(comparison: Comparison) -> Iterator[Difference]:
    if comparison.share < 0.75:
        return
    yield from _argument_flips(comparison)
    if comparison.language.name == "de":
        yield from _cases(comparison)
    elif comparison.language.name == "zh":
        yield from _cut_words(comparison)
    else:
        yield from _agents(comparison)
    before: Piece | None = None
    for clause in comparison.alignment.reading.clauses:
        pieces = list(_pieces(comparison, clause))
        yield from _skips(comparison, clause)
        if before is not None and pieces:
            yield from _across(comparison, before, pieces[0])
        before = pieces[-1] if pieces else before
        if len(pieces) > 2 and _is_topic(comparison, pieces[0]):
            pieces = pieces[1:]
        for one, other in pairwise(pieces):
            yield from _meeting(comparison, one, other, clause.passive)


def _pieces(comparison: Comparison, clause: Clause) -> Iterator[Piece]:
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
        if any(not _is_noun(comparison, other) and not other.preposition and not other.named for other in skipped[1:]):
            yield between("joined", comparison.tokens[following], skipped[0], comparison.share >= 0.9)


def _agents(comparison: Comparison) -> Iterator[Difference]:
    """Who acts stands before the word for it, or after "by": neither may have taken the other's place."""
    by, places, sources = comparison.language.passive, comparison.alignment.places, comparison.alignment.sources
    for mine, token in enumerate(comparison.tokens):
        source = comparison.source(mine)
        if source is None or not _is_noun_in_both(comparison, mine):
            continue
        place, verb, acted = places[mine] or 0, None, False
        if token.preposition in by and not source.preposition:
            done = _done_by(comparison, comparison.text, comparison.tokens, mine)
            verb = places[done] if done is not None else None
            acted = verb is not None and verb < place and sources.sentence_of[verb] == sources.sentence_of[place]
            turned = acted
        elif source.preposition in by and not token.preposition:
            verb = _done_by(comparison, comparison.document, sources.tokens, place)
            acted = verb in comparison.alignment.used
            turned = verb is not None and (not acted or places.index(verb) < mine)
        else:
            continue
        if turned:
            yield between("role", token, source, acted and comparison.share >= 0.9)
            return


def _done_by(comparison: Comparison, text: str, tokens: Sequence[Token], agent: int) -> int | None:
    """The word that "by" belongs to: right before it, but for nouns that have a preposition themselves."""
    at = agent - 1
    while at >= 0 and tokens[at].preposition and _is_noun(comparison, tokens[at]):
        at -= 1
    if at < 0 or not _is_verb(comparison, tokens[at]) or tokens[at].before in comparison.language.determiners:
        return None
    return at if len(PART.findall(text[tokens[at].end : tokens[at + 1].start])) <= 2 else None


def _cut_words(comparison: Comparison) -> Iterator[Difference]:
    """What a Chinese clause begins with may be one word with the next sign: the vice-director is not the director."""
    alignment, clause_of = comparison.alignment, comparison.alignment.sources.clause_of
    for clause in alignment.reading.clauses:
        place = next((alignment.places[mine] for mine in clause.tokens[:1]), None)
        if not place or place - 1 in alignment.used or clause_of[place - 1] != clause_of[place]:
            continue
        cut, source = alignment.sources.tokens[place - 1], alignment.sources.tokens[place]
        opens = place == 1 or clause_of[place - 2] != clause_of[place]
        if opens and cut.kind == "word" and cut.end == source.start:
            yield between("dropped", comparison.tokens[clause.tokens[0]], cut, False)


def _cases(comparison: Comparison) -> Iterator[Difference]:
    """Der Kunde is now den Kunden."""
    for mine, token in enumerate(comparison.tokens):
        source = comparison.source(mine)
        if source is not None and {token.before, source.before} in ({"der", "den"}, {"der", "dem"}):
            yield between("role", token, source, False)


def _meeting(comparison: Comparison, one: Piece, other: Piece, passive: bool) -> Iterator[Difference]:
    """Two pieces within one clause of the evidence."""
    token, source = comparison.tokens[other.first], comparison.source(other.first)
    if _is_coordinated(comparison, one.last, other.first):
        yield from _inherited_subject(comparison, one, other)
    elif one.clause == other.clause:
        if _is_pure_swap(comparison, one, other) or _has_lost_preposition(comparison, one, other, passive):
            yield between("role", comparison.tokens[one.first], comparison.source(one.first), comparison.share >= 0.9)
        elif passive == comparison.alignment.sources.clauses[one.clause].passive and _is_exchange(
            comparison, one, other
        ):
            yield between("role", token, source, False)
    else:
        yield from _cut_and_joined(comparison, one, other)


def _is_exchange(comparison: Comparison, one: Piece, other: Piece) -> bool:
    """Both of those that have changed places may do or suffer something."""
    if _is_adjunct(comparison, one) or _is_adjunct(comparison, other):
        return False
    parts = _changed(comparison, one, other)
    return all(any(_is_noun_in_both(comparison, mine) for mine in part) for part in parts)


def _cut_and_joined(comparison: Comparison, one: Piece, other: Piece) -> Iterator[Difference]:
    token, sure = comparison.tokens[other.first], comparison.share >= 0.9
    after, before = _cut_off(comparison, one.last, 1), _cut_off(comparison, other.first, -1)
    if before and before[-1].key == comparison.tokens[one.last].key:
        if _is_parallel(comparison, one.last, before):
            yield between("joined", comparison.tokens[one.last], before[-1], sure)
        return  # else, the same is said of it there
    subject = _cut_subject(comparison, other)
    if before and _is_other_object(comparison, other, after):
        yield between("joined", token, before[-1], sure)
    elif comparison.language.name == "zh":
        if len(after) > 1 and len(before) > 1:
            yield between("joined", token, after[0], False)
    elif after and _is_verb(comparison, comparison.tokens[one.last]) and _is_in_place_of(comparison, token, after[0]):
        yield between("joined", token, after[0], sure and (token.value is None or _is_rival(token, after[0])))
    elif (rival := _rival_value(comparison, one, other)) is not None:
        yield between("joined", token, rival, False)
    elif subject is not None and comparison.tokens[one.last].named:
        yield between("joined", comparison.tokens[one.last], subject, sure)
    elif before and _alike(comparison, comparison.tokens[one.last], before[-1]):
        yield between("joined", comparison.tokens[one.last], before[-1], sure and before[-1].named)
    elif after and before and after[-1] is not before[-1] and not _is_adjunct(comparison, other):
        yield between("joined", token, before[0], False)


def _is_other_object(comparison: Comparison, piece: Piece, cut: Sequence[Token]) -> bool:
    """One does this, the other does that: the same word, and then another one."""
    if len(cut) < 2 or piece.last == piece.first or cut[0].key != comparison.tokens[piece.first].key:
        return False
    return cut[1].key != comparison.tokens[piece.first + 1].key


def _is_parallel(comparison: Comparison, mine: int, cut: Sequence[Token]) -> bool:
    """Little Faldon is not Great Faldon; herons nest on the bank, and swans nest under the pier."""
    first, other = comparison.tokens[mine - 1] if mine else None, cut[-2] if len(cut) > 1 else None
    if first is None or other is None or first.kind != "word" or other.kind != "word":
        return False
    keys = {token.key for token in comparison.tokens}
    return other.key not in keys and first.named == other.named and first.clause == comparison.tokens[mine].clause


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


def _is_pure_swap(comparison: Comparison, one: Piece, other: Piece) -> bool:
    """Both have changed places around the same words: "A asked B"."""
    moved, passed = _changed(comparison, one, other)
    if not moved or not passed or moved[0] != one.last + 1 or passed[-1] != one.last:
        return False
    tokens, ends = comparison.tokens, (comparison.source(moved[-1]), comparison.source(passed[0]))
    here = comparison.text[tokens[one.last].end : tokens[other.first].start].strip().lower()
    there = comparison.document[ends[0].end : ends[1].start].strip().lower()  # type: ignore[union-attr]
    if here != there or not PART.search(here) or here in comparison.language.settings | comparison.language.joiners:
        return False
    if comparison.language.name == "zh":
        return len(moved) > 1 and len(passed) > 1
    return all(any(_is_noun_in_both(comparison, mine) for mine in part) for part in (moved, passed))


def _changed(comparison: Comparison, one: Piece, other: Piece) -> tuple[list[int], list[int]]:
    """What of the second piece stands before the first in the source, and what of the first stands behind that."""
    places = comparison.alignment.places
    placed = [(mine, place) for mine in range(one.first, other.last + 1) if (place := places[mine]) is not None]
    last, first = places[one.last] or 0, places[other.first] or 0
    moved = [mine for mine, place in placed if mine >= other.first and place < last]
    return moved, [mine for mine, place in placed if mine <= one.last and place > first]


def _argument_flips(comparison: Comparison) -> Iterator[Difference]:
    """ "Lind gave Holm permission" for "Holm had given Lind permission": around one word, two have changed sides."""
    places, tokens, sources = comparison.alignment.places, comparison.tokens, comparison.alignment.sources
    nouns = [
        (mine, place)
        for mine, place in enumerate(places)
        if place is not None and _is_noun_in_both(comparison, mine) and not _is_genitive(comparison, tokens[mine])
    ]
    if len(nouns) < 2 or comparison.language.name == "de":
        return
    clauses = comparison.alignment.reading.clauses
    for verb, at in enumerate(places):
        if (
            at is None
            or tokens[verb].kind != "word"
            or _is_noun(comparison, tokens[verb])
            or not is_exact(comparison, verb)
        ):
            continue
        home = sources.sentence_of[at]
        inside = [(mine, place) for mine, place in nouns if sources.sentence_of[place] == home]
        before = [mine for mine, place in inside if mine < verb and place > at and not tokens[mine].preposition]
        after = [mine for mine, place in inside if mine > verb and place < at and not tokens[mine].preposition]
        voice = clauses[tokens[verb].clause].passive == sources.clauses[sources.clause_of[at]].passive
        if before and after and voice:
            sure = (
                comparison.share >= 0.9 and tokens[before[0]].clause == tokens[verb].clause == tokens[after[0]].clause
            )
            told = any(
                sign in comparison.document[sources.tokens[min(place for _, place in inside)].start :][:300]
                for sign in '“”"«»„'
            )
            yield between("role", tokens[before[0]], comparison.source(before[0]), sure and not told)
            return


def _has_lost_preposition(comparison: Comparison, one: Piece, other: Piece, passive: bool) -> bool:
    """Who was sold to now sells."""
    places, sources = comparison.alignment.places, comparison.alignment.sources
    mine = next((mine for mine in _changed(comparison, one, other)[1] if comparison.tokens[mine].named), None)
    if mine is None or sources.clauses[one.clause].passive != passive or comparison.share < 0.9:
        return False
    token, place = comparison.tokens[mine], places[mine] or 0
    if _is_genitive(comparison, token):
        return False
    if token.before in comparison.language.determiners and place - 1 == places[other.first]:
        return False  # a technician of Stellar is a Stellar technician
    return bool(sources.tokens[place].preposition) and not token.preposition


def _is_genitive(comparison: Comparison, token: Token) -> bool:
    return comparison.text[token.end : token.end + 2] in ("'s", "’s")


def _across(comparison: Comparison, one: Piece, other: Piece) -> Iterator[Difference]:
    """A clause of the evidence that stands beside another one than in the source: the name it belongs to may be another."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    place, token = alignment.places[other.first] or 0, comparison.tokens[one.last]
    row = comparison.free_before(place)
    if not row or not token.named or alignment.places[one.last] == row[-1] - 1:
        return
    source = sources.tokens[row[0]]
    if source.named and source.key != token.key:
        yield between("joined", token, source, comparison.share >= 0.9)


def _inherited_subject(comparison: Comparison, one: Piece, other: Piece) -> Iterator[Difference]:
    """ "Brandt sold it to Finch and later gave it away": in the source, a name stands before what follows the "and"."""
    cut = [token for token in _cut_off(comparison, other.first, -1) if token.named]
    subject = comparison.tokens[one.first]
    if cut and subject.named and all(token.key != subject.key for token in cut):
        yield between("joined", comparison.tokens[other.first], cut[0], False)


def _cut_off(comparison: Comparison, mine: int, step: int) -> list[Token]:
    """What the source has beside the token, in the clause and in its order, and the evidence has not."""
    place = comparison.alignment.places[mine] or 0
    tokens = [comparison.alignment.sources.tokens[at] for at in comparison.free_beside(place, step)]
    return [token for token in tokens[::step] if not token.light]


def _is_in_place_of(comparison: Comparison, one: Token, other: Token) -> bool:
    """ "It opens with a song": behind a word, the same preposition brings in what it is about."""
    if one.kind in ("date", "time"):
        return False
    return _alike(comparison, one, other) or (bool(one.preposition) and one.preposition == other.preposition)


def _rival_value(comparison: Comparison, one: Piece, other: Piece) -> Token | None:
    """350 on Sundays, where the source has 200 beside "Sundays", perhaps after a comma."""
    place, alignment = comparison.alignment.places[one.last] or 0, comparison.alignment
    values = [token for token in comparison.tokens[other.first : other.last + 1] if isinstance(token.value, Amount)]
    if (alignment.places[other.first] or 0) - 1 in alignment.used:
        return None  # it belongs to what stands before it
    for at in range(place + 1, min(place + 3, len(alignment.sources.tokens))):
        if at in alignment.used or alignment.sources.sentence_of[at] != alignment.sources.sentence_of[place]:
            break
        if any(_is_rival(token, alignment.sources.tokens[at]) for token in values):
            return alignment.sources.tokens[at]
    return None


def _is_rival(one: Token, other: Token) -> bool:
    return (
        isinstance(one.value, Amount)
        and isinstance(other.value, Amount)
        and one.value.dimension == other.value.dimension
    )


def _alike(comparison: Comparison, one: Token, other: Token) -> bool:
    """One may stand for the other: two names, two amounts of one kind, two nouns after the same preposition."""
    if one.preposition != other.preposition:
        return False
    if one.named or other.named:
        return one.named and other.named
    if one.value is not None or other.value is not None:
        return one.kind == other.kind
    determiners = comparison.language.determiners
    return one.before in determiners and other.before in determiners


def _is_topic(comparison: Comparison, piece: Piece) -> bool:
    return all(comparison.is_topic(token) for token in comparison.tokens[piece.first : piece.last + 1])


def _is_adjunct(comparison: Comparison, piece: Piece) -> bool:
    """It has kept its preposition, or is a date: it may stand anywhere in its clause."""
    token, source = comparison.tokens[piece.first], comparison.source(piece.first)
    if token.kind in ("date", "time") or (piece.first and token.preposition in _OF):
        return True
    return bool(token.preposition) and source is not None and source.preposition == token.preposition


def _is_noun(comparison: Comparison, token: Token) -> bool:
    if token.light:
        return False
    return token.named or (token.value is None and token.before in comparison.language.determiners)


def _is_noun_in_both(comparison: Comparison, mine: int) -> bool:
    source = comparison.source(mine)
    return source is not None and _is_noun(comparison, comparison.tokens[mine]) and _is_noun(comparison, source)


def _is_verb(comparison: Comparison, token: Token) -> bool:
    """As far as it can be seen: no noun, no value."""
    return token.kind == "word" and not _is_noun(comparison, token)


def _is_coordinated(comparison: Comparison, one: int, other: int) -> bool:
    """An "and" is between them."""
    text = comparison.text[comparison.tokens[one].end : comparison.tokens[other].start].lower()
    return any(word in comparison.language.joiners for word in PART.findall(text))


def mixed_names(comparison: Comparison) -> Iterator[Difference]:
    """Oliver Petersen, where the document has Oliver Thoma and Irmgard Petersen."""
    for one, other in pairwise(comparison.tokens):
        if not (one.named and other.named) or comparison.text[one.end : other.start] not in (" ", "-", "\u00a0"):
            continue
        first, last = (comparison.text[token.start : token.end] for token in (one, other))
        if not stand_together(comparison.document, first, last) and _has_name_beside(comparison.document, first, last):
            yield Difference("name", one.start, other.end, certain=comparison.share >= 0.75)


def _has_name_beside(document: str, first: str, last: str) -> bool:
    after = re.search(rf"(?<!\w){re.escape(first)}\.? [^\W\d_a-zß-ÿ]\w", document)
    before = re.search(rf"[^\W\d_a-zß-ÿ]\w+ {re.escape(last)}(?!\w)", document)
    return after is not None and before is not None
