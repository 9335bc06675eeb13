"""Samples from the written texts in scripts/demo_texts: people's questions, passages that answer them, and some that nearly
do."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from demo_samples import Sample, Sentence
from whyrank.grounding.words import sentences

__all__ = ["Ask", "Similarity", "WrittenSource", "asks", "chunks"]

TEXTS = Path(__file__).parent / "demo_texts"
_ECHOES = {
    "en": (
        "{q}? {Q}. Everything about {q}.",
        "{Q} - find out more. Read our page on {q} and share it: {q}.",
        'Many people search for "{q}". {Q}: we list the best pages on {q}.',
        "Question: {q}\nSame question here. Has anybody found out? {q}",
        "Search results for {q}\n1. {Q}\n2. {q} (updated)\n3. {q} - forum",
        "{Q}",
    ),
    "zh": ("{q}？关于“{q}”的一切，尽在本站。", "搜索：{q}\n相关搜索：{q}", "同问：{q}？有人知道{q}吗？", "{q}"),
}
_LEADS = {"en": ("{q}\n", "Q: {q}\nA: ", "{q}? "), "zh": ("{q}\n", "问：{q}\n答：")}


class Similarity(Protocol):
    def similarity(self, one: str, other: str) -> float: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """A question that can be put in several ways, and is answered by sentences of a passage."""

    field: str
    language: str
    title: str
    passage: str
    queries: tuple[str, ...]
    contribution: str
    answer: tuple[str, ...]
    negatives: tuple[tuple[str, str], ...]
    """Texts and their kinds."""
    unanswered: tuple[str, ...] = ()
    """What the passage seems to answer, but does not."""

    @property
    def documents(self) -> tuple[str, ...]:
        return (self.passage, *(text for text, _ in self.negatives))

    @property
    def texts(self) -> tuple[str, ...]:
        return (*self.queries, *self.unanswered, self.contribution, *self.documents)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A sentence with the space after it."""

    text: str
    start: int
    end: int


@cache
def chunks(text: str) -> tuple[_Chunk, ...]:
    starts = [start for start, _ in sentences(text)] or [0]
    bounds = [0, *starts[1:], len(text)]
    return tuple(_Chunk(text[low:high], low, high) for low, high in pairwise(bounds))


@cache
def asks() -> tuple[Ask, ...]:
    """All questions, in an order that does not change as long as no file is added."""
    paths = sorted((TEXTS / "train").glob("*.jsonl")) + sorted((TEXTS / "more").glob("*.jsonl"))
    return tuple(
        ask for path in paths for line in path.read_text("utf-8").splitlines() for ask in _asks_of(json.loads(line))
    )


def _asks_of(record: dict[str, Any]) -> Iterator[Ask]:
    negatives = tuple((negative["text"], negative["kind"]) for negative in record["negatives"])
    for ask in record.get("asks", [record]):
        yield Ask(
            record["field"],
            record["language"],
            record["title"],
            record["passage"],
            tuple(query if isinstance(query, str) else query["text"] for query in ask["queries"]),
            ask["contribution"],
            tuple(ask["answer"]),
            negatives,
            tuple(record.get("unanswered", ())),
        )


