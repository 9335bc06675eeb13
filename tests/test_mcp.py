"""`whyrank mcp` as an agent's host sees it: with the real MCP client, in a process of its own, over its stdin and stdout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from server_process import Server
from whyrank import AsyncClient

QUERY = "At what temperature does water boil?"
TEXTS = ["Water boils at 100 °C at sea level.", "Everest is high.", "Tea wants hot water."]
FAILING = "http://127.0.0.1:9"


@asynccontextmanager
async def tools(*arguments: str) -> AsyncIterator[Client]:
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "whyrank", "mcp", *arguments], env=dict(os.environ)
    )
    async with Client(command, read_timeout_seconds=60) as client:
        yield client


async def test_an_agent_reranks_with_evidence(server: Server) -> None:
    documents: list[Any] = [TEXTS[0], {"text": TEXTS[1], "id": "everest", "title": "Heights"}, TEXTS[2]]
    arguments = {"query": QUERY, "documents": documents, "top_n": 2, "min_score": 0.0}
    async with tools("--url", server.url) as client, AsyncClient(server.url) as direct:
        result = await client.call_tool("rerank_with_evidence", arguments)
        options: dict[str, Any] = {"mode": "evidence", "evidence_min_score": 0.0, "evidence_top_n": 2, "top_n": 2}
        expected = await direct.rerank(QUERY, documents, **options)
        assert not result.is_error and result.structured_content is not None
        results = result.structured_content["results"]
        assert [one["index"] for one in results] == [row.index for row in expected.results]
        for one, row in zip(results, expected.results, strict=True):
            assert row.evidence is not None and row.evidence.grounding is not None
            assert one["id"] == row.id and one["score"] == pytest.approx(row.score, abs=1e-3)
            assert (one["contribution"], one["evidence"]) == (row.evidence.contribution, row.evidence.evidence)
            assert one["supported"] == row.evidence.grounding.supported
            assert one["complete"] == (row.evidence.finish == "complete")
        assert result.structured_content["degraded"] is False
        # A host that does not support structured content reads the same as text.
        assert json.loads(result.content[0].text) == result.structured_content  # type: ignore[union-attr]

        result = await client.call_tool("rerank", {"query": QUERY, "documents": documents})
        assert result.structured_content is not None and len(result.structured_content["results"]) == 3
        assert "evidence" not in result.structured_content["results"][0]
        hurried = await client.call_tool("rerank_with_evidence", arguments | {"deadline_ms": 1})
        assert hurried.structured_content is not None and hurried.structured_content["degraded"] is True


async def test_an_agent_is_told_what_the_tools_are_for(server: Server) -> None:
    async with tools("--url", server.url) as client:
        assert "rerank_with_evidence" in (client.instructions or "")
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(listed) == ["rerank_with_evidence", "rerank"]
    for tool in listed.values():
        assert tool.description and tool.annotations and tool.annotations.read_only_hint
        parameters = tool.input_schema["properties"]
        assert all(one.get("description") for one in parameters.values()), "the agent reads nothing else"
        assert tool.input_schema["required"] == ["query", "documents"]
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema and "results" in tool.output_schema["properties"]


async def test_an_agent_is_told_what_went_wrong(server: Server) -> None:
    async def complaint(client: Client, **arguments: Any) -> str:
        result = await client.call_tool("rerank_with_evidence", {"query": QUERY, "documents": TEXTS} | arguments)
        assert result.is_error
        return str(result.content[0].text)  # type: ignore[union-attr]

    async with tools("--url", server.url) as client:
        assert "query is empty: give the text" in await complaint(client, query=" ")
        assert "documents is empty: give at least one" in await complaint(client, documents=[])
        assert "top_n" in await complaint(client, top_n=0)
        assert "text" in await complaint(client, documents=[{"id": "a"}])
        unknown = await complaint(client, top_k=3, limit=1)
        assert "rerank_with_evidence has no argument limit, top_k; it has query, documents, top_n" in unknown
        result = await client.call_tool("rerank", {"query": QUERY, "documents": TEXTS})
        assert not result.is_error, "and it goes on"
    async with tools("--url", FAILING) as client:
        assert FAILING in await complaint(client)


def test_stdout_is_the_protocols_alone(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Even with a checkpoint whose own code prints when it is loaded and whenever it is called."""
    folder = shutil.copytree(checkpoint("querit"), tmp_path / "querit")
    (code,) = folder.glob("*.py")
    code.write_text(
        "print('loaded')\n" + code.read_text().replace("        return", "        print('asked')\n        return")
    )
    model = ["--model", str(folder), "--prompt", "querit", "--trust-remote-code"]
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    call = {"name": "rerank", "arguments": {"query": QUERY, "documents": TEXTS}}
    messages: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call},
    ]
    command = [sys.executable, "-m", "whyrank", "mcp", *model]
    with (
        (tmp_path / "stderr").open("w") as stderr,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        assert process.stdin and process.stdout
        process.stdin.write("".join(json.dumps(one) + "\n" for one in messages))
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.stdin.close()  # this is how a host ends the session
        assert process.stdout.read() == "" and process.wait(30) == 0
    printed = (tmp_path / "stderr").read_text()
    assert "loaded" in printed and "asked" in printed
    assert [one["id"] for one in answers] == [1, 2]
    assert {one["index"] for one in answers[1]["result"]["structuredContent"]["results"]} == {0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --model, to load a model, or --url"),
        (["--model", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_started_says_so_and_ends(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "whyrank", "mcp", *arguments]
    done = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and message in done.stderr and done.stdout == "" and "Traceback" not in done.stderr
