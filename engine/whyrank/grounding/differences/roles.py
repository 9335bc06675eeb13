"""Roles (who does what): two participants have changed places, voice or case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from whyrank.grounding.differences.comparison import PART, Comparison, Difference, between, is_exact
from whyrank.grounding.differences.parts import (
    Meeting,
    Piece,
    changed,
    is_coordinated,
    is_genitive,
    is_noun,
    is_noun_in_both,
    is_verb,
)
from whyrank.grounding.tokens import Token
from whyrank.types import DifferenceKind

__all__ = ["changed_sides", "roles"]


def roles(comparison: Comparison) -> Iterator[Difference]:
    """Two that stand around the same word have changed places."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    if comparison.share < 0.75:
        return
    for clause in alignment.reading.clauses:
        row = [mine for mine in clause.tokens if alignment.places[mine] is not None]
        if all(alignment.ordered[mine] for mine in row):
            continue
        swapped = _swapped(_blocks(row, comparison), clause.passive, comparison)
        if swapped is not None:
            source = sources.tokens[alignment.places[swapped]]  # type: ignore[index]
            kind: DifferenceKind = "role" if comparison.tokens[swapped].value is None else "joined"
            yield between(kind, comparison.tokens[swapped], source)


def _blocks(row: list[int], comparison: Comparison) -> list[tuple[int, int]]:
    """First and last token of each run that is together in both texts: words in Chinese, single words elsewhere."""
    places = comparison.alignment.places
    blocks: list[tuple[int, int]] = []
    for mine in row:
        last = blocks[-1][1] if blocks else -2
        if comparison.language.name == "zh" and mine == last + 1 and places[mine] == (places[last] or 0) + 1:
            blocks[-1] = (blocks[-1][0], mine)
        else:
            blocks.append((mine, mine))
    return blocks


def _swapped(blocks: list[tuple[int, int]], passive: bool, comparison: Comparison) -> int | None:
    """The first of two blocks that the source has in the other order, with the same word between them."""
    sources = comparison.alignment.sources
    places = [comparison.alignment.places[first] or 0 for first, _ in blocks]
    shortest = 2 if comparison.language.name == "zh" else 1
    long = [number for number, (first, last) in enumerate(blocks) if last - first + 1 >= shortest]
    for before in long:
        for after in long:
            x, y = places[before], places[after]
            if after <= before + 1 or y >= x or sources.clause_of[x] != sources.clause_of[y]:
                continue
            between = [number for number in range(before + 1, after) if y < places[number] < x]
            if not between or sources.clauses[sources.clause_of[x]].passive != passive:
                continue
            if _changed_places(blocks[before][0], blocks[after][0], [blocks[number] for number in between], comparison):
                return blocks[before][0]
    return None


def _changed_places(before: int, after: int, between: list[tuple[int, int]], comparison: Comparison) -> bool:
    if not any(is_exact(comparison, first) for first, _ in between):
        return False
    values = [comparison.tokens[mine].value is not None for mine in (before, after)]
    if values[0] == values[1] and (values[0] or any(_compares(comparison, last) for _, last in between)):
        return True
    return not any(values) and all(_looks_like_noun(comparison, mine) for mine in (before, after))


def _compares(comparison: Comparison, mine: int) -> bool:
    source = comparison.source(mine)
    following = PART.match(comparison.document, source.end + 1) if source is not None else None
    return following is not None and following.group().lower() in comparison.language.than


def _looks_like_noun(comparison: Comparison, mine: int) -> bool:
    """By its looks, in both texts: in the same form, after an article or with a capital. Chinese shows nothing of it."""
    source, token, language = comparison.source(mine), comparison.tokens[mine], comparison.language
    if source is None or not is_exact(comparison, mine):
        return False
    if language.name == "zh" or token.kind == "code":
        return True
    return all(
        one.before in language.determiners or text[one.start].isupper()
        for one, text in ((token, comparison.text), (source, comparison.document))
    )


def changed_sides(comparison: Comparison, met: Sequence[Meeting]) -> Iterator[Difference]:
    for one, other, clause in met:
        if one.clause != other.clause or is_coordinated(comparison, one.last, other.first):
            continue
        if _is_pure_swap(comparison, one, other) or _has_lost_preposition(comparison, one, other, clause.passive):
            yield between("role", comparison.tokens[one.first], comparison.source(one.first))
    if not all(comparison.alignment.ordered):
        yield from _argument_flips(comparison)
    if comparison.language.name not in ("de", "zh"):
        yield from _agents(comparison)


