"""One Reranker with what a server needs around it. Every route ends in a call to `Service`."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType

from whyrank.canary import CANARY_QUERY, CANARY_TEXT, canary_margin, canary_row, has_drifted
from whyrank.checkpoints import Plan
from whyrank.errors import EngineDead, EnginePaused, Stopping, Unauthorized, WhyrankError
from whyrank.events import Event, EvidenceDone, Finished, Scored, collect_ranking
from whyrank.fan_out import as_completed
from whyrank.pipeline.turns import Tenant
from whyrank.pipeline.verifier import Verifier
from whyrank.prompting.rendering import prompt_identity
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.reranker import Reranker
from whyrank.runtimes.base import GenerativeRuntime, Runtime, engines_of
from whyrank.serving import metrics
from whyrank.serving.admission import Admission, Limits
from whyrank.serving.instance import instance_id
from whyrank.serving.tracing import RankingSpans

__all__ = ["Adapter", "Health", "Service"]

logger = logging.getLogger(__name__)

_CANARY_KEPT_SECONDS = 5.0
# Enough to compile the grammar; the evidence itself is discarded.
_WARM_UP_MS = 2000.0
# Concurrent requests of one batch; the engine batches documents, not requests.
_MAX_CONCURRENT_REQUESTS = 16
# How long a thread that parses or encodes may keep the GIL while the event loop waits for it (Python's default: 5 ms).
_SWITCH_SECONDS = 0.001
# For sending the responses of calls that were finished early.
_LAST_ANSWERS_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Health:
    """`status`: ok, busy (the canary timed out, but the engine is alive), wrong, dead or stopping."""

    status: str
    canary_margin: float | None
    canary_expected: float | None

    @property
    def well(self) -> bool:
        return self.status in ("ok", "busy")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: its folder or hub name, and the engine's runtime that applies it."""

    source: str
    runtime: Runtime


