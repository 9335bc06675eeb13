"""What clients send beyond the plain case: nulls, sloppy types, vLLM's own options, model names. No engine, no socket."""

from __future__ import annotations

import json
import types
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import httpx
import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel

import whyrank
from inprocess import InProcess, prism_plan
from samples import QUERY
from whyrank.serving.openapi import describe
from whyrank.serving.router import routers

MakeServer = Callable[..., InProcess]
BODY = {"query": QUERY, "documents": ["a", "b", "c"]}
TEXTS = {"query": QUERY, "texts": ["a", "b", "c"]}
SCORED = {"queries": QUERY, "documents": ["a", "b", "c"]}
LONG = "word " * 40_000
RERANK_PATHS = ["/v1/rerank", "/rerank", "/v2/rerank", "/cohere/v1/rerank", "/jina/v1/rerank", "/voyage/v1/rerank"]
RERANK_PATHS += ["/infinity/rerank"]


@pytest.fixture(scope="module")
def make(checkpoint: Callable[[str], Path]) -> MakeServer:
    plan = prism_plan(checkpoint("qwen3"))
    return lambda *keys, **limits: InProcess(plan, *keys, **limits)


@pytest.fixture
async def http(make: MakeServer) -> AsyncIterator[httpx.AsyncClient]:
    async with make().client() as client:
        yield client


def rows_of(body: Any) -> list[dict[str, Any]]:
    if isinstance(body, list):
        return body
    if "answers" in body:
        return rows_of(body["answers"][0])
    return body.get("results") or body["data"]


