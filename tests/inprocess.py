"""The server without a socket or an engine: the real routes, prompts and tokenizer over a runtime that answers at once."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import httpx
from fastapi import FastAPI

from whyrank.checkpoints import Plan, make_plan
from whyrank.config import EngineConfig
from whyrank.prompting.scoring import LabelRead
from whyrank.prompting.tokens import Ids, PromptEncoder
from whyrank.runtimes.base import Answer, Generation, GenerationParams, TextDelta
from whyrank.serving.admission import Limits
from whyrank.serving.router import routers
from whyrank.serving.service import Service
from whyrank.types import DocumentError, Usage


def labels_of(ids: Ids) -> tuple[float, float]:
    return zlib.crc32(repr(tuple(ids)).encode()) % 8000 / 1000 - 4, 0.99


class FakeRuntime:
    """The margin of a prompt depends only on its ids; every continuation is the same. While `open` is not set, answers are held
    back; a prompt in `broken` fails by itself; `says_labels` gives the log-probabilities of both labels."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self.says = encoder.encode_frame("Says where.</contribution>\n<evidence>Water boils.</evidence>")
        self.says_labels: Callable[[Ids], tuple[float, float]] = labels_of
        self.salts: list[str | None] = []
        self.prompts: list[Ids] = []
        self.broken: set[Ids] = set()
        self.others: tuple[Generation, ...] = ()
        self.left = 0
        self.reached = asyncio.Event()
        self.failure: Exception | None = None
        self.writing_failure: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def warm_prefix(self, prompts: Sequence[Ids], frame: Ids, salt: str | None) -> Usage:
        return Usage()

    async def read(
        self, prompts: Sequence[Ids], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[Answer], None]:
        self.salts.append(salt)
        self.prompts += prompts
        self.reached.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        if self.failure is not None:
            raise self.failure
        for i, ids in enumerate(prompts):
            broken = DocumentError("engine", "the engine gave up on it") if ids in self.broken else None
            yield [(i, broken or LabelRead(*self.says_labels(ids), len(ids)))]

    async def write(
        self, prompts: Sequence[Ids], order: GenerationParams
    ) -> AsyncGenerator[tuple[int, TextDelta | Generation], None]:
        if self.writing_failure is not None:
            raise self.writing_failure
        for i in range(len(prompts)):
            if order.live:
                yield i, TextDelta("Says where.</contr", self.says[:3])
            yield i, Generation(self.says, "stop", Usage(output_tokens=len(self.says)), self.others)

    def facts(self) -> dict[str, str | int]:
        return {}

    async def aclose(self) -> None: ...


def prism_plan(folder: Path) -> Plan:
    return make_plan(EngineConfig(str(folder), prompt="prism"))


class InProcess:
    """`app` is what vLLM would run; `client()` calls it without a socket."""

    def __init__(self, plan: Plan, *keys: str, **limits: int) -> None:
        self.runtime = FakeRuntime(plan.encoder)
        self.service = Service(self.runtime, plan, Limits(**limits), keys, "tiny")
        self.app = FastAPI()
        for router in routers:
            self.app.include_router(router)
        self.app.state.whyrank = self.service

    def client(self, **headers: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test", headers=headers)
