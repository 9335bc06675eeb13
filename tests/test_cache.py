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
    found: Served = await serve(*request.param)
    await found.runtime.engine.reset_prefix_cache()  # type: ignore[attr-defined]
    return found


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


async def test_the_hybrids_block_is_longer_than_the_shared_prefix(serve: Serve) -> None:
    """Otherwise the other tests would prove nothing: without primers, a prefix shorter than a block is never reused."""
    served: Served = await serve("prism", "qwen3_5")
    block = served.runtime.facts()["block_size"]
    assert isinstance(block, int)
    assert block > 500 > len(served.plan.encoder.shared_prefix(None))
    few = (
        await served.reranker.rerank("too few documents for a primer", [sixty_words(n) for n in range(900, 904)])
    ).usage
    await served.runtime.engine.reset_prefix_cache()  # type: ignore[attr-defined]
    cold = (await served.reranker.rerank("nobody primed this", [sixty_words(n) for n in range(950, 954)])).usage
    assert cold.cached_tokens == 0
    assert few.prompt_tokens == pytest.approx(cold.prompt_tokens, rel=0.1)
