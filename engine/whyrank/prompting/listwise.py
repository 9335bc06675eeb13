"""Prompts of several passages, which the model orders: their ids, and those of the answer.

Texts are prepared as the public recipes do it: an identifier in brackets, which could pass for a passage's own, becomes one in
parentheses. Beyond that, the promises of tokens.py hold: text never becomes control, and only texts are cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from whyrank.errors import CheckpointError, InvalidRequest
from whyrank.prompting.rendering import Run, Span, instruction_text, merged, well_formed
from whyrank.prompting.tokens import Bounds, Ids, PromptEncoder
from whyrank.types import Document, Truncation

if TYPE_CHECKING:
    from whyrank.prompting.formats import Listwise, Piece, PromptFormat

__all__ = [
    "ListPrompts",
    "OrderTokens",
    "WrittenOrder",
    "answer_bound",
    "identifier_ids",
    "listwise_of",
    "order_tokens",
    "prepared",
]

# Fewer tokens of a passage are not worth reading.
_MIN_PASSAGE = 8
# Of the room for texts, a query that may be cut gets at most this share.
_QUERY_SHARE = 0.5

_LOOKALIKES = {
    "letters": re.compile(r"\[(\s*[A-Za-z]+\s*)\]"),
    "numbers": re.compile(r"\[(\s*\d+\s*)\]"),
}


def prepared(listwise: Listwise, text: str) -> str:
    """A user's text as the prompt has it."""
    text = well_formed(text)
    if listwise.one_line:
        text = " ".join(text.split())
    return _LOOKALIKES[listwise.identifiers].sub(r"(\1)", text)


def _first_words(text: str, count: int | None) -> str:
    if count is None:
        return text
    words = re.match(rf"(?:\s*\S+){{0,{count}}}", text)
    return words[0] if words and text[words.end() :].strip() else text


