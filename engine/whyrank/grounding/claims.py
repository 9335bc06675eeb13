"""What in a text can be checked to the letter, and whether another text holds it: links, code, dates, numbers, names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Literal, NamedTuple

from whyrank.grounding.quantities import Quantities, dates, numbers
from whyrank.grounding.words import UNSPACED_SCRIPTS, Passage, Vocabulary, Word, fold, is_function_word, is_unspaced

__all__ = ["Claim", "Reference", "claims"]

Kind = Literal["number", "date", "url", "code", "name"]
Found = Iterator[tuple[int, int, bool]]
"""Start, end, and whether the reference holds it."""


class Claim(NamedTuple):
    kind: Kind
    start: int
    end: int
    held: bool


class Reference:
    """What claims are held against. Each form of it is made when the first claim of its kind comes up."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self.text, self.vocabulary = text, vocabulary
        self.quantities = Quantities(text)

    @cached_property
    def _lowered(self) -> str:
        return self.text.lower()

    @cached_property
    def _tokens(self) -> str:
        return _as_tokens(self.text)

    def holds_url(self, url: str) -> bool:
        return any(
            url == found
            for start in _places_of(url, self._lowered)
            for _, _, found in _found_urls(self._lowered[max(0, start - 80) : start + len(url) + 9])
        )

    def holds_code(self, code: str) -> bool:
        """From token to token, however both are spaced: get is not in get_all."""
        tokens, start = _as_tokens(code), self.text.find(code)
        as_it_stands = self.text[max(0, start - 1) : start + len(code) + 1] if start >= 0 else ""
        return tokens in _as_tokens(as_it_stands) or tokens in self._tokens


_MOST_TRIES = 500  # a link that stands oftener than this is not looked at everywhere


def _places_of(part: str, text: str) -> Iterator[int]:
    start = text.find(part)
    for _ in range(_MOST_TRIES):
        if start < 0:
            break
        yield start
        start = text.find(part, start + 1)


def claims(passage: Passage, reference: Reference, language: str | None) -> Iterator[Claim]:
    """None overlaps another: the year of a date is no number of its own."""
    text = passage.text
    finders: tuple[tuple[Kind, Found], ...] = (
        ("url", _urls(text, reference)),
        ("code", _code(text, reference)),
        ("date", _dates(text, reference.quantities)),
        ("number", _numbers(text, reference.quantities)),
        ("name", _names(passage, reference.vocabulary, language)),
    )
    taken = bytearray(len(text))
    for kind, found in finders:
        for start, end, held in found:
            if 1 not in taken[start:end]:
                taken[start:end] = b"\1" * (end - start)
                yield Claim(kind, start, end, held)


# The look-behind keeps a long word without an @ from being tried at each of its letters.
_URL = re.compile(
    r"(?:https?://|www\.)[^\s\u00a0<>\"'`\u3000-\u9fff\uff00-\uffef]+|(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+",
    re.ASCII | re.IGNORECASE,
)


def _found_urls(text: str) -> Iterator[tuple[int, int, str]]:
    """With the link as it is compared: without scheme, case and final slash."""
    if not any(sign in text for sign in ("://", "www.", "WWW.", "@")):
        return
    for match in _URL.finditer(text):
        url = match.group().rstrip(".,;:!?*_’”»]")
        unopened = min(url.count(")") - url.count("("), len(url) - len(url.rstrip(")")))
        url = url[: len(url) - max(0, unopened)]
        yield match.start(), match.start() + len(url), url.lower().split("://")[-1].rstrip("/")


def _urls(text: str, reference: Reference) -> Found:
    return ((start, end, reference.holds_url(url)) for start, end, url in _found_urls(text))


