"""Starts whyrank's CUDA half on a stub driver and says whether it does what it should. `scripts/rehearse_cuda` calls this.

Real are whyrank, vLLM's server, engine core, scheduler, block manager and the messages between them. Stubs are the driver
(driver_stub.c) and the worker with the model (stub_worker.py). No kernel runs: this shows how engines start and with what
options, what they schedule and cache, and what a pair costs on the CPU. It shows neither speed nor values of any model.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import pydoc_data.topics
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch

import server_process
from tiny_checkpoint import write_checkpoint
from whyrank import EngineConfig, Reranker
from whyrank.config import Route
from whyrank.errors import EngineNotInstalled
from whyrank.process import prepare_process

WORKER = "stub_worker.StubWorker"
# Of a call that shares frame and query, as much should come from the cache; the documents themselves are about 200 tokens.
_WORDS = " ".join(pydoc_data.topics.topics.values()).split()
_CALLS, _DOCUMENTS, _DOCUMENT_WORDS = 8, 100, 120


@dataclass(frozen=True)
class Case:
    """`expected`: of what the engine says of itself. `min_cached`: of the prompt
    tokens of a call with 100 documents, how much comes from the cache, and of one with three, after another one.
    `fails`: a part of the error that is to come instead."""

    name: str
    kind: str
    prompt: str
    route: Route | None = None
    expected: Mapping[str, Any] = field(default_factory=dict)
    min_cached: tuple[float, float] = (0.0, 0.0)
    config: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the checkpoint's config.json."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """More options of EngineConfig."""
    evidence: bool = False
    fails: str | None = None


_ALWAYS = {"sampler_compiles": False, "capture_sizes": 11, "max_num_seqs": 256, "max_num_batched_tokens": 16384}
_GENERATE = {**_ALWAYS, "dtype": "torch.bfloat16", "head_dtype": "torch.float32"}
_CLASSIFY = {**_ALWAYS, "dtype": "torch.bfloat16"}
_HYBRID = {**_GENERATE, "prefix_match_unit": 16, "linear_attention": ["triton"]}  # there is no compiler
_QUANTIZED = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "ignore": [],
    "config_groups": {
        "group_0": {
            "targets": ["Linear", "re:.*lm_head"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True
            },
        }
    },
}  # fmt: skip

CASES = [
    Case("generate, a float32 checkpoint", "qwen3", "prism", None, _GENERATE, (0.4, 0.4), evidence=True),
    Case("generate, a raw logit", "gemma", "bge-v2-gemma", None, _GENERATE, (0.05, 0.0)),
    Case("generate, a hybrid", "qwen3_5", "prism", None, _HYBRID, (0.4, 0.4)),
    Case(
        "generate, a hybrid with small heads", "qwen3_5", "prism", None, _HYBRID, (0.4, 0.4),
        config={"linear_key_head_dim": 64, "linear_value_head_dim": 64},
    ),
    Case("classify, labels as a head", "qwen3", "qwen3-reranker", "classify", _CLASSIFY, (0.1, 0.1)),
    Case("classify, a head of its own", "qwen3-seq-cls", "qanchor", None, _CLASSIFY),
    Case("classify, a hybrid", "qwen3_5", "prism", "classify", _ALWAYS | {"prefix_match_unit": 16}, (0.4, 0.4)),
    Case(
        "generate, a quantised head", "qwen3", "prism", None, _ALWAYS | {"head_dtype": "torch.bfloat16"}, (0.4, 0.4),
        config={"quantization_config": _QUANTIZED, "tie_word_embeddings": False},
    ),
    Case(
        "generate, a quantised head that is to be float32 all the same", "qwen3", "prism", None,
        config={"quantization_config": _QUANTIZED, "tie_word_embeddings": False},
        options={"engine_options": {"hf_overrides": {"head_dtype": "float32"}}},
        fails="leaves the head as it is",
    ),
    Case(
        "generate, beside another model", "qwen3", "prism", None,
        _GENERATE | {"gpu_memory_utilization": 0.01, "kv_cache_memory_bytes": 1 << 30}, (0.4, 0.4),
        options={"kv_cache_gib": 1.0},
    ),
    Case(
        "classify, with async scheduling", "qwen3", "qwen3-reranker", "classify", _ALWAYS | {"async_scheduling": True},
        options={"engine_options": {"async_scheduling": True}},
    ),
]  # fmt: skip


class Checkpoints:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, case: Case) -> Path:
        folder = (
            self._folder / f"{case.kind}-{abs(hash(json.dumps([*case.config.items()]))) if case.config else 'plain'}"
        )
        if not folder.exists():
            write_checkpoint(case.kind, folder)
            table = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(table | dict(case.config)))
        return folder


def call(documents: int, seed: str) -> tuple[str, list[str]]:
    chance = random.Random(seed)
    texts = [
        " ".join(chance.choices(_WORDS, k=round(_DOCUMENT_WORDS * chance.uniform(0.75, 1.25))))
        for _ in range(documents)
    ]
    return " ".join(chance.choices(_WORDS, k=12)), texts


async def rehearse(case: Case, folder: Path) -> dict[str, Any]:
    options = {"worker_cls": WORKER, **case.options.get("engine_options", {})}
    config = EngineConfig(
        str(folder),
        prompt=case.prompt,
        route=case.route,
        **{**case.options, "engine_options": options},
    )
    began = time.perf_counter()
    async with Reranker(config) as reranker:
        started = time.perf_counter() - began
        newest = max(_rehearsal().glob("engine-*.json"), key=lambda path: path.stat().st_mtime)
        engine = psutil.Process(int(newest.stem.removeprefix("engine-")))
        result = {"seconds_to_start": round(started, 1), **read_engine(engine.pid)}
        shares, process, core = [], [], []
        for number in range(_CALLS):
            query, documents = call(_DOCUMENTS, f"{number}")
            before = time.process_time(), _cpu(engine)
            usage = (await reranker.rerank(query, documents)).usage
            process.append(1e6 * (time.process_time() - before[0]) / _DOCUMENTS)
            core.append(1e6 * (_cpu(engine) - before[1]) / _DOCUMENTS)
            shares.append(usage.cached_tokens / usage.prompt_tokens)
        result["tokens_a_pair"] = round(usage.prompt_tokens / _DOCUMENTS)
        result["cpu_us_a_pair"] = {"process": _summary(process), "engine": _mean(core)}
        small = [(await reranker.rerank(*call(3, f"small {number}"))).usage for number in range(2)][-1]
        result["cached"] = [round(statistics.median(shares), 3), round(small.cached_tokens / small.prompt_tokens, 3)]
        if case.evidence:
            ranking = await reranker.rerank(
                *call(4, "evidence"), mode="evidence", evidence_top_n=2, evidence_min_score=0.0
            )
            result["evidence"] = sum(row.evidence is not None for row in ranking.results)
    steps = [
        tuple(map(int, line.split())) for line in (_rehearsal() / f"steps-{engine.pid}.jsonl").read_text().splitlines()
    ]
    result["steps"] = {
        "number": len(steps),
        "most_prompts": max(n for n, _ in steps),
        "most_tokens": max(t for _, t in steps),
    }
    return result


def _summary(values: list[float]) -> dict[str, int]:
    return {"min": round(min(values)), "median": round(statistics.median(values))}


def _mean(values: list[float]) -> dict[str, int]:
    """Of another process the system counts in hundredths of a second: too coarse for one call."""
    return {"mean": round(statistics.mean(values))}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _rehearsal() -> Path:
    return Path(os.environ["REHEARSAL_FOLDER"])


def read_engine(pid: int) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((_rehearsal() / f"engine-{pid}.json").read_text())
    return facts


def cuda_started() -> set[int]:
    """The processes that have asked CUDA's driver for something."""
    file = _rehearsal() / "cuda-started"
    return set(map(int, file.read_text().split())) if file.exists() else set()


