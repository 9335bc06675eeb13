"""Negation and modality."""

from __future__ import annotations

from collections.abc import Iterator

from whyrank.grounding.differences.comparison import (
    Comparison,
    Difference,
    between,
    clauses_of,
    first_of,
    first_source,
    negations_of,
)
from whyrank.grounding.tokens import Clause, Mark, Token
from whyrank.grounding.words import have_same_stem

__all__ = ["modals", "negations"]


def negations(comparison: Comparison) -> Iterator[Difference]:
    alignment, sources = comparison.alignment, comparison.alignment.sources
    drawn_on = [sources.clauses[number] for number in {sources.clause_of[place] for place in alignment.used}]
    hedged = _turns_about(alignment.reading.clauses) or _turns_about(drawn_on)
    certain = comparison.share >= 0.7 and (not hedged or comparison.nearly_verbatim)
    if certain and (comparison.nearly_verbatim or comparison.share >= 0.85):
        yield from _added_negations(comparison, drawn_on)
    if comparison.nearly_verbatim:
        yield from _doubled_negations(comparison)
    yield from _lost_negations(comparison, drawn_on, certain)


def _added_negations(comparison: Comparison, drawn_on: list[Clause]) -> Iterator[Difference]:
    sources = comparison.alignment.sources
    stated = [comparison.mine_at(mark.token) for mark in negations_of(drawn_on) if mark.token is not None]
    for clause in comparison.alignment.reading.clauses:
        for mark in negations_of([clause]):
            against = clauses_of(comparison, mark, clause)
            if (
                not against
                or negations_of(against)
                or any(mine in clause.tokens for mine in stated if mine is not None)
            ):
                continue
            if _is_bounded(clause.marks, [other for one in against for other in one.marks]):
                continue
            numbers = [sources.clauses.index(one) for one in against]
            used = sum(sources.clause_of[place] in numbers for place in comparison.alignment.used)
            mostly = 2 * used >= sum(len(one.tokens) for one in against)
            beside = sources.clauses[min(numbers) : max(numbers) + 2]
            excepted = any(one.condition == "except" for one in beside) or clause.condition == "until"
            if mostly and not excepted:
                yield between("negation", mark, first_source(comparison, clause))


def _doubled_negations(comparison: Comparison) -> Iterator[Difference]:
    """Not forbidden."""
    for place, token in enumerate(comparison.tokens):
        mine = _on(token, "negation") if token.marks else []
        theirs = _on(comparison.source(place), "negation") if mine else []
        if mine and theirs and len(mine) != len(theirs):
            yield between("negation", mine[0], theirs[0])


def _lost_negations(comparison: Comparison, drawn_on: list[Clause], certain: bool) -> Iterator[Difference]:
    alignment, clauses = comparison.alignment, comparison.alignment.reading.clauses
    if any(negations_of([clause]) and not clause.tokens for clause in clauses):
        return  # there is one whose place is not known
    for clause in drawn_on:
        for mark in negations_of([clause]):
            mine = comparison.mine_at(mark.token)
            if mine is None:
                continue
            here = clauses[comparison.tokens[mine].clause]
            if negations_of([here]) or _is_bounded(here.marks, clause.marks) or here.condition == "except":
                continue
            whole = all(
                alignment.places[other] is not None or comparison.tokens[other].kind != "word" for other in here.tokens
            )
            if comparison.nearly_verbatim or (certain and whole):
                yield between("negation", comparison.tokens[mine], mark)


def _on(token: Token | None, kind: str) -> list[Mark]:
    return [mark for mark in token.marks if mark.kind == kind] if token is not None else []


def _turns_about(clauses: list[Clause]) -> bool:
    return any(clause.condition in ("except", "until") for clause in clauses) or any(
        mark.key == "only" for clause in clauses for mark in clause.marks
    )


def _is_bounded(mine: list[Mark], theirs: list[Mark]) -> bool:
    """ "Not more than three" is "at most three"."""
    keys = ({mark.key for mark in mine}, {mark.key for mark in theirs})
    if "under" in keys[1] and not any(mark.kind == "bound" for mark in mine):
        return True  # not yet forty
    return any(
        ({"max"} & one and {"over"} & other) or ({"min"} & one and {"under"} & other)
        for one, other in (keys, keys[::-1])
    )


def modals(comparison: Comparison) -> Iterator[Difference]:
    alignment = comparison.alignment
    for number, clause in enumerate(alignment.reading.clauses):
        counted = comparison.source_clauses(number)
        top = max(counted.values(), default=0)
        if top < 1:
            continue
        others = [alignment.sources.clauses[other] for other, count in counted.items() if 2 * count >= top]
        theirs = [
            mark for other in others for mark in other.marks if mark.kind == "modal" and _is_drawn_on(comparison, mark)
        ]
        mine = [mark for mark in clause.marks if mark.kind == "modal"]
        if negations_of([clause]) and negations_of(others) and not {mark.key for mark in mine} & {"will", "optional"}:
            continue  # must not, may not
        other_keys = {_strength(mark) for mark in theirs}
        first = comparison.tokens[clause.tokens[0]]
        spaced = comparison.language.name != "zh"
        imperative = (
            spaced and bool(theirs) and not first.before and clause.tokens[0] == comparison.mine_at(theirs[0].token)
        )
        if not mine and not imperative and other_keys in ({"should"}, {"may"}) and not negations_of([clause]):
            yield from _lost_modal(theirs[0], clause, comparison)
        for mark in mine:
            yield from _changed_modal(mark, clause, theirs, bool(negations_of(others)), comparison)


def _is_drawn_on(comparison: Comparison, mark: Mark) -> bool:
    """The verb is there, or it is one that may be another, and what follows it is there."""
    if mark.token is None or comparison.mine_at(mark.token) is not None:
        return True
    following = next((token for token in comparison.alignment.sources.tokens if token.start > mark.token.end), None)
    return mark.token.light and comparison.mine_at(following) is not None


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
        same = same and (
            mark.key != "should" or (source.kind == "word" and source.before not in comparison.language.determiners)
        )
    else:
        same = mark.key != "should"
    same = same and not any(other.key == "max" for other in clause.marks)
    all_but = comparison.share == 1 and comparison.ordered_share >= 0.9
    likely = comparison.nearly_verbatim or comparison.share >= 0.9
    if same and (likely if mark.key == "may" else all_but):
        yield between("modality", first_of(comparison, clause), mark)


def _strength(mark: Mark) -> str:
    return {"need": "must", "can": "may"}.get(mark.key, mark.key)


def _changed_modal(
    mark: Mark, clause: Clause, theirs: list[Mark], negated: bool, comparison: Comparison
) -> Iterator[Difference]:
    key, mine = _strength(mark), {_strength(other) for other in clause.marks if other.kind == "modal"}
    keys = {_strength(other) for other in theirs}
    beside = [m for c in clauses_of(comparison, mark, clause) for m in c.marks if m.kind == "modal"]
    weakened = "may" in keys and "may" not in mine
    same = (key in keys and not weakened) or key in {_strength(other) for other in beside}
    if same and not (weakened and key == "must"):
        return
    if theirs:
        if comparison.share >= 0.7 and (weakened or not mine & keys):
            yield between("modality", mark, theirs[0])
    elif key == "will" and not negated and comparison.nearly_verbatim:
        yield between("modality", mark, None)
