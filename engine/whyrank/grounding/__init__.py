"""Evidence held against its document: which sentences are backed, and which numbers, names and links are not there.

Evidence is a rewrite, so nothing here looks for quotes. Three questions, each answered by counting, without a model:

- *Which sentences are backed?* Those whose content words stand together in one or two sentences of the document.
- *What is made up?* What can be checked to the letter (dates, numbers, links, code, names) and is not there.
- *Did the model go astray?* The rule gates of the Prism author's own audit, as flags.

It sees no negation turned round and no two facts of the document wrongly joined. It finds no name that is one word at the
start of a sentence, none in scripts without capitals, and in German, where every noun has a capital, only names of several
words, with several capitals, or after "in", "aus" and their like. Numbers in words are words to it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from whyrank.grounding.claims import Claim, Reference, claims
from whyrank.grounding.words import (
    UNSPACED_SCRIPTS,
    Passage,
    Vocabulary,
    content_keys,
    folded_words,
    is_unspaced,
    language_of,
    may_be_same_language,
    sentences,
)
from whyrank.types import Grounding, GroundingFlag, SourceSpan, Unsupported

__all__ = ["ground"]

# Tuned on tests/data/grounding/pairs.toml.
_BACKED = 0.55  # least similarity of a backed sentence
_ELSEWHERE = 0.3  # what a word counts that the document holds, but not where the rest of the sentence stands
_MOST_ADDED = 3  # words in a row that the document lacks: more is an added claim, however well the rest is backed
_MOST_ADDED_PAIRS = 5  # the same for scripts without spaces, in pairs of neighbouring characters
_MOST_VOTES = 64  # a word that stands in more sentences says little about which one is meant

# The audit's gates.
_CHECKED_SHARE = 0.9
_REPEATED_SHARE = 0.3
_REPEATED_LENGTH = 6
_LENGTH_SHARE = 0.7
# A shorter document (in a script without spaces, one of half the length) may well be relevant as a whole.
_LONG_DOCUMENT = 400
_LONGEST_EVIDENCE = 50_000  # characters; what comes after is no passage but an accident, and is not looked at


def ground(evidence: str, document: str, query: str = "") -> Grounding:
    """`supported`: share of the evidence's visible characters in backed sentences without anything unsupported.

    `spans` has each backed sentence once, or twice where it joins two distant sentences of the document. Sentences without
    content words ("Yes.") are left out of the share. What the query says is neither support nor made up.
    """
    passage, source = Passage(evidence[:_LONGEST_EVIDENCE]), _Source(document, query)
    language = language_of(evidence, passage.folded)
    checked = list(claims(passage, Reference(f"{document}\n{query}", source.vocabulary), language))
    unsupported = _unsupported(evidence, checked)
    spans, supported = _backing(passage, source, unsupported)
    supported *= len(passage.text) / max(1, len(evidence))
    flags = tuple(_flags(passage, len(evidence), language, checked, source))
    return Grounding(supported, spans, unsupported, flags)


def _unsupported(evidence: str, checked: Sequence[Claim]) -> tuple[Unsupported, ...]:
    missing = sorted((claim for claim in checked if not claim.held), key=lambda claim: claim.start)
    return tuple(Unsupported(kind, evidence[start:end], start, end) for kind, start, end, _ in missing)


class _Source:
    """The document's content words and the sentences that hold them. The query's words ask for nothing."""

    def __init__(self, document: str, query: str) -> None:
        self.document, self.query = document, query
        self.sentences = list(sentences(document))
        self.words: list[str] = []
        self._places: dict[str, set[int]] = {}
        for place, (start, end) in enumerate(self.sentences):
            words = folded_words(document[start:end])
            self.words += words
            for key in content_keys(words):
                if key in self._places:
                    self._places[key].add(place)
                else:
                    self._places[key] = {place}
        query_words = folded_words(query)
        self.query_keys = frozenset(content_keys(query_words))
        self.vocabulary = Vocabulary(chain(self._places, query_words))

    def places(self, key: str) -> set[int]:
        """Numbers of the sentences that hold the word, or else another form of it."""
        if key in self._places:
            return self._places[key]
        return set().union(*(self._places.get(other, ()) for other in self.vocabulary.of_same_stem(key)))


def _backing(
    passage: Passage, source: _Source, unsupported: Sequence[Unsupported]
) -> tuple[tuple[SourceSpan, ...], float]:
    starts = [start for start, _ in passage.sentences]
    tainted = {bisect_right(starts, item.start) - 1 for item in unsupported}
    spans: list[SourceSpan] = []
    all_characters = good_characters = 0
    for place, (start, end) in enumerate(passage.sentences):
        keys = list(content_keys(word for _, _, word in passage.inside(start, end)))
        if not keys:
            continue
        characters = len("".join(passage.text[start:end].split()))
        all_characters += characters
        similarity, held_by = _align(keys, source)
        if similarity >= _BACKED:
            spans += (SourceSpan(start, end, *stretch, similarity) for stretch in _stretches(held_by, source))
            good_characters += characters if place not in tainted else 0
    return tuple(spans), good_characters / all_characters if all_characters else 0.0


def _align(keys: Sequence[str], source: _Source) -> tuple[float, list[int]]:
    """Share of the content words that one or two sentences of the document hold, and which ones. 0: a claim is added."""
    found = {key: source.places(key) for key in keys}
    rest = {key: places for key, places in found.items() if places or key not in source.query_keys}
    if not rest or _adds_claim(keys, rest):
        return 0.0, []
    total, held, held_by = len(rest), 0.0, []
    for least in (1, 2):  # a second sentence has to hold two words more
        votes: dict[int, int] = {}
        for places in rest.values():
            for place in islice(places, _MOST_VOTES):
                votes[place] = votes.get(place, 0) + 1
        best = min(votes, key=lambda place: (-votes[place], place), default=0)
        count = votes.get(best, 0)
        if count < least:
            break
        held_by.append(best)
        held += count
        rest = {key: places for key, places in rest.items() if best not in places}
    held += _ELSEWHERE * sum(map(bool, rest.values()))
    return held / total, sorted(held_by)


def _adds_claim(keys: Sequence[str], found: dict[str, set[int]]) -> bool:
    run = 0
    for key in keys:
        run = run + 1 if key in found and not found[key] else 0
        if run > (_MOST_ADDED_PAIRS if is_unspaced(key) else _MOST_ADDED):
            return True
    return False


def _stretches(held_by: Sequence[int], source: _Source) -> Iterator[tuple[int, int]]:
    """Two neighbouring sentences are one stretch."""
    first, last = held_by[0], held_by[-1]
    if last - first <= 1:
        yield source.sentences[first][0], source.sentences[last][1]
    else:
        yield from (source.sentences[place] for place in held_by)


def _flags(
    passage: Passage, length: int, language: str | None, checked: Sequence[Claim], source: _Source
) -> Iterator[GroundingFlag]:
    if checked and sum(claim.held for claim in checked) < _CHECKED_SHARE * len(checked):
        yield "unsupported_entities"
    unspaced = language in UNSPACED_SCRIPTS
    words = passage.folded
    if _repeated_share(list("".join(words)) if unspaced else words) > _REPEATED_SHARE:
        yield "repetition"
    long = len(source.document) >= (_LONG_DOCUMENT // 2 if unspaced else _LONG_DOCUMENT)
    if long and length > _LENGTH_SHARE * len(source.document):
        yield "too_long"
    # A document in several languages is answered in the query's.
    expected = language_of(source.document, source.words) or language_of(source.query, folded_words(source.query))
    if language and expected and not may_be_same_language(language, expected):
        yield "language"


def _repeated_share(words: Sequence[str]) -> float:
    """Of the runs of six words (characters, in a script without spaces), those that are not the first of their kind."""
    runs = list(zip(*(words[i:] for i in range(_REPEATED_LENGTH)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
