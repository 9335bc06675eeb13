"""A sentence as it is compared: words, amounts, dates, code, and what governs them (negation, quantifier, modal, condition)."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

from whyrank.grounding.amounts import amount_of, amount_of_digits, fixed_amount, one_of
from whyrank.grounding.dates import dates, times
from whyrank.grounding.names import is_name
from whyrank.grounding.numerals import HAN_NUMBER, goes_on, han_number, in_one_word, number_of_words
from whyrank.grounding.scan import code_key, scan
from whyrank.grounding.tables import UNITS, Entry, Language, Phrase
from whyrank.grounding.tokens import Clause, Mark, Reading, Token, TokenKind
from whyrank.grounding.values import Amount, Dates, Value
from whyrank.grounding.words import MONTHS

__all__ = ["read"]

_RANGE = re.compile(r"\s*(?:-|–|—|to|bis|à|a|au|und|and|et|y|至|到|~|～|×|x|by|or|oder|ou|o)\s*", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_ORDINAL = re.compile(r"(?:st|nd|rd|th|ère|ème|er|re|e|[ºª])(?![^\W\d_])|\.(?= \w)")
_GOVERNING = ("quantifier", "degree", "bound", "modal")
_NONE: dict[str, list[Phrase]] = {}
_QUOTES = ("、", "“", "”", "«", "»")


def read(text: str, start: int, end: int, language: Language, is_inside: Callable[[str], bool]) -> Reading:
    """`is_inside`: whether a word has its capital inside a sentence as well."""
    return _Reader(text, start, end, language, is_inside).reading


class _Reader:
    """Goes through the words once. Marks wait for the token that they govern; at a clause's end, the last token gets them."""

    def __init__(self, text: str, start: int, end: int, language: Language, is_inside: Callable[[str], bool]) -> None:
        self._text, self._language, self._offset = text[start:end], language, start
        self._items = items = scan(self._text)
        self.reading = Reading(start, end, items)
        self._is_inside = is_inside
        self._waiting: list[Mark] = []
        self._opened_pair = False
        self._before = self._last_small = self._preposition = ""
        self._seen = 0
        self._open_clause(start, False)
        self._fixed: dict[int, tuple[TokenKind, int, Value]] = {}
        if language.name == "zh" or _DIGIT.search(self._text):
            self._fixed.update((begin, ("date", stop, date)) for begin, stop, date in dates(self._text, language))
        for begin, stop, time in times(self._text, language):
            if begin not in self._fixed or self._fixed[begin][1] < stop:
                self._fixed[begin] = ("time", stop, time)
        place, fixed = 0, self._fixed
        kinds, starts, words = items.kinds, items.starts, items.words
        small, functions, known, limits = language.small, language.functions, language.known, language.limits
        phrases = language.phrases
        all_known = language.name == "de"
        while place < len(kinds):
            start, word = starts[place], words[place]
            if kinds[place] != "word" or start < self._seen or start in fixed:
                place = self._step(place)
                continue
            begins_phrase = word in phrases and words[place + 1] in phrases[word]
            if word in small and not begins_phrase:
                self._before = self._last_small = word
                if word in limits:
                    self._preposition = language.contractions.get(word, word)
            elif word in functions and not begins_phrase:
                self._function(word, start)
            elif word in known or all_known:
                place = self._word(place)
                continue
            else:
                named = items.written[place][0].isupper() and is_name(items, place, language, is_inside)
                self._add("word", word, start, items.ends[place], named=named)
            place += 1
        self._close_clause()
        self._join_amounts()

    def _step(self, place: int) -> int:
        """Reads one item, or several that belong together, and returns the position of the next."""
        items = self._items
        kind, start, end, written = items.kinds[place], items.starts[place], items.ends[place], items.written[place]
        if start < self._seen and (kind != "han" or end <= self._seen):
            return place + 1
        if start in self._fixed:
            self._add_fixed(start)
        elif kind == "word":
            return self._word(place)
        elif kind == "stop":
            if written not in _QUOTES:
                self._close_clause()
                self._open_clause(self._offset + end, written not in ",，")
        elif kind == "number":
            self._number(place)
        elif kind == "code":
            marks = written.startswith("`")
            self._add("code", code_key(written), start + marks, end - marks)
        if kind == "han":
            self._han(start, written)
        return place + 1

    def _add_fixed(self, start: int) -> None:
        kind, end, value = self._fixed[start]
        self._add(kind, "", start, end, value=value)

    # ------------------------------------------------------------------------------------------------------- words

    def _word(self, place: int) -> int:
        language, items = self._language, self._items
        start, end, written, word = items.starts[place], items.ends[place], items.written[place], items.words[place]
        for words, phrase in language.phrases.get(word, _NONE).get(items.words[place + 1], ()):
            last = place + len(words)
            if items.words[place:last] == words and self._is_meant(phrase, word, last):
                return self._entry_at(phrase, place, last - 1)
        if word in language.articles:
            if language.numbers.get(items.words[place + 1], 0.0) >= 100:
                return self._number_words(place, place, Entry("number", word, value=1.0))
            return self._article(place)
        entry = language.entries.get(word)
        if word in MONTHS and (entry is None or (written == "May" and place > 0)) and self._is_month(written):
            self._add("date", "", start, end, value=Dates(((None, MONTHS[word], None),)))
            return place + 1
        if entry is not None and not (entry.kind in _GOVERNING and self._is_part_of_name(place)):
            return self._entry_at(entry, place, place)
        number = in_one_word(word, language.numbers) if language.name == "de" else None
        unit = UNITS.get(word) if len(word) > 1 else None
        if number:
            amount, unit_end = amount_of((number,), self._text, end, language)
            self._add("amount", word, start, unit_end, value=amount)
        elif unit and self._is_rate(unit.dimension):
            self._add("amount", "1", start, end, value=one_of(unit))
        else:
            key = f"unit {unit.dimension} {unit.factor}" if unit else word
            named = not unit and written[0].isupper() and is_name(items, place, language, self._is_inside)
            self._add("word", key, start, end, named=named)
        return place + 1

    def _is_part_of_name(self, place: int) -> bool:
        """Little Faldon."""
        pair = self._items.written[place : place + 2]
        if place == 0 or len(pair) < 2 or not all(map(str.istitle, pair)):
            return False
        return self._language.name != "de" and is_name(self._items, place, self._language, self._is_inside)

    def _is_month(self, written: str) -> bool:
        """Alone, it is one if written out."""
        return (len(written) > 3 or written in ("May", "Mai")) and (
            written[0].isupper() or self._language.name in ("fr", "es")
        )

    def _is_rate(self, dimension: str) -> bool:
        """40 euros per month, 40 Euro im Monat: nothing but a small word is between the amount and the unit."""
        last = self.reading.tokens[-1] if self.reading.tokens else None
        clause = self.reading.clauses[-1]
        if dimension not in ("time", "months") or last is None or not clause.tokens or not self._before:
            return False
        return (
            isinstance(last.value, Amount)
            and last.value.dimension not in (None, "time", "months")
            and not self._waiting
        )

    def _is_meant(self, entry: Entry, word: str, after: int) -> bool:
        """ "Longer than" is a bound before a number; before anything else, it compares two things."""
        first = self._language.entries.get(word)
        if entry.kind != "bound" or first is None or not first.poles or after >= len(self._items.kinds):
            return True
        word, language = self._items.words[after], self._language
        return self._items.kinds[after] == "number" or word in language.numbers or word in language.articles

    def _article(self, place: int) -> int:
        """ "an hour" is 1 hour; else an article is nothing."""
        start, end, word = self._items.starts[place], self._items.ends[place], self._items.words[place]
        amount, unit_end = amount_of((1.0,), self._text, end, self._language)
        if amount.unit and unit_end > end:
            self._add("amount", "1", start, unit_end, value=amount)
        elif word in self._language.numbers:
            self._add("amount", "1", start, end, value=Amount((1.0,), (1.0,)))
        else:
            self._before = word
        return place + 1

    def _entry_at(self, entry: Entry, place: int, last: int) -> int:
        items = self._items
        start, end, written, word = items.starts[place], items.ends[last], items.written[place], items.words[place]
        if entry.kind == "number":
            return self._number_words(place, last, entry)
        if entry.kind == "word":
            named = (
                written[0].isupper()
                and is_name(items, place, self._language, self._is_inside)
                and self._language.name != "de"
            )
            self._add("word", entry.key, start, end, poles=entry.poles, named=named, light=entry.light and not named)
        else:
            self._entry(entry, word, start, end)
        return last + 1

    def _entry(self, entry: Entry, word: str, start: int, end: int) -> None:
        kind = entry.kind
        if kind == "function":
            self._function(word, start)
        elif kind == "word":
            self._add("word", entry.key, start, end, poles=entry.poles, light=entry.light)
        elif kind == "ordinal":
            self._add("ordinal", entry.key, start, end, poles=entry.poles)
        elif kind == "fixed":
            self._add("amount", entry.key, start, end, value=fixed_amount(entry.value, entry.key))
        elif kind == "plus":
            self._plus(entry.value, end)
        elif kind == "condition":
            self._condition(entry, start, end)
        else:
            self._mark(entry, start, end)

    def _function(self, word: str, start: int) -> None:
        clause, language = self.reading.clauses[-1], self._language
        if word in language.breaks and clause.tokens and not self._waiting:
            self._close_clause()
            self._open_clause(self._offset + start, False)
        if word in language.limits:
            self._preposition = language.contractions.get(word, word)
        if word in language.passive:
            self.reading.clauses[-1].passive = True
        self._before = self._last_small = word
        for place, words in enumerate(language.only_pair):
            if word in words:
                self._only_pair(place, start, start + len(word))

    def _only_pair(self, place: int, start: int, end: int) -> None:
        """French says "only" in two words: ne … que."""
        if place == 0:
            self._opened_pair = True
        elif self._opened_pair:
            self._opened_pair = False
            self._mark(Entry("quantifier", "only"), start, end)

    # ----------------------------------------------------------------------------------------------------- numbers

    def _number(self, place: int) -> None:
        start, end, written = self._items.starts[place], self._items.ends[place], self._items.written[place]
        if place == 0 and self._text[end : end + 2] in (". ", ") "):
            return  # of a list
        ordinal = _ORDINAL.match(self._text, end)
        if ordinal and written.isdigit():
            self._add("ordinal", str(int(written)), start, ordinal.end())
        elif (amount := amount_of_digits(self._text, start, end, self._language)) is None:
            self._add("code", written, start, end)
        else:
            self._add("amount", written, start, amount[1], value=self._per_hour(amount[0], start))

    def _number_words(self, place: int, last: int, entry: Entry) -> int:
        """A row of number words, and what stands between them ("and", hyphens)."""
        language, items, values, after = self._language, self._items, [entry.value], last + 1
        while after < len(items.kinds):
            step = 2 if items.words[after] == language.number_joiner and after + 1 < len(items.kinds) else 1
            word = items.words[after + step - 1]
            is_one = word in language.articles and (step == 2 or (values[-1] >= 100 and word not in ("a", "an")))
            following = language.numbers.get(word, 1.0 if is_one else None)
            close = items.starts[after] - items.ends[after - 1] <= 1
            if following is None or not close or not goes_on(values[-1], following, step == 2):
                break
            values.append(following)
            after += step
        number, start = number_of_words(values), items.starts[place]
        ordinal, last = self._ordinal_at(after)
        if ordinal and number >= 20:
            self._add("ordinal", f"{number + ordinal:.0f}", start, items.ends[last])
            return last + 1
        decimals = self._decimals_at(after)
        if decimals:
            number, after = float(f"{number:.0f}.{decimals}"), after + 1 + len(decimals)
        amount, end = amount_of((number,), self._text, items.ends[after - 1], language)
        self._add("amount", entry.key, start, end, value=amount, poles=entry.poles)
        return after

    def _ordinal_at(self, place: int) -> tuple[int, int]:
        """The "twentieth" of "one hundred and twentieth", and its place."""
        words = self._items.words[place : place + 2]
        at = 1 if words[:1] == (self._language.number_joiner,) else 0
        entry = self._language.entries.get(words[at]) if at < len(words) else None
        return (int(entry.key), place + at) if entry is not None and entry.kind == "ordinal" else (0, place)

    def _decimals_at(self, place: int) -> str:
        """Four point two."""
        digits: list[str] = []
        if self._items.words[place] in self._language.decimal:
            for word in self._items.words[place + 1 :]:
                digit = self._language.numbers.get(word, 10)
                if not 0 <= digit < 10 or digit % 1:
                    break
                digits.append(f"{digit:.0f}")
        return "".join(digits)

    def _plus(self, part: float, end: int) -> None:
        last = self.reading.tokens[-1] if self.reading.tokens else None
        if last and isinstance(last.value, Amount):
            last.value = last.value.plus(part)
            unit, end = amount_of((1.0,), self._text, end, self._language)
            if not last.value.unit:
                last.value = last.value.with_unit(unit.unit)
            last.end, self._seen = end + self._offset, end

    def _per_hour(self, amount: Amount, start: int) -> Amount:
        """每小时25公里 is 25 km/h."""
        if self._language.name != "zh" or amount.dimension != "length":
            return amount
        clause = re.split(r"[，。；]", self._text[max(0, start - 14) : start])[-1]
        return amount.with_unit(UNITS["km/h"]) if "每小时" in clause or "时速" in clause else amount

    def _join_amounts(self) -> None:
        """Of 5 to 10 million euros, the first has the second's unit; an hour and forty minutes are one amount."""
        if len([token for token in self.reading.tokens if token.value is not None]) < 2:
            return
        for one, other in pairwise(self.reading.tokens):
            if not (isinstance(one.value, Amount) and isinstance(other.value, Amount)) or other.start - one.end > 7:
                continue
            between = self._text[one.end - self._offset : other.start - self._offset].lower()
            says_more = other.value.unit is not None or other.value.scaled > 1
            if one.value.unit is None and says_more and _RANGE.fullmatch(between):
                one.value = one.value.like_following(other.value)
            elif between.strip() in ("", self._language.number_joiner) and other.value.is_rest_of(one.value):
                other.value = one.value.with_rest(other.value)
                other.start, other.marks, other.before = one.start, one.marks + other.marks, one.before
                one.kind, one.key, one.value, one.light = "word", "", None, True

    # ----------------------------------------------------------------------------------------------------- Chinese

    def _han(self, start: int, written: str) -> None:
        """Longest words first; signs that are no known word stand alone."""
        language, place = self._language, 0
        while place < len(written):
            here = start + place
            if here < self._seen:
                place += 1
                continue
            if here in self._fixed:
                self._add_fixed(here)
                continue
            longest = min(language.longest, len(written) - place)
            size = next((n for n in range(longest, 0, -1) if written[place : place + n] in language.entries), 0)
            share = written.startswith("百分之", place)
            number = HAN_NUMBER.match(written, place + 3 * share)
            end = here + max(size, 1)
            if number and (size == 0 or number.end() - place >= size):
                value = han_number(number.group())
                amount, end = amount_of((value,), self._text, start + number.end(), language)
                amount = fixed_amount(value, "%") if share else self._per_hour(amount, here)
                self._add("amount", number.group(), here, end, value=amount)
            elif size:
                self._han_word(language.entries[written[place : place + size]], here, end)
            else:
                self._add("word", written[place], here, end)
            place = max(end, self._seen) - start

    def _han_word(self, entry: Entry, start: int, end: int) -> None:
        word = self._text[start:end]
        if entry.kind == "number":
            amount, unit_end = amount_of((entry.value,), self._text, end, self._language)
            self._add("amount", word, start, unit_end, value=amount)
        else:
            self._entry(entry, word, start, end)

    # ------------------------------------------------------------------------------------------- marks and clauses

    def _condition(self, entry: Entry, start: int, end: int) -> None:
        clause, key = self.reading.clauses[-1], entry.key
        whole = self._language.name == "zh"
        if entry.poles:
            self._waiting.append(Mark("order", key, self._offset + start, self._offset + end, poles=entry.poles))
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
        mark = Mark(entry.kind, entry.key.removeprefix("suffix_"), start, end, poles=entry.poles)  # type: ignore[arg-type]
        clause.marks.append(mark)
        if entry.kind == "negation":
            self._opened_pair = False
        if mark.key == entry.key:
            self._waiting.append(mark)
        elif clause.tokens:
            mark.token = self.reading.tokens[-1]
            mark.token.marks += (mark,)

    def _add(
        self,
        kind: TokenKind,
        key: str,
        start: int,
        end: int,
        value: Value | None = None,
        poles: tuple[str, ...] = (),
        named: bool = False,
        light: bool = False,
    ) -> None:
        offset, marks = self._offset, self._waiting
        clauses, tokens = self.reading.clauses, self.reading.tokens
        token = Token(
            kind,
            key,
            start + offset,
            end + offset,
            len(clauses) - 1,
            value,
            poles,
            self._before,
            named,
            light,
            self._preposition,
            tuple(marks),
        )
        if marks:
            for mark in marks:
                mark.token = token
            self._waiting = []
        clauses[-1].tokens.append(len(tokens))
        tokens.append(token)
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
            last.marks += tuple(self._waiting)
            self._waiting = []
        self._before = ""
