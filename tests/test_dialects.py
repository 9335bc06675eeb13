"""The clients that people have, unchanged, against a real server; and the exact format of each dialect."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import cohere
import httpx
import pytest
import requests
import voyageai

from conftest import Server
from samples import QUERY

TEXTS = ["Water boils at 100 °C at sea level.", "Everest is 8849 metres high.", "沸点因气压而异。"]
BODY = {"query": QUERY, "documents": TEXTS}
EVIDENCE = {"mode": "evidence", "evidence_min_score": 0, "evidence_top_n": 1, "max_evidence_tokens": 24}


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def scores(http: httpx.Client) -> list[float]:
    """The native route's scores for TEXTS, in their order. Every dialect has to agree."""
    rows = http.post("/v1/score", json={"queries": QUERY, "documents": TEXTS}).raise_for_status().json()["data"]
    return [row["score"] for row in rows]


def close(scores: list[float]) -> Any:
    return pytest.approx(scores, abs=1e-4)


def order(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])


# Cohere's own clients.


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closes the clients that a test has entered into it."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("mount", ["", "/cohere"])
@pytest.mark.parametrize("key", ["", "some-key"])
def test_cohere_v2(
    opened: ExitStack, server: Server, http: httpx.Client, scores: list[float], mount: str, key: str
) -> None:
    client = opened.enter_context(cohere.ClientV2(api_key=key, base_url=server.url + mount))
    (model,) = http.get("/v1/models").json()["data"]
    answer = client.rerank(model=model["id"], query=QUERY, documents=TEXTS, top_n=2, max_tokens_per_doc=500, priority=1)
    assert [row.index for row in answer.results] == order(scores)[:2]
    assert [row.relevance_score for row in answer.results] == close([scores[i] for i in order(scores)[:2]])
    assert answer.id and answer.meta is not None and answer.meta.tokens is not None
    assert answer.meta.api_version is not None and answer.meta.api_version.version == "2"
    assert (answer.meta.tokens.input_tokens or 0) > 0 and not answer.meta.warnings


async def test_cohere_v2_async(server: Server, scores: list[float]) -> None:
    async with cohere.AsyncClientV2(api_key="k", base_url=server.url) as client:
        answer = await client.rerank(model="any", query=QUERY, documents=TEXTS)
    assert [row.index for row in answer.results] == order(scores)


def test_cohere_keeps_evidence(opened: ExitStack, server: Server) -> None:
    client = opened.enter_context(cohere.ClientV2(api_key="k", base_url=server.url))
    answer = client.rerank(
        model="any", query=QUERY, documents=TEXTS, request_options={"additional_body_parameters": EVIDENCE}
    )
    best, second, _ = answer.results
    assert isinstance(best.evidence, str) and isinstance(best.contribution, str)  # type: ignore[attr-defined]
    assert set(best.grounding) >= {"supported", "altered", "unverified", "spans", "unsupported", "flags"}  # type: ignore[attr-defined]
    assert not hasattr(second, "evidence")


def test_cohere_relevant_spans(opened: ExitStack, server: Server) -> None:
    client = opened.enter_context(cohere.ClientV2(api_key="k", base_url=server.url))
    spans = cohere.RerankRelevantSpans(mode="enabled", threshold=0, max_spans=1)
    answer = client.rerank(
        model="any",
        query=QUERY,
        documents=TEXTS,
        relevant_spans=spans,
        request_options={"additional_body_parameters": EVIDENCE},
    )
    best = answer.results[0]
    backed = best.grounding["spans"]  # type: ignore[attr-defined]
    assert [(span.start, span.end) for span in best.relevant_spans or []] == [
        (span["start"], span["end"]) for span in sorted(backed, key=lambda span: -span["similarity"])[:1]
    ]


def test_cohere_relevant_spans_are_scored(opened: ExitStack, server: Server, http: httpx.Client) -> None:
    client = opened.enter_context(cohere.ClientV2(api_key="k", base_url=server.url))
    spans = cohere.RerankRelevantSpans(mode="enabled", threshold=0, max_spans=2)
    answer = client.rerank(model="any", query=QUERY, documents=TEXTS, relevant_spans=spans, top_n=2)
    assert len(answer.results) == 2
    for row in answer.results:
        assert bool(row.relevant_spans) == bool(TEXTS[row.index].strip()) and len(row.relevant_spans or []) <= 2
        for span in row.relevant_spans or []:
            body = {"queries": QUERY, "documents": TEXTS[row.index][span.start : span.end]}
            (alone,) = http.post("/v1/score", json=body).json()["data"]
            assert span.score == pytest.approx(alone["score"], abs=1e-4)


