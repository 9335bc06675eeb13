# /// script
# dependencies = ["litellm"]
# ///
"""LiteLLM's providers whose rerank API whyrank speaks, at the base URLs that their users give."""

from __future__ import annotations

from typing import Any

import litellm
import pytest

from served import DOCUMENTS, QUERY, SERVED, check

# Provider, then where it is told to look.
BASES = [
    ("cohere", ""),
    ("cohere", "/cohere"),
    ("cohere", "/v1/rerank"),
    ("cohere", "/v2/rerank"),
    ("litellm_proxy", ""),
    ("jina_ai", ""),
    ("jina_ai", "/v1/rerank"),
    ("jina_ai", "/jina"),
    ("voyage", ""),
    ("voyage", "/v1"),
    ("voyage", "/v1/rerank"),
    ("voyage", "/voyage/v1"),
    ("huggingface", ""),
    ("huggingface", "/rerank"),
    ("huggingface", "/tei"),
    ("infinity", "/infinity"),
    ("infinity", "/infinity/rerank"),
    ("hosted_vllm", ""),
    ("hosted_vllm", "/v1"),
    ("hosted_vllm", "/v1/rerank"),
    ("hosted_vllm", "/rerank"),
    ("together_ai", "/v1"),
    ("together_ai", "/jina/v1"),
    ("azure_ai", ""),
    ("azure_ai", "/v2"),
    ("azure_ai", "/v1/rerank"),
    ("fireworks_ai", "/v1"),
    ("scaleway", "/v1"),
]
# The APIs of the others take strings only.
TAKE_OBJECTS = {"cohere", "litellm_proxy", "jina_ai", "hosted_vllm", "together_ai", "azure_ai"}
everywhere = pytest.mark.parametrize(("provider", "base"), BASES)


def options(provider: str, base: str) -> dict[str, Any]:
    # Voyage's models have names by which the provider is known.
    name = "rerank-2.5" if provider == "voyage" else SERVED.model
    return {"model": f"{provider}/{name}", "api_base": SERVED.url + base, "api_key": SERVED.key, "max_retries": 0}


def pairs(answer: Any) -> list[tuple[int, float]]:
    assert answer.id and answer.meta is not None
    return [(row["index"], row["relevance_score"]) for row in answer.results]


@everywhere
def test_rerank(provider: str, base: str) -> None:
    check(pairs(litellm.rerank(query=QUERY, documents=DOCUMENTS, **options(provider, base))))


@everywhere
def test_top_n(provider: str, base: str) -> None:
    check(pairs(litellm.rerank(query=QUERY, documents=DOCUMENTS, top_n=2, **options(provider, base))), 2)


@everywhere
def test_documents_come_back(provider: str, base: str) -> None:
    answer = litellm.rerank(query=QUERY, documents=DOCUMENTS, return_documents=True, **options(provider, base))
    check(pairs(answer))
    assert [row["document"]["text"] for row in answer.results] == [DOCUMENTS[row["index"]] for row in answer.results]


@everywhere
async def test_async(provider: str, base: str) -> None:
    check(pairs(await litellm.arerank(query=QUERY, documents=DOCUMENTS, **options(provider, base))))


@pytest.mark.parametrize(("provider", "base"), [one for one in BASES if one[0] in TAKE_OBJECTS])
def test_objects(provider: str, base: str) -> None:
    documents = [{"text": text} for text in DOCUMENTS]
    check(pairs(litellm.rerank(query=QUERY, documents=documents, **options(provider, base))))


@everywhere
def test_a_refusal_names_the_fault(provider: str, base: str) -> None:
    with pytest.raises(Exception, match="query is empty"):
        litellm.rerank(query=" ", documents=DOCUMENTS, **options(provider, base))
