"""Orders the documents of a request by prompts that hold several of them: a window slides from the end of the list to its
beginning, and carries the best up with it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from whyrank.errors import InvalidRequest
from whyrank.pipeline.deadline import Deadline
from whyrank.pipeline.scorer import Refusal, bounds_of
from whyrank.pipeline.turns import CallTurns, Tenant
from whyrank.prompting.listwise import (
    ListPrompts,
    identifier_ids,
    listwise_of,
    order_grammar,
    parse_order,
    stage_bound,
    stage_size,
)
from whyrank.prompting.scoring import log_odds, sigmoid
from whyrank.prompting.tokens import Ids, PromptEncoder
from whyrank.request import RerankRequest
from whyrank.runtimes.base import Generation, GenerationParams, GenerativeRuntime, Runtime, TokenRead, TokenRuntime
from whyrank.types import DocumentError, RankedDocument, Usage

if TYPE_CHECKING:
    from whyrank.prompting.formats import Listwise

__all__ = ["ListRanker", "Window", "rounds", "windows"]

Window = tuple[int, int]
"""First place in the order, and the one after the last."""

_LATE = DocumentError("deadline", "not ordered before the deadline: give more time or fewer documents")


def windows(count: int, size: int, stride: int, passes: int = 1) -> list[Window]:
    """The windows over `count` documents one after another, in every pass from the end to the beginning. All are full; the last
    of a pass may overlap more with the one before it."""
    if count < 2:
        return []
    starts = [*range(max(0, count - size), 0, -stride), 0]
    return [(start, min(start + size, count)) for start in starts] * passes


def rounds(schedule: Sequence[Window]) -> list[list[Window]]:
    """The windows that can be read side by side: each comes after all earlier ones with which it shares places."""
    result: list[list[Window]] = []
    free_from: dict[int, int] = {}
    for start, end in schedule:
        number = max(free_from.get(place, 0) for place in range(start, end))
        free_from |= dict.fromkeys(range(start, end), number + 1)
        if number == len(result):
            result.append([])
        result[number].append((start, end))
    return result


class _Failed(Exception):
    """A window has no answer, so there is no order."""


@dataclass(frozen=True, slots=True)
class _Order:
    """A window's documents, by their places in it, in their new order. `logprobs`: of their identifiers, if they were read."""

    places: Sequence[int]
    logprobs: Sequence[float] = ()


class _Readout(Protocol):
    """How the answer to a prompt becomes an order."""

    usage: Usage

    async def orders(self, prompts: Sequence[Ids], counts: Sequence[int]) -> list[_Order]:
        """Of prompts that are read side by side. `counts`: how many documents each has."""
        ...


class _IdentifierReader:
    """Reads the probabilities of all identifiers at the place of the answer's first one."""

    def __init__(self, runtime: TokenRuntime, encoder: PromptEncoder, turns: CallTurns, salt: str | None) -> None:
        self._runtime, self._turns, self._salt = runtime, turns, salt
        self._tokens = identifier_ids(encoder)
        self.usage = Usage()

    async def orders(self, prompts: Sequence[Ids], counts: Sequence[int]) -> list[_Order]:
        found: dict[int, _Order] = {}
        priorities = [self._turns.priority_of(len(ids)) for ids in prompts]
        reads = self._runtime.read_tokens(prompts, self._tokens, priorities, self._salt)
        async with aclosing(reads):
            async for answers in reads:
                for at, read in answers:
                    if not isinstance(read, TokenRead):
                        raise _Failed(read.message)
                    found[at] = _by_probability(read.logprobs[: counts[at]])
                    self.usage += Usage(read.prompt_tokens, read.cached_tokens, 1)
        return [found[at] for at in range(len(prompts))]


def _by_probability(logprobs: Sequence[float]) -> _Order:
    """Most probable first. Equal ones keep their order."""
    places = sorted(range(len(logprobs)), key=lambda place: -logprobs[place])
    return _Order(places, [logprobs[place] for place in places])


class _OrderWriter:
    """Has the model write the order. A grammar for all of a large window would be too large, so it is written in stages."""

    def __init__(self, runtime: GenerativeRuntime, encoder: PromptEncoder, salt: str | None) -> None:
        self._runtime, self._encoder, self._salt = runtime, encoder, salt
        self._listwise = listwise_of(encoder.format)
        self.usage = Usage()

    async def orders(self, prompts: Sequence[Ids], counts: Sequence[int]) -> list[_Order]:
        texts, orders = [*prompts], [list[int]() for _ in prompts]
        # What is left of an order in the end, one document, follows from the rest.
        while unfinished := [at for at, count in enumerate(counts) if len(orders[at]) < count - 1]:
            left = [[place for place in range(counts[at]) if place not in orders[at]] for at in unfinished]
            begun = [bool(orders[at]) for at in unfinished]
            written = await self._write([texts[at] for at in unfinished], left, begun)
            for at, ids, among in zip(unfinished, written, left, strict=True):
                orders[at] += self._parsed(ids, among)
                texts[at] += ids
        ends = [
            [place for place in range(count) if place not in order] for count, order in zip(counts, orders, strict=True)
        ]
        return [_Order(order + end) for order, end in zip(orders, ends, strict=True)]

    async def _write(self, prompts: Sequence[Ids], left: Sequence[Sequence[int]], begun: Sequence[bool]) -> list[Ids]:
        """The next stage of each order, without the token that ends it."""
        found: dict[int, Ids] = {}
        grammars = [order_grammar(self._listwise, *window) for window in zip(left, begun, strict=True)]
        max_tokens = max(stage_bound(self._listwise, len(among)) for among in left)
        params = GenerationParams(grammars, max_tokens, temperature=0.0, live=False, salt=self._salt)
        pieces = self._runtime.write(prompts, params)
        async with aclosing(pieces):
            async for at, piece in pieces:
                if isinstance(piece, Generation):
                    self.usage += piece.usage
                    control = {*self._encoder.control_tokens(tuple(piece.ids))}
                    found[at] = tuple(i for i in piece.ids if i not in control)
        return [found[at] for at in range(len(prompts))]

    def _parsed(self, ids: Ids, left: Sequence[int]) -> list[int]:
        text = self._encoder.decode(ids)
        places = parse_order(self._listwise, text)
        if len(places) != stage_size(len(left)) or not set(places) <= set(left):
            raise _Failed(f"the engine ended the model's answer early, at {text!r:.60}")
        return places