def differences(case: Case, result: Mapping[str, Any]) -> list[str]:
    wrong = []
    for name, wanted in case.expected.items():
        value = result.get(name)
        if value != wanted:
            wrong.append(f"{name} is {value!r}, expected {wanted!r}")
    for share, least, what in zip(
        result.get("cached", ()), case.min_cached, ("a large call", "a small call"), strict=False
    ):
        if share < least:
            wrong.append(f"{share:.0%} of {what} from the cache, expected {least:.0%} or more")
    if case.evidence and result.get("evidence") != 2:
        wrong.append(f"evidence for {result.get('evidence')} of 2 documents")
    return wrong


def run_case(case: Case, checkpoints: Checkpoints) -> dict[str, Any]:
    """One engine, whose process begins as a copy of this one, as those of the command line do."""
    try:
        result = asyncio.run(rehearse(case, checkpoints.folder(case)))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        good = case.fails is not None and case.fails in text
        return {"ok": good, "error": text[:400]}
    wrong = differences(case, result)
    if case.fails is not None:
        wrong.append(f"started, expected an error with {case.fails!r}")
    if os.getpid() in cuda_started():
        wrong.append("the process that was copied had started CUDA")
    return {"ok": not wrong, "wrong": wrong, **result}


# In processes of their own.


def in_touched_process(checkpoints: Checkpoints) -> dict[str, Any]:
    """A user's process that has started CUDA, as torch.cuda.is_available() does."""
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    torch.cuda.is_available()
    touched = os.getpid() in cuda_started()
    result = asyncio.run(rehearse(CASES[0], checkpoints.folder(CASES[0])))
    return {"ok": touched, "seconds_to_start": result["seconds_to_start"]}


