"""Amounts and times of day as values: 90 minutes are 1.5 h, twelve is 12, a quarter past two is 14:15."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from whyrank.grounding.quantities import readings_of
from whyrank.grounding.tables import SCALES, UNITS, Language

__all__ = ["Amount", "Time", "amount_of_digits", "amount_of_han", "amount_of_words", "fixed_amount", "times"]

_CURRENCIES = "€$£¥"
_CASED = frozenset({"a", "v", "w", "ma", "pa", "mpa", "to", "go", "mo", "ko"})  # a unit only with a capital
_UNIT_WORD = re.compile(
    r"[ \u00a0\u202f-]{0,2}(?:d[e'’] ?)?([%％‰€$£¥℃]|°?[CF]\b|[^\W\d_]+[²³23]?(?:/[^\W\d_]+[²³3]?)?)"
)
_NEXT_WORD = re.compile(r"[ \u00a0-]([^\W\d_]+)")


class Amount(NamedTuple):
    """All that it may mean (1,500 is 1500 or 1.5): `values` in the dimension's own measure, `plain` without the unit."""

    values: tuple[float, ...]
    plain: tuple[float, ...]
    unit: str | None = None

    def equals(self, other: Amount) -> bool:
        if self.unit and other.unit and self.unit != other.unit:
            return False
        if self.unit == other.unit:
            return _meet(self.values, other.values)
        share = "share" in (self.unit, other.unit) and _meet(self.values, other.values)
        return share or _meet(self.plain, other.plain)

    def with_unit_of(self, other: Amount) -> Amount:
        """The 5 of "5 to 10 million euros"."""
        factor = other.values[0] / other.plain[0] if other.plain[0] else 1.0
        return Amount(tuple(value * factor for value in self.plain), self.plain, other.unit)

    def plus(self, part: float) -> Amount:
        factor = self.values[0] / self.plain[0] if self.plain[0] else 1.0
        return Amount(tuple(v + part * factor for v in self.values), tuple(v + part for v in self.plain), self.unit)


def _meet(some: Sequence[float], others: Sequence[float]) -> bool:
    return any(math.isclose(one, other, rel_tol=1e-6) for one in some for other in others)


def _amount(plain: tuple[float, ...], text: str, end: int, before: str, language: Language) -> tuple[Amount, int]:
    """With scale and unit from the text after the number."""
    name, after = _name_at(text, end, SCALES, language)
    if name:
        plain, end = tuple(value * SCALES[name] for value in plain), after
    name, after = _name_at(text, end, UNITS, language)
    if not name and before and before in _CURRENCIES:
        name, after = before, end
    if not name:
        return Amount(plain, plain), end
    dimension, factor = UNITS[name]
    return Amount(tuple(value * factor for value in plain), plain, dimension), after


def _name_at(text: str, end: int, table: Mapping[str, object], language: Language) -> tuple[str, int]:
    match = _UNIT_WORD.match(text, end)
    if not match:
        return "", end
    word, start = match[1].lower(), match.start(1)
    if match[1] in ("C", "F") and f"°{word}" in table:
        return f"°{word}", start + 1
    if word[0] >= "\u3000" and language.name == "zh":  # what follows is not set off by a space
        name = next((word[:size] for size in range(min(6, len(word)), 0, -1) if word[:size] in table), "")
        return name, start + len(name)
    for longer in _longer_names(text, word, match.end()):
        if longer[0] in table:
            return longer
    if word not in table and "/" in word and word.split("/")[0] in table:
        word = word.split("/")[0]
    if word not in table or (word in _CASED and match[1].islower()) or (word == "an" and language.name != "fr"):
        return "", end
    return word, start + len(word)


def _longer_names(text: str, word: str, end: int) -> Iterator[tuple[str, int]]:
    """Units of several words, longest first: square metres, milligrams per litre."""
    if word not in _FIRST_WORDS:
        return
    found = [(word, end)]
    while len(found) < 4 and (following := _NEXT_WORD.match(text, end)):
        word, end = f"{word} {following[1].lower()}", following.end()
        found.append((word, end))
    yield from reversed(found[1:])


