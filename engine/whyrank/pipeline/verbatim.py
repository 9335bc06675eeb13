"""Verbatim evidence: a grammar that allows nothing but sentences of the document, in their order, and the parser from the
generated text back to the sentences. The model chooses; it cannot invent. Pure: no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from whyrank.grounding.words import sentences
from whyrank.pipeline.sentences import most_relevant
from whyrank.types import Document, Grounding, GroundingFlag, SourceSpan, text_between

__all__ = ["Quotable", "quotable_sentences"]

# The time to compile a grammar grows with the square of its sentences: 50 take a quarter of a second.
_MAX_SENTENCES = 50


@dataclass(frozen=True, slots=True)
class _Sentence:
    """Its place in the document, and what separates it from the next one in the model's output."""

    start: int
    end: int
    text: str
    separator: str


@dataclass(frozen=True, slots=True)
class Quotable:
    """The sentences of one document that may be quoted. `reduced`: it has more, which share less with the query."""

    document: str
    sentences: tuple[_Sentence, ...]
    reduced: bool = False
    title: str = ""
    """What the model may begin with, since it reads the title as the beginning of the text. No part of the evidence."""

    def grammar(self) -> str:
        """EBNF: each sentence in turn may be taken or left, and at least one is taken. A chain of rules: a row of optional
        sentences would take a hundred times as long to compile."""
        if not self.sentences:
            return 'root ::= ""'
        last = len(self.sentences) - 1
        # Models that copy words with the space before them get to do so at the beginning, too.
        rules = [f'root ::= " "? ({_quoted(self.title)})? t0' if self.title else 'root ::= " "? t0']
        for i, sentence in enumerate(self.sentences):
            text, separator = _quoted(sentence.text), _quoted(sentence.separator)
            rules.append(f"t{i} ::= {text}" if i == last else f"t{i} ::= {text} ({separator} t{i + 1})? | t{i + 1}")
        return "\n".join(rules)

    def chosen(self, generated: str) -> list[_Sentence]:
        """The sentences of an output of the grammar; of one that was cut off, those that are complete."""
        generated = generated.removeprefix(" ")
        # By position in the output: the sentences up to there. A sentence may begin where another one is complete.
        paths: dict[int, list[_Sentence]] = {0: []}
        if generated.startswith(self.title):
            paths[len(self.title)] = []
        ends: dict[int, list[_Sentence]] = {}
        for sentence in self.sentences:
            for at, path in list(paths.items()):
                if not generated.startswith(sentence.text, at):
                    continue
                end, taken = at + len(sentence.text), [*path, sentence]
                ends.setdefault(end, taken)
                if generated.startswith(sentence.separator, end):
                    paths.setdefault(end + len(sentence.separator), taken)
        return ends[max(ends)] if ends else []

    def quote(self, generated: str) -> tuple[str, Grounding]:
        """The evidence as it is shown: the chosen sentences with the document's own spaces between neighbours and a mark where
        something was left out; and their exact places."""
        text, spans, before = "", list[SourceSpan](), None
        for sentence in self.chosen(generated):
            if before is not None:
                text += text_between(self.document, before.end, sentence.start)
            spans.append(SourceSpan(len(text), len(text) + len(sentence.text), sentence.start, sentence.end, 1.0))
            text += sentence.text
            before = sentence
        flags: tuple[GroundingFlag, ...] = ("reduced",) if self.reduced else ()
        return text, Grounding(1.0 if spans else 0.0, tuple(spans), flags=flags, method="verbatim")


def quotable_sentences(
    document: Document,
    query: str,
    forbidden: Iterable[str],
    fits: Callable[[str], bool],
    read: Sequence[tuple[int, int]] | None = None,
) -> Quotable:
    """Those of the text; a title is none. `forbidden`: texts that a sentence may not hold, such as tags. `fits`: whether a
    sentence is within the budget. `read`: the stretches of the content that the model has read, where that is not all."""
    content, origin = document.content, len(document.content) - len(document.text)
    never, seen, candidates = tuple(forbidden), set[str](), list[_Sentence]()
    title = content[:origin]
    if any(part in title for part in never) or not _is_utf8(title):
        title = ""
    for start, end in ((origin + start, origin + end) for start, end in sentences(document.text)):
        text = content[start:end]
        if text in seen or any(part in text for part in never) or not _is_utf8(text) or not fits(text):
            continue
        if read is not None and not any(low <= start and end <= high for low, high in read):
            continue
        seen.add(text)
        candidates.append(_Sentence(start, end, text, " " if content[end : end + 1].strip() == "" else ""))
    best = most_relevant([sentence.text for sentence in candidates], query, _MAX_SENTENCES)
    return Quotable(content, tuple(candidates[i] for i in best), len(best) < len(candidates), title)


def _quoted(text: str) -> str:
    """A string of a grammar."""
    return json.dumps(text, ensure_ascii=False)


def _is_utf8(text: str) -> bool:
    return text.encode("utf-8", "ignore").decode() == text
