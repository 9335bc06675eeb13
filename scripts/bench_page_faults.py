#!/usr/bin/env python3
"""What keeping memory is worth to a process that computes: page faults and time of blocks that are allocated and freed.

    scripts/bench_page_faults.py
    scripts/bench_page_faults.py --steps 100 | python -m json.tool

Each block is as large as the activations of one step (32 MiB). Prints one JSON line: "as_it_is" is a plain Python process,
"prepared" one in which whyrank.process.prepare_process was called.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

_STEPS = """
import json, resource, sys, time
block = lambda: bytes(range(256)) * (1 << 17)
block(), block()
faults, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
for _ in range(int(sys.argv[1])): block()
seconds = time.perf_counter() - began
print(json.dumps({"faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, "seconds": round(seconds, 4)}))
"""
_PREPARED = "from whyrank.process import prepare_process; prepare_process()\n"


def measure(code: str, steps: int) -> dict[str, float]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", code, str(steps)]
    result: dict[str, float] = json.loads(subprocess.run(command, env=clean, capture_output=True, check=True).stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    steps = parser.parse_args().steps
    print(
        json.dumps({"steps": steps, "as_it_is": measure(_STEPS, steps), "prepared": measure(_PREPARED + _STEPS, steps)})
    )


if __name__ == "__main__":
    main()
