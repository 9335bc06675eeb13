"""Numbers and dates: found in a text, read in all the ways they may be meant, and looked up in another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from whyrank.grounding.words import MONTHS, is_unspaced

__all__ = ["Date", "Quantities", "dates", "numbers", "readings_of"]

_MOST_PLACES = 500  # a number that stands oftener than this is not looked at everywhere


class Quantities:
    """The numbers and dates of a text, by their digits. Only those that are asked for are read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._read: dict[str, frozenset[Number]] = {}

    @cached_property
    def _places(self) -> dict[str, list[tuple[int, int]]]:
        places: dict[str, list[tuple[int, int]]] = {}
        for match in _NUMBER.finditer(self._text):
            written, start = match.group(), match.start()
            places.setdefault(_digits(written), []).append(match.span())
            # Of 04.03.2021, and of what only looks like one number in groups ("Table 2 100 m"), each part.
            if len(written) > 4 and (" " in written or len(re.findall(r"\D", written)) > 1):
                for part in re.finditer(r"\d+", written):
                    places.setdefault(_digits(part.group()), []).append((start + part.start(), start + part.end()))
        return places

    def holds_number(self, number: Number) -> bool:
        alike = self._alike(number.written)
        return number in alike or any(map(number.equals, alike))

    def _alike(self, written: str) -> frozenset[Number]:
        """All that have the same digits, zeros at either end apart. No others can be equal."""
        digits = _digits(written)
        if digits not in self._read:
            places = self._places.get(digits, ())
            self._read[digits] = frozenset(_number_at(self._text, start, end)[0] for start, end in places)
        return self._read[digits]

    def holds_date(self, date: Date) -> bool:
        """Where the text says "in 2021" once and "on 4 March" later, it does hold 4 March 2021."""
        year, month, day = date
        for other_year, other_month, other_day in self._dates_around(day or year or month):
            same_year = year in (None, other_year) or (other_year is None and bool(self._alike(str(year))))
            if same_year and month == other_month and day in (None, other_day):
                return True
        return False

    def _dates_around(self, part: int) -> Iterator[Date]:
        for start, end in islice(self._places.get(_digits(str(part)), ()), _MOST_PLACES):
            for _, _, readings in dates(self._text[max(0, start - _LONGEST_DATE) : end + _LONGEST_DATE]):
                yield from readings


Date = tuple[int | None, int, int | None]  # year, month, day
_YEAR = r"(?P<y>\d{4})(?!\d)"
_DATES_FROM_DIGITS = tuple(
    re.compile(form)
    for form in (
        r"(?P<y>\d{4})(?P<mark>[-/.])(?P<m>\d{1,2})(?P=mark)(?P<d>\d{1,2})(?!\d)",
        rf"(?P<d>\d{{1,2}})(?P<mark>[-/.])(?P<m>\d{{1,2}})(?P=mark){_YEAR}",
        r"(?:(?P<y>\d{4})\s?[年년]\s?)?(?P<m>\d{1,2})\s?[月월](?:\s?(?P<d>\d{1,2})\s?[日号일])?",
        r"(?:(?P<from>\d{1,2})\.?\s?[-–]\s?)?(?P<d>\d{1,2})(?:st|nd|rd|th|er|º|\.)?\s+(?:of\s|de\s)?"
        rf"(?P<m>[^\W\d_]{{3,10}})\b\.?(?:,?\s+(?:del?\s)?{_YEAR})?",
    )
)
_DATES_FROM_MONTH = tuple(
    re.compile(r"(?P<m>[^\W\d_]{3,10})\.?,?\s+" + form)
    for form in (rf"(?P<d>\d{{1,2}})(?!\d)(?:st|nd|rd|th)?(?:,?\s+{_YEAR})?", rf"(?:of\s|del?\s)?{_YEAR}")
)
_MONTH_BEFORE = re.compile(r"[^\W\d_]{3,10}\.?,?\s{1,3}(?:of\s|del?\s)?\Z")
_LONGEST_DATE = 30


