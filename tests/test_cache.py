"""The prefix cache really hits, on both kinds of models, by the engine's own counters."""

from __future__ import annotations

import random

import pytest

from conftest import Serve, Served
from samples import DOCUMENTS
from whyrank.types import Usage

WORDS = DOCUMENTS["long"].split()


def sixty_words(seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=60))


@pytest.fixture(params=[("prism",), ("prism", "qwen3_5")], ids=["attention", "hybrid"])
async def served(request: pytest.FixtureRequest, serve: Serve) -> Served:
    served: Served = await serve(*request.param)
    await served.runtime.engine.reset_prefix_cache()  # type: ignore[attr-defined]
    return served


def computed_share(usage: Usage) -> float:
    return usage.computed_tokens / usage.prompt_tokens


async def test_64_documents_on_one_query_compute_less_than_half(served: Served) -> None:
    documents = [sixty_words(seed) for seed in range(64)]
    cold = (await served.reranker.rerank("a query nobody asked before", documents)).usage
    warm = (await served.reranker.rerank("a query nobody asked before", documents)).usage
    print(f"\ncomputed share of prompt tokens: cold {computed_share(cold):.3f}, warm {computed_share(warm):.3f}")
    assert computed_share(cold) <= 0.45
    assert computed_share(warm) <= 0.15


async def test_a_second_query_starts_from_the_frame(served: Served) -> None:
    await served.reranker.rerank("first", [sixty_words(seed) for seed in range(16)])
    second = (await served.reranker.rerank("second", [sixty_words(100 + seed) for seed in range(16)])).usage
    frame = len(served.plan.encoder.shared_prefix(None))
    assert second.cached_tokens >= 16 * (frame - 32)


@pytest.fixture(params=[None, "classify"])
async def hybrid(request: pytest.FixtureRequest, serve: Serve) -> Served:
    served: Served = await serve("prism", "qwen3_5", route=request.param)
    await served.runtime.engine.reset_prefix_cache()  # type: ignore[attr-defined]
    return served


async def test_a_few_documents_of_a_hybrid_start_from_the_frame(hybrid: Served) -> None:
    """They are too few for a primer of their query. A frame that was evicted is warmed again, one call later."""
    block, frame = hybrid.runtime.facts()["block_size"], len(hybrid.plan.encoder.shared_prefix(None))
    assert isinstance(block, int) and block > 500 > frame  # shorter than a block: reused only where a request ended
    calls = [[sixty_words(900 + 10 * call + n) for n in range(3)] for call in range(4)]
    usages = [(await hybrid.reranker.rerank(f"query {n}", call)).usage for n, call in enumerate(calls)]
    assert all(usage.cached_tokens >= 3 * (frame - 16) for usage in usages[-2:])


async def test_a_few_documents_warm_the_frame_of_their_tenant(hybrid: Served) -> None:
    frame, calls = len(hybrid.plan.encoder.shared_prefix(None)), [[sixty_words(n)] for n in (990, 991)]
    usages = [(await hybrid.reranker.rerank("query", call, cache_salt="another")).usage for call in calls]
    assert usages[0].prompt_tokens > usages[1].prompt_tokens  # the first has paid for the frame
    assert all(usage.cached_tokens >= frame - 16 for usage in usages)


async def test_many_documents_of_a_hybrid_start_from_their_query(hybrid: Served) -> None:
    usage = (await hybrid.reranker.rerank("a query of many", [sixty_words(1000 + n) for n in range(64)])).usage
    assert computed_share(usage) <= 0.45
