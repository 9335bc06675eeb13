"""A runtime whose engines are elsewhere. Nothing here knows what carries the messages.

The pipeline hands over slices of a few dozen prompts; each is a tile, which one replica reads in one message. Tiles of one call
spread over the replicas, and equal tiles meet the replica that still has them in its prefix cache. A document's evidence is
written where its tile was read, for the same reason.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

from whyrank.errors import EngineDead
from whyrank.fan_out import fan_out
from whyrank.prompting.tokens import Ids
from whyrank.runtimes.base import Answer, Generation, GenerationParams, TextDelta, TokenRead
from whyrank.runtimes.ranks import Readers, remember
from whyrank.serving import metrics
from whyrank.types import DocumentError, Usage

__all__ = ["RemoteGenerativeRuntime", "RemoteRuntime", "Replicas", "Tile", "TileAnswers", "WrittenPiece"]

WrittenPiece = tuple[str, int, TextDelta | Generation]
"""The replica that wrote it, the prompt's position, and what was written."""

# After a replica was lost, before the work goes to the next. By then those who distribute it have heard of the loss.
_PAUSES = (0.1, 0.5)
_LOST = DocumentError(
    "unreachable", f"{len(_PAUSES) + 1} replicas in a row were lost while they read this document: try again"
)
_MAX_FRAMES = 64


@dataclass(frozen=True, slots=True)
class Tile:
    """Prompts that are read together. `frame`: what prompts of all queries begin with, for engines that want it warmed.
    `tokens`: what is read in place of the labels."""

    prompts: Sequence[Ids]
    priorities: Sequence[int]
    salt: str | None
    frame: Ids
    tokens: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class TileAnswers:
    """`answers`: those of Runtime.read, or of read_tokens if the tile has tokens."""

    replica: str
    answers: Sequence[tuple[int, Any]]


class Replicas(Protocol):
    """Where work goes by a key: equal keys to the same replica as long as it lives and has room. Both methods raise EngineDead
    where that replica is lost."""

    async def read(self, key: str, tile: Tile) -> TileAnswers: ...

    def write(
        self, key: str, prompts: Sequence[Ids], order: GenerationParams
    ) -> AsyncGenerator[WrittenPiece, None]: ...


class RemoteRuntime:
    """Runtime's methods over replicas. A replica that is lost costs its tiles a second try, then a third, on another one."""

    def __init__(self, replicas: Replicas, facts: Mapping[str, str | int]) -> None:
        self._replicas, self._facts = replicas, dict(facts)
        self._frames: dict[Ids, None] = {}
        self._readers = Readers[tuple[str, str]]()

    async def warm_prefix(self, prompts: Sequence[Ids], frame: Ids, salt: str | None) -> Usage:
        """Each replica does this for its tiles, so that the one that reads them is the one that is warm. The tokens that it
        takes are in no usage."""
        remember(self._frames, frame, None, _MAX_FRAMES)
        return Usage()

    async def read(
        self, prompts: Sequence[Ids], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[Answer], None]:
        if prompts:
            tile = Tile(prompts, priorities, salt, self._frame_of(prompts[0]))
            yield await self._read_tile(_key(prompts[0], salt), tile)

    def _frame_of(self, prompt: Ids) -> Ids:
        return max((frame for frame in self._frames if prompt[: len(frame)] == frame), key=len, default=())

    async def _read_tile(self, key: str, tile: Tile) -> Sequence[tuple[int, Any]]:
        for pause in (*_PAUSES, None):
            try:
                read = await self._replicas.read(key, tile)
            except EngineDead:
                if pause is not None:
                    await asyncio.sleep(pause)
                continue
            self._readers.remember(tile.prompts, (key, read.replica))
            return read.answers
        return [(place, _LOST) for place in range(len(tile.prompts))]

    def facts(self) -> dict[str, str | int]:
        return dict(self._facts)

    async def aclose(self) -> None:
        """The replicas belong to whoever started them."""


class RemoteGenerativeRuntime(RemoteRuntime):
    """GenerativeRuntime's and TokenRuntime's, too."""

    async def read_tokens(
        self, prompts: Sequence[Ids], tokens: Sequence[int], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[tuple[int, TokenRead | DocumentError]], None]:
        """Prompts that continue others go where those were read."""
        key, _ = self._readers.find(prompts[0]) or (_key(prompts[0], salt), "")
        yield await self._read_tile(key, Tile(prompts, priorities, salt, self._frame_of(prompts[0]), tokens))

    def room(self, call: object, tokens: int) -> AbstractAsyncContextManager[None]:
        """Which replica a call will meet is not known, so nothing is held."""
        return nullcontext()

    async def write(
        self, prompts: Sequence[Ids], order: GenerationParams
    ) -> AsyncGenerator[tuple[int, TextDelta | Generation], None]:
        readers = [self._readers.find(ids) or (_key(ids, order.salt), "") for ids in prompts]
        groups: dict[tuple[str, str], list[int]] = {}
        for place, reader in enumerate(readers):
            groups.setdefault(reader, []).append(place)
        parts = list(groups.items())

        async def write_group(number: int, emit: Callable[[tuple[int, TextDelta | Generation]], None]) -> None:
            (key, reader), places = parts[number]
            await self._write_group(key, reader, places, prompts, order, emit)

        async with aclosing(fan_out(write_group, len(parts), max(1, len(parts)))) as pieces:
            async for _, piece in pieces:
                yield piece

    async def _write_group(
        self,
        key: str,
        reader: str,
        places: Sequence[int],
        prompts: Sequence[Ids],
        order: GenerationParams,
        emit: Callable[[tuple[int, TextDelta | Generation]], None],
    ) -> None:
        left, begun = dict.fromkeys(places), set[int]()
        for pause in (*_PAUSES, None):
            part = list(left)
            grammars = [order.grammars[place] for place in part]
            pieces = self._replicas.write(key, [prompts[place] for place in part], replace(order, grammars=grammars))
            try:
                async with aclosing(pieces):
                    async for writer, at, piece in pieces:
                        if isinstance(piece, Generation):
                            metrics.count_explained(writer == reader)
                            del left[part[at]]
                        else:
                            begun.add(part[at])
                        emit((part[at], piece))
                return
            except EngineDead:
                # Text that was handed over cannot be taken back.
                for place in begun & left.keys():
                    del left[place]
                    emit((place, Generation((), "error")))
            if not left:
                return
            if pause is not None:
                await asyncio.sleep(pause)
        for place in left:
            emit((place, Generation((), "error")))


def _key(ids: Ids, salt: str | None) -> str:
    """The first prompt of a tile stands for the tile: its query is in it, and its first document."""
    return hashlib.blake2b(array("q", ids).tobytes() + (salt or "").encode(), digest_size=16).hexdigest()
