"""A sentence as it is compared: words, amounts, dates, code, and what governs them (negation, quantifier, modal, condition)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from whyrank.grounding.amounts import (
    Amount,
    Time,
    amount_of_digits,
    amount_of_han,
    amount_of_words,
    fixed_amount,
    times,
)
from whyrank.grounding.quantities import Date, dates
from whyrank.grounding.tables import UNITS, Entry, Language

__all__ = ["Clause", "Mark", "Reading", "Token", "read"]

TokenKind = Literal["word", "amount", "date", "time", "code", "ordinal"]


@dataclass(slots=True)
class Mark:
    """A word that governs others. `token`: the token that it stands beside."""

    kind: Literal["negation", "quantifier", "bound", "degree", "modal"]
    key: str
    start: int
    end: int
    token: Token | None = None
    poles: tuple[str, ...] = ()


@dataclass(slots=True)
class Token:
    """What is held against the other text. `key` is equal where the meaning is; `before`: the small word before it."""

    kind: TokenKind
    key: str
    start: int
    end: int
    clause: int
    value: Amount | Time | tuple[Date, ...] | None = None
    poles: tuple[str, ...] = ()
    before: str = ""
    named: bool = False
    light: bool = False
    preposition: str = ""
    marks: list[Mark] = field(default_factory=list)


@dataclass(slots=True)
class Clause:
    """`condition`: "if", "except", "until", "setting" or "else", where a word of that kind opens it.

    `apart`: it does not belong to the clause before it."""

    start: int
    condition: str = ""
    condition_start: int = 0
    condition_end: int = 0
    tokens: list[int] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    passive: bool = False
    apart: bool = False


@dataclass(slots=True)
class Reading:
    start: int
    end: int
    tokens: list[Token] = field(default_factory=list)
    clauses: list[Clause] = field(default_factory=list)


_CODE = (
    r"(?P<code>`[^`\n]{1,300}`|(?:https?://|www\.)[^\s<>\"'`\u3000-\u9fff\uff00-\uffef]+[^\s<>\"'`.,;:!?)\u3000-\u9fff\uff00-\uffef]"
    r"|(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,8}|(?<![\w-])--[a-zA-Z][\w-]{0,64}|(?<![\w.])/[a-z][\w/.-]{0,200}\w"
    r"|(?<![\w.])[a-zA-Z_]\w{0,64}(?:(?:\.|::|->|/)[a-zA-Z_][\w-]{1,64}){1,9}|(?<![\w.-])[A-Za-z]\w{0,64}_\w{1,64}"
    r"|(?<![\d/.])\d{1,4}/(?:19|20)\d\d(?![\d/])|(?<![\w-])[A-Z][A-Za-z]{0,9}-?\d[\w-]{0,64}|(?<![\w-])[a-z]{1,3}\d\w{0,64})|"
)
_PLAIN = (
    r"(?P<word>[^\W\d_\u3005-\u9fff]{1,64})"
    r"|(?P<stop>[,;:()\[\]—–…“”«»，；：（）、。！？!?]|\.(?=\s|$)| - )"
    r"|(?P<number>\d+(?:(?<!\d{4})[ \u00a0\u202f]\d{3}(?!\d))*(?:[.,'’]\d+)*)"
    r"|(?P<han>[\u3400-\u9fff\u3005-\u3007]{1,64})"
)
_RAW = re.compile(_PLAIN)
_RAW_WITH_CODE = re.compile(_CODE + _PLAIN)
_MAY_BE_CODE = re.compile(r"[`@_/\d]|--|\w\.\w|->|::")
_HAN_NUMBER = re.compile(
    r"[〇零一二三四五六七八九十百千两]+(?:万[〇零一二三四五六七八九十百千两]*)?(?:亿[〇零一二三四五六七八九十百千两万]*)?"
)
_HAN_DATE = re.compile(
    r"(?:([〇零一二三四五六七八九]{4})年)?([一二三四五六七八九十]{1,2})月(?:([一二三四五六七八九十]{1,3})[日号])?"
)
_RANGE = re.compile(r"\s*(?:-|–|—|to|bis|à|a|au|und|and|et|y|至|到|~|～|×|x|or|oder|ou|o)\s*", re.IGNORECASE)
_PREPOSED = frozenset({"in", "aus", "nach", "von", "bei", "herr", "herrn", "frau", "firma", "dr", "prof", "durch"})


def read(text: str, start: int, end: int, language: Language) -> Reading:
    return _Reader(text, start, end, language).reading


class _Reader:
    """Goes through the words once. Marks wait for the token that they govern; at a clause's end they go to the last one."""

    def __init__(self, text: str, start: int, end: int, language: Language) -> None:
        self._text, self._language, self._offset = text[start:end], language, start
        self.reading = Reading(start, end)
        self._waiting: list[Mark] = []
        self._opened_pair = False
        self._pending_condition = ""
        self._before = self._last_small = self._preposition = ""
        self._open_clause(start, False)
        self._signs = _MAY_BE_CODE.search(self._text) is not None
        pattern = _RAW_WITH_CODE if self._signs else _RAW
        self._raw = [(match.lastgroup, *match.span(), match.group()) for match in pattern.finditer(self._text)]
        self._lowered = [item[3].lower() if item[0] == "word" else item[3] for item in self._raw]
        self._fixed = dict(self._dates_and_times())
        self._seen = 0
        place, small, german = 0, language.small, language.name == "de"
        while place < len(self._raw):
            kind, start, end, written = self._raw[place]
            word = self._lowered[place]
            if kind != "word" or start < self._seen or start in self._fixed:
                place = self._step(place)
            elif word in small:
                self._before = self._last_small = word
                if word in language.limits:
                    self._preposition = word
                place += 1
            elif word in language.known or german:
                place = self._word(place)
            else:
                self._add("word", word, start, end, named=written[0].isupper() and self._is_name(place))
                place += 1
        self._close_clause()
        self._join_ranges()

    def _dates_and_times(self) -> Iterator[tuple[int, tuple[TokenKind, int, tuple[Date, ...] | Time]]]:
        text = self._text
        if self._signs:
            for start, end, readings in dates(text):
                yield start, ("date", end, tuple(readings))
        for match in _HAN_DATE.finditer(text) if "月" in text else ():
            yield match.start(), ("date", match.end(), (_han_date(match, self._language),))
        for start, end, time in times(text, self._language):
            yield start, ("time", end, time)

    def _step(self, place: int) -> int:
        """Takes one item, or several that belong together, and returns the place of the next."""
        kind, start, end, written = self._raw[place]
        if start < self._seen and (kind != "han" or end <= self._seen):
            return place + 1
        if start in self._fixed:
            fixed_kind, fixed_end, value = self._fixed[start]
            self._add(fixed_kind, "", start, fixed_end, value=value)
        elif kind == "word":
            return self._word(place)
        elif kind == "stop":
            if written != "、" and written not in ("“", "”", "«", "»"):
                self._close_clause()
                self._open_clause(self._offset + end, written not in ",，")
        elif kind == "number":
            if place == 0 and self._text[end : end + 2] in (". ", ") "):
                return place + 1  # of a list
            amount, unit_end = amount_of_digits(self._text, start, end, self._language)
            amount = self._per_hour(amount, start) if self._language.name == "zh" else amount
            self._add("amount", written, start, unit_end, value=amount)
        elif kind == "code":
            self._add("code", written.strip("`").lower().split("://")[-1].rstrip("/").removesuffix("()"), start, end)
        else:
            self._han(start, written)
        return place + 1

    def _word(self, place: int) -> int:
        language, word = self._language, self._lowered[place]
        _, start, end, written = self._raw[place]
        for words, phrase in language.phrases.get(word, ()):
            if tuple(self._lowered[place : place + len(words)]) == words and self._is_meant(
                phrase, word, place + len(words)
            ):
                return self._entry(phrase, word, place, place + len(words) - 1)
        if word in language.articles:
            return self._article(place)
        entry = language.entries.get(word)
        if entry is not None and not (written == "May" and place > 0 and entry.kind == "modal"):
            return self._entry(entry, word, place, place)
        compound = _compound(word, language.numbers) if language.name == "de" else None
        if compound:
            amount, unit_end = amount_of_words([compound], self._text, end, language)
            self._add("amount", word, start, unit_end, value=amount)
        else:
            unit = UNITS.get(word) if len(word) > 1 else None
            key = f"unit {unit[0]} {unit[1]}" if unit else word
            self._add("word", key, start, end, named=not unit and written[0].isupper() and self._is_name(place))
        return place + 1

    def _is_meant(self, entry: Entry, word: str, after: int) -> bool:
        """ "Longer than" is a bound before a number; before anything else, it compares two things."""
        first = self._language.entries.get(word)
        if entry.kind != "bound" or first is None or not first.poles or after >= len(self._raw):
            return True
        kind, _, _, _ = self._raw[after]
        return (
            kind == "number"
            or self._lowered[after] in self._language.numbers
            or self._lowered[after] in self._language.articles
        )

    def _is_name(self, place: int) -> bool:
        if place == 0 or self._raw[place - 1][3] in _SENTENCE_OPENERS:
            return False
        if self._language.name != "de":
            return True
        beside = (self._raw[other][3] for other in (place - 1, place + 1) if other < len(self._raw))
        several = sum(map(str.isupper, self._raw[place][3])) > 1
        return (
            several
            or self._lowered[place - 1] in _PREPOSED
            or any(word[:1].isupper() and word.lower() not in self._language.entries for word in beside)
        )

    def _article(self, place: int) -> int:
        """ "an hour" is 1 hour; else an article is nothing."""
        _, start, end, word = self._raw[place]
        amount, unit_end = amount_of_words([1.0], self._text, end, self._language)
        if amount.unit and unit_end > end:
            self._add("amount", "1", start, unit_end, value=amount)
        elif word.lower() in self._language.numbers:
            self._add("amount", "1", start, end, value=Amount((1.0,), (1.0,)))
        else:
            self._before = word.lower()
        return place + 1

    def _entry(self, entry: Entry, word: str, place: int, last: int) -> int:
        start, end = self._raw[place][1], self._raw[last][2]
        kind = entry.kind
        if kind == "function":
            self._function(word, start)
        elif kind == "word":
            named = self._raw[place][3][0].isupper() and self._language.name != "de" and self._is_name(place)
            self._add("word", entry.key, start, end, poles=entry.poles, named=named, light=entry.light and not named)
        elif kind == "number":
            return self._number_words(place, last, entry)
        elif kind == "ordinal":
            self._add("ordinal", entry.key, start, end, poles=entry.poles)
        elif kind == "fixed":
            self._add("amount", entry.key, start, end, value=fixed_amount(entry.value, entry.key))
        elif kind == "plus":
            self._plus(entry.value, end)
        elif kind == "condition":
            self._condition(entry.key, start, end)
        else:
            self._mark(entry, start, end)
        return last + 1

    def _function(self, word: str, start: int) -> None:
        clause = self.reading.clauses[-1]
        if word in self._language.breaks and clause.tokens and not self._waiting:
            self._close_clause()
            self._open_clause(self._offset + start, False)
        if word in self._language.limits:
            self._preposition = word
        if word in self._language.passive:
            self.reading.clauses[-1].passive = True
        self._before = self._last_small = word
        for place, words in enumerate(self._language.only_pair):
            if word in words:
                self._only_pair(place, start, start + len(word))

    def _only_pair(self, place: int, start: int, end: int) -> None:
        """French says "only" in two words: ne … que."""
        if place == 0:
            self._opened_pair = True
        elif self._opened_pair:
            self._opened_pair = False
            self._mark(Entry("quantifier", "only"), start, end)

    def _number_words(self, place: int, last: int, entry: Entry) -> int:
        """A row of number words, and what stands between them ("and", hyphens)."""
        language, values, place_after = self._language, [entry.value], last + 1
        while place_after < len(self._raw):
            word = self._lowered[place_after]
            step = 2 if word == language.number_joiner and place_after + 1 < len(self._raw) else 1
            next_word = self._lowered[place_after + step - 1]
            following = language.numbers.get(next_word, 1.0 if step == 2 and next_word in language.articles else None)
            close = self._raw[place_after][1] - self._raw[place_after - 1][2] <= 1
            if following is None or not close or not _goes_on(values[-1], following, step == 2):
                break
            values.append(following)
            place_after += step
        amount, end = amount_of_words(values, self._text, self._raw[place_after - 1][2], language)
        self._add("amount", entry.key, self._raw[place][1], end, value=amount, poles=entry.poles)
        return place_after

    def _plus(self, part: float, end: int) -> None:
        last = self.reading.tokens[-1] if self.reading.tokens else None
        if last and isinstance(last.value, Amount):
            last.value = last.value.plus(part)
            unit, end = amount_of_words([1.0], self._text, end, self._language)
            if unit.unit and not last.value.unit:
                last.value = last.value.with_unit_of(unit)
            last.end, self._seen = end + self._offset, end

    def _condition(self, key: str, start: int, end: int) -> None:
        clause = self.reading.clauses[-1]
        whole = self._language.name == "zh"
        if clause.tokens and not whole:
            clause = self._open_clause(self._offset + start, False)
        if not clause.condition:
            clause.apart |= (whole and key != "except_before") or self._last_small in self._language.joiners
            clause.condition, clause.condition_start, clause.condition_end = (
                key.removesuffix("_before"),
                self._offset + start,
                self._offset + end,
            )

    def _mark(self, entry: Entry, start: int, end: int) -> None:
        start, end = start + self._offset, end + self._offset
        clause = self.reading.clauses[-1]
        if entry.kind == "negation":
            self._opened_pair = False
            clause.marks.append(mark := Mark("negation", entry.key, start, end))
            self._waiting.append(mark)
        elif entry.kind == "bound" and entry.key.startswith("suffix_"):
            last = self.reading.tokens[-1] if clause.tokens else None
            clause.marks.append(mark := Mark("bound", entry.key.removeprefix("suffix_"), start, end, last))
            if last:
                last.marks.append(mark)
        else:
            clause.marks.append(mark := Mark(entry.kind, entry.key, start, end))  # type: ignore[arg-type]
            self._waiting.append(mark)
        mark.poles = entry.poles

    def _per_hour(self, amount: Amount, start: int) -> Amount:
        """每小时25公里 is 25 km/h."""
        clause = re.split(r"[，。；]", self._text[max(0, start - 14) : start])[-1]
        if amount.unit != "length" or not ("每小时" in clause or "时速" in clause):
            return amount
        return Amount(tuple(value / 1000 for value in amount.values), amount.plain, "speed")

    def _han(self, start: int, written: str) -> None:
        language, place = self._language, 0
        while place < len(written):
            here = start + place
            if here < self._seen:
                place += 1
                continue
            if here in self._fixed:
                kind, end, value = self._fixed[here]
                self._add(kind, "", here, end, value=value)
                continue
            size = next(
                (
                    n
                    for n in range(min(language.longest, len(written) - place), 0, -1)
                    if written[place : place + n] in language.entries
                ),
                0,
            )
            share = written.startswith("百分之", place)
            number = _HAN_NUMBER.match(written, place + 3 * share)
            if number and (size == 0 or number.end() - place >= size):
                amount, end = amount_of_han(number.group(), self._text, start + number.end(), language)
                amount = fixed_amount(amount.plain[0], "%") if share else self._per_hour(amount, here)
                self._add("amount", number.group(), here, end, value=amount)
            elif size:
                self._han_entry(
                    language.entries[written[place : place + size]], here, here + size, written[place : place + size]
                )
            else:
                self._add("word", written[place], here, here + 1)
            place = max(place + 1, self._seen - start) if number or not size else place + size

    def _han_entry(self, entry: Entry, start: int, end: int, word: str) -> None:
        if entry.kind == "function":
            self._function(word, start)
        elif entry.kind == "word":
            self._add("word", entry.key, start, end, poles=entry.poles)
        elif entry.kind == "number":
            amount, unit_end = amount_of_words([entry.value], self._text, end, self._language)
            self._add("amount", word, start, unit_end, value=amount)
        elif entry.kind == "ordinal":
            self._add("ordinal", entry.key, start, end)
        elif entry.kind == "fixed":
            self._add("amount", word, start, end, value=fixed_amount(entry.value, entry.key))
        elif entry.kind == "condition":
            self._condition(entry.key, start, end)
        elif entry.kind != "plus":
            self._mark(entry, start, end)

    def _add(
        self,
        kind: TokenKind,
        key: str,
        start: int,
        end: int,
        value: Amount | Time | tuple[Date, ...] | None = None,
        poles: tuple[str, ...] = (),
        named: bool = False,
        light: bool = False,
    ) -> None:
        reading = self.reading
        clause = reading.clauses[-1]
        number = len(reading.clauses) - 1
        offset, marks = self._offset, self._waiting
        token = Token(
            kind,
            key,
            start + offset,
            end + offset,
            number,
            value,
            poles,
            self._before,
            named,
            light,
            self._preposition,
            marks,
        )
        if marks:
            for mark in marks:
                mark.token = token
        self._waiting = []
        clause.tokens.append(len(reading.tokens))
        reading.tokens.append(token)
        self._before = self._last_small = self._preposition = ""
        self._seen = end

    def _open_clause(self, start: int, apart: bool) -> Clause:
        """An empty one goes on: "except in cases of" is one condition."""
        if self.reading.clauses and not self.reading.clauses[-1].tokens:
            self.reading.clauses[-1].apart |= apart
            return self.reading.clauses[-1]
        clause = Clause(start, apart=apart)
        self.reading.clauses.append(clause)
        return clause

    def _close_clause(self) -> None:
        """What still waits belongs to the last token."""
        self._opened_pair = False
        clause = self.reading.clauses[-1]
        if self._waiting and clause.tokens:
            last = self.reading.tokens[clause.tokens[-1]]
            for mark in self._waiting:
                mark.token = last
            last.marks = last.marks + self._waiting
            self._waiting = []
        self._before = ""

    def _join_ranges(self) -> None:
        tokens = self.reading.tokens
        for one, other in pairwise(tokens):
            if not (isinstance(one.value, Amount) and isinstance(other.value, Amount)):
                continue
            between = self._text[one.end - self._offset : other.start - self._offset]
            if one.value.unit is None and other.value.unit and len(between) < 8 and _RANGE.fullmatch(between):
                one.value = one.value.with_unit_of(other.value)


