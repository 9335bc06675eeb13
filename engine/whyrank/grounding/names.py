"""Finds names by their spelling: a capital letter that is not due to the start of a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from whyrank.grounding.scan import Item
from whyrank.grounding.tables import Language
from whyrank.grounding.words import is_function_word

__all__ = ["is_name"]

_OPENERS = frozenset(":.…“«!?\"'‘„「『")
_GERMAN_BEFORE_NAMES = frozenset(
    {"in", "aus", "nach", "von", "bei", "zwischen", "herr", "herrn", "frau", "firma", "dr", "prof"}
)
_GERMAN_NOUN_ENDINGS = (
    "ung",
    "heit",
    "keit",
    "schaft",
    "tion",
    "tät",
    "nis",
    "tum",
    "mus",
    "ment",
    "ungen",
    "heiten",
    "keiten",
)


def is_name(items: Sequence[Item], place: int, language: Language, is_inside: Callable[[str], bool]) -> bool:
    """Of a word with a capital. `is_inside`: whether the document has it with a capital where none is due.

    In a text of a script without spaces, all Latin words are terms."""
    written, word = items[place].written, items[place].word
    if sum(map(str.isupper, written)) > 1 and len(written) > 1:
        return not is_function_word(word)
    if language.name == "zh":
        return True
    if language.name == "de":
        return _is_german_name(items, place, language)
    if place == 0 or items[place - 1].written[-1] in _OPENERS:
        return is_inside(written) or _opens_name(items, place, language)
    return len(written) > 1 or _is_capital(items, place - 1, language) or _is_capital(items, place + 1, language)


def _opens_name(items: Sequence[Item], place: int, language: Language) -> bool:
    """Anna Bell, but not "The Bell" or "Former President Obama", which may begin with any word."""
    if (
        len(items[place].written) == 1
        or not _is_capital(items, place, language)
        or not _is_capital(items, place + 1, language)
    ):
        return False
    return not _is_capital(items, place + 2, language)


def _is_capital(items: Sequence[Item], place: int, language: Language) -> bool:
    """A word with a capital that has no other part, right beside its neighbour."""
    if not 0 <= place < len(items) or items[place].kind != "word" or not items[place].written[0].isupper():
        return False
    entry = language.entries.get(items[place].word)
    return (entry is None or entry.kind == "word") and items[place].word not in language.articles


def _is_german_name(items: Sequence[Item], place: int, language: Language) -> bool:
    """After a preposition, or beside another capital that begins no known word."""
    if place and items[place - 1].word in _GERMAN_BEFORE_NAMES:
        return not items[place].word.endswith(_GERMAN_NOUN_ENDINGS)
    opens = place == 0 or items[place - 1].written[-1] in _OPENERS
    beside = [other for other in (place - 1, place + 1) if _is_capital(items, other, language)]
    beside = [other for other in beside if len(items[other].written) > 1 and (other or not opens)]
    return bool(beside) and len(items[place].written) > 1
