"""The evidence of several documents as one context for an LLM: best first, within a token budget, with citation marks."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from whyrank.errors import InvalidRequest
from whyrank.types import CheckedSentence, Grounding, RankedDocument

__all__ = ["Citation", "Packed", "pack", "token_counter"]

_Level = Literal["altered", "unverified", "model-checked", "supported"]
_LEVELS: tuple[_Level, ...] = ("unverified", "model-checked", "supported")
"""How well a sentence is backed, worst first. Altered ones are never packed."""

_SAME_SHARE = 0.9
"""A passage repeats another if at least this share of its pairs of neighbouring words occurs in the other one."""


@dataclass(frozen=True, slots=True)
class Citation:
    """The document that a mark refers to. `also`: (index, id) of documents whose evidence said the same, best first."""

    mark: str
    index: int
    id: str | None
    also: tuple[tuple[int, str | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Packed:
    """`text` has `tokens` tokens, marks included; `citations` are in its order.

    raw_tokens: tokens of all cited documents in full. left_out: indexes of documents whose evidence did not fit, best first.
    """

    text: str
    citations: tuple[Citation, ...]
    tokens: int
    raw_tokens: int
    left_out: tuple[int, ...] = ()

    @property
    def saved_tokens(self) -> int:
        """Negative if evidence and marks are longer than the documents."""
        return self.raw_tokens - self.tokens


def pack(rows: Sequence[RankedDocument], max_tokens: int, count_tokens: Callable[[str], int]) -> Packed:
    """Packs as much evidence as fits, or the spans of rows that have those, in the order of `rows`, best first. Rows with
    neither are skipped.

    If evidence was checked against its document, altered sentences are dropped and unverified ones are marked:
    "(model-checked)" if a verifier backs them, else "(unverified)". If there is no room for all of a document's evidence, the
    unverified sentences are left out, then the model-checked ones. The passage is then added as a whole or not at all; if it
    does not fit, shorter ones after it still may. `count_tokens` always gets the joined text, because that may have more tokens
    than its parts together.
    """
    if type(max_tokens) is not int or max_tokens < 1:
        raise InvalidRequest(f"max_tokens is {max_tokens!r}: give a whole number of at least 1")
    text, tokens = "", 0
    cited: list[list[RankedDocument]] = []  # a kept row, then those that repeat it
    kept: list[_Wording] = []
    left_out: list[int] = []
    for row in rows:
        passage = _passage(row)
        if not passage:
            continue
        wording = _Wording.of(passage)
        twin = next((place for place, other in enumerate(kept) if wording.repeats(other)), None)
        if twin is not None:
            cited[twin].append(row)
            continue
        for variant in dict.fromkeys(_passage(row, marked=True, level=level) for level in _LEVELS):
            longer = f"{text}\n\n{_headed(len(cited), row, variant)}" if text else _headed(0, row, variant)
            longer_tokens = count_tokens(longer) if variant else max_tokens + 1
            if longer_tokens <= max_tokens:
                break
        else:
            left_out.append(row.index)
            continue
        text, tokens = longer, longer_tokens
        cited.append([row])
        kept.append(wording)
    raw_tokens = sum(count_tokens(row.document.content) for group in cited for row in group)
    citations = tuple(_citation(place, group) for place, group in enumerate(cited))
    return Packed(text, citations, tokens, raw_tokens, tuple(left_out))


def _level(grounding: Grounding, sentence: CheckedSentence) -> _Level:
    if sentence.verdict == "unverified" and grounding.is_backed(sentence):
        return "model-checked"
    return sentence.verdict


def _passage(row: RankedDocument, marked: bool = False, level: _Level = "unverified") -> str:
    """The sentences of at least this level. Blank lines are removed: in the packed text they only stand between documents."""
    text = row.evidence.evidence if row.evidence else row.span_text
    grounding = row.evidence.grounding if row.evidence else None
    for sentence in reversed(grounding.sentences if grounding else ()):
        assert grounding is not None
        sentence_level = _level(grounding, sentence)
        if sentence_level == "altered" or _LEVELS.index(sentence_level) < _LEVELS.index(level):
            text = text[: sentence.start].rstrip(" ") + text[sentence.end :]
        elif marked and sentence_level != "supported":
            text = f"{text[: sentence.end]} ({sentence_level}){text[sentence.end :]}"
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def _mark(place: int) -> str:
    return f"[{place + 1}]"


def _headed(place: int, row: RankedDocument, passage: str) -> str:
    name = str(row.index) if row.id is None else " ".join(row.id.split())
    return f"{_mark(place)} ({name})\n{passage}"


def _citation(place: int, group: Sequence[RankedDocument]) -> Citation:
    kept, *repeated = group
    return Citation(_mark(place), kept.index, kept.id, tuple((row.index, row.id) for row in repeated))


# Each kana, Han or Hangul character is a word; elsewhere words are separated as usual, and 5.3 is one word.
_GLYPHS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|[{_GLYPHS}]|[^\W{_GLYPHS}]+")
_NEGATION = re.compile(
    r"n['’]t\b|[不没未无非]|\b(?:not?|never|none|neither|nor|without|nicht|nie|niemals|ohne|kein\w*|ne|pas|jamais|sans"
    r"|aucune?|non|sin|nunca|senza|mai|não|sem|не|нет)\b"
)


@dataclass(frozen=True, slots=True)
class _Wording:
    """The words that are compared to find repetition. Sources may contradict each other in a name, a figure or a "not", so all
    of these must match."""

    pairs: frozenset[tuple[str, str]]
    figures: frozenset[tuple[str, str]]
    names: frozenset[str]
    negations: int

    @classmethod
    def of(cls, passage: str) -> _Wording:
        words = _WORD.findall(passage)
        pairs = frozenset(pairwise(["", *(word.casefold() for word in words)]))
        figures = frozenset(pair for pair in pairs if any(map(str.isdigit, "".join(pair))))
        names = frozenset(word.casefold() for word in words if word[0].isupper())
        return cls(pairs, figures, names, len(_NEGATION.findall(passage.casefold())))

    def repeats(self, other: _Wording) -> bool:
        """Whether this adds nothing to the other. Not symmetric: a longer passage does not repeat one that it contains."""
        if not self.pairs or self.negations != other.negations:
            return False
        if not self.figures <= other.pairs or not self.names <= other.names:
            return False
        return len(self.pairs & other.pairs) >= _SAME_SHARE * len(self.pairs)


def token_counter(tokenizer: Any) -> Callable[[str], int]:
    """A function that counts a text's tokens, without special tokens around it.

    Accepts a Hugging Face tokenizer, a tiktoken encoding, anything else whose `encode(text)` has a length, or a function
    from text to a number.
    """
    # A Hugging Face tokenizer is callable too, but returns ids and masks.
    encode = getattr(tokenizer, "encode_ordinary", None) or getattr(tokenizer, "encode", None)
    if callable(encode) and not isinstance(tokenizer, str | bytes | type):
        return _length_of(tokenizer, encode)
    if not callable(tokenizer) or isinstance(tokenizer, type):
        raise InvalidRequest(
            f"tokenizer is {_named(tokenizer)}: give an object with 'encode' or a function that counts"
        )

    def count(text: str) -> int:
        result = tokenizer(text)
        try:
            return operator.index(result)
        except TypeError:
            raise InvalidRequest(
                f"the token counter returned {_named(result)}: it must return a whole number"
            ) from None

    return count


def _length_of(tokenizer: object, encode: Callable[..., Any]) -> Callable[[str], int]:
    """Tried once on an empty text, so that an unusable tokenizer is refused before any work."""
    for options in ({"add_special_tokens": False}, {}):
        try:
            len(encode("", **options))
        except TypeError:
            continue
        return lambda text: len(encode(text, **options))
    raise InvalidRequest(f"tokenizer is {_named(tokenizer)}, whose 'encode' does not turn a text into a list of tokens")


def _named(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