_SENTENCE_OPENERS = frozenset({":", ".", "…", "“", "«", "!", "?"})


def _goes_on(before: float, following: float, joined: bool) -> bool:
    """Whether two number words are one number: twenty three, not ten twelve."""
    if following >= 100:
        return before < following
    if 0 < following < 1 or (before == 4 and following == 20):
        return not joined or before >= 1
    return before >= 100 or (before in range(20, 100, 10) and following < 20)


def _compound(word: str, numbers: dict[str, float]) -> float | None:
    """German writes zweiundzwanzig and dreitausendfünfhundert as one word."""
    if word in numbers:
        return numbers[word]
    if word == "ein":
        return 1.0
    for sign, factor in (("tausend", 1000), ("hundert", 100)):
        left, found, right = word.partition(sign)
        if found:
            many = _compound(left, numbers) if left else 1.0
            rest = _compound(right.removeprefix("und"), numbers) if right else 0.0
            return None if many is None or rest is None else many * factor + rest
    left, found, right = word.partition("und")
    if found and right in numbers and (left in numbers or left == "ein"):
        return numbers.get(left, 1.0) + numbers[right]
    return None


def _han_date(match: re.Match[str], language: Language) -> Date:
    year, month, day = (
        int(amount_of_han(part, "", 0, language)[0].plain[0]) if part else None for part in match.groups()
    )
    return year, month or 0, day
