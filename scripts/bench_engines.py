"""Engines that a benchmark compares call by call: started and tried out as whyrank's own are, measured by clock and processor
time."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Self

import psutil

from whyrank import EngineConfig, Reranker
from whyrank.checkpoints import make_plan
from whyrank.ranking import Ranking
from whyrank.start import start_checked

__all__ = ["MeasuredEngine", "spread"]


@dataclass
class MeasuredEngine:
    """One engine, and what each of its calls took: seconds, the engine's processor time, and the documents' margins."""

    reranker: Reranker
    facts: dict[str, str | int]
    process: psutil.Process
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    margins: list[list[float]] = field(default_factory=list)

    @classmethod
    async def start(cls, config: EngineConfig, opened: AsyncExitStack) -> Self:
        before = {child.pid for child in psutil.Process().children()}
        started = await start_checked(await asyncio.to_thread(make_plan, config))
        opened.push_async_callback(started.runtime.aclose)
        engine = max(
            (child for child in psutil.Process().children() if child.pid not in before),
            key=lambda child: child.memory_info().rss,  # beside it, Python has helpers of its own
        )
        return cls(started.uncalibrated, started.runtime.facts(), engine)

    async def call(self, query: str, documents: list[str]) -> Ranking:
        cpu, began = self._cpu_seconds(), time.perf_counter()
        ranking = await self.reranker.rerank(query, documents)
        self.seconds.append(time.perf_counter() - began)
        self.cpu_seconds.append(self._cpu_seconds() - cpu)
        rows = sorted(ranking.results, key=lambda row: row.index)
        self.margins.append([float("nan") if row.margin is None else row.margin for row in rows])
        return ranking

    def _cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


def spread(values: Sequence[float]) -> dict[str, float]:
    middle = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in middle.items()}
