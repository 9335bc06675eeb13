"""Evidence held against its document: which sentences are backed, and which numbers, names and links are not there.

Evidence is a rewrite, so nothing here looks for quotes. Three questions, each answered by counting, without a model:

- *Which sentences are backed?* Those whose content words stand together in one or two sentences of the document.
- *What is made up?* What can be checked to the letter (dates, numbers, links, code, names) and is not there.
- *Did the model go astray?* The rule gates of the Prism author's own audit, as flags.

It sees no negation turned round and no two facts of the document wrongly joined. It finds no name that is one word at the
start of a sentence, none in scripts without capitals, and in German, where every noun has a capital, only names of several
words, with several capitals, or after "in", "aus" and their like. Numbers in words are words to it.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import Literal, NamedTuple

from whyrank.types import Grounding, GroundingFlag, SourceSpan, Unsupported

__all__ = ["ground"]

# ------------------------------------------------------------------------------------------------- words and sentences

Word = tuple[int, int, str]
"""Start, end, and the word without case. Of a script without spaces, a whole run is one word."""

# Thai to Khmer, Kana, Han, and Hangul, which has spaces but glues particles to its words.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_UNSPACED_START = re.compile(f"[{_UNSPACED}]")
_SPACED = rf"[^\W_{_UNSPACED}]"
# Cut at 64 characters: normalising takes time that grows with the square of a run of combining marks.
_WORD = re.compile(rf"{_SPACED}{{1,64}}(?:[\u0300-\u036f]{{1,9}}{_SPACED}{{0,64}}){{0,9}}|[{_UNSPACED}]{{1,64}}")
_ASCII_WORD = re.compile(r"[a-z0-9]{1,64}")


def fold(word: str) -> str:
    """Without case and typography: NFKC, case-folded."""
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word).casefold()


def folded_words(text: str) -> list[str]:
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return [word if word.isascii() else fold(word) for word in _WORD.findall(text.lower())]


def is_unspaced(word: str) -> bool:
    return word >= "\u0e00" and _UNSPACED_START.match(word) is not None


_FUNCTION_WORDS = {
    "en": "the of and to is that for with was by from are which as this be were has have at not it its on in an a or but "
    "can will their they than also when if only such these those been had may would into who while after before yes no s",
    "de": "der die das und ist nicht mit von dem den ein eine einer eines einem einen für auf wird werden wurde sich des "
    "als auch bei zu zum zur im am in an es er sie aus nach oder wie durch dass sind war hat haben nur noch ja nein",
    "fr": "le la les l d des du de est et une un dans pour que qu qui sur par au aux pas avec ce sont a il elle en ne se "
    "son sa ses plus ou été être cette ces à y n s c oui non",
    "es": "el la los las del de que es una un por con para se y su sus como más al en lo no o son fue ser está sí",
    "it": "il lo la di che è della per una un sono con gli le nel alla dei da si non e del in più al come sì",
    "pt": "o a os as do da de que não uma um para com por em ao é mais foi dos das se no na e como sim",
}
_LANGUAGES_OF: dict[str, list[str]] = {}
for _language, _listed in _FUNCTION_WORDS.items():
    for _function_word in _listed.split():
        _LANGUAGES_OF.setdefault(_function_word, []).append(_language)
_FUNCTION_CHARACTERS = frozenset("的了是在和与及或为也而以其并由被把从到对于就都可即则等之有这那")


def is_function_word(word: str) -> bool:
    return word in _LANGUAGES_OF


def content_keys(folded: Iterable[str]) -> Iterator[str]:
    """Content words; of a run in a script without spaces, the pairs of neighbouring characters."""
    for word in folded:
        if word in _LANGUAGES_OF:
            continue
        if word < "\u0e00" or len(word) == 1 or not is_unspaced(word):
            yield word
            continue
        for i in range(len(word) - 1):
            if word[i] not in _FUNCTION_CHARACTERS and word[i + 1] not in _FUNCTION_CHARACTERS:
                yield word[i : i + 2]


_MOST_ALIKE = 1000  # so many words with one beginning are no language


class Vocabulary:
    """Words that can also be found in other forms."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = dict.fromkeys(words)  # not a set, whose order changes from run to run

    @cached_property
    def _by_beginning(self) -> dict[str, list[str]]:
        grouped: dict[str, list[str]] = defaultdict(list)
        for word in self._words:
            grouped[word[:3]].append(word)
        return grouped

    def _alike(self, word: str) -> Iterator[str]:
        return islice(self._by_beginning.get(word[:3], ()), _MOST_ALIKE)

    def of_same_stem(self, word: str) -> list[str]:
        """Two thirds of the shorter word, at least four letters, begin both: reduce, reduction."""
        if len(word) < 4 or word.isdigit():
            return []
        return [other for other in self._alike(word) if _have_same_stem(word, other)]

    def holds_name(self, word: str) -> bool:
        """Plural and genitive apart: Berlins is Berlin."""
        if word in self._words or word in _LANGUAGES_OF:
            return True
        return any(_is_same_name(word, other) for other in self._alike(word))


