"""Dates and times of day as written in a text, with all their possible meanings."""

from __future__ import annotations

import re
from collections.abc import Iterator

from whyrank.grounding.numerals import han_number, readings_of
from whyrank.grounding.tables import Language
from whyrank.grounding.values import Amount, Date, Dates, Time
from whyrank.grounding.words import MONTHS

__all__ = ["dates", "times"]

_YEAR = r"(?P<y>\d{4})(?!\d)"
_TO = r"\s?(?:[-–/]|to|and|bis|und|au|et|al?|y|e|&)\s?(?:the\s|le\s|el\s|zum\s)?"
_FROM_DIGITS = tuple(
    re.compile(form)
    for form in (
        r"(?P<y>\d{4})(?P<mark>[-/.])(?P<m>\d{1,2})(?P=mark)(?P<d>\d{1,2})(?!\d)",
        rf"(?P<d>\d{{1,2}})(?P<mark>[-/.])(?P<m>\d{{1,2}})(?P=mark)(?:{_YEAR}|(?P<short>\d\d)(?!\d))",
        r"(?:(?P<y>\d{4})\s?[年년]\s?)?(?P<m>\d{1,2})\s?[月월](?:\s?(?P<d>\d{1,2})\s?[日号일])?",
        rf"(?:(?P<from>\d{{1,2}})(?:st|nd|rd|th|er|º|\.)?{_TO})?(?P<d>\d{{1,2}})(?:st|nd|rd|th|er|º|\.)?\s+(?:of\s|de\s)?"
        rf"(?P<m>[^\W\d_]{{3,10}})\b\.?(?:,?\s+(?:del?\s)?{_YEAR})?",
        r"(?P<m>0?\d|1[0-2])/(?P<y>(?:19|20)\d\d)(?![\d/])",
        r"(?P<d>0\d|[12]\d|3[01])(?P<mark>/)(?P<m>0\d|1[0-2])(?![\d/])",
    )
)
_GERMAN = re.compile(r"(?P<d>0\d|[12]\d|3[01]|\d)(?P<mark>\.)(?P<m>0\d|1[0-2]|\d)\.(?!\d)")
_FROM_MONTH = tuple(
    re.compile(r"(?P<m>[^\W\d_]{3,10})\.?,?\s+" + form)
    for form in (
        rf"(?P<d>\d{{1,2}})(?!\d)(?:st|nd|rd|th)?(?:,?\s+{_YEAR})?",
        rf"(?:of\s|del?\s)?{_YEAR}",
    )
)
_MONTH_BEFORE = re.compile(r"[^\W\d_]{3,10}\.?,?\s{1,3}(?:of\s|del?\s)?\Z")
_HAN = re.compile(
    r"(?:([〇零一二三四五六七八九]{4})年)?([一二三四五六七八九十]{1,2})月(?:([一二三四五六七八九十]{1,3})[日号])?"
)
_DIGITS = re.compile(r"\d+")


def dates(text: str, language: Language) -> Iterator[tuple[int, int, Dates]]:
    """Start, end, and date."""
    seen, from_digits = 0, (*_FROM_DIGITS, _GERMAN) if language.name == "de" else _FROM_DIGITS
    for digits in _DIGITS.finditer(text):
        start = digits.start()
        if start < seen or (
            text[start - 1 : start] in (".", ",", "/", "-", "_") and text[start - 2 : start - 1].isdigit()
        ):
            continue
        month = _MONTH_BEFORE.search(text, max(seen, start - 18), start)
        tries = [(form, month.start()) for form in _FROM_MONTH] if month else []
        for form, begin in tries + [(form, start) for form in from_digits]:
            if (match := form.match(text, begin)) and (matched := _dates(match)):
                yield from matched
                seen = match.end()
                break
    if "月" in text:
        for match in _HAN.finditer(text):
            year, number, day = (int(han_number(part)) if part else None for part in match.groups())
            yield *match.span(), Dates(((year, number or 0, day),))


def _dates(match: re.Match[str]) -> list[tuple[int, int, Dates]]:
    """Two of "4 to 6 March"."""
    parts = match.groupdict()
    year, day, first = (int(parts[name]) if parts.get(name) else None for name in ("y", "d", "from"))
    if parts.get("short"):
        year = 2000 + int(parts["short"]) if int(parts["short"]) < 50 else 1900 + int(parts["short"])
    month = int(parts["m"]) if parts["m"].isdigit() else MONTHS.get(parts["m"].lower(), 0)
    slashed, fraction = day is not None and parts.get("mark") == "/", None
    if slashed and year is None:
        plain = readings_of(match.group(), ".")[0]
        fraction = Amount(plain, plain)
    readings = [(year, month, day), *([(year, day or 0, month)] if slashed else [])]
    if not (valid := _valid(readings)):
        return []
    if first is None:
        return [(*match.span(), Dates(valid, fraction))]
    before = _valid([(year, month, first)])
    if not before:
        return [(match.start("d"), match.end(), Dates(valid))]
    return [(*match.span("from"), Dates(before)), (match.start("d"), match.end(), Dates(valid))]


def _valid(readings: list[Date]) -> tuple[Date, ...]:
    return tuple((y, m, d) for y, m, d in readings if 1 <= m <= 12 and (d is None or 1 <= d <= 31))


_DIGITAL = re.compile(r"(?<![\d:.,])([01]?\d|2[0-4])[:：]([0-5]\d)(?![\d:])")
_AFTERNOON = re.compile(r"\s?p\.?\s?m\b", re.IGNORECASE)


def times(text: str, language: Language) -> Iterator[tuple[int, int, Time]]:
    if ":" in text or "：" in text:
        for match in _DIGITAL.finditer(text):
            minutes = 60 * int(match[1]) + int(match[2])
            afternoon = _AFTERNOON.match(text, match.end()) is not None
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
    words = re.split("[ -]", written)
    return int(sum(language.numbers[word] for word in words) if words[0] in language.numbers else han_number(written))
