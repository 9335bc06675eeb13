"""One sentence of the evidence against its document: verdict, sources, and what differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from whyrank.grounding.alignment import Sources, align
from whyrank.grounding.differences import ENOUGH, Comparison, Difference, differences
from whyrank.grounding.facts import Fact, facts
from whyrank.grounding.leads import end_of_lead
from whyrank.grounding.reading import read
from whyrank.grounding.source import MAX_TOKENS, Source, plain
from whyrank.grounding.tokens import Reading, Token
from whyrank.grounding.words import content_keys, fold, folded_words
from whyrank.types import CheckedSentence, SourceSpan, Unsupported, Verdict

__all__ = ["Judged", "judge"]

_BACKED = 0.55  # least share of the content words that a sentence with a source has from it


class Judged(NamedTuple):
    sentence: CheckedSentence
    spans: tuple[SourceSpan, ...] = ()
    unsupported: tuple[Unsupported, ...] = ()
    facts: tuple[Fact, ...] = ()


def judge(evidence: str, start: int, end: int, source: Source) -> Judged | None:
    """None if the sentence claims nothing. A reporting lead is not part of the claim, unless the document has it, too."""
    claim = end_of_lead(evidence, start, end)
    if claim == start or plain(evidence[start:end]) in source.plain_sentences:
        return _judge(evidence, start, end, source)
    judged = _judge(evidence, claim, end, source)
    if judged is None:
        return None
    spans = tuple(replace(span, evidence_start=start) for span in judged.spans)
    return judged._replace(sentence=replace(judged.sentence, start=start), spans=spans)


def _judge(evidence: str, start: int, end: int, source: Source) -> Judged | None:
    words = folded_words(evidence[start:end])
    keys = list(dict.fromkeys(content_keys(words)))
    reading = read(evidence, start, end, source.language, source.is_name)
    places_of = {key: source.places(key) for key in keys}
    held_by = source.best_sentences(
        {key: places for key, places in places_of.items() if key not in source.query_keys or places}
    )
    quoted = source.quoted_from(evidence[start:end], held_by)
    if quoted is not None:
        return _supported(reading, evidence, source, quoted, quoted)
    if len(reading.tokens) > MAX_TOKENS:
        return Judged(CheckedSentence(start, end, "unverified", "wording"))
    proof = source.proven_by(reading, evidence, held_by, places_of)
    if proof is not None and reading.tokens:
        return _supported(reading, evidence, source, *proof)
    alignment = align(reading, Sources.of([source.reading(place) for place in held_by]))
    placed = {token.start for token, place in zip(reading.tokens, alignment.places, strict=True) if place is not None}
    checked = tuple(facts(reading, evidence, source, placed))
    if not keys and not checked:
        return None

    topics: dict[int, bool] = {}

    def is_topic(token: Token) -> bool:
        if token.start not in topics:
            topics[token.start] = source.is_topic(token, fold(evidence[token.start : token.end]))
        return topics[token.start]

    def is_known(token: Token) -> bool:
        return source.knows(token, fold(evidence[token.start : token.end]))

    comparison = Comparison(evidence, source.document, alignment, source.language, is_known, is_topic, source.values)
    missing = [fact for fact in checked if not fact.held and not _is_placed(comparison, fact)]
    differing = list(differences(comparison))
    if comparison.share >= ENOUGH:
        differing += [_absent(fact) for fact in missing if fact.kind not in ("number", "date")]
    similarity = round(comparison.share, 6)
    spans = tuple(_spans(start, end, held_by, source, similarity)) if similarity >= _BACKED else ()
    place = (spans[0].start, spans[0].end) if spans else (None, None)
    verdict: Verdict = "altered" if differing else "unverified"
    sentence = CheckedSentence(start, end, verdict, differing[0].kind if differing else "wording", *place)
    shown = differing or [_absent(fact) for fact in missing]
    return Judged(sentence, spans, tuple(_unsupported(evidence, shown)), checked)


def _supported(reading: Reading, evidence: str, source: Source, first: int, last: int) -> Judged:
    start, end = reading.start, reading.end
    checked = tuple(facts(reading, evidence, source, range(start, end)))
    span = SourceSpan(start, end, source.sentences[first][0], source.sentences[last][1], 1.0)
    return Judged(CheckedSentence(start, end, "supported", None, span.start, span.end), (span,), (), checked)


def _is_placed(comparison: Comparison, fact: Fact) -> bool:
    """Whether all its words are aligned with the source."""
    tokens, places = comparison.tokens, comparison.alignment.places
    inside = [mine for mine, token in enumerate(tokens) if token.start < fact.end and fact.start < token.end]
    return bool(inside) and all(places[mine] is not None for mine in inside)


def _absent(fact: Fact) -> Difference:
    return Difference(fact.kind, fact.start, fact.end)


def _spans(start: int, end: int, held_by: Sequence[int], source: Source, similarity: float) -> Iterator[SourceSpan]:
    """Neighbouring sentences are one stretch."""
    first = last = held_by[0]
    for place in [*held_by[1:], None]:
        if place is not None and place == last + 1:
            last = place
            continue
        yield SourceSpan(start, end, source.sentences[first][0], source.sentences[last][1], similarity)
        if place is not None:
            first = last = place


def _unsupported(evidence: str, differing: Sequence[Difference]) -> Iterator[Unsupported]:
    seen_end = -1
    for one in sorted(differing, key=lambda one: (one.start, -one.end)):
        if one.start >= seen_end:
            yield Unsupported(
                one.kind, evidence[one.start : one.end], one.start, one.end, one.source_start, one.source_end
            )
            seen_end = one.end