def comparable(answer: httpx.Response) -> Any:
    """An answer without the parts that are new for each request."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        return answer.text
    body = answer.json()
    return [body] if isinstance(body, list) else {k: v for k, v in body.items() if k not in ("id", "created")}


# Null means the same as a missing key.


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        for part in get_args(annotation):
            yield from models_of(part)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def optional_fields() -> list[tuple[str, str]]:
    cases = []
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.body_field is not None and "batch" not in route.path:
                for model in models_of(route.body_field.field_info.annotation):
                    optional = [name for name, one in model.model_fields.items() if not one.is_required()]
                    required = set(model.model_fields) - set(optional)
                    body = TEXTS if "texts" in required else BODY if "score" not in route.path else SCORED
                    cases += [(route.path, name, body) for name in optional if name not in body]
    return cases


OPTIONAL = optional_fields()


def test_there_are_fields_of_all_dialects() -> None:
    assert len(OPTIONAL) > 200
    assert {path for path, _, _ in OPTIONAL} >= {*RERANK_PATHS, "/tei/rerank", "/score", "/v1/score"}


@pytest.mark.parametrize("path", sorted({path for path, _, _ in OPTIONAL}))
async def test_null_is_the_same_as_nothing(http: httpx.AsyncClient, path: str) -> None:
    for _, name, body in [one for one in OPTIONAL if one[0] == path]:
        if name == "top_k" and "voyage" not in path:
            continue  # even as null, only Voyage's client sends it
        plain, with_null = await http.post(path, json=body), await http.post(path, json=body | {name: None})
        assert with_null.status_code == 200, (name, with_null.text)
        assert comparable(with_null) == comparable(plain), name


async def test_null_within_relevant_spans(http: httpx.AsyncClient) -> None:
    spans = {"mode": "enabled", "threshold": None, "max_spans": None}
    assert (await http.post("/v2/rerank", json=BODY | {"relevant_spans": spans})).status_code == 200


# Flags and whole numbers in all their spellings.


@pytest.mark.parametrize("path", RERANK_PATHS)
@pytest.mark.parametrize("two", ["2", 2.0, "+2", 2])
async def test_whole_numbers_may_be_strings_and_floats(http: httpx.AsyncClient, path: str, two: Any) -> None:
    answer = await http.post(path, json=BODY | {"top_n": two})
    assert len(rows_of(answer.json())) == 2


@pytest.mark.parametrize("path", RERANK_PATHS)
async def test_what_is_no_whole_number_is_still_refused(http: httpx.AsyncClient, path: str) -> None:
    for value, message in (
        ("two", "integer"),
        (2.5, "integer"),
        ("", "integer"),
        (True, "integer"),
        ("-2", "top_n is -2"),
    ):
        answer = await http.post(path, json=BODY | {"top_n": value})
        assert answer.status_code == 400 and "top_n" in answer.text and message in answer.text, value


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/cohere/v1/rerank", "/jina/v1/rerank", "/voyage/v1/rerank"])
async def test_flags_may_be_strings(http: httpx.AsyncClient, path: str) -> None:
    for text, there in (("true", True), ("True", True), ("false", False), ("FALSE", False)):
        answer = (await http.post(path, json=BODY | {"return_documents": text})).raise_for_status()
        assert ("document" in rows_of(answer.json())[0]) is there
    for wrong in ("yes", 1, "", []):
        answer = await http.post(path, json=BODY | {"return_documents": wrong})
        assert answer.status_code == 400 and "return_documents: Input should be a valid boolean" in answer.text


@pytest.mark.parametrize("path", RERANK_PATHS)
async def test_zero_is_no_bound(http: httpx.AsyncClient, path: str) -> None:
    zeros = {"top_n": 0, "max_tokens_per_doc": 0, "max_tokens_per_query": 0}
    answer = (await http.post(path, json=BODY | zeros)).raise_for_status()
    assert rows_of(answer.json()) == rows_of((await http.post(path, json=BODY)).json())
    assert "x-whyrank-truncated" not in answer.headers


async def test_zero_is_no_bound_of_the_others(http: httpx.AsyncClient) -> None:
    assert len(rows_of((await http.post("/tei/rerank", json=TEXTS | {"top_n": 0})).json())) == 3
    assert len(rows_of((await http.post("/voyage/v1/rerank", json=BODY | {"top_k": 0})).json())) == 3
    assert (await http.post("/score", json=SCORED | {"max_tokens_per_doc": 0})).status_code == 200


# A query that is too long.

QUERIED: list[tuple[str, dict[str, Any], int]] = [
    *((path, BODY, 400) for path in RERANK_PATHS),
    ("/v1/rerank/stream", BODY, 400),
    ("/rerank", TEXTS, 422),
    ("/tei/rerank", TEXTS, 422),
]


@pytest.mark.parametrize(("path", "body", "status"), QUERIED)
async def test_a_query_that_is_too_long_is_refused(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], status: int
) -> None:
    answer = await http.post(path, json=body | {"query": LONG})
    assert answer.status_code == status
    assert "query has 40" in answer.text and " tokens, of which the model reads " in answer.text
    assert "truncate_query" in answer.text
    cut = await http.post(path, json=body | {"query": LONG, "truncate_query": True})
    assert cut.status_code == 200
    if "stream" not in path:
        assert cut.headers["x-whyrank-truncated"] == "0, 1, 2"


async def test_a_score_for_a_query_that_is_too_long_is_refused(http: httpx.AsyncClient) -> None:
    refused = await http.post("/score", json=SCORED | {"queries": LONG})
    assert refused.status_code == 400 and "truncate_query" in refused.text
    cut = (await http.post("/score", json=SCORED | {"queries": LONG, "truncate_query": True})).raise_for_status()
    assert all(row["truncation"]["query_tokens_cut"] > 1000 for row in cut.json()["data"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/voyage/v1/rerank", BODY | {"truncation": True}),
        ("/v1/rerank", BODY | {"truncation": True}),
        ("/tei/rerank", TEXTS | {"truncate": True}),
        ("/rerank", BODY | {"truncate_prompt_tokens": -1}),
        ("/rerank", BODY | {"truncate_prompt_tokens": 500}),
        ("/rerank", BODY | {"max_tokens_per_query": 20}),
    ],
)
async def test_each_dialect_has_its_word_for_cutting_a_query(
    http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    answer = (await http.post(path, json=body | {"query": LONG})).raise_for_status()
    assert answer.headers["x-whyrank-truncated"] == "0, 1, 2"


# vLLM's own options.


async def test_max_tokens_per_query_bounds_the_query(make: MakeServer) -> None:
    server = make()
    async with server.client() as client:
        for path in RERANK_PATHS:
            server.runtime.prompts.clear()
            await client.post(path, json={"query": "one two three four five", "documents": ["a"]})
            await client.post(
                path, json={"query": "one two three four five", "documents": ["a"], "max_tokens_per_query": 3}
            )
            whole, cut = server.runtime.prompts
            assert len(cut) < len(whole)


async def test_truncate_prompt_tokens_bounds_the_prompt(make: MakeServer) -> None:
    server = make()
    body = {"query": QUERY, "documents": [LONG], "truncate_prompt_tokens": 500}
    async with server.client() as client:
        for path in ("/rerank", "/v1/rerank", "/score"):
            server.runtime.prompts.clear()
            answer = (await client.post(path, json=body)).raise_for_status()
            assert [len(prompt) for prompt in server.runtime.prompts] == [500], path
            assert "warnings" not in answer.json()
        whole = (await client.post("/rerank", json=body | {"truncate_prompt_tokens": 1_000_000})).raise_for_status()
        assert rows_of(whole.json())[0]["truncation"]["used_tokens"] > 500
        for bound, message in ((0, "truncate_prompt_tokens is 0"), (-2, "is -2"), (5, "the frame of prompt 'prism'")):
            refused = await client.post("/rerank", json=body | {"truncate_prompt_tokens": bound})
            assert refused.status_code == 400 and message in refused.text


async def test_without_activation_scores_are_log_odds(http: httpx.AsyncClient) -> None:
    for path in ("/rerank", "/v1/rerank"):
        rows = rows_of((await http.post(path, json=BODY | {"use_activation": False})).json())
        assert [row["relevance_score"] for row in rows] == [row["margin"] for row in rows]
        assert any(not 0 <= row["relevance_score"] <= 1 for row in rows)
    for path in ("/score", "/v1/score"):
        body = (await http.post(path, json=SCORED | {"grid": True, "use_activation": False})).json()
        margins = [row["margin"] for row in body["data"]]
        assert [row["score"] for row in body["data"]] == margins and body["scores"] == [margins]
        plain = (await http.post(path, json=SCORED | {"use_activation": True})).json()["data"]
        assert all(0 <= row["score"] <= 1 for row in plain)


async def test_the_templates_instruction_is_the_instruction(http: httpx.AsyncClient) -> None:
    for path, body in (("/rerank", BODY), ("/score", SCORED)):
        plain, by_template = [
            await http.post(path, json=body | instruction)
            for instruction in ({"instruction": "Be kind."}, {"chat_template_kwargs": {"instruction": "Be kind."}})
        ]
        assert plain.status_code == by_template.status_code == 400  # Prism's instruction is fixed
        assert plain.json()["message"] == by_template.json()["message"]
        other = await http.post(path, json=body | {"chat_template_kwargs": {"enable_thinking": False}})
        assert other.status_code == 400 and "chat_template_kwargs: 'enable_thinking' cannot be set" in other.text
        assert (await http.post(path, json=body | {"chat_template_kwargs": {"": 1}})).status_code == 400
        assert (await http.post(path, json=body | {"chat_template_kwargs": {}})).status_code == 200


async def test_vllms_forms_of_texts(make: MakeServer) -> None:
    server = make()

    def content(*texts: str) -> dict[str, Any]:
        return {"content": [{"type": "text", "text": text} for text in texts]}

    async with server.client() as client:
        for path in ("/rerank", "/v1/rerank", "/score", "/v1/score"):
            query = "queries" if "score" in path else "query"
            for form, plain in ((content("a"), ["a"]), ("a", ["a"]), ([content("a", "b"), "c"], ["a\nb", "c"])):
                server.runtime.prompts.clear()
                (await client.post(path, json={query: content(QUERY), "documents": form})).raise_for_status()
                (await client.post(path, json={query: QUERY, "documents": plain})).raise_for_status()
                half = len(plain)
                assert server.runtime.prompts[:half] == server.runtime.prompts[half:] != []
            picture = {"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
            refused = await client.post(path, json={query: QUERY, "documents": [picture]})
            assert refused.status_code == 400 and "only parts of type text can be read" in refused.text


async def test_errors_have_vllms_words_on_its_routes(make: MakeServer) -> None:
    for path, kind in (("/rerank", "BadRequestError"), ("/score", "BadRequestError"), ("/v1/rerank", "InvalidRequest")):
        async with make().client() as client:
            answer = await client.post(path, json={"query": "q"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, kind)


# Voyage's requests at paths that several dialects share.

VOYAGES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"model": "rerank-2.5"}, {}),  # Voyage's own curl, npm voyageai, Continue
    ({"model": "rerank-2.5-lite", "return_documents": True}, {}),
    ({"model": "rerank-lite-1"}, {}),
    ({"model": "voyage/rerank-2"}, {}),
    ({"model": "tiny", "top_k": None}, {}),  # Dify, Voyage's Python client
    ({"model": "tiny", "top_k": 2}, {}),
    ({"model": "tiny"}, {"user-agent": "Voyage/v1 PythonBindings/0.3.2"}),
    ({"model": "tiny"}, {"user-agent": "voyageai/0.1.0"}),
]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
@pytest.mark.parametrize(("more", "headers"), VOYAGES)
async def test_voyage_is_known(
    http: httpx.AsyncClient, path: str, more: dict[str, Any], headers: dict[str, str]
) -> None:
    answer = (await http.post(path, json=BODY | more, headers=headers)).raise_for_status().json()
    assert set(answer) == {"object", "data", "model", "usage"}
    assert ("document" in answer["data"][0]) is ("return_documents" in more)
    refused = await http.post(path, json=more | {"query": "q", "documents": []}, headers=headers)
    assert (refused.status_code, set(refused.json())) == (400, {"detail"})


@pytest.mark.parametrize(
    "more",
    [
        {"model": "rerank-v3.5"},
        {"model": "rerank-english-v3.0"},
        {"model": "rerank-multilingual-v2.0"},
        {"model": "jina-reranker-v2-base-multilingual"},
        {"model": "rerank-2.5", "top_n": 2},
        {"model": "tiny"},
        {},
    ],
)
async def test_others_are_not_taken_for_voyage(http: httpx.AsyncClient, more: dict[str, Any]) -> None:
    assert "results" in (await http.post("/v1/rerank", json=BODY | more)).json()


async def test_voyage_calls_too_much_an_invalid_request(make: MakeServer) -> None:
    async with make(documents=2).client() as client:
        for path in ("/voyage/v1/rerank", "/v1/rerank"):
            answer = await client.post(path, json=BODY | {"model": "rerank-2.5"})
            assert (answer.status_code, set(answer.json())) == (400, {"detail"})
            assert "3 documents in one request" in answer.text


# API keys.


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/v1/rerank", {"error", "message", "detail"}),
        ("/rerank", {"error", "message", "detail"}),
        ("/v2/rerank", {"id", "message"}),
        ("/cohere/v1/rerank", {"id", "message"}),
        ("/jina/v1/rerank", {"detail"}),
        ("/voyage/v1/rerank", {"detail"}),
        ("/tei/rerank", {"error", "error_type"}),
        ("/infinity/rerank", {"error", "message", "detail"}),
    ],
)
async def test_a_missing_key_is_told_in_the_dialects_shape(make: MakeServer, path: str, keys: set[str]) -> None:
    async with make("K1").client() as client:
        answer = await client.post(path, json=BODY)
        assert (answer.status_code, set(answer.json())) == (401, keys)
        assert "send 'Authorization: Bearer KEY'" in answer.text
        voyages = await client.post("/v1/rerank", json=BODY, headers={"user-agent": "Voyage/v1 PythonBindings/0"})
        assert (voyages.status_code, set(voyages.json())) == (401, {"detail"})


# The answer at /v1/rerank.


async def test_cohere_v1_finds_its_keys_at_the_bare_path(http: httpx.AsyncClient) -> None:
    meta = (await http.post("/v1/rerank", json=BODY | {"topn": 1})).json()["meta"]
    assert (meta["api_version"]["version"], meta["billed_units"]) == ("1", {"search_units": 1})
    assert meta["warnings"] == ["unknown key 'topn' was ignored"]


async def test_a_failed_row_has_all_keys_and_is_named(make: MakeServer) -> None:
    async with make(characters=100).client() as client:
        answer = await client.post("/v1/rerank", json={"query": "q", "documents": ["a", "y" * 101]})
    good, failed = answer.json()["results"]
    assert set(good) == set(failed) and failed["relevance_score"] is None
    assert answer.headers["x-whyrank-failed"] == "1"


# Model names.


@pytest.mark.parametrize("path", [*RERANK_PATHS, "/score"])
async def test_another_model_is_warned(http: httpx.AsyncClient, path: str) -> None:
    body = SCORED if path == "/score" else BODY
    for name, warned in (("tiny", False), ("other", True), ("owner/tiny", True)):
        answer = (await http.post(path, json=body | {"model": name})).raise_for_status()
        assert (f"model '{name}' is not served: 'tiny' answered" in f"{answer.text}{answer.headers}") is warned


async def test_names_are_taken_with_and_without_their_owner(make: MakeServer) -> None:
    server = make()
    server.service.names = ("Qwen/Qwen3-Reranker-0.6B", "short")
    names = {"Qwen/Qwen3-Reranker-0.6B": True, "Qwen3-Reranker-0.6B": True, "short": True, "qwen": False, "": False}
    assert {name: server.service.serves(name) for name in names} == names


async def test_a_strict_server_refuses_another_model(make: MakeServer) -> None:
    server = make()
    server.service.strict_model = True
    async with server.client() as client:
        for path in [*RERANK_PATHS, "/v1/rerank/stream", "/v1/score"]:
            body = SCORED if "score" in path else BODY
            assert (await client.post(path, json=body | {"model": "tiny"})).status_code == 200
            refused = await client.post(path, json=body | {"model": "other"})
            assert refused.status_code == 404 and "model 'other' is not served here: give 'tiny'" in refused.text
        batch = (await client.post("/v1/rerank/batch", json={"requests": [BODY, BODY | {"model": "other"}]})).json()
        assert batch["answers"][1]["error"]["code"] == 404
    assert json.dumps(batch["answers"][0])


# Other things that clients look up.


async def test_the_model_is_looked_up_by_name(http: httpx.AsyncClient) -> None:
    card = (await http.get("/v1/models/tiny")).raise_for_status().json()
    assert (card["id"], card["object"], card["model_type"]) == ("tiny", "model", "rerank")
    other = await http.get("/v1/models/owner/other")
    assert other.status_code == 404 and "'owner/other' is not served here" in other.text


async def test_xinferences_client_is_told_whether_to_send_its_key(make: MakeServer) -> None:
    for keys in ((), ("K1",)):
        async with make(*keys).client() as client:
            assert (await client.get("/v1/cluster/auth")).raise_for_status().json() == {"auth": bool(keys)}


async def test_cohere_v1_reads_the_text_of_objects_unless_told_otherwise(make: MakeServer) -> None:
    server = make()
    read = {
        "nothing said": ([{"title": "T", "text": "a"}], None, "a"),
        "the text": ([{"title": "T", "text": "a"}], ["text"], "a"),
        "both": ([{"title": "T", "text": "a"}], ["title", "text"], "title: T\ntext: a"),
    }
    async with server.client() as client:
        for documents, fields, text in read.values():
            server.runtime.prompts.clear()
            body = {"query": QUERY, "documents": documents, "rank_fields": fields}
            (await client.post("/cohere/v1/rerank", json=body)).raise_for_status()
            (await client.post("/cohere/v1/rerank", json={"query": QUERY, "documents": [text]})).raise_for_status()
            one, other = server.runtime.prompts
            assert one == other


@pytest.mark.parametrize("path", ["/info", "/tei/info"])
async def test_teis_info(make: MakeServer, path: str) -> None:
    server = make(documents=7)
    async with server.client() as client:
        info = (await client.get(path)).raise_for_status().json()
    assert info["model_id"] == "tiny" and list(info["model_type"]) == ["reranker"]
    assert info["max_client_batch_size"] == 7
    assert info["max_input_length"] == server.service.plan.encoder.max_length


async def test_infinity(http: httpx.AsyncClient) -> None:
    body = (await http.post("/infinity/rerank", json=BODY | {"return_documents": True, "top_n": 2})).json()
    assert body["object"] == "rerank" and set(body["usage"]) == {"prompt_tokens", "total_tokens"}
    assert [row["document"] for row in body["results"]] == [BODY["documents"][row["index"]] for row in body["results"]]
    bare = (await http.post("/infinity/rerank", json=BODY)).json()["results"]
    assert all(set(row) == {"relevance_score", "index"} for row in bare)
    raw = (await http.post("/infinity/rerank", json=BODY | {"raw_scores": True})).json()["results"]
    assert any(not 0 <= row["relevance_score"] <= 1 for row in raw)


async def test_teis_directions(http: httpx.AsyncClient) -> None:
    for direction, status in (("left", 200), ("Left", 200), ("RIGHT", 200), ("up", 422)):
        answer = await http.post("/tei/rerank", json=TEXTS | {"truncation_direction": direction})
        assert answer.status_code == status


# OpenAPI.


def described(server: InProcess) -> dict[str, Any]:
    describe(server.app, server.service)
    return server.app.openapi()


async def test_the_document_says_what_is_served(make: MakeServer) -> None:
    document = described(make())
    assert (document["info"]["title"], document["info"]["version"]) == ("whyrank", whyrank.__version__)
    assert {*RERANK_PATHS, "/score", "/cohere/v2/rerank", "/tei/rerank", "/info"} <= set(document["paths"])


async def test_a_key_is_wanted_only_where_there_is_one(make: MakeServer) -> None:
    for keys in ((), ("K1",)):
        text = json.dumps(described(make(*keys)))
        assert ('"security"' in text, '"securitySchemes"' in text) == (bool(keys), bool(keys))


async def test_the_documents_bounds_are_those_of_the_checks(http: httpx.AsyncClient, make: MakeServer) -> None:
    schemas = described(make())["components"]["schemas"]
    for name, value in (("min_score", 1.5), ("evidence_top_n", 0), ("top_n", -1), ("deadline_ms", 0)):
        schema = schemas["NativeRequest"]["properties"][name]["anyOf"][0]
        low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum", value)
        assert not (low <= value <= high and value != schema.get("exclusiveMinimum")), name
        assert (await http.post("/v1/rerank", json=BODY | {name: value})).status_code == 400
    assert schemas["CohereRequest"]["properties"]["documents"]["minItems"] == 1
    assert schemas["TeiRequest"]["properties"]["texts"]["minItems"] == 1


async def test_no_enum_has_two_values_that_make_one_name(make: MakeServer) -> None:
    """Client generators turn enum values into names, and fail if two are the same."""

    def enums(value: Any) -> Iterator[list[str]]:
        if isinstance(value, dict):
            if isinstance(value.get("enum"), list):
                yield value["enum"]
            for part in value.values():
                yield from enums(part)
        elif isinstance(value, list):
            for part in value:
                yield from enums(part)

    listed = [*enums(described(make()))]
    assert len(listed) > 5
    for values in listed:
        assert len({value.lower() for value in values}) == len(values), values
