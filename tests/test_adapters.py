"""Each adapter inside its framework's real package, against a real server. Each test imports the framework that it needs:
importing all of them takes longer than running all the tests."""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from inprocess import InProcess, prism_plan
from server_process import Server
from waiting import until
from whyrank import AsyncClient, Client, Document, InvalidRequest, Ranking
from whyrank.adapters.base import BaseAdapter
from whyrank.adapters.metadata import KEYS, evidence_of, noted
from whyrank.errors import FrameworkMissing, WhyrankError
from whyrank.types import DocumentError, Evidence, Grounding, RankedDocument, ScoredSpan, Unsupported, Verification

# No telemetry: nobody needs to know that these tests run.
os.environ |= {"HAYSTACK_TELEMETRY_ENABLED": "False", "LANGSMITH_TRACING": "false", "ANONYMIZED_TELEMETRY": "False"}

QUERY = "At what temperature does water boil?"
TEXTS = ["Water boils at 100 °C at sea level.", "Everest is high.", "Tea wants hot water.", "Ice melts at 0 °C."]
# Weights are random, so evidence is written whatever the score.
EVIDENCE: dict[str, Any] = {"mode": "evidence", "evidence_min_score": 0.0, "evidence_top_n": 2}
EVIDENCE |= {"max_contribution_tokens": 8, "max_evidence_tokens": 12}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def expected(client: Client) -> Ranking:
    return client.rerank(QUERY, TEXTS, **EVIDENCE)


def check_against(expected: Ranking, documents: list[tuple[str, float, dict[str, Any]]]) -> None:
    """Compares (text, score, metadata), as a framework got them, with the order and the metadata of the client's own answer."""
    assert [text for text, _, _ in documents] == [TEXTS[row.index] for row in expected.results][: len(documents)]
    for (_, score, metadata), row in zip(documents, expected.results, strict=False):
        assert score == pytest.approx(row.score, abs=1e-3) and metadata["relevance_score"] == score
        assert metadata["source"] == TEXTS[row.index][:3]
        if row.evidence:
            assert metadata["contribution"] == row.evidence.contribution != ""
            assert metadata["evidence"] == row.evidence.evidence and metadata["evidence_finish"] == row.evidence.finish
            assert 0 <= metadata["evidence_supported"] <= 1 and isinstance(metadata["evidence_unsupported"], list)
        else:
            assert not {"contribution", "evidence", "evidence_finish"} & metadata.keys()
    assert sum("evidence" in metadata for _, _, metadata in documents) == min(2, len(documents))


def source(text: str) -> dict[str, Any]:
    # As if left by an earlier reranking for another query: it must be removed.
    return {
        "source": text[:3],
        "contribution": "old",
        "evidence": "old",
        "evidence_finish": "old",
        "rerank_error": "old",
    }


# LangChain


def langchain_documents() -> list[Any]:
    from langchain_core.documents import Document as LangChainDocument

    return [LangChainDocument(text, id=str(place), metadata=source(text)) for place, text in enumerate(TEXTS)]


async def test_langchain_compresses(server: Server, client: Client, expected: Ranking) -> None:
    from whyrank.adapters.langchain import WhyrankCompressor

    given = langchain_documents()
    compressor = WhyrankCompressor(client=client, **EVIDENCE)
    for documents in (compressor.compress_documents(given, QUERY), await compressor.acompress_documents(given, QUERY)):
        check_against(
            expected, [(one.page_content, one.metadata["relevance_score"], one.metadata) for one in documents]
        )
        assert [one.id for one in documents] == [str(row.index) for row in expected.results]
    assert given == langchain_documents(), "what was given is not changed"
    assert compressor.compress_documents([], QUERY) == await compressor.acompress_documents([], QUERY) == []
    async with AsyncClient(server.url) as awaited:
        compressor = WhyrankCompressor(client=awaited, top_n=1)
        (best,) = await compressor.acompress_documents(given, QUERY)
        assert best.page_content == TEXTS[expected.results[0].index]
        with pytest.raises(InvalidRequest, match="client is a AsyncClient, which can only be awaited"):
            compressor.compress_documents(given, QUERY)