def _is_pure_swap(comparison: Comparison, one: Piece, other: Piece) -> bool:
    """Both have changed places around the same words: "A asked B"."""
    moved, passed = changed(comparison, one, other)
    if not moved or not passed or moved[0] != one.last + 1 or passed[-1] != one.last:
        return False
    tokens, ends = comparison.tokens, (comparison.source(moved[-1]), comparison.source(passed[0]))
    here = comparison.text[tokens[one.last].end : tokens[other.first].start].strip().lower()
    there = comparison.document[ends[0].end : ends[1].start].strip().lower()  # type: ignore[union-attr]
    if here != there or not PART.search(here) or here in comparison.language.settings | comparison.language.joiners:
        return False
    if comparison.language.name == "zh":
        return len(moved) > 1 and len(passed) > 1
    return all(any(is_noun_in_both(comparison, mine) for mine in part) for part in (moved, passed))


def _has_lost_preposition(comparison: Comparison, one: Piece, other: Piece, passive: bool) -> bool:
    """Who was sold to now sells."""
    places, sources = comparison.alignment.places, comparison.alignment.sources
    mine = next((mine for mine in changed(comparison, one, other)[1] if comparison.tokens[mine].named), None)
    if mine is None or sources.clauses[one.clause].passive != passive:
        return False
    token, place = comparison.tokens[mine], places[mine] or 0
    if is_genitive(comparison, token):
        return False
    if token.before in comparison.language.determiners and place - 1 == places[other.first]:
        return False  # a technician of Stellar is a Stellar technician
    return bool(sources.tokens[place].preposition) and not token.preposition


def _argument_flips(comparison: Comparison) -> Iterator[Difference]:
    """ "Lind gave Holm permission" for "Holm had given Lind permission": around one word, two have changed sides."""
    places, tokens, sources = comparison.alignment.places, comparison.tokens, comparison.alignment.sources
    nouns = [
        (mine, place)
        for mine, place in enumerate(places)
        if place is not None and is_noun_in_both(comparison, mine) and not is_genitive(comparison, tokens[mine])
    ]
    ways = [place for _, place in nouns]
    if ways == sorted(ways) or comparison.language.name == "de":
        return
    clauses = comparison.alignment.reading.clauses
    for verb, at in enumerate(places):
        if (
            at is None
            or tokens[verb].kind != "word"
            or is_noun(comparison, tokens[verb])
            or not is_exact(comparison, verb)
        ):
            continue
        home = sources.sentence_of[at]
        inside = [(mine, place) for mine, place in nouns if sources.sentence_of[place] == home]
        before = [mine for mine, place in inside if mine < verb and place > at and not tokens[mine].preposition]
        after = [mine for mine, place in inside if mine > verb and place < at and not tokens[mine].preposition]
        voice = clauses[tokens[verb].clause].passive == sources.clauses[sources.clause_of[at]].passive
        if before and after and voice:
            together = tokens[before[0]].clause == tokens[verb].clause == tokens[after[0]].clause
            quoted = any(
                sign in comparison.document[sources.tokens[min(place for _, place in inside)].start :][:300]
                for sign in '“”"«»„'
            )
            if together and not quoted:
                yield between("role", tokens[before[0]], comparison.source(before[0]))
            return


def _agents(comparison: Comparison) -> Iterator[Difference]:
    """Who acts stands before the word for it, or after "by": neither may have taken the other's place."""
    by, places, sources = comparison.language.passive, comparison.alignment.places, comparison.alignment.sources
    for mine, token in enumerate(comparison.tokens):
        source = comparison.source(mine)
        if (
            source is None
            or (token.preposition in by) == (source.preposition in by)
            or not is_noun_in_both(comparison, mine)
        ):
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
            if acted:
                yield between("role", token, source)
            return


def _done_by(comparison: Comparison, text: str, tokens: Sequence[Token], agent: int) -> int | None:
    """The word that "by" belongs to: right before it, but for nouns that have a preposition themselves."""
    at = agent - 1
    while at >= 0 and tokens[at].preposition and is_noun(comparison, tokens[at]):
        at -= 1
    if at < 0 or not is_verb(comparison, tokens[at]) or tokens[at].before in comparison.language.determiners:
        return None
    return at if len(PART.findall(text[tokens[at].end : tokens[at + 1].start])) <= 2 else None
