"""The command mcp: the tools of adapters/mcp.py on stdin and stdout."""

from __future__ import annotations

import asyncio
import os
from typing import IO, Any

from whyrank.cli.common import ApiKey, OptionalModel, Url, app, reported
from whyrank.cli.flags import Flags, flags_of
from whyrank.config import EngineConfig
from whyrank.connect import RerankerContext, open_reranker
from whyrank.process import prepare_process

__all__: list[str] = []


@app.command()
@flags_of("engine", EngineConfig)
def mcp(
    model: OptionalModel = None,
    url: Url = None,
    api_key: ApiKey = None,
    *,
    engine: Flags,
) -> None:
    """Offer reranking to agents as MCP tools, over stdin and stdout: rerank_with_evidence and rerank.

    `whyrank mcp --url http://localhost:8000 --api-key SECRET`

    `whyrank mcp --model infgrad/Prism-Qwen3.5-Reranker-0.8B`

    An MCP host starts this command itself. Put the line above into its settings in two parts: `"command": "whyrank",
    "args": ["mcp", "--url", "http://localhost:8000"]`. With --model, the model is loaded before the host gets its first
    answer. If the host does not wait that long, run `whyrank serve` and give --url.
    """
    with reported() as stdout:
        from whyrank.adapters.mcp import tools_over

        prepare_process()
        asyncio.run(_serve(tools_over, open_reranker(model, url or (), api_key, engine), stdout))


async def _serve(tools_over: Any, connection: RerankerContext, stdout: IO[str]) -> None:
    async with connection as reranker:
        # Until here, stdout was redirected to stderr for the starting engine. The transport needs the real one.
        os.dup2(stdout.fileno(), 1)
        await tools_over(reranker).run_stdio_async()