def test_langchain_in_a_chain_with_evidence_as_content(server: Server, expected: Ranking) -> None:
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import RunnableLambda, RunnableParallel, RunnablePassthrough

    from whyrank.adapters.langchain import WhyrankCompressor

    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Any]:
            return langchain_documents()

    compressor = WhyrankCompressor(base_url=server.url, replace_content=True, **EVIDENCE)
    gather = RunnableParallel(query=RunnablePassthrough(), documents=Shelf())
    chain = gather | RunnableLambda(lambda hits: compressor.compress_documents(hits["documents"], hits["query"]))
    for document, row in zip(chain.invoke(QUERY), expected.results, strict=True):
        assert document.page_content == (evidence_of(row) or TEXTS[row.index])
    compressor.close()


def test_langchain_writes_down_all_but_the_key(server: Server) -> None:
    from whyrank.adapters.langchain import WhyrankCompressor

    compressor = WhyrankCompressor(base_url=server.url, api_key="SECRET", top_n=2, deadline_ms=9000.0)
    written = compressor.model_dump_json()
    assert "SECRET" not in written + repr(compressor) + str(compressor.model_dump())
    again = WhyrankCompressor.model_validate_json(written)
    assert again.model_dump() == compressor.model_dump() and (again.top_n, again.deadline_ms) == (2, 9000.0)
    copies = (again, pickle.loads(pickle.dumps(compressor)), compressor.model_copy(deep=True))
    assert [len(one.compress_documents(langchain_documents(), QUERY)) for one in copies] == [2, 2, 2]
    for one in copies:
        one.close()


# LlamaIndex


def nodes() -> list[Any]:
    from llama_index.core.schema import NodeWithScore, TextNode

    excluded = [*source(""), "source"]
    return [
        NodeWithScore(
            node=TextNode(
                text=text, id_=str(place), metadata=source(text), excluded_embed_metadata_keys=list(excluded)
            ),
            score=0.5,
        )
        for place, text in enumerate(TEXTS)
    ]


async def test_llama_index_postprocesses(client: Client, expected: Ranking) -> None:
    from llama_index.core.schema import MetadataMode

    from whyrank.adapters.llama_index import WhyrankPostprocessor

    given = nodes()
    postprocessor = WhyrankPostprocessor(client=client, **EVIDENCE)
    for ranked in (
        postprocessor.postprocess_nodes(given, query_str=QUERY),
        await postprocessor.apostprocess_nodes(given, query_str=QUERY),
    ):
        check_against(expected, [(one.text, one.score, one.metadata) for one in ranked])
        assert [one.node_id for one in ranked] == [str(row.index) for row in expected.results]
        assert ranked[0].node.get_content(MetadataMode.LLM) == f"source: {ranked[0].text[:3]}\n\n{ranked[0].text}"
    assert given == nodes(), "what was given is not changed"
    with pytest.raises(InvalidRequest, match="there is no query"):
        postprocessor.postprocess_nodes(given)


def test_llama_index_in_a_query_engine_with_evidence_as_content(server: Server, expected: Ranking) -> None:
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
    from llama_index.core.retrievers import BaseRetriever

    from whyrank.adapters.llama_index import WhyrankPostprocessor

    class Shelf(BaseRetriever):
        def _retrieve(self, query_bundle: Any) -> list[Any]:
            return nodes()

    postprocessor = WhyrankPostprocessor(base_url=server.url, api_key="SECRET", replace_content=True, **EVIDENCE)
    written = postprocessor.to_json()
    again = WhyrankPostprocessor.from_json(written)
    assert "SECRET" not in written and again.to_dict() == postprocessor.to_dict()
    echo = get_response_synthesizer(response_mode=ResponseMode.SIMPLE_SUMMARIZE, llm=MockLLM())  # answers its prompt
    engine = RetrieverQueryEngine(Shelf(), echo, node_postprocessors=[again])
    answer = engine.query(QUERY)
    assert "relevance_score" not in str(answer) and "contribution" not in str(answer)
    for one, row in zip(answer.source_nodes, expected.results, strict=True):
        assert one.text == (evidence_of(row) or TEXTS[row.index]) and one.text in str(answer)
    again.close()


