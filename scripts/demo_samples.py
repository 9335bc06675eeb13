"""The building blocks of the embedded model's training data, and the tools with which all its questions are made."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import nan
from typing import Any

from demo_words import FACTS, Inventor, Split

__all__ = ["FAMILIES", "HARD", "Core", "Question", "Sample", "Sentence", "Source", "are_distinct"]

HARD = ("other_attribute", "other_subject", "crossed", "negation", "near_number", "some_words")
FAMILIES = ("relation", "event", "plain", "chinese", "noise")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a document (or two that belong together), and what an auxiliary loss may know about it."""

    text: str
    subject: bool = False
    """It is about the subject that the query asks for."""
    attribute: bool = False
    """It is about the attribute that the query asks for."""
    answers: bool = False
    evidence: str = ""
    """What to quote, if it is not the sentence itself."""
    answer: str = ""
    similarity: float = nan
    """How close the teacher finds it to the query, if that was computed."""


@dataclass(frozen=True, slots=True)
class Sample:
    query: str
    kind: str
    sentences: tuple[Sentence, ...]
    joiner: str = " "
    target: float | None = None
    """The probability that the document answers the query, if only the teacher knows it. No answer is written in that case."""
    similarity: float = nan
    """How close the teacher finds the whole document to the query."""

    @property
    def relevant(self) -> bool:
        return self.kind == "answer"

    @property
    def document(self) -> str:
        return self.joiner.join(sentence.text for sentence in self.sentences)

    @property
    def evidence(self) -> str:
        return self.joiner.join(self._quotes()).strip()

    @property
    def contribution(self) -> str:
        """What the document contributes, as close to its own words as a sentence can be: a model this small copies well but
        phrases badly."""
        return _stated(next(iter(self._quotes()), "").strip())

    def _quotes(self) -> list[str]:
        return [s.evidence or s.text for s in self.sentences if s.answers]

    @property
    def answer(self) -> str:
        return next((s.answer for s in self.sentences if s.answers), "")


Core = Callable[[], list[Sentence]]


@dataclass(frozen=True, slots=True)
class Question:
    """`cores`: for each kind, what makes the sentences that give a document this kind."""

    family: str
    query: str
    cores: Mapping[str, Core]
    filler: Callable[[bool], Sentence]
    """Makes a sentence that answers nothing; its argument says whether it may touch on the question."""
    joiner: str = " "
    title: str = ""
    """Possible titles of its documents."""


class Source:
    """Randomness, invented words of one split, and sentences that any family may use.

    `longest`: the maximum number of sentences in a document. `lower`: the share of queries in lower case, as people type
    them."""

    def __init__(self, seed: int | str, split: Split = "training", longest: int = 5, lower: float = 0.2) -> None:
        self.chance = random.Random(seed)
        self.invent = Inventor(self.chance, split)
        self.longest = longest
        self.lower = lower
        table = FACTS["everyday"]
        self._nouns = self.invent.allowed(table["nouns"].split())
        self._adjectives = table["adjectives"].split()
        self._verbs = [tuple(verb.split(":")) for verb in table["verbs"].split()]

    def filler(self, subject: str) -> Sentence:
        """A sentence that answers nothing; sometimes about the subject."""
        draw = self.chance.random()
        if subject and draw < 0.25:
            text = self.chance.choice(FACTS["sentences"]["about"]).format(s=subject)
            return Sentence(text[0].upper() + text[1:], subject=True)
        if draw < 0.6:
            return Sentence(self.chance.choice(FACTS["sentences"]["plain"]))
        return Sentence(self.event()[1])

    def value(self, kind: str) -> str:
        """A value for a relation: names and numbers are invented, things are everyday words."""
        return f"the {self.noun()}" if kind == "things" else self.invent.value(kind)

    def subject(self, group: str) -> str:
        return f"the {self.noun()}" if group == "things" else self.invent.subject(group)

    def typed(self, query: str) -> str:
        return query.lower() if self.chance.random() < self.lower else query

    def noun(self) -> str:
        noun = self.chance.choice(self._nouns)
        return f"{self.chance.choice(self._adjectives)} {noun}" if self.chance.random() < 0.5 else noun

    def event(self, **fixed: Any) -> tuple[dict[str, Any], str]:
        """The parts of an event, and the sentence that describes it."""
        who = self.invent.subject("person") if self.chance.random() < 0.3 else f"the {self.noun()}"
        parts = {"who": who, "verb": self.chance.choice(self._verbs), "what": self.noun(), **fixed}
        place = ""
        if self.chance.random() < 0.5:
            place = " " + self.chance.choice(FACTS["everyday"]["places"]).format(n=self.noun())
        past = parts["verb"][1]
        text = f"{parts['who']} {past} the {parts['what']}{place}."
        if self.chance.random() < 0.2:
            text = f"the {parts['what']} was {'written' if past == 'wrote' else past} by {parts['who']}{place}."
        return parts, text[0].upper() + text[1:]

    def shuffled(self, sentences: list[Sentence]) -> list[Sentence]:
        self.chance.shuffle(sentences)
        return sentences


# Sentences that begin with one of these are statements, and continue in lower case after "that".
_OPENINGS = frozenset(
    """the a an this that these those it they we you he she there here in on at for from to with after before if when while
    since as our its their his her my your each every all some no both most many one two three only once until under over by
    during between according both either neither several few about around because although though""".split()
)


def _stated(text: str) -> str:
    text = " ".join(text.split())
    if re.search(r"[\u3400-\u9fff]", text):
        return f"指出：{text}"
    first, _, rest = text.partition(" ")
    return f"States that {first.lower()} {rest}" if first.lower() in _OPENINGS else f"States: {text}"


def are_distinct(one: Any, other: Any) -> bool:
    """Whether two parts of events share no significant word."""
    if isinstance(one, tuple):
        return bool(one != other)
    return not ({*one.lower().split()} & {*other.lower().split()}) - {"the", "and", "mount", "lake", "last"}
