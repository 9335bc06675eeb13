"""Puts what scripts/first_gpu_hour.sh has written together: results.json, and table.md for the README.

The last line of stdout is the JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def read_steps(folder: Path) -> list[dict[str, Any]]:
    """`result`: the JSON in the last line of what the step said, or None."""
    steps = []
    for line in (folder / "steps.tsv").read_text(encoding="utf-8").splitlines():
        name, code, seconds, expected, command = line.split("\t")
        result = last_json((folder / f"{name}.out").read_text(encoding="utf-8"))
        steps.append(
            {
                "step": name,
                "exit_status": int(code),
                "seconds": int(seconds),
                "expected": expected,
                "command": command,
                "result": result,
            }
        )
    return steps


def last_json(text: str) -> Any:
    try:
        return json.loads((text.splitlines() or [""])[-1])
    except ValueError:
        return None


def table(steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A row for each model and size of call of bench_score's results."""
    yield "| step | model | documents | documents/s | over bare vLLM | over transformers | from the cache |"
    yield "|---|---|---|---|---|---|---|"
    for step in steps:
        results = (step["result"] or {}).get("results", []) if isinstance(step["result"], dict) else []
        for row in results:
            if "docs_per_second" not in row:
                continue
            ratios = [row["ratio"].get(name) for name in ("vllm_generate", "transformers_loop")]
            shown = [f"{ratio:.2f}" if ratio else "—" for ratio in ratios]
            speed, cached = row["docs_per_second"]["whyrank"], row["whyrank_cached_share"]
            cells = [step["step"], row["model"], row["documents"], f"{speed:,.0f}", *shown, f"{cached:.0%}"]
            yield f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    steps = read_steps(folder)
    machines = [
        step["result"]["machine"] for step in steps if isinstance(step["result"], dict) and "machine" in step["result"]
    ]
    document = {"machine": machines[0] if machines else None, "steps": steps}
    (folder / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    lines = [*table(steps)]
    (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, sep="\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
