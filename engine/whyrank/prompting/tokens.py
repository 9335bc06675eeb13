"""PromptFormat + query + documents → token ids. The only place where text becomes ids.

Three promises, each with its mechanism here:

- *The model card's own ids.* A run has the ids that the checkpoint's own tokenizer gives it as one string. It is tokenised in
  parts where that makes no difference (`splitting.py`), and parts that several prompts share only once (`_encode_all`).
- *User text is never control.* The control tokens of a part must be the frame's own, each in its own place. If text of a
  query, document or instruction forms one, alone or together with the adjacent frame, the run is encoded again in pieces,
  by a tokenizer that does not know control tokens (`_encode_escaped`).
- *The frame is never truncated.* The ids of query and document are known by position; only they are cut (`fitting.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from whyrank.errors import CheckpointError, InvalidRequest
from whyrank.prompting.encoded import Encoded, Ids, Offsets, joined, located, placed
from whyrank.prompting.fitting import LEAST_ROOM, Bounds, EncodedDocument, Prompt, fit
from whyrank.prompting.rendering import Run, Span, instruction_text, render
from whyrank.prompting.splitting import EDGES, RunSplitter
from whyrank.types import Document, DocumentError, TruncationPolicy

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from whyrank.prompting.formats import PromptFormat

__all__ = ["Bounds", "EncodedDocument", "Ids", "LabelIds", "Prompt", "PromptEncoder", "common_prefix"]

Control = tuple[int, int, int]
"""A control token, and the start and end of its characters in the text."""

_UNBOUND = Bounds()
# Characters of texts that are encoded at once: two milliseconds, in which other threads wait for the interpreter.
_SHORT = 8192


@dataclass(frozen=True, slots=True)
class LabelIds:
    positive: int
    negative: int | None
    between: tuple[int, ...] = ()

    @property
    def ids(self) -> list[int]:
        """From the most to the least relevant."""
        return [self.positive] if self.negative is None else [self.positive, *self.between, self.negative]


class PromptEncoder:
    """Turns (query, document) into ids for one format and one tokenizer. Safe to share between threads."""

    def __init__(
        self,
        fmt: PromptFormat,
        tokenizer: Tokenizer,
        max_length: int,
        reserved_tokens: int = 0,
        refuses_media: bool = False,
    ) -> None:
        """`reserved_tokens`: tokens beyond max_length that are reserved for the answer. `refuses_media`: documents with images
        or videos are errors, because the model could read those; to another model they are metadata like any other."""
        self.format = fmt
        self.max_length = max_length
        self._reserved_tokens = reserved_tokens
        self._refuses_media = refuses_media
        self._tokenizer, self._tokenizer_without_control, self._control = _two_tokenizers(tokenizer, fmt)
        self._encode_trusted = lru_cache(1024)(self._encode_and_locate)
        self._is_locating = lru_cache(64)(self._find_whether_locating)
        self.splitter = RunSplitter(self._tokenizer, self._edges_of_controls)
        self.shared_prefix = lru_cache(64)(self._find_shared_prefix)
        self.labels = self._label_ids()
        if fmt.runs:
            self._require_room(instruction_text(fmt, None), f"max_length {max_length} is too short", CheckpointError)

    def with_labels(self, fmt: PromptFormat) -> Self:
        """For a format that differs from this one's in its labels, or in what follows them."""
        encoder = copy(self)
        encoder.format = fmt
        encoder.labels = encoder._label_ids()
        return encoder

    def encode(
        self,
        query: str,
        documents: Sequence[Document],
        instruction: str | None,
        policy: TruncationPolicy,
        bounds: Bounds = _UNBOUND,
    ) -> list[EncodedDocument | DocumentError]:
        """One result per document, in order. Raises InvalidRequest if the query or the instruction is at fault."""
        if not self.format.runs:
            raise InvalidRequest(
                f"prompt '{self.format.name}' orders lists of documents and scores none by itself: give method 'listwise'"
            )
        instruction_used = instruction_text(self.format, instruction)
        if instruction is not None:
            self._require_room(instruction_used, "instruction is too long", InvalidRequest)
        rendered = [self._render(query, document, instruction_used) for document in documents]
        runs_of_all = [runs for runs in rendered if not isinstance(runs, DocumentError)]
        limits = [limit for limit in (self.max_length, bounds.document, bounds.prompt) if limit is not None]
        encoded = self._encode_all(runs_of_all, min(limits))
        return [
            runs
            if isinstance(runs, DocumentError)
            else fit(next(encoded), self.format, self.max_length, policy, bounds)
            for runs in rendered
        ]

    def encode_runs(self, rendered: Sequence[Run]) -> Ids:
        """A prompt of several documents. They differ too much from each other for parts of them to be encoded only once."""
        encoded = self._encode_parts(dict.fromkeys(rendered), room=0)
        return tuple(i for run in rendered for row in self._checked(run, [encoded[run]]) for i in row.ids)

    def encode_texts(self, texts: Sequence[str]) -> list[Any]:
        """User texts, each by itself, with offsets: for their lengths, and for places where they may be cut."""
        return self._tokenize(texts, offsets=True)

    def length_beside(self, answer: int) -> int:
        """Tokens of the longest prompt whose answer takes this many."""
        return min(self.max_length, self.max_length + self._reserved_tokens - answer)

    def _render(self, query: str, document: Document, instruction: str) -> list[Run] | DocumentError:
        if self._refuses_media and (key := document.media_key):
            return DocumentError(
                "media",
                f"the document has {key!r}, and whyrank reads texts only, of this model, too: leave it out, or give what is "
                "to be read of it in 'text'",
            )
        return render(self.format, query, document, instruction)

    def _find_shared_prefix(self, instruction: str | None) -> Ids:
        """The ids that every prompt with this instruction begins with, whatever the query."""
        rows = [self.encode(probe, [Document(probe)], instruction, "tail")[0] for probe in ("a", "0")]
        return common_prefix([row.prompts[0].ids for row in rows if isinstance(row, EncodedDocument)])

    def whole_string_ids(self, query: str, document: Document) -> Ids | DocumentError:
        """What the checkpoint's tokenizer makes of the same prompt as one text, even if user text forms control tokens; for
        comparison."""
        runs = render(self.format, query, document, instruction_text(self.format, None))
        if isinstance(runs, DocumentError):
            return runs
        return tuple(i for run in runs for i in self.encode_frame("".join(span.text for span in run)))

    def control_tokens(self, ids: Ids) -> list[int]:
        return [i for i in ids if i in self._control]

    def encode_frame(self, text: str) -> Ids:
        """Ids of a text from the prompt file."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Generated tokens as text, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def control_texts(self) -> list[str]:
        """The text of every control token."""
        return sorted(self.token_text(i) for i in self._control)

    def token_text(self, token: int) -> str:
        """A token as the vocabulary spells it."""
        return str(self._tokenizer.id_to_token(token))

    # Encoding.

    def _encode_all(self, rendered: list[list[Run]], room: int) -> Iterator[Encoded]:
        """One row per document. A part of a run that several documents share is encoded once.

        `room`: documents with more characters may have to be cut; shorter ones hardly ever."""
        parts = {run: self.splitter.split(run) for runs in rendered for run in runs}
        encoded = self._encode_parts({part: None for each in parts.values() for part in each}, room)
        rows = {run: self._checked(run, [encoded[part] for part in each]) for run, each in parts.items()}
        return (joined([row for run in runs for row in rows[run]]) for runs in rendered)

    def _encode_parts(self, parts: Iterable[Run], room: int) -> dict[Run, Encoded]:
        encoded: dict[Run, Encoded] = {}
        short, others = list[Run](), list[Run]()
        for part in parts:
            if len(part) == 1 and part[0].trusted:
                encoded[part] = Encoded(self._encode_trusted(part[0].text)[0])
            elif part[-1].owner == "document" and len(part[-1].text) <= room and self._is_locating(part[:-1]):
                short.append(part)
            else:
                others.append(part)
        # A quarter faster than with offsets.
        for part, encoding in zip(short, self._tokenize(_texts(short), offsets=False), strict=True):
            ids = encoding.ids
            if self._control.isdisjoint(ids):
                encoded[part] = self._located_by_frame(part, ids)
            else:
                others.append(part)
        encodings = self._tokenize(_texts(others), offsets=True)
        return encoded | {part: self._encode_part(part, e) for part, e in zip(others, encodings, strict=True)}

    def _tokenize(self, texts: Sequence[str], offsets: bool) -> list[Any]:
        """Short texts in this thread: the tokenizer's own may be busy with another caller's megabytes."""
        if sum(map(len, texts)) <= _SHORT:
            return [self._tokenizer.encode(text, add_special_tokens=False) for text in texts]
        encode = self._tokenizer.encode_batch if offsets else self._tokenizer.encode_batch_fast
        return list(encode(list(texts), add_special_tokens=False))

    def _encode_part(self, part: Run, encoding: Any) -> Encoded:
        ids = encoding.ids
        controls = self._controls(ids, encoding)
        if controls == self._frame_controls(part):
            return located(part, ids, Offsets(lambda: encoding))
        return Encoded([], neutralised=_any_inside_user_text(controls, part), is_hostile=True)

    def _located_by_frame(self, part: Run, ids: list[int]) -> Encoded:
        """`located` without offsets, for a document after a frame of at most one token: the first token is either the frame's,
        or has characters of both."""
        frame, (text,) = part[:-1], _texts([part])
        shared = sum(ids[:1] != self._encode_trusted(span.text)[0] for span in frame)
        origin = sum(len(span.text) for span in frame)
        offsets = Offsets(lambda: self._tokenizer.encode(text, add_special_tokens=False))
        return Encoded(ids, range(0), range(len(frame), len(ids)), offsets, len(frame), origin, shared)

    def _find_whether_locating(self, frame: Run) -> bool:
        """Whether `_located_by_frame` is correct after this frame: tested on documents with all beginnings that are known to
        matter."""
        if len(frame) > 1 or any(not span.trusted or self._encode_trusted(span.text)[1] for span in frame):
            return False
        texts = [edge + more for edge in EDGES for more in ("", "Water")]
        parts = [(*frame, Span(text, "document", trusted=False)) for text in texts]
        encodings = self._tokenizer.encode_batch(_texts(parts), add_special_tokens=False)
        return all(
            self._located_by_frame(part, e.ids).places == located(part, e.ids, e.offsets).places
            for part, e in zip(parts, encodings, strict=True)
        )

    def _checked(self, run: Run, parts: list[Encoded]) -> list[Encoded]:
        """The run's parts, or one escaped encoding of the whole run if any part is hostile."""
        if not any(part.is_hostile for part in parts):
            return parts
        return [self._encode_escaped(run, self._frame_controls(run), any(part.neutralised for part in parts))]

    def _frame_controls(self, run: Run) -> list[Control]:
        """The control tokens that the run should have: those of its trusted text."""
        return [
            (token, at + start, at + end)
            for span, at in placed(run)
            if span.trusted
            for token, start, end in self._encode_trusted(span.text)[1]
        ]

    def _encode_and_locate(self, text: str) -> tuple[list[int], list[Control]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, self._controls(encoding.ids, encoding)

    def _edges_of_controls(self, text: str) -> list[tuple[int, int]]:
        return [(start, end) for _, start, end in self._encode_trusted(text)[1]]

    def _controls(self, ids: list[int], encoding: Any) -> list[Control]:
        if self._control.isdisjoint(ids):
            return []
        return [(token, *encoding.token_to_chars(at)) for at, token in enumerate(ids) if token in self._control]

    def _encode_escaped(self, run: Run, frame: Sequence[Control], neutralised: bool) -> Encoded:
        """Keeps the frame's control tokens; all text between them goes through the tokenizer without control tokens."""
        text = "".join(span.text for span in run)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        done = 0
        for token, start, end in frame:
            self._encode_plain(text, done, start, ids, offsets)
            ids.append(token)
            offsets.append((start, end))
            done = end
        self._encode_plain(text, done, len(text), ids, offsets)
        return located(run, ids, offsets, neutralised)

    def _encode_plain(self, text: str, start: int, end: int, ids: list[int], offsets: list[tuple[int, int]]) -> None:
        """Append text[start:end]. Some vocabularies have a control token as one piece even so: it is broken up."""
        encoding = self._tokenizer_without_control.encode(text[start:end], add_special_tokens=False)
        for token, (low, high) in zip(encoding.ids, encoding.offsets, strict=True):
            if token not in self._control:
                ids.append(token)
                offsets.append((start + low, start + high))
            elif high - low > 1:
                self._encode_plain(text, start + low, start + low + 1, ids, offsets)
                self._encode_plain(text, start + low + 1, start + high, ids, offsets)
            # A control token of a single character cannot be broken up: that character is dropped.

    # Checks at start.

    def _require_room(self, instruction: str, why: str, error: type[Exception]) -> None:
        frame = render(self.format, "", Document(""), instruction)
        assert not isinstance(frame, DocumentError)  # an empty document has no features that could be wrong
        size = len(next(self._encode_all([frame], room=0)).ids)
        if size + LEAST_ROOM > self.max_length:
            needed, reserved = size + LEAST_ROOM, self._reserved_tokens
            answer = f"; with the {reserved} tokens that are kept for the answer {needed + reserved}" * (reserved > 1)
            raise error(
                f"{why}: the frame of prompt '{self.format.name}' takes {size} tokens without query and document; "
                f"a max_length of at least {needed} is needed, not {self.max_length}{answer}"
            )

    def _label_ids(self) -> LabelIds | None:
        labels = self.format.labels
        if labels is None:
            return None
        negative = None if labels.negative is None else self._label_id("negative", labels.negative)
        between = tuple(self._label_id("between", label) for label in labels.between)
        return LabelIds(self._label_id("positive", labels.positive), negative, between)

    def _label_id(self, which: str, label: str | int) -> int:
        if isinstance(label, int):
            if not 0 <= label < self._tokenizer.get_vocab_size():
                raise CheckpointError(f"labels.{which} = {label}: this tokenizer has no such id; check the prompt file")
            return label
        ids = self._tokenizer.encode(label, add_special_tokens=False).ids
        if len(ids) != 1:
            pieces = [self._tokenizer.id_to_token(i) for i in ids]
            raise CheckpointError(
                f"labels.{which} = {label!r} is not a single token of this tokenizer but {pieces}: "
                f"prompt '{self.format.name}' does not fit this checkpoint"
            )
        return int(ids[0])


def common_prefix(rows: Sequence[Ids]) -> Ids:
    """The ids that all rows begin with; () for no rows."""
    # In lexical order, the prefix shared by the first and the last row is shared by all between them.
    low, high = min(rows, default=()), max(rows, default=())
    return low[: next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))]