@pytest.mark.parametrize("mount", ["", "/cohere"])
def test_cohere_v1_with_fields(opened: ExitStack, server: Server, http: httpx.Client, mount: str) -> None:
    client = opened.enter_context(cohere.Client(api_key="k", base_url=server.url + mount))
    documents: list[Any] = [{"title": "Water", "body": TEXTS[0], "year": "2"}, {"title": "Everest", "body": TEXTS[1]}]
    answer = client.rerank(
        model="any", query=QUERY, documents=documents, rank_fields=["title", "body"], return_documents=True
    )
    read = [f"title: {document['title']}\nbody: {document['body']}" for document in documents]
    expected = http.post("/v1/score", json={"queries": QUERY, "documents": read}).json()["data"]
    assert {row.index: row.relevance_score for row in answer.results} == pytest.approx(
        {row["index"]: row["score"] for row in expected}, abs=1e-4
    )
    given = [row.document for row in answer.results]
    assert all(document is not None for document in given)
    if mount:
        assert {document.title for document in given} == {"Water", "Everest"}  # type: ignore[union-attr]
    assert answer.meta is not None and answer.meta.billed_units is not None


def test_cohere_v1_strings(opened: ExitStack, server: Server, scores: list[float]) -> None:
    client = opened.enter_context(cohere.Client(api_key="k", base_url=server.url + "/cohere"))
    answer = client.rerank(query=QUERY, documents=TEXTS, top_n=2)
    assert [row.index for row in answer.results] == order(scores)[:2]
    assert [row.document for row in answer.results] == [None, None]


async def test_cohere_v1_async(server: Server, scores: list[float]) -> None:
    async with cohere.AsyncClient(api_key="k", base_url=server.url) as client:
        answer = await client.rerank(query=QUERY, documents=TEXTS)
    assert [row.index for row in answer.results] == order(scores)


@pytest.mark.parametrize("mount", ["", "/cohere"])
def test_cohere_errors(opened: ExitStack, server: Server, mount: str) -> None:
    for client in (
        opened.enter_context(cohere.ClientV2(api_key="k", base_url=server.url + mount)),
        opened.enter_context(cohere.Client(api_key="k", base_url=server.url + mount)),
    ):
        with pytest.raises(cohere.BadRequestError) as refused:
            client.rerank(model="any", query=QUERY, documents=[])
        assert "documents is empty" in refused.value.body["message"]


# Voyage's own client.


@pytest.fixture(scope="module")
def voyage_session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.fixture(params=["/v1", "/voyage/v1"])
def voyage(
    request: pytest.FixtureRequest,
    server: Server,
    voyage_session: requests.Session,
    monkeypatch: pytest.MonkeyPatch,
) -> voyageai.Client:
    """Address and session are set in the ways that the package has for that."""
    monkeypatch.setattr(voyageai, "api_base", server.url + request.param)
    monkeypatch.setattr(voyageai, "requestssession", voyage_session)
    return voyageai.Client(api_key="k")


def test_voyage(voyage: voyageai.Client, scores: list[float]) -> None:
    answer = voyage.rerank(QUERY, TEXTS, model="rerank-2.5", top_k=2)
    assert [(row.index, row.document) for row in answer.results] == [(i, TEXTS[i]) for i in order(scores)[:2]]
    assert [row.relevance_score for row in answer.results] == close([scores[i] for i in order(scores)[:2]])
    assert answer.total_tokens > 0


def test_voyage_errors(voyage: voyageai.Client) -> None:
    with pytest.raises(voyageai.error.InvalidRequestError, match="documents is empty"):
        voyage.rerank(QUERY, [], model="rerank-2.5")
    with pytest.raises(voyageai.error.InvalidRequestError, match="longer than the model reads"):
        voyage.rerank(QUERY, ["word " * 40_000], model="rerank-2.5", truncation=False)


# The exact formats. Numbers are masked; so is everything that is new for each request.


def shape(value: Any, key: str = "") -> Any:
    """1.5 → 0.0, 7 → 0, an id → "id"; a list of items of one shape → its first item."""
    match value:
        case dict():
            return {name: shape(part, name) for name, part in value.items()}
        case list():
            parts = [shape(part) for part in value]
            return parts[:1] if all(part == parts[0] for part in parts) else parts
        case bool() | None:
            return value
        case float() | int():
            return type(value)(0)
    return "id" if key in ("id", "request_id", "model", "prompt") else value


