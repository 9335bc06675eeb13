"""Tiny checkpoints, and one running engine per kind for the whole session."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

import server_process
from server_process import SMALL_CACHE, Server
from tiny_checkpoint import write_checkpoint
from whyrank import EngineConfig, Reranker
from whyrank.checkpoints import Plan, make_plan
from whyrank.prompting.scoring import Score, score_of
from whyrank.prompting.tokens import EncodedDocument
from whyrank.runtimes import Runtime, start_runtime
from whyrank.runtimes.reference import Reference
from whyrank.types import Document

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tiny models gain nothing from a second thread, and lose much if it waits for a core that another test is using.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Which tiny checkpoint stands for which family. The folder's name is what fitting_format sees.
KIND_OF = {
    "prism": "qwen3",
    "qwen3-reranker": "qwen3",
    "qwen3-vl-reranker": "qwen3-vl",
    "zerank": "qwen3",
    "ctxl-v2": "qwen3",
    "qanchor": "qwen3-seq-cls",
    "mxbai-v2": "qwen2",
    "bge-v2-gemma": "gemma",
    "multi-hop": "deberta",
    "bge-reranker": "xlm-roberta",
    "querit": "querit",
    "minicheck-7b": "qwen3",
    "minicheck-roberta": "roberta",
    "minicheck-deberta": "deberta-claims",
    "claims-chatml": "qwen2",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers, tests of files that share a server or engines stay in one worker: each is started only once."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return _shared(config.rootpath / file) or file

    return Together(config, log)


@cache
def _shared(file: Path) -> str | None:
    text = file.read_text(encoding="utf-8")
    return next((what for what in ("server: Server", "serve: Serve") if what in text), None)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """checkpoint(kind) → a folder, written once per session."""
    folder, written = tmp_path_factory.mktemp("checkpoints"), set[str]()

    def written_once(kind: str) -> Path:
        if kind not in written:
            write_checkpoint(kind, folder / kind)
            written.add(kind)
        return folder / kind

    return written_once


@dataclass
class Served:
    """A running reranker, its plan, and plain transformers on the same checkpoint for comparison."""

    reranker: Reranker
    plan: Plan
    runtime: Runtime

    @cached_property
    def reference(self) -> Reference:
        return Reference.beside(self.plan, self.runtime.facts())

    def expected(self, query: str, text: str) -> Score:
        (row,) = self.plan.encoder.encode(query, [Document(text)], None, "tail")
        assert isinstance(row, EncodedDocument)
        return score_of(self.reference.read(row.prompts[0].ids), self.plan.format.score_rule)


def newest_engine() -> psutil.Process:
    """The engine process that was started most recently."""
    engines = [child for child in psutil.Process().children() if "EngineCore" in " ".join(child.cmdline())]
    return max(engines, key=lambda child: child.create_time())


Serve = Callable[..., Any]


@pytest_asyncio.fixture(scope="session")
async def serve(checkpoint: Callable[[str], Path]) -> AsyncIterator[Serve]:
    """await serve(prompt, kind=None, route=None): formats that can share an engine do. The three that were used last are kept:
    each takes 1 GB."""
    engines: dict[tuple[Any, ...], tuple[Runtime, dict[tuple[Any, ...], Served]]] = {}

    async def started(prompt: str, kind: str | None = None, route: str | None = None) -> Served:
        for key, (_, served) in engines.items():
            if found := served.get((prompt, kind, route)):
                engines[key] = engines.pop(key)  # now the last
                return found
        folder = checkpoint(kind or KIND_OF[prompt])
        consent = (kind or KIND_OF[prompt]) == "querit"
        config = EngineConfig(str(folder), prompt=prompt, route=route, kv_cache_gib=0.25, trust_remote_code=consent)  # type: ignore[arg-type]
        plan = await asyncio.to_thread(make_plan, config)
        # Same checkpoint, same way of reading labels: the engine can be shared; the format and its labels belong to Served.
        key = (folder, plan.route, plan.format.score.rule, plan.encoder.labels if plan.route == "classify" else None)
        if key not in engines:
            if len(engines) == 3:
                oldest, _ = engines.pop(next(iter(engines)))
                await oldest.aclose()
            engines[key] = await start_runtime(plan), {}
        runtime, served = engines[key]
        if plan.route != "encoder":
            runtime = type(runtime)(runtime.engine, plan)  # type: ignore[attr-defined,call-arg]
        served[prompt, kind, route] = Served(Reranker.from_runtime(runtime, plan.encoder, config), plan, runtime)
        return served[prompt, kind, route]

    yield started
    for engine, _ in engines.values():
        await engine.aclose()


StartServer = Callable[..., Server]


@contextlib.contextmanager
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    started: list[Server] = []

    def start(folder: Path, *flags: str, **environment: str) -> Server:
        started.append(server_process.start(folder, flags, tmp_path_factory.mktemp("server") / "log", **environment))
        return started[-1]

    yield start
    for server in started:
        server.process.terminate()
    for server in started:
        server.process.wait(60)


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """start_server(folder, *flags, **environment): the servers are stopped after the file's last test."""
    with servers(tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="session")
def server(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The tiny Qwen3 with the Prism prompt and no API key, for all files."""
    with servers(tmp_path_factory) as start:
        yield start(checkpoint("qwen3"), "--prompt", "prism", *SMALL_CACHE)
