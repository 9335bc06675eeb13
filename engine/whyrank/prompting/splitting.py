"""Splits a run so that its parts, tokenised one by one, give the ids of the whole: text that prompts share is tokenised once.

A run is split only in trusted text, as near as possible to the user text beside it, at two kinds of places:

- At an edge of a control token. Tokenizers take control tokens out of the raw text before anything else, and treat the texts
  between them separately.
- Before a blank that follows another ASCII character, as in "<Document>:" and " Water". Most pre-tokenizers scan a text from
  left to right without looking back, and accept a blank only at the beginning of a word: so a word begins here whatever
  surrounds it, and all later words depend only on the text from here on. No normalisation form joins a blank with what
  precedes it, and the model sees one word at a time. The place after the blank is unsafe: the blank belongs to the
  document's first word. So is, in general, the beginning of the last word: a newline in the document joins "\\n " to one word.

Whether a tokenizer behaves like this is tested for each place, on texts with all beginnings and ends that are known to
matter. Added tokens are matched before words are formed, so places that could lie within one are not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from whyrank.prompting.rendering import Run, Span

__all__ = ["EDGES", "RunSplitter"]

EDGES = (
    "",
    *("x", "Water", "9", "12", "É", "水", "한", "नि", "İ", "ﬁ"),
    *(" ", " x", "  x", "\n", "\n\nx", " \n", "\t", "\r\n", "\r", "\u3000x", "\xa0x", "\u2028", "\x00", "\x1c"),
    *("?", "？", ".", "...", "…", "-", "'", "'s", "'LL x", '"', "(", ">", "<", "|", "_", "##x", "▁", "▁x", "Ġx", "x▁"),
    *("\u0301", "\u0301x", "\u0327\u0301", "\u093c", "e\u0301", "\u1161", "\u0600", "\ufe0f", "\ufeff", "\u200d"),
    *("\u200bx", "🫖", "🇫"),
)
"""Beginnings and ends of texts that could make a text merge with its neighbour."""
# How many texts of the other side each is tried with; an odd step through the list makes the pairs varied.
_PARTNERS, _STEP = 4, 17
# How much of the trusted text on either side takes part in a trial.
_WINDOW = 24
# How many places are tried, from the user text onwards.
_TRIALS = 3
# Trying one trusted text takes milliseconds. A format has a few, but metadata words could create any number of them.
_MAX_TEXTS = 128
# Patterns that look back, or at where the text or the last match began, in a pre-tokenizer's JSON.
_LOOKS_BACK = re.compile(r"\(\?<|\\\\[bBGAKyYX]")


class RunSplitter:
    """Finds where one tokenizer's runs may be split. `controls_of`: start and end of each control token in a text."""

    def __init__(self, tokenizer: Any, controls_of: Callable[[str], Iterable[tuple[int, int]]]) -> None:
        self._tokenizer, self._controls_of = tokenizer, controls_of
        added = tokenizer.get_added_tokens_decoder().values()
        self._added = [token.content for token in added]
        self._added_normalised = [self._normalised(token.content) for token in added if token.normalized]
        # Tokens that look at their neighbours, or absorb white space beside them, have no reliable edges.
        self._can_split = not any(token.lstrip or token.rstrip or token.single_word for token in added)
        steps = [step.__getstate__().decode() for step in (tokenizer.pre_tokenizer, tokenizer.normalizer) if step]
        self._has_words = tokenizer.pre_tokenizer is not None and not any(map(_LOOKS_BACK.search, steps))
        self._known: dict[tuple[Span, bool, bool], Sequence[Span]] = {}

    def split(self, run: Run) -> list[Run]:
        """The run in parts. A run without user text beside trusted text is a single part."""
        if len(run) == 1:
            return [run]
        parts: list[list[Span]] = [[]]
        last = len(run) - 1
        for place, span in enumerate(run):
            first, *more = self._pieces(span, place > 0, place < last) if span.trusted else (span,)
            parts[-1].append(first)
            parts.extend([piece] for piece in more)
        kept = (tuple(span for span in part if span.text or not span.trusted) for part in parts)
        return [part for part in kept if part]

    def _pieces(self, span: Span, text_before: bool, text_after: bool) -> Sequence[Span]:
        """A trusted span in pieces. `text_before` and `text_after` say whether user text is next to it."""
        known = self._known.get((span, text_before, text_after))
        if known is None:
            if len(self._known) >= _MAX_TEXTS:
                return (span,)
            known = self._known[span, text_before, text_after] = self._split_trusted(span, text_before, text_after)
        return known

    def _split_trusted(self, span: Span, text_before: bool, text_after: bool) -> Sequence[Span]:
        text, places = span.text, set[int]()
        candidates = self._candidates(text)
        for wanted, order in ((text_before, candidates), (text_after, candidates[::-1])):
            tried = (place for place in order[:_TRIALS] if self._is_safe(text, place, text_before, text_after))
            if wanted and (place := next(tried, None)) is not None:
                places.add(place)
        ends = [0, *sorted(places), len(text)]
        return [span._replace(text=text[low:high]) for low, high in pairwise(ends)]

    def _candidates(self, text: str) -> list[int]:
        if not self._can_split:
            return []
        controls = list(self._controls_of(text))
        blanks = [at for at in range(1, len(text)) if text[at] == " " and "!" <= text[at - 1] <= "~"]
        outside = [at for at in blanks if self._has_words and not any(low < at < high for low, high in controls)]
        return sorted({edge for control in controls for edge in control}.union(outside))

    def _is_safe(self, text: str, place: int, text_before: bool, text_after: bool) -> bool:
        left, right = text[:place], text[place:]
        if _may_lie_across(self._added, left, right):
            return False
        if _may_lie_across(self._added_normalised, self._normalised(left), self._normalised(right)):
            return False
        at_edge = any(place in control for control in self._controls_of(text))
        befores = EDGES if text_before and len(left) <= _WINDOW else ("",)
        afters = EDGES if text_after and len(right) <= _WINDOW else ("",)
        pairs = [(before + left[-_WINDOW:], right[:_WINDOW] + after) for before, after in _pairs(befores, afters)]
        return self._ids_are_the_wholes(pairs) and (at_edge or all(self._words_begin(*pair) for pair in pairs))

    def _ids_are_the_wholes(self, pairs: Sequence[tuple[str, str]]) -> bool:
        texts = [text for left, right in pairs for text in (left + right, left, right)]
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        return all(ids[at] == ids[at + 1] + ids[at + 2] for at in range(0, len(ids), 3))

    def _words_begin(self, left: str, right: str) -> bool:
        """Whether the right text begins a new word after the left one, and normalisation changes neither."""
        before, after = self._normalised(left), self._normalised(right)
        if self._normalised(left + right) != before + after:
            return False
        words = self._tokenizer.pre_tokenizer.pre_tokenize_str(before + after)
        return not any(low < len(before) < high for _, (low, high) in words)

    def _normalised(self, text: str) -> str:
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))


def _may_lie_across(tokens: Iterable[str], left: str, right: str) -> bool:
    """Whether a token can begin in the left text, or before it, and end in the right one, or after it."""
    return any(
        (left.endswith(token[:at]) or token[:at].endswith(left))
        and (right.startswith(token[at:]) or token[at:].startswith(right))
        for token in tokens
        for at in range(1, len(token))
    )


def _pairs(befores: Sequence[str], afters: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs every text of the longer side with one or several of the other side."""
    longer = max(len(befores), len(afters))
    for partner in range(_PARTNERS if min(len(befores), len(afters)) > 1 else 1):
        for at in range(longer):
            yield befores[at % len(befores)], afters[(at + partner * _STEP) % len(afters)]
