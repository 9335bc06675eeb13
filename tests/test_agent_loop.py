"""examples/agent_loop.py as a user starts it, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from server_process import Server

EXAMPLE = Path(__file__).parents[1] / "examples" / "agent_loop.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    # Weights are random, so whatever the score: write.
    command = [sys.executable, EXAMPLE, "--min-score", 0, *arguments]
    wide = os.environ | {"COLUMNS": "400"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False, env=wide)


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_twenty_agents_at_once(server: Server) -> None:
    done = run("--url", server.url, "--questions", 2, "--deadline-ms", 30000, "--top-n", 1)
    told = summary(done)
    # Now and then such a model writes nothing.
    assert told["questions"] == 40 and told["answered"] > 20 and told["degraded"] == 0
    assert told["median_ms"] <= told["slowest_ms"] < 30_000
    rows = [line for line in done.stdout.splitlines() if line.startswith("│")]
    assert len(rows) == 40 and "When was Ardmore Lighthouse built?" in rows[0]


def test_a_deadline_holds_for_all_of_them(server: Server) -> None:
    told = summary(run("--url", server.url, "--questions", 1, "--deadline-ms", 60))
    assert told["questions"] == 20 and told["degraded"] >= 1
    assert told["slowest_ms"] < 60 + 1500, "the way back, on a busy machine"


def test_a_server_that_is_not_there() -> None:
    done = run("--url", "http://127.0.0.1:9", "--agents", 1, "--deadline-ms", 500)
    assert done.returncode == 1 and "whyrank.errors.Unreachable" in done.stderr.splitlines()[-1]