# Haystack


def haystack_documents() -> list[Any]:
    from haystack import Document as HaystackDocument

    return [HaystackDocument(str(place), text, meta=source(text), score=0.5) for place, text in enumerate(TEXTS)]


async def test_haystack_ranks(client: Client, expected: Ranking) -> None:
    from haystack import Document as HaystackDocument

    from whyrank.adapters.haystack import WhyrankRanker

    given = haystack_documents()
    ranker = WhyrankRanker(client=client, **EVIDENCE)
    for answer in (ranker.run(QUERY, given), await ranker.run_async(QUERY, given)):
        check_against(expected, [(one.content, one.score, one.meta) for one in answer["documents"]])
        assert [one.id for one in answer["documents"]] == [str(row.index) for row in expected.results]
    assert given == haystack_documents(), "what was given is not changed"
    assert len(ranker.run(QUERY, given, top_k=3)["documents"]) == 3
    assert ranker.run(QUERY, []) == await ranker.run_async(QUERY, []) == {"documents": []}
    with pytest.raises(InvalidRequest, match=r"documents\[1\] \(image\) has no content"):
        ranker.run(QUERY, [given[0], HaystackDocument("image")])
    with pytest.raises(InvalidRequest, match="cannot be serialised: give it base_url"):
        ranker.to_dict()
    with pytest.raises(InvalidRequest, match="top_n is called top_k"):
        WhyrankRanker(client=client, top_n=3)


async def test_haystack_in_a_pipeline_that_was_written_down(
    server: Server, expected: Ranking, monkeypatch: pytest.MonkeyPatch
) -> None:
    from haystack import Pipeline
    from haystack.utils import Secret

    from whyrank.adapters.haystack import WhyrankRanker

    key = Secret.from_env_var("WHYRANK_TEST_KEY")
    monkeypatch.setenv("WHYRANK_TEST_KEY", "SECRET")
    pipeline = Pipeline()
    pipeline.add_component("ranker", WhyrankRanker(server.url, key, top_k=3, replace_content=True, **EVIDENCE))
    written = pipeline.dumps()
    assert "SECRET" not in written and "WHYRANK_TEST_KEY" in written
    again = Pipeline.loads(written, allowed_modules=["whyrank.adapters.haystack"])
    assert again.dumps() == written
    given = {"ranker": {"query": QUERY, "documents": haystack_documents()}}
    for answer in (again.run(given), await again.run_async(given)):
        for one, row in zip(answer["ranker"]["documents"], expected.results[:3], strict=True):
            assert one.content == (evidence_of(row) or TEXTS[row.index])
    again.get_component("ranker").close()
    with pytest.raises(ValueError, match="token"):
        WhyrankRanker(server.url, Secret.from_token("SECRET")).to_dict()


# rerankers


async def test_rerankers_rank_and_score(client: Client, expected: Ranking) -> None:
    from rerankers import Document as RerankersDocument
    from rerankers.models.ranker import BaseRanker

    from whyrank.adapters.rerankers import WhyrankRanker

    ranker: BaseRanker = WhyrankRanker(client=client, **EVIDENCE)
    metadata = [source(text) for text in TEXTS]
    ids = list("abcd")
    given = [RerankersDocument(*one) for one in zip(TEXTS, ids, metadata, strict=True)]
    for results in (
        ranker.rank(QUERY, TEXTS, ids, metadata),
        await ranker.rank_async(QUERY, given),
    ):
        check_against(expected, [(one.text, one.score, one.metadata) for one in results])
        assert [one.doc_id for one in results] == [ids[row.index] for row in expected.results]
        assert [one.rank for one in results] == [1, 2, 3, 4] and results.query == QUERY
        assert results.top_k(1)[0].contribution == expected.results[0].evidence.contribution  # type: ignore[union-attr]
    assert ranker.score(QUERY, TEXTS[0]) == pytest.approx(results.get_score_by_docid("a"), abs=1e-3)
    assert ranker.rank(QUERY, []).results_count() == 0


