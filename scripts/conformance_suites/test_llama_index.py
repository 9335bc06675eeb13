# /// script
# dependencies = [
#     "llama-index-postprocessor-cohere-rerank",
#     "llama-index-postprocessor-jinaai-rerank",
#     "llama-index-postprocessor-voyageai-rerank",
#     "llama-index-postprocessor-tei-rerank",
#     "llama-index-postprocessor-xinference-rerank",
#     "whyrank[llama-index]",
# ]
# [tool.conformance]
# works-with = [
#     "llama-index-core",
#     "llama-index-postprocessor-cohere-rerank",
#     "llama-index-postprocessor-jinaai-rerank",
#     "llama-index-postprocessor-voyageai-rerank",
#     "llama-index-postprocessor-tei-rerank",
#     "llama-index-postprocessor-xinference-rerank",
# ]
# ///
"""LlamaIndex's postprocessors for the services whose API whyrank speaks, and whyrank's own, by the contract of all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import voyageai
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from llama_index.postprocessor.voyageai_rerank import VoyageAIRerank
from llama_index.postprocessor.xinference_rerank import XinferenceRerank

from served import DOCUMENTS, QUERY, SERVED, check_texts
from whyrank.adapters.llama_index import WhyrankPostprocessor


def voyage(top: int, mount: str) -> VoyageAIRerank:
    one = VoyageAIRerank(model="rerank-2.5", api_key=SERVED.key, top_n=top)
    one._client = voyageai.Client(api_key=SERVED.key, base_url=SERVED.url + mount)  # it cannot be told an address
    return one


def tei(top: int, mount: str) -> TextEmbeddingInference:
    return TextEmbeddingInference(base_url=SERVED.url + mount, auth_token=f"Bearer {SERVED.key}", top_n=top)


def cohere(top: int, mount: str) -> CohereRerank:
    return CohereRerank(base_url=SERVED.url + mount, api_key=SERVED.key, top_n=top)


def jina(top: int, mount: str) -> JinaRerank:
    return JinaRerank(base_url=SERVED.url + mount, api_key=SERVED.key, top_n=top)


POSTPROCESSORS: dict[str, Callable[[int], BaseNodePostprocessor]] = {
    "cohere": lambda top: cohere(top, ""),
    "cohere at /cohere": lambda top: cohere(top, "/cohere"),
    "jina": lambda top: jina(top, "/v1"),
    "jina at /jina/v1": lambda top: jina(top, "/jina/v1"),
    "voyage": lambda top: voyage(top, "/v1"),
    "voyage at /voyage/v1": lambda top: voyage(top, "/voyage/v1"),
    "tei": lambda top: tei(top, ""),
    "tei at /tei": lambda top: tei(top, "/tei"),
    "whyrank": lambda top: WhyrankPostprocessor(base_url=SERVED.url, api_key=SERVED.key, top_n=top),
}
if SERVED.is_open:  # it cannot be told a key
    POSTPROCESSORS["xinference"] = lambda top: XinferenceRerank(base_url=SERVED.url, model="demo", top_n=top)
pytestmark = pytest.mark.parametrize("name", POSTPROCESSORS)


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text), score=0.5) for text in DOCUMENTS]


def texts(found: list[NodeWithScore]) -> list[tuple[str, float]]:
    return [(one.node.text, one.score) for one in found]


@pytest.mark.parametrize("top", [1, 2, 4])
def test_postprocess(name: str, top: int) -> None:
    found = POSTPROCESSORS[name](top).postprocess_nodes(nodes(), query_bundle=QueryBundle(QUERY))
    check_texts(texts(found), top)


def test_a_plain_string_as_query(name: str) -> None:
    check_texts(texts(POSTPROCESSORS[name](2).postprocess_nodes(nodes(), query_str=QUERY)), 2)


async def test_postprocess_async(name: str) -> None:
    found = await POSTPROCESSORS[name](2).apostprocess_nodes(nodes(), query_bundle=QueryBundle(QUERY))
    check_texts(texts(found), 2)


def test_no_nodes(name: str) -> None:
    assert POSTPROCESSORS[name](2).postprocess_nodes([], query_str=QUERY) == []


def test_no_query(name: str) -> None:
    with pytest.raises(Exception, match="query"):
        POSTPROCESSORS[name](2).postprocess_nodes(nodes())


def test_it_can_be_written_down(name: str) -> None:
    one = POSTPROCESSORS[name](2)
    written: dict[str, Any] = json.loads(one.to_json())
    assert written["class_name"] == type(one).class_name() and written["top_n"] == 2
