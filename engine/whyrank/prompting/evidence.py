"""The written part of an answer: its grammar, its budgets and its parser, all from one description in the prompt file.

A continuation is `opening`, then sections `open text close` with `between` between them. The prompt already ends with the
opening and the first section's `open`, so the engine writes from there; the grammar allows nothing but the format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whyrank.errors import InvalidRequest
from whyrank.types import Finish

if TYPE_CHECKING:
    from whyrank.prompting.formats import Continuation, PromptFormat, SectionName

__all__ = [
    "Parsed",
    "SectionReader",
    "WrittenSection",
    "budgets",
    "finish_of",
    "finish_reason",
    "grammar_budgets",
    "max_new_tokens",
    "opening_text",
    "parse",
    "render",
    "split_sections",
    "tags_of",
    "writing_grammar",
]

# A loop: so large a share of a text, or so many tokens in so many rounds, only repeats what was written just before. Below
# that it may be a row of a table, or a song.
_LOOP_SHARE = 0.25
_LOOP_ROUNDS, _LOOP_TOKENS = 3, 32


# The engine compiles a grammar for every string that it has not seen, and keeps it. So a grammar's budgets are the prompt
# file's, halved up to so many times, and what is written beyond the caller's own is cut off here.
_HALVINGS = 7
# How a character is decoded of which some tokens are still missing.
_INCOMPLETE = "\ufffd"

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Parsed:
    """The sections found, in order. `complete`: all are there and closed."""

    texts: Mapping[SectionName, str]
    complete: bool


def opening_text(continuation: Continuation) -> str:
    """What is forced: the engine writes what follows it."""
    return continuation.opening + continuation.sections[0].open


def render(continuation: Continuation, texts: Mapping[SectionName, str]) -> str:
    """The whole answer as the model was taught to write it; `parse` gives the texts back."""
    return continuation.opening + continuation.between.join(
        section.open + texts[section.name] + section.close for section in continuation.sections
    )


def parse(continuation: Continuation, text: str) -> Parsed:
    """Read an answer, constrained or free, whole or cut off. White space around tags is forgiven, as in the authors' parser.

    A cut-off answer gives what there is of its last section. An answer without tags ("no") gives no texts.
    """
    texts: dict[SectionName, str] = {}
    at = 0
    for section in continuation.sections:
        opened = text.find(section.open, at)
        if opened < 0:
            return Parsed(texts, False)
        start = opened + len(section.open)
        closed = text.find(section.close, start)
        if closed < 0:
            texts[section.name] = _without_partial(text[start:], section.close)
            return Parsed(texts, False)
        texts[section.name] = text[start:closed]
        at = closed + len(section.close)
    return Parsed(texts, True)


def _without_partial(text: str, tag: str) -> str:
    """Drop the beginning of a tag at the end of a text that is still being written."""
    cut = next((n for n in range(min(len(tag), len(text)), 0, -1) if tag.startswith(text[-n:])), 0)
    return text[: len(text) - cut]


def max_new_tokens(tokens: Mapping[SectionName, int]) -> int:
    """The longest that an answer within these budgets can get: tags and the end token take a little, too."""
    return sum(tokens.values()) + 64


def budgets(fmt: PromptFormat, requested: Mapping[SectionName, int | None]) -> dict[SectionName, int]:
    """Tokens per section: what was asked, else the file's, which is also the most."""
    if fmt.continuation is None:
        raise InvalidRequest(f"mode 'evidence': prompt '{fmt.name}' describes no continuation; use mode 'score'")
    tokens = {}
    for section in fmt.continuation.sections:
        tokens[section.name] = requested.get(section.name) or section.max_tokens
        if tokens[section.name] > section.max_tokens:
            raise InvalidRequest(
                f"max_{section.name}_tokens is {tokens[section.name]}: "
                f"prompt '{fmt.name}' allows at most {section.max_tokens}"
            )
    return tokens


def grammar_budgets(continuation: Continuation, tokens: Mapping[SectionName, int]) -> dict[SectionName, int]:
    """What the grammar allows where a caller allows so many tokens: as much, or somewhat more."""
    return {section.name: _rounded_up(tokens[section.name], section.max_tokens) for section in continuation.sections}