# sentence-transformers


def test_cross_encoder_is_taken_for_one(client: Client, expected: Ranking) -> None:
    import torch
    from sentence_transformers.cross_encoder.evaluation import (
        CrossEncoderClassificationEvaluator,
        CrossEncoderRerankingEvaluator,
    )

    from whyrank.adapters.sentence_transformers import WhyrankCrossEncoder

    model: Any = WhyrankCrossEncoder(client=client)
    pairs = [(QUERY, text) for text in TEXTS] + [("How high is Everest?", TEXTS[1])]
    scores = model.predict(pairs)
    by_index = sorted(expected.results, key=lambda row: row.index)
    assert scores.dtype == "float32" and scores[:4] == pytest.approx([row.score for row in by_index], abs=1e-3)
    assert model.predict(pairs[0]) == scores[0] and len(model.predict([])) == 0
    margins = model.predict([list(pair) for pair in pairs], activation_fn=torch.nn.Identity(), convert_to_tensor=True)
    assert torch.sigmoid(margins).numpy() == pytest.approx(scores, abs=1e-6)
    ranked = WhyrankCrossEncoder(client=client, **EVIDENCE).rank(QUERY, TEXTS, top_k=3, return_documents=True)
    assert [one["corpus_id"] for one in ranked] == [row.index for row in expected.results[:3]]
    assert [one["text"] for one in ranked] == [TEXTS[one["corpus_id"]] for one in ranked]
    assert ["evidence" in one for one in ranked] == [True, True, False]

    sample = {"query": QUERY, "positive": TEXTS[:1], "negative": TEXTS[1:]}
    measures = CrossEncoderRerankingEvaluator([sample], at_k=4, write_csv=False)(model)
    place = [row.index for row in expected.results].index(0) + 1
    assert measures["mrr@4"] == pytest.approx(1 / place)
    labels = [1, 0, 0, 0, 1]
    assert 0 <= CrossEncoderClassificationEvaluator(pairs, labels, write_csv=False)(model)["average_precision"] <= 1
    with pytest.raises(InvalidRequest, match=r"inputs\[1\] is \('one',\): give a pair of strings"):
        model.predict([pairs[0], ("one",)])
    with pytest.raises(InvalidRequest, match="prompt_name is 'web'"):
        model.rank(QUERY, TEXTS, prompt_name="web")


# MTEB


def test_mteb_evaluates(client: Client) -> None:
    import mteb
    from mteb.mocks.mock_tasks import MockRerankingTask

    from whyrank.adapters.mteb import WhyrankCrossEncoder

    model: Any = WhyrankCrossEncoder("tiny/prism", "main", client=client)
    assert isinstance(model, mteb.CrossEncoderProtocol) and model.mteb_model_meta.is_cross_encoder
    task = MockRerankingTask()
    task.load_data()
    split = task.dataset["default"]["test"]
    result = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    assert (result.model_name, result.model_revision) == ("tiny/prism", "main")
    # The same computed by hand: the position of each query's one relevant document in the client's own ranking.
    documents = {one["id"]: Document(one["text"], one["id"], one.get("title")) for one in split["corpus"]}
    places = []
    for ident, query in zip(split["queries"]["id"], split["queries"]["text"], strict=True):
        order = [row.id for row in client.rerank(query, [documents[one] for one in split["top_ranked"][ident]]).results]
        places.append(order.index(next(one for one, grade in split["relevant_docs"][ident].items() if grade)) + 1)
    (scores,) = result.task_results[0].scores["test"]
    assert scores["mrr_at_10"] == pytest.approx(sum(1 / place for place in places) / len(places), abs=1e-4)


