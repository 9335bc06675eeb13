"""What of a query and of a document is read where the prompt is too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from whyrank.errors import InvalidRequest
from whyrank.prompting.encoded import Encoded, Ids
from whyrank.types import DocumentError, Truncation, TruncationPolicy, Window

if TYPE_CHECKING:
    from whyrank.prompting.formats import PromptFormat

__all__ = ["LEAST_ROOM", "Bounds", "EncodedDocument", "Prompt", "fit"]

# Less room than this beside the frame is a misconfiguration.
LEAST_ROOM = 8


@dataclass(frozen=True, slots=True)
class Bounds:
    """Maximum tokens of the document, of the query, and of the whole prompt; maximum windows of a document.

    `cut_query`: cut a query that is too long, too; otherwise it is an error. The bound `query` always cuts."""

    document: int | None = None
    query: int | None = None
    prompt: int | None = None
    windows: int | None = None
    cut_query: bool = True


@dataclass(frozen=True, slots=True)
class Prompt:
    """One engine request: the ids, and which part of the document they contain."""

    ids: Ids
    truncation: Truncation
    read: tuple[tuple[int, int], ...] | None = None
    """The characters of the document that the ids cover, if not all of it."""


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """A document's prompts: one, or one per window. `neutralised`: whether user text contained control tokens."""

    prompts: tuple[Prompt, ...]
    neutralised: bool = False


def fit(
    row: Encoded, fmt: PromptFormat, max_length: int, policy: TruncationPolicy, bounds: Bounds
) -> EncodedDocument | DocumentError:
    """Raises InvalidRequest if the query does not fit, or if there is no room beside the frame."""
    query, document = len(row.query), len(row.document)
    wanted = document if bounds.document is None else min(document, max(1, bounds.document - row.shared))
    wanted_query = query if bounds.query is None else min(query, bounds.query)
    room = _room(fmt, len(row.ids) - query - document, max_length, bounds.prompt)
    query_room, document_room = _share(fmt, room, wanted_query, wanted)
    if query_room < wanted_query and not bounds.cut_query:
        raise InvalidRequest(
            f"query has {query} tokens, of which the model reads {query_room} beside a document of {document}: shorten "
            "it, or set truncate_query to cut off its end"
        )
    if (query_room, document_room) == (query, document):
        tokens = document + row.shared
        return EncodedDocument((Prompt(tuple(row.ids), Truncation(tokens, tokens, policy)),), row.neutralised)
    windows = _kept(document, document_room, policy)
    if bounds.windows is not None and len(windows) > bounds.windows:
        return DocumentError(
            "too_large",
            f"the document makes {len(windows)} windows of {document_room} tokens; at most {bounds.windows} are read: "
            "shorten it, or raise max_tokens_per_doc",
        )
    return EncodedDocument(tuple(_cut(row, kept, query_room, policy) for kept in windows), row.neutralised)


def _room(fmt: PromptFormat, frame: int, max_length: int, max_prompt_tokens: int | None) -> int:
    """Tokens for query and document beside the frame."""
    room = max_length - frame
    if max_prompt_tokens is not None:
        room = min(room, max_prompt_tokens - frame)
        if room < LEAST_ROOM:
            raise InvalidRequest(
                f"max_prompt_tokens is {max_prompt_tokens}: the frame of prompt '{fmt.name}' alone takes {frame}; "
                f"give at least {frame + LEAST_ROOM}"
            )
    return room


def _share(fmt: PromptFormat, room: int, query: int, document: int) -> tuple[int, int]:
    """Tokens for query and document. The document is cut first, down to a quarter of the room; then the query."""
    query = min(query, fmt.budget.query or query)
    document = min(document, fmt.budget.document or document)
    if query + document > room:
        document = min(document, max(room - query, room // 4))
        query = min(query, room - document)
    return query, document


def _kept(length: int, room: int, policy: TruncationPolicy) -> list[list[tuple[int, int]]]:
    """Which of the document's tokens are read, as (start, end) ranges: one list of them, or one per window."""
    if length <= room:
        return [[(0, length)]]
    match policy:
        case "tail":
            return [[(0, room)]]
        case "head":
            return [[(length - room, length)]]
        case "middle":
            return [[(0, room - room // 2), (length - room // 2, length)]]
        case "windows":
            step = max(1, room - room // 4)  # neighbouring windows overlap by a quarter
            starts = [*range(0, length - room, step), length - room]
            return [[(start, start + room)] for start in starts]


def _cut(row: Encoded, kept: list[tuple[int, int]], query_room: int, policy: TruncationPolicy) -> Prompt:
    """The prompt with these ranges of the document's tokens, and as much of the query as there is room for."""
    start, document = row.document.start, len(row.document)
    ids = _replaced(
        row,
        {
            start: [i for low, high in kept for i in row.ids[start + low : start + high]],
            row.query.start: row.ids[row.query.start : row.query.start + query_room],
        },
    )
    used = sum(high - low for low, high in kept)
    window = read = None
    if used < document:
        read = tuple(
            (row.offsets[row.first + low][0] - row.origin, row.offsets[row.first + high - 1][1] - row.origin)
            for low, high in kept
            if high > low
        )
        window = Window(*read[0]) if policy == "windows" else None
    cut_of_query = len(row.query) - query_room
    return Prompt(ids, Truncation(document + row.shared, used + row.shared, policy, cut_of_query, window), read)


def _replaced(row: Encoded, parts: dict[int, list[int]]) -> Ids:
    """The row's ids with query and document replaced by what is kept of them."""
    ids: list[int] = []
    done = 0
    for span in sorted(filter(None, (row.query, row.document)), key=lambda s: s.start):
        ids += row.ids[done : span.start] + parts[span.start]
        done = span.stop
    return tuple(ids + row.ids[done:])
