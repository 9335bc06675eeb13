"""Scores the documents of a request: text to token ids, token ids to label reads.

Documents are processed in slices: the engine scores one while the next is encoded, and concurrent calls take turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import aclosing

from whyrank.errors import InvalidRequest
from whyrank.fan_out import fan_out
from whyrank.pipeline.deadline import Deadline
from whyrank.pipeline.request_state import RequestState
from whyrank.pipeline.turns import CallTurns, Tenant
from whyrank.prompting.tokens import Bounds, EncodedDocument, Ids, PromptEncoder
from whyrank.request import RerankRequest
from whyrank.runtimes.base import Runtime, next_engine
from whyrank.types import Document, DocumentError, RankedDocument, Usage

__all__ = ["Refusal", "Scorer", "bounds_of", "refuse_none"]

Refusal = Callable[[Document], DocumentError | None]
"""Why a document is rejected before it is encoded, or None."""

_SLICE = 32
# A slice of more characters than this is large.
_LARGE = 1 << 18
# Slices of one call in the engine. Enough to fill its batches; a huge call still leaves memory to others.
_MAX_CONCURRENCY = 32
# Each is a prompt of its own, and has the query and the frame in it.
_MAX_WINDOWS_OF_A_DOCUMENT = 256
# Of one call: eight for each of a thousand documents.
_MAX_WINDOWS = 8000
_TOO_MANY_WINDOWS = DocumentError(
    "too_large",
    f"earlier documents used up the {_MAX_WINDOWS} windows of one call: send fewer documents, or raise "
    "max_tokens_per_doc",
)


def refuse_none(document: Document) -> None:
    pass


def bounds_of(request: RerankRequest, windows: int | None = None) -> Bounds:
    """How much of its texts is read. `windows`: of a document, at most."""
    return Bounds(
        request.max_tokens_per_doc,
        request.max_tokens_per_query,
        request.max_prompt_tokens,
        windows,
        request.truncate_query,
    )


class Scorer:
    def __init__(
        self,
        request: RerankRequest,
        runtime: Runtime,
        encoder: PromptEncoder,
        refusal: Refusal,
        tenant: Tenant | None,
        large_texts: Executor,
        queries: Sequence[str] | None = None,
    ) -> None:
        """`large_texts`: encodes large slices, one at a time for all calls. Each of them holds the interpreter for tens of
        milliseconds; several at once would add up, and the event loop would stand still. `queries`: one for each document, in
        place of the request's."""
        self._turns, self._large_texts, self._queries = CallTurns(tenant), large_texts, queries
        self._request, self._runtime, self._encoder, self._refusal = request, runtime, encoder, refusal
        self._slices = [slice(at, at + _SLICE) for at in range(0, len(request.documents), _SLICE)]
        self._turn = asyncio.Lock()
        self._windows = 0
        self._warmed = set[int]()
        self.warm_usage = Usage()

    async def read(self, state: RequestState, deadline: Deadline) -> AsyncGenerator[Sequence[RankedDocument], None]:
        """Rows as they become known, those together that do so together. Closing the generator frees the work that is left."""

        async def read_slice(number: int, emit: Callable[[Sequence[RankedDocument]], None]) -> None:
            async with self._turn:  # in order: one finished slice is worth more than two half-finished ones
                prompts = await self._prepare(number, state, emit)
                numbers, ids = list(prompts), list(prompts.values())
                engine = await self._warmed_engine(ids)
                priorities = [self._turns.priority_of(len(one)) for one in ids]
            async with aclosing(engine.read(ids, priorities, self._request.cache_salt)) as batches:
                async for answers in batches:
                    emit([row for place, read in answers for row in state.record(numbers[place], read)])

        batches = deadline.during(fan_out(read_slice, len(self._slices), _MAX_CONCURRENCY))
        try:
            async with aclosing(batches):
                async for _, rows in batches:
                    yield rows
        finally:
            self._turns.end()

    async def _prepare(
        self, number: int, state: RequestState, emit: Callable[[Sequence[RankedDocument]], None]
    ) -> dict[int, Ids]:
        """The prompts of a slice by their numbers."""
        part = self._slices[number]
        documents = self._request.documents[part]
        size = sum(len(document.content) for document in documents)
        executor = self._large_texts if size > _LARGE else None
        encoded = self._within_bound(await asyncio.get_running_loop().run_in_executor(executor, self._encode, part))
        prompts, known = state.add(part.start, encoded)
        if known:
            emit(known)
        return prompts

    async def _warmed_engine(self, prompts: Sequence[Ids]) -> Runtime:
        """The engine for a slice, with what the call's prompts share in its cache."""
        engine = next_engine(self._runtime)
        if prompts and id(engine) not in self._warmed:
            self._warmed.add(id(engine))
            frame = self._encoder.shared_prefix(self._request.instruction)
            self.warm_usage += await engine.warm_prefix(prompts, frame, self._request.cache_salt)
        return engine

    def _within_bound(self, rows: list[EncodedDocument | DocumentError]) -> list[EncodedDocument | DocumentError]:
        """Documents in one piece are always read; their number is what a caller sees and others bound."""
        bounded: list[EncodedDocument | DocumentError] = []
        for row in rows:
            if isinstance(row, EncodedDocument) and len(row.prompts) > 1:
                self._windows += len(row.prompts)
                if self._windows > _MAX_WINDOWS:
                    row = _TOO_MANY_WINDOWS
            bounded.append(row)
        return bounded

    def _encode(self, part: slice) -> list[EncodedDocument | DocumentError]:
        request, documents = self._request, self._request.documents[part]
        refusals = [self._refusal(document) for document in documents]
        taken = [document for document, refusal in zip(documents, refusals, strict=True) if refusal is None]
        bounds = bounds_of(request, _MAX_WINDOWS_OF_A_DOCUMENT)
        if self._queries is not None:
            pairs = zip(self._queries[part], documents, refusals, strict=True)
            return [refusal or self._encode_pair(query, document, bounds) for query, document, refusal in pairs]
        encoded = iter(self._encoder.encode(request.query, taken, request.instruction, request.truncation, bounds))
        return [refusal or next(encoded) for refusal in refusals]

    def _encode_pair(self, query: str, document: Document, bounds: Bounds) -> EncodedDocument | DocumentError:
        """If each document has its own query, one that cannot be read is an error of its row only."""
        request = self._request
        try:
            (row,) = self._encoder.encode(query, [document], request.instruction, request.truncation, bounds)
        except InvalidRequest as cause:
            return DocumentError("too_large", str(cause))
        return row
