"""The in-process reranker. `Reranker.events` is the whole path of a request: encode, score, order, explain.

The server, the command line and the adapters all end up here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from whyrank.base import BaseReranker
from whyrank.calibration import read_calibration
from whyrank.config import EngineConfig
from whyrank.errors import InvalidRequest
from whyrank.events import Event, Finished, Ranked, Scored, collect_ranking
from whyrank.pipeline.deadline import Deadline
from whyrank.pipeline.evidence_generator import EvidenceGenerator
from whyrank.pipeline.features import with_features
from whyrank.pipeline.listwise import ListRanker
from whyrank.pipeline.request_state import RequestState
from whyrank.pipeline.scorer import Refusal, Scorer, refuse_none
from whyrank.pipeline.spans import SpanFinder
from whyrank.pipeline.turns import Tenant
from whyrank.pipeline.verifier import EvidenceVerifier, Verifier
from whyrank.prompting.rendering import prompt_identity
from whyrank.prompting.tokens import PromptEncoder
from whyrank.ranking import Ranking
from whyrank.request import EvidenceStyle, RerankRequest
from whyrank.runtimes.base import Runtime

__all__ = ["Reranker"]


class Reranker(BaseReranker):
    """Reranks in this process, on an engine of its own.

        async with Reranker("Qwen/Qwen3-Reranker-0.6B") as reranker:
            ranking = await reranker.rerank("boiling point of water", ["Water boils at 100 °C.", "Everest is high."])

    Takes a model's name and the fields of EngineConfig, or an EngineConfig. The options of a call are those of RerankRequest.
    Concurrent calls share the engine; cancelling a call aborts its work.
    """

    # The engine batches prompts, not requests: a few requests keep it busy.
    _max_concurrency = 16

    def __init__(self, model: str | EngineConfig, **options: Any) -> None:
        self.config = EngineConfig(model, **options) if isinstance(model, str) else model
        self.calibration = read_calibration(Path(self.config.calibration)) if self.config.calibration else None
        self._runtime: Runtime | None = None
        self._verifier: Verifier | None = None
        self._encoder: PromptEncoder | None = None
        self._refusal: Refusal = refuse_none
        self._under_way = WeakSet[Deadline]()
        self._large_texts = ThreadPoolExecutor(1, "whyrank-large-texts")

    @classmethod
    def from_runtime(
        cls,
        runtime: Runtime,
        encoder: PromptEncoder,
        config: EngineConfig,
        refusal: Refusal = refuse_none,
        verifier: Verifier | None = None,
    ) -> Reranker:
        """Use running engines, which their owner stops. `refusal` may reject documents before they are scored."""
        reranker = cls(config)
        reranker._runtime, reranker._encoder, reranker._refusal = runtime, encoder, refusal
        reranker._verifier = verifier
        return reranker

    def without_calibration(self) -> Reranker:
        """The same running engine, without calibrated scores."""
        bare = copy(self)
        bare.config, bare.calibration = replace(self.config, calibration=None), None
        return bare

    async def __aenter__(self) -> Self:
        from whyrank.checkpoints import make_plan, make_verifier_plan
        from whyrank.start import start_checked
        from whyrank.verifier import start_verifier

        plan = await asyncio.to_thread(make_plan, self.config)
        verifier_plan = await asyncio.to_thread(make_verifier_plan, plan)
        # The same check as at the start of a server: a broken checkpoint must not give scores here either.
        started = await start_checked(plan)
        try:
            if verifier_plan is not None:
                self._verifier = await start_verifier(verifier_plan)
        except BaseException:
            await started.runtime.aclose()
            raise
        self._runtime, self._encoder = started.runtime, started.plan.encoder
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        verifier, self._verifier = self._verifier, None
        runtime, self._runtime = self._runtime, None
        try:
            if verifier is not None:
                await verifier.runtime.aclose()
        finally:
            if runtime is not None:
                await runtime.aclose()

    async def _answer(self, request: RerankRequest) -> Ranking:
        return await collect_ranking(self.events(request))

    async def events(
        self, request: RerankRequest, live: bool = False, tenant: Tenant | None = None
    ) -> AsyncGenerator[Event, None]:
        """Encode and score every document, order them, then explain the best: by evidence or by the spans that answer.

        tenant: on whose behalf, where several share the engine."""
        runtime, encoder = self._started()
        if request.method == "listwise":
            async with aclosing(self._listed(request, tenant)) as events:
                async for event in events:
                    yield event
            return
        request = self._with_features(request)
        prompt = prompt_identity(encoder.format, request.instruction)
        if self.calibration is not None:
            self.calibration.check_instruction(prompt)

        def make_scorer(request: RerankRequest) -> Scorer:
            return Scorer(request, runtime, encoder, self._refusal, tenant, self._large_texts)

        explainer: EvidenceGenerator | SpanFinder | None = None
        if request.mode == "evidence":
            style: EvidenceStyle = "verbatim" if self.config.is_embedded else "rewrite"
            verifier = self._evidence_verifier(request, tenant) if request.verify == "model" else None
            explainer = EvidenceGenerator(request, runtime, encoder, live, style, verifier)
        elif request.mode == "spans":
            explainer = SpanFinder(request, encoder.format.score_rule, make_scorer)
        scorer = make_scorer(request)
        deadline = Deadline(request.deadline_ms)
        self._under_way.add(deadline)
        state = RequestState(request, encoder.format.score_rule, self.calibration)
        async with aclosing(scorer.read(state, deadline)) as batches:
            async for rows in batches:
                for row in rows:
                    yield Scored(row)
        usage = state.usage() + scorer.warm_usage
        ranking = Ranking(state.results(), usage, self.config.model, prompt, first_cut=state.first_cut())
        yield Ranked(ranking)
        if explainer is not None:
            async with aclosing(explainer.explain(state, deadline)) as events:
                async for event in events:
                    yield event
            usage += explainer.usage
            ranking = replace(ranking, results=state.results(), usage=usage, evidence_usage=explainer.usage)
        yield Finished(ranking)

    def _with_features(self, request: RerankRequest) -> RerankRequest:
        if self.config.features != "auto":
            return request
        wanted = self._started()[1].format.features.keys()
        return replace(request, documents=with_features(request.query, request.documents, wanted))

    async def _listed(self, request: RerankRequest, tenant: Tenant | None) -> AsyncGenerator[Event, None]:
        """With method "listwise": no row is known before all are."""
        runtime, encoder = self._started()
        ranker = ListRanker(request, runtime, encoder, self._refusal, tenant)
        deadline = Deadline(request.deadline_ms)
        self._under_way.add(deadline)
        rows = await ranker.rank(deadline)
        for row in rows:
            yield Scored(row)
        prompt = prompt_identity(encoder.format, request.instruction, request.method)
        cut = (row for row in rows if row.truncation is not None and row.truncation.truncated)
        results = tuple(row for row in rows if row.error or request.top_n is None or (row.rank or 0) <= request.top_n)
        ranking = Ranking(results, ranker.usage, self.config.model, prompt, first_cut=next(cut, None))
        yield Ranked(ranking)
        yield Finished(ranking)

    def _evidence_verifier(self, request: RerankRequest, tenant: Tenant | None) -> EvidenceVerifier:
        """On the second engine, where there is one, or on the one that reranks."""
        verifier = self._verifier
        if verifier is None:
            runtime, encoder = self._started()
            verifier = Verifier(self.config.model, runtime, encoder)
            if not encoder.format.can_judge_claims:
                raise InvalidRequest(
                    f"verify 'model': prompt '{encoder.format.name}' can judge only relevance, not whether a document "
                    "backs a sentence: start with a verifier (--verifier MODEL), or leave verify out"
                )

        def make_scorer(request: RerankRequest, queries: Sequence[str]) -> Scorer:
            engine = verifier.runtime, verifier.encoder
            return Scorer(request, *engine, self._refusal, tenant, self._large_texts, queries)

        return EvidenceVerifier(request, verifier, make_scorer)

    def finish_early(self) -> None:
        """Make every running call return now with what it has, because the engine is about to stop."""
        for deadline in tuple(self._under_way):
            deadline.end()

    def _started(self) -> tuple[Runtime, PromptEncoder]:
        if self._runtime is None or self._encoder is None:
            raise InvalidRequest("this Reranker is not running: use `async with Reranker(...) as reranker:`")
        return self._runtime, self._encoder
