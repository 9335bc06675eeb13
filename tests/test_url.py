"""Commands and evaluation with a server instead of a model of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from server_process import Server
from whyrank import Document
from whyrank.config import EngineConfig
from whyrank.connect import open_reranker, open_server
from whyrank.errors import InvalidRequest, PermanentError
from whyrank.evaluation.run import open_target

TEXTS = ["Water boils at 100 °C.", "Everest is high.", "Tea wants hot water."]


def whyrank(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whyrank", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=os.environ | environment
    )


@contextmanager
def replying(status: int, answer: Any) -> Iterator[tuple[str, list[str | None]]]:
    """Gives everything the same answer, and records which API key was sent."""
    shown: list[str | None] = []

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            shown.append(self.headers.get("Authorization"))
            body = json.dumps(answer).encode()
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    door = HTTPServer(("127.0.0.1", 0), Door)
    Thread(target=door.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{door.server_port}", shown
    finally:
        door.shutdown()
        door.server_close()


WRONG_KEY = 401, {"error": {"type": "Unauthorized", "message": "wrong key"}}


async def test_rerank_prints_what_the_server_says(server: Server) -> None:
    command = ("rerank", "--url", server.url, "-q", "boiling point", *TEXTS)
    done = whyrank(*command, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    async with open_server(server.url, None, EngineConfig("m")) as client:
        ranking = await client.rerank("boiling point", TEXTS)
    assert [row["index"] for row in answer["results"]] == [row.index for row in ranking.results]
    assert [row["score"] for row in answer["results"]] == pytest.approx([row.score for row in ranking.results])
    assert answer["prompt"].startswith("prism@") and set(answer) >= {"usage", "evidence_usage", "model"}
    done = whyrank(*command, "--mode", "evidence", "--evidence-min-score", 0, "--evidence-top-n", 1)
    assert done.returncode == 0, done.stderr
    assert "█" in done.stdout and "supported by the document" in done.stdout


def test_the_key_comes_from_the_option_or_the_environment() -> None:
    with replying(*WRONG_KEY) as (url, shown):
        for arguments, environment in (
            (["--api-key", "said"], {"WHYRANK_API_KEY": "kept"}),
            ([], {"WHYRANK_API_KEY": "kept"}),
        ):
            done = whyrank("rerank", "--url", url, "-q", "q", "text", *arguments, **environment)
            assert done.returncode == 2 and "error: wrong key" in done.stderr and done.stdout == ""
    assert shown == ["Bearer said", "Bearer kept"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "m", "--url", "http://localhost:1"], "give either --model, to load a model, or --url"),
        (["--url", "http://localhost:1", "--prompt", "prism"], "prompt is 'prism': with a URL the server decides that"),
        (["--url", "localhost:1"], "base_url is ['localhost:1']: give URLs such as"),
    ],
)
def test_what_cannot_be_asked_of_a_server(arguments: list[str], message: str) -> None:
    done = whyrank("rerank", *arguments, "-q", "q", "text")
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_several_servers_are_one_client() -> None:
    assert open_reranker(None, ["http://a:1", "http://b:1"], None, {})
    with pytest.raises(PermanentError, match="dtype is 'float32'"):
        open_reranker(None, ["http://a:1"], None, {"dtype": "float32"})


async def test_a_servers_url_is_a_target(server: Server) -> None:
    async with open_target(server.url, kv_cache_gib=None, trust_remote_code=False) as target:
        ranking = await target.rerank("boiling point", [Document(text) for text in TEXTS])
    assert sorted(row.index for row in ranking.results) == [0, 1, 2] and ranking.prompt.startswith("prism@")
    with pytest.raises(InvalidRequest, match="dtype is 'float32': with a URL the server decides"):
        async with open_target(f"{server.url},dtype=float32"):
            pass


def test_eval_compare_and_calibrate_against_a_server(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = whyrank("eval", "-m", server.url, "--preset", "house", "--limit", 3, "--top-k", 4, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["queries"] == 3 and report["costs"]["pairs"] == 12
    assert json.loads((out / "target.json").read_text())["prompt"].startswith("prism@")
    done = whyrank("compare", out, server.url, "-d", "house", "--limit", 3, "--top-k", 4, "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["figures"]["drift_max"] < 0.05
    done = whyrank("calibrate", out, "--out", tmp_path / "c.json")
    assert (
        done.returncode == 2 and "calibration needs at least 20 of each" in done.stderr
    )  # it parsed the server's response


@pytest.mark.parametrize("command", ["rerank", "batch", "eval"])
def test_no_command_prints_the_password_of_its_url(command: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"query": "q", "documents": ["a"]}\n')
    with replying(401, WRONG_KEY[1]) as (url, _):
        secret = url.replace("://", "://user:hunter2@")
        arguments: dict[str, list[object]] = {
            "rerank": ["--url", secret, "-q", "q", "a"],
            "batch": [tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--url", secret],
            "eval": ["-m", secret, "-d", "house", "--limit", "1", "--out", tmp_path / "eval"],
        }
        done = whyrank(command, *arguments[command])
    assert done.returncode != 0
    written = "".join(path.read_text() for path in tmp_path.rglob("*.*") if path.is_file())
    assert "hunter2" not in done.stderr + done.stdout + written
    assert command != "eval" or "://***@127.0.0.1" in written
