"""The generated part of an answer: its grammar, budgets and parser, all derived from one description in the prompt file.

A continuation is `opening`, then sections `open text close`, joined by `between`. The prompt already ends with the opening
and the first section's `open`, so the engine generates from there; the grammar allows nothing but this format.
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

# A loop: this share of a text, or this many tokens in this many rounds, only repeats what came just before. Less repetition
# may be a row of a table, or a song.
_LOOP_SHARE = 0.25
_LOOP_ROUNDS, _LOOP_TOKENS = 3, 32


# The engine compiles and keeps a grammar for every string it has not seen before. So grammars use only the prompt file's
# budgets, halved up to this many times, and text beyond the caller's own budget is cut here.
_HALVINGS = 7
# What an incomplete character decodes to, while some of its tokens are missing.
_INCOMPLETE = "\ufffd"

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Parsed:
    """The sections found, in order. `complete`: all of them are there and closed."""

    texts: Mapping[SectionName, str]
    complete: bool


def opening_text(continuation: Continuation) -> str:
    """The prefilled text; the engine generates what follows."""
    return continuation.opening + continuation.sections[0].open


def render(continuation: Continuation, texts: Mapping[SectionName, str]) -> str:
    """The whole answer as the model was trained to write it; `parse` returns the texts."""
    return continuation.opening + continuation.between.join(
        section.open + texts[section.name] + section.close for section in continuation.sections
    )


def parse(continuation: Continuation, text: str) -> Parsed:
    """Read an answer, constrained or free, whole or cut off. White space around tags is accepted, as in the authors' parser.

    For a cut-off answer, the last section is what there is of it. An answer without tags ("no") has no texts.
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
    """Drop the beginning of a tag at the end of a text that is still being generated."""
    cut = next((n for n in range(min(len(tag), len(text)), 0, -1) if tag.startswith(text[-n:])), 0)
    return text[: len(text) - cut]


def max_new_tokens(tokens: Mapping[SectionName, int]) -> int:
    """The maximum length of an answer within these budgets, including tags and the end token."""
    return sum(tokens.values()) + 64


def budgets(fmt: PromptFormat, requested: Mapping[SectionName, int | None]) -> dict[SectionName, int]:
    """Tokens per section: the requested number, else the file's default, which is also the maximum."""
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
    """The budgets used in the grammar for a caller's budgets: equal or somewhat larger."""
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
    """The structural tag for what follows `opening_text`, as JSON. It is one of few strings, because the engine compiles each
    once, unless the section `evidence` gets its own grammar (EBNF). In it a text may exceed its budget in `tokens`, see
    `grammar_budgets`; `split_sections` cuts it. `forbidden` are the control tokens' texts, which the grammar would otherwise
    allow as ordinary text."""
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
    """What follows each section's text: its closing tag, and whatever opens the next section."""
    following = [continuation.between + section.open for section in continuation.sections[1:]]
    return [section.close + more for section, more in zip(continuation.sections, [*following, ""], strict=True)]


class SectionReader:
    """Follows an answer while it is generated, and yields new text of each section, within its budget and without tags."""

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
    """Whether a finished answer ended by itself, exceeded a section's budget, or repeated itself until it did."""
    return finish_of(split_sections(continuation, tokens, written, decode))


def finish_of(sections: Iterable[WrittenSection]) -> Finish:
    cut = [section for section in sections if not section.ended]
    if any(_loops(section.tokens) for section in cut):
        return "repetition"
    return "budget" if cut else "complete"


@dataclass(frozen=True, slots=True)
class WrittenSection:
    """A section's text without tags, within its budget, and all tokens that contain some of it; the first and last may also
    contain part of a tag. `ended`: by itself."""

    name: SectionName
    text: str
    tokens: Sequence[int]
    ended: bool


def split_sections(
    continuation: Continuation, budgets: Mapping[SectionName, int], written: Sequence[int], decode: Decode
) -> list[WrittenSection]:
    """The sections of the text generated after `opening_text`. After a section that was never closed, there are none."""

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
    """How many tokens it takes to produce this many characters."""
    low, high = 0, len(written)
    while low < high:
        middle = (low + high) // 2
        if len(decode(written[:middle])) < characters:
            low = middle + 1
        else:
            high = middle
    return low


def _loops(tokens: Sequence[int]) -> bool:
    """Whether a text that was cut had become repetitive. Its last token may differ from the pattern if it also contains the
    beginning of the closing tag."""
    return _ends_in_circles(tokens) or _ends_in_circles(tokens[:-1])


def _ends_in_circles(tokens: Sequence[int]) -> bool:
    """Wherever in the pattern the text was cut, the end of a loop equals what stands one pattern earlier. A pattern that occurs
    twice is a loop if it fills much of the text; a shorter one must repeat more often."""
    size = len(tokens)
    for pattern in range(1, size // 2 + 1):
        pairs = zip(reversed(tokens), reversed(tokens[:-pattern]), strict=False)
        repeated = next((count for count, (one, other) in enumerate(pairs) if one != other), size - pattern)
        if repeated >= max(pattern, size * _LOOP_SHARE):
            return True
        if repeated >= max(_LOOP_ROUNDS * pattern, _LOOP_TOKENS):
            return True
    return False
