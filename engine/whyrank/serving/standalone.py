"""The server for checkpoints that need no vLLM: the plugin's routes on plain uvicorn."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from prometheus_client import make_asgi_app
from starlette.routing import Mount

from whyrank.checkpoints import Plan
from whyrank.config import ServeOptions
from whyrank.runtimes.encoder import EncoderRuntime
from whyrank.runtimes.vllm_compat import DOCS_FILES, docs_folder
from whyrank.serving.admission import Limits
from whyrank.serving.connections import END_SECONDS, SHUTDOWN_SECONDS, LimitedProtocol, end_within
from whyrank.serving.context import service_of
from whyrank.serving.guarded_route import new_router
from whyrank.serving.middleware import ApiKeyMiddleware, endpoints_of
from whyrank.serving.native.errors import NATIVE
from whyrank.serving.native.models import model_card
from whyrank.serving.openapi import describe
from whyrank.serving.responses import JsonResponse
from whyrank.serving.router import routers
from whyrank.serving.service import Service
from whyrank.serving.start_lines import Start, print_when_ready, server_url

__all__ = ["StandaloneServer", "make_app", "serve_standalone"]

models = new_router("OpenAI", NATIVE)


@models.get("/v1/models", summary="Models")
async def get_models(raw: Request) -> Response:
    """The one model that is served, in the format of vLLM's own server."""
    return JsonResponse({"object": "list", "data": [model_card(service_of(raw))]})


async def serve_standalone(
    plan: Plan,
    keys: Sequence[str],
    host: str,
    port: int,
    shutdown_seconds: float,
    options: ServeOptions,
    start: Start | None,
) -> None:
    """Serves until the process is told to stop."""
    runtime = await EncoderRuntime.start(plan)
    try:
        limits = Limits.from_environment()
        service = Service(runtime, plan, limits, keys, plan.config.model, strict_model=options.strict_model)
        await service.warm_up()
        await StandaloneServer(service, host, port, shutdown_seconds, options.protect_metrics, start).serve()
    finally:
        await runtime.aclose()


def _metrics_route() -> Mount:
    """Serves /metrics itself, as in vLLM's server; a plain mount would redirect to /metrics/."""
    route = Mount("/metrics", make_asgi_app())
    route.path_regex = re.compile("^/metrics(?P<path>(/.*)?)$")
    return route


def _app_with_docs(folder: Path | None) -> FastAPI:
    """With an API page that needs nothing from elsewhere, as vLLM's server has it, if vLLM is there to lend the files."""
    if folder is None:
        return FastAPI()
    app = FastAPI(docs_url=None, redoc_url=None)
    app.mount("/static", StaticFiles(directory=folder), name="static")
    script, style = (f"/static/{name}" for name in DOCS_FILES)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="whyrank",
            swagger_js_url=script,
            swagger_css_url=style,
            swagger_favicon_url="data:,",
        )

    return app


def make_app(service: Service, protect_metrics: bool = False) -> FastAPI:
    """All routes, where no server of vLLM has them already."""
    app = _app_with_docs(docs_folder())
    for router in (*routers, models):
        app.include_router(router)
    app.router.routes.append(_metrics_route())
    app.state.whyrank = service
    describe(app, service)
    endpoints = endpoints_of((*routers, models))
    app.add_middleware(ApiKeyMiddleware, endpoints=endpoints, protect_metrics=protect_metrics)
    return app


class StandaloneServer(uvicorn.Server):
    """When told to stop, it finishes the calls in flight, as vLLM's server does with the plugin. uvicorn alone would accept new
    calls until then, and finally cut off those still waiting."""

    def __init__(
        self,
        service: Service,
        host: str,
        port: int,
        shutdown_seconds: float,
        protect_metrics: bool = False,
        start: Start | None = None,
    ) -> None:
        """`start`: its lines are printed in place of uvicorn's log."""
        config = uvicorn.Config(
            make_app(service, protect_metrics),
            host=host,
            port=port,
            http=LimitedProtocol,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            log_level="warning" if start else None,
        )
        if start is not None:
            print_when_ready(config, service, start, server_url(host, port), docs=True)
        super().__init__(config)
        self._service = service
        self._shutdown_seconds = shutdown_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn would re-raise the signal at the end; but a server that was asked to stop has not failed."""
        if not self.should_exit:
            end_within(self._shutdown_seconds + END_SECONDS)
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self._service.stop, self._shutdown_seconds, asyncio.get_running_loop())
        await super().shutdown(sockets)