class WrittenSource:
    """Draws samples. `without`: fields that are left out of training, to evaluate on meanwhile."""

    def __init__(self, seed: str, similarity: Similarity, without: frozenset[str] = frozenset()) -> None:
        self.chance = random.Random(seed)
        self._similarity = similarity
        self._asks = [ask for ask in asks() if ask.field not in without]
        self._by_field = _grouped(self._asks)

    def pair(self) -> tuple[Sample, Sample]:
        """A document that answers and one that does not, for one query if possible, so that only the document tells."""
        ask = self.chance.choice(self._asks)
        query = self._query(ask)
        return self._positive(ask, query), self._negative(ask, query)

    def every(self, ask: Ask) -> list[Sample]:
        """The passage and all texts written against it, for each query unchanged: for measuring."""
        documents = [
            (_marked(ask, ask.passage), "answer"),
            *((_marked(ask, text), kind) for text, kind in ask.negatives),
        ]
        found = [self._made(ask, query, kind, text) for query in ask.queries for text, kind in documents]
        return found + [self._made(ask, query, "unanswered", _marked(None, ask.passage)) for query in ask.unanswered]

    def _positive(self, ask: Ask, query: str) -> Sample:
        draw, text = self.chance.random(), _marked(ask, ask.passage)
        if draw < 0.2:
            text = self._window(text)
        elif draw < 0.35:
            text = self._surrounded(ask, text)
        elif draw < 0.6:
            text = [sentence for sentence in text if sentence.answers]
        return self._made(ask, query, "answer", self._headed(ask, text, query))

    def _negative(self, ask: Ask, query: str) -> Sample:
        draw = self.chance.random()
        if draw < 0.36:
            text, kind = self.chance.choice(ask.negatives)
        elif draw < 0.56 and ask.unanswered:
            query, text, kind = self._typed(ask, self.chance.choice(ask.unanswered)), ask.passage, "unanswered"
        elif draw < 0.68:
            rest = [sentence for sentence in _marked(ask, ask.passage) if not sentence.answers]
            text, kind = "".join(sentence.text for sentence in rest).strip(), "cut"
        elif draw < 0.85:
            text, kind = self._neighbour(ask, query), "field"
        elif draw < 0.93:
            text, kind = self._any_text(self.chance.choice(self._asks)), "random"
        else:
            text, kind = self._echo(ask, query), "echo"
        marked = _marked(None, text or self._echo(ask, query))
        draw = self.chance.random()
        if kind != "echo" and draw < 0.1:
            marked = self._surrounded(ask, marked)
        elif kind != "echo" and draw < 0.35:  # as short as the answers that stand alone
            at = self.chance.randrange(len(marked))
            marked = marked[at : at + self.chance.randint(1, 2)]
        return self._made(ask, query, kind, self._headed(ask, marked, query))

    def _query(self, ask: Ask) -> str:
        return self._typed(ask, ask.contribution if self.chance.random() < 0.06 else self.chance.choice(ask.queries))

    def _typed(self, ask: Ask, query: str) -> str:
        """As people type it: in lower case, without the final punctuation, with a word missing."""
        draw = self.chance.random()
        if ask.language == "zh":
            return query.rstrip("？。") if draw < 0.2 else query
        if draw < 0.2:
            return query.lower().rstrip("?.")
        words = query.split()
        if draw < 0.3 and len(words) > 5:
            del words[self.chance.randrange(len(words))]
            return " ".join(words)
        if draw < 0.35:
            return query[0].upper() + query[1:].rstrip("?.") + "?"
        return query

    def _window(self, text: list[Sentence]) -> list[Sentence]:
        """The sentences that answer, with some of those around them."""
        places = [i for i, sentence in enumerate(text) if sentence.answers]
        low = self.chance.randint(0, places[0])
        high = self.chance.randint(places[-1] + 1, len(text))
        return text[low:high]

    def _surrounded(self, ask: Ask, text: list[Sentence]) -> list[Sentence]:
        """The text between other passages, as on a long page."""
        drawn = self.chance.sample(self._asks, k=self.chance.randint(1, 3))
        around = [self._any_text(other) for other in drawn if other.passage != ask.passage]
        at = self.chance.randint(0, len(around))
        before = [sentence for other in around[:at] for sentence in _marked(None, f"{other}\n\n")]
        after = [sentence for other in around[at:] for sentence in _marked(None, f"\n\n{other}")]
        return [*before, *text, *after]

    def _headed(self, ask: Ask, text: list[Sentence], query: str) -> list[Sentence]:
        """Sometimes puts a title above it, or the question, as in a forum; whether the text answers is independent of that."""
        draw = self.chance.random()
        if draw < 0.35 and ask.title:
            joiner = " " if draw < 0.25 else "\n"  # as whyrank joins title and text, or a line of its own
            return [Sentence(f"{ask.title}{joiner}"), *text]
        if draw < 0.42:
            return [Sentence(self.chance.choice(_LEADS[ask.language]).format(q=query)), *text]
        return text

    def _neighbour(self, ask: Ask, query: str) -> str:
        """Of a few texts of the same field and language, the one closest to the query."""
        same = [
            other
            for other in self._by_field[ask.field]
            if other.language == ask.language and other.passage != ask.passage
        ]
        texts = [self._any_text(other) for other in self.chance.sample(same, k=min(6, len(same)))]
        return max(texts, key=lambda text: _number(self._similarity.similarity(query, text)), default="")

    def _any_text(self, ask: Ask) -> str:
        return ask.passage if self.chance.random() < 0.5 else self.chance.choice(ask.negatives)[0]

    def _echo(self, ask: Ask, query: str) -> str:
        bare = query.rstrip("?？.。")
        form = self.chance.choice(_ECHOES[ask.language])
        text = form.format(q=bare, Q=bare[0].upper() + bare[1:])
        return f"{text} {self._any_text(self.chance.choice(self._asks))}" if self.chance.random() < 0.2 else text

    def _made(self, ask: Ask, query: str, kind: str, text: Sequence[Sentence]) -> Sample:
        judged = tuple(replace(s, similarity=self._near(ask, query, s.text.strip())) for s in text)
        judged = (*judged[:-1], replace(judged[-1], text=judged[-1].text.rstrip()))
        document = "".join(sentence.text for sentence in judged)
        return Sample(query, kind, judged, "", similarity=self._near(ask, query, document))

    def _near(self, ask: Ask, query: str, text: str) -> float:
        """How close the text is to the query for the teacher, which knows no Chinese."""
        return self._similarity.similarity(query, text) if ask.language == "en" else float("nan")


def _marked(ask: Ask | None, text: str) -> list[Sentence]:
    """A text's sentences, with those that answer marked."""
    places = [(at, at + len(part)) for part in (ask.answer if ask else ()) if (at := text.find(part)) >= 0]
    return [
        Sentence(chunk.text, subject=answers, attribute=answers, answers=answers)
        for chunk in chunks(text)
        for answers in [any(start < chunk.end and end > chunk.start for start, end in places)]
    ]


def _number(value: float) -> float:
    return value if value == value else 0.0


def _grouped(found: Sequence[Ask]) -> dict[str, list[Ask]]:
    groups: dict[str, list[Ask]] = {}
    for ask in found:
        groups.setdefault(ask.field, []).append(ask)
    return groups
