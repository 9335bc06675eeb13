"""Amounts as written in a text: a number with the scale and the unit after it, or the currency before it."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

from whyrank.grounding.numerals import readings_of
from whyrank.grounding.tables import SCALES, UNITS, Language
from whyrank.grounding.values import Amount, Unit

__all__ = ["amount_of", "amount_of_digits", "fixed_amount"]

_CURRENCIES = "€$£¥"
_CASED = frozenset(
    {"a", "v", "w", "ma", "pa", "mpa", "to", "go", "mo", "ko", "b", "j", "mi"}
)  # a unit only with a capital
_UNIT_WORD = re.compile(
    r"[ \u00a0\u202f-]{0,2}(?:de |d['’])?([%％‰€$£¥℃]|°?[CF](?![a-zA-Z])|[^\W\d_\u3000-\u9fff]+[²³23]?"
    r"(?:/[^\W\d_\u3000-\u9fff]+[²³3]?)?|[\u3000-\u9fff]+(?:/[\u3000-\u9fff]+)?)"
)
_NEXT_WORD = re.compile(r"[ \u00a0-]([^\W\d_]+)")
_PER = re.compile(r"(?:/| (?:per|pro|par|por) |每)")
_UNCOUNTED = ("time", "months", "share")  # "per day" is an amount of its own: a day


def amount_of_digits(text: str, start: int, end: int, language: Language) -> tuple[Amount, int] | None:
    """None: it is no number but a version or an address."""
    plain, step = readings_of(text[start:end], language.point)
    if not plain:
        return None
    return amount_of(plain, text, end, language, step, text[max(0, start - 2) : start].strip()[-1:])


def amount_of(
    plain: tuple[float, ...], text: str, end: int, language: Language, step: float = 0.0, before: str = ""
) -> tuple[Amount, int]:
    """The amount with scale and unit from the text after the number, and where these end."""
    scale = 1.0
    name, after = _name_at(text, end, SCALES, language)
    if name:
        scale, end = SCALES[name], after
        plain = tuple(value * scale for value in plain)
    amount = Amount(plain, plain, None, None, step * scale, scale)
    name, after = _name_at(text, end, UNITS, language)
    if name:
        return _with_divisor(amount.with_unit(UNITS[name]), text, after, language)
    if before and before in _CURRENCIES:
        return _with_divisor(amount.with_unit(UNITS[before]), text, end, language)
    return amount, end


def _with_divisor(amount: Amount, text: str, end: int, language: Language) -> tuple[Amount, int]:
    """18 pence per kWh."""
    match = _PER.match(text, end)
    if match:
        name, after = _name_at(text, match.end(), UNITS, language)
        if name and UNITS[name].dimension not in _UNCOUNTED:
            return amount._replace(per=UNITS[name]), after
    return amount, end


def _name_at(text: str, end: int, table: Container[str], language: Language) -> tuple[str, int]:
    match = _UNIT_WORD.match(text, end)
    if not match:
        return "", end
    written, start = match[1], match.start(1)
    word = written.lower()
    if written in ("C", "F") and f"°{word}" in table:
        return f"°{word}", start + 1
    if word[0] >= "\u3000" and language.name == "zh":  # what follows is not set off by a space
        name = next((word[:size] for size in range(min(6, len(word)), 0, -1) if word[:size] in table), "")
        return name, start + len(name)
    if word in _FIRST_WORDS:
        for longer in _longer_names(text, word, match.end()):
            if longer[0] in table:
                return longer
    if word not in table and "/" in word:
        word = word.split("/")[0]
    if word not in table or (word in _CASED and written.islower()) or (word == "an" and language.name != "fr"):
        return "", end
    return word, start + len(word)


def _longer_names(text: str, word: str, end: int) -> Iterator[tuple[str, int]]:
    """Units of several words, longest first: square metres, degrees Celsius."""
    readings = [(word, end)]
    while len(readings) < 4 and (following := _NEXT_WORD.match(text, end)):
        word, end = f"{word} {following[1].lower()}", following.end()
        readings.append((word, end))
    yield from reversed(readings[1:])


_FIRST_WORDS = frozenset(name.split(" ")[0] for name in UNITS if " " in name)


def fixed_amount(value: float, unit: str) -> Amount:
    return Amount((value,), (value,)).with_unit(UNITS.get(unit))


def one_of(unit: Unit) -> Amount:
    """ "A day", "daily", "per day"."""
    return Amount((1.0,), (1.0,)).with_unit(unit)
