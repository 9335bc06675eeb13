"""Who does what, and what is said of whom."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from whyrank.grounding.differences.comparison import PART, Comparison, Difference, between, is_exact
from whyrank.grounding.tokens import Clause
from whyrank.types import DifferenceKind

__all__ = ["joins", "roles"]


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
            yield between(kind, comparison.tokens[swapped], source, True)


def _blocks(row: list[int], comparison: Comparison) -> list[tuple[int, int]]:
    """First and last of each run that stands together in both texts: in Chinese, words; else, each word alone."""
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
    if not any(is_exact(comparison, first) for first, _ in between) or _moved_with_preposition(
        before, after, comparison
    ):
        return False
    values = [comparison.tokens[mine].value is not None for mine in (before, after)]
    if values[0] == values[1] and (values[0] or any(_compares(comparison, last) for _, last in between)):
        return True
    return not any(values) and all(_is_noun(comparison, mine) for mine in (before, after))


def _compares(comparison: Comparison, mine: int) -> bool:
    source = comparison.source(mine)
    following = PART.match(comparison.document, source.end + 1) if source is not None else None
    return following is not None and following.group().lower() in comparison.language.than


def _is_noun(comparison: Comparison, mine: int) -> bool:
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


def _moved_with_preposition(before: int, after: int, comparison: Comparison) -> bool:
    """One of them has kept its preposition: "von Janssen" and "in der Nacht" mean the same wherever they stand."""
    one, other = comparison.source(before), comparison.source(after)
    alike = comparison.tokens[before].preposition == comparison.tokens[after].preposition
    if alike and one is not None and other is not None and one.preposition == other.preposition:
        return False
    for mine in (before, after):
        token, source = comparison.tokens[mine], comparison.source(mine)
        if source is not None and token.preposition and token.preposition == source.preposition:
            return True
    return False


def joins(comparison: Comparison) -> Iterator[Difference]:
    """Within one clause, words of distant clauses take turns, or two clauses have exchanged their second halves."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    drawn: list[frozenset[int]] = []
    several = sum(bool(clause.tokens) for clause in alignment.reading.clauses) > 1
    if len(sources.first_clauses) == 1 and all(
        alignment.ordered[mine] for mine, place in enumerate(alignment.places) if place is not None
    ):
        return
    for clause in alignment.reading.clauses:
        places = [
            place
            for mine in clause.tokens
            if (place := alignment.places[mine]) is not None and not comparison.is_topic(comparison.tokens[mine])
        ]
        homes = [sources.sentence_of[place] for place in places]
        turns = sum(home != following for home, following in pairwise([*homes, -1]))
        often = [home for home in set(homes) if homes.count(home) >= 2]
        if (len(often) >= 2 and turns >= 3) or len(set(homes)) >= 3:
            yield _over(
                comparison,
                clause,
                "joined",
                comparison.share >= 0.95 and comparison.nearly_verbatim and _skips_subject(comparison, places),
            )
        elif len(often) >= 2 and not _is_coordinated(comparison, clause):
            yield _over(comparison, clause, "joined", False)
        yield from _jumps(comparison, clause)
        worded = any(comparison.tokens[mine].kind == "word" for mine in clause.tokens)
        drawn_from = (
            sources.clause_of[place]
            for mine in clause.tokens
            if (place := alignment.places[mine]) is not None and _is_once(comparison, place)
        )
        sources_drawn = frozenset(drawn_from) if worded and several else frozenset()
        if len(sources_drawn) >= 2 and sources_drawn in drawn and comparison.share >= 0.9:
            yield _over(comparison, clause, "role", True)
        drawn.append(sources_drawn)
    yield from _exchanged_subjects(comparison)


def _is_own_word(comparison: Comparison, mine: int) -> bool:
    return comparison.tokens[mine].kind == "word" and not comparison.is_topic(comparison.tokens[mine])


def _jumps(comparison: Comparison, clause: Clause) -> Iterator[Difference]:
    """From the verb of one sentence to an object of another one: "the storm destroyed the lighthouse"."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    row = [mine for mine in clause.tokens if alignment.places[mine] is not None]
    for mine, following in pairwise(row):
        one, other = alignment.places[mine] or 0, alignment.places[following] or 0
        if sources.sentence_of[one] == sources.sentence_of[other] or not _is_own_word(comparison, mine):
            continue
        skipped = comparison.free_beside(one, 1)
        if skipped and sources.tokens[skipped[0]].kind == "word" and not _is_coordinated(comparison, clause):
            yield between("joined", comparison.tokens[following], sources.tokens[skipped[0]], False)


def _exchanged_subjects(comparison: Comparison) -> Iterator[Difference]:
    """Two clauses of which each opens with a word of the other one's source."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    opened: list[tuple[int, int | None]] = []
    if sum(bool(clause.tokens) for clause in alignment.reading.clauses) < 2 or all(alignment.ordered):
        return
    for clause in alignment.reading.clauses:
        homes = [
            sources.clause_of[place]
            for mine in clause.tokens
            if (place := alignment.places[mine]) is not None and _is_once(comparison, place)
        ]
        beginning = next(sources.tokens_of(homes[0]), None) if homes else None
        if (
            beginning is None
            or beginning not in {alignment.places[mine] for mine in clause.tokens}
            or len(clause.tokens) < 2
        ):
            continue
        rest = max(set(homes[1:]), key=homes[1:].count, default=None)
        for first, other in opened:
            crossed = first != homes[0] and other == homes[0] and rest in (None, first)
            if crossed and comparison.share >= 0.9:
                yield _over(comparison, clause, "role", True)
        if rest != homes[0]:
            opened.append((homes[0], rest))


def _is_once(comparison: Comparison, place: int) -> bool:
    """The sentence has the word in no other place."""
    sources = comparison.alignment.sources
    source, home = sources.tokens[place], sources.sentence_of[place]
    others = (token for at, token in enumerate(sources.tokens) if at != place and sources.sentence_of[at] == home)
    return source.value is not None or all(other.key != source.key for other in others)


def _is_coordinated(comparison: Comparison, clause: Clause) -> bool:
    """Two sentences may well be joined by "and" or "with"."""
    text = comparison.text[comparison.tokens[clause.tokens[0]].start : comparison.tokens[clause.tokens[-1]].end].lower()
    return any(word in comparison.language.joiners for word in PART.findall(text))


def _skips_subject(comparison: Comparison, places: list[int]) -> bool:
    """A clause of the source is drawn on without its first word, which the evidence does not have anywhere."""
    sources, keys = comparison.alignment.sources, {token.key for token in comparison.tokens}
    for number in {sources.clause_of[place] for place in places}:
        first = sources.tokens[next(sources.tokens_of(number))]
        if first.key not in keys and not comparison.is_topic(first):
            return True
    return False


def _over(comparison: Comparison, clause: Clause, kind: DifferenceKind, certain: bool) -> Difference:
    first, last = comparison.tokens[clause.tokens[0]], comparison.tokens[clause.tokens[-1]]
    return Difference(kind, first.start, last.end, certain=certain)
