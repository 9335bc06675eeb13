"""A text cut into words, stops, numbers, code and runs of Chinese."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from whyrank.grounding.numerals import FRACTION_SIGNS

__all__ = ["Items", "code_key", "holds_code", "scan", "squeezed"]

_CODE = (
    r"(?P<code>`[^`\n]{1,300}`|(?:https?://|www\.)[^\s<>\"'`\u3000-\u9fff\uff00-\uffef]+[^\s<>\"'`.,;:!?)\u3000-\u9fff\uff00-\uffef]"
    r"|(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,8}|(?<![\w-])--[a-zA-Z][\w-]{0,64}|(?<![\w.])/[a-z][\w/.-]{0,200}\w"
    r"|(?<![\w.])[a-zA-Z_]\w{0,64}(?:(?:\.|::|->|/)[a-zA-Z_][\w-]{1,64}){1,9}|(?<![\w.-])[A-Za-z]\w{0,64}_\w{1,64}"
    r"|(?<![\d/.])\d{1,4}/(?:19|20)\d\d(?![\d/])|(?<![\w-])[A-Z][A-Za-z]{0,9}-?\d[\w-]{0,64}|(?<![\w-])[a-z]{1,3}\d\w{0,64})|"
)
_ANY_WORD = (
    r"(?P<word>[^\W\d_\u3005-\u9fff]{1,64}(?:[\u0300-\u036f]{1,9}[^\W\d_\u3005-\u9fff]{0,64}){0,9})"
    r"|(?P<stop>[,;:()\[\]—–…“”«»，；：（）、。！？!?]|\.(?=\s|$)| - )"
)
_ASCII_WORD = r"(?P<word>[a-zA-Z]{1,64})|(?P<stop>[,;:()\[\]!?]|\.(?=\s|$)| - )"
_NUMBER = (
    rf"|(?P<number>(?:\d+ )?\d+/\d+(?![\d/])|\d+(?:(?<!\d{{4}})[ \u00a0\u202f]\d{{3}}(?!\d))*(?:[.,'’]\d+)*[{FRACTION_SIGNS}]?"
    rf"|[{FRACTION_SIGNS}])"
)
_HAN = r"|(?P<han>[\u3400-\u9fff\u3005-\u3007]{1,64})"
_FIRST = r"(?=\S| -)"  # no item begins with another space; so the search passes over spaces at once
_ASCII, _ANY = (
    (re.compile(f"{_FIRST}(?:{items})"), re.compile(f"{_FIRST}(?:{_CODE}{items})"))
    for items in (_ASCII_WORD + _NUMBER, _ANY_WORD + _NUMBER + _HAN)
)
"""Without code and with it. The narrower pattern finds the same in ASCII, sooner."""
_CODE_SIGNS = re.compile(
    r"[`@_/.\d>:-](?:(?<=[`@_/])|(?<=--)|(?<=->)|(?<=::)|(?<=[^\W\d]\.)\w|(?<=[A-Za-z]\d)|(?<=[A-Za-z]-\d))"
)
"""Begins with the sign that ends the code's mark: few characters are one, so the search goes fast."""


class Items(NamedTuple):
    """What a text is cut into, a list for each property. `words`: as they are looked up, without case; then an empty one."""

    kinds: list[str | None]
    starts: list[int]
    ends: list[int]
    written: list[str]
    words: tuple[str, ...]


def scan(text: str) -> Items:
    is_ascii, has_code = text.isascii(), _CODE_SIGNS.search(text) is not None
    matches = list((_ASCII if is_ascii else _ANY)[has_code].finditer(text))
    written = list(map(re.Match.group, matches))
    return Items(
        [match.lastgroup for match in matches],
        list(map(re.Match.start, matches)),
        list(map(re.Match.end, matches)),
        written,
        (*map(str.lower if is_ascii else _folded, written), ""),
    )


def _folded(written: str) -> str:
    return written.lower() if written.isascii() else unicodedata.normalize("NFC", written.lower())


def code_key(written: str) -> str:
    """Code without its marks; a link without scheme and final slash."""
    return squeezed(written.strip("`").lower().split("://")[-1].rstrip("/").removesuffix("()"))


def squeezed(text: str) -> str:
    """Without spaces around signs, of which code may have any number."""
    return re.sub(r" ?([^\w -]) ?", r"\1", " ".join(text.split()))


def holds_code(code: str, text: str) -> bool:
    """Both without spaces and case: `acquire` is in `acquire(path)`, get is not in get_all."""
    return code in text and re.search(rf"(?<![\w.@+-]){re.escape(code)}(?![\w@-]|/\w)", text, re.ASCII) is not None
