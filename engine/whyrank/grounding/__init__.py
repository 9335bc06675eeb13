"""Compares evidence with its document: each sentence is supported, altered or unverified, with the reason.

Without a model, word by word:

1. a sentence is read as words, amounts, dates, code, and what governs them: negation, quantifier, modal, condition (`reading`,
   with the word tables of `tables/`);
2. it is *supported* only if there is a proof: the document has all its words in the same order, up to a small closed class
   that changes nothing (`proof`);
3. otherwise it is aligned with the one to three sentences of the document that share most words with it (`source`,
   `alignment`), and a difference that is found makes it *altered* (`differences`);
4. all others are *unverified*.

An `unverified` sentence may be true: a good paraphrase is unverified. Tables exist for English, German, French, Spanish and
Chinese; in other languages no negation or quantifier is known, so only sentences in the document's own words are supported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from whyrank.grounding.facts import Fact
from whyrank.grounding.source import Source
from whyrank.grounding.verdict import judge
from whyrank.grounding.words import (
    UNSPACED_SCRIPTS,
    folded_words,
    language_of,
    may_be_same_language,
    sentences,
    visible_length,
)
from whyrank.types import CheckedSentence, Grounding, GroundingFlag, Verdict

__all__ = ["ground"]

# The audit's gates.
_CHECKED_SHARE = 0.9
_REPEATED_SHARE = 0.3
_REPEATED_LENGTH = 6
_LENGTH_SHARE = 0.7
# A shorter document (in a script without spaces, one of half the length) may well be relevant as a whole.
_LONG_DOCUMENT = 400
_LONGEST_EVIDENCE = 50_000  # characters; what comes after is no passage but an accident, and is not looked at


def ground(evidence: str, document: str, query: str = "") -> Grounding:
    """The verdict of each sentence, the verdicts' shares of the evidence's visible characters, and the differences.

    `spans` has one entry per sentence with a source, or several if the sentence joins distant parts of the document. Sentences
    without content words ("Yes.") do not count in the shares. Words of the query count neither as supported nor as made up.
    """
    text, source = evidence[:_LONGEST_EVIDENCE], Source(document, query)
    words = folded_words(text)
    language = language_of(evidence, words)
    judged = [one for start, end in sentences(text) if (one := judge(text, start, end, source))]
    checked = [fact for one in judged for fact in one.facts]
    checked_sentences = tuple(one.sentence for one in judged)
    shares = _shares(text, checked_sentences, len(evidence))
    return Grounding(
        shares["supported"],
        tuple(span for one in judged for span in one.spans),
        tuple(item for one in judged for item in one.unsupported),
        tuple(_flags(words, len(evidence), language, checked, source)),
        shares["altered"],
        shares["unverified"],
        checked_sentences,
    )


def _shares(text: str, sentences: Sequence[CheckedSentence], length: int) -> dict[Verdict, float]:
    """Shares of the visible characters. What lies beyond the maximum length that is checked counts as unverified."""
    sizes: dict[Verdict, int] = {"supported": 0, "altered": 0, "unverified": 0}
    for one in sentences:
        sizes[one.verdict] += visible_length(text[one.start : one.end])
    total, seen = sum(sizes.values()), len(text) / max(1, length)
    shares = {verdict: size / total * seen if total else 0.0 for verdict, size in sizes.items()}
    if total:
        shares["unverified"] += 1 - seen
    return shares


def _flags(
    words: Sequence[str], length: int, language: str | None, checked: Sequence[Fact], source: Source
) -> Iterator[GroundingFlag]:
    if checked and sum(fact.held for fact in checked) < _CHECKED_SHARE * len(checked):
        yield "unsupported_entities"
    unspaced = language in UNSPACED_SCRIPTS
    if _repeated_share("".join(words) if unspaced else words) > _REPEATED_SHARE:
        yield "repetition"
    long = len(source.document) >= (_LONG_DOCUMENT // 2 if unspaced else _LONG_DOCUMENT)
    if long and length > _LENGTH_SHARE * len(source.document):
        yield "too_long"
    # A document in several languages is answered in the query's.
    expected = language_of(source.document, source.words) or language_of(source.query, source.query_words)
    if language and expected and not may_be_same_language(language, expected):
        yield "language"


def _repeated_share(words: Sequence[str]) -> float:
    """The share of runs of six words (characters, in a script without spaces) that occurred before."""
    runs = list(zip(*(words[i:] for i in range(_REPEATED_LENGTH)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