def without_gpu(checkpoints: Checkpoints) -> dict[str, Any]:
    os.environ["REHEARSAL_GPUS"] = "0"
    try:
        asyncio.run(rehearse(CASES[0], checkpoints.folder(CASES[0])))
    except EngineNotInstalled as error:
        return {"ok": "nvidia-smi must list it" in str(error), "error": str(error)}
    return {"ok": False, "error": "an engine started without a GPU"}


def benchmarks_ask_nvml(checkpoints: Checkpoints) -> dict[str, Any]:
    from bench_common import on_gpu

    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    has_gpu = on_gpu()
    return {"ok": has_gpu and os.getpid() not in cuda_started(), "found": has_gpu}


def parallel_engines(checkpoints: Checkpoints) -> dict[str, Any]:
    """Two engines of a hybrid: the prefix has to be warm in both."""
    os.environ["REHEARSAL_GPUS"] = "2"
    case = Case("", "qwen3_5", "prism", options={"engine_options": {"data_parallel_size": 2}})
    result = asyncio.run(rehearse(case, checkpoints.folder(case)))
    engines = [*_rehearsal().glob("engine-*.json")]
    used = [path.name for path in _rehearsal().glob("steps-*.jsonl") if path.read_text().count("\n") > 4]
    return {
        "ok": result["cached"][0] > 0.4 and len(engines) == len(used) == 2,
        "cached": result["cached"],
        "engines": len(used),
    }


def server(checkpoints: Checkpoints) -> dict[str, Any]:
    """`whyrank serve` with a cache of a given size, as beside another model, and calls over HTTP."""
    folder, log = checkpoints.folder(CASES[0]), _rehearsal() / "log"
    flags = ("--prompt", "prism", "--kv-cache-memory-bytes", str(4 << 30), "--worker-cls", WORKER)
    running = server_process.start(folder, flags, log)
    try:
        engine = running.engine()
        facts, http, core, process = read_engine(engine.pid), [], [], psutil.Process(running.process.pid)
        for number in range(_CALLS):
            query, documents = call(_DOCUMENTS, f"{number}")
            before = _cpu(process), _cpu(engine)
            body = {"query": query, "documents": documents, "return_documents": False}
            httpx.post(f"{running.url}/v1/rerank", json=body, timeout=600).raise_for_status()
            http.append(1e6 * (_cpu(process) - before[0]) / _DOCUMENTS)
            core.append(1e6 * (_cpu(engine) - before[1]) / _DOCUMENTS)
    finally:
        running.process.terminate()
        running.process.wait(120)
    wrong = differences(Case("", "", "", expected={**_GENERATE, "gpu_memory_utilization": 0.01}), facts)
    return {"ok": not wrong, "wrong": wrong, "cpu_us_a_pair": {"server": _mean(http), "engine": _mean(core)}}


ALONE: dict[str, Callable[[Checkpoints], dict[str, Any]]] = {
    "a process that has started CUDA": in_touched_process,
    "no GPU": without_gpu,
    "benchmarks": benchmarks_ask_nvml,
    "two parallel engines of a hybrid": parallel_engines,
    "whyrank serve": server,
}


def run_alone(name: str, folder: Path, before: Mapping[str, str]) -> dict[str, Any]:
    """In a process of its own, with a folder of its own for what the stubs write, and the environment of `before`."""
    own = folder / name.replace(" ", "-")
    own.mkdir()
    command = [sys.executable, __file__, "--alone", name, "--checkpoints", str(folder)]
    environment = {**before, "REHEARSAL_FOLDER": str(own)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    except subprocess.TimeoutExpired:
        return {"ok": False, "error": "not done after half an hour"}
    if done.returncode != 0:
        return {"ok": False, "error": done.stderr[-800:]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES] + [*ALONE]
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PART", help="cases with this in their name: " + "; ".join(names)
    )
    parser.add_argument("--alone", choices=ALONE, help=argparse.SUPPRESS)
    parser.add_argument("--checkpoints", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(ALONE[args.alone](Checkpoints(args.checkpoints))))
        return
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
        before = dict(os.environ)
        os.environ["REHEARSAL_FOLDER"] = scratch
        prepare_process()
        checkpoints = Checkpoints(Path(scratch))
        wanted = [name for name in names if not args.only or any(part in name for part in args.only)]
        for name in wanted:
            checkpoints.folder(next((case for case in CASES if case.name == name), CASES[2]))
        checkpoints.folder(CASES[0])
        results = {}
        for name in wanted:
            case = next((case for case in CASES if case.name == name), None)
            results[name] = run_case(case, checkpoints) if case else run_alone(name, Path(scratch), before)
            print(
                "ok  " if results[name]["ok"] else "FAIL", name, json.dumps(results[name]), file=sys.stderr, flush=True
            )
    version = importlib.metadata.version("vllm")
    good = all(result["ok"] for result in results.values())
    print(
        json.dumps({"vllm": version, "ok": good, "kernels": "none has run: stub driver and worker", "results": results})
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