class Service:
    canary_seconds = 5.0
    """How long the canary may take before the engine counts as busy."""
    body_seconds = 10.0
    """Time for a request's body to arrive, beside what its size adds."""

    def __init__(
        self,
        runtime: Runtime,
        plan: Plan,
        limits: Limits,
        keys: Sequence[str],
        model: str,
        *other_names: str,
        strict_model: bool = False,
        verifier: Verifier | None = None,
        adapters: Mapping[str, Adapter] = MappingProxyType({}),
        processes: int = 1,
    ) -> None:
        """`keys`: the API keys that are let in, each a tenant; none: everybody is. `model`: the name that answers give;
        `other_names`: further ones that requests may give. `strict_model`: requests with yet another name are refused.
        `verifier`: a second engine, which judges evidence; its owner closes it. `adapters`: by the names with which requests
        choose them. `processes`: how many processes the server has; the limits are those of all of them together."""
        config = replace(plan.config, model=model)
        self.reranker = Reranker.from_runtime(runtime, plan.encoder, config, limits.refusal, verifier)
        self.verifier = verifier
        self._uncalibrated = self.reranker.without_calibration()
        self.runtime = runtime
        self.plan = plan
        self._method = plan.format.methods[0]
        self.limits = limits
        self.model = model
        self.names = (model, *other_names, *adapters)
        self._adapters = {
            name: Reranker.from_runtime(
                adapter.runtime, plan.encoder, replace(config, model=name, calibration=None), limits.refusal, verifier
            )
            for name, adapter in adapters.items()
        }
        self.strict_model = strict_model
        self.admission = Admission(limits, len([key for key in keys if key]), processes)
        self.instance_id = instance_id(plan, runtime, model, {name: one.source for name, one in adapters.items()})
        self._stopping = False
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys if key]
        self._expected: float | None = None
        self._health: tuple[float, Health] | None = None
        self._health_turn = asyncio.Lock()

    @property
    def writes(self) -> bool:
        return self.plan.format.continuation is not None and isinstance(self.runtime, GenerativeRuntime)

    @property
    def wants_key(self) -> bool:
        return bool(self._keys)

    def serves(self, model: str) -> bool:
        """Whether a request's model name is one of this model's names or an adapter's, with its owner or without."""
        return any(_is_named(model, name) for name in self.names)

    def answering(self, model: str | None) -> str:
        """The name of what answers requests for this model: an adapter's, else that of the model itself."""
        return next((name for name in self._adapters if model is not None and _is_named(model, name)), self.model)

    async def warm_up(self) -> None:
        """The first score and the first grammar take longer than later ones: get them done before the first request, in each
        engine. Of several engines, calls that come one after the other, or side by side, get different ones."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        engines = len(engines_of(self.runtime))
        margins = [await canary_margin(self._uncalibrated, self.model, self._method) for _ in range(engines)]
        self._expected = margins[0]
        for name, adapted in self._adapters.items():
            await canary_margin(adapted, name, self._method)
        if self.writes:
            await asyncio.gather(*(self._warm_grammar() for _ in range(engines)))

    async def _warm_grammar(self) -> None:
        await self._uncalibrated.rerank(
            CANARY_QUERY, [CANARY_TEXT], mode="evidence", evidence_min_score=0, deadline_ms=_WARM_UP_MS
        )

    def tenant(self, key: str | None) -> str | None:
        """The cache salt of the key's tenant. With a single key, or none, all callers share the cache."""
        if not self._keys:
            return None
        digest = hashlib.sha256((key or "").encode()).digest()
        # Compare with every key, so that the time taken reveals nothing.
        if not any([secrets.compare_digest(digest, known) for known in self._keys]):
            raise Unauthorized("this server requires an API key: send 'Authorization: Bearer KEY'")
        return digest.hex()[:16] if len(self._keys) > 1 else None

    def stop(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        """Accept no new calls, give calls in flight `seconds`, then have them answer with what they have.

        Blocks the calling thread, which must not be that of the event loop that answers the calls."""
        self._stopping = True
        self.admission.wait_until_empty(seconds)
        loop.call_soon_threadsafe(self.reranker.finish_early)
        self.admission.wait_until_empty(_LAST_ANSWERS_SECONDS)

    async def rerank(self, request: RerankRequest, tenant: str | None = None, model: str | None = None) -> Ranking:
        return await collect_ranking(self.events(request, tenant=tenant, model=model))

    async def events(
        self, request: RerankRequest, live: bool = False, tenant: str | None = None, model: str | None = None
    ) -> AsyncGenerator[Event, None]:
        self.limits.check(request)
        with self._inside(len(request.documents), tenant) as inside:
            async with aclosing(self._observed(request, model, live, inside)) as events:
                async for event in events:
                    yield event

    async def rerank_many(
        self, requests: Sequence[tuple[RerankRequest, str | None]], tenant: str | None = None
    ) -> list[Ranking | WhyrankError]:
        """Requests with the models that they name. Accepted or refused as a whole; then each has its own ranking or error, in
        order."""
        count = sum(len(request.documents) for request, _ in requests)
        self.limits.check_count(count, "documents")

        async def answer(index: int) -> Ranking | WhyrankError:
            request, model = requests[index]
            try:
                self.limits.check(request)
                return await collect_ranking(self._observed(request, model, live=False, tenant=inside))
            except EngineDead:
                raise  # no request can be answered any more
            except WhyrankError as error:
                return error

        answers: dict[int, Ranking | WhyrankError] = {}
        with self._inside(count, tenant) as inside:
            async with aclosing(as_completed(answer, len(requests), _MAX_CONCURRENT_REQUESTS)) as answered:
                async for index, ranking in answered:
                    answers[index] = ranking
        return [answers[index] for index in range(len(requests))]

    @contextmanager
    def _inside(self, documents: int, tenant: str | None) -> Iterator[Tenant | None]:
        """Admits the call."""
        if self._stopping:
            raise Stopping("this server is shutting down: use another one, or try again later")
        with self.admission.admitted(documents, tenant) as inside:
            metrics.in_flight(documents)
            try:
                yield inside
            finally:
                metrics.in_flight(-documents)

    async def _observed(
        self, request: RerankRequest, model: str | None, live: bool, tenant: Tenant | None
    ) -> AsyncGenerator[Event, None]:
        """The Reranker's events, with metrics."""
        began, scored, written = time.monotonic(), set[int](), 0.0
        spans = RankingSpans(request)
        try:
            async with aclosing(self._reranker_for(request, model).events(request, live, tenant)) as events:
                async for event in events:
                    spans.observe(event)
                    match event:
                        case Scored(row):
                            if not scored:
                                metrics.observe_first_score(time.monotonic() - began)
                            scored.add(row.index)
                            metrics.count_document(row)
                        case EvidenceDone():
                            written = time.monotonic() - began
                        case Finished(ranking):
                            metrics.count_ranking(ranking, scored)
                    yield event
        except EngineDead:
            self._health = None  # a cached good state is no longer true
            raise
        finally:
            spans.end()
        if written:
            metrics.observe_last_evidence(written)

    def _reranker_for(self, request: RerankRequest, model: str | None) -> Reranker:
        answering = self.answering(model)
        if answering in self._adapters:
            return self._adapters[answering]
        prompt = prompt_identity(self.plan.format, request.instruction)
        return self._uncalibrated if self.lacks_calibration(answering, prompt) else self.reranker

    def lacks_calibration(self, model: str, prompt: str) -> bool:
        """Whether the server has a calibration, but none for calls whose Ranking has this model and prompt: it was made for one
        model and one instruction."""
        calibration = self.reranker.calibration
        return calibration is not None and (model in self._adapters or not calibration.fits_instruction(prompt))

    async def health(self) -> Health:
        """Whether a known pair still gets its score. Measured at most every few seconds, however often it is called."""
        if self._stopping:
            return Health("stopping", None, self._expected)
        async with self._health_turn:
            now = time.monotonic()
            if self._health is None or now - self._health[0] > _CANARY_KEPT_SECONDS or not self._health[1].well:
                self._health = now, await self._examine()
            return self._health[1]

    async def _examine(self) -> Health:
        try:
            async with asyncio.timeout(self.canary_seconds):
                row = await canary_row(self._uncalibrated, self._method)
        except (TimeoutError, EnginePaused):
            return Health("busy", None, self._expected)
        except EngineDead:
            return Health("dead", None, self._expected)
        wrong = row.error is not None or has_drifted(row.margin, self._expected)
        return Health("wrong" if wrong else "ok", row.margin, self._expected)


def _is_named(model: str, name: str) -> bool:
    return model in (name, name.rpartition("/")[2])
