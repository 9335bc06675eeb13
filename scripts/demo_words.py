"""Invented names, numbers and dates for the embedded model's training data, and the text its plain sentences are taken from.

Names are built from syllables, so there is no end of them: a model that memorised them would gain nothing. A hash of the
word decides once and for all whether it belongs to the training split or is held out.
"""

from __future__ import annotations

import ast
import pydoc_data.topics
import random
import re
import sysconfig
import tomllib
import zlib
from functools import cache
from pathlib import Path
from string import ascii_letters, ascii_uppercase
from typing import Any, Literal

__all__ = ["FACTS", "Inventor", "Split", "is_held_out", "passages"]

Split = Literal["training", "held-out"]

FACTS: dict[str, Any] = tomllib.loads((Path(__file__).parent / "demo_facts.toml").read_text(encoding="utf-8"))

_ONSETS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr kr pl sh st th tr".split()
_VOWELS = "a e i o u a e i o ai ea ou".split()
_CODAS = ["", "", "", *"l m n r s t ck ld nd nt rn sk st x".split()]
_LASTS = "a ek el en er ia in is o on or um us ard berg ford ham holm mark ton wick well".split()
_ACCENTED = {"a": "aáäåа", "e": "eéèëе", "i": "iíï", "o": "oóöø", "u": "uúü", "s": "sßš", "n": "nñ", "c": "cç"}
_MONTHS = "January February March April May June July August September October November December".split()
_PLACE_KINDS = ("", "", "", "", " Bay", " Hill", " Falls", " Valley")
_PRIZES = ("Prize", "Medal", "Award", "Cup")
_FIRMS = ("", "", " Works", " Brothers", " Group", " Labs")
_MODULES = """argparse asyncio/tasks calendar cmd codecs collections/__init__ configparser contextlib copy csv datetime decimal
difflib doctest email/message enum fractions ftplib functools gettext glob gzip heapq html/parser http/client imaplib inspect
ipaddress json/__init__ logging/__init__ mailbox mimetypes optparse os pathlib pdb pickle pickletools platform poplib pprint
profile queue random sched selectors shelve shutil smtplib socket socketserver statistics string subprocess tarfile tempfile
textwrap threading timeit trace traceback turtle typing unittest/case unittest/mock urllib/request uuid warnings wave weakref
xmlrpc/client zipfile""".split()


def is_held_out(word: str) -> bool:
    """One word in eight is never trained on."""
    return zlib.crc32(word.lower().encode()) % 8 == 0