RANKED = {"index": 0, "relevance_score": 0.0}
TOKENS = {"prompt_tokens": 0, "cached_tokens": 0, "computed_tokens": 0, "output_tokens": 0}
TRUNCATION = {"original_tokens": 0, "used_tokens": 0, "policy": "tail", "truncated": False}
TRUNCATION |= {"query_tokens_cut": 0, "window": None}
READ = {"truncation": TRUNCATION, "neutralised": False, "error": None}
NATIVE_ROW = {"index": 0, "id": None, "rank": 0, "score": 0.0, "margin": 0.0, "label_mass": 0.0, **READ}
NATIVE_ROW |= {"relevance_score": 0.0}
NATIVE = {
    "id": "id",
    "object": "list",
    "model": "id",
    "prompt": "id",
    "results": [NATIVE_ROW],
    "usage": TOKENS | {"total_tokens": 0},
    "evidence_usage": TOKENS,
    "degraded": False,
}
META = {
    "api_version": {"version": "2", "is_experimental": False},
    "billed_units": {"search_units": 0},
    "tokens": {"input_tokens": 0, "output_tokens": 0},
    "cached_tokens": 0,
}
SCORED = {"index": 0, "object": "score", "score": 0.0, "margin": 0.0, "label_mass": 0.0, **READ}
SCORES = {"id": "id", "object": "list", "created": 0, "model": "id", "data": [SCORED]}
SCORES |= {"usage": TOKENS | {"total_tokens": 0}}
TEI_ASKED = {"query": QUERY, "texts": TEXTS[:1]}
ONE = {"query": QUERY, "documents": TEXTS[:1]}
TEXT = {"document": {"text": TEXTS[0]}}


def native(**row: Any) -> dict[str, Any]:
    return NATIVE | {"results": [NATIVE_ROW | row]}


def single(*warnings: str, **row: Any) -> dict[str, Any]:
    """What else the answer to a request with one query has: the `meta` of Cohere's v1."""
    meta: dict[str, Any] = META | {"api_version": {"version": "1", "is_experimental": False}}
    warned = {"warnings": [*warnings]} if warnings else {}
    return native(**row) | warned | {"meta": meta | warned}


SHAPES: list[tuple[str, dict[str, Any], Any]] = [
    ("/v1/rerank", ONE, single(**TEXT)),
    ("/v1/rerank", ONE | {"return_documents": False}, single()),
    ("/v1/rerank", ONE | {"documents": [{"text": "t", "id": "x", "title": "y"}]},
     single(id="id", document={"text": "t", "id": "id", "title": "y"})),
    ("/v1/rerank", ONE | {"topn": 3}, single("unknown key 'topn' was ignored", **TEXT)),
    ("/v1/rerank", {"queries": [QUERY, "x"], "documents": TEXTS[:1]},
     {"id": "id", "object": "list", "rankings": [native(**TEXT)]}),
    ("/v1/rerank", ONE | {"top_k": 1},
     {"object": "list", "data": [RANKED], "model": "id", "usage": {"total_tokens": 0}}),
    ("/v1/rerank", ONE | {"truncation": True, "return_documents": True},
     {"object": "list", "data": [RANKED | {"document": TEXTS[0]}], "model": "id", "usage": {"total_tokens": 0}}),
    ("/v1/rerank/batch", {"requests": [ONE, ONE]}, {"id": "id", "object": "list", "answers": [native(**TEXT)]}),
    # vLLM's own examples, at vLLM's paths.
    ("/rerank", ONE | {"top_n": 0}, single(**TEXT)),
    ("/rerank", ONE | {"truncate_prompt_tokens": 9999}, single(**TEXT)),
    ("/score", {"encoding_format": "float", "text_1": "a", "text_2": "b"},
     SCORES | {"warnings": ["unknown key 'encoding_format' was ignored"]}),
    ("/score", {"text_1": "a", "text_2": ["b", "c"]}, SCORES),
    ("/score", {"text_1": ["a", "d"], "text_2": ["b", "c"]}, SCORES),
    ("/score", {"data_1": "a", "data_2": ["b", "c"]}, SCORES),
    ("/v1/score", {"queries": ["a", "d"], "documents": ["b", "c"]}, SCORES),
    ("/v1/score", {"queries": "a", "items": ["b", "c"]}, SCORES),
    ("/v1/score", {"queries": ["a", "d"], "documents": ["b"], "grid": True}, SCORES | {"scores": [[0.0]]}),
    # Cohere
    ("/v2/rerank", ONE, {"id": "id", "results": [RANKED], "meta": META}),
    ("/cohere/v2/rerank", ONE | {"topn": 1},
     {"id": "id", "results": [RANKED], "meta": META | {"warnings": ["unknown key 'topn' was ignored"]}}),
    ("/cohere/v1/rerank", ONE | {"return_documents": True},
     {"id": "id", "results": [RANKED | TEXT], "meta": META | {"api_version": {"version": "1", "is_experimental": False}}}),
    # Jina returns the documents unless told not to.
    ("/jina/v1/rerank", ONE | {"documents": [{"text": TEXTS[0]}]},
     {"model": "id", "object": "list", "usage": {"total_tokens": 0}, "results": [RANKED | TEXT]}),
    ("/jina/v1/rerank", ONE | {"return_documents": False},
     {"model": "id", "object": "list", "usage": {"total_tokens": 0}, "results": [RANKED]}),
    ("/voyage/v1/rerank", ONE | {"return_documents": True},
     {"object": "list", "data": [RANKED | {"document": TEXTS[0]}], "model": "id", "usage": {"total_tokens": 0}}),
    ("/infinity/rerank", ONE | {"return_documents": True},
     {"object": "rerank", "id": "id", "created": 0, "model": "id", "results": [RANKED | {"document": TEXTS[0]}],
      "usage": {"prompt_tokens": 0, "total_tokens": 0}}),
    # TEI
    ("/rerank", TEI_ASKED, [{"index": 0, "score": 0.0}]),
    ("/tei/rerank", TEI_ASKED | {"truncate": True, "truncation_direction": "Left", "raw_scores": False},
     [{"index": 0, "score": 0.0}]),
    ("/tei/rerank", TEI_ASKED | {"return_text": True, "truncate": None}, [{"index": 0, "score": 0.0, "text": TEXTS[0]}]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "expected"), SHAPES)