class ListRanker:
    """Made before anything is read, so that a request that cannot be answered fails at once."""

    def __init__(
        self,
        request: RerankRequest,
        runtime: Runtime,
        encoder: PromptEncoder,
        refusal: Refusal,
        tenant: Tenant | None,
    ) -> None:
        self._request, self._runtime, self._encoder = request, runtime, encoder
        self._turns = CallTurns(tenant)
        listwise = listwise_of(encoder.format)
        self._schedule = _schedule(request, listwise)
        self._readout: _Readout
        if listwise.readout == "first" and isinstance(runtime, TokenRuntime):
            self._readout = _IdentifierReader(runtime, encoder, self._turns, request.cache_salt)
        elif listwise.readout == "permutation" and isinstance(runtime, GenerativeRuntime):
            self._readout = _OrderWriter(runtime, encoder, request.cache_salt)
        else:
            raise InvalidRequest(
                f"method 'listwise': this route only scores, it cannot order lists by prompt '{encoder.format.name}': use "
                "method 'pointwise', or the generate route"
            )
        refusals = [refusal(document) for document in request.documents]
        self._refused = {index: error for index, error in enumerate(refusals) if error is not None}
        self._indexes = [index for index, error in enumerate(refusals) if error is None]
        self._warm_usage = Usage()

    @property
    def usage(self) -> Usage:
        return self._readout.usage + self._warm_usage

    async def rank(self, deadline: Deadline) -> list[RankedDocument]:
        """A row for every document, best first; those in error come last."""
        try:
            rows = await deadline.wait(self._rank())
        except _Failed as cause:
            rows = self._errors(DocumentError("engine", f"the documents have no order: {cause}"))
        finally:
            self._turns.end()
        refused = [RankedDocument(at, self._request.documents[at], error=error) for at, error in self._refused.items()]
        return [*(self._errors(_LATE) if rows is None else rows), *refused]

    def _errors(self, error: DocumentError) -> list[RankedDocument]:
        return [RankedDocument(index, self._request.documents[index], error=error) for index in self._indexes]

    async def _rank(self) -> list[RankedDocument]:
        count = len(self._indexes)
        if not count:
            return []
        schedule = windows(count, *self._schedule)
        prompts = await asyncio.to_thread(self._prompts, max((end - start for start, end in schedule), default=1))
        order: list[int] = list(range(count))
        logprobs: Sequence[float] = ()
        for together in rounds(schedule):
            places = [order[start:end] for start, end in together]
            answers = await self._read(prompts, places)
            for (start, end), before, answer in zip(together, places, answers, strict=True):
                order[start:end] = [before[place] for place in answer.places]
                logprobs = answer.logprobs
        # The probabilities of different windows cannot be compared: each is among other documents.
        margins = log_odds(logprobs) if len(logprobs) == count else []
        if not all(map(math.isfinite, margins)):
            raise _Failed(f"the model answered {margins}: its weights or dtype do not fit")
        return [
            self._row(prompts, place, rank, margins[rank - 1] if margins else None)
            for rank, place in enumerate(order, 1)
        ]

    def _prompts(self, window: int) -> ListPrompts:
        request = self._request
        documents = [request.documents[index] for index in self._indexes]
        return ListPrompts(self._encoder, request.query, documents, request.instruction, bounds_of(request), window)

    async def _read(self, prompts: ListPrompts, places: Sequence[Sequence[int]]) -> list[_Order]:
        ids = await asyncio.to_thread(lambda: [prompts.encode(each) for each in places])
        self._warm_usage += await self._runtime.warm_prefix(ids, prompts.shared_prefix(), self._request.cache_salt)
        return await self._readout.orders(ids, [len(each) for each in places])

    def _row(self, prompts: ListPrompts, place: int, rank: int, margin: float | None) -> RankedDocument:
        index = self._indexes[place]
        return RankedDocument(
            index,
            self._request.documents[index],
            rank=rank,
            score=None if margin is None else sigmoid(margin),
            margin=margin,
            truncation=prompts.truncation(place),
            neutralised=prompts.is_neutralised(place),
        )


def _schedule(request: RerankRequest, listwise: Listwise) -> tuple[int, int, int]:
    """Window, stride and passes of a call."""
    size = request.listwise_window or listwise.window
    if size > len(listwise.all_identifiers):
        raise InvalidRequest(
            f"listwise_window is {size}: this prompt has only {len(listwise.all_identifiers)} {listwise.identifiers} to name "
            "documents by"
        )
    # The prompt file's stride is for its own window.
    usual = listwise.stride if request.listwise_window is None else max(1, size // 2)
    stride = request.listwise_stride or usual
    if stride > size:
        raise InvalidRequest(
            f"listwise_stride is {stride}: it would leave documents out; give at most the window, {size}"
        )
    return size, stride, request.listwise_passes
