"""What `whyrank serve` prints while it starts. With --verbose, the logs of vLLM and uvicorn are shown instead."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import uvicorn
from fastapi import FastAPI

from whyrank import __version__
from whyrank.checkpoints import Plan
from whyrank.dtypes import choose_dtype
from whyrank.label_choice import choice_text
from whyrank.runtimes.base import Runtime, engines_of
from whyrank.runtimes.vllm_compat import api_process
from whyrank.serving.service import Service

__all__ = ["Start", "announced", "print_start", "print_when_ready", "server_url"]

# Passes the class below to vLLM's HTTP process, which may be another one than ours.
_VARIABLE = "WHYRANK_START"


@dataclass(frozen=True, slots=True)
class Start:
    """`began`: seconds since the epoch."""

    began: float
    dtype_reason: str

    @classmethod
    def of(cls, plan: Plan, on_cpu: bool, began: float) -> Self:
        return cls(began, choose_dtype(plan, on_cpu).reason)

    @classmethod
    def from_environment(cls) -> Self | None:
        text = os.environ.get(_VARIABLE)
        return cls(**json.loads(text)) if text else None

    def to_environment(self) -> None:
        os.environ[_VARIABLE] = json.dumps(asdict(self))


def print_start(plan: Plan) -> None:
    # The engine's answers choose the labels, which are part of the fingerprint.
    prompt = plan.format.fingerprint if len(plan.choices) < 2 else plan.format.name
    served = f"{plan.config.model}, prompt {prompt}, route {plan.route}"
    download = "" if Path(plan.config.source).exists() else ", downloaded first unless it is in the cache"
    _print(f"whyrank {__version__} serves {served}", f"loading the model{download} (--verbose shows the log)")


def print_when_ready(config: uvicorn.Config, service: Service, start: Start, url: str | None, docs: bool) -> None:
    """`url`: None if the server listens at a Unix socket."""

    async def print_once() -> None:
        config.callback_notify = None
        _print(*_ready_lines(service, start, url, docs))

    # uvicorn calls it as soon as the server accepts connections, and then every 30 seconds.
    config.callback_notify = print_once


def _ready_lines(service: Service, start: Start, url: str | None, docs: bool) -> list[str]:
    lines = [f"dtype: {service.runtime.facts().get('dtype')}, {start.dtype_reason}"]
    if chosen := choice_text(service.plan):
        lines.append(f"prompt: {service.plan.format.fingerprint}, labels {chosen}")
    lines.append(f"prefix cache: {_prefix_cache(service.runtime)}")
    if service.wants_key:
        lines.append("access: with the API key")
    else:
        lines.append("access: everyone who can reach this address (--api-key KEY requires a key)")
    if url:
        lines.append(f"playground: {url}/playground")
    if url and docs:
        lines.append(f"API docs: {url}/docs")
    return [*lines, f"ready in {time.time() - start.began:.0f} s"]


def _prefix_cache(runtime: Runtime) -> str:
    engine = getattr(runtime, "engine", None)
    if engine is None:
        return "none, encoders do not use one"
    cache = engine.vllm_config.cache_config
    if not cache.enable_prefix_caching:
        return "off"
    size = f"{cache.kv_cache_memory_bytes / (1 << 30):.2f} GiB for " if cache.kv_cache_memory_bytes else ""
    engines = len(engines_of(runtime))
    each = f" in each of {engines} engines" if engines > 1 else ""
    blocks = (cache.num_gpu_blocks or 0) // engines  # vLLM adds up those of all engines
    return f"{size}{blocks * cache.block_size:,} tokens{each}"


def server_url(host: str | None, port: int, tls: bool = False) -> str:
    """The server's URL for a person on this machine."""
    if host in (None, "", "0.0.0.0", "::"):
        host = "localhost"
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in (host or '') else host}:{port}"


@asynccontextmanager
async def announced(app: FastAPI) -> AsyncIterator[None]:
    """Lifespan that prints these lines in vLLM's own server, if `whyrank serve` started it."""
    start = Start.from_environment()
    process, _ = api_process(app.state.engine_client.vllm_config)
    if start is not None and process == 0:  # one speaks for all
        args: Any = app.state.args
        url = None if args.uds else server_url(args.host, args.port, tls=bool(args.ssl_keyfile and args.ssl_certfile))
        docs = not args.disable_fastapi_docs
        print_when_ready(app.state.server.config, app.state.whyrank, start, url, docs)
    yield


def _print(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr, flush=True)
