"""A document that evidence is compared with: its sentences, the words of each, and their readings, computed when needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice, takewhile

from whyrank.grounding.proof import Unit, proves, units_of
from whyrank.grounding.reading import read
from whyrank.grounding.scan import holds_code, squeezed
from whyrank.grounding.tables import LANGUAGES, Language, language_table
from whyrank.grounding.tokens import Reading, Token
from whyrank.grounding.values import Value, same_value
from whyrank.grounding.words import Vocabulary, content_keys, folded_words, sentences, table_language

__all__ = ["MAX_TOKENS", "Source", "plain"]

_MAX_VOTES = 64  # a word that stands in more sentences says little about which one is meant
_MAX_SOURCES = 3  # sentences that one sentence of the evidence may draw on
_TOPIC_SENTENCES = 3  # a word in so many sentences is what the document is about
MAX_TOKENS = 240  # a longer sentence is no sentence, and is not compared
_SHORT = 40  # words: too few for the commonest function words to tell the language
_MAX_VALUES = 40  # that are added and subtracted
_MAX_READ = 200  # sentences in which a value is looked for


class Source:
    """The query's words count as the document's topic and need no support."""

    def __init__(self, document: str, query: str) -> None:
        self.document, self.query = document, query
        self.sentences = list(sentences(document))
        self.words: list[str] = []
        self._places = places = dict[str, set[int]]()
        self._readings: dict[int, Reading] = {}
        self._units: dict[int, list[Unit]] = {}
        self._known: dict[Value, bool] = {}
        for place, (start, end) in enumerate(self.sentences):
            words = folded_words(document[start:end])
            self.words += words
            for key in content_keys(words):
                if key in places:
                    places[key].add(place)
                else:
                    places[key] = {place}
        self.query_words = folded_words(query)
        self.query_keys = frozenset(content_keys(self.query_words))
        self.vocabulary = Vocabulary(chain(self._places, self.query_words))

    @cached_property
    def language(self) -> Language:
        """Of a short text, the one whose tables know most of its words."""
        likeliest = table_language(self.document, self.words)
        if len(self.words) >= _SHORT or likeliest not in LANGUAGES:
            return language_table(likeliest)
        tables = [language_table(likeliest), *(language_table(name) for name in LANGUAGES if name != likeliest)]
        return max(tables, key=lambda table: sum(word in table.known for word in self.words))

    def places(self, key: str) -> set[int]:
        """Numbers of the sentences that hold the word, or else another form of it."""
        if key in self._places:
            return self._places[key]
        return set().union(*(self._places.get(other, ()) for other in self.vocabulary.of_same_stem(key)))

    def best_sentences(self, places_of: dict[str, set[int]]) -> list[int]:
        """Those that hold most of the words, rare ones counting more. A further one has to hold two words more."""
        rest, chosen = dict(places_of), []
        for fewest in (1, *[2] * (_MAX_SOURCES - 1)):
            if len(rest) < fewest:
                break
            votes: dict[int, float] = {}
            for places in rest.values():
                weight = 1 + 1 / len(places) if places else 1.0
                for place in places if len(places) <= _MAX_VOTES else islice(places, _MAX_VOTES):
                    votes[place] = votes.get(place, 0.0) + weight
            best = min(votes, key=lambda place: (-votes[place], place), default=0)
            if sum(best in places for places in rest.values()) < fewest:
                break
            chosen.append(best)
            rest = {key: places for key, places in rest.items() if best not in places}
        return sorted(chosen)

    def is_name(self, written: str) -> bool:
        """It has its capital inside a sentence as well; in German, all nouns have one."""
        if self.language.name == "de":
            return False
        end = -1
        for _ in range(_MAX_VOTES):
            end = self.document.find(f" {written}", end + 1)
            if end < 1:
                break
            after = self.document[end + len(written) + 1 : end + len(written) + 2]
            if not after.isalnum() and (self.document[end - 1].isalnum() or self.document[end - 1] in ",;"):
                return True
        return False

    def reading(self, place: int) -> Reading:
        if place not in self._readings:
            reading = read(self.document, *self.sentences[place], self.language, self.is_name)
            self._readings[place] = (
                reading if len(reading.tokens) <= MAX_TOKENS else replace(reading, tokens=[], clauses=[])
            )
        return self._readings[place]

    def quoted_from(self, sentence: str, places: Sequence[int]) -> int | None:
        """Which of these sentences it is, to the letter and whole; a part of one may leave out what matters."""
        wanted = plain(sentence)
        return next((place for place in places if plain(self.document[slice(*self.sentences[place])]) == wanted), None)

    def proven_by(
        self, reading: Reading, text: str, chosen: Sequence[int], places_of: dict[str, set[int]]
    ) -> tuple[int, int] | None:
        """The first and the last of the sentences that the sentence just repeats, up to what changes nothing."""
        excused = set(self.language.proof.known)
        for token in reading.tokens:
            if token.kind != "word" or token.named:
                excused.update(folded_words(text[token.start : token.end]))
        needed = [places for key, places in places_of.items() if key not in excused and key < "\u0e00"]
        likely = [first for first in chosen if _are_in_order(needed, first)]
        claim = units_of(text, reading, self.language) if likely else []
        for first in likely:
            last = min(len(self.sentences), first + _MAX_SOURCES)
            row = takewhile(bool, map(self._units_of, range(first, last)))
            count = proves(claim, row, self.language, self._first_names)
            if count is not None:
                return first, first + count - 1
        return None

    def _first_names(self, name: str) -> set[str]:
        """The words with a capital that stand before this one."""
        found = re.findall(rf"(?<!\w)([^\W\d_]+)\.? {re.escape(name)}(?!\w)", self.document, re.IGNORECASE)
        return {word.lower() for word in found if word.istitle() and word.lower() not in self.language.functions}

    def _units_of(self, place: int) -> list[Unit]:
        if place not in self._units:
            reading = self.reading(place)
            self._units[place] = units_of(self.document, reading, self.language) if reading.tokens else []
        return self._units[place]

    @cached_property
    def plain_sentences(self) -> frozenset[str]:
        return frozenset(plain(self.document[start:end]) for start, end in self.sentences)

    @cached_property
    def _first_sentence(self) -> str:
        return self.document[slice(*self.sentences[0])] if self.sentences else ""

    @cached_property
    def _first_words(self) -> frozenset[str]:
        return frozenset(folded_words(self._first_sentence))

    def is_topic(self, token: Token, word: str) -> bool:
        """A word that a sentence may have from its context: what the document, or the question, is about."""
        if token.value is not None:
            return any(same_value(token.value, other.value) for other in self._query_tokens)
        if token.kind == "code":
            return token.key in self._first_sentence.lower()
        if word >= "\u3000" and len(word) <= 2:
            return word in self._first_sentence
        if word in self._first_words or word in self.query_keys or len(self._places.get(word, ())) >= _TOPIC_SENTENCES:
            return True
        return len(word) > 1 and len(self.places(word)) >= _TOPIC_SENTENCES

    def knows(self, token: Token, word: str) -> bool:
        if token.value is not None:
            if token.value not in self._known:
                tokens = chain(self._query_tokens, *(self.reading(place).tokens for place in self._some_places))
                self._known[token.value] = any(same_value(token.value, other.value) for other in tokens)
            return self._known[token.value]
        if token.kind == "code":
            return holds_code(token.key, self._without_spaces)
        return word in self._lowered if word >= "\u0e00" else bool(self.places(word)) or word in self.query_keys

    def values(self) -> list[Value]:
        values = (token.value for place in self._some_places for token in self.reading(place).tokens)
        return list(islice((value for value in values if value is not None), _MAX_VALUES))

    @cached_property
    def _lowered(self) -> str:
        return self.document.lower()

    @cached_property
    def _without_spaces(self) -> str:
        return squeezed(f"{self._lowered} {self.query.lower()}")

    @cached_property
    def _query_tokens(self) -> list[Token]:
        return read(self.query, 0, len(self.query), self.language, self.is_name).tokens[:MAX_TOKENS]

    @property
    def _some_places(self) -> Sequence[int]:
        return range(min(len(self.sentences), _MAX_READ))


def _are_in_order(places_of_words: Sequence[set[int]], place: int) -> bool:
    """Whether each word stands in this sentence or a following one, never before the word before it; quicker than a proof."""
    last = place + _MAX_SOURCES
    for places in places_of_words:
        while place not in places:
            place += 1
            if place == last:
                return False
    return True


def plain(sentence: str) -> str:
    return " ".join(sentence.lower().split()).strip(" .;:!?。！？；…\"'“”«»")
