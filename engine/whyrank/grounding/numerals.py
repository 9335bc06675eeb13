"""Written numbers as numbers: in digits, in words of five languages, in Chinese signs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

__all__ = ["FRACTION_SIGNS", "HAN_NUMBER", "goes_on", "han_number", "in_one_word", "number_of_words", "readings_of"]

FRACTION_SIGNS = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅛⅜⅝⅞"
HAN_NUMBER = re.compile(
    r"[〇零一二三四五六七八九十百千两]+(?:万[〇零一二三四五六七八九十百千两]*)?(?:亿[〇零一二三四五六七八九十百千两万]*)?"
    r"(?:点[〇零一二三四五六七八九]+)?"
)


def readings_of(written: str, point: str) -> tuple[tuple[float, ...], float]:
    """What a number in digits may mean (1,500 is 1500 or 1.5), the likeliest first, and half its last digit.

    Nothing: a version, an address. `point`: the decimal mark of the language."""
    whole = written.rstrip(FRACTION_SIGNS)
    if whole != written:
        part = unicodedata.numeric(written[-1])
        return tuple(value + part for value in readings_of(whole, point)[0]) if whole else (part,), 0.0
    if "/" in written:
        *before, above, below = re.split(r"[\s/]+", written)
        share = int(above) / int(below) if int(below) else 0.0
        return (share + (int(before[0]) if before else 0),), 0.0
    plain = re.sub(r"[ \u00a0\u202f'’]", "", written)
    *groups, last = re.split(r"[.,]", plain)
    if not groups:
        return (float(last),), 0.5
    marks, values, step = re.findall(r"[.,]", plain), [], 0.5
    if marks[-1] not in marks[:-1]:
        values.append(float(f"{''.join(groups)}.{last}"))
        step *= 10.0 ** -len(last)
    is_grouped = len(groups[0]) <= 3 and groups[0] != "0" and all(len(group) == 3 for group in [*groups[1:], last])
    if len(set(marks)) == 1 and is_grouped:
        values.insert(len(values) if marks[-1] == point else 0, float("".join(groups) + last))
    return tuple(values), step


def number_of_words(numbers: Sequence[float]) -> float:
    """The value of a run of number words: one hundred and twenty, quatre-vingt-dix, three quarters."""
    total = current = 0.0
    for value in numbers:
        if value >= 1000:
            total, current = total + max(1.0, current) * value, 0.0
        elif value == 100:
            current = max(1.0, current) * value
        elif value == 20 and current % 100 == 4:
            current += 76
        elif 0 < value < 1 and current:
            current = current * value if current < 1 else current + value
        else:
            current += value
    return total + current


def goes_on(before: float, following: float, joined: bool) -> bool:
    """Whether two number words are one number: twenty three, not ten twelve; mil novecientos, not cien novecientos."""
    if following >= 1000:
        return before < following
    if following >= 100:
        return before >= 1000 or (following == 100 and before < 100)
    if 0 < following < 1 or (before == 4 and following == 20):
        return not joined or before >= 1
    if before == 10:
        return following in (7, 8, 9)  # dix-sept
    return before >= 100 or (before in range(20, 100, 10) and following < 20)


def in_one_word(word: str, numbers: Mapping[str, float]) -> float | None:
    """German writes zweiundzwanzig and dreitausendfünfhundert as one word."""
    if word in numbers:
        return numbers[word]
    if word == "ein":
        return 1.0
    for sign, factor in (("tausend", 1000), ("hundert", 100)):
        left, separator, right = word.partition(sign)
        if separator:
            many = in_one_word(left, numbers) if left else 1.0
            rest = in_one_word(right.removeprefix("und"), numbers) if right else 0.0
            return None if many is None or rest is None else many * factor + rest
    left, separator, right = word.partition("und")
    if separator and right in numbers and (left in numbers or left == "ein"):
        return numbers.get(left, 1.0) + numbers[right]
    return None


_DIGITS = dict(zip("〇零一二三四五六七八九两", (0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2), strict=True))
_TENS = {"十": 10, "百": 100, "千": 1000, "万": 10_000, "亿": 100_000_000}


def han_number(written: str) -> float:
    """二〇一九 is 2019, 十二 is 12, 三万五千 is 35000, 二点五 is 2.5."""
    whole, _, fraction = written.partition("点")
    if fraction:
        return float(f"{han_number(whole):.0f}.{''.join(str(_DIGITS[sign]) for sign in fraction)}")
    if all(sign in _DIGITS for sign in written):
        return float("".join(str(_DIGITS[sign]) for sign in written))
    total, section, digit = 0, 0, 0
    for sign in written:
        if sign in _DIGITS:
            digit = _DIGITS[sign]
        elif _TENS[sign] >= 10_000:
            total, section, digit = (total + section + digit) * _TENS[sign], 0, 0
        else:
            section, digit = section + max(1, digit) * _TENS[sign], 0
    return float(total + section + digit)
