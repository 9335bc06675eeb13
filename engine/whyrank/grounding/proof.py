"""Whether a sentence says nothing but what a stretch of the document says: the proof that `supported` rests on.

Word by word and in order, every word of the sentence, function words included, has to stand in one sentence of the document or
in neighbouring ones; a value may have another format. What may be added or left out is a closed class, listed for each language
in the table `proof`:

- fillers (articles, "also") anywhere; connectors ("and", "but", "however") where a clause or sentence begins;
- an aside between two commas or in brackets;
- another clause of the source's sentence, set off by ";", ", and", ", whereas" or ", which"; "it" may stand for that "which",
  and follow a semicolon that stands for "and";
- the first name before a surname, where the document names no other.

Nothing left out may limit the rest: no negation, condition or "only", no date, nothing that begins with a preposition. In a
language without such a table, all words have to be the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from whyrank.grounding.scan import Items, code_key
from whyrank.grounding.tables import Language
from whyrank.grounding.tokens import Reading
from whyrank.grounding.values import Amount, Dates, Time, Value, implies

__all__ = ["Unit", "proves", "units_of"]

_SIGNS = re.compile(r"[<>≤≥±≈~=×÷+−]|(?<![\w.,)\]])-(?=\d)|(?<=\d)\s?[-–—]\s?(?=\d)")
_SIGN_CHARACTERS = frozenset("<>≤≥±≈~=×÷+−-–—")
_TO = frozenset("to bis à a al au – — - ~ 至 到".split())
_BY = frozenset("× x by mal par por".split())
_PER = frozenset("per pro par por je im al 每".split())
_RESPELLED = _TO | _BY | {"t"}
_VERBS = {"won": "will", "can": "can", "shan": "shall"}


class Unit(NamedTuple):
    """A word, a sign or a value. `stop`: the punctuation before it; `governs`: it is a negation, quantifier, condition or the
    like; `limits`: one that may reach beyond its clause."""

    key: str
    start: int
    stop: str = ""
    value: Value | None = None
    named: bool = False
    governs: bool = False
    limits: bool = False

    @property
    def is_period(self) -> bool:
        """A day, a year."""
        value = self.value
        return isinstance(value, Amount) and value.plain == (1.0,) and value.dimension in ("time", "months")

    @property
    def is_date(self) -> bool:
        return isinstance(self.value, Dates | Time)


def units_of(text: str, reading: Reading, language: Language) -> list[Unit]:
    """Of a sentence that has been read."""
    offset, spelled = reading.start, language.proof.spelled
    valued = {token.start: token for token in reading.tokens if token.value is not None or token.kind == "ordinal"}
    named = {token.start for token in reading.tokens if token.named}
    marks = [mark for clause in reading.clauses for mark in clause.marks]
    limiting = {clause.condition_start for clause in reading.clauses if clause.condition}
    limiting.update(mark.start for mark in marks if mark.kind == "negation" or mark.key == "only")
    governing = limiting.union(mark.start for mark in marks)
    units: list[Unit] = []
    seen, stop = offset, ""
    for kind, begin, written in _pieces(text[offset : reading.end], reading.items):
        start = begin + offset
        if start < seen:
            continue
        if kind == "stop":
            stop += written.strip()
            continue
        if token := valued.get(start):
            unit = Unit("" if token.value else f"ordinal {token.key}", start, stop, token.value)
            if units and unit.is_period and units[-1].key in _PER:
                unit = unit._replace(stop=units.pop().stop)
            seen = token.end
        elif kind == "number" and not units:
            continue  # of a list
        else:
            key = code_key(written) if kind == "code" else spelled.get(written.lower(), written.lower())
            unit = Unit(key, start, stop, None, start in named or kind == "code", start in governing, start in limiting)
        if kind == "word" and "_" in unit.key:
            units += (unit._replace(key=word) for word in unit.key.split("_"))
        else:
            units.append(unit)
        stop = ""
    return _normalised(units)


def _pieces(sentence: str, items: Items) -> Iterator[tuple[str | None, int, str]]:
    """Items of the scan, Chinese ones character by character, and the signs between them."""
    found = () if _SIGN_CHARACTERS.isdisjoint(sentence) else _SIGNS.finditer(sentence)
    signs = [(match.start(), match.group().strip().replace("−", "-")) for match in found]
    for kind, start, written in zip(items.kinds, items.starts, items.written, strict=True):
        while signs and signs[0][0] < start:
            yield "sign", *signs.pop(0)
        if kind == "han":
            yield from (("word", start + at, sign) for at, sign in enumerate(written))
        else:
            yield kind, start, written


def _normalised(units: list[Unit]) -> list[Unit]:
    """ "90–110" is "90 to 110"; "isn't" is "is not"."""
    for at, unit in enumerate(units):
        if unit.key not in _RESPELLED or not at:
            continue
        before = units[at - 1]
        if unit.key == "t" and before.key.endswith("n"):
            units[at - 1] = before._replace(key=_VERBS.get(before.key, before.key[:-1]))
            units[at] = unit._replace(key="not")
        elif unit.key != "t" and before.value and at + 1 < len(units) and units[at + 1].value:
            units[at] = unit._replace(key="–" if unit.key in _TO else "×")
    return units


def proves(
    claim: Sequence[Unit],
    sentences: Iterator[Sequence[Unit]],
    language: Language,
    first_names: Callable[[str], set[str]],
) -> int | None:
    """Whether the first of these neighbouring sentences begins what the claim says; if so, how many of them it draws on."""
    proof = _Proof(claim, sentences, language, first_names)
    if not claim or not proof.ends:
        return None
    end = next((end for start in proof.starts() if (end := proof.end(start)) is not None), None)
    return None if end is None else next(number for number, last in enumerate(proof.ends, 1) if end <= last)


class _Proof:
    """Goes through claim and source side by side. `ends`: where each sentence of the source, as far as it is needed, ends."""

    def __init__(
        self,
        claim: Sequence[Unit],
        sentences: Iterator[Sequence[Unit]],
        language: Language,
        first_names: Callable[[str], set[str]],
    ) -> None:
        self._claim, self._language, self._words, self._first_names = claim, language, language.proof, first_names
        self._sentences = sentences
        self.source: list[Unit] = []
        self.ends: list[int] = []
        self._at(0)

    def _at(self, at: int) -> Unit | None:
        if at == len(self.source) and (units := next(self._sentences, None)):
            self.source += [units[0]._replace(stop=f"{units[0].stop}."), *units[1:]]
            self.ends.append(len(self.source))
        return self.source[at] if at < len(self.source) else None

    def starts(self) -> Iterator[int]:
        """The sentence's beginning, and that of its further clauses unless what is before may limit them."""
        yield 0
        for at, unit in enumerate(self.source[: self.ends[0]]):
            if at and unit.stop and self._opens_clause(unit):
                yield at
            if unit.limits or (unit.value and unit.is_date) or (at == 0 and self._opens_with_preposition(0)):
                return

    def end(self, start: int) -> int | None:
        """Where the claim ends in the source. Equal words are taken together first, other ways are tried after that."""
        waiting, seen = [(0, start)], set[tuple[int, int]]()
        while waiting:
            here = waiting.pop()
            if here in seen:
                continue
            seen.add(here)
            mine, at = here
            while mine < len(self._claim) and self._has_only_this_way(mine, at):
                mine, at = mine + 1, at + 1
            if mine < len(self._claim):
                waiting.extend(self._steps(mine, at))
            elif at > start and self._may_end(at):
                return at
        return None

    def _has_only_this_way(self, mine: int, at: int) -> bool:
        """The usual case, quickly: the same word within a clause."""
        source = self._at(at)
        if source is None or source.stop or not source.key or source.key in self._words.fillers:
            return False
        return self._claim[mine].key == source.key

    def _steps(self, mine: int, at: int) -> Iterator[tuple[int, int]]:
        claim, source = self._claim[mine], self._at(at)
        begins = mine == 0 or source is None or bool(claim.stop or source.stop)
        if source is not None:
            if source.stop and (aside := self._aside_end(at)) is not None:
                yield mine, aside
            if self._may_add(source, begins, at) or (begins and source.key in self._words.reasons):
                yield mine, at + 1
            if source.stop and source.key in self._words.relatives and claim.key in self._words.pronouns:
                yield mine + 1, at + 1
        repeats_subject = (
            claim.stop and claim.key in self._words.pronouns and self.source[at - 1].key in self._words.ands
        )
        if repeats_subject or self._may_add(claim, begins, at) or self._is_first_name(mine, at):
            yield mine + 1, at
        if source is not None and _is_same(claim, source):
            yield mine + 1, at + 1

    def _may_add(self, unit: Unit, begins: bool, at: int) -> bool:
        """Or leave out."""
        words = self._words
        if unit.key in words.fillers:
            return not any(other.key in words.few for other in self.source[at : at + 2])
        return begins and (unit.key in words.ands or unit.key in words.contrasts or unit.key in words.connectors)

    def _is_first_name(self, mine: int, at: int) -> bool:
        """Jonas Brandt for Brandt, where the document names no other."""
        names = self._claim[mine : mine + 2]
        if len(names) < 2 or not (names[0].named and names[1].named) or at >= len(self.source):
            return False
        return self.source[at].key == names[1].key and self._first_names(names[1].key) == {names[0].key}

    def _aside_end(self, at: int) -> int | None:
        """Where an aside that begins here ends: only its own words are between the two signs."""
        end, opening = at + 1, self.source[at].stop
        while end < len(self.source) and not self.source[end].stop:
            end += 1
        if end == len(self.source) or any(unit.governs or unit.is_date for unit in self.source[at:end]):
            return None
        if set("(（") & set(opening):
            is_aside = bool(set(")）") & set(self.source[end].stop))
        else:
            is_aside = "," in opening and "," in self.source[end].stop and self._opens_aside(at, end)
        return end if is_aside and not self._opens_with_preposition(at) else None

    def _opens_aside(self, at: int, end: int) -> bool:
        """No item of a list, no subject of another clause; a German one with a determiner may say which one is meant."""
        unit, words = self.source[at], self._words
        if unit.key in words.relatives or not words.asides:
            return words.asides
        joined = {unit.key, self.source[end].key} & self._language.joiners
        return (
            not joined and not unit.named and (unit.key in words.fillers or unit.key not in self._language.determiners)
        )

    def _opens_with_preposition(self, at: int) -> bool:
        first, *following = (unit.key for unit in self.source[at : at + 2])
        is_preposition = first in self._language.limits or first in self._language.settings
        return is_preposition and not {first, *following} & self._words.relatives

    def _opens_clause(self, unit: Unit) -> bool:
        """After ";", ", and" or ", whereas". What follows "but" may limit what is before."""
        if ";" in unit.stop or "；" in unit.stop:
            return unit.key not in self._words.connectors
        return "," in unit.stop and (unit.key in self._words.ands or unit.key in self._words.contrasts)

    def _may_end(self, at: int) -> bool:
        """The sentence is over, or what follows is another clause, which does not limit this one."""
        if at in self.ends:
            return True
        unit, end = self.source[at], next(end for end in self.ends if at < end)
        relative = "," in unit.stop and unit.key in self._words.relatives
        if not relative and not self._opens_clause(unit):
            return False
        return not self._opens_with_preposition(at) and not any(other.limits for other in self.source[at:end])


def _is_same(claim: Unit, source: Unit) -> bool:
    if claim.value is not None or source.value is not None:
        return implies(source.value, claim.value)
    return claim.key == source.key
