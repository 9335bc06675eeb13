"""The ids of a prompt or of a part of it, and which of them are the query's and the document's."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from whyrank.prompting.rendering import Run, Span

__all__ = ["Encoded", "Ids", "Offsets", "joined", "located", "placed"]

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Ids, and which of them are the query's and the document's.

    `offsets`: character offsets of the ids in the text that contains the document. There, the document's ids begin at index
    `first` and its characters at `origin`.
    `shared`: number of tokens with characters of both frame and document (" Water" after "<Document>:"). They are never cut.
    """

    ids: list[int]
    query: range = range(0)
    document: range = range(0)
    offsets: Sequence[tuple[int, int]] = ()
    first: int = 0
    origin: int = 0
    shared: int = 0
    neutralised: bool = False
    is_hostile: bool = False
    """The control tokens are not just the frame's: the ids must not be used."""

    @property
    def places(self) -> tuple[range, range, int, int, int]:
        return self.query, self.document, self.first, self.origin, self.shared


class Offsets(Sequence[tuple[int, int]]):
    """Start and end of each token's characters, looked up on demand: a list of all costs as much as the ids themselves.

    `encode` makes the encoding, and is called at the first look-up."""

    def __init__(self, encode: Callable[[], Any]) -> None:
        self._encode = encode

    @cached_property
    def _encoding(self) -> Any:
        return self._encode()

    def __len__(self) -> int:
        return len(self._encoding)

    def __getitem__(self, place: Any) -> Any:
        return self._encoding.token_to_chars(place)


def placed(run: Run) -> Iterator[tuple[Span, int]]:
    """Each span with the position of its first character in the run's text."""
    return zip(run, accumulate((len(span.text) for span in run), initial=0), strict=False)


def located(run: Run, ids: list[int], offsets: Sequence[tuple[int, int]], neutralised: bool = False) -> Encoded:
    """Finds the query's and the document's ids by their characters."""
    places: dict[str, range] = {}
    at = shared = origin = 0
    for span in run:
        end = at + len(span.text)
        if span.owner != "frame":
            first = bisect_left(offsets, at, key=lambda o: o[0])
            last = max(first, bisect_right(offsets, end, key=lambda o: o[1]))
            places[span.owner] = range(first, last)
            if span.owner == "document":
                origin = at
                ends = (offsets[i] for i in (first - 1, last) if 0 <= i < len(offsets))
                shared = sum(low < end and high > at for low, high in ends)
        at = end
    query, document = places.get("query", range(0)), places.get("document", range(0))
    return Encoded(ids, query, document, offsets, document.start, origin, shared, neutralised)


def joined(rows: Sequence[Encoded]) -> Encoded:
    """Joins the parts of a prompt. Query and document are each in one of them."""
    ids: list[int] = []
    query = document = range(0)
    of_document = rows[0]
    for row in rows:
        if row.query:
            query = range(len(ids) + row.query.start, len(ids) + row.query.stop)
        if row.document:
            document = range(len(ids) + row.document.start, len(ids) + row.document.stop)
            of_document = row
        ids.extend(row.ids)
    shared = sum(row.shared for row in rows)
    neutralised = any(row.neutralised for row in rows)
    return Encoded(
        ids, query, document, of_document.offsets, of_document.first, of_document.origin, shared, neutralised
    )
