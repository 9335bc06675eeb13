"""A sentence of the evidence with its sources, and the type of a difference between them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from whyrank.grounding.alignment import Alignment
from whyrank.grounding.tables import Language
from whyrank.grounding.tokens import Clause, Mark, Token
from whyrank.grounding.values import Value
from whyrank.types import DifferenceKind

__all__ = [
    "ENOUGH",
    "NEARLY_ALL",
    "NEARLY_VERBATIM",
    "PART",
    "Comparison",
    "Difference",
    "between",
    "clauses_of",
    "first_of",
    "first_source",
    "is_exact",
    "negations_of",
]


PART = re.compile(r"[\u3400-\u9fff]|[^\W\d_]+")
ENOUGH = 0.6  # of the words are shared: what stands in one place can be compared
NEARLY_VERBATIM = 0.8
NEARLY_ALL = 0.9  # of the words are shared: parts of them have been put together otherwise


@dataclass(frozen=True, slots=True)
class Difference:
    """Places in evidence and document; the document's are None where nothing stands there."""

    kind: DifferenceKind
    start: int
    end: int
    source_start: int | None = None
    source_end: int | None = None


@dataclass(slots=True)
class Comparison:
    """A sentence of the evidence with its sources. `is_known`: the document has the word, even if these sentences do not.

    `values`: those of the document."""

    text: str
    document: str
    alignment: Alignment
    language: Language
    is_known: Callable[[Token], bool]
    is_topic: Callable[[Token], bool]
    values: Callable[[], list[Value]]
    share: float = 0.0
    ordered_share: float = 0.0
    tokens: list[Token] = field(default_factory=list)
    _drawn: dict[int, dict[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Shares of the words. A value that the source lacks does not count as different wording; topic words do not count."""
        alignment = self.alignment
        self.tokens = alignment.reading.tokens
        counted = [
            mine
            for mine, token in enumerate(alignment.reading.tokens)
            if alignment.places[mine] is not None
            or (token.kind == "word" and not token.light and not self.is_topic(token))
        ]
        aligned = sum(alignment.places[mine] is not None for mine in counted)
        self.share = aligned / len(counted) if counted else 0.0
        self.ordered_share = sum(alignment.ordered[mine] for mine in counted) / len(counted) if counted else 0.0

    @property
    def nearly_verbatim(self) -> bool:
        return self.ordered_share >= NEARLY_VERBATIM

    @property
    def is_marked(self) -> bool:
        """Whether a word on either side governs others."""
        clauses = (*self.alignment.reading.clauses, *self.alignment.sources.clauses)
        return any(clause.marks for clause in clauses) or any(token.marks for token in self.tokens)

    def source(self, mine: int) -> Token | None:
        place = self.alignment.places[mine]
        return None if place is None else self.alignment.sources.tokens[place]

    def mine_at(self, source: Token | None) -> int | None:
        """The token of the evidence whose place this source token is."""
        return next(
            (mine for mine in range(len(self.tokens)) if source is not None and self.source(mine) is source), None
        )

    def source_clauses(self, clause: int) -> dict[int, int]:
        """The source's clauses that a clause of the evidence takes words from, with the number of words."""
        if clause not in self._drawn:
            counted: dict[int, int] = {}
            for mine in self.alignment.reading.clauses[clause].tokens:
                place = self.alignment.places[mine]
                if place is not None:
                    number = self.alignment.sources.clause_of[place]
                    counted[number] = counted.get(number, 0) + 1
            self._drawn[clause] = counted
        return self._drawn[clause]

    def neighbours(self, mine: int) -> tuple[int | None, int | None]:
        """The source places of the nearest words before and after that have one."""
        places = self.alignment.places
        before = next((place for place in reversed(places[:mine]) if place is not None), None)
        after = next((place for place in places[mine + 1 :] if place is not None), None)
        return before, after

    def gap(self, mine: int) -> list[int]:
        """Unused source tokens where this token would have to be: between the places of its neighbours."""
        before, after = self.neighbours(mine)
        if before is not None and after is not None and before < after <= before + 8:
            return [place for place in range(before + 1, after) if place not in self.alignment.used]
        left = self.free_beside(before, 1) if before is not None else []
        return left + (self.free_beside(after, -1) if after is not None else [])

    def free_before(self, place: int) -> list[int]:
        """Unused source tokens of the sentence right before this one, nearest first, over the borders of clauses."""
        sources, free = self.alignment.sources, []
        for at in range(place - 1, -1, -1):
            if at in self.alignment.used or sources.sentence_of[at] != sources.sentence_of[place]:
                break
            free.append(at)
        return free

    def free_beside(self, place: int, step: int) -> list[int]:
        """Unused source tokens from here to the end of the clause."""
        sources, free = self.alignment.sources, []
        at = place + step
        while 0 <= at < len(sources.tokens) and sources.clause_of[at] == sources.clause_of[place]:
            if at in self.alignment.used:
                break
            free.append(at)
            at += step
        return free


def is_exact(comparison: Comparison, mine: int) -> bool:
    source, token = comparison.source(mine), comparison.tokens[mine]
    if source is None:
        return False
    return comparison.text[token.start : token.end].lower() == comparison.document[source.start : source.end].lower()


def negations_of(clauses: list[Clause]) -> list[Mark]:
    return [mark for clause in clauses for mark in clause.marks if mark.kind == "negation"]


def clauses_of(comparison: Comparison, mark: Mark, clause: Clause) -> list[Clause]:
    """The source's clauses that contain the negated word, or else those that its clause takes most words from."""
    sources = comparison.alignment.sources
    mine = next((i for i in clause.tokens if comparison.tokens[i] is mark.token), None)
    place = comparison.alignment.places[mine] if mine is not None else None
    if place is not None:
        return [sources.clauses[sources.clause_of[place]]]
    counted = comparison.source_clauses(comparison.alignment.reading.clauses.index(clause))
    top = max(counted.values(), default=0)
    return [sources.clauses[number] for number, count in counted.items() if 2 * count >= top]


def first_source(comparison: Comparison, clause: Clause) -> Token | None:
    return next((source for mine in clause.tokens if (source := comparison.source(mine)) is not None), None)


def first_of(comparison: Comparison, clause: Clause) -> Token:
    return comparison.tokens[clause.tokens[0]]


def between(kind: DifferenceKind, mine: Token | Mark, source: Token | Mark | None) -> Difference:
    if source is None:
        return Difference(kind, mine.start, mine.end)
    return Difference(kind, mine.start, mine.end, source.start, source.end)
