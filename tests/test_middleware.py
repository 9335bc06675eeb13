"""The API key in front of vLLM's own application, with every route that vLLM can have, and of a small app. No engine."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket
from starlette.testclient import TestClient, WebSocketDenialResponse

from inprocess import FakeRuntime, prism_plan
from whyrank.checkpoints import Plan
from whyrank.runtimes.vllm_compat import vllm_name
from whyrank.serving.admission import Limits
from whyrank.serving.middleware import ApiKeyMiddleware, endpoints_of
from whyrank.serving.plugin import close_routes, replace_key_check
from whyrank.serving.router import routers
from whyrank.serving.service import Service

KEYS = ("K1", "K2")
OPEN = {"/health", "/tei/health", "/metrics", "/v1/cluster/auth"}
CLOSED_BY_DEFAULT = [
    *(
        "/invocations",
        "/tokenize",
        "/detokenize",
        "/load",
        "/sleep",
        "/wake_up",
        "/collective_rpc",
        "/reset_prefix_cache",
    ),
    *("/v1/load_lora_adapter", "/adapters", "/pause", "/abort_requests", "/update_weights", "/server_info"),
]
CLOSED_ON = {
    "generate": [
        *("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/generative_scoring"),
        *("/inference/v1/generate", "/scale_elastic_ep"),
    ],
    "classify": ["/pooling", "/classify"],
}
OURS = ["/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"]


@pytest.fixture(scope="module")
def plan(checkpoint: Callable[[str], Path]) -> Plan:
    return prism_plan(checkpoint("qwen3"))


@pytest.fixture(scope="module")
def everything() -> Iterator[None]:
    """Makes vLLM register the routes of its development mode, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("VLLM_PLUGINS", "whyrank"),
            ("VLLM_SERVER_DEV_MODE", "1"),
            ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1"),
        ):
            patch.setenv(name, value)
        yield


VllmApp = Callable[..., FastAPI]


@pytest.fixture
def vllm_app(everything: None, plan: Plan) -> VllmApp:
    """vllm_app(route, keep_vllm): built by vLLM with our plugin in it, as far as possible without an engine."""
    parser = vllm_name("make_arg_parser")(vllm_name("FlexibleArgumentParser")("whyrank"))
    args = parser.parse_args(["tiny", "--api-key", *KEYS])
    pooling = SimpleNamespace(get_pooling_task=lambda tasks: "classify", hf_config=SimpleNamespace(num_labels=1))

    def build(route: str, keep_vllm: bool) -> FastAPI:
        generates = route == "generate"
        tasks = ("generate",) if generates else ("classify", "score")
        app = vllm_name("build_app")(args, tasks, None if generates else pooling)
        replace_key_check(app)
        close_routes(app, route, keep_vllm)
        app.state.whyrank = Service(FakeRuntime(plan.encoder), plan, Limits(), KEYS, "tiny")
        return app

    return build


def client(app: FastAPI, key: str | None = None) -> httpx.AsyncClient:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # without an engine, vLLM's handlers fail
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


def filled(path: str) -> str:
    return re.sub(r"\{.*?\}", "x", path)


def operations(app: FastAPI) -> list[tuple[str, str]]:
    return [
        (method, filled(route.path))  # type: ignore[attr-defined]
        for route in app.routes
        for method in getattr(route, "methods", None) or ("GET",)
    ]


@pytest.mark.parametrize("keep_vllm", [True, False])
@pytest.mark.parametrize("route", ["generate", "classify"])
async def test_every_route_of_vllm_and_ours_wants_the_key(vllm_app: VllmApp, route: str, keep_vllm: bool) -> None:
    app = vllm_app(route, keep_vllm)
    walked = operations(app)
    assert len(walked) > (50 if keep_vllm else 20)
    for key in (None, "wrong", "K1K2", *KEYS):
        async with client(app, key) as http:
            for method, path in walked:
                answer = await http.request(method, path)
                assert (answer.status_code != 401) == (path in OPEN or key in KEYS), (method, path, key)


async def test_each_mount_refuses_in_its_own_shape(vllm_app: VllmApp) -> None:
    shapes = {"/v2/rerank": {"id", "message"}, "/cohere/v1/rerank": {"id", "message"}, "/jina/v1/rerank": {"detail"}}
    native = {"error", "message", "detail"}
    shapes |= {path: native for path in ("/v1/rerank", "/v1/score", "/v1/models", "/v1/nothing")}
    async with client(vllm_app("generate", False)) as http:
        for path, keys in shapes.items():
            answer = await http.request("GET" if "models" in path else "POST", path, json={})
            assert (answer.status_code, set(answer.json())) == (401, keys), path
            assert "send 'Authorization: Bearer KEY'" in answer.text


