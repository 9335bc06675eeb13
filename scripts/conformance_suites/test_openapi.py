# /// script
# dependencies = ["schemathesis", "openapi-python-client", "openapi-spec-validator"]
# [tool.conformance]
# works-with = ["schemathesis", "openapi-python-client", "openapi-spec-validator"]
# seconds = 14400
# case-seconds = 7200
# ///
"""The server's own OpenAPI document: requests made up from it, by schemathesis, and the client that a generator makes of it.

Of every two requests one has a query and documents that make sense, so that answers of 200 are looked at, too, and not only
refusals. Texts are short: the engine reads them.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from served import DOCUMENTS, QUERY, SERVED, check

load_all_checks()
CHECKED = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
CHECKED += ("response_headers_conformance", "unsupported_method")
HEADERS = {"Authorization": f"Bearer {SERVED.key}"}
CASES = int(os.environ["CONFORMANCE_CASES"])
DOCUMENT: dict[str, Any] = schemathesis.openapi.from_url(f"{SERVED.url}/openapi.json", headers=HEADERS).raw_schema
# whyrank's own: vLLM's are vLLM's to describe.
OURS = [
    path
    for path, operations in DOCUMENT["paths"].items()
    if "post" in operations and ("rerank" in path or path.endswith("/score"))
]
TEXTS = st.text(max_size=40)
# Options that any request may be given.
SENSIBLE = {
    "top_n": st.integers(0, 5),
    "top_k": st.integers(0, 5),
    "return_documents": st.booleans(),
    "return_text": st.booleans(),
    "raw_scores": st.booleans(),
    "truncation_direction": st.sampled_from(["Left", "Right"]),
    "max_tokens_per_doc": st.integers(1, 50),
    "min_score": st.floats(0, 1),
    "mode": st.sampled_from(["score", "spans"]),
    "priority": st.integers(0, 999),
    "use_activation": st.booleans(),
    "model": st.sampled_from(["demo", "rerank-2.5", "rerank-v3.5"]),
    "user": TEXTS,
}


@st.composite
def sensible_bodies(draw: Callable[..., Any], path: str) -> dict[str, Any]:
    """A body that makes sense at `path`, with some of its options."""
    query = draw(st.sampled_from([QUERY, "wann ist Mittag?", "午餐"]) | TEXTS.filter(str.strip))
    documents = draw(st.lists(st.sampled_from(DOCUMENTS) | TEXTS, min_size=1, max_size=4))
    names = draw(st.sets(st.sampled_from([*SENSIBLE]), max_size=3))
    options = {name: draw(SENSIBLE[name]) for name in sorted(names)}
    if path.endswith("/score"):
        return {"queries": query, "documents": documents} | {
            name: value for name, value in options.items() if name in ("model", "use_activation", "max_tokens_per_doc")
        }
    if path.endswith("/batch"):
        plain = {name: value for name, value in options.items() if name != "top_k"}
        return {"requests": [{"query": query, "documents": documents} | plain]}
    if "tei" in path or (path == "/rerank" and draw(st.booleans())):
        return {"query": query, "texts": documents} | options
    if "spans" in options.values() and "stream" in path:
        del options["mode"]
    return {"query": query, "documents": documents} | options


def cases(schema: Any, path: str) -> st.SearchStrategy[Case]:
    operation = schema[path]["POST"]
    made_up = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))
    sensible = sensible_bodies(path).map(lambda body: operation.Case(body=body, media_type="application/json"))
    return sensible | made_up


@pytest.mark.parametrize("path", OURS)
def test_made_up_requests(path: str, record_property: Callable[[str, Any], None]) -> None:
    schema = schemathesis.openapi.from_url(f"{SERVED.url}/openapi.json", headers=HEADERS)
    statuses = Counter[int]()

    @given(case=cases(schema, path))
    @settings(
        max_examples=max(1, -(-CASES // len(OURS))),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Case) -> None:
        response = case.call(headers=HEADERS, timeout=60)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=[CHECKS.get_one(name) for name in CHECKED], headers=HEADERS)

    try:
        send()
    finally:
        record_property(f"cases {path}", sum(statuses.values()))
        record_property(f"answers of 200 {path}", statuses[200])
    assert statuses[200] > 0.1 * sum(statuses.values()), statuses


def test_every_route_is_described() -> None:
    assert len(OURS) >= 13
    assert {"/v1/rerank", "/v2/rerank", "/rerank", "/score", "/v1/score"} <= set(OURS)


def test_the_document_is_valid() -> None:
    validate(DOCUMENT)


def _part(paths: list[str]) -> dict[str, Any]:
    """The document of these paths alone, without what vLLM's others refer to."""
    described = {path: DOCUMENT["paths"][path] for path in paths}
    schemas, left = dict[str, Any](), json.dumps(described)
    while new := set(re.findall(r'"#/components/schemas/([^"]+)"', left)) - schemas.keys():
        schemas |= {name: DOCUMENT["components"]["schemas"][name] for name in new}
        left = json.dumps([schemas[name] for name in sorted(new)])
    return {**DOCUMENT, "paths": described, "components": {**DOCUMENT["components"], "schemas": schemas}}


def test_a_client_can_be_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(_part([*OURS, "/health", "/info"])))
    program = Path(sys.executable).parent / "openapi-python-client"
    command = [
        program,
        "generate",
        "--path",
        "openapi.json",
        "--meta",
        "none",
        "--output-path",
        "made",
        "--fail-on-warning",
    ]
    # Its last step wants ruff on the path, which is of no matter here.
    (tmp_path / "config.yml").write_text("post_hooks: []\n")
    done = subprocess.run(
        [*command, "--config", "config.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("made")
    models = importlib.import_module("made.models")
    rerank = importlib.import_module("made.api.cohere.rerank_v2_rerank_post")
    client = made.AuthenticatedClient(base_url=SERVED.url, token=SERVED.key)
    answer = rerank.sync(client=client, body=models.CohereRequest(query=QUERY, documents=DOCUMENTS))
    check([(row.index, row.relevance_score) for row in answer.results])