def test_shapes(http: httpx.Client, path: str, body: dict[str, Any], expected: Any) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert shape(answer.json()) == expected


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        ("/v1/rerank", "results"),
        ("/rerank", "results"),
        ("/v2/rerank", "results"),
        ("/cohere/v1/rerank", "results"),
        ("/jina/v1/rerank", "results"),
        ("/voyage/v1/rerank", "data"),
        ("/infinity/rerank", "results"),
    ],
)
def test_all_dialects_give_the_same_scores(http: httpx.Client, scores: list[float], path: str, rows: str) -> None:
    answer = http.post(path, json=BODY).json()[rows]
    assert [row["index"] for row in answer] == order(scores)
    assert [row["relevance_score"] for row in answer] == close([scores[i] for i in order(scores)])


@pytest.mark.parametrize("path", ["/rerank", "/tei/rerank"])
def test_tei_gives_the_same_scores(http: httpx.Client, scores: list[float], path: str) -> None:
    answer = http.post(path, json={"query": QUERY, "texts": TEXTS}).json()
    assert {row["index"]: row["score"] for row in answer} == pytest.approx(dict(enumerate(scores)), abs=1e-4)
    raw = http.post(path, json={"query": QUERY, "texts": TEXTS, "raw_scores": True}).json()
    assert [row["index"] for row in raw] == order(scores)
    assert any(not 0 <= row["score"] <= 1 for row in raw)


def test_top_n_zero_means_all_as_in_vllm(http: httpx.Client) -> None:
    assert len(http.post("/rerank", json=BODY | {"top_n": 0}).json()["results"]) == len(TEXTS)


@pytest.mark.parametrize("path", ["/jina/v1/rerank", "/voyage/v1/rerank", "/cohere/v1/rerank", "/v1/rerank"])
def test_evidence_rides_along(http: httpx.Client, path: str) -> None:
    answer = http.post(path, json=BODY | EVIDENCE).raise_for_status().json()
    best, second, _ = answer.get("results") or answer["data"]
    written = {"contribution", "contribution_grounding", "evidence", "finish", "grounding"}
    assert set(best) - set(second) == written | ({"output_tokens"} if path == "/v1/rerank" else set())


def test_the_stream_tells_scores_ranking_evidence_and_all(http: httpx.Client) -> None:
    for path, extra in (("/v1/rerank/stream", {}), ("/v1/rerank", {"stream": True})):
        answer = http.post(path, json=BODY | EVIDENCE | extra)
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [dict(line.split(": ", 1) for line in frame.split("\n")) for frame in answer.text.split("\n\n")[:-1]]
        names = [event["event"] for event in events]
        assert (names[:3], names[3], names[-2:]) == (["score"] * 3, "ranking", ["evidence", "done"])
        assert len(json.loads(events[-1]["data"])["results"]) == len(TEXTS)


# Errors, in the format of each dialect.

