"""Questions with documents that answer them, and documents that nearly do: what the embedded model learns from.

`Writer.question()` invents a question; `Writer.document(question, kind)` writes a document of one of the question's kinds:

    answer           the document answers it
    random           it is about something else altogether
    other_attribute  the same subject, another attribute
    other_subject    the same attribute, another subject
    crossed          both are there, but not together
    negation         it says that the answer is not so or not known
    near_number      the number asked for is a little off
    some_words       a plain sentence that holds some of the words only

Everything comes from one seed, and from one split of the invented words (see demo_words.py).
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from demo_words import FACTS, Inventor, Split, is_held_out, passages

__all__ = ["FAMILIES", "HARD", "Question", "Sample", "Sentence", "Writer"]

HARD = ("other_attribute", "other_subject", "crossed", "negation", "near_number", "some_words")
FAMILIES = ("relation", "event", "plain", "chinese", "noise")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence (or two that belong together) of a document, and what a helper loss may know about it."""

    text: str
    subject: bool = False
    """It is about the subject that the query asks for."""
    attribute: bool = False
    """It is about the attribute that the query asks for."""
    answers: bool = False
    evidence: str = ""
    """What to quote, where it is not the sentence itself."""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    query: str
    kind: str
    sentences: tuple[Sentence, ...]
    contribution: str
    joiner: str = " "

    @property
    def relevant(self) -> bool:
        return self.kind == "answer"

    @property
    def document(self) -> str:
        return self.joiner.join(sentence.text for sentence in self.sentences)

    @property
    def evidence(self) -> str:
        return self.joiner.join(s.evidence or s.text for s in self.sentences if s.answers)

    @property
    def answer(self) -> str:
        return next((s.answer for s in self.sentences if s.answers), "")


Core = Callable[[], list[Sentence]]


@dataclass(frozen=True, slots=True)
class Question:
    """`cores`: for each kind, what makes the sentences that make a document be of that kind."""

    family: str
    query: str
    contribution: str
    cores: Mapping[str, Core]
    filler: Callable[[bool], Sentence]
    """A sentence that answers nothing; whether it may touch upon the question is said."""
    joiner: str = " "


