"""One engine, as a replica runs it: it reads tiles, writes evidence, and says when it can no longer be trusted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from whyrank.canary import CANARY_QUERY, CANARY_TEXT, canary_margin, has_drifted
from whyrank.checkpoints import Plan, make_plan
from whyrank.cluster.remote import Tile, TileAnswers, WrittenPiece
from whyrank.config import EngineConfig
from whyrank.errors import EngineDead, EnginePaused
from whyrank.label_choice import choose_labels
from whyrank.process import is_cpu_build, prepare_process
from whyrank.prompting.tokens import Ids
from whyrank.reranker import Reranker
from whyrank.runtimes import start_runtime
from whyrank.runtimes.base import Answer, GenerationParams, GenerativeRuntime, Runtime

__all__ = ["Description", "EngineReplica", "gpus_of"]

# A known pair must get its score in this time; a replica that is merely busy answers its tiles first.
_CANARY_SECONDS = 10.0


def gpus_of(config: EngineConfig) -> int:
    """What one engine takes."""
    return 0 if is_cpu_build() else config.tensor_parallel_size


@dataclass(frozen=True, slots=True)
class Description:
    """What the ingress must know of its replicas. `choice`: which of the plan's choices the model's answers decided for."""

    facts: dict[str, str | int]
    choice: int | None


class EngineReplica:
    def __init__(self, name: str, plan: Plan, runtime: Runtime, canary: Reranker, margin: float | None) -> None:
        self.name, self._plan, self._runtime = name, plan, runtime
        self._canary, self._margin = canary, margin

    @classmethod
    async def start(cls, name: str, config: EngineConfig) -> EngineReplica:
        prepare_process()
        plan = await asyncio.to_thread(make_plan, config)
        runtime = await start_runtime(plan)
        try:
            runtime, plan = await choose_labels(runtime, plan)
            canary = Reranker.from_runtime(runtime, plan.encoder, config).without_calibration()
            margin = await canary_margin(canary, config.model)
        except BaseException:
            await runtime.aclose()
            raise
        return cls(name, plan, runtime, canary, margin)

    def describe(self) -> Description:
        choices = self._plan.choices
        return Description(self._runtime.facts(), choices.index(self._plan.format) if len(choices) > 1 else None)

    async def read(self, tile: Tile) -> TileAnswers:
        answers = list[Answer]()
        await self._runtime.warm_prefix(tile.prompts, tile.frame, tile.salt)
        async with aclosing(self._runtime.read(tile.prompts, tile.priorities, tile.salt)) as batches:
            async for some in batches:
                answers += some
        return TileAnswers(self.name, answers)

    async def write(self, prompts: Sequence[Ids], order: GenerationParams) -> AsyncGenerator[WrittenPiece, None]:
        runtime = cast(GenerativeRuntime, self._runtime)  # the ingress asks nobody else
        async with aclosing(runtime.write(prompts, order)) as pieces:
            async for place, piece in pieces:
                yield self.name, place, piece

    async def check(self) -> None:
        """Raises EngineDead where the engine is gone, or gives a known pair another score than at the start."""
        try:
            async with asyncio.timeout(_CANARY_SECONDS):
                (row,) = await self._canary.score(CANARY_QUERY, [CANARY_TEXT])
        except (TimeoutError, EnginePaused):
            return
        if has_drifted(row.margin, self._margin):
            raise EngineDead(f"{self.name}: a known pair has the margin {row.margin}, at the start {self._margin}")
