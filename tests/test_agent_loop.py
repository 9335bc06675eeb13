"""examples/agent_loop.py as a user starts it, against a real server."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from server_process import Server
from whyrank.errors import Unreachable
from whyrank.ranking import Ranking
from whyrank.types import Document, Evidence, RankedDocument, Usage

EXAMPLE = Path(__file__).parents[1] / "examples" / "agent_loop.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    # Weights are random, so evidence is written whatever the score.
    command = [sys.executable, EXAMPLE, "--min-score", 0, *arguments]
    wide = os.environ | {"COLUMNS": "400"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False, env=wide)


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_twenty_agents_at_once(server: Server) -> None:
    done = run("--url", server.url, "--questions", 2, "--deadline-ms", 30000, "--top-n", 1)
    result = summary(done)
    # Occasionally such a model writes nothing.
    assert result["questions"] == 40 and result["answered"] > 20 and result["degraded"] == 0
    assert result["median_ms"] <= result["slowest_ms"] < 30_000
    rows = [line for line in done.stdout.splitlines() if line.startswith("│")]
    assert len(rows) == 40 and "When was Ardmore Lighthouse built?" in rows[0]


def test_a_deadline_holds_for_all_of_them(server: Server) -> None:
    result = summary(run("--url", server.url, "--questions", 1, "--deadline-ms", 60))
    assert result["questions"] == 20 and result["degraded"] >= 1 and result["deadline_ms"] == 60
    assert result["nothing_relevant"] <= 20 - result["degraded"], "what was not read in time may be relevant"
    assert result["slowest_ms"] < 60 + 1500, "the way back, on a busy machine"


def test_a_server_that_is_not_there() -> None:
    done = run("--url", "http://127.0.0.1:9", "--agents", 1, "--deadline-ms", 500)
    assert done.returncode == 1 and "whyrank.errors.Unreachable" in done.stderr.splitlines()[-1]


def test_without_a_deadline_there_is_time_for_all(server: Server) -> None:
    result = summary(run("--url", server.url, "--agents", 4, "--questions", 1, "--top-n", 1))
    assert result["questions"] == 4 and result["no_time"] == 0 and result["deadline_ms"] >= 2000


class FakeReranker:
    """Finds evidence for "yes" and none for "no", runs out of time for "late", and is unreachable for "lost"."""

    async def rerank(self, question: str, documents: list[Document], **options: Any) -> Ranking:
        if question == "lost":
            raise Unreachable("no answer before the timeout")
        finish: Any = "deadline" if question == "late" else "complete"
        evidence = Evidence("", "It is so." if question == "yes" else "", finish, 0, None)
        row = RankedDocument(0, documents[0], 1, 0.9, 2.0, evidence=evidence)
        return Ranking((row,), Usage(), "model", "prompt")


async def test_no_time_is_not_nothing_relevant() -> None:
    spec = importlib.util.spec_from_file_location("agent_loop", EXAMPLE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = example  # dataclasses look up their module there
    spec.loader.exec_module(example)
    shelf = example.Shelf([Document("One.", id="one"), Document("Two.", id="two")])
    args = argparse.Namespace(candidates=1, top_n=1, min_score=0.5, deadline_ms=1000, max_tokens=50)
    steps = await example.agent(FakeReranker(), shelf, ["yes", "no", "late", "lost", "yes"], args, lambda: None)
    outcomes = [step.outcome for step in steps]
    assert outcomes[0] == outcomes[4] != "nothing relevant"
    assert outcomes[1:4] == ["nothing relevant", "no time", "no time"]