def _rounded_up(tokens: int, maximum: int) -> int:
    for _ in range(_HALVINGS):
        if (half := (maximum + 1) // 2) < tokens:
            break
        maximum = half
    return maximum


def tags_of(continuation: Continuation) -> list[str]:
    return [tag for section in continuation.sections for tag in (section.open, section.close)]


def writing_grammar(
    continuation: Continuation,
    tokens: Mapping[SectionName, int],
    forbidden: Iterable[str],
    evidence: str | None = None,
) -> str:
    """The structural tag for what follows `opening_text`, as JSON: one of few strings, each of which the engine compiles once,
    unless the section `evidence` gets a grammar of its own (EBNF). Within it a text may pass its budget in `tokens`, see
    `grammar_budgets`; `split_sections` cuts it. `forbidden` are the control tokens' texts: to the grammar they would be
    ordinary text."""
    from xgrammar import StructuralTag
    from xgrammar.structural_tag import AnyTextFormat, ConstStringFormat, GrammarFormat, SequenceFormat

    never = [*tags_of(continuation), *sorted(forbidden)]
    allowed = grammar_budgets(continuation, tokens)
    elements: list[Any] = []
    for section, literal in zip(continuation.sections, _literals(continuation), strict=True):
        excludes = [*never, *(["\n"] if section.one_line else [])]
        if section.name == "evidence" and evidence is not None:
            elements.append(GrammarFormat(grammar=evidence))
        else:
            elements.append(AnyTextFormat(excludes=excludes, max_tokens=allowed[section.name]))
        elements.append(ConstStringFormat(value=literal))
    return StructuralTag(format=SequenceFormat(elements=elements)).model_dump_json()


def _literals(continuation: Continuation) -> list[str]:
    """What stands behind each section's text: its closing tag, and whatever opens the next."""
    following = [continuation.between + section.open for section in continuation.sections[1:]]
    return [section.close + more for section, more in zip(continuation.sections, [*following, ""], strict=True)]


class SectionReader:
    """Follows an answer while it is written and gives out each section's text within its budget, without tags, as it grows."""

    def __init__(self, continuation: Continuation, tokens: Mapping[SectionName, int], decode: Decode) -> None:
        self._continuation, self._budgets, self._decode = continuation, tokens, decode
        self._text = opening_text(continuation)
        self._ids: list[int] = []
        self._began: dict[SectionName, int] = {}
        self._given: dict[SectionName, int] = {}
        self._ended: set[SectionName] = set()

    def feed(self, text: str, ids: Sequence[int]) -> list[tuple[SectionName, str]]:
        self._text += text
        self._ids += ids
        news = []
        texts = parse(self._continuation, self._text).texts
        for name in [name for name in texts if name not in self._ended]:
            self._began.setdefault(name, len(self._ids) - len(ids))
            whole = self._within_budget(name, texts[name])
            if name != list(texts)[-1]:
                self._ended.add(name)
            if len(whole) > (given := self._given.get(name, 0)):
                news.append((name, whole[given:]))
                self._given[name] = len(whole)
        return news

    def _within_budget(self, name: SectionName, text: str) -> str:
        if len(self._ids) - self._began[name] < self._budgets[name]:
            return text
        sections = split_sections(self._continuation, self._budgets, self._ids, self._decode)
        cut = next((section for section in sections if section.name == name and not section.ended), None)
        if cut is None or len(cut.tokens) < self._budgets[name]:
            return text
        self._ended.add(name)
        return cut.text


def finish_reason(
    continuation: Continuation,
    tokens: Mapping[SectionName, int],
    written: Sequence[int],
    decode: Decode,
) -> Finish:
    """Whether a finished answer ended of itself, ran into a section's budget, or went round in circles until it did."""
    return finish_of(split_sections(continuation, tokens, written, decode))


def finish_of(sections: Iterable[WrittenSection]) -> Finish:
    cut = [section for section in sections if not section.ended]
    if any(_loops(section.tokens) for section in cut):
        return "repetition"
    return "budget" if cut else "complete"


@dataclass(frozen=True, slots=True)
class WrittenSection:
    """A section's text without its tags, within its budget, and every token that holds some of it: the outer two may hold some
    of a tag, too. `ended`: of itself."""

    name: SectionName
    text: str
    tokens: Sequence[int]
    ended: bool


def split_sections(
    continuation: Continuation, budgets: Mapping[SectionName, int], written: Sequence[int], decode: Decode
) -> list[WrittenSection]:
    """The sections of what was written after `opening_text`. What follows one that was never closed does not exist."""

    def decode_whole(ids: Sequence[int]) -> str:
        return decode(ids).rstrip(_INCOMPLETE)

    text, start = decode_whole(written), 0
    sections = []
    for section, literal in zip(continuation.sections, _literals(continuation), strict=True):
        end = text.find(section.close, start)
        closed = end >= 0
        if not closed:
            end = start + len(_without_partial(text[start:], section.close))
        first, last = _tokens_before(written, start + 1, decode) - 1, _tokens_before(written, end, decode_whole)
        tokens, budget = written[first:last] if end > start else (), budgets[section.name]
        section_text = text[start:end]
        if full := len(tokens) >= budget:
            section_text = decode_whole(written[: first + budget])[start:end]
        sections.append(WrittenSection(section.name, section_text, tokens[:budget], closed and not full))
        if not closed:
            break
        start = end + len(literal)
    return sections


def _tokens_before(written: Sequence[int], characters: int, decode: Decode) -> int:
    """How many tokens it takes to write so many characters."""
    low, high = 0, len(written)
    while low < high:
        middle = (low + high) // 2
        if len(decode(written[:middle])) < characters:
            low = middle + 1
        else:
            high = middle
    return low


def _loops(tokens: Sequence[int]) -> bool:
    """Whether a text that was cut had come to say nothing new. Its last token may be unlike the others where it also holds the
    beginning of the closing tag."""
    return _ends_in_circles(tokens) or _ends_in_circles(tokens[:-1])


def _ends_in_circles(tokens: Sequence[int]) -> bool:
    """Wherever in its pattern the text was cut, a loop's end repeats what stands one pattern before it. A pattern that stands
    there twice is a loop if that fills much of the text, and a shorter passage if it goes round more often."""
    size = len(tokens)
    for pattern in range(1, size // 2 + 1):
        pairs = zip(reversed(tokens), reversed(tokens[:-pattern]), strict=False)
        repeated = next((count for count, (one, other) in enumerate(pairs) if one != other), size - pattern)
        if repeated >= max(pattern, size * _LOOP_SHARE):
            return True
        if repeated >= max(_LOOP_ROUNDS * pattern, _LOOP_TOKENS):
            return True
    return False