# What all adapters share


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either base_url"),
        ({"base_url": "http://a", "client": object.__new__(AsyncClient)}, "give either base_url"),
        ({"base_url": "http://a", "replace_content": True}, "it needs a mode other than 'score'"),
        ({"base_url": "http://a", "top_n": 0}, "top_n is 0"),
        ({"base_url": "http://a", "evidence_min_score": 2.0}, "evidence_min_score is 2.0"),
        ({"base_url": "http://a", "topn": 3}, "topn"),
        ({"base_url": "http://a", "client": "http://a"}, "client"),
    ],
)
def test_what_an_adapter_cannot_be_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BaseAdapter(**options)


async def test_one_adapter_serves_many_threads_and_loops(server: Server) -> None:
    adapter = BaseAdapter(base_url=server.url, top_n=1)

    def in_a_loop_of_its_own() -> Ranking:
        return asyncio.run(adapter.rerank_documents_async(QUERY, TEXTS))

    work = [asyncio.to_thread(adapter.rerank_documents, QUERY, TEXTS) for _ in range(4)]
    work += [asyncio.to_thread(in_a_loop_of_its_own) for _ in range(4)]
    answers = await asyncio.gather(*work, adapter.rerank_documents_async(QUERY, TEXTS))
    assert len({answer.results[0].index for answer in answers}) == 1 and {len(a.results) for a in answers} == {1}
    adapter.close()
    adapter.close()


LOADER = [{"text": TEXTS}]
# How each adapter's framework uses it.
CALLS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "langchain": ("WhyrankCompressor", lambda one: one.compress_documents(langchain_documents(), QUERY)),
    "llama_index": ("WhyrankPostprocessor", lambda one: one.postprocess_nodes(nodes(), query_str=QUERY)),
    "haystack": ("WhyrankRanker", lambda one: one.run(QUERY, haystack_documents())),
    "rerankers": ("WhyrankRanker", lambda one: one.rank(QUERY, TEXTS)),
    "sentence_transformers": ("WhyrankCrossEncoder", lambda one: one.predict([(QUERY, TEXTS[0])])),
    "mteb": (
        "WhyrankCrossEncoder",
        lambda one: one.predict(LOADER, LOADER, task_metadata=None, hf_split="", hf_subset=""),
    ),
}
COPIES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]


@pytest.mark.parametrize("name", CALLS)
def test_a_used_adapter_can_be_copied_and_pickled(name: str, server: Server) -> None:
    kind, call = CALLS[name]
    options = {"model_name": "m"} if name == "mteb" else {}
    adapter = getattr(importlib.import_module(f"whyrank.adapters.{name}"), kind)(base_url=server.url, **options)
    expected = repr(call(adapter))
    for copied in COPIES:
        other = copied(adapter)
        assert repr(call(other)) == expected
        getattr(other, "_asking", other).close()
        assert repr(call(adapter)) == expected, "closing a copy does not close the original"
    getattr(adapter, "_asking", adapter).close()


def test_a_copy_has_the_settings_and_a_client_of_its_own() -> None:
    adapter = BaseAdapter(base_url="http://127.0.0.1:9", api_key="SECRET", top_n=2, timeout=3.0)
    used = adapter._waiting()
    for copied in COPIES:
        other = copied(adapter)
        assert other.model_dump() == adapter.model_dump() and other.api_key == adapter.api_key
        assert other._waiting() is not used and adapter._waiting() is used
        other.close()
    adapter.close()


def test_a_copy_shares_the_client_that_was_given() -> None:
    with Client("http://127.0.0.1:9") as client:
        adapter = BaseAdapter(client=client)
        assert (
            copy.copy(adapter).client is copy.deepcopy(adapter).client is copy.deepcopy([adapter])[0].client is client
        )
        with pytest.raises(InvalidRequest, match="an adapter with a client cannot be pickled: give it base_url"):
            pickle.dumps(adapter)


