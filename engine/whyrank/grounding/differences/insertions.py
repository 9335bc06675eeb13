"""Words that the source lacks, where they are added to it or stand for a name."""

from __future__ import annotations

from collections.abc import Iterator

from whyrank.grounding.differences.comparison import (
    ENOUGH,
    PART,
    Comparison,
    Difference,
    between,
    is_exact,
)
from whyrank.grounding.tokens import Token

__all__ = ["inserted_words"]


def inserted_words(comparison: Comparison) -> Iterator[Difference]:
    alignment = comparison.alignment
    missing = [
        mine for mine, token in enumerate(comparison.tokens) if alignment.places[mine] is None and token.kind == "word"
    ]
    for mine in missing:
        token = comparison.tokens[mine]
        gap = [alignment.sources.tokens[place] for place in comparison.gap(mine)]
        unit = next((other for other in gap if other.key.startswith("unit ")), None)
        if token.key.startswith("unit ") and unit is not None and comparison.share >= ENOUGH:
            yield between("unit", token, unit)
        named = next((other for other in gap if other.named), None)
        if token.light or (comparison.is_topic(token) and not (token.named and named and comparison.share >= 0.9)):
            continue
        known = comparison.is_known(token)
        if (
            comparison.share >= ENOUGH
            and (token.named or (named and comparison.text[token.start].isupper()))
            and (not known or named)
        ):
            if not known or len(gap) <= 2:
                yield between("name", token, named)
        elif _is_other_name(comparison, mine, gap):
            yield between("name", token, gap[0])
        elif not gap and (not known or _is_joined(comparison, mine)) and _is_insertion(comparison, mine):
            yield between("inserted", token, None)


def _is_other_name(comparison: Comparison, mine: int, gap: list[Token]) -> bool:
    """Two or more Chinese characters that the document lacks, for as many others, in a sentence that is otherwise the same."""
    tokens, places = comparison.tokens, comparison.alignment.places
    if comparison.language.name != "zh" or comparison.ordered_share < 0.85 or len(gap) < 2:
        return False
    run = [
        i for i in (mine - 1, mine, mine + 1) if 0 <= i < len(tokens) and places[i] is None and tokens[i].kind == "word"
    ]
    missing = sum(place is None for place in places)
    return len(run) >= 2 and missing == len(gap) and not any(comparison.is_known(tokens[i]) for i in run)


def _is_appended(comparison: Comparison, before: int) -> bool:
    """Nothing but new words follows a sentence that is there in full."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    sentence = [at for at, home in enumerate(sources.sentence_of) if home == sources.sentence_of[before]]
    whole = all(at in alignment.used or sources.tokens[at].light for at in sentence)
    missing = [at for at, place in enumerate(alignment.places) if place is None]
    return before == sentence[-1] and whole and len(missing) == len(alignment.places) - missing[0]


def _is_insertion(comparison: Comparison, mine: int) -> bool:
    """It stands in a run between words that stand side by side in the source, whose clause is there in full."""
    alignment, tokens, sources = comparison.alignment, comparison.tokens, comparison.alignment.sources
    before, after = comparison.neighbours(mine)
    if before is not None and after is None and comparison.language.name != "zh":
        return _is_appended(comparison, before)
    if before is None or after is None or after != before + 1:
        return False
    left = next(i for i in range(mine - 1, -1, -1) if alignment.places[i] is not None)
    right = next(i for i in range(mine + 1, len(tokens)) if alignment.places[i] is not None)
    others = sum(place is None for place in alignment.places) - (right - left - 1)
    whole = all(at in alignment.used or sources.tokens[at].light for at in sources.tokens_of(sources.clause_of[before]))
    if others > len(tokens) // 5 or not whole:
        return False
    if comparison.language.name == "zh" and not (is_exact(comparison, left) and is_exact(comparison, right)):
        return False
    here = comparison.text[tokens[left].end : tokens[right].start].lower()
    there = comparison.document[sources.tokens[before].end : sources.tokens[after].start].lower()
    return set(PART.findall(there)) <= set(PART.findall(here))


def _is_joined(comparison: Comparison, mine: int) -> bool:
    """A further item of a list: "and the port"."""
    left = comparison.tokens[mine - 1].end if mine else 0
    between_words = PART.findall(comparison.text[left : comparison.tokens[mine].start].lower())
    return any(word in comparison.language.joiners for word in between_words)