FAULT = {"message": str, "type": str, "param": type(None), "code": int, "request_id": str}
NATIVE_ERROR = {"error": FAULT, "message": str, "detail": str}
COHERE_ERROR = {"id": str, "message": str}
DETAIL_ERROR = {"detail": str}
TEI_ERROR = {"error": str, "error_type": str}


def types(value: Any) -> Any:
    return {key: types(part) for key, part in value.items()} if isinstance(value, dict) else type(value)


DIALECTS = [
    ("/v1/rerank", "documents", NATIVE_ERROR),
    ("/v1/rerank/stream", "documents", NATIVE_ERROR),
    ("/rerank", "documents", NATIVE_ERROR),
    ("/v2/rerank", "documents", COHERE_ERROR),
    ("/cohere/v1/rerank", "documents", COHERE_ERROR),
    ("/jina/v1/rerank", "documents", DETAIL_ERROR),
    ("/voyage/v1/rerank", "documents", DETAIL_ERROR),
    ("/infinity/rerank", "documents", NATIVE_ERROR),
    ("/rerank", "texts", TEI_ERROR),
    ("/tei/rerank", "texts", TEI_ERROR),
]
FAULTS = [
    ({"query": "q", "DOCUMENTS": []}, "empty"),
    ({"query": " ", "DOCUMENTS": ["a"]}, "query is empty"),
    ({"query": 7, "DOCUMENTS": ["a"]}, "query: Input should be a valid string"),
    ({"query": "q", "DOCUMENTS": 7}, "DOCUMENTS: Input should be a valid list"),
    ({"query": "q", "DOCUMENTS": ["a", 5]}, "DOCUMENTS[1]: Input should be a valid string"),
    ({"query": "q", "DOCUMENTS": ["a"], "top_n": -1}, "top_n is -1: give a whole number"),
    ({"query": "q", "DOCUMENTS": ["a"], "mode": "explain"}, "mode: Input should be 'score', 'evidence' or 'spans'"),
    ({"query": "q", "DOCUMENTS": ["long " * 40_000], "truncation": False}, "longer than the model reads"),
    ({"DOCUMENTS": ["a"]}, "quer"),
]


@pytest.mark.parametrize(("body", "expected_message"), FAULTS)
@pytest.mark.parametrize(("path", "key", "expected"), DIALECTS)
def test_faults_are_named(
    http: httpx.Client, path: str, key: str, expected: Any, body: dict[str, Any], expected_message: str
) -> None:
    body = {name.replace("DOCUMENTS", key): part for name, part in body.items()}
    answer = http.post(path, json=body)
    if path == "/v1/rerank/stream" and "truncation" in body:
        expected_message = "a stream sends scores"
    if key == "documents" and expected == NATIVE_ERROR and "truncation" in body and "infinity" not in path:
        expected = DETAIL_ERROR  # a boolean is Voyage's form of this option
    assert types(answer.json()) == expected
    message = answer.json().get("message") or answer.json().get("detail") or answer.json()["error"]
    assert expected_message.replace("DOCUMENTS", key) in message
    assert answer.status_code == (422 if key == "texts" and expected_message != "empty" else 400)
    if "id" in expected:
        assert answer.json()["id"] == answer.headers["x-request-id"]


def test_tei_names_its_kinds_of_errors(http: httpx.Client) -> None:
    for body, status, kind in (({"query": "q", "texts": []}, 400, "Empty"), ({"texts": ["a"]}, 422, "Validation")):
        answer = http.post("/tei/rerank", json=body)
        assert (answer.status_code, answer.json()["error_type"]) == (status, kind)


@pytest.mark.parametrize(("path", "key", "expected"), DIALECTS)
def test_what_is_not_json_is_told_so(http: httpx.Client, path: str, key: str, expected: Any) -> None:
    for content, reason in ((b'{"query": ', "Expecting value at character"), (b"\xff\xff", "not UTF-8")):
        answer = http.post(path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == (422 if path == "/tei/rerank" else 400)
        assert reason in answer.text
    answer = http.post(path, content=json.dumps(BODY), headers={"content-type": "text/plain"})
    assert "Content-Type: application/json" in answer.text


def test_an_unknown_path_and_a_wrong_method(http: httpx.Client) -> None:
    assert http.post("/v3/rerank", json=BODY).status_code == 404
    assert http.get("/v1/rerank").status_code == 405


def test_the_api_page_needs_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs").raise_for_status().text
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    scripts = [file for file in files if file.endswith((".js", ".css"))]
    assert len(scripts) == 2 and all(file.startswith("/") for file in scripts)
    assert all(len(http.get(file).raise_for_status().content) > 10_000 for file in scripts)
    assert http.get("/openapi.json").json()["info"]["title"] == "whyrank"
