"""What scripts/rehearse_cuda judges, and what it installs. The rehearsal itself needs vLLM for CUDA."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from whyrank.runtimes.vllm_compat import SUPPORTED_VERSIONS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rehearse() -> ModuleType:
    """Not importable by its name: beside it lies a sitecustomize."""
    spec = importlib.util.spec_from_file_location("rehearse_cuda", ROOT / "scripts/cuda_rehearsal/rehearse.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["rehearse_cuda"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(**changes: Any) -> dict[str, Any]:
    return {
        "block_size": 16,
        "cached": [0.6, 0.5],
        "steps": {"a_call": 8},
        "cpu_us_a_pair": {"process": {"min": 400, "median": 450}, "engine": 300},
    } | changes


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, None),
        ({"block_size": 32}, "block_size is 32, expected 16"),
        ({"cached": [0.6, 0.0]}, "0% of a small call from the cache"),
        ({"steps": {"a_call": 100}}, "100 steps for a call of 100 documents"),
        ({"cpu_us_a_pair": {"process": {"min": 9000}, "engine": 300}}, "9000 µs of CPU a pair in the process"),
        ({"cpu_us_a_pair": {"server": 400, "engine": 9000}}, "9000 µs of CPU a pair in the engine"),
    ],
)
def test_each_kind_of_difference_is_told(rehearse: ModuleType, changes: dict[str, Any], complaint: str | None) -> None:
    case = rehearse.Case("a case", "qwen3", "prism", expected={"block_size": 16}, min_cached=(0.4, 0.4))
    told = rehearse.differences(case, result(**changes))
    assert (told == []) if complaint is None else (len(told) == 1 and told[0].startswith(complaint))


def test_an_option_that_is_tried_is_no_difference(rehearse: ModuleType) -> None:
    case = rehearse.Case(
        "a case", "qwen3", "prism", expected={"block_size": 16}, options={"engine_options": {"block_size": 32}}
    )
    assert rehearse.differences(case, result(block_size=32)) == []


def test_every_supported_version_has_a_complete_list() -> None:
    lists = [ROOT / "engine/whyrank/locks/cuda.txt", *(ROOT / "scripts/cuda_rehearsal").glob("vllm-*.txt")]
    pins = [[line for line in path.read_text().splitlines() if not line.startswith("#")] for path in lists]
    assert all("==" in pin for lines in pins for pin in lines)
    versions = {line.removeprefix("vllm==") for lines in pins for line in lines if line.startswith("vllm==")}
    assert versions == set(SUPPORTED_VERSIONS["vllm"])