def _two_tokenizers(tokenizer: Tokenizer, fmt: PromptFormat) -> tuple[Tokenizer, Tokenizer, frozenset[int]]:
    """The checkpoint's own tokenizer, its twin without control tokens, and the ids of those.

    Control tokens are those marked special, those added to the trained vocabulary (Qwen's <think>), and those that the frame
    uses as marks. Added tokens that the vocabulary had from the start (Gemma's HTML tags) are text, and so are blanks, tabs
    and newlines even if the frame uses them: a newline in a document must stay a newline.
    """
    from tokenizers import Tokenizer

    table = json.loads(tokenizer.to_str())
    # All ids come from us: no BOS from a post-processor, no truncation or padding left over from another user of the object.
    table.update(post_processor=None, truncation=None, padding=None)
    card = Tokenizer.from_str(json.dumps(table))
    model = table["model"]
    trained = set(model["vocab"] if isinstance(model["vocab"], dict) else (piece for piece, _ in model["vocab"]))
    # The unknown token stands for characters, not for control; depending on the model type, it is named by text or by id.
    unknown = model.get("unk_id", card.token_to_id(model.get("unk_token") or ""))
    frame = {i for text in fmt.frame_texts for i in card.encode(text, add_special_tokens=False).ids}
    control = frozenset(
        token["id"]
        for token in table["added_tokens"]
        if token["id"] != unknown
        and (
            token["special"]
            or token["content"] not in trained
            or (token["id"] in frame and not token["content"].isspace())
        )
    )
    table["added_tokens"] = [token for token in table["added_tokens"] if token["id"] not in control]
    return card, Tokenizer.from_str(json.dumps(table)), control


def _texts(parts: Iterable[Run]) -> list[str]:
    return ["".join(span.text for span in part) for part in parts]


def _any_inside_user_text(controls: Sequence[Control], run: Run) -> bool:
    user_text = [(at, at + len(span.text)) for span, at in placed(run) if not span.trusted]
    return any(start <= low and high <= end for _, low, high in controls for start, end in user_text)
