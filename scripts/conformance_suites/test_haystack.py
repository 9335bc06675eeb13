# /// script
# dependencies = [
#     "cohere-haystack",
#     "huggingface-api-haystack",
#     "jina-haystack",
#     "voyage-embedders-haystack",
#     "whyrank[haystack]",
# ]
# [tool.conformance]
# works-with = [
#     "haystack-ai",
#     "cohere-haystack",
#     "huggingface-api-haystack",
#     "jina-haystack",
#     "voyage-embedders-haystack",
# ]
# ///
"""Haystack's rankers for the services whose API whyrank speaks, and whyrank's own, by the contract of all components."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import voyageai
from haystack import Document, Pipeline
from haystack.core.serialization import component_from_dict, component_to_dict
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker
from haystack_integrations.components.rankers.voyage import VoyageRanker

from served import DOCUMENTS, QUERY, SERVED, check_texts
from whyrank.adapters.haystack import WhyrankRanker

os.environ["CONFORMANCE_SECRET"] = SERVED.key
KEY = Secret.from_env_var("CONFORMANCE_SECRET")


def voyage(top: int, mount: str) -> VoyageRanker:
    one = VoyageRanker(model="rerank-2.5", api_key=KEY, top_k=top)
    options = {"api_key": SERVED.key, "base_url": SERVED.url + mount}  # it cannot be told an address
    one._client, one._async_client = voyageai.Client(**options), voyageai.AsyncClient(**options)
    return one


def jina(top: int, mount: str) -> JinaRanker:
    return JinaRanker(api_key=KEY, base_url=f"{SERVED.url}{mount}/rerank", top_k=top)


RANKERS: dict[str, Callable[[int], Any]] = {
    "cohere": lambda top: CohereRanker(api_key=KEY, api_base_url=SERVED.url, top_k=top),
    "cohere at /cohere": lambda top: CohereRanker(api_key=KEY, api_base_url=f"{SERVED.url}/cohere", top_k=top),
    "jina": lambda top: jina(top, "/v1"),
    "jina at /jina/v1": lambda top: jina(top, "/jina/v1"),
    "tei": lambda top: HuggingFaceTEIRanker(url=SERVED.url, token=KEY, top_k=top),  # it always asks at /rerank
    "voyage": lambda top: voyage(top, "/v1"),
    "voyage at /voyage/v1": lambda top: voyage(top, "/voyage/v1"),
    "whyrank": lambda top: WhyrankRanker(SERVED.url, api_key=KEY, top_k=top),
}
pytestmark = pytest.mark.parametrize("name", RANKERS)


def given() -> list[Document]:
    return [Document(content=text, meta={"place": place}) for place, text in enumerate(DOCUMENTS)]


def texts(answer: dict[str, Any]) -> list[tuple[str, float]]:
    assert all(one.meta["place"] == DOCUMENTS.index(one.content) for one in answer["documents"])
    return [(one.content, one.score) for one in answer["documents"]]


@pytest.mark.parametrize("top", [1, 3])
def test_run(name: str, top: int) -> None:
    check_texts(texts(RANKERS[name](top).run(query=QUERY, documents=given())), top)


def test_top_k_of_a_call(name: str) -> None:
    check_texts(texts(RANKERS[name](4).run(query=QUERY, documents=given(), top_k=2)), 2)


async def test_run_async(name: str) -> None:
    check_texts(texts(await RANKERS[name](2).run_async(query=QUERY, documents=given())), 2)


def test_nothing_to_rank(name: str) -> None:
    assert RANKERS[name](2).run(query=QUERY, documents=[])["documents"] == []


def test_in_a_pipeline(name: str) -> None:
    pipeline = Pipeline()
    pipeline.add_component("ranker", RANKERS[name](2))
    check_texts(texts(pipeline.run({"ranker": {"query": QUERY, "documents": given()}})["ranker"]), 2)


def test_it_can_be_written_down(name: str) -> None:
    written = component_to_dict(RANKERS[name](2), "ranker")
    assert SERVED.key not in str(written)
    copy = component_from_dict(type(RANKERS[name](2)), written, "ranker")
    check_texts(texts(copy.run(query=QUERY, documents=given())), 2)


def test_a_pipeline_can_be_written_down(name: str) -> None:
    pipeline = Pipeline()
    pipeline.add_component("ranker", RANKERS[name](2))
    copy = Pipeline.loads(pipeline.dumps(), allowed_modules=["whyrank.adapters.haystack", "haystack_integrations.*"])
    check_texts(texts(copy.run({"ranker": {"query": QUERY, "documents": given()}})["ranker"]), 2)