def _have_same_stem(one: str, other: str) -> bool:
    stem = max(4, -(-2 * min(len(one), len(other)) // 3))
    return one[:stem] == other[:stem]


def _is_same_name(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    # Endings are added in Latin script, but replaced in Cyrillic and Greek.
    kept = len(shorter) - (0 if one < "\u0370" else 2)
    return kept > 2 and longer[:kept] == shorter[:kept] and len(longer) - len(shorter) <= (2 if kept > 3 else 1)


_MONTH_NAMES = (
    "january jan januar janvier enero gennaio janeiro|february feb februar février febrero febbraio fevereiro"
    "|march mar märz mars marzo março|april apr avril abril aprile|may mai mayo maggio maio|june jun juni juin junio giugno"
    " junho|july jul juli juillet julio luglio julho|august aug août agosto|september sep sept septembre septiembre settembre"
    " setembro|october oct oktober okt octobre octubre ottobre outubro|november nov novembre noviembre novembro"
    "|december dec dezember dez décembre diciembre dicembre dezembro"
)
MONTHS = {name: number for number, names in enumerate(_MONTH_NAMES.split("|"), 1) for name in names.split()}
_BREAK = re.compile(r"[.!?…。！？；\n]+[\"'”’»)\]」』）]*")
_LAST = re.compile(r"[^\s.(]*\Z")
_NEXT = re.compile(r"\s*[\"'“„«(\[]?(\w*)")
_BULLETS = frozenset("-–—*•·>#|")
_BULLET = re.compile(r"\A(?:[-–—*•·>#|]+\s+)+")
_LONGEST_SENTENCE = 600
_ABBREVIATED = (
    "al approx art av bzgl bzw ca cf co corp dept dr ed eds env eq etc evtl fig ggf hr inc jr ltd max min mio mr mrd mrs ms "
    "mt nr no op para pp prof resp sec sr st str tel usw vgl vol vs zzgl jan feb aug sep sept oct nov dec"
)
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Sentences and lines without bullets and outer space; longer than 600 characters, they are cut between words."""
    start = 0
    for match in _BREAK.finditer(text):
        mark, end = match.group(), match.end()
        if mark[0] in ".!?…" and mark[-1] != "\n":
            inside_word = end < len(text) and not text[end].isspace()
            if inside_word or (mark == "." and not _ends_sentence(text, start, end - 1)):
                continue
        yield from _pieces(text, start, end)
        start = end
    yield from _pieces(text, start, len(text))


def _ends_sentence(text: str, start: int, dot: int) -> bool:
    if text[dot - 4 : dot].isalpha() and text[dot + 2 : dot + 3].isupper():  # the usual case, quickly
        return text[dot - 4 : dot].lower() not in _ABBREVIATIONS
    last = _LAST.search(text, max(start, dot - 20), dot)
    following = _NEXT.match(text, dot + 1)
    before, after = last.group().lower() if last else "", following[1] if following else ""
    if before.isdigit():
        is_list_number = not text[max(start, dot - 9) : dot - len(before)].strip()
        is_day = len(before) <= 2 and after.lower() in (*MONTHS, "jahrhundert")
        return not is_list_number and not is_day
    if before in _ABBREVIATIONS or (len(before) == 1 and before.isalpha() and before < "\u0e00"):
        return False
    return len(before) > 3 or not after[:1].islower()


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        cut = end
        if end - start > _LONGEST_SENTENCE:
            space = text.rfind(" ", start + 1, start + _LONGEST_SENTENCE)
            cut = space if space > 0 else start + _LONGEST_SENTENCE
        visible = text[start:cut].lstrip()
        if visible[:1] in _BULLETS:
            visible = _BULLET.sub("", visible)
        first = cut - len(visible)
        if visible := visible.rstrip():
            yield first, first + len(visible)
        start = cut


class Passage:
    """A text with its words and its sentences."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sentences = list(sentences(text))
        if text.isascii():
            found = _ASCII_WORD.finditer(text.lower())
            self.words: list[Word] = [(match.start(), match.end(), match.group()) for match in found]
        else:
            self.words = [(match.start(), match.end(), fold(match.group())) for match in _WORD.finditer(text)]

    @property
    def folded(self) -> list[str]:
        return [word for _, _, word in self.words]

    def inside(self, start: int, end: int) -> list[Word]:
        """The words of a stretch."""
        first = bisect_left(self.words, (start,))
        return self.words[first : bisect_left(self.words, (end,), lo=first)]


UNSPACED_SCRIPTS = frozenset({"CJK", "KANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR"})
_LETTERS_WORTH = {"CJK": 3.0, "HIRAGANA": 2.0, "KATAKANA": 2.0, "HANGUL": 2.0}  # how much a character says
_SAMPLE = 400
_LEAST_LETTERS = 20
_DOMINANT_SHARE = 0.6
_LEAST_VOTES = 3.0
_CLEAR_LEAD = 1.6


def language_of(text: str, folded: list[str]) -> str | None:
    """A language in Latin script, or a script as Unicode calls it: "LATIN" if the language is not known. None: several."""
    sample = text[:: len(text) // _SAMPLE + 1]
    script = _script_of(sample) if sample and max(sample) >= "\u0370" else "LATIN"
    return _latin_language(folded[:: len(folded) // _SAMPLE + 1]) if script == "LATIN" else script


def _script_of(sample: str) -> str | None:
    letters: dict[str, float] = defaultdict(float)
    for character in filter(str.isalpha, sample):
        script = unicodedata.name(character, "?").partition(" ")[0]
        letters["KANA" if script in ("HIRAGANA", "KATAKANA") else script] += _LETTERS_WORTH.get(script, 1.0)
    if letters["KANA"] > letters["CJK"] / 10:  # Japanese
        letters["KANA"] += letters.pop("CJK")
    script, most = max(letters.items(), key=lambda item: item[1])
    return script if most >= max(_LEAST_LETTERS, _DOMINANT_SHARE * sum(letters.values())) else None


def _latin_language(folded: list[str]) -> str | None:
    votes = dict.fromkeys(_FUNCTION_WORDS, 0.0)
    for word in folded:
        for language in _LANGUAGES_OF.get(word, ()):
            votes[language] += 1 / len(_LANGUAGES_OF[word])
    (first, most), (_, next_most), *_ = sorted(votes.items(), key=lambda item: -item[1])
    if most >= max(_LEAST_VOTES, _CLEAR_LEAD * next_most):
        return first
    return None if next_most >= _LEAST_VOTES else "LATIN"


def may_be_same_language(one: str, other: str) -> bool:
    return one == other or ("LATIN" in (one, other) and {one, other} <= {"LATIN", *_FUNCTION_WORDS})


# --------------------------------------------------------------------------------------------------- numbers and dates

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


# -------------------------------------------------------------------------------------------------------------- claims

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


# ----------------------------------------------------------------------------------------------------------- grounding

# Tuned on tests/data/grounding/pairs.toml.
_BACKED = 0.55  # least similarity of a backed sentence
_ELSEWHERE = 0.3  # what a word counts that the document holds, but not where the rest of the sentence stands
_MOST_ADDED = 3  # words in a row that the document lacks: more is an added claim, however well the rest is backed
_MOST_ADDED_PAIRS = 5  # the same for scripts without spaces, in pairs of neighbouring characters
_MOST_VOTES = 64  # a word that stands in more sentences says little about which one is meant

# The audit's gates.
_CHECKED_SHARE = 0.9
_REPEATED_SHARE = 0.3
_REPEATED_LENGTH = 6
_LENGTH_SHARE = 0.7
# A shorter document (in a script without spaces, one of half the length) may well be relevant as a whole.
_LONG_DOCUMENT = 400
_LONGEST_EVIDENCE = 50_000  # characters; what comes after is no passage but an accident, and is not looked at


def ground(evidence: str, document: str, query: str = "") -> Grounding:
    """`supported`: share of the evidence's visible characters in backed sentences without anything unsupported.

    `spans` has each backed sentence once, or twice where it joins two distant sentences of the document. Sentences without
    content words ("Yes.") are left out of the share. What the query says is neither support nor made up.
    """
    passage, source = Passage(evidence[:_LONGEST_EVIDENCE]), _Source(document, query)
    language = language_of(evidence, passage.folded)
    checked = list(claims(passage, Reference(f"{document}\n{query}", source.vocabulary), language))
    unsupported = _unsupported(evidence, checked)
    spans, supported = _backing(passage, source, unsupported)
    supported *= len(passage.text) / max(1, len(evidence))
    flags = tuple(_flags(passage, len(evidence), language, checked, source))
    return Grounding(supported, spans, unsupported, flags)


def _unsupported(evidence: str, checked: Sequence[Claim]) -> tuple[Unsupported, ...]:
    missing = sorted((claim for claim in checked if not claim.held), key=lambda claim: claim.start)
    return tuple(Unsupported(kind, evidence[start:end], start, end) for kind, start, end, _ in missing)


class _Source:
    """The document's content words and the sentences that hold them. The query's words ask for nothing."""

    def __init__(self, document: str, query: str) -> None:
        self.document, self.query = document, query
        self.sentences = list(sentences(document))
        self.words: list[str] = []
        self._places: dict[str, set[int]] = {}
        for place, (start, end) in enumerate(self.sentences):
            words = folded_words(document[start:end])
            self.words += words
            for key in content_keys(words):
                if key in self._places:
                    self._places[key].add(place)
                else:
                    self._places[key] = {place}
        asked = folded_words(query)
        self.asked = frozenset(content_keys(asked))
        self.vocabulary = Vocabulary(chain(self._places, asked))

    def places(self, key: str) -> set[int]:
        """Numbers of the sentences that hold the word, or else another form of it."""
        if key in self._places:
            return self._places[key]
        return set().union(*(self._places.get(other, ()) for other in self.vocabulary.of_same_stem(key)))


def _backing(
    passage: Passage, source: _Source, unsupported: Sequence[Unsupported]
) -> tuple[tuple[SourceSpan, ...], float]:
    starts = [start for start, _ in passage.sentences]
    tainted = {bisect_right(starts, item.start) - 1 for item in unsupported}
    spans: list[SourceSpan] = []
    all_characters = good_characters = 0
    for place, (start, end) in enumerate(passage.sentences):
        keys = list(content_keys(word for _, _, word in passage.inside(start, end)))
        if not keys:
            continue
        characters = len("".join(passage.text[start:end].split()))
        all_characters += characters
        similarity, held_by = _align(keys, source)
        if similarity >= _BACKED:
            spans += (SourceSpan(start, end, *stretch, similarity) for stretch in _stretches(held_by, source))
            good_characters += characters if place not in tainted else 0
    return tuple(spans), good_characters / all_characters if all_characters else 0.0


def _align(keys: Sequence[str], source: _Source) -> tuple[float, list[int]]:
    """Share of the content words that one or two sentences of the document hold, and which ones. 0: a claim is added."""
    found = {key: source.places(key) for key in keys}
    rest = {key: places for key, places in found.items() if places or key not in source.asked}
    if not rest or _adds_claim(keys, rest):
        return 0.0, []
    total, held, held_by = len(rest), 0.0, []
    for least in (1, 2):  # a second sentence has to hold two words more
        votes: dict[int, int] = {}
        for places in rest.values():
            for place in islice(places, _MOST_VOTES):
                votes[place] = votes.get(place, 0) + 1
        best = min(votes, key=lambda place: (-votes[place], place), default=0)
        count = votes.get(best, 0)
        if count < least:
            break
        held_by.append(best)
        held += count
        rest = {key: places for key, places in rest.items() if best not in places}
    held += _ELSEWHERE * sum(map(bool, rest.values()))
    return held / total, sorted(held_by)


def _adds_claim(keys: Sequence[str], found: dict[str, set[int]]) -> bool:
    run = 0
    for key in keys:
        run = run + 1 if key in found and not found[key] else 0
        if run > (_MOST_ADDED_PAIRS if is_unspaced(key) else _MOST_ADDED):
            return True
    return False


def _stretches(held_by: Sequence[int], source: _Source) -> Iterator[tuple[int, int]]:
    """Two neighbouring sentences are one stretch."""
    first, last = held_by[0], held_by[-1]
    if last - first <= 1:
        yield source.sentences[first][0], source.sentences[last][1]
    else:
        yield from (source.sentences[place] for place in held_by)


def _flags(
    passage: Passage, length: int, language: str | None, checked: Sequence[Claim], source: _Source
) -> Iterator[GroundingFlag]:
    if checked and sum(claim.held for claim in checked) < _CHECKED_SHARE * len(checked):
        yield "unsupported_entities"
    unspaced = language in UNSPACED_SCRIPTS
    words = passage.folded
    if _repeated_share(list("".join(words)) if unspaced else words) > _REPEATED_SHARE:
        yield "repetition"
    long = len(source.document) >= (_LONG_DOCUMENT // 2 if unspaced else _LONG_DOCUMENT)
    if long and length > _LENGTH_SHARE * len(source.document):
        yield "too_long"
    # A document in several languages is answered in the query's.
    expected = language_of(source.document, source.words) or language_of(source.query, folded_words(source.query))
    if language and expected and not may_be_same_language(language, expected):
        yield "language"


def _repeated_share(words: Sequence[str]) -> float:
    """Of the runs of six words (characters, in a script without spaces), those that are not the first of their kind."""
    runs = list(zip(*(words[i:] for i in range(_REPEATED_LENGTH)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
