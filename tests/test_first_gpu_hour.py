"""What is made of the steps' output, whatever became of them. And the steps themselves, which are printed without a GPU."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from first_gpu_hour import read_steps, table

ROOT = Path(__file__).parents[1]


def row(**changes: Any) -> dict[str, Any]:
    speeds = {"whyrank": 1534.4, "vllm_generate": None}
    ratios = {"vllm_generate": None, "transformers_loop": 9.333}
    return {"model": "qwen3-0.6b", "documents": 1000, "docs_per_second": speeds, "ratio": ratios} | changes


def test_a_step_that_failed_or_said_nothing_is_told(tmp_path: Path) -> None:
    outputs = {"gpu": "", "score": f"progress\n{json.dumps({'results': []})}\n", "fp8": "Traceback\nValueError: no\n"}
    for name, output in outputs.items():
        (tmp_path / f"{name}.out").write_text(output)
    lines = [
        "gpu\t0\t5\tnothing\tcheck-gpu",
        "score\t0\t90\tfast\tbench",
        "fp8\t1\t7\tfaster\tbench --quantization fp8",
    ]
    (tmp_path / "steps.tsv").write_text("\n".join(lines) + "\n")
    steps = read_steps(tmp_path)
    assert [(step["step"], step["exit_status"], step["result"]) for step in steps] == [
        ("gpu", 0, None),
        ("score", 0, {"results": []}),
        ("fp8", 1, None),
    ]


def test_the_table_has_a_row_for_each_measurement() -> None:
    steps = [
        {"step": "gpu", "result": None},
        {"step": "score", "result": {"results": [row(whyrank_cached_share=0.4)]}},
        {"step": "api-servers-2", "result": {"results": [{"documents": 20}]}},
    ]
    *_, last = lines = [*table(steps)]
    assert len(lines) == 3
    assert last == "| score | qwen3-0.6b | 1000 | 1,534 | — | 9.33 | 40% |"


def test_every_step_names_what_is_expected_and_what_to_do_otherwise() -> None:
    command = [str(ROOT / "scripts/first_gpu_hour.sh"), "--list"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    steps = output.count("\n== ")
    assert steps > 12 and output.count("   expected:  ") == output.count("   otherwise: ") == steps
    alone = subprocess.run([*command, "fp8"], capture_output=True, text=True, check=True).stdout
    assert alone.count("\n== ") == 1 and "--quantization fp8" in alone