_FIRST_WORDS = frozenset(name.split(" ")[0] for name in UNITS if " " in name)


def amount_of_digits(text: str, start: int, end: int, language: Language) -> tuple[Amount, int]:
    plain = tuple(map(float, readings_of(text[start:end])))
    return _amount(plain or (math.nan,), text, end, text[max(0, start - 2) : start].strip()[-1:], language)


def amount_of_words(numbers: Sequence[float], text: str, end: int, language: Language) -> tuple[Amount, int]:
    """Of number words that stand in a row: one hundred and twenty, quatre-vingt-dix, three quarters."""
    total = current = 0.0
    for value in numbers:
        if value >= 100 or (value == 20 and current == 4):
            current = max(1.0, current) * value
            if value >= 1000:
                total, current = total + current, 0.0
        elif 0 < value < 1 and current:
            current = current * value if current < 1 else current + value
        else:
            current += value
    return _amount((total + current,), text, end, "", language)


_HAN_DIGITS = dict(zip("〇零一二三四五六七八九两", (0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2), strict=True))
_HAN_TENS = {"十": 10, "百": 100, "千": 1000, "万": 10_000, "亿": 100_000_000}


def amount_of_han(written: str, text: str, end: int, language: Language) -> tuple[Amount, int]:
    """二〇一九 is 2019, 十二 is 12, 三万五千 is 35000."""
    if all(sign in _HAN_DIGITS for sign in written):
        value = float("".join(str(_HAN_DIGITS[sign]) for sign in written))
        return _amount((value,), text, end, "", language)
    total, section, digit = 0, 0, 0
    for sign in written:
        if sign in _HAN_DIGITS:
            digit = _HAN_DIGITS[sign]
        elif _HAN_TENS[sign] >= 10_000:
            total, section, digit = (total + section + digit) * _HAN_TENS[sign], 0, 0
        else:
            section, digit = section + max(1, digit) * _HAN_TENS[sign], 0
    return _amount((float(total + section + digit),), text, end, "", language)


def fixed_amount(value: float, unit: str) -> Amount:
    dimension, factor = UNITS.get(unit, (None, 1.0))
    return Amount((value * factor,), (value,), dimension)


class Time(NamedTuple):
    """Minutes since midnight, in all readings: without "a.m." or "Uhr", 4:10 may be in the afternoon."""

    minutes: frozenset[int]

    def equals(self, other: Time) -> bool:
        return not self.minutes.isdisjoint(other.minutes)


_DIGITAL = re.compile(r"(?<![\d:.,])([01]?\d|2[0-4])[:：]([0-5]\d)(?![\d:])")


def times(text: str, language: Language) -> Iterator[tuple[int, int, Time]]:
    if ":" in text or "：" in text:
        for match in _DIGITAL.finditer(text):
            minutes = 60 * int(match[1]) + int(match[2])
            afternoon = text[match.end() : match.end() + 5].lower().replace(".", "").strip().startswith("pm")
            yield *match.span(), Time(frozenset({(minutes + 720 * (afternoon and minutes < 720)) % 1440}))
    lowered = text.lower()
    if len(lowered) != len(text) or not language.time_hint.search(lowered):
        return
    for form in language.times:
        for match in form.pattern.finditer(lowered):
            parts = match.groupdict()
            hour = form.hour if form.hour is not None else _small_number(parts["h"], language)
            minute = form.minute if form.minute is not None else _small_number(parts["m"], language)
            minutes = 60 * hour + (-minute if form.subtract else minute)
            open_half = not form.half and hour <= 12 and not re.search(r"\d[:.h]\d\d|0\d", match.group())
            halves = {"am": (0,), "pm": (720 if hour < 12 else 0,)}.get(form.half, (0, 720) if open_half else (0,))
            yield *match.span(), Time(frozenset((minutes + half) % 1440 for half in halves))


def _small_number(written: str, language: Language) -> int:
    if written.isdigit():
        return int(written)
    if written in language.numbers:
        return int(language.numbers[written])
    return int(amount_of_han(written, "", 0, language)[0].plain[0])