def dates(text: str) -> Iterator[tuple[int, int, list[Date]]]:
    """With all that the date may mean: 3/4/2021 is in March or April."""
    seen = 0
    for digits in re.finditer(r"\d+", text):
        if digits.start() < seen:
            continue
        month = _MONTH_BEFORE.search(text, max(seen, digits.start() - 18), digits.start())
        tries = [(form, month.start()) for form in _DATES_FROM_MONTH] if month else []
        for form, start in tries + [(form, digits.start()) for form in _DATES_FROM_DIGITS]:
            if (match := form.match(text, start)) and (readings := _readings(match)):
                yield match.start(), match.end(), readings
                seen = match.end()
                break


def _readings(match: re.Match[str]) -> list[Date]:
    parts = match.groupdict()
    year, day, first = (int(parts[name]) if parts.get(name) else None for name in ("y", "d", "from"))
    month = int(parts["m"]) if parts["m"].isdigit() else MONTHS.get(parts["m"].lower(), 0)
    found = [(year, month, day)]
    if first:
        found.append((year, month, first))
    if day and parts.get("mark") == "/":
        found.append((year, day, month))
    return [(y, m, d) for y, m, d in found if 1 <= m <= 12 and (d is None or 1 <= d <= 31)]


_NUMBER = re.compile(r"\d+(?:(?<!\d{4})[ \u00a0\u202f]\d{3}(?!\d))*(?:[.,'’]\d+)*")
_LIST_NUMBER = re.compile(r"(?:\A|\n)[ \-*•>#(]{0,4}\d{1,3}[.)]\s")
_AFTER_NUMBER = re.compile(r"[ \u00a0\u202f-]?(?:d[e'’] ?)?(per cent|pour cent|por ciento|°[CF]\b|[%‰€$£¥]|[^\W\d_]+)")
_CURRENCIES = "€$£¥"
_SCALES = {
    name: zeros
    for zeros, names in {
        3: "k thousand tausend mille mil 千",
        4: "万 萬",
        6: "mn mio million millions millionen millón millones milione milioni milhão milhões 百万",
        7: "千万",
        8: "亿 億",
        9: "bn mrd billion billions milliard milliards milliarde milliarden miliardo miliardi bilhão bilhões",
        12: "trillion trillions billionen 万亿 兆",
    }.items()
    for name in names.split()
}
# What may be confused, one kind a line, all names of it with the first that is used here.
_UNITS = {
    name.replace("_", " "): names.split()[0]
    for names in (
        "% percent prozent procent pct per_cent pour_cent por_ciento",
        "€ euro euros eur 欧元",
        "$ dollar dollars usd 美元",
        "£ gbp 英镑",
        "¥ yen 日元",
        "元 yuan rmb 人民币",
        "km kilometre kilometres kilometer kilometers kilometern kilomètre kilomètres kilómetros 公里 千米",
        "m metre metres meter meters metern mètre mètres metros 米",
        "cm centimetre centimetres centimeter centimeters zentimeter centimètres 厘米",
        "mm millimetre millimetres millimeter millimeters millimètres 毫米",
        "mile miles meilen 英里",
        "ft feet foot fuß 英尺",
        "kg kilogram kilograms kilogramm kilogrammes 公斤 千克",
        "g gram grams gramm grammes 克",
        "mg milligram milligrams milligramm 毫克",
        "t tonne tonnes tons tonnen 吨",
        "l litre litres liter liters 升",
        "ml millilitre millilitres milliliter milliliters 毫升",
        "°c ℃ celsius 摄氏度",
        "°f ℉ fahrenheit 华氏度",
        "s second seconds sec sekunde sekunden seconde secondes segundos 秒",
        "min minute minutes minuten minutos 分钟",
        "h hour hours stunde stunden heure heures horas 小时",
        "day days tag tage tagen jour jours días 天",
        "week weeks woche wochen semaine semaines semanas 周",
        "month months monat monate monaten mois meses 个月",
        "year years jahr jahre jahren an ans année années años 年",
    )
    for name in names.split()
}


