"""Engines in parallel: how a call's documents are spread over them, and what each has in its prefix cache."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from inprocess import FakeRuntime, prism_plan
from samples import QUERY
from whyrank import Reranker
from whyrank.prompting.tokens import Ids
from whyrank.runtimes.base import engines_of, next_engine
from whyrank.runtimes.ranks import Ranks, Readers
from whyrank.types import Usage


def test_equal_work_is_spread_evenly() -> None:
    ranks = Ranks(3)
    assert Counter(ranks.choose() for _ in range(30)) == dict.fromkeys(range(3), 10)


def test_processes_begin_with_different_engines() -> None:
    assert [Ranks(4, process, 2).choose() for process in range(2)] == [0, 2]
    assert [Ranks(2, process, 8).choose() for process in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_the_engine_with_the_fewest_tokens_is_next() -> None:
    ranks, dice = Ranks(3), random.Random(1)
    with ranks.working(0, 500), ranks.working(1, 200):
        assert [ranks.choose() for _ in range(3)] == [2, 2, 2]
        with ranks.working(2, 300):
            assert ranks.choose() == 1
    tokens = [0, 0, 0]
    with ExitStack() as stack:
        for _ in range(300):
            rank, size = ranks.choose(), dice.randrange(1, 1000)
            stack.enter_context(ranks.working(rank, size))
            tokens[rank] += size
    assert max(tokens) - min(tokens) < 1000


def test_a_continued_prompt_is_found_and_the_oldest_are_forgotten() -> None:
    readers = Readers[int]()
    readers.remember([(1, 2, 3), (1, 2, 4)], 0)
    readers.remember([(1, 2, 3)], 1)
    assert readers.find((1, 2, 3)) == readers.find((1, 2, 3, 7, 8)) == 1
    assert readers.find((1, 2, 4, 7)) == 0
    assert readers.find((1, 2)) is None
    assert readers.find((1, 2, 3, *range(100))) is None  # no opening is so long
    readers.remember(((0, n) for n in range(1 << 16)), 2)
    assert readers.find((1, 2, 3)) is None


class Engine(FakeRuntime):
    warmed = 0

    async def warm_prefix(self, prompts: Sequence[Ids], frame: Ids, salt: str | None) -> Usage:
        assert prompts and all(ids[: len(frame)] == frame for ids in prompts)
        self.warmed += 1
        return Usage(100)


class Engines(Engine):
    """Three that take turns."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self.engines, self._turn = [make() for _ in range(3)], 0

    def choose(self) -> Engine:
        self._turn += 1
        return self.engines[self._turn % 3]


async def test_a_call_is_spread_over_the_engines_and_warms_those_that_it_uses(
    checkpoint: Callable[[str], Path],
) -> None:
    plan = prism_plan(checkpoint("qwen3"))
    runtime = Engines(lambda: Engine(plan.encoder))
    assert engines_of(runtime) == runtime.engines
    reranker = Reranker.from_runtime(runtime, plan.encoder, plan.config)
    texts = [f"Document {n} of {n % 7}." for n in range(200)]
    ranking = await reranker.rerank(QUERY, texts)
    assert sorted(len(one.prompts) for one in runtime.engines) == [64, 64, 72]
    assert [one.warmed for one in runtime.engines] == [1, 1, 1]
    alone = Engine(plan.encoder)
    assert next_engine(alone) is alone and engines_of(alone) == (alone,)
    expected = await Reranker.from_runtime(alone, plan.encoder, plan.config).rerank(QUERY, texts)
    assert [row.margin for row in ranking.results] == [row.margin for row in expected.results]
    assert alone.warmed == 1
    assert ranking.usage.prompt_tokens == expected.usage.prompt_tokens + 2 * 100
    assert (await reranker.rerank(QUERY, texts[:32])).usage.prompt_tokens < ranking.usage.prompt_tokens / 5
    assert sum(one.warmed for one in runtime.engines) == 4
