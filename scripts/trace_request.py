#!/usr/bin/env python3
"""Follows one request through the code: every function of whyrank that it enters, in order, each once.

    scripts/trace_request.py                 # four ways: in process, over HTTP, in the client, on the command line
    scripts/trace_request.py --ways process http

Two documents are scored with the embedded model. What happens once, at the start of an engine or a server, is left out. Over
HTTP, the server's own functions are followed, without a socket; the command line asks a server.

The last line of stdout is one JSON document: for each way, how many functions there are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

import server_process
import whyrank
from whyrank import AsyncClient, Reranker
from whyrank.__main__ import app as command_line
from whyrank.checkpoints import make_plan
from whyrank.config import DEMO, EngineConfig
from whyrank.serving.admission import Limits
from whyrank.serving.service import Service
from whyrank.serving.standalone import make_app
from whyrank.start import start_checked

WAYS = ("process", "http", "client", "cli")

_PACKAGE = str(Path(whyrank.__file__).parent)
_QUERY = "When is lunch served?"
_DOCUMENTS = ["Lunch is served from noon to two.", "The library opens at nine."]
# Only so much is known of them by name; they belong to the function around them.
_ANONYMOUS = {"<lambda>", "<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>", "<module>"}


class Trace:
    """Which functions of whyrank all threads entered while it was `on`."""

    def __init__(self) -> None:
        self.on = False
        self.functions: dict[str, None] = {}
        sys.setprofile(self._event)
        threading.setprofile(self._event)  # for threads that start from now on

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if self.on and event == "call" and code.co_filename.startswith(_PACKAGE) and code.co_name not in _ANONYMOUS:
            room = code.co_filename[len(_PACKAGE) + 1 :].removesuffix(".py")
            self.functions.setdefault(f"{room}: {code.co_qualname}")

    async def follow(self, call: Callable[[], Awaitable[object]]) -> list[str]:
        """The second call is followed: the first one fills caches, and imports."""
        await call()
        self.functions.clear()
        self.on = True
        await call()
        self.on = False
        return list(self.functions)


async def follow_here(trace: Trace, ways: Sequence[str]) -> dict[str, list[str]]:
    """In process and over HTTP, on one engine."""
    followed: dict[str, list[str]] = {}
    plan = make_plan(EngineConfig(DEMO, kv_cache_gib=0.5))
    started = await start_checked(plan)
    try:
        reranker = Reranker.from_runtime(started.runtime, started.plan.encoder, plan.config)
        if "process" in ways:
            followed["process"] = await trace.follow(lambda: reranker.score(_QUERY, _DOCUMENTS))
        if "http" in ways:
            service = Service(started.runtime, started.plan, Limits(), [], DEMO)
            await service.warm_up()
            transport = httpx.ASGITransport(make_app(service))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                body = {"query": _QUERY, "documents": _DOCUMENTS}
                followed["http"] = await trace.follow(lambda: http.post("/v1/rerank", json=body))
    finally:
        await started.runtime.aclose()
    return followed


async def follow_against(url: str, trace: Trace, ways: Sequence[str]) -> dict[str, list[str]]:
    followed: dict[str, list[str]] = {}
    if "client" in ways:
        async with AsyncClient(url) as client:
            followed["client"] = await trace.follow(lambda: client.score(_QUERY, _DOCUMENTS))
    if "cli" in ways:
        command = ["rerank", "--url", url, "--query", _QUERY, *_DOCUMENTS]
        followed["cli"] = await trace.follow(lambda: asyncio.to_thread(command_line, command, standalone_mode=False))
    return followed


def run(ways: Sequence[str]) -> dict[str, list[str]]:
    trace, followed = Trace(), dict[str, list[str]]()
    if {"process", "http"} & {*ways}:
        followed |= asyncio.run(follow_here(trace, ways))
    if {"client", "cli"} & {*ways}:
        with tempfile.TemporaryDirectory() as folder:
            server = server_process.start(Path(DEMO), server_process.SMALL_CACHE, Path(folder, "log"))
            try:
                followed |= asyncio.run(follow_against(server.url, trace, ways))
            finally:
                server.process.terminate()
                server.process.wait(60)
    return followed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    followed = run(parser.parse_args().ways)
    for way, functions in followed.items():
        print(f"{way}: {len(functions)} functions", *functions, sep="\n    ")
    print(json.dumps({way: len(functions) for way, functions in followed.items()}))


if __name__ == "__main__":
    main()