class ListPrompts:
    """The prompts of one call, each for some of its documents."""

    def __init__(
        self,
        encoder: PromptEncoder,
        query: str,
        documents: Sequence[Document],
        instruction: str | None,
        bounds: Bounds,
        window: int,
    ) -> None:
        """`window`: documents of a prompt, at most. Raises InvalidRequest if the query or the instruction is at fault."""
        self._encoder, self._format = encoder, encoder.format
        self._listwise = listwise_of(encoder.format)
        self._instruction = instruction_text(encoder.format, instruction)
        room = encoder.length_beside(answer_bound(self._listwise, window))
        self._length = min(room, bounds.prompt or room)
        whole = [prepared(self._listwise, self._titled(document)) for document in documents]
        self._texts = [_first_words(text, self._listwise.max_words) for text in whole]
        self._encodings, self._bound = encoder.encode_texts(self._texts), bounds.document
        self._whole = dict(enumerate(self._encodings))
        cut = [place for place, text in enumerate(whole) if text != self._texts[place]]
        self._whole |= zip(cut, encoder.encode_texts([whole[place] for place in cut]), strict=True)
        self._used = [self._wanted(place) for place in range(len(documents))]
        self._query, self._query_cut = prepared(self._listwise, query), 0
        self._cut_query(bounds, window)

    def _titled(self, document: Document) -> str:
        if not document.title:
            return document.text
        return self._listwise.title.replace("{title}", document.title) + document.text

    def _wanted(self, place: int) -> int:
        """Tokens of a document, if there is room."""
        return min(len(self._encodings[place]), self._bound or len(self._encodings[place]))

    def _cut_query(self, bounds: Bounds, window: int) -> None:
        (encoding,) = self._encoder.encode_texts([self._query])
        times = sum(piece.field == "query" for piece in self._listwise.pieces)
        frame = len(self._encode([""] * window, query=""))
        room = self._length - frame - window * _MIN_PASSAGE
        if room < times:
            raise InvalidRequest(
                f"listwise: the frame of prompt '{self._format.name}' takes {frame} tokens for {window} documents, of "
                f"{self._length}: give a smaller listwise_window, or a larger max_prompt_tokens if you gave one"
            )
        kept = min(len(encoding), bounds.query or len(encoding))
        if kept * times > room:
            if not bounds.cut_query:
                raise InvalidRequest(
                    f"query has {len(encoding)} tokens, too many beside {window} documents: shorten it, give a smaller "
                    "listwise_window, or set truncate_query to cut off its end"
                )
            kept = max(1, int(room * _QUERY_SHARE) // times)
        if kept < len(encoding):
            self._query_cut = len(encoding) - kept
            self._query = self._query[: encoding.offsets[kept - 1][1]]

    def encode(self, places: Sequence[int]) -> Ids:
        """The prompt for the documents with these numbers, in this order. If they are too long, the longest are cut."""
        empty = len(self._encode([""] * len(places), self._query))
        wanted = [self._wanted(place) for place in places]
        room = self._length - empty
        while True:
            bound = _fair_bound(wanted, room)
            ids = self._encode([self._cut(place, bound) for place in places], self._query)
            if len(ids) <= self._length or bound <= 1:
                break
            room -= max(1, len(ids) - self._length)  # where texts meet the frame they may take other tokens
        for place in places:
            self._used[place] = min(self._used[place], bound)
        return ids

    def _cut(self, place: int, bound: int) -> str:
        bound = min(bound, self._wanted(place))
        if bound >= len(self._encodings[place]):
            return self._texts[place]
        return self._texts[place][: self._encodings[place].offsets[bound - 1][1]] if bound else ""

    def shared_prefix(self) -> Ids:
        """What all prompts with this instruction begin with, whatever the query."""
        values = {"instruction": self._instruction}
        text = ""
        for piece in self._listwise.head:
            if piece.field in ("query", "count"):
                break
            text += _value(piece, values)
        start = self._encoder.encode_frame(self._listwise.start) if self._listwise.start else ()
        return start + self._encoder.encode_frame(text)[:-1]

    def truncation(self, place: int) -> Truncation:
        return Truncation(len(self._whole[place]), self._used[place], "tail", self._query_cut)

    def is_neutralised(self, place: int) -> bool:
        """Whether the query or the document contains what the model would read as control tokens."""
        return self._query_is_neutralised or bool(self._encoder.control_tokens(self._whole[place].ids))

    @cached_property
    def _query_is_neutralised(self) -> bool:
        (encoding,) = self._encoder.encode_texts([self._query])
        return bool(self._encoder.control_tokens(encoding.ids))

    def _encode(self, texts: Sequence[str], query: str) -> Ids:
        return self._encoder.encode_runs(self.render(texts, query))

    def whole_string_ids(self, places: Sequence[int]) -> Ids:
        """What the checkpoint's tokenizer makes of the uncut prompt as text, even if user text forms control tokens; for
        comparison."""
        runs = self.render([self._texts[place] for place in places], self._query)
        return tuple(i for run in runs for i in self._encoder.encode_frame("".join(span.text for span in run)))

    def render(self, texts: Sequence[str], query: str) -> list[Run]:
        """The runs of the prompt for these texts, which are prepared already."""
        listwise = self._listwise
        spans: list[Span] = []
        around = {"query": query, "instruction": self._instruction, "count": str(len(texts))}
        spans += self._spans(listwise.head, around)
        for identifier, text in zip(listwise.all_identifiers, texts, strict=False):
            spans += self._spans(listwise.passage, {"identifier": identifier, "document": text})
        spans += self._spans(listwise.tail, around)
        if listwise.readout == "first":
            spans.append(Span(listwise.open, "frame", trusted=True))
        start = [merged([Span(listwise.start, "frame", trusted=True)])] if listwise.start else []
        return [*start, merged(spans)]

    def _spans(self, pieces: Sequence[Piece], values: Mapping[str, str]) -> list[Span]:
        shown = [piece for piece in pieces if piece.when is None or values[piece.when]]
        return [Span(_value(piece, values), "frame", self._is_trusted(piece)) for piece in shown]

    def _is_trusted(self, piece: Piece) -> bool:
        if piece.field == "instruction":
            known = self._format.instruction
            return known is not None and self._instruction == known.default
        return piece.field not in ("query", "document")


def _value(piece: Piece, values: Mapping[str, str]) -> str:
    return piece.text if piece.field is None else values[piece.field]


def listwise_of(fmt: PromptFormat) -> Listwise:
    if fmt.listwise is None:
        raise InvalidRequest(
            f"method 'listwise': prompt '{fmt.name}' has none for lists of documents: use method 'pointwise', or a model "
            "that orders lists (`whyrank formats`), or any chat model with --prompt chat"
        )
    return fmt.listwise


def _fair_bound(lengths: Sequence[int], room: int) -> int:
    """The largest bound on all lengths with which their sum fits: short ones leave their room to the others."""
    left = max(0, room)
    for place, length in enumerate(ordered := sorted(lengths)):
        share = left // (len(ordered) - place)
        if length > share:
            return share
        left -= length
    return max(lengths, default=0)


# The answer.


def identifier_ids(encoder: PromptEncoder) -> tuple[int, ...]:
    """For readout "first": the tokens of the identifiers of a window, as they follow the end of the prompt."""
    listwise = listwise_of(encoder.format)
    before = listwise.tail[-1].text + listwise.open
    prefix, ids = encoder.encode_frame(before), list[int]()
    for identifier in listwise.all_identifiers:
        whole = encoder.encode_frame(before + identifier)
        if whole[:-1] != prefix:
            raise CheckpointError(
                f"listwise: {identifier!r} is not a single token of this tokenizer behind {before[-12:]!r}: prompt "
                f"'{encoder.format.name}' does not fit this checkpoint"
            )
        ids.append(whole[-1])
    return tuple(ids)


def answer_bound(listwise: Listwise, window: int) -> int:
    """Tokens of the longest answer: no token is shorter than a byte."""
    if listwise.readout == "first":
        return 1
    identifier = max(listwise.all_identifiers, key=len)
    return window * len(f"{listwise.between}{listwise.open}{identifier}{listwise.close}".encode()) + 1


@dataclass(frozen=True, slots=True)
class OrderTokens:
    """How a written order is spelled. `first`: the tokens of each passage's identifier, in its brackets, where it begins the
    order; `further`: behind another one, with what separates them. `choices`: the tokens at which identifiers differ."""

    first: Sequence[Ids]
    further: Sequence[Ids]
    choices: tuple[int, ...]


@lru_cache(maxsize=4)
def order_tokens(encoder: PromptEncoder) -> OrderTokens:
    """For readout "permutation": the tokens that the tokenizer itself has for such texts behind the prompt."""
    listwise = listwise_of(encoder.format)
    names = [listwise.open + identifier + listwise.close for identifier in listwise.all_identifiers]
    prompt = listwise.tail[-1].text
    first = _continuations(encoder, prompt, names)
    further = _continuations(encoder, prompt + names[0], [listwise.between + name for name in names])
    for spellings in (first, further):
        if any(longer[: len(ids)] == ids for ids, longer in pairwise(sorted(spellings))):
            raise CheckpointError(
                f"listwise: this tokenizer has the same tokens for several {listwise.identifiers}: prompt "
                f"'{encoder.format.name}' does not fit this checkpoint"
            )
    return OrderTokens(first, further, tuple(sorted(_choices(first) | _choices(further))))


def _continuations(encoder: PromptEncoder, before: str, texts: Iterable[str]) -> list[Ids]:
    """The tokens of each text behind another one. A text that would share a token with it is tokenised by itself."""
    prefix, found = encoder.encode_frame(before), list[Ids]()
    for text in texts:
        whole = encoder.encode_frame(before + text)
        is_apart = whole[: len(prefix)] == prefix
        found.append(whole[len(prefix) :] if is_apart else encoder.encode_frame(text))
    return found


def _choices(spellings: Iterable[Ids]) -> set[int]:
    following: dict[Ids, set[int]] = {}
    for ids in spellings:
        for at, token in enumerate(ids):
            following.setdefault(ids[:at], set()).add(token)
    return {token for tokens in following.values() if len(tokens) > 1 for token in tokens}


class WrittenOrder:
    """The order of a window's passages while it is written: its `ids`, and the `places` of the passages that are in it. Nothing
    can follow but a passage that is not in it yet, so it ends when all are."""

    def __init__(self, tokens: OrderTokens, count: int) -> None:
        self.ids: Ids = ()
        self.places: list[int] = []
        self._tokens = tokens
        # Of each passage that may be the next one: what is still to be written of its identifier.
        self._rest = {place: tokens.first[place] for place in range(count)}
        self._left = list(self._rest)
        self._write_what_is_certain()

    @property
    def options(self) -> list[int]:
        """The tokens that may follow, at least two, or none at the end."""
        return list(dict.fromkeys(ids[0] for ids in self._rest.values()))

    def write(self, token: int) -> None:
        """One of the options, and all that then has no alternative."""
        self._append(token)
        self._write_what_is_certain()

    def _append(self, token: int) -> None:
        self.ids += (token,)
        self._rest = {place: ids[1:] for place, ids in self._rest.items() if ids[0] == token}

    def _write_what_is_certain(self) -> None:
        while self._left:
            if len(self._rest) == 1:
                self._end_identifier()
            elif len(options := self.options) == 1:
                self._append(options[0])
            else:
                return

    def _end_identifier(self) -> None:
        ((place, ids),) = self._rest.items()
        self.ids += ids
        self.places.append(place)
        self._left.remove(place)
        self._rest = {other: self._tokens.further[other] for other in self._left}
