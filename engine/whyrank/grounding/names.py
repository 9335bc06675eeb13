"""Finds names by their spelling: a capital letter that is not due to the start of a sentence."""

from __future__ import annotations

from collections.abc import Callable

from whyrank.grounding.scan import Items
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


def is_name(items: Items, place: int, language: Language, is_inside: Callable[[str], bool]) -> bool:
    """Of a word with a capital. `is_inside`: whether the document has it with a capital where none is due.

    In a text of a script without spaces, all Latin words are terms."""
    written, word = items.written[place], items.words[place]
    if sum(map(str.isupper, written)) > 1 and len(written) > 1:
        return not is_function_word(word)
    if language.name == "zh":
        return True
    if language.name == "de":
        return _is_german_name(items, place, language)
    if place == 0 or items.written[place - 1][-1] in _OPENERS:
        return is_inside(written) or _opens_name(items, place, language)
    return len(written) > 1 or _is_capital(items, place - 1, language) or _is_capital(items, place + 1, language)


def _opens_name(items: Items, place: int, language: Language) -> bool:
    """Anna Bell, but not "The Bell" or "Former President Obama", which may begin with any word."""
    if (
        len(items.written[place]) == 1
        or not _is_capital(items, place, language)
        or not _is_capital(items, place + 1, language)
    ):
        return False
    return not _is_capital(items, place + 2, language)


def _is_capital(items: Items, place: int, language: Language) -> bool:
    """A word with a capital that has no other part, right beside its neighbour."""
    if not 0 <= place < len(items.kinds) or items.kinds[place] != "word" or not items.written[place][0].isupper():
        return False
    entry = language.entries.get(items.words[place])
    return (entry is None or entry.kind == "word") and items.words[place] not in language.articles


def _is_german_name(items: Items, place: int, language: Language) -> bool:
    """After a preposition, or beside another capital that begins no known word."""
    if place and items.words[place - 1] in _GERMAN_BEFORE_NAMES:
        return not items.words[place].endswith(_GERMAN_NOUN_ENDINGS)
    opens = place == 0 or items.written[place - 1][-1] in _OPENERS
    beside = [other for other in (place - 1, place + 1) if _is_capital(items, other, language)]
    beside = [other for other in beside if len(items.written[other]) > 1 and (other or not opens)]
    return bool(beside) and len(items.written[place]) > 1
