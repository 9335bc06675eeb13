"""The word tables as data: what each word of a language means to the comparison. Read once, when a language first comes up."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from whyrank.grounding.values import Unit
from whyrank.grounding.words import MONTHS

__all__ = ["LANGUAGES", "SCALES", "UNITS", "Entry", "Language", "Phrase", "TimeForm", "language_table"]

LANGUAGES = ("en", "de", "fr", "es")
"""Those in Latin script that have tables, as Chinese does."""
_FOLDER = Path(__file__).parent / "tables"

Kind = Literal[
    "function",
    "word",
    "negation",
    "quantifier",
    "bound",
    "degree",
    "modal",
    "condition",
    "number",
    "ordinal",
    "fixed",
    "plus",
]


class Entry(NamedTuple):
    """What a word is. `key`: its class within the kind, or the word that stands for it; `poles`: see `_with_poles`.

    `light`: it may be added or left out ("begins", "is called")."""

    kind: Kind
    key: str
    poles: tuple[str, ...] = ()
    value: float = 0.0
    light: bool = False


Phrase = tuple[tuple[str, ...], Entry]


class TimeForm(NamedTuple):
    """A way to write a time of day. `hour`, `minute`: a number, or None where the text has it."""

    pattern: re.Pattern[str]
    hour: int | None
    minute: int | None
    subtract: bool
    half: Literal["", "am", "pm"]


@dataclass(frozen=True, slots=True)
class ProofWords:
    """What a proof may add or leave out (see `proof`). `few`: "a few" is not "few"; `known`: all of these words;
    `asides`: two commas set an aside off; `spelled`: short forms."""

    fillers: frozenset[str]
    ands: frozenset[str]
    contrasts: frozenset[str]
    connectors: frozenset[str]
    reasons: frozenset[str]
    relatives: frozenset[str]
    pronouns: frozenset[str]
    few: frozenset[str]
    known: frozenset[str]
    asides: bool
    spelled: dict[str, str]


@dataclass(frozen=True, slots=True)
class Language:
    """Words are looked up in `entries`; a phrase by its first two words in `phrases`, longest first.

    `functions`: function words, if they begin no phrase; `small`: those of them that have no other part. `known`: all words
    that are more than words."""

    name: str
    entries: dict[str, Entry]
    phrases: dict[str, dict[str, list[Phrase]]]
    numbers: dict[str, float]
    articles: frozenset[str]
    joiners: frozenset[str]
    breaks: frozenset[str]
    passive: frozenset[str]
    limits: frozenset[str]
    determiners: frozenset[str]
    settings: frozenset[str]
    than: frozenset[str]
    number_joiner: str
    decimal: frozenset[str]
    point: str
    contractions: dict[str, str]
    only_pair: tuple[frozenset[str], ...]
    times: tuple[TimeForm, ...]
    time_hint: re.Pattern[str]
    longest: int
    functions: frozenset[str]
    small: frozenset[str]
    known: frozenset[str]
    proof: ProofWords


def _units() -> tuple[dict[str, Unit], dict[str, float]]:
    tables = tomllib.loads((_FOLDER / "units.toml").read_text(encoding="utf-8"))
    scales, metric, prefixes = tables.pop("scales"), tables.pop("metric"), tables.pop("prefixes")
    units = {name: unit for dimension, line in metric.items() for name, unit in _metric(dimension, prefixes, *line)}
    for dimension, lines in tables.items():
        for worth, listed in lines.items():
            unit = Unit(dimension, *map(float, worth.split()))
            units.update((name.replace("_", " "), unit) for name in listed.split())
    return units, {
        name.replace("_", " "): float(factor) for factor, listed in scales.items() for name in listed.split()
    }


def _metric(
    dimension: str, prefixes: dict[str, str], wanted: str, symbol: str, names: str
) -> Iterator[tuple[str, Unit]]:
    """The unit alone, and with each of these prefixes."""
    full_names = [name.replace("_", " ") for name in names.split()]
    yield from ((name, Unit(dimension, 1.0)) for name in (symbol, *full_names))
    for factor, listed in prefixes.items():
        sign, *written = listed.split()
        if sign in wanted.split():
            unit = Unit(dimension, float(factor))
            short = {sign, *(other for other in written if len(other) == 1)}
            yield from ((f"{other}{symbol}".lower(), unit) for other in short)
            yield from ((f"{other}{name}", unit) for other in written if len(other) > 1 for name in full_names)


UNITS, SCALES = _units()
"""By name."""


_PROOF_SETS = ("fillers", "ands", "contrasts", "connectors", "reasons", "relatives", "pronouns", "few")
_WORD_SETS = ("joiners", "breaks", "passive", "limits", "determiners", "settings", "than")
_KINDS: tuple[Kind, ...] = ("degree", "bound", "quantifier", "modal", "condition")


@cache
def language_table(name: str) -> Language:
    """Of a language that has no table, every word is a word and nothing else."""
    path = _FOLDER / f"{name}.toml"
    tables = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    numbers = tables.get("numbers", {})
    entries = _with_poles(dict(_entries(tables)), tables.get("words", {}).get("opposites", ""))
    for light, _ in _names(tables.get("light", "")):
        entries[light] = entries[light]._replace(light=True)
    singles = {name: entry for name, entry in entries.items() if " " not in name}
    phrases = _phrases(entries)
    sets = {name: frozenset(tables.get(name, "").split()) for name in _WORD_SETS}
    contractions = dict(_names(tables.get("contractions", "")))
    articles, decimal = (frozenset(numbers.get(name, "").split()) for name in ("articles", "decimal"))
    only_pair = tuple(frozenset(words.split()) for words in tables.get("only_pair", ()))
    special = frozenset().union(*only_pair, (name for name, _ in _names_of(tables, "breaks", "passive")))
    function_words = {word for word, entry in singles.items() if entry.kind == "function"}
    functions = frozenset(function_words.difference(articles, MONTHS))
    return Language(
        name,
        singles,
        phrases,
        numbers={word: entry.value for word, entry in singles.items() if entry.kind == "number"},
        articles=articles,
        number_joiner=numbers.get("and", ""),
        decimal=decimal,
        point=numbers.get("point", "."),
        contractions=contractions,
        only_pair=only_pair,
        times=tuple(_time_form(line, numbers) for line in numbers.get("times", ())),
        time_hint=re.compile(numbers.get("times_hint", "(?!)")),
        longest=max(map(len, singles), default=1),
        functions=functions,
        small=functions - special,
        proof=_proof_words(tables.get("proof", {}), contractions),
        known=frozenset([*singles, *phrases, *articles, *(name for name in UNITS if len(name) > 1), *MONTHS]),
        **sets,
    )


def _proof_words(listed: dict[str, Any], contractions: dict[str, str]) -> ProofWords:
    spelled = contractions | dict(_names(listed.get("spelled", "")))
    sets = {name: frozenset(listed.get(name, "").split()) for name in _PROOF_SETS}
    known = frozenset().union(*sets.values(), spelled)
    return ProofWords(**sets, known=known, asides=listed.get("asides", False), spelled=spelled)


def _phrases(entries: dict[str, Entry]) -> dict[str, dict[str, list[Phrase]]]:
    """Those of several words, by the first and the second of them; longest first."""
    phrases: dict[str, dict[str, list[Phrase]]] = {}
    several = [(tuple(name.split(" ")), entry) for name, entry in entries.items() if " " in name]
    for words, entry in sorted(several, key=lambda item: -len(item[0])):
        phrases.setdefault(words[0], {}).setdefault(words[1], []).append((words, entry))
    return phrases


def _names(listed: str) -> Iterator[tuple[str, str]]:
    """Name and what stands after its "=". Hyphens and apostrophes part words, as in a text."""
    for item in listed.split():
        name, _, value = item.partition("=")
        yield re.sub(r"[_'’-]+", " ", name).strip(), value


def _entries(tables: dict[str, Any]) -> Iterator[tuple[str, Entry]]:
    """Later ones win: the rarer meaning comes last."""
    for name, _ in _names_of(tables, "light", "function", "joiners", "breaks", "passive"):
        yield name, Entry("function", name)
    for name, _ in _names(tables.get("words", {}).get("plain", "")):
        yield name, Entry("word", name)
    for group in tables.get("words", {}).get("same", "").split("|"):
        members = [name for name, _ in _names(group)]
        yield from ((name, Entry("word", members[0])) for name in members)
    for name, value in _names(tables.get("negation", "")):
        yield name, Entry("modal", "optional") if value == "optional" else Entry("negation", value)
    for kind in _KINDS:
        for key, listed in tables.get(kind, {}).items():
            yield from ((name, Entry(kind, key)) for name, _ in _names(listed))
    numbers = tables.get("numbers", {})
    for name, value in _names(numbers.get("words", "")):
        yield name, Entry("number", name, value=float(value))
    for name, value in _names(numbers.get("ordinals", "")):
        yield name, Entry("ordinal", value)
    for name, value in _names(numbers.get("plus", "")):
        yield name, Entry("plus", name, value=float(value))
    for name, value in _names(numbers.get("fixed", "")):
        amount, _, unit = value.partition("_")
        yield name, Entry("fixed", unit, value=float(amount))


def _names_of(tables: dict[str, Any], *keys: str) -> Iterator[tuple[str, str]]:
    for key in keys:
        yield from _names(tables.get(key, ""))


def _with_poles(entries: dict[str, Entry], opposites: str) -> dict[str, Entry]:
    """`poles` names the pairs of opposites a word belongs to, and on which side: "12+" against "12-"."""
    for number, pair in enumerate(re.split(r"[;\n](?! )", opposites.strip())):
        for side, listed in zip("+-", pair.split("|"), strict=False):
            members = [name for name, _ in _names(listed)]
            for name in members:
                known = entries.get(name) or Entry("word", members[0])
                if known.kind == "function":
                    known = Entry("word", members[0])
                entries[name] = known._replace(poles=(*known.poles, f"{number}{side}"))
    return entries


def _time_form(line: str, numbers: dict[str, Any]) -> TimeForm:
    """Of a line such as "half past {h} = h:30": what is written, and the time that it means."""
    written, _, meaning = line.rpartition(" = ")
    words = [name for name, value in _names(numbers.get("words", "")) if float(value or 99) in range(60)]
    plain = "|".join(sorted(words, key=len, reverse=True))
    tens = "|".join(name for name, value in _names(numbers.get("words", "")) if value in ("20", "30", "40", "50"))
    number = rf"\d{{1,2}}|[一二三四五六七八九十两]{{1,3}}|(?:{tens or '(?!)'})[ -](?:{plain})|{plain}"
    parts = {"{h}": f"(?P<h>{number})", "{m}": f"(?P<m>{number})", "{d}": r"(?P<h>\d{1,2})", "{mm}": r"(?P<m>\d{2})"}
    for sign, group in parts.items():
        written = written.replace(sign, group)
    time, _, half = meaning.partition(" ")
    hour, sign, minute = re.match(r"(h|\d+)([:-])(m|\d+)", time).groups()  # type: ignore[union-attr]
    return TimeForm(
        re.compile(rf"(?<![:.])(?<![^\W\u3005-\u9fff]){written}"),
        None if hour == "h" else int(hour),
        None if minute == "m" else int(minute),
        sign == "-",
        half,  # type: ignore[arg-type]
    )
