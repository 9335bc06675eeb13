"""Whatever is sent, there is no 5xx, and every answer has a status, a type and a shape that OpenAPI declares."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from conftest import Server
from inprocess import InProcess, prism_plan
from test_guarded_route import BODY, ROUTES

load_all_checks()
CHECKED = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "unsupported_method",
    )
]
HIDDEN = {"/playground", "/playground/stream"}
POSTS = [path for method, path in ROUTES if method == "POST" and path not in HIDDEN]
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.fixture(scope="module")
async def inside(checkpoint: Callable[[str], Path]) -> InProcess:
    return InProcess(prism_plan(checkpoint("qwen3")))


def fuzz(schema: Any, path: str, mode: GenerationMode, count: int) -> int:
    """Sends `count` generated requests, always the same ones; returns how many were sent."""
    sent = 0

    @given(case=schema[path]["POST"].as_strategy(generation_mode=mode))
    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    def send(case: Case) -> None:
        nonlocal sent
        sent += 1
        case.call_and_validate(checks=CHECKED)

    send()
    return sent


@pytest.mark.parametrize("path", POSTS)
def test_generated_requests(inside: InProcess, path: str) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", inside.app)
    assert sum(fuzz(schema, path, mode, 120) for mode in MODES) >= 220  # over all thirteen paths: 2,860


def test_there_are_thirteen_paths() -> None:
    assert len(POSTS) == 13


def test_generated_requests_to_a_real_server(server: Server) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    assert sum(fuzz(schema, path, mode, 8) for path in POSTS for mode in MODES) >= 140
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"


# Requests that no generator makes.

GOOD = json.dumps(BODY | {"texts": ["a"], "queries": None, "requests": [BODY]})
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a string": b'"query"',
    "not JSON": b"query=q&documents=a",
    "cut off": GOOD[:-5].encode(),
    "two": GOOD.encode() * 2,
    "not UTF-8": b'{"query": "\xff\xfe", "documents": ["a"]}',
    "UTF-16": GOOD.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "NUL": b"\0" * 100,
    "NaN": b'{"query": "q", "documents": ["a"], "texts": ["a"], "min_score": NaN}',
    "infinite": b'{"query": "q", "documents": ["a"], "texts": ["a"], "deadline_ms": 1e999}',
    "a million": b'{"query": "q", "documents": ["a"], "texts": ["a"], "top_n": 1' + b"0" * 1000 + b"}",
    "more digits than Python reads": b'{"query": "q", "documents": ["a"], "texts": ["a"], "top_n": '
    + b"9" * 5000
    + b"}",
    "a number in a document": b'{"query": "q", "documents": [{"text": "a", "id": ' + b"9" * 4000 + b', "x": 1e308}]}',
    "deep": b'{"query": "q", "documents": [{"text": "a", "x": ' + b"[" * 900 + b"]" * 900 + b"}]}",
    "deeper": b"[" * 100_000 + b"]" * 100_000,
    "deep and open": b'{"a":' * 200_000,
    "said twice": b'{"query": "q", "query": "r", "documents": ["a"], "texts": ["a"], "documents": ["b"]}',
    "half a character": b'{"query": "\\ud800", "documents": ["\\udc00"], "texts": ["\\udc00"]}',
    "half a key": b'{"query": "q", "documents": [{"text": "a", "\\ud800": 1}], "texts": ["a"], "\\udc00": 1}',
    "half a salt": b'{"query": "q", "documents": ["a"], "texts": ["a"], "cache_salt": "\\ud800"}',
    "an empty key": b'{"query": "q", "documents": [{"text": "a", "": ""}], "texts": ["a"], "": {}}',
    "many documents": json.dumps({"query": "q", "documents": ["a"] * 50_000, "texts": ["a"] * 50_000}).encode(),
}


@pytest.mark.parametrize("body", BODIES)
async def test_bodies_that_nobody_should_send(inside: InProcess, body: str) -> None:
    async with inside.client() as client:
        for path in POSTS:
            for kind in (
                "application/json",
                "application/json; charset=utf-16",
                "text/plain",
                "multipart/form-data",
                "x",
            ):
                answer = await client.post(path, content=BODIES[body], headers={"content-type": kind})
                assert answer.status_code in (200, 400, 413, 422), (path, kind, answer.text)
                assert answer.headers["content-type"].split(";")[0] in ("application/json", "text/event-stream")
    assert inside.service.admission.documents == 0