async def test_an_async_call_that_is_cancelled_frees_its_work(checkpoint: Callable[[str], Path]) -> None:
    app = InProcess(prism_plan(checkpoint("qwen3")))
    app.runtime.open.clear()
    with Client("http://test", transport=httpx.ASGITransport(app.app)) as client:
        # A call with a deadline of its own is not held back for others.
        call = asyncio.create_task(
            BaseAdapter(client=client, deadline_ms=60_000.0).rerank_documents_async(QUERY, TEXTS)
        )
        await until(app.runtime.reached.is_set)
        call.cancel()
        await until(lambda: app.runtime.left > 0)
        assert call.cancelled()


def test_a_pair_without_score_is_raised() -> None:
    with Client("http://127.0.0.1:9") as nobody, pytest.raises(WhyrankError):
        BaseAdapter(client=nobody).numbers_of_pairs([(QUERY, TEXTS[0])])


def row(evidence: Evidence | None = None, **fields: Any) -> RankedDocument:
    return RankedDocument(0, Document("text"), 1, evidence=evidence, **fields)


def test_notes() -> None:
    verification = Verification("m", "p", 0.5, backed=0.2)
    grounding = Grounding(0.75, unsupported=(Unsupported("number", "42", 0, 2),), verification=verification)
    variants = (Evidence("c", "other", "complete"),)
    whole = row(
        Evidence("c", "42 e", "complete", grounding=grounding, variants=variants),
        score=0.9,
        margin=2.2,
        calibrated_score=0.8,
    )
    assert noted({"kept": 1, "rerank_error": "old"}, whole) == {
        "kept": 1,
        "relevance_score": 0.9,
        "margin": 2.2,
        "calibrated_score": 0.8,
        "contribution": "c",
        "evidence": "42 e",
        "evidence_finish": "complete",
        "evidence_supported": 0.75,
        "evidence_altered": 0.0,
        "evidence_unverified": 0.0,
        "evidence_backed_by_model": 0.2,
        "evidence_unsupported": ["42"],
        "evidence_variants": ["other"],
    }
    failed = noted({}, row(error=DocumentError("engine", "why")))
    assert failed == {"rerank_error": "why"}
    marked = noted({}, row(spans=(ScoredSpan(0, 1, 0.9),)))
    assert marked == {"spans": [{"start": 0, "end": 1, "score": 0.9}]}
    assert evidence_of(row(spans=(ScoredSpan(0, 1, 0.9),))) == row().document.text[:1]
    assert set(KEYS) == noted({}, whole).keys() | failed.keys() | marked.keys()
    finished = {finish: evidence_of(row(Evidence("c", "e", finish))) for finish in ("complete", "budget", "deadline")}  # type: ignore[arg-type]
    assert finished == {"complete": "e", "budget": "e", "deadline": None}
    assert evidence_of(row(Evidence("", "", "complete"))) is evidence_of(row()) is None


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("haystack", "haystack", "haystack"),
        ("rerankers", "rerankers", "rerankers"),
        ("sentence_transformers", "numpy", "sentence-transformers"),
        ("mteb", "mteb", "mteb"),
        ("mteb", "numpy", "mteb"),
        ("mcp", "mcp", "mcp"),
    ],
)
def test_a_missing_framework_is_told_with_its_extra(module: str, package: str, extra: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None\nimport whyrank.adapters.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    last = done.stderr.splitlines()[-1]
    assert (
        last
        == f'whyrank.errors.{FrameworkMissing.__name__}: {package} is not installed: pip install "whyrank[{extra}]"'
    )


def test_written_options_are_plain_json(server: Server) -> None:
    adapter = BaseAdapter(base_url=[server.url], api_key="SECRET", **EVIDENCE)
    assert json.loads(adapter.model_dump_json())["base_url"] == [server.url]
