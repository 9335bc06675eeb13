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
from whyrank.prompting.listwise import ListPrompts, WrittenOrder, identifier_ids, listwise_of, order_tokens
from whyrank.prompting.scoring import log_odds, sigmoid
from whyrank.prompting.tokens import Ids, PromptEncoder
from whyrank.request import RerankRequest
from whyrank.runtimes.base import Runtime, TokenRead, TokenRuntime, next_engine
from whyrank.types import DocumentError, RankedDocument, Usage

if TYPE_CHECKING:
    from whyrank.prompting.formats import Listwise

__all__ = ["ListRanker", "Window", "rounds", "windows"]

Window = tuple[int, int]
"""First place in the order, and the one after the last."""

# For what continues a prompt that has been read: a few tokens, as long as the cache still has the rest.
_AHEAD = -1

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


class _Reads:
    """Reads the probabilities of the same tokens behind prompts, and counts what that takes."""

    def __init__(self, runtime: TokenRuntime, tokens: Sequence[int], salt: str | None) -> None:
        self._runtime, self._tokens, self._salt = runtime, tokens, salt
        self.usage = Usage()

    async def read(self, prompts: Sequence[Ids], priorities: Sequence[int]) -> list[dict[int, float]]:
        """For each prompt, the log-probability of each token."""
        found: dict[int, dict[int, float]] = {}
        reads = self._runtime.read_tokens(prompts, self._tokens, priorities, self._salt)
        async with aclosing(reads):
            async for answers in reads:
                for at, read in answers:
                    if not isinstance(read, TokenRead):
                        raise _Failed(read.message)
                    if any(map(math.isnan, read.logprobs)):
                        raise _Failed("the model answered nan: its weights or dtype do not fit")
                    found[at] = dict(zip(self._tokens, read.logprobs, strict=True))
                    self.usage += Usage(read.prompt_tokens, read.cached_tokens, 1)
        return [found[at] for at in range(len(prompts))]


class _Readout(Protocol):
    """How the answer to a prompt becomes an order."""

    reads: _Reads

    async def orders(self, prompts: Sequence[Ids], counts: Sequence[int]) -> list[_Order]:
        """Of prompts that are read side by side. `counts`: how many documents each has."""
        ...


class _IdentifierReader:
    """Reads the probabilities of all identifiers at the place of the answer's first one."""

    def __init__(self, runtime: TokenRuntime, encoder: PromptEncoder, turns: CallTurns, salt: str | None) -> None:
        self._tokens, self._turns = identifier_ids(encoder), turns
        self.reads = _Reads(runtime, self._tokens, salt)

    async def orders(self, prompts: Sequence[Ids], counts: Sequence[int]) -> list[_Order]:
        reads = await self.reads.read(prompts, [self._turns.priority_of(len(ids)) for ids in prompts])
        return [
            _by_probability([logprobs[token] for token in self._tokens[:count]])
            for logprobs, count in zip(reads, counts, strict=True)
        ]


def _by_probability(logprobs: Sequence[float]) -> _Order:
    """Most probable first. Equal ones keep their order."""
    places = sorted(range(len(logprobs)), key=lambda place: -logprobs[place])
    return _Order(places, [logprobs[place] for place in places])


class _OrderWriter:
    """Has the model write the order. Wherever several documents may follow, the most probable token is taken of those that lead
    to one; whatever has no alternative, such as signs and the last document, is written without asking the model."""

    def __init__(self, runtime: TokenRuntime, encoder: PromptEncoder, turns: CallTurns, salt: str | None) -> None:
        self._runtime, self._tokens, self._turns = runtime, order_tokens(encoder), turns
        self.reads = _Reads(runtime, self._tokens.choices, salt)

    async def orders(self, prompts: Sequence[Ids], counts: Sequence[int]) -> list[_Order]:
        async with self._runtime.room(self, sum(map(len, prompts))):
            return [_Order(order.places) for order in await self._write(prompts, counts)]

    async def _write(self, prompts: Sequence[Ids], counts: Sequence[int]) -> list[WrittenOrder]:
        written = [WrittenOrder(self._tokens, count) for count in counts]
        priorities = [self._turns.priority_of(len(ids)) for ids in prompts]
        while unfinished := [at for at, order in enumerate(written) if order.options]:
            longer = [prompts[at] + written[at].ids for at in unfinished]
            reads = await self.reads.read(longer, [priorities[at] for at in unfinished])
            for at, logprobs in zip(unfinished, reads, strict=True):
                written[at].write(max(written[at].options, key=logprobs.__getitem__))
            priorities = [_AHEAD] * len(prompts)
        return written


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
        # One engine for the call: it has the prompts in its cache.
        engine = next_engine(runtime)
        self._request, self._engine, self._encoder = request, engine, encoder
        self._turns = CallTurns(tenant)
        listwise = listwise_of(encoder.format)
        self._schedule = _schedule(request, listwise)
        if not isinstance(engine, TokenRuntime):
            raise InvalidRequest(
                f"method 'listwise': this route only scores, it cannot order lists by prompt '{encoder.format.name}': use "
                "method 'pointwise', or the generate route"
            )
        self._readout: _Readout
        if listwise.readout == "first":
            self._readout = _IdentifierReader(engine, encoder, self._turns, request.cache_salt)
        else:
            self._readout = _OrderWriter(engine, encoder, self._turns, request.cache_salt)
        refusals = [refusal(document) for document in request.documents]
        self._refused = {index: error for index, error in enumerate(refusals) if error is not None}
        self._indexes = [index for index, error in enumerate(refusals) if error is None]
        self._warm_usage = Usage()

    @property
    def usage(self) -> Usage:
        return self._readout.reads.usage + self._warm_usage

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
        self._warm_usage += await self._engine.warm_prefix(ids, prompts.shared_prefix(), self._request.cache_salt)
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