@pytest.mark.parametrize("route", ["generate", "classify"])
async def test_what_whyrank_does_not_need_is_closed(vllm_app: VllmApp, route: str) -> None:
    closed, opened = vllm_app(route, False), vllm_app(route, True)
    everything = {path for _, path in operations(opened)}
    allowed = {
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
        "/openapi.json",
        "/metrics",
        "/ping",
        "/version",
        "/v1/models",
    }
    ours = {filled(one.path) for router in routers for one in router.routes}  # type: ignore[attr-defined]
    assert {path for _, path in operations(closed)} <= allowed | ours
    paths = [*CLOSED_BY_DEFAULT, *CLOSED_ON[route]]
    async with client(closed, "K1") as http:
        for path in paths:
            assert (await http.post(path, json={})).status_code == 404, path
        shown = (await http.get("/openapi.json")).json()["paths"]
    assert set(paths).isdisjoint(shown)
    assert everything >= {path for path in paths if (route, path) != ("classify", "/invocations")}


@pytest.mark.parametrize("keep_vllm", [True, False])
async def test_nothing_but_ours_ranks_and_scores_on_the_classify_route(vllm_app: VllmApp, keep_vllm: bool) -> None:
    app = vllm_app("classify", keep_vllm)
    assert "/invocations" not in {path for _, path in operations(app)}
    ours = endpoints_of(routers)
    for path in OURS:
        (handler,) = [one.endpoint for one in app.routes if getattr(one, "path", None) == path]  # type: ignore[attr-defined]
        assert handler in ours


@pytest.fixture
def small_app(plan: Plan) -> Callable[..., FastAPI]:
    """small_app(*keys, protect_metrics=False): an app with some routes that are not ours."""

    def build(*keys: str, protect_metrics: bool = False) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/completions")
        async def completions(raw: Request) -> Any:
            return {"body": (await raw.body()).decode()}

        @app.get("/metrics")
        async def metrics() -> str:
            return "counted"

        @app.websocket("/v1/realtime")
        async def realtime(socket: WebSocket) -> None:
            await socket.accept()
            await socket.close()

        app.add_middleware(ApiKeyMiddleware, endpoints=endpoints_of(routers), protect_metrics=protect_metrics)
        app.state.whyrank = Service(FakeRuntime(plan.encoder), plan, Limits(body_mib=1), keys, "tiny")
        return app

    return build


SmallApp = Callable[..., FastAPI]


@pytest.mark.parametrize("body", [{"priority": -9}, {"priority": 0}, {"cache_salt": "theirs"}])
async def test_priority_and_salt_do_not_pass_beside_keys(small_app: SmallApp, body: dict[str, Any]) -> None:
    (name,) = body
    async with client(small_app("K1"), "K1") as http:
        answer = await http.post("/v1/completions", json={"prompt": "a", **body})
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "InvalidRequest")
        assert name in answer.json()["error"]["message"]
    async with client(small_app()) as http:  # without keys there is only one tenant
        assert (await http.post("/v1/completions", json=body)).status_code == 200


async def test_the_header_for_a_priority_is_refused_too(small_app: SmallApp) -> None:
    async with client(small_app("K1"), "K1") as http:
        answer = await http.post("/v1/completions", json={}, headers={"X-Vllm-Priority": "-9"})
    assert answer.status_code == 400 and "x-vllm-priority" in answer.text


async def in_parts(parts: list[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_bodies_pass_unchanged(small_app: SmallApp) -> None:
    body = b'{"prompt": "a", "messages": [{"priority": 1}]}'
    async with client(small_app("K1"), "K1") as http:
        for content in (body, in_parts([body[:9], body[9:]])):
            assert (await http.post("/v1/completions", content=content)).json() == {"body": body.decode()}
        assert (await http.post("/v1/completions")).json() == {"body": ""}


@pytest.mark.parametrize(("content", "status"), [(b"{", 400), (b"[" * 100_000, 400), (b" " * (2 << 20), 413)])
async def test_bodies_that_cannot_be_checked_are_refused(small_app: SmallApp, content: bytes, status: int) -> None:
    async with client(small_app("K1"), "K1") as http:
        assert (await http.post("/v1/completions", content=content)).status_code == status


@pytest.mark.parametrize("protect_metrics", [True, False])
async def test_metrics_want_the_key_by_option(small_app: SmallApp, protect_metrics: bool) -> None:
    app = small_app("K1", protect_metrics=protect_metrics)
    async with client(app) as http:
        assert (await http.get("/metrics")).status_code == (401 if protect_metrics else 200)
    async with client(app, "K1") as http:
        assert (await http.get("/metrics")).status_code == 200


async def test_a_browser_opens_pages_with_the_key_as_password(small_app: SmallApp) -> None:
    basic = {"authorization": "Basic " + base64.b64encode(b"anybody:K1").decode()}
    async with client(small_app("K1")) as http:
        refused = await http.get("/docs")
        assert refused.headers["www-authenticate"].startswith("Basic") and "API key" in refused.text
        for path in ("/docs", "/openapi.json"):
            assert (await http.get(path, headers=basic)).status_code == 200
        # A foreign page can make a browser send a POST with the password that the browser has stored.
        refused = await http.post("/v1/completions", headers=basic)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


def test_websockets_want_the_key(small_app: SmallApp) -> None:
    http = TestClient(small_app("K1"))
    with pytest.raises(WebSocketDenialResponse) as refused, http.websocket_connect("/v1/realtime"):
        pass
    assert refused.value.status_code == 401
    with http.websocket_connect("/v1/realtime", headers={"authorization": "Bearer K1"}):
        pass
