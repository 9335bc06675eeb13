"""What a sentence says otherwise than its source: one function for each kind of difference.

A difference is certain where the rest of the wording shows that the two places mean to say the same; else it only keeps the
sentence from being called supported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from whyrank.grounding.alignment import Alignment
from whyrank.grounding.amounts import Amount
from whyrank.grounding.reading import Clause, Mark, Token
from whyrank.grounding.tables import Language
from whyrank.grounding.words import have_same_stem
from whyrank.types import DifferenceKind

__all__ = ["Comparison", "Difference", "differences"]

_PART = re.compile(r"[\u3400-\u9fff]|[^\W\d_]+")
_ENOUGH = 0.6  # of the words are shared: what stands in one place can be compared
_NEARLY_VERBATIM = 0.8


@dataclass(frozen=True, slots=True)
class Difference:
    """Places in evidence and document; the document's are None where nothing stands there."""

    kind: DifferenceKind
    start: int
    end: int
    source_start: int | None = None
    source_end: int | None = None
    certain: bool = True


@dataclass(slots=True)
class Comparison:
    """A sentence of the evidence beside its sources. `is_known`: the document has the word, if not in these sentences."""

    text: str
    document: str
    alignment: Alignment
    language: Language
    is_known: Callable[[Token], bool]
    is_topic: Callable[[Token], bool]
    share: float = 0.0
    ordered_share: float = 0.0
    tokens: list[Token] = field(default_factory=list)
    _drawn: dict[int, dict[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Shares of the words; a value that the source lacks is no sign of another wording. Topic words count for nothing."""
        alignment = self.alignment
        self.tokens = alignment.reading.tokens
        counted = [
            mine
            for mine, token in enumerate(alignment.reading.tokens)
            if alignment.places[mine] is not None
            or (token.kind == "word" and not token.light and not self.is_topic(token))
        ]
        found = sum(alignment.places[mine] is not None for mine in counted)
        self.share = found / len(counted) if counted else 0.0
        self.ordered_share = sum(alignment.ordered[mine] for mine in counted) / len(counted) if counted else 0.0

    @property
    def nearly_verbatim(self) -> bool:
        return self.ordered_share >= _NEARLY_VERBATIM

    def source(self, mine: int) -> Token | None:
        place = self.alignment.places[mine]
        return None if place is None else self.alignment.sources.tokens[place]

    def mine_at(self, source: Token | None) -> int | None:
        """The token of the evidence whose place this source token is."""
        return next(
            (mine for mine in range(len(self.tokens)) if source is not None and self.source(mine) is source), None
        )

    def source_clauses(self, clause: int) -> dict[int, int]:
        """The source's clauses that a clause of the evidence draws on, with how many words."""
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
        """Unused source tokens where this token would have to stand: between the places of its neighbours."""
        before, after = self.neighbours(mine)
        if before is not None and after is not None and before < after <= before + 8:
            return [place for place in range(before + 1, after) if place not in self.alignment.used]
        left = self.free_beside(before, 1) if before is not None else []
        return left + (self.free_beside(after, -1) if after is not None else [])

    def free_beside(self, place: int, step: int) -> list[int]:
        """Unused source tokens from here to the end of the clause."""
        sources, found = self.alignment.sources, []
        at = place + step
        while 0 <= at < len(sources.tokens) and sources.clause_of[at] == sources.clause_of[place]:
            if at in self.alignment.used:
                break
            found.append(at)
            at += step
        return found


def differences(comparison: Comparison) -> Iterator[Difference]:
    if comparison.share >= _ENOUGH:
        yield from _values(comparison)
        yield from _misplaced_values(comparison)
        yield from _negations(comparison)
        yield from _modals(comparison)
        yield from _quantifiers(comparison)
        yield from _opposites(comparison)
        yield from _degrees(comparison)
        yield from _conditions(comparison)
        yield from _narrowing(comparison)
        yield from _cut_short(comparison)
        yield from _roles(comparison)
        yield from _joins(comparison)
    yield from _words(comparison)


# Amounts, dates, times, code.


def _values(comparison: Comparison) -> Iterator[Difference]:
    for mine, token in enumerate(comparison.tokens):
        if comparison.alignment.places[mine] is not None or token.kind == "word":
            continue
        if isinstance(token.value, Amount) and token.value.plain == (1.0,) and token.value.unit is None:
            continue  # "one" may be a pronoun
        if comparison.is_topic(token) or (token.kind == "code" and _is_quoted_code(comparison, token)):
            continue
        gap = [comparison.alignment.sources.tokens[place] for place in comparison.gap(mine)]
        free = [
            other
            for place, other in enumerate(comparison.alignment.sources.tokens)
            if place not in comparison.alignment.used and _comparable(token, other)
        ]
        counterpart = next((other for other in gap if _comparable(token, other)), None) or next(iter(free), None)
        known = comparison.is_known(token)
        kind = _kind_of(token, counterpart)
        certain = counterpart in gap or not known
        if isinstance(token.value, Amount) and counterpart not in gap and _is_computed(token.value, comparison):
            certain = False
        written = comparison.text[token.start : token.end]
        if isinstance(token.value, Amount) and token.value.plain == (1.0,) and not any(map(str.isdigit, written)):
            certain = False  # "annual" is "a year"
        yield _between(kind, token, counterpart, certain)


def _is_quoted_code(comparison: Comparison, token: Token) -> bool:
    """Code that the source has without marks around it."""
    tokens = comparison.alignment.sources.tokens
    return bool(tokens) and token.key in comparison.document[tokens[0].start : tokens[-1].end + 80].lower()


def _comparable(token: Token, other: Token) -> bool:
    if token.kind == other.kind or {token.kind, other.kind} <= {"amount", "date"}:
        return True
    return {token.kind, other.kind} <= {"amount", "time"}


def _kind_of(token: Token, other: Token | None) -> DifferenceKind:
    if token.kind == "code":
        return "code"
    if token.kind in ("date", "time"):
        return "date"
    if other is None or not (isinstance(token.value, Amount) and isinstance(other.value, Amount)):
        return "number"
    return "number" if set(token.value.plain).isdisjoint(other.value.plain) else "unit"


def _is_computed(amount: Amount, comparison: Comparison) -> bool:
    """A sum or difference of two amounts of the source."""
    values = [
        value
        for token in comparison.alignment.sources.tokens
        if isinstance(token.value, Amount)
        for value in token.value.plain[:1]
    ][:12]
    wanted = amount.plain[0]
    return any(wanted in (one + other, one - other) for one in values for other in values if one > other > 0)


def _misplaced_values(comparison: Comparison) -> Iterator[Difference]:
    """A value from elsewhere in the source, where the words beside it have a value of their own."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    for mine, token in enumerate(comparison.tokens):
        place = alignment.places[mine]
        if place is None or not (token.value is not None or token.kind == "code" or token.named):
            continue
        in_order = [i for i in alignment.reading.clauses[token.clause].tokens if alignment.ordered[i]]
        before = max((i for i in in_order if i < mine), default=None)
        after = min((i for i in in_order if i > mine), default=None)
        slots = [] if before is None else _slot(comparison, alignment.places[before], place, -1)
        slots += [] if after is None else _slot(comparison, place, alignment.places[after], 0)
        rivals = [at for at in slots if _rivals(token, sources.tokens[at])]
        if rivals:
            rival = sources.tokens[rivals[0]]
            a_range = token.value is not None and abs(rivals[-1] - place) == 1 and rival.kind == token.kind
            if token.named and all(sources.tokens[at].named or sources.tokens[at].kind != "word" for at in slots):
                continue  # one of a list of names
            near = any(sources.sentence_of[at] == sources.sentence_of[place] for at in rivals)
            certain = comparison.share >= 0.75 and not a_range and (near or comparison.nearly_verbatim)
            if not token.named:
                yield _between("joined", token, rival, certain and _is_matched(comparison, token.clause))
            elif comparison.nearly_verbatim:
                yield _between("joined", token, rival, False)
    yield from _skipped_values(comparison)
    yield from _other_names(comparison)


def _other_names(comparison: Comparison) -> Iterator[Difference]:
    """A name whose clause gives nothing else, in a sentence about what another name did."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    for number, clause in enumerate(alignment.reading.clauses):
        counted = comparison.source_clauses(number)
        home = max(counted, key=lambda other: counted[other], default=None)
        if home is None or counted[home] < 2:
            continue
        foreign = [
            mine
            for mine in clause.tokens
            if (place := alignment.places[mine]) is not None
            and sources.tokens[place].named
            and sources.clause_of[place] != home
        ]
        only_names = all(
            sources.tokens[place].named
            for place in alignment.used
            if any(sources.clause_of[place] == sources.clause_of[alignment.places[mine] or 0] for mine in foreign)
        )
        rival = next(
            (at for at in sources.tokens_of(home) if at not in alignment.used and sources.tokens[at].named), None
        )
        if foreign and only_names and rival is not None:
            yield _between("joined", comparison.tokens[foreign[0]], sources.tokens[rival], comparison.share >= 0.95)


def _is_matched(comparison: Comparison, clause: int) -> bool:
    """No word of the clause is from elsewhere."""
    tokens, places = comparison.tokens, comparison.alignment.places
    return all(
        places[mine] is not None or tokens[mine].kind != "word" or tokens[mine].light
        for mine in comparison.alignment.reading.clauses[clause].tokens
    )


def _skipped_values(comparison: Comparison) -> Iterator[Difference]:
    """12 % in summer, where the source says 12 % in winter and 4 % in summer."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    row = [
        (mine, place) for mine, place in enumerate(alignment.places) if place is not None and alignment.ordered[mine]
    ]
    for (mine, place), (following, after) in pairwise(row):
        skipped = [sources.tokens[at] for at in range(place + 1, after) if at not in alignment.used]
        if len(skipped) < 2 or skipped[0].value is not None or sources.sentence_of[place] != sources.sentence_of[after]:
            continue
        clause = comparison.tokens[following].clause
        values = [token for token in comparison.tokens[: mine + 1] if token.clause == clause and token.kind == "amount"]
        rival = next((other for other in skipped[1:] if any(_rivals(token, other) for token in values)), None)
        if rival is not None and rival.kind == "amount":
            yield _between(
                "joined", comparison.tokens[following], rival, comparison.nearly_verbatim and comparison.share >= 0.9
            )


def _slot(comparison: Comparison, left: int | None, right: int | None, value: int) -> list[int]:
    """Unused source tokens between two places. `value`: which of the two is the value that may come from another sentence;
    then the slot is the token beside the other one."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    if left is None or right is None:
        return []
    if sources.sentence_of[left] == sources.sentence_of[right]:
        return [at for at in range(left + 1, right) if at not in alignment.used]
    beside, step = (left, 1) if value == -1 else (right, -1)
    if comparison.is_topic(comparison.tokens[alignment.places.index(beside)]):
        return []
    return comparison.free_beside(beside, step)[:1]


def _rivals(token: Token, other: Token) -> bool:
    if token.named or other.named:
        return token.named and other.named
    if token.kind == "amount" and other.kind == "amount":
        if (1.0,) in (token.value.plain, other.value.plain):  # type: ignore[union-attr]
            return False
        units = {token.value.unit, other.value.unit}  # type: ignore[union-attr]
        return len(units) == 1 or units <= {"time", "months"}
    return token.kind == other.kind


# Words that turn the meaning round.


def _opposites(comparison: Comparison) -> Iterator[Difference]:
    """larger for smaller. Where the two that are compared have changed places as well, it means the same."""
    alignment = comparison.alignment
    theirs = [
        (place, token.poles, token.start, token.end)
        for place, token in enumerate(alignment.sources.tokens)
        if token.poles and place not in alignment.used
    ]
    theirs += [
        (-1, mark.poles, mark.start, mark.end)
        for number in {alignment.sources.clause_of[p] for p in alignment.used}
        for mark in alignment.sources.clauses[number].marks
        if mark.poles
    ]
    mine = [
        (t.poles, t.start, t.end) for i, t in enumerate(comparison.tokens) if t.poles and alignment.places[i] is None
    ]
    mine += [(m.poles, m.start, m.end) for clause in alignment.reading.clauses for m in clause.marks if m.poles]
    for poles, start, end in mine:
        for pole in poles:
            against = pole[:-1] + ("-" if pole[-1] == "+" else "+")
            if any(pole in other for _, other, *_ in theirs):
                continue
            found = next(((s, e) for _, other, s, e in theirs if against in other), None)
            if found:
                yield Difference("comparative", start, end, *found, certain=comparison.share >= 0.75)
                break


def _degrees(comparison: Comparison) -> Iterator[Difference]:
    """more for less, beside the same word."""
    for mine, token in enumerate(comparison.tokens):
        source = comparison.source(mine)
        degrees = [mark for mark in token.marks if mark.kind == "degree"]
        theirs = [mark for mark in source.marks if mark.kind == "degree"] if source is not None else []
        if degrees and theirs and degrees[-1].key != theirs[-1].key:
            yield _between("comparative", degrees[-1], theirs[-1], comparison.share >= 0.7)
        elif degrees and source is not None and not theirs:
            clause = comparison.alignment.sources.clauses[
                comparison.alignment.sources.clause_of[comparison.alignment.places[mine] or 0]
            ]
            others = [mark for mark in clause.marks if mark.kind == "degree"]
            if not any(other.key == degrees[-1].key for other in others):
                yield _between(
                    "comparative", degrees[-1], others[0] if others else None, bool(others) and comparison.share >= 0.85
                )


_OPPOSITE_BOUNDS = ({"min", "max"}, {"over", "under"}, {"min", "under"}, {"over", "max"})
_NARROW = frozenset({"most", "some", "few", "only", "many"})


def _quantifiers(comparison: Comparison) -> Iterator[Difference]:
    alignment = comparison.alignment
    for number, clause in enumerate(alignment.reading.clauses):
        theirs = [
            mark for other in comparison.source_clauses(number) for mark in alignment.sources.clauses[other].marks
        ]
        keys = {mark.key for mark in theirs}
        negated = bool(_polarity([clause])) != any(mark.kind == "negation" for mark in theirs)
        for mark in clause.marks:
            rate = mark.token is not None and (mark.token.kind == "amount" or mark.token.key.startswith("unit "))
            rate = rate and not any(other.kind == "quantifier" and other.key != "all" for other in theirs)
            if mark.kind in ("quantifier", "bound") and mark.key not in keys and not (rate and mark.key == "all"):
                yield from _changed_mark(mark, comparison, theirs, negated)
    yield from _lost_quantifiers(comparison)


def _changed_mark(mark: Mark, comparison: Comparison, theirs: list[Mark], negated: bool) -> Iterator[Difference]:
    mine = next((i for i, token in enumerate(comparison.tokens) if token is mark.token), None)
    source = comparison.source(mine) if mine is not None else None
    beside = source.marks if source is not None else []
    same_kind = [other for other in beside if other.kind == mark.kind] or [o for o in theirs if o.kind == mark.kind]
    if mark.kind == "bound":
        against = next((o for o in same_kind if {o.key, mark.key} in _OPPOSITE_BOUNDS), None)
        if against and not negated:
            yield _between("quantifier", mark, against, True)
        elif not against and not same_kind and mark.token is not None and mark.token.kind == "amount" and not negated:
            yield _between("quantifier", mark, source, False)
        return
    if {other.key for other in same_kind} & {"all"} and mark.key in ("many", "most", "some"):
        yield _between("quantifier", mark, same_kind[0], comparison.nearly_verbatim and not negated)
    elif same_kind:
        yield _between("quantifier", mark, same_kind[0], comparison.share >= 0.7)
    elif mark.key in ("all", "most", "only", "exact", "few") and not negated:
        elsewhere = any(
            other.key == mark.key for clause in comparison.alignment.sources.clauses for other in clause.marks
        )
        certain = comparison.nearly_verbatim and mark.key != "only" and not elsewhere
        yield _between("quantifier", mark, source, certain)


def _lost_quantifiers(comparison: Comparison) -> Iterator[Difference]:
    """ "Most rooms" has become "the rooms"."""
    clauses, sources = comparison.alignment.reading.clauses, comparison.alignment.sources
    for place, token in enumerate(comparison.tokens):
        source = comparison.source(place)
        if source is None:
            continue
        here = clauses[token.clause].marks
        theirs = sources.clauses[sources.clause_of[comparison.alignment.places[place] or 0]].marks
        for mark in source.marks:
            if mark.kind != "quantifier" or mark.key not in _NARROW or any(other.key == mark.key for other in here):
                continue
            if bool(_polarity([clauses[token.clause]])) != any(other.kind == "negation" for other in theirs):
                continue
            certain = (
                comparison.nearly_verbatim
                and not any(other.kind == "quantifier" for other in here)
                and token.value is None
            )
            yield _between("quantifier", token, mark, certain and mark.key != "many")


def _polarity(clauses: list[Clause]) -> list[Mark]:
    return [mark for clause in clauses for mark in clause.marks if mark.kind == "negation"]


def _negations(comparison: Comparison) -> Iterator[Difference]:
    alignment, sources = comparison.alignment, comparison.alignment.sources
    clauses = alignment.reading.clauses
    drawn_on = [sources.clauses[number] for number in {sources.clause_of[place] for place in alignment.used}]
    hedged = _turns_about(clauses) or _turns_about(drawn_on)
    certain = comparison.share >= 0.7 and (not hedged or comparison.nearly_verbatim)
    for clause in clauses:
        for mark in _polarity([clause]):
            against = _clauses_of(comparison, mark, clause)
            if not against or _polarity(against) or _is_bounded(clause.marks, [m for c in against for m in c.marks]):
                continue
            if any(
                comparison.mine_at(other.token) in clause.tokens
                for other in _polarity(drawn_on)
                if other.token is not None
            ):
                continue
            used = sum(
                sources.clause_of[place] in [sources.clauses.index(c) for c in against] for place in alignment.used
            )
            mostly = 2 * used >= sum(len(c.tokens) for c in against)
            excepted = any(
                sources.clauses[n].condition == "except"
                for c in against
                for n in _beside(sources.clauses.index(c), comparison)
            )
            sure = certain and mostly and (comparison.nearly_verbatim or comparison.share >= 0.85)
            sure = sure and clause.condition != "until" and not excepted
            yield _between("negation", mark, _first_token(comparison, clause), sure)
    for place, token in enumerate(comparison.tokens):
        source = comparison.source(place)
        mine_here, theirs_here = _on(token, "negation"), _on(source, "negation")
        if mine_here and theirs_here and len(mine_here) != len(theirs_here):
            yield _between("negation", mine_here[0], theirs_here[0], comparison.nearly_verbatim)
    for clause in drawn_on:
        for mark in _polarity([clause]):
            mine = comparison.mine_at(mark.token)
            at = mine if mine is not None else _any_of(comparison, clause)
            if at is None or any(_polarity([other]) and not other.tokens for other in clauses):
                continue
            own_clause = clauses[comparison.tokens[at].clause]
            if (
                _polarity([own_clause])
                or _is_bounded(own_clause.marks, clause.marks)
                or own_clause.condition == "except"
            ):
                continue
            worded_otherwise = any(
                alignment.places[other] is None and comparison.tokens[other].kind == "word"
                for other in own_clause.tokens
            )
            sure = certain and mine is not None and not worded_otherwise
            yield _between(
                "negation", comparison.tokens[at], mark, sure or (comparison.nearly_verbatim and mine is not None)
            )


def _on(token: Token | None, kind: str) -> list[Mark]:
    return [mark for mark in token.marks if mark.kind == kind] if token is not None else []


def _beside(number: int, comparison: Comparison) -> list[int]:
    return [other for other in (number, number + 1) if other < len(comparison.alignment.sources.clauses)]


def _any_of(comparison: Comparison, clause: Clause) -> int | None:
    """The first token of the evidence that draws on a clause of the source, where it draws on much of it."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    number = next(number for number, other in enumerate(sources.clauses) if other is clause)
    found = [
        mine
        for mine, place in enumerate(alignment.places)
        if place is not None and sources.clause_of[place] == number and not comparison.is_topic(comparison.tokens[mine])
    ]
    return found[0] if found and 2 * len(found) >= len(clause.tokens) else None


def _clauses_of(comparison: Comparison, mark: Mark, clause: Clause) -> list[Clause]:
    """The source's clauses in which the negated word stands, or else those that its clause mostly draws on."""
    sources = comparison.alignment.sources
    mine = next((i for i in clause.tokens if comparison.tokens[i] is mark.token), None)
    place = comparison.alignment.places[mine] if mine is not None else None
    if place is not None:
        return [sources.clauses[sources.clause_of[place]]]
    counted = comparison.source_clauses(comparison.alignment.reading.clauses.index(clause))
    top = max(counted.values(), default=0)
    return [sources.clauses[number] for number, count in counted.items() if 2 * count >= top]


def _turns_about(clauses: list[Clause]) -> bool:
    return any(clause.condition in ("except", "until") for clause in clauses) or any(
        mark.key == "only" for clause in clauses for mark in clause.marks
    )


def _is_bounded(mine: list[Mark], theirs: list[Mark]) -> bool:
    """ "Not more than three" is "at most three"."""
    keys = ({mark.key for mark in mine}, {mark.key for mark in theirs})
    return any(
        ({"max"} & one and {"over"} & other) or ({"min"} & one and {"under"} & other)
        for one, other in (keys, keys[::-1])
    )


def _modals(comparison: Comparison) -> Iterator[Difference]:
    alignment = comparison.alignment
    for number, clause in enumerate(alignment.reading.clauses):
        counted = comparison.source_clauses(number)
        top = max(counted.values(), default=0)
        if top < 1:
            continue
        others = [alignment.sources.clauses[other] for other, count in counted.items() if 2 * count >= top]
        theirs = [
            mark
            for other in others
            for mark in other.marks
            if mark.kind == "modal" and (mark.token is None or comparison.mine_at(mark.token) is not None)
        ]
        mine = [mark for mark in clause.marks if mark.kind == "modal"]
        if _polarity([clause]) and _polarity(others) and not {mark.key for mark in mine} & {"will", "optional"}:
            continue  # must not, may not
        other_keys = {_strength(mark) for mark in theirs}
        if not mine and other_keys == {"may"} and not any(mark.kind == "negation" for mark in clause.marks):
            yield from _lost_modal(theirs[0], clause, comparison)
        for mark in mine:
            yield from _changed_modal(mark, clause, theirs, bool(_polarity(others)), comparison)


def _lost_modal(mark: Mark, clause: Clause, comparison: Comparison) -> Iterator[Difference]:
    """ "It may open" has become "it opens"."""
    at = comparison.mine_at(mark.token)
    if at is not None:
        source, token = comparison.source(at), comparison.tokens[at]
        if (
            any(other.kind == "modal" for other in comparison.alignment.reading.clauses[token.clause].marks)
            or source is None
        ):
            return
        words = (
            comparison.text[token.start : token.end].lower(),
            comparison.document[source.start : source.end].lower(),
        )
        same = have_same_stem(*words) or words[0] == words[1]
    else:
        same = True
    same = same and not any(other.key == "max" for other in clause.marks)
    all_but = comparison.share == 1 and comparison.ordered_share >= 0.9
    sure = same and (comparison.nearly_verbatim if mark.key == "may" else all_but)
    yield _between("modality", _extent(comparison, clause), mark, sure)


def _strength(mark: Mark) -> str:
    return {"need": "must", "can": "may"}.get(mark.key, mark.key)


def _changed_modal(
    mark: Mark, clause: Clause, theirs: list[Mark], negated: bool, comparison: Comparison
) -> Iterator[Difference]:
    key, mine = _strength(mark), {_strength(other) for other in clause.marks if other.kind == "modal"}
    keys = {_strength(other) for other in theirs}
    beside = [m for c in _clauses_of(comparison, mark, clause) for m in c.marks if m.kind == "modal"]
    weakened = "may" in keys and "may" not in mine
    same = (key in keys and not weakened) or key in {_strength(other) for other in beside}
    if same and not (weakened and key == "must"):
        return
    if theirs:
        yield _between("modality", mark, theirs[0], comparison.share >= 0.7 and (weakened or not mine & keys))
    elif key not in ("must", "should") and not negated:
        yield _between("modality", mark, None, comparison.nearly_verbatim and key == "will")


# Conditions and other limits that are gone.


def _conditions(comparison: Comparison) -> Iterator[Difference]:
    sources, alignment = comparison.alignment.sources, comparison.alignment
    mine = {clause.condition for clause in alignment.reading.clauses if clause.condition}
    marks = {mark.key for clause in alignment.reading.clauses for mark in clause.marks}
    negated = bool(_polarity(alignment.reading.clauses))
    for number, clause in enumerate(sources.clauses):
        if not clause.condition:
            continue
        held = [at for at in sources.tokens_of(number) if at in alignment.used]
        size = len(clause.tokens)
        main = _main_clause(number, comparison)
        if clause.condition == "else" or (clause.condition == "setting" and 2 * len(held) >= size > 0):
            if 2 * len(held) >= size > 0 and not mine:
                yield _lost(comparison, clause, held, comparison.share >= 0.75)
            continue
        if clause.condition == "if" and not held and number in sources.first_clauses and not mine:
            yield from _far_condition(comparison, number)
        turned = negated and not _polarity(sources.clauses[max(0, number - 1) : number + 2])
        lost_marker = held and "except" not in mine and not turned and not marks & {"only", "must", "need"}
        if (
            clause.condition == "except"
            and lost_marker
            and 4 * len(held) >= size
            and _draws_on_beside(number, comparison)
        ):
            yield _lost(comparison, clause, held, comparison.share >= 0.7)
        elif main and (len(held) * 4 < size or not held):
            limits = clause.condition in ("if", "except", "setting")
            certain = comparison.nearly_verbatim and limits and not mine
            yield _lost(comparison, clause, main, certain)
    yield from _lost_limits(comparison)


def _far_condition(comparison: Comparison, number: int) -> Iterator[Difference]:
    """A condition that opens its sentence holds for the clauses after the next one, too."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    sentence = next((sources.sentence_of[at] for at in sources.tokens_of(number)), None)
    for later in range(number + 2, len(sources.clauses)):
        places = list(sources.tokens_of(later))
        if not places or sources.sentence_of[places[0]] != sentence:
            continue
        held = [at for at in places if at in alignment.used]
        if held and 4 * len(held) >= 3 * len(places):
            yield _lost(comparison, sources.clauses[number], held, False)


def _lost_limits(comparison: Comparison) -> Iterator[Difference]:
    """ "Only with consent", or a setting that opens the sentence, is gone with all its words."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    mine = {mark.key for clause in alignment.reading.clauses for mark in clause.marks}
    drawn_on = {sources.clause_of[place] for place in alignment.used}
    for number in drawn_on:
        for mark in sources.clauses[number].marks:
            at = next((place for place, token in enumerate(sources.tokens) if token is mark.token), 0)
            gone = mark.token is not None and at not in alignment.used and at - 1 in alignment.used
            places = list(sources.tokens_of(number))
            mostly = 2 * sum(place in alignment.used for place in places) >= len(places) and len(places) > 2
            if (
                mark.key == "only"
                and gone
                and mostly
                and "only" not in mine
                and sources.clause_of[at - 1] == sources.clause_of[at] == number
            ):
                yield _between("dropped", comparison.tokens[-1], mark, comparison.nearly_verbatim)
    for number in sources.first_clauses:
        clause = sources.clauses[number]
        opening = comparison.document[clause.start :][:20].lower().split()
        if number + 1 in drawn_on and number not in drawn_on and opening and opening[0] in comparison.language.settings:
            yield Difference(
                "dropped", comparison.tokens[0].start, comparison.tokens[0].end, clause.start, clause.start, False
            )


def _is_modifier(place: int, places: list[int], used: set[int], comparison: Comparison) -> bool:
    """Left out after a word that is there, within the condition or at the end of one that opens its sentence; or an amount."""
    sources = comparison.alignment.sources
    end = place
    while end + 1 in places and end + 1 not in used:
        end += 1
    run = [sources.tokens[at] for at in range(place, end + 1)]
    if not _is_short_gap(place, places, used):
        return False
    if any(token.value is not None for token in run) and end + 1 in used:
        return True
    return place - 1 in used and (end + 1 in used or sources.clause_of[place] in sources.first_clauses)


def _is_short_gap(place: int, places: list[int], used: set[int]) -> bool:
    """Up to three unused tokens beside used ones are a modifier; more may be another statement."""
    first = last = place
    while first - 1 in places and first - 1 not in used:
        first -= 1
    while last + 1 in places and last + 1 not in used:
        last += 1
    return last - first < 3 and (first - 1 in used or last + 1 in used)


def _cut_short(comparison: Comparison) -> Iterator[Difference]:
    """A quotation that ends before its clause does: "entry is free", where it goes on "for children"."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    if not all(alignment.ordered) or not alignment.places or comparison.share < 1:
        return
    last = alignment.places[-1]
    if last is None or last + 1 >= len(sources.tokens) or sources.clause_of[last + 1] != sources.clause_of[last]:
        return
    following = sources.tokens[last + 1]
    contiguous = all(after == before + 1 for before, after in pairwise(alignment.places))  # type: ignore[operator]
    quoted = contiguous and all(_is_exact(comparison, mine) for mine in range(len(comparison.tokens)))
    if quoted and not following.light and following.before not in comparison.language.joiners:
        sure = (
            comparison.document[sources.tokens[last].end : following.start].lower().strip()
            in comparison.language.limits
        )
        yield _between("dropped", comparison.tokens[-1], following, sure)


def _draws_on_beside(number: int, comparison: Comparison) -> bool:
    sources, used = comparison.alignment.sources, comparison.alignment.used
    beside = [list(sources.tokens_of(other)) for other in (number - 1, number + 1) if 0 <= other < len(sources.clauses)]
    return any(places and 2 * sum(at in used for at in places) >= len(places) for places in beside)


def _main_clause(number: int, comparison: Comparison) -> list[int]:
    """Used tokens of the clause that the condition belongs to, where most of it is used up to the condition."""
    sources = comparison.alignment.sources
    follows = number not in sources.first_clauses and not sources.clauses[number].apart
    beside = number - 1 if follows else number + 1
    if not 0 <= beside < len(sources.clauses) or (not follows and beside in sources.first_clauses):
        return []
    places = list(sources.tokens_of(beside))
    held = [at for at in places if at in comparison.alignment.used]
    whole = bool(held) and 2 * len(held) >= len(places) and (len(held) >= 2 or len(places) == 1)
    return held if whole and places[-1 if follows else 0] in held else []


def _lost(comparison: Comparison, clause: Clause, held: list[int], certain: bool) -> Difference:
    places = [mine for mine, place in enumerate(comparison.alignment.places) if place in held]
    token = comparison.tokens[places[-1] if places else -1]
    return Difference("dropped", token.start, token.end, clause.condition_start, clause.condition_end, certain)


def _narrowing(comparison: Comparison) -> Iterator[Difference]:
    """A modifier left out of a condition, or a bound left out anywhere, makes the sentence say more than its source."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    if not comparison.nearly_verbatim:
        return
    in_order = {
        place
        for place, ordered in zip(alignment.places, alignment.ordered, strict=True)
        if ordered and place is not None
    }
    for number in sorted({sources.clause_of[place] for place in alignment.used}):
        places = list(sources.tokens_of(number))
        held = [at for at in places if at in in_order]
        condition = sources.clauses[number].condition
        kept = condition in {clause.condition for clause in alignment.reading.clauses}
        for place in places:
            token = sources.tokens[place]
            if place in alignment.used or token.light or not held or (not condition and 2 * len(held) < len(places)):
                continue
            bounded = (
                token.kind == "amount"
                and any(mark.kind == "bound" for mark in token.marks)
                and _is_short_gap(place, places, in_order)
            )
            before = sources.tokens[place - 1] if place - 1 in held else None
            universal = before is not None and before.kind == "word" and any(mark.key == "all" for mark in before.marks)
            if bounded or universal or condition in ("if", "until", "except"):
                mine = alignment.places.index(max((at for at in held if at < place), default=held[0]))
                yield _between(
                    "dropped",
                    comparison.tokens[mine],
                    token,
                    bounded
                    or universal
                    or (condition == "if" and kept and _is_modifier(place, places, in_order, comparison)),
                )
                break


# Who does what.


def _roles(comparison: Comparison) -> Iterator[Difference]:
    """Two that stand around the same word have changed places."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    if comparison.share < 0.75:
        return
    for clause in alignment.reading.clauses:
        row = [mine for mine in clause.tokens if alignment.places[mine] is not None]
        if all(alignment.ordered[mine] for mine in row):
            continue
        swapped = _swapped(_blocks(row, comparison), clause.passive, comparison)
        if swapped is not None:
            source = sources.tokens[alignment.places[swapped]]  # type: ignore[index]
            kind: DifferenceKind = "role" if comparison.tokens[swapped].value is None else "joined"
            yield _between(kind, comparison.tokens[swapped], source, True)


def _blocks(row: list[int], comparison: Comparison) -> list[tuple[int, int]]:
    """First and last of each run that stands together in both texts: in Chinese, words; else, each word alone."""
    places = comparison.alignment.places
    blocks: list[tuple[int, int]] = []
    for mine in row:
        last = blocks[-1][1] if blocks else -2
        if comparison.language.name == "zh" and mine == last + 1 and places[mine] == (places[last] or 0) + 1:
            blocks[-1] = (blocks[-1][0], mine)
        else:
            blocks.append((mine, mine))
    return blocks


def _swapped(blocks: list[tuple[int, int]], passive: bool, comparison: Comparison) -> int | None:
    """The first of two blocks that the source has in the other order, with the same word between them."""
    sources = comparison.alignment.sources
    places = [comparison.alignment.places[first] or 0 for first, _ in blocks]
    shortest = 2 if comparison.language.name == "zh" else 1
    long = [number for number, (first, last) in enumerate(blocks) if last - first + 1 >= shortest]
    for before in long:
        for after in long:
            x, y = places[before], places[after]
            if after <= before + 1 or y >= x or sources.clause_of[x] != sources.clause_of[y]:
                continue
            between = [number for number in range(before + 1, after) if y < places[number] < x]
            if not between or sources.clauses[sources.clause_of[x]].passive != passive:
                continue
            if _changed_places(blocks[before][0], blocks[after][0], [blocks[number] for number in between], comparison):
                return blocks[before][0]
    return None


def _changed_places(before: int, after: int, between: list[tuple[int, int]], comparison: Comparison) -> bool:
    if not any(_is_exact(comparison, first) for first, _ in between) or _moved_with_preposition(
        before, after, comparison
    ):
        return False
    values = [comparison.tokens[mine].value is not None for mine in (before, after)]
    if values[0] == values[1] and (values[0] or any(_compares(comparison, last) for _, last in between)):
        return True
    return not any(values) and all(_is_noun(comparison, mine) for mine in (before, after))


def _compares(comparison: Comparison, mine: int) -> bool:
    source = comparison.source(mine)
    following = _PART.match(comparison.document, source.end + 1) if source is not None else None
    return following is not None and following.group().lower() in comparison.language.than


def _is_noun(comparison: Comparison, mine: int) -> bool:
    """By its looks, in both texts: in the same form, after an article or with a capital. Chinese shows nothing of it."""
    source, token, language = comparison.source(mine), comparison.tokens[mine], comparison.language
    if source is None or not _is_exact(comparison, mine):
        return False
    if language.name == "zh" or token.kind == "code":
        return True
    return all(
        one.before in language.determiners or text[one.start].isupper()
        for one, text in ((token, comparison.text), (source, comparison.document))
    )


def _is_exact(comparison: Comparison, mine: int) -> bool:
    source, token = comparison.source(mine), comparison.tokens[mine]
    if source is None:
        return False
    return comparison.text[token.start : token.end].lower() == comparison.document[source.start : source.end].lower()


def _moved_with_preposition(before: int, after: int, comparison: Comparison) -> bool:
    """One of them has kept its preposition: "von Janssen" and "in der Nacht" mean the same wherever they stand."""
    one, other = comparison.source(before), comparison.source(after)
    alike = comparison.tokens[before].preposition == comparison.tokens[after].preposition
    if alike and one is not None and other is not None and one.preposition == other.preposition:
        return False
    for mine in (before, after):
        token, source = comparison.tokens[mine], comparison.source(mine)
        if source is not None and token.preposition and token.preposition == source.preposition:
            return True
    return False


def _joins(comparison: Comparison) -> Iterator[Difference]:
    """Within one clause, words of distant clauses take turns, or two clauses have exchanged their second halves."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    drawn: list[frozenset[int]] = []
    if len(sources.first_clauses) == 1 and all(
        alignment.ordered[mine] for mine, place in enumerate(alignment.places) if place is not None
    ):
        return
    for clause in alignment.reading.clauses:
        places = [
            place
            for mine in clause.tokens
            if (place := alignment.places[mine]) is not None and not comparison.is_topic(comparison.tokens[mine])
        ]
        homes = [sources.sentence_of[place] for place in places]
        turns = sum(home != following for home, following in pairwise([*homes, -1]))
        often = [home for home in set(homes) if homes.count(home) >= 2]
        if (len(often) >= 2 and turns >= 3) or len(set(homes)) >= 3:
            yield _over(
                comparison,
                clause,
                "joined",
                comparison.share >= 0.95 and comparison.nearly_verbatim and _skips_subject(comparison, places),
            )
        elif len(often) >= 2 and not _is_coordinated(comparison, clause):
            yield _over(comparison, clause, "joined", False)
        worded = any(comparison.tokens[mine].kind == "word" for mine in clause.tokens)
        drawn_from = (
            sources.clause_of[place]
            for mine in clause.tokens
            if (place := alignment.places[mine]) is not None and _is_once(comparison, place)
        )
        said = frozenset(drawn_from) if worded else frozenset()
        if len(said) >= 2 and said in drawn and comparison.share >= 0.9:
            yield _over(comparison, clause, "role", True)
        drawn.append(said)
    yield from _exchanged_subjects(comparison)
    yield from _lone_values(comparison)


def _exchanged_subjects(comparison: Comparison) -> Iterator[Difference]:
    """Two clauses of which each opens with a word of the other one's source."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    opened: list[tuple[int, int | None]] = []
    for clause in alignment.reading.clauses:
        homes = [
            sources.clause_of[place]
            for mine in clause.tokens
            if (place := alignment.places[mine]) is not None and _is_once(comparison, place)
        ]
        opening = next(sources.tokens_of(homes[0]), None) if homes else None
        if (
            opening is None
            or opening not in {alignment.places[mine] for mine in clause.tokens}
            or len(clause.tokens) < 2
        ):
            continue
        rest = max(set(homes[1:]), key=homes[1:].count, default=None)
        for first, other in opened:
            crossed = first != homes[0] and other == homes[0] and rest in (None, first)
            if crossed and comparison.share >= 0.9:
                yield _over(comparison, clause, "role", True)
        if rest != homes[0]:
            opened.append((homes[0], rest))


def _is_once(comparison: Comparison, place: int) -> bool:
    """The sentence has the word in no other place."""
    sources = comparison.alignment.sources
    source, home = sources.tokens[place], sources.sentence_of[place]
    others = (token for at, token in enumerate(sources.tokens) if at != place and sources.sentence_of[at] == home)
    return source.value is not None or all(other.key != source.key for other in others)


def _is_coordinated(comparison: Comparison, clause: Clause) -> bool:
    """Two sentences may well be joined by "and" or "with"."""
    text = comparison.text[comparison.tokens[clause.tokens[0]].start : comparison.tokens[clause.tokens[-1]].end].lower()
    return any(word in comparison.language.joiners for word in _PART.findall(text))


def _skips_subject(comparison: Comparison, places: list[int]) -> bool:
    """A clause of the source is drawn on without its first word, which the evidence does not have anywhere."""
    sources, keys = comparison.alignment.sources, {token.key for token in comparison.tokens}
    for number in {sources.clause_of[place] for place in places}:
        first = sources.tokens[next(sources.tokens_of(number))]
        if first.key not in keys and not comparison.is_topic(first):
            return True
    return False


def _over(comparison: Comparison, clause: Clause, kind: DifferenceKind, certain: bool) -> Difference:
    first, last = comparison.tokens[clause.tokens[0]], comparison.tokens[clause.tokens[-1]]
    return Difference(kind, first.start, last.end, certain=certain)


def _lone_values(comparison: Comparison) -> Iterator[Difference]:
    """A value whose sentence gives nothing else to the clause it stands in."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    for clause in alignment.reading.clauses:
        homes = [
            (mine, sources.sentence_of[place])
            for mine in clause.tokens
            if (place := alignment.places[mine]) is not None
        ]
        for mine, home in homes:
            if comparison.tokens[mine].value is None or len(homes) < 3 or [other for _, other in homes].count(home) > 1:
                continue
            elsewhere = {other for _, other in homes} - {home}
            rival = any(
                sources.sentence_of[at] in elsewhere
                and at not in alignment.used
                and (token.value is not None or token.kind == "code")
                for at, token in enumerate(sources.tokens)
            )
            yield Difference(
                "joined",
                comparison.tokens[mine].start,
                comparison.tokens[mine].end,
                certain=rival and comparison.share >= 0.9 and comparison.ordered_share >= 0.7,
            )


# Words that the source lacks.


def _words(comparison: Comparison) -> Iterator[Difference]:
    alignment = comparison.alignment
    missing = [
        mine for mine, token in enumerate(comparison.tokens) if alignment.places[mine] is None and token.kind == "word"
    ]
    for mine in missing:
        token = comparison.tokens[mine]
        gap = [alignment.sources.tokens[place] for place in comparison.gap(mine)]
        unit = next((other for other in gap if other.key.startswith("unit ")), None)
        if token.key.startswith("unit ") and unit is not None:
            yield _between("unit", token, unit, comparison.share >= _ENOUGH)
        if token.light or comparison.is_topic(token):
            continue
        known = comparison.is_known(token)
        named = next((other for other in gap if other.named), None)
        if (
            comparison.share >= _ENOUGH
            and (token.named or (named and comparison.text[token.start].isupper()))
            and (not known or named)
        ):
            yield _between("name", token, named, True)
        elif _is_other_name(comparison, mine, gap):
            yield _between("name", token, gap[0], True)
        elif not gap and _is_insertion(comparison, mine):
            yield _between("inserted", token, None, not known or token.before in comparison.language.joiners)
        else:
            yield _between("inserted", token, next(iter(gap), None), False)


def _is_other_name(comparison: Comparison, mine: int, gap: list[Token]) -> bool:
    """Two or more Chinese characters that the document lacks, for as many others, in a sentence that is otherwise the same."""
    tokens, places = comparison.tokens, comparison.alignment.places
    if comparison.language.name != "zh" or comparison.ordered_share < 0.85 or len(gap) < 2:
        return False
    run = [
        i for i in (mine - 1, mine, mine + 1) if 0 <= i < len(tokens) and places[i] is None and tokens[i].kind == "word"
    ]
    missing = sum(place is None for place in places)
    return len(run) >= 2 and missing == len(gap) and not any(comparison.is_known(tokens[i]) for i in run)


def _is_appended(comparison: Comparison, before: int) -> bool:
    """Nothing but new words follows a sentence that is there in full."""
    alignment, sources = comparison.alignment, comparison.alignment.sources
    sentence = [at for at, home in enumerate(sources.sentence_of) if home == sources.sentence_of[before]]
    whole = all(at in alignment.used or sources.tokens[at].light for at in sentence)
    missing = [at for at, place in enumerate(alignment.places) if place is None]
    return before == sentence[-1] and whole and len(missing) == len(alignment.places) - missing[0]


def _is_insertion(comparison: Comparison, mine: int) -> bool:
    """It stands in a run between words that stand side by side in the source, whose clause is there in full."""
    alignment, tokens, sources = comparison.alignment, comparison.tokens, comparison.alignment.sources
    before, after = comparison.neighbours(mine)
    if before is not None and after is None and comparison.language.name != "zh":
        return _is_appended(comparison, before)
    if before is None or after is None or after != before + 1:
        return False
    left = next(i for i in range(mine - 1, -1, -1) if alignment.places[i] is not None)
    right = next(i for i in range(mine + 1, len(tokens)) if alignment.places[i] is not None)
    others = sum(place is None for place in alignment.places) - (right - left - 1)
    whole = all(at in alignment.used or sources.tokens[at].light for at in sources.tokens_of(sources.clause_of[before]))
    if others > len(tokens) // 5 or not whole:
        return False
    if comparison.language.name == "zh" and not (_is_exact(comparison, left) and _is_exact(comparison, right)):
        return False
    here = comparison.text[tokens[left].end : tokens[right].start].lower()
    there = comparison.document[sources.tokens[before].end : sources.tokens[after].start].lower()
    return set(_PART.findall(there)) <= set(_PART.findall(here))


def _first_token(comparison: Comparison, clause: Clause) -> Token | None:
    return next((source for mine in clause.tokens if (source := comparison.source(mine)) is not None), None)


def _extent(comparison: Comparison, clause: Clause) -> Token:
    return comparison.tokens[clause.tokens[0]]


def _between(kind: DifferenceKind, mine: Token | Mark, source: Token | Mark | None, certain: bool) -> Difference:
    if source is None:
        return Difference(kind, mine.start, mine.end, certain=certain)
    return Difference(kind, mine.start, mine.end, source.start, source.end, certain)