# By its looks: in backticks, --flag, dotted.name, snake_case, call(), camelCase.
_CODE = re.compile(
    r"`([^`\n]{1,300})`|(?<![\w-])--[a-zA-Z][\w-]*|(?<![\w.])(?:[a-zA-Z_]\w*(?:(?:\.|::|->)[a-zA-Z_]\w+)+|[a-zA-Z]\w*_\w+"
    r"|[a-zA-Z_]\w*(?=\(\))|[a-z]+[A-Z]\w*|[A-Z][a-z0-9]+[A-Z]\w*)",
    re.ASCII,
)
_TOKEN = re.compile(r"--\w[\w-]*|\w+|[^\s\w]", re.ASCII)


def _as_tokens(text: str) -> str:
    return f" {' '.join(_TOKEN.findall(text))} "


def _code(text: str, reference: Reference) -> Found:
    for match in _CODE.finditer(text):
        start, end = match.span(1 if match[1] else 0)
        code = text[start:end].removesuffix("()")
        is_word = code.isalnum() and reference.vocabulary.holds_name(fold(code))
        yield start, end, is_word or reference.holds_code(code)


def _dates(text: str, quantities: Quantities) -> Found:
    return ((start, end, any(map(quantities.holds_date, readings))) for start, end, readings in dates(text))


def _numbers(text: str, quantities: Quantities) -> Found:
    return ((start, end, quantities.holds_number(number)) for start, end, number in numbers(text))


_OPENING = frozenset("\"'“„«‘「『:")
_GERMAN_BEFORE_NAMES = frozenset({"in", "aus", "nach", "von", "bei", "zwischen"})
_GERMAN_NOUN = re.compile(r".*(?:ung|heit|keit|schaft|tion|tät|nis|tum|mus|ment)(?:en)?")


def _names(passage: Passage, vocabulary: Vocabulary, language: str | None) -> Found:
    """Words with capitals; in a text of a script without spaces, all Latin words, since there they are terms."""
    text, among_unspaced = passage.text, language in UNSPACED_SCRIPTS
    for start, end in passage.sentences:
        inside = [word for word in passage.inside(start, end) if not is_unspaced(word[2])]
        for run in _runs(text, inside, among_unspaced):
            name = run if among_unspaced else _without_opening(text, run, run[0] is inside[0], vocabulary)
            if len(name) == 1 and language == "de" and not _is_german_name(text, inside, name[0]):
                continue
            if name:
                yield name[0][0], name[-1][1], all(vocabulary.holds_name(folded) for _, _, folded in name)


def _runs(text: str, inside: list[Word], among_unspaced: bool) -> Iterator[list[Word]]:
    """Neighbours that look like one name."""
    run: list[Word] = []
    for word in inside:
        first = text[word[0]]
        looks_like_name = first.isascii() and first.isalpha() if among_unspaced else first.isupper()
        if run and not (looks_like_name and text[run[-1][1] : word[0]] in (" ", "-", "\u00a0")):
            yield run
            run = []
        if looks_like_name:
            run.append(word)
    if run:
        yield run


def _without_opening(text: str, run: list[Word], is_first: bool, vocabulary: Vocabulary) -> list[Word]:
    """Without what may have its capital from the start of a sentence only. One such word alone may be any word."""
    opens = is_first or text[max(0, run[0][0] - 2) : run[0][0]].strip()[-1:] in _OPENING
    if is_function_word(run[0][2]):
        run, opens = run[1:], False
    if opens and (len(run) > 2 or len(run[0][2]) == 1) and not vocabulary.holds_name(run[0][2]):
        run, opens = run[1:], False  # "Former President Obama"
    alone = len(run) == 1 and not _has_name_looks(text, run[0])
    return [] if alone and (opens or len(run[0][2]) == 1) else run


def _has_name_looks(text: str, word: Word) -> bool:
    """An acronym or a word with digits is a name anywhere."""
    written = text[word[0] : word[1]]
    return sum(map(str.isupper, written)) > 1 or not written.isalpha()


def _is_german_name(text: str, inside: list[Word], word: Word) -> bool:
    place = inside.index(word)
    after_preposition = place > 0 and inside[place - 1][2] in _GERMAN_BEFORE_NAMES
    return _has_name_looks(text, word) or (after_preposition and not _GERMAN_NOUN.fullmatch(word[2]))
