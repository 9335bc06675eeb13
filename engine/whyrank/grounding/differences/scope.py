"""Opposites, degrees, quantifiers and bounds."""

from __future__ import annotations

from collections.abc import Iterator

from whyrank.grounding.differences.comparison import Comparison, Difference, between, negations_of
from whyrank.grounding.tokens import Mark

__all__ = ["degrees", "opposites", "orders", "quantifiers"]


def opposites(comparison: Comparison) -> Iterator[Difference]:
    """larger for smaller. If the two that are compared have changed places as well, the meaning is the same."""
    alignment = comparison.alignment
    if comparison.share < 0.75 or comparison.ordered_share < 0.6:
        return
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
            opposite = next(((s, e) for _, other, s, e in theirs if against in other), None)
            if opposite:
                yield Difference("comparative", start, end, *opposite)
                break


def orders(comparison: Comparison) -> Iterator[Difference]:
    """after for before, beside the same word."""
    if comparison.ordered_share < 0.75:
        return
    for mine, token in enumerate(comparison.tokens):
        source = comparison.source(mine) if token.marks else None
        for mark in token.marks if source is not None else ():
            against = [other for other in source.marks if mark.kind == other.kind == "order"]  # type: ignore[union-attr]
            if against and not set(mark.poles) & set(against[0].poles):
                yield between("comparative", mark, against[0])


def degrees(comparison: Comparison) -> Iterator[Difference]:
    """more for less, beside the same word."""
    if comparison.share < 0.7:
        return
    for mine, token in enumerate(comparison.tokens):
        if not token.marks:
            continue
        source = comparison.source(mine)
        degrees = [mark for mark in token.marks if mark.kind == "degree"]
        theirs = [mark for mark in source.marks if mark.kind == "degree"] if source is not None else []
        if degrees and theirs and degrees[-1].key != theirs[-1].key:
            yield between("comparative", degrees[-1], theirs[-1])
        elif degrees and source is not None and not theirs and comparison.share >= 0.85:
            clause = comparison.alignment.sources.clauses[
                comparison.alignment.sources.clause_of[comparison.alignment.places[mine] or 0]
            ]
            others = [mark for mark in clause.marks if mark.kind == "degree"]
            if others and not any(other.key == degrees[-1].key for other in others):
                yield between("comparative", degrees[-1], others[0])


_OPPOSITE_BOUNDS = ({"min", "max"}, {"over", "under"}, {"min", "under"}, {"over", "max"})
_NARROW = frozenset({"most", "some", "few", "only"})


def quantifiers(comparison: Comparison) -> Iterator[Difference]:
    alignment = comparison.alignment
    for number, clause in enumerate(alignment.reading.clauses):
        theirs = [
            mark for other in comparison.source_clauses(number) for mark in alignment.sources.clauses[other].marks
        ]
        keys = {mark.key for mark in theirs}
        negated = bool(negations_of([clause])) != any(mark.kind == "negation" for mark in theirs)
        for mark in clause.marks:
            rate = mark.token is not None and (
                mark.token.kind in ("amount", "ordinal") or mark.token.key.startswith("unit ")
            )
            rate = rate and not any(other.kind == "quantifier" and other.key != "all" for other in theirs)
            changed = mark.key not in keys or _is_turned(mark, clause.tokens, comparison)
            if mark.kind in ("quantifier", "bound") and changed and not (rate and mark.key == "all"):
                yield from _changed_mark(mark, comparison, theirs, negated)
    if comparison.nearly_verbatim:
        yield from _lost_quantifiers(comparison)


def _is_turned(mark: Mark, places: list[int], comparison: Comparison) -> bool:
    """The same number has the opposite bound, even if the clause has this one beside another number."""
    mine = next((i for i in places if comparison.tokens[i] is mark.token), None)
    source = comparison.source(mine) if mine is not None else None
    beside = {other.key for other in source.marks if other.kind == "bound"} if source is not None else set()
    return bool(beside) and all({mark.key, key} in _OPPOSITE_BOUNDS for key in beside)


def _changed_mark(mark: Mark, comparison: Comparison, theirs: list[Mark], negated: bool) -> Iterator[Difference]:
    mine = next((i for i, token in enumerate(comparison.tokens) if token is mark.token), None)
    source = comparison.source(mine) if mine is not None else None
    beside = source.marks if source is not None else []
    same_kind = [other for other in beside if other.kind == mark.kind] or [o for o in theirs if o.kind == mark.kind]
    if mark.kind == "bound":
        against = next((o for o in same_kind if {o.key, mark.key} in _OPPOSITE_BOUNDS), None)
        if against and not negated:
            yield between("quantifier", mark, against)
        return
    if {other.key for other in same_kind} & {"all"} and mark.key in ("many", "most", "some"):
        if comparison.nearly_verbatim and not negated:
            yield between("quantifier", mark, same_kind[0])
    elif same_kind:
        if comparison.share >= 0.7:
            yield between("quantifier", mark, same_kind[0])
    elif mark.key in ("all", "most", "exact", "few") and not negated and comparison.nearly_verbatim:
        elsewhere = any(
            other.key == mark.key for clause in comparison.alignment.sources.clauses for other in clause.marks
        )
        if not elsewhere:
            yield between("quantifier", mark, source)


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
            if bool(negations_of([clauses[token.clause]])) != any(other.kind == "negation" for other in theirs):
                continue
            if not any(other.kind == "quantifier" for other in here) and token.value is None:
                yield between("quantifier", token, mark)
