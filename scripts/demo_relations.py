"""Questions about an attribute of a subject: when, where, who, how much; and reversed ones: who or what has it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo_samples import Core, Question, Sentence, Source, are_distinct
from demo_words import FACTS

__all__ = ["about_relation"]


def about_relation(source: Source) -> Question:
    pick = source.chance.choice
    if source.chance.random() < 0.3:
        group = pick((*FACTS["kinds"], "things", "things", "things"))
        known = _open_relations(source)
        relation = known[0]
    else:
        known = FACTS["relation"]
        relation = pick(known)
        group = pick(relation["of"])
    others = [r for r in known if group in r.get("of", (group,)) and r is not relation]
    subject, value = source.subject(group), source.value(relation["value"])
    kind = subject.split()[-1].lower() if group in ("building", "things") else pick(FACTS["kinds"][group])
    backwards = "back" in relation and source.chance.random() < 0.3
    fact = _Fact(source, relation, group, kind, subject, value, backwards, others)
    if backwards:
        query = pick((*relation["back"], "Which {k} has a {topic} of {v}?", "{k} {topic} {v}"))
    else:
        generic = ("What is the {topic} of {s}?", "{s} {topic}", "{topic} {s}", "{topic} of {s}")
        query = pick(relation["ask"] if source.chance.random() < 0.6 else generic)
    return Question(
        "relation",
        source.typed(fact.fill(query)),
        fact.cores(),
        lambda near: source.filler(subject if near else ""),
        title="" if backwards else subject.removeprefix("the ").capitalize() if group == "things" else subject,
    )


def _open_relations(source: Source) -> list[dict[str, Any]]:
    """A few newly invented relations whose topics share no word."""
    table, found = FACTS["open"], list[dict[str, Any]]()
    while len(found) < 4:
        topic = source.noun() if source.chance.random() < 0.5 else f"{source.noun()} {source.noun()}"
        if all(are_distinct(topic, other["topic"]) for other in found):
            value = source.chance.choice(table["values"])
            found.append({"topic": topic, "value": value, "ask": table["ask"], "say": table["say"]})
    return found


@dataclass(slots=True)
class _Fact:
    """One fact, and everything that can be said about it without answering."""

    source: Source
    relation: Mapping[str, Any]
    group: str
    kind: str
    subject: str
    value: str
    backwards: bool
    others: Sequence[Mapping[str, Any]]

    def fill(self, form: str, **other: str) -> str:
        parts = {"s": self.subject, "v": self.value, "k": self.kind, "topic": self.relation["topic"], **other}
        text = form.format(**parts).replace("The The ", "The ").replace("the The ", "The ").replace("he the ", "he ")
        return text[0].upper() + text[1:] if text.endswith((".", "?")) else text

    def cores(self) -> dict[str, Core]:
        cores: dict[str, Core] = {"answer": self._answer, "random": self._unrelated}
        if not self.backwards:
            cores["other_attribute"] = lambda: [self._aside() for _ in range(self.source.chance.randint(1, 2))]
            cores["negation"] = self._negation
            cores["other_subject"] = lambda: [self._stranger()]
            cores["crossed"] = lambda: self.source.shuffled([self._aside(), self._stranger()])
        else:
            cores["other_subject"] = lambda: [self._stranger()]
        if self.backwards and re.search(r"\d", self.value):
            cores["near_number"] = self._near_number
        return cores

    def _say(self, **other: str) -> str:
        generic = ["The {topic} of {s} is {v}."]
        return self.fill(self.source.chance.choice([*self.relation["say"], *generic]), **other)

    def _answer(self) -> list[Sentence]:
        text = self._say()
        answer = self.subject if self.backwards else self.value
        if self.backwards or self.source.chance.random() < 0.85 or self.source.longest < 3 or self.group == "things":
            return [Sentence(text, True, True, True, answer=answer)]
        # The subject is named in one sentence and referred to by a pronoun in the next.
        pronoun = self.source.chance.choice(("She", "He")) if self.group == "person" else "It"
        owner = {"She": "Her", "He": "His", "It": "Its"}[pronoun]
        plain = self.fill("The {topic} of {s} is {v}.")
        article = "an" if self.kind[0] in "aeiou" else "a"
        intro = self.fill("{s} is {a} {k}.", a=article)
        starts = text.startswith(f"{self.subject} ")
        follow = pronoun + text[len(self.subject) :] if starts else self.fill("{o} {topic} is {v}.", o=owner)
        return [Sentence(f"{intro} {follow}", True, True, True, evidence=text if starts else plain, answer=answer)]

    def _aside(self) -> Sentence:
        """Another attribute of the same subject."""
        source, relation = self.source, self.source.chance.choice(self.others)
        form = source.chance.choice([*relation["say"], "The {topic} of {s} is {v}."])
        return Sentence(self.fill(form, topic=relation["topic"], v=source.value(relation["value"])), subject=True)

    def _stranger(self) -> Sentence:
        """The same attribute of another subject; for reversed questions, the same attribute with another value."""
        source = self.source
        while True:
            other = {"s": source.subject(self.group), "v": source.value(self.relation["value"])}
            named = self.group != "things" and other["s"] != self.subject
            if (named or are_distinct(other["s"], self.subject)) and other["v"] != self.value:
                return Sentence(self._say(**other), attribute=True)

    def _negation(self) -> list[Sentence]:
        text = self._say()
        for verb in (" was ", " is ", " has "):
            if verb in text and self.source.chance.random() < 0.4:
                return [Sentence(text.replace(verb, f"{verb}{'no' if verb == ' has ' else 'not'} ", 1), True, True)]
        return [Sentence(self.fill(self.source.chance.choice(FACTS["sentences"]["unknown"])), True, True)]

    def _near_number(self) -> list[Sentence]:
        return [Sentence(self._say(v=self.source.invent.near(self.value)), False, True)]

    def _unrelated(self) -> list[Sentence]:
        """A fact about another subject and another attribute."""
        source = self.source
        apart = [r for r in FACTS["relation"] if r["value"] != self.relation["value"]]
        relation = source.chance.choice(apart)
        group = source.chance.choice(relation["of"])
        parts = {"s": source.subject(group), "v": source.value(relation["value"])}
        parts["k"] = source.chance.choice(FACTS["kinds"][group])
        return [Sentence(self.fill(source.chance.choice(relation["say"]), topic=relation["topic"], **parts))]