class Number(NamedTuple):
    """`zeros` stands for a "million" after it; `unit` is None where there is none that is known."""

    written: str
    zeros: int
    unit: str | None

    def equals(self, other: Number) -> bool:
        if self.unit and other.unit and self.unit != other.unit:
            return False
        mine, others = _values(self.written), {_scaled(value, other.zeros) for value in _values(other.written)}
        if not others.isdisjoint(_scaled(value, self.zeros) for value in mine):
            return True
        # The 5 of "5 to 10 million" is 5 million.
        return not other.zeros and not other.unit and not others.isdisjoint(mine)


def _number_at(text: str, start: int, end: int) -> tuple[Number, int]:
    """The number, and where its unit ends."""
    zeros, unit, unit_end = 0, None, end
    word, after = _word_after(text, end)
    if word in _SCALES:
        zeros, unit_end = _SCALES[word], after
        word, after = _word_after(text, unit_end)
    if word in _UNITS:
        unit, unit_end = _UNITS[word], after
    sign = text[max(0, start - 2) : start].strip()[-1:]
    return Number(text[start:end], zeros, sign if sign and sign in _CURRENCIES else unit), unit_end


def _word_after(text: str, end: int) -> tuple[str, int]:
    match = _AFTER_NUMBER.match(text, end)
    if not match:
        return "", end
    word = match[1].lower()
    if is_unspaced(word):  # what follows is not set off by a space
        word = next((word[:n] for n in (3, 2, 1) if word[:n] in _SCALES or word[:n] in _UNITS), "")
    return word, match.start(1) + len(word)


def _digits(written: str) -> str:
    return _in_ascii(written if written.isdigit() else re.sub(r"\D", "", written)).strip("0")


def _in_ascii(written: str) -> str:
    return written if written.isascii() else re.sub(r"\d", lambda digit: str(int(digit[0])), written)


def readings_of(written: str) -> list[str]:
    """What a number in digits may mean, without what is no number (3.14.6)."""
    return [value for value in _values(written) if value.count(".") <= 1 and "," not in value]


def _values(written: str) -> list[str]:
    """All that it may mean, written plainly: 1,500 is 1500 or 1.5."""
    written = _in_ascii(re.sub(r"[ \u00a0\u202f'’]", "", written))
    marks = re.findall(r"[.,]", written)
    *groups, last = re.split(r"[.,]", written)
    if not marks:
        return [_plain(last, "")]
    values = []
    if marks[-1] not in marks[:-1]:
        values.append(_plain("".join(groups), last))
    if len(set(marks)) == 1 and len(groups[0]) <= 3 and all(len(group) == 3 for group in [*groups[1:], last]):
        values.append(_plain("".join(groups) + last, ""))
    return values or [written]  # a version, an address


def _plain(whole: str, fraction: str) -> str:
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def _scaled(value: str, zeros: int) -> str:
    whole, _, fraction = value.partition(".")
    return _plain(whole + fraction[:zeros].ljust(zeros, "0"), fraction[zeros:]) if zeros else value


def numbers(text: str) -> Iterator[tuple[int, int, Number]]:
    """End: that of the unit. Digits of a name (B52) and the numbers of a list's lines are left out."""
    numbered_lines = {match.end() - 2 for match in _LIST_NUMBER.finditer(text)}
    for match in _NUMBER.finditer(text):
        before = text[match.start() - 1 : match.start()]
        is_part_of_name = before == "_" or (before.isalnum() and not is_unspaced(before))
        if not is_part_of_name and match.end() not in numbered_lines:
            number, end = _number_at(text, *match.span())
            yield match.start(), end, number
