"""One engine, as a replica runs it: it reads tiles, writes evidence, and says when it can no longer be trusted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, cast

from whyrank.canary import canary_row, has_drifted
from whyrank.checkpoints import make_plan
from whyrank.cluster.remote import Tile, TileAnswers, WrittenPiece
from whyrank.config import EngineConfig
from whyrank.errors import EngineDead, EnginePaused
from whyrank.process import is_cpu_build, prepare_process
from whyrank.prompting.tokens import Ids
from whyrank.runtimes.base import GenerationParams, GenerativeRuntime, Runtime, TokenRuntime, next_engine
from whyrank.start import Started, start_checked

__all__ = ["Description", "EngineReplica", "gpus_of"]

# A known pair must get its score in this time; a replica that is merely busy answers its tiles first.
_CANARY_SECONDS = 10.0


def gpus_of(config: EngineConfig) -> int:
    """What one engine takes."""
    return 0 if is_cpu_build() else config.tensor_parallel_size


def _reads(engine: Runtime, tile: Tile) -> AsyncGenerator[Sequence[tuple[int, Any]], None]:
    if tile.tokens:
        reader = cast(TokenRuntime, engine)  # the ingress asks nobody else
        return reader.read_tokens(tile.prompts, tile.tokens, tile.priorities, tile.salt)
    return engine.read(tile.prompts, tile.priorities, tile.salt)


@dataclass(frozen=True, slots=True)
class Description:
    """What the ingress must know of its replicas. `choice`: which of the plan's choices the model's answers decided for."""

    facts: dict[str, str | int]
    choice: int | None


class EngineReplica:
    def __init__(self, name: str, started: Started) -> None:
        self.name, self._started, self._runtime = name, started, started.runtime
        self._tokens = self._messages = 0

    @classmethod
    async def start(cls, name: str, config: EngineConfig) -> EngineReplica:
        prepare_process()
        return cls(name, await start_checked(await asyncio.to_thread(make_plan, config)))

    def describe(self) -> Description:
        plan = self._started.plan
        choice = plan.choices.index(plan.format) if len(plan.choices) > 1 else None
        return Description(self._runtime.facts(), choice)

    def load(self) -> dict[str, float]:
        """The messages in progress, and the tokens to read and, at most, to write for them."""
        return {"tokens": self._tokens, "messages": self._messages}

    @contextmanager
    def _working(self, tokens: int) -> Iterator[None]:
        self._tokens += tokens
        self._messages += 1
        try:
            yield
        finally:
            self._tokens -= tokens
            self._messages -= 1

    async def read(self, tile: Tile) -> TileAnswers:
        answers, engine = list[tuple[int, Any]](), next_engine(self._runtime)
        with self._working(sum(map(len, tile.prompts))):
            await engine.warm_prefix(tile.prompts, tile.frame, tile.salt)
            async with aclosing(_reads(engine, tile)) as batches:
                async for some in batches:
                    answers += some
        return TileAnswers(self.name, answers)

    async def write(self, prompts: Sequence[Ids], order: GenerationParams) -> AsyncGenerator[WrittenPiece, None]:
        runtime = cast(GenerativeRuntime, self._runtime)  # the ingress asks nobody else
        with self._working(order.max_tokens * order.samples * len(prompts)):
            async with aclosing(runtime.write(prompts, order)) as pieces:
                async for place, piece in pieces:
                    yield self.name, place, piece

    async def check(self) -> None:
        """Raises EngineDead where the engine is gone, or gives a known pair another score than at the start."""
        try:
            async with asyncio.timeout(_CANARY_SECONDS):
                row = await canary_row(self._started.uncalibrated, self._started.plan.format.methods[0])
        except (TimeoutError, EnginePaused):
            return
        if row.error is not None or has_drifted(row.margin, self._started.margin):
            raise EngineDead(
                f"{self.name}: a known pair has the margin {row.margin}, at the start {self._started.margin}"
            )