class Writer:
    """`longest`: the most sentences in a document. `lower`: the share of queries in small letters, as people type them."""

    def __init__(self, seed: int | str, split: Split = "training", longest: int = 5, lower: float = 0.15) -> None:
        self.chance = random.Random(seed)
        self.invent = Inventor(self.chance, split)
        self.longest = longest
        self.lower = lower
        table = FACTS["everyday"]
        self._nouns = self.invent.allowed(table["nouns"].split())
        self._adjectives = table["adjectives"].split()
        self._verbs = [tuple(verb.split(":")) for verb in table["verbs"].split()]

    def question(self, family: str) -> Question:
        return {
            "relation": self._about_relation,
            "event": self._about_event,
            "plain": self._about_plain,
            "chinese": self._about_chinese,
            "noise": self._about_noise,
        }[family]()

    def document(self, question: Question, kind: str) -> Sample:
        """The core of that kind with other sentences before, between and after."""
        sentences = question.cores[kind]()
        room = self.longest - len(sentences)
        for _ in range(self.chance.randint(0, max(0, room))):
            sentences.insert(self.chance.randint(0, len(sentences)), question.filler(kind != "random"))
        return Sample(question.query, kind, tuple(sentences), question.contribution, question.joiner)

    # Facts with a subject, an attribute and a value.

    def _about_relation(self) -> Question:
        pick = self.chance.choice
        relation = pick(FACTS["relation"])
        group = pick(relation["of"])
        kind, subject, value = (
            pick(FACTS["kinds"][group]),
            self.invent.subject(group),
            self.invent.value(relation["value"]),
        )
        if group == "building":
            kind = subject.split()[-1].lower()
        backwards = "back" in relation and self.chance.random() < 0.3
        others = [r for r in FACTS["relation"] if group in r["of"] and r is not relation]
        fact = _Fact(self, relation, group, kind, subject, value, backwards, others)
        if backwards:
            query = pick((*relation["back"], "Which {k} has a {topic} of {v}?", "{k} {topic} {v}"))
        else:
            generic = ("What is the {topic} of {s}?", "{s} {topic}", "{topic} {s}", "{topic} of {s}")
            query = pick(relation["ask"] if self.chance.random() < 0.6 else generic)
        contribution = "Names what has the {topic} {v}." if backwards else "Gives the {topic} of {s}."
        return Question(
            "relation",
            self._typed(fact.fill(query)),
            fact.fill(contribution),
            fact.cores(),
            lambda near: self._filler(subject if near else ""),
        )

    def _filler(self, subject: str) -> Sentence:
        """A sentence that answers nothing; sometimes about the subject."""
        draw = self.chance.random()
        if subject and draw < 0.25:
            text = self.chance.choice(FACTS["sentences"]["about"]).format(s=subject)
            return Sentence(text[0].upper() + text[1:], subject=True)
        if draw < 0.6:
            return Sentence(self.chance.choice(FACTS["sentences"]["plain"]))
        return Sentence(self._event()[1])

    def _typed(self, query: str) -> str:
        return query.lower() if self.chance.random() < self.lower else query

    # Who did what to what: everyday words instead of names.

    def _noun(self) -> str:
        noun = self.chance.choice(self._nouns)
        return f"{self.chance.choice(self._adjectives)} {noun}" if self.chance.random() < 0.5 else noun

    def _event(self, **fixed: Any) -> tuple[dict[str, Any], str]:
        """Parts of an event, and the sentence that tells it."""
        who = self.invent.subject("person") if self.chance.random() < 0.3 else f"the {self._noun()}"
        parts = {"who": who, "verb": self.chance.choice(self._verbs), "what": self._noun(), **fixed}
        place = ""
        if self.chance.random() < 0.5:
            place = " " + self.chance.choice(FACTS["everyday"]["places"]).format(n=self._noun())
        past = parts["verb"][1]
        text = f"{parts['who']} {past} the {parts['what']}{place}."
        if self.chance.random() < 0.2:
            text = f"the {parts['what']} was {'written' if past == 'wrote' else past} by {parts['who']}{place}."
        return parts, text[0].upper() + text[1:]

    def _about_event(self) -> Question:
        parts, _ = self._event()
        who, (base, past), what = parts["who"], parts["verb"], parts["what"]
        bare = who.removeprefix("the ")
        forms = {
            "who": (f"Who {past} the {what}?", f"{what} {past} by whom", f"who {past} {what}"),
            "what": (f"What did {who} {base}?", f"What was {past} by {who}?", f"{bare} {past}", f"what {bare} {past}"),
            "all": (
                f"{bare} {past} {what}",
                f"Did {who} {base} the {what}?",
                f"{bare} {what}",
                f"why {who} {past} the {what}",
            ),
        }
        asked = self.chance.choice(list(forms))
        # What the query pins down must stay as it is in an answer, and one part of it changes in a distractor.
        known = {"who": ("verb", "what"), "what": ("who", "verb"), "all": ("who", "verb", "what")}[asked]
        first, second = known[0], known[-1]

        def told(*same: str, **flags: Any) -> Sentence:
            while True:
                drawn, text = self._event(**{part: parts[part] for part in same})
                if all(_distinct(drawn[part], parts[part]) for part in known if part not in same):
                    return Sentence(text, **flags)

        def answer() -> list[Sentence]:
            drawn, text = self._event(**{part: parts[part] for part in known})
            gold = {"who": drawn["who"], "what": drawn["what"], "all": what}[asked]
            return [Sentence(text, True, True, True, answer=gold.removeprefix("the "))]

        def denied() -> list[Sentence]:
            text = (
                f"{who if asked != 'who' else 'nobody'} never {past} the {what if asked != 'what' else self._noun()}."
            )
            return [Sentence(text[0].upper() + text[1:], True, True)]

        cores = {
            "answer": answer,
            "other_attribute": lambda: [told(first, subject=True)],
            "other_subject": lambda: [told(second, attribute=True)],
            "crossed": lambda: self._shuffled([told(first, subject=True), told(second, attribute=True)]),
            "negation": denied,
            "random": lambda: [told()],
        }
        contribution = {
            "who": f"Tells who {past} the {what}.",
            "what": f"Tells what {who} {past}.",
            "all": f"Tells that {who} {past} the {what}.",
        }[asked]
        query = self.chance.choice(forms[asked])
        return Question("event", self._typed(query), contribution, cores, lambda near: told())

    def _shuffled(self, sentences: list[Sentence]) -> list[Sentence]:
        self.chance.shuffle(sentences)
        return sentences

    # Sentences of plain prose.

    def _about_plain(self) -> Question:
        training = self.invent.split == "training"
        index, pages = _index(training), _pages(training)
        while True:
            page = self.chance.choice(pages)
            at = self.chance.randrange(len(page))
            words = list(dict.fromkeys(_content(page[at])))
            if len(words) >= 4:
                break
        # Rare words say more; people ask with those.
        words.sort(key=lambda word: len(index[word]))
        chosen = self.chance.sample(words[:5], k=self.chance.randint(2, 4))
        if self.chance.random() < 0.7:
            chosen.sort(key=page[at].lower().index)
        asked = frozenset(chosen)
        letters = "abcdefgh"[: len(chosen)]
        form = self.chance.choice(FACTS["sentences"]["random"])
        query = (
            " ".join(chosen)
            if "{c}" in form or len(chosen) > 2
            else form.format(**dict(zip(letters, chosen, strict=True)))
        )

        def other(partial: bool) -> Sentence:
            for _ in range(20):
                word = self.chance.choice(chosen)
                source = self.chance.choice(index[word]) if partial else self.chance.choice(self.chance.choice(pages))
                shared = asked & set(_content(source))
                if source != page[at] and (0 < len(shared) < len(asked) if partial else not shared):
                    return Sentence(source, subject=bool(shared))
            return self._filler("")

        def answer() -> list[Sentence]:
            around = [Sentence(text) for text in page[max(0, at - 1) : at + 2] if text != page[at]]
            found = Sentence(page[at], True, True, True, answer=page[at])
            return [*around[: at and 1], found, *around[at and 1 :]] if self.longest > 2 else [found]

        cores: dict[str, Core] = {
            "answer": answer,
            "some_words": lambda: [other(True) for _ in range(self.chance.randint(1, 2))],
            "random": lambda: [other(False)],
        }
        contribution = f"Speaks of {', '.join(chosen[:-1])} and {chosen[-1]}."
        return Question("plain", query, contribution, cores, lambda near: other(False))

    # Chinese.

    def _about_chinese(self) -> Question:
        table, pick = FACTS["chinese"], self.chance.choice
        relation = pick(table["relation"])
        others = [
            r
            for r in table["relation"]
            if r is not relation and not {r["topic"], relation["topic"]} >= {"人口", "价格"}
        ]
        kind = "name" if pick((True, False)) else "place"
        subject = self.invent.chinese(kind)

        def told(about: str, of: Mapping[str, Any], subject: bool = False, attribute: bool = False) -> Sentence:
            value = self.invent.chinese(of["value"])
            text = pick(of["say"]).format(s=about, v=value)
            return Sentence(text, subject, attribute, subject and attribute, answer=value)

        def stranger() -> str:
            return self.invent.chinese(kind)

        cores = {
            "answer": lambda: [told(subject, relation, True, True)],
            "other_attribute": lambda: [told(subject, pick(others), True)],
            "other_subject": lambda: [told(stranger(), relation, False, True)],
            "crossed": lambda: self._shuffled(
                [told(subject, pick(others), True), told(stranger(), relation, False, True)]
            ),
            "negation": lambda: [Sentence(f"没有人知道{subject}的{relation['topic']}。", True, True)],
            "random": lambda: [Sentence(pick(table["fill"]))],
        }
        query = pick(relation["ask"]).format(s=subject)
        contribution = f"给出{subject}的{relation['topic']}。"
        return Question("chinese", query, contribution, cores, lambda near: Sentence(pick(table["fill"])), joiner="")

    # Strings of invented words: nothing to learn but looking and copying.

    def _about_noise(self) -> Question:
        words, others = ([self.invent.word() for _ in range(self.chance.randint(4, 8))] for _ in range(2))
        start = self.chance.randrange(len(words) - 2)
        asked = words[start : start + 3] if self.chance.random() < 0.7 else self.chance.sample(words, k=2)

        def said(words: list[str], subject: bool = False, attribute: bool = False) -> Sentence:
            text = " ".join(words).capitalize() + "."
            return Sentence(text, subject, attribute, attribute, answer=" ".join(words[1:]))

        def other(*shared: str) -> Sentence:
            made = [*(self.invent.word() for _ in range(self.chance.randint(4, 8))), *shared]
            self.chance.shuffle(made)
            return said(made, bool(shared))

        cores = {
            "answer": lambda: [said(words, True, True)],
            "some_words": lambda: [other(self.chance.choice(asked))],
            "random": lambda: [said(others)],
        }
        return Question("noise", " ".join(asked), f"Has {' '.join(asked)}.", cores, lambda near: other())


