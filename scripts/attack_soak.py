"""The soak test: mixed hostile callers at a moderate pace beside two honest tenants; watches the memory of both processes."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import attack_access as access
import attack_bodies as bodies
import attack_connections as connections
from attack_honest import Observation, watching
from attack_target import GuardedServer, MemorySample, Result, Target

__all__ = ["slope", "soak"]

_CALLERS = 5
_CALL_LIMIT = 30.0
_PAUSE_SECONDS = (0.2, 2.0)
# Hostile callers sit on other machines: here, what it costs to be one must not slow the server and the honest tenants down.
_NICENESS = 15
_MAX_SLOPE = {"api": 1.0, "engine": 2.0}
"""In MiB per minute."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack of the mixture, by time.monotonic."""

    kind: str
    began: float
    ended: float


_DOCUMENTS = '"query":"q","documents":'
_KINDS: list[Callable[[Target, Result], Awaitable[None]]] = [
    partial(connections.silent_bodies, count=8, seconds=10),
    partial(connections.trickled_bodies, count=8, seconds=10),
    partial(connections.endless_chunks, count=2, seconds=5),
    partial(connections.half_headers, count=200, seconds=10),
    partial(connections.idle_connections, count=200, seconds=10),
    partial(connections.unread, path="/v1/rerank/stream", count=2, seconds=10, documents=300),
    partial(connections.unread, path="/v1/rerank", count=2, seconds=10, documents=300),
    partial(connections.leaving_callers, count=10),
    partial(bodies.numbers, path="/v1/rerank", start=_DOCUMENTS, mib=0.5),
    partial(bodies.numbers, path="/v1/score", start='"text_1":"q","text_2":', mib=0.5),
    partial(bodies.numbers, path="/v1/rerank/batch", start='"requests":', mib=0.5),
    partial(bodies.empty_objects, mib=2),
    partial(bodies.deep_nesting, depth=20_000),
    partial(bodies.unknown_keys, queries=50, keys=2000),
    partial(bodies.rank_fields, names=5000, path="/v1/rerank"),
    partial(bodies.large_document, queries=20, mib=0.5),
    partial(bodies.windows, documents=1, words=5000),
    partial(bodies.writing, documents=40),
    bodies.odd_text,
    access.odd_priority_and_salt,
    partial(access.priority, seconds=5),
]


async def soak(server: GuardedServer, alone: Observation, minutes: float, seed: int) -> Result:
    """Runs for so many minutes, and judges what the honest tenants and the memory show."""
    result, target = Result(), await server.target()
    counts, began = Counter[str](), time.monotonic()
    attacks: list[Attack] = []
    async with watching(target, alone.margins) as watch:
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
        callers = [
            asyncio.create_task(_caller(target, random.Random(f"{seed} {n}"), counts, attacks)) for n in range(_CALLERS)
        ]
        callers.append(asyncio.create_task(_report(server, minutes)))
        await asyncio.wait(callers, timeout=60 * minutes, return_when=asyncio.FIRST_EXCEPTION)
        for task in callers:
            task.cancel()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        result.failures += [repr(error) for error in outcomes if isinstance(error, Exception)]
        seen = await watch.stop()
    samples = [sample for sample in server.samples if sample.at >= began]
    result.figures = {"minutes": minutes, "seed": seed, "hostile_calls": dict(counts), "honest": seen.figures()}
    result.figures["slow_beside"] = _slow_beside(seen, attacks)
    _judge(result, seen, alone, samples)
    result.require(not server.killed_for_memory, "killed at 8 GiB")
    return result


async def _caller(target: Target, chance: random.Random, counts: Counter[str], attacks: list[Attack]) -> None:
    while True:
        kind = chance.choice(_KINDS)
        name = getattr(kind, "func", kind).__name__
        counts[name] += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(_CALL_LIMIT):
                if chance.random() < 0.3:
                    await bodies.varied_budgets(target, Result(), seconds=3, seed=chance.randrange(1 << 30))
                    attacks.append(Attack("varied_budgets", began, time.monotonic()))
                    began = time.monotonic()
                await kind(target, Result())
        except (TimeoutError, OSError):
            counts[f"{name} cut"] += 1
        attacks.append(Attack(name, began, time.monotonic()))
        await asyncio.sleep(chance.uniform(*_PAUSE_SECONDS))


def _slow_beside(seen: Observation, attacks: list[Attack]) -> dict[str, float]:
    """For each kind of attack: how many times as often it was there beside the slowest hundredth of the honest calls as beside
    all of them. Far above 1: that kind is why they were slow."""
    bound, calls = seen.percentile(0.99), list(zip(seen.began, seen.seconds, strict=True))
    slow = [call for call in calls if call[1] >= bound]
    figures = {}
    for kind in sorted({attack.kind for attack in attacks}):
        times = [(attack.began, attack.ended) for attack in attacks if attack.kind == kind]
        shares = [
            sum(any(start < began + spent and began < end for start, end in times) for began, spent in some) / len(some)
            for some in (slow, calls)
        ]
        figures[kind] = round(shares[0] / shares[1], 2) if shares[1] else 0.0
    return dict(sorted(figures.items(), key=lambda item: -item[1]))


async def _report(server: GuardedServer, minutes: float) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(30)
        last = server.samples[-1]
        passed = (time.monotonic() - began) / 60
        sizes = f"API {last.api >> 20} MiB, engine {last.engine >> 20} MiB"
        print(f"soak: {passed:.1f} of {minutes} minutes, {sizes}", file=sys.stderr)


def _judge(result: Result, seen: Observation, alone: Observation, samples: list[MemorySample]) -> None:
    result.require(not seen.refused, f"{sum(seen.refused.values())} honest calls refused: {dict(seen.refused)}")
    result.require(seen.wrong == 0, f"{seen.wrong} wrong scores")
    bound = 5 * alone.percentile(0.99)
    result.require(seen.percentile(0.99) <= bound, f"p99 {seen.percentile(0.99):.2f} s, above {bound:.2f} s")
    slopes = {name: slope([(s.at, getattr(s, name)) for s in samples]) for name in _MAX_SLOPE}
    result.figures["memory"] = {name: _memory(samples, name) | {"mib_per_minute": slopes[name]} for name in slopes}
    for name, limit in _MAX_SLOPE.items():
        result.require(abs(slopes[name]) < limit, f"memory of {name}: {slopes[name]} MiB a minute, not within {limit}")


def _memory(samples: list[MemorySample], name: str) -> dict[str, Any]:
    sizes = [getattr(sample, name) >> 20 for sample in samples] or [0]
    every = max(1, len(sizes) // 30)
    return {"first_mib": sizes[0], "last_mib": sizes[-1], "max_mib": max(sizes), "curve_mib": sizes[::every]}


def slope(sizes: list[tuple[float, int]]) -> float:
    """MiB per minute by least squares, after the first third, which counts as warm-up."""
    rest = sizes[len(sizes) // 3 :]
    if len(rest) < 2:
        return 0.0
    mean_at = sum(at for at, _ in rest) / len(rest)
    mean_size = sum(size for _, size in rest) / len(rest)
    above = sum((at - mean_at) * (size - mean_size) for at, size in rest)
    below = sum((at - mean_at) ** 2 for at, _ in rest)
    return round(60 * above / below / (1 << 20), 2)