class Inventor:
    """Makes words and values of one split. All randomness comes from the one source that it is given."""

    def __init__(self, chance: random.Random, split: Split) -> None:
        self.chance = chance
        self.split = split

    def allowed(self, words: list[str]) -> list[str]:
        """The words of a list that belong to this split."""
        return [word for word in words if is_held_out(word) == (self.split == "held-out")]

    def word(self) -> str:
        """An invented word in lower case."""
        pick = self.chance.choice
        while True:
            body = "".join(pick(_ONSETS) + pick(_VOWELS) + pick(_CODAS) for _ in range(pick((1, 1, 1, 2))))
            word = body + (pick(_LASTS) if pick((True, False)) or len(body) < 4 else "")
            if 4 <= len(word) <= 11 and is_held_out(word) == (self.split == "held-out"):
                return word

    def odd_word(self) -> str:
        """An abbreviation, a code, or a word with accents or Chinese characters: unlike all the other words."""
        pick, number = self.chance.choice, self.chance.randint
        while True:
            match number(1, 4):
                case 1:
                    word = "".join(self.chance.choices(ascii_uppercase, k=number(2, 5)))
                case 2:
                    word = f"{pick(ascii_letters)}{pick(('', '-', '.'))}{number(1, 9999)}{pick(('', '%', '/', 'b'))}"
                case 3:
                    word = "".join(pick(_ACCENTED.get(letter, letter)) for letter in self.word())
                case _:
                    word = "".join(chr(number(0x4E00, 0x9FA5)) for _ in range(number(1, 4)))
            if is_held_out(word) == (self.split == "held-out"):
                return word

    def name(self) -> str:
        return self.word().capitalize()

    def subject(self, kind: str) -> str:
        """A name for a person, a town, a building … as it appears in a sentence."""
        pick, name = self.chance.choice, self.name()
        match kind:
            case "person":
                return f"{name} {self.name()}" if pick((True, True, False)) else name
            case "town":
                return name + pick(_PLACE_KINDS)
            case "building":
                return f"{name} {pick(FACTS['kinds']['building']).capitalize()}"
            case "nature":
                return pick((f"Mount {name}", f"Lake {name}", name, f"{name} Island", f"{name} River"))
            case "company":
                return name + pick(_FIRMS)
            case "device":
                number = self.chance.randint(2, 99)
                return pick((name, f"{name} {number}", f"{name} {pick('XTSR')}{number % 9 + 1}"))
            case "book":
                return pick((f"The {name}", f"{name} and {self.name()}", f"The Last {name}", name))
            case "species":
                return f"{name.lower()} {pick(FACTS['kinds']['species'])}"
            case _:
                return name.lower() if pick((True, False)) else name

    def value(self, kind: str) -> str:
        """A value of one of the kinds in demo_facts.toml."""
        pick, number = self.chance.choice, self.chance.randint
        if kind in FACTS["values"]:
            return str(pick(FACTS["values"][kind]))
        match kind:
            case "person" | "company":
                return self.subject(kind)
            case "place":
                return self.subject("town")
            case "prize":
                return f"{self.name()} {pick(_PRIZES)}"
            case "date":
                return f"{number(1, 28)} {pick(_MONTHS)} {number(1700, 2024)}"
            case "year":
                return str(number(1300, 2024))
            case "count":
                return pick((str(number(20, 999)), f"{number(1, 99)},{number(0, 999):03}", str(number(1000, 9999))))
            case "money":
                unit = pick(("euros", "dollars", "pounds", "francs"))
                sum_ = pick((str(number(2, 999)), f"{number(1, 90)}.{number(0, 99):02}", f"{number(2, 90)} million"))
                return f"{sum_} {unit}"
            case "version":
                return f"{number(0, 12)}.{number(0, 30)}"
            case "port":
                return str(number(1000, 9999))
            case "temperature":
                return f"{number(3, 48)} degrees"
            case "area":
                return f"{number(12, 9800)} square kilometres"
            case "length" | "weight":
                units = ("metres", "feet", "kilometres") if kind == "length" else ("grams", "kilograms", "pounds")
                return f"{number(2, 990)} {pick(units)}"
            case _:  # hours, months, years, seconds
                return f"{number(2, 90)} {kind}"

    def near(self, value: str) -> str:
        """The same value with one of its numbers slightly changed; the value itself if there is no number in it."""
        numbers = list(re.finditer(r"\d+", value))
        if not numbers:
            return value
        found = self.chance.choice(numbers)
        old = int(found[0])
        new = max(
            1,
            old + self.chance.choice((-1, 1)) * self.chance.choice((1, 2, 3, 7, 10, 20, 100)[: 2 + 2 * len(found[0])]),
        )
        new = old + 1 if new == old else new
        return value[: found.start()] + str(new).zfill(len(found[0])) + value[found.end() :]

    def chinese(self, kind: str) -> str:
        """A Chinese name or value."""
        table, pick, number = FACTS["chinese"], self.chance.choice, self.chance.randint
        match kind:
            case "year":
                return str(number(1300, 2024))
            case "metres" | "count":
                return str(number(20, 9999))
        while True:
            word = pick(table["first"]) + pick(table["second"]) + pick(table["second"])
            if is_held_out(word) == (self.split == "held-out"):
                return str(word + (pick(table["places"]) if kind == "place" else ""))


@cache
def passages() -> tuple[tuple[str, ...], ...]:
    """Paragraphs of Python's own documentation and docstrings, each a tuple of plain sentences."""
    texts = [*pydoc_data.topics.topics.values(), *_docstrings()]
    paragraphs = (" ".join(part.split()) for text in texts for part in re.split(r"\n\s*\n", text))
    found = (tuple(filter(_is_plain, re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph))) for paragraph in paragraphs)
    return tuple(dict.fromkeys(sentences for sentences in found if sentences))


def _docstrings() -> list[str]:
    root = Path(sysconfig.get_path("stdlib"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    trees = [ast.parse((root / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]
    return [ast.get_docstring(node) or "" for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)]


def _is_plain(sentence: str) -> bool:
    """A complete sentence of prose: no code, no table, no list."""
    odd = sum(not (c.isalnum() or c in " ,.'-") for c in sentence)
    return 35 <= len(sentence) <= 170 and sentence[0].isupper() and sentence[-1] == "." and odd <= 2
