"""A server's information about itself: its prompts, versions and health, and the playground."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NotRequired

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from typing_extensions import TypedDict

from whyrank import __version__
from whyrank.config import DEMO, EngineConfig
from whyrank.prompting.formats import builtin_formats
from whyrank.serving.context import service_of
from whyrank.serving.native.errors import native_router
from whyrank.serving.responses import JsonResponse

__all__ = ["health", "router"]

router = native_router()
health = APIRouter(tags=["whyrank"])
"""Open to every load balancer: it needs no key, and reveals no caller's text."""

_PLAYGROUND = Path(__file__).parents[1] / "playground"
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_MAIN_ROUTES = {
    "rerank": "/v1/rerank",
    "score": "/v1/score",
    "playground": "/playground",
    "docs": "/docs",
    "health": "/health",
    "metrics": "/metrics",
}


class FormatsResponse(TypedDict):
    served: str
    writes_evidence: bool
    formats: list[dict[str, Any]]


@router.get("/v1/formats", summary="Prompts", response_model=FormatsResponse)
async def formats(raw: Request) -> Response:
    """The prompt that is served, and all prompts included in whyrank."""
    served = service_of(raw).plan.format
    known = builtin_formats() | {served.name: served}
    response: FormatsResponse = {
        "served": served.fingerprint,
        "writes_evidence": service_of(raw).writes,
        "formats": [fmt.model_dump(mode="json") | {"fingerprint": fmt.fingerprint} for fmt in known.values()],
    }
    return JsonResponse(response)


class VersionResponse(TypedDict):
    """`version`: vLLM's; absent if the model needs no vLLM."""

    version: NotRequired[str]
    whyrank: str


@router.get("/version", summary="Versions", response_model=VersionResponse)
async def version(raw: Request) -> Response:
    """vLLM's version, under the key that its own /version uses, and whyrank's. Without vLLM, only whyrank's."""
    response: VersionResponse = {"whyrank": __version__}
    if service_of(raw).plan.route != "encoder":
        response = {"version": importlib.import_module("vllm").__version__, **response}
    return JsonResponse(response)


class Canary(TypedDict):
    margin: float | None
    expected: float | None


class HealthResponse(TypedDict):
    status: str
    canary: Canary


_UNHEALTHY: dict[str, Any] = {
    "model": HealthResponse,
    "description": "The known pair gets another score, or the engine has died.",
}


@health.get("/tei/health", include_in_schema=False)
@health.get(
    "/health",
    summary="Health",
    response_model=HealthResponse,
    response_description="The known pair gets the score that it got at startup, or the server is busy.",
    responses={503: _UNHEALTHY},
)
async def get_health(raw: Request) -> Response:
    """200 while a known pair still gets the score that it got at startup; otherwise 503."""
    state = await service_of(raw).health()
    canary: Canary = {"margin": state.canary_margin, "expected": state.canary_expected}
    response: HealthResponse = {"status": state.status, "canary": canary}
    return JsonResponse(response, 200 if state.well else 503)


@router.get("/", include_in_schema=False)
async def root(raw: Request) -> Response:
    """For those who only know the server's address. It needs the key as /playground does: it names the model, too, and if it
    let a browser through, the page behind it would still ask for the key."""
    if "text/html" in raw.headers.get("accept", ""):
        return RedirectResponse(f"{raw.scope.get('root_path', '')}/playground")
    service = service_of(raw)
    served = {"model": service.model, "prompt": service.plan.format.fingerprint}
    return JsonResponse({"name": "whyrank", "version": __version__} | served | {"routes": _MAIN_ROUTES})


@router.get("/playground", include_in_schema=False)
async def playground(raw: Request) -> Response:
    return _playground_file(_PLAYGROUND / "index.html")


@router.get("/playground/about", include_in_schema=False)
async def playground_about(raw: Request) -> Response:
    """For the page's header. `embedded`: whether this is the small model included in whyrank, which costs nothing to query."""
    service = service_of(raw)
    return JsonResponse(
        {
            "model": service.model,
            "prompt": service.plan.format.fingerprint,
            "dtype": service.runtime.facts().get("dtype"),
            "writes_evidence": service.writes,
            "embedded": service.plan.config.source == EngineConfig(DEMO).source,
        }
    )


@router.get("/playground/{name}", include_in_schema=False)
async def playground_part(name: str, raw: Request) -> Response:
    path = next((path for path in _PLAYGROUND.iterdir() if path.name == name), None)
    if path is None:
        raise HTTPException(404, "the playground has no such file")
    return _playground_file(path)


def _playground_file(path: Path) -> Response:
    # Package files keep their dates over an update: browsers must not use them to guess how long a copy is fresh.
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return Response(path.read_bytes(), media_type=_MEDIA_TYPES[path.suffix], headers=headers)
