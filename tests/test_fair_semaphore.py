"""Slots for continuations: never more than there are, fairly shared among calls, and given back whatever happens."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace

import pytest

from whyrank.runtimes.fair_semaphore import FairSemaphore
from whyrank.runtimes.generate import max_concurrent_generations, max_continued_tokens


class Call:
    """Takes a number of slots, each until `finish`; records in `order` when it gets one."""

    def __init__(self, places: FairSemaphore, name: str, count: int, order: list[str]) -> None:
        self.places, self.name, self.order = places, name, order
        self.held = 0
        self._finish = asyncio.Semaphore(0)
        self.tasks = [asyncio.create_task(self._one()) for _ in range(count)]

    async def _one(self) -> None:
        async with self.places.place(self):
            self.order.append(self.name)
            self.held += 1
            try:
                await self._finish.acquire()
            finally:
                self.held -= 1

    async def finish(self, count: int = 1) -> None:
        for _ in range(count):
            self._finish.release()
        await settled()

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settled() -> None:
    """Returns when everything that can run has run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_are_taken_than_there_are() -> None:
    large = Call(FairSemaphore(4), "large", 100, [])
    await settled()
    for _ in range(96):
        assert large.held == 4
        await large.finish()
    await large.finish(4)
    assert large.held == 0
    await asyncio.gather(*large.tasks)


async def test_a_small_call_gets_the_next_places_that_become_free() -> None:
    places, order = FairSemaphore(4), list[str]()
    large = Call(places, "large", 1000, order)
    await settled()
    small = Call(places, "small", 5, order)
    await settled()
    await large.finish(2)
    assert (large.held, small.held) == (2, 2)
    await large.finish(2)
    await small.finish(3)
    assert order.count("small") == 5
    await large.leave()
    await small.leave()


async def test_calls_share_evenly() -> None:
    places = FairSemaphore(9)
    calls = [Call(places, str(n), 100, []) for n in range(3)]
    await settled()
    for call in calls * 10:
        await call.finish()
    assert [call.held for call in calls] == [3, 3, 3]
    for call in calls:
        await call.leave()


async def test_who_leaves_gives_back_what_it_holds_and_what_it_waits_for() -> None:
    places, order = FairSemaphore(2), list[str]()
    first, second = Call(places, "first", 10, order), Call(places, "second", 10, order)
    await settled()
    await first.leave()
    await settled()
    assert second.held == 2
    await second.leave()
    third = Call(places, "third", 3, order)
    await settled()
    assert third.held == 2
    await third.leave()


async def test_a_place_granted_to_a_call_that_is_cancelled_at_the_same_moment_is_not_lost() -> None:
    places, order = FairSemaphore(1), list[str]()
    holder = Call(places, "holder", 1, order)
    await settled()
    waiting = Call(places, "waiting", 1, order)
    await settled()
    holder.tasks[0].cancel()
    with suppress(asyncio.CancelledError):
        await holder.tasks[0]  # this hands the slot over
    await waiting.leave()
    last = Call(places, "last", 1, order)
    await settled()
    assert last.held == 1
    await last.leave()


async def test_a_large_place_waits_until_it_has_room_and_nobody_overtakes_it_for_ever() -> None:
    places, order = FairSemaphore(4), list[str]()
    small = Call(places, "small", 8, order)
    await settled()

    async def take_three() -> None:
        async with places.place("large", 3):
            order.append("large")

    large = asyncio.create_task(take_three())
    await settled()
    await small.finish(2)
    assert order == ["small"] * 4  # the two free places are kept
    await small.finish(1)
    assert order[4:5] == ["large"]
    await large
    await settled()
    assert small.held == 4
    await small.finish(1)
    hopeful = asyncio.create_task(take_three())
    await settled()
    hopeful.cancel()
    await small.leave()
    last = Call(places, "last", 4, order)
    await settled()
    assert last.held == 4
    await last.leave()
    async with places.place("larger than all", 9):
        pass


@pytest.mark.parametrize(("seats", "processes"), [(64, 1), (256, 1), (256, 4), (64, 8), (1, 1)])
def test_writing_leaves_room_for_scoring(seats: int, processes: int) -> None:
    """On each engine, counted over all processes together."""
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=seats),
        parallel_config=SimpleNamespace(_api_process_rank=0, _api_process_count=processes),
    )
    places = max_concurrent_generations(config)
    assert places >= 1
    assert places * processes <= max(processes, seats // 2)


@pytest.mark.parametrize(("engines", "processes"), [(1, 1), (4, 1), (2, 8)])
def test_what_is_continued_takes_half_of_each_cache(engines: int, processes: int) -> None:
    config = SimpleNamespace(
        cache_config=SimpleNamespace(num_gpu_blocks=1000 * engines, block_size=16),
        parallel_config=SimpleNamespace(
            _api_process_rank=0,
            _api_process_count=processes,
            data_parallel_size=engines,
            local_engines_only=False,
        ),
    )
    assert max_continued_tokens(config) * processes == 1000 * 16 // 2
    config.cache_config.num_gpu_blocks = None
    assert max_continued_tokens(config) == 1