@dataclass(slots=True)
class _Fact:
    """One fact, and all that can be said beside the point of it."""

    writer: Writer
    relation: Mapping[str, Any]
    group: str
    kind: str
    subject: str
    value: str
    backwards: bool
    others: list[Mapping[str, Any]]

    def fill(self, form: str, **other: str) -> str:
        parts = {"s": self.subject, "v": self.value, "k": self.kind, "topic": self.relation["topic"], **other}
        text = form.format(**parts).replace("The The ", "The ").replace("the The ", "The ")
        return text[0].upper() + text[1:] if text.endswith((".", "?")) else text

    def cores(self) -> dict[str, Core]:
        cores: dict[str, Core] = {"answer": self._answer, "random": self._unrelated}
        if not self.backwards:
            cores["other_attribute"] = lambda: [self._aside() for _ in range(self.writer.chance.randint(1, 2))]
            cores["negation"] = self._negation
            cores["other_subject"] = lambda: [self._stranger()]
            cores["crossed"] = lambda: self.writer._shuffled([self._aside(), self._stranger()])
        else:
            cores["other_subject"] = lambda: [self._stranger()]
        if self.backwards and re.search(r"\d", self.value):
            cores["near_number"] = self._near_number
        return cores

    def _say(self, **other: str) -> str:
        generic = ["The {topic} of {s} is {v}."]
        return self.fill(self.writer.chance.choice([*self.relation["say"], *generic]), **other)

    def _answer(self) -> list[Sentence]:
        text = self._say()
        answer = self.subject if self.backwards else self.value
        if self.backwards or self.writer.chance.random() < 0.85 or self.writer.longest < 3:
            return [Sentence(text, True, True, True, answer=answer)]
        # The subject is named in one sentence and taken up with a pronoun in the next.
        pronoun = self.writer.chance.choice(("She", "He")) if self.group == "person" else "It"
        owner = {"She": "Her", "He": "His", "It": "Its"}[pronoun]
        plain = self.fill("The {topic} of {s} is {v}.")
        article = "an" if self.kind[0] in "aeiou" else "a"
        intro = self.fill("{s} is {a} {k}.", a=article)
        starts = text.startswith(f"{self.subject} ")
        follow = pronoun + text[len(self.subject) :] if starts else self.fill("{o} {topic} is {v}.", o=owner)
        return [Sentence(f"{intro} {follow}", True, True, True, evidence=text if starts else plain, answer=answer)]

    def _aside(self) -> Sentence:
        """Another attribute of the same subject."""
        writer, relation = self.writer, self.writer.chance.choice(self.others)
        form = writer.chance.choice([*relation["say"], "The {topic} of {s} is {v}."])
        return Sentence(
            self.fill(form, topic=relation["topic"], v=writer.invent.value(relation["value"])), subject=True
        )

    def _stranger(self) -> Sentence:
        """The same attribute of another subject; backwards, the same attribute with another value."""
        invent = self.writer.invent
        while True:
            other = {"s": invent.subject(self.group), "v": invent.value(self.relation["value"])}
            if other["s"] != self.subject and other["v"] != self.value:
                return Sentence(self._say(**other), attribute=True)

    def _negation(self) -> list[Sentence]:
        text = self._say()
        for verb in (" was ", " is ", " has "):
            if verb in text and self.writer.chance.random() < 0.4:
                return [Sentence(text.replace(verb, f"{verb}{'no' if verb == ' has ' else 'not'} ", 1), True, True)]
        return [Sentence(self.fill(self.writer.chance.choice(FACTS["sentences"]["unknown"])), True, True)]

    def _near_number(self) -> list[Sentence]:
        return [Sentence(self._say(v=self.writer.invent.near(self.value)), False, True)]

    def _unrelated(self) -> list[Sentence]:
        """A fact about another subject and another attribute."""
        writer = self.writer
        apart = [r for r in FACTS["relation"] if r["value"] != self.relation["value"]]
        relation = writer.chance.choice(apart)
        group = writer.chance.choice(relation["of"])
        parts = {"s": writer.invent.subject(group), "v": writer.invent.value(relation["value"])}
        parts["k"] = writer.chance.choice(FACTS["kinds"][group])
        return [Sentence(self.fill(writer.chance.choice(relation["say"]), topic=relation["topic"], **parts))]


def _distinct(one: Any, other: Any) -> bool:
    """Two parts of events share no word that matters."""
    if isinstance(one, tuple):
        return bool(one != other)
    return not ({*one.lower().split()} & {*other.lower().split()}) - {"the"}


_STOP = frozenset(
    """about above after again also another because been before being below between both cannot could does each either else
    even every from have having here into itself just like made make many more most much must need only other over same should
    since some such than that their them then there these they this those through under until used uses using very want well
    were what when where whether which while will with within without would your""".split()
)


def _content(sentence: str) -> Iterator[str]:
    return (word for word in re.findall(r"[a-z]{4,}", sentence.lower()) if word not in _STOP)


@cache
def _pages(training: bool) -> list[tuple[str, ...]]:
    """Paragraphs of one split; the first sentence's hash decides."""
    return [page for page in passages() if is_held_out(page[0]) != training and len(page[0]) > 40]


@cache
def _index(training: bool) -> dict[str, list[str]]:
    """Which sentences hold a word."""
    found: dict[str, list[str]] = defaultdict(list)
    for page in _pages(training):
        for sentence in page:
            for word in set(_content(sentence)):
                found[word].append(sentence)
    return found
