"""The one road a request takes (`Reranker.events`). Everything else in whyrank is a door onto it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from whyrank.calibration import read_calibration
from whyrank.canary import canary_margin
from whyrank.config import EngineConfig
from whyrank.errors import InvalidRequest
from whyrank.events import Event, Finished, Ranked, Scored, ranking_at_the_end
from whyrank.prompting.rendering import prompt_identity
from whyrank.prompting.tokens import PromptEncoder
from whyrank.ranking import Ranking
from whyrank.requests import RerankRequest
from whyrank.road.deadline import Deadline
from whyrank.road.reading import Reader, Refusal, refuse_none
from whyrank.road.scoresheet import Scoresheet
from whyrank.road.writing import Writer
from whyrank.runtimes.base import Runtime
from whyrank.verbs import Verbs

__all__ = ["Reranker"]


class Reranker(Verbs):
    """Reranks in this process, on an engine of its own.

        async with Reranker("Qwen/Qwen3-Reranker-0.6B") as reranker:
            ranking = await reranker.rerank("boiling point of water", ["Water boils at 100 °C.", "Everest is high."])

    Give a model's name and the fields of EngineConfig, or an EngineConfig. The options of a call are those of RerankRequest.
    Calls may overlap and share the engine; cancelling one frees its work.
    """

    # The engine batches prompts, not requests: a few keep it full.
    _at_once = 16

    def __init__(self, model: str | EngineConfig, **options: Any) -> None:
        self.config = EngineConfig(model, **options) if isinstance(model, str) else model
        self.calibration = read_calibration(Path(self.config.calibration)) if self.config.calibration else None
        self._runtime: Runtime | None = None
        self._encoder: PromptEncoder | None = None
        self._refusal: Refusal = refuse_none
        self._under_way = WeakSet[Deadline]()
        self._large_texts = ThreadPoolExecutor(1, "whyrank-large-texts")

    @classmethod
    def over(
        cls, runtime: Runtime, encoder: PromptEncoder, config: EngineConfig, refusal: Refusal = refuse_none
    ) -> Reranker:
        """On an engine that runs already and belongs to somebody else, who also stops it and may refuse documents."""
        reranker = cls(config)
        reranker._runtime, reranker._encoder, reranker._refusal = runtime, encoder, refusal
        return reranker

    async def __aenter__(self) -> Self:
        from whyrank.checkpoints import make_plan
        from whyrank.runtimes import start_runtime

        plan = await asyncio.to_thread(make_plan, self.config)
        runtime = await start_runtime(plan)
        try:
            # What a server refuses to serve, nobody gets scores of in process either.
            bare = Reranker.over(runtime, plan.encoder, replace(self.config, calibration=None))
            await canary_margin(bare, self.config.model)
        except BaseException:
            await runtime.aclose()
            raise
        self._runtime, self._encoder = runtime, plan.encoder
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            await runtime.aclose()

    async def _answer(self, request: RerankRequest) -> Ranking:
        return await ranking_at_the_end(self.events(request))

    async def events(
        self, request: RerankRequest, live: bool = False, priority: int = 0
    ) -> AsyncGenerator[Event, None]:
        """Text to ids, ids to label reads, reads to an order; then the best are continued and held against their text.

        priority: what has a lower number goes first where the engine has a choice."""
        runtime, encoder = self._started()
        prompt = prompt_identity(encoder.format, request.instruction)
        if self.calibration is not None:
            self.calibration.check_instruction(prompt)
        reader = Reader(request, runtime, encoder, self._refusal, priority, self._large_texts)
        writer = Writer(request, runtime, encoder, live) if request.mode == "evidence" else None
        deadline = Deadline(request.deadline_ms)
        self._under_way.add(deadline)
        sheet = Scoresheet(request, encoder.format.score_rule, self.calibration)
        async with aclosing(reader.read(sheet, deadline)) as rows:
            async for row in rows:
                yield Scored(row)
        usage = sheet.usage() + reader.priming
        ranking = Ranking(sheet.results(), usage, self.config.model, prompt, first_cut=sheet.first_cut())
        yield Ranked(ranking)
        if writer is not None:
            async with aclosing(writer.write(sheet, deadline)) as events:
                async for event in events:
                    yield event
            usage += writer.usage
            ranking = replace(ranking, results=sheet.results(), usage=usage, evidence_usage=writer.usage)
        yield Finished(ranking)

    def wind_up(self) -> None:
        """Every call under way answers now, with what it has: for an engine that is about to be stopped."""
        for deadline in tuple(self._under_way):
            deadline.end()

    def _started(self) -> tuple[Runtime, PromptEncoder]:
        if self._runtime is None or self._encoder is None:
            raise InvalidRequest("this Reranker is not running: use `async with Reranker(...) as reranker:`")
        return self._runtime, self._encoder
