"""Two engines of vLLM in parallel. Without --no-server, the same script also tries a server with several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "try_data_parallel.py"


def test_two_engines_find_as_much_in_the_cache_as_one() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--no-server"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["faults"] == [] and set(seen["engines"]["documents_of_a_large_call"]) == {"0", "1"}
