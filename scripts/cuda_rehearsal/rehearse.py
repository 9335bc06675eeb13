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
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch

import server_process
from bench_common import SHAPES
from tiny_checkpoint import write_checkpoint
from whyrank import EngineConfig, Reranker
from whyrank.checkpoints import make_plan
from whyrank.config import Route
from whyrank.errors import CheckpointError, EngineNotInstalled
from whyrank.process import START_METHOD, environment_restored, prepare_process, set_engine_environment
from whyrank.runtimes.vllm_compat import vllm_name

# Of a call that shares frame and query, as much should come from the cache; the documents themselves are about 200 tokens.
_WORDS = " ".join(pydoc_data.topics.topics.values()).split()
_CALLS, _DOCUMENTS, _DOCUMENT_WORDS = 8, 100, 120
# Of a call with that many documents. A hybrid whose prompts wait for each other's states would take a step for each.
_MAX_STEPS = 30
# µs a pair on a machine of today, about twice what was measured: more is a mistake, not a slow machine.
_MAX_CPU = {"process": 1200, "engine": 1200}
_PATIENCE_SECONDS = 1800


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
        changes = json.dumps(dict(case.config))
        folder = self._folder / f"{case.kind}-{zlib.crc32(changes.encode()) if case.config else 'plain'}"
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


# What an engine does.


class EngineProcess:
    """The engine's process, and what the stub worker in it has written."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._file = _rehearsal() / f"steps-{process.pid}.jsonl"

    @classmethod
    def newest(cls) -> EngineProcess:
        newest = max(_rehearsal().glob("engine-*.json"), key=lambda path: path.stat().st_mtime)
        return cls(psutil.Process(int(newest.stem.removeprefix("engine-"))))

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((_rehearsal() / f"engine-{self._process.pid}.json").read_text())
        return facts

    def steps(self) -> list[tuple[int, int]]:
        """Prompts and tokens of each."""
        rows = (line.split() for line in self._file.read_text().splitlines())
        return [(int(prompts), int(tokens)) for prompts, tokens in rows]

    def cpu(self) -> float:
        return _cpu(self._process)

    def threads(self) -> dict[int, float]:
        return {thread.id: thread.user_time + thread.system_time for thread in self._process.threads()}


class Meter:
    """CPU time and steps of calls, by process. `other`: the server's, if it is not this one."""

    def __init__(self, engine: EngineProcess, other: psutil.Process | None = None) -> None:
        self._engine, self._other = engine, other
        self._rows: list[tuple[float, float, float, float]] = []
        self._threads = engine.threads()

    def _now(self) -> tuple[float, float, float, float]:
        ours = time.process_time() if self._other is None else _cpu(self._other)
        return ours, time.thread_time(), self._engine.cpu(), len(self._engine.steps())

    async def measure(self, answer: Any) -> Any:
        before = self._now()
        result = await answer
        self._rows.append(tuple(b - a for a, b in zip(before, self._now(), strict=True)))  # type: ignore[arg-type]
        return result

    def result(self) -> dict[str, Any]:
        """In µs a pair. Of other processes the system counts in hundredths of a second, too coarse for one call: a mean."""
        process, loop, engine, steps = zip(*self._rows, strict=True)
        pairs = len(self._rows) * _DOCUMENTS
        threads = [spent - self._threads.get(thread, 0.0) for thread, spent in self._engine.threads().items()]
        costs: dict[str, Any] = {"engine": round(1e6 * sum(engine) / pairs)}
        if self._other is None:
            costs |= {"process": _summary(process), "event_loop": _summary(loop)}
        else:
            costs |= {"server": round(1e6 * sum(process) / pairs)}
        costs["engine_threads"] = [round(1e6 * spent / pairs) for spent in sorted(threads, reverse=True)[:3]]
        everything = self._engine.steps()
        return {
            "cpu_us_a_pair": costs,
            "steps": {
                "a_call": statistics.median(steps),
                "most_prompts": max(prompts for prompts, _ in everything),
                "most_tokens": max(tokens for _, tokens in everything),
            },
        }


def _summary(seconds: Sequence[float]) -> dict[str, int]:
    pairs = [1e6 * spent / _DOCUMENTS for spent in seconds]
    return {"min": round(min(pairs)), "median": round(statistics.median(pairs))}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _rehearsal() -> Path:
    return Path(os.environ["REHEARSAL_FOLDER"])


def cuda_started() -> set[int]:
    """The processes that have asked CUDA's driver for something."""
    file = _rehearsal() / "cuda-started"
    return set(map(int, file.read_text().split())) if file.exists() else set()


def config_of(case: Case, checkpoints: Checkpoints, **options: Any) -> EngineConfig:
    folder = str(checkpoints.folder(case))
    return EngineConfig(folder, prompt=case.prompt, route=case.route, **{**case.options, **options})


async def rehearse(case: Case, config: EngineConfig) -> dict[str, Any]:
    began = time.perf_counter()
    async with Reranker(config) as reranker:
        started = time.perf_counter() - began
        engine, shares = EngineProcess.newest(), []
        meter = Meter(engine)
        for number in range(_CALLS):
            usage = (await meter.measure(reranker.rerank(*call(_DOCUMENTS, f"{number}")))).usage
            shares.append(usage.cached_tokens / usage.prompt_tokens)
        small = [(await reranker.rerank(*call(3, f"small {number}"))).usage for number in range(2)][-1]
        result = {
            "seconds_to_start": round(started, 1),
            **engine.facts(),
            "tokens_a_pair": round(usage.prompt_tokens / _DOCUMENTS),
            "cached": [round(statistics.median(shares), 3), round(small.cached_tokens / small.prompt_tokens, 3)],
            **meter.result(),
        }
        if case.evidence:
            ranking = await reranker.rerank(
                *call(4, "evidence"), mode="evidence", evidence_top_n=2, evidence_min_score=0.0
            )
            result["evidence"] = sum(row.evidence is not None for row in ranking.results)
    return result


async def start_error(config: EngineConfig) -> str:
    try:
        async with Reranker(config):
            return ""
    except CheckpointError as error:
        return str(error)


def differences(case: Case, result: Mapping[str, Any]) -> list[str]:
    given = case.options.get("engine_options", {})  # whoever tries another value expects another one
    wanted = {name: value for name, value in case.expected.items() if name not in given or given[name] == value}
    wrong = [
        f"{name} is {result.get(name)!r}, expected {value!r}"
        for name, value in wanted.items()
        if result.get(name) != value
    ]
    for share, least, what in zip(
        result.get("cached", ()), case.min_cached, ("a large call", "a small call"), strict=False
    ):
        if share < least:
            wrong.append(f"{share:.0%} of {what} from the cache, expected {least:.0%} or more")
    if case.evidence and result.get("evidence") != 2:
        wrong.append(f"evidence for {result.get('evidence')} of 2 documents")
    return [*wrong, *costs_too_much(result)]


def costs_too_much(result: Mapping[str, Any]) -> list[str]:
    costs, steps = result["cpu_us_a_pair"], result["steps"]["a_call"]
    process = costs["process"]["min"] if "process" in costs else costs["server"]
    wrong = [
        f"{spent} µs of CPU a pair in the {name}, expected at most {_MAX_CPU[name]}"
        for name, spent in (("process", process), ("engine", costs["engine"]))
        if spent > _MAX_CPU[name]
    ]
    if steps > _MAX_STEPS:
        wrong.append(f"{steps} steps for a call of {_DOCUMENTS} documents, expected at most {_MAX_STEPS}")
    return wrong


# The parts, each of which runs in a process of its own.


def run_case(case: Case, checkpoints: Checkpoints) -> dict[str, Any]:
    """One engine, whose process begins as a copy of this one, as those of the command line do."""
    config = config_of(case, checkpoints)
    if case.fails is not None:
        error = asyncio.run(start_error(config))
        return {"ok": case.fails in error, "error": error[:400]}
    result = asyncio.run(rehearse(case, config))
    wrong = differences(case, result)
    if os.getpid() in cuda_started():
        wrong.append("the process that was copied had started CUDA")
    return {"ok": not wrong, "wrong": wrong, **result}


def in_touched_process(checkpoints: Checkpoints) -> dict[str, Any]:
    """A user's process that has started CUDA, as torch.cuda.is_available() does: a copy of it cannot use a GPU."""
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    torch.cuda.is_available()
    touched = os.getpid() in cuda_started()
    config = config_of(CASES[0], checkpoints)
    os.environ[START_METHOD] = "fork"  # as prepare_process sets it for the command line, and as vLLM's own default was
    forked = asyncio.run(start_error(config))
    del os.environ[START_METHOD]
    result = asyncio.run(rehearse(CASES[0], config))
    return {
        "ok": touched and "Cannot re-initialize CUDA" in forked and START_METHOD in forked,
        "forked": forked,
        "by_default": {name: result[name] for name in ("seconds_to_start", "cached")},
    }


def without_gpu(checkpoints: Checkpoints) -> dict[str, Any]:
    os.environ["REHEARSAL_GPUS"] = "0"
    try:
        asyncio.run(rehearse(CASES[0], config_of(CASES[0], checkpoints)))
    except EngineNotInstalled as error:
        return {"ok": "nvidia-smi must list it" in str(error), "error": str(error)}
    return {"ok": False, "error": "an engine started without a GPU"}


def benchmarks_ask_nvml(checkpoints: Checkpoints) -> dict[str, Any]:
    from bench_common import on_gpu

    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    has_gpu, ours = on_gpu(), os.getpid() in cuda_started()
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    torch.cuda.is_available()
    theirs = os.getpid() in cuda_started()
    return {"ok": has_gpu and not ours and theirs, "found": has_gpu, "started_cuda": {"on_gpu": ours, "torch": theirs}}


def benchmark_cache(checkpoints: Checkpoints) -> dict[str, Any]:
    """The cache of bench_server.py: of real sizes, and what came of 1 GiB for each."""
    from bench_server import kv_cache_gib

    starts: dict[str, Any] = {}
    for shape in ("qwen3-0.6b", "qwen3.5-0.8b"):
        kind, sizes = SHAPES[shape]
        case = Case("", kind, "prism", config=sizes | {"layer_types": None})
        gib = kv_cache_gib(make_plan(config_of(case, checkpoints)))
        tried = {"1": 1.0, "chosen": gib}
        errors = {
            name: asyncio.run(start_error(config_of(case, checkpoints, kv_cache_gib=n))) for name, n in tried.items()
        }
        starts[shape] = {"gib": round(gib, 2), "errors": errors}
    before, after = starts["qwen3-0.6b"]["errors"]["1"], [start["errors"]["chosen"] for start in starts.values()]
    return {"ok": "max seq len" in before and not any(after), **starts}


def parallel_engines(checkpoints: Checkpoints) -> dict[str, Any]:
    """Two engines of a hybrid: the prefix has to be warm in both."""
    os.environ["REHEARSAL_GPUS"] = "2"
    case = Case("", "qwen3_5", "prism", options={"engine_options": {"data_parallel_size": 2}})
    result = asyncio.run(rehearse(case, config_of(case, checkpoints)))
    engines = [*_rehearsal().glob("engine-*.json")]
    used = [path.name for path in _rehearsal().glob("steps-*.jsonl") if path.read_text().count("\n") > 4]
    return {
        "ok": result["cached"][0] > 0.4 and len(engines) == len(used) == 2,
        "cached": result["cached"],
        "engines": len(used),
    }


def engines_on_one_gpu(checkpoints: Checkpoints) -> dict[str, Any]:
    """Two of them, both at work. With vLLM's own check of the free memory, as before, the second does not start."""

    async def run() -> dict[str, Any]:
        async with Reranker(config_of(CASES[0], checkpoints, kv_cache_gib=10)) as first:
            small = partial(config_of, CASES[0], checkpoints, kv_cache_gib=1)
            before = await start_error(small(gpu_memory_utilization=0.9))
            without = await start_error(config_of(CASES[0], checkpoints))
            async with Reranker(small()) as second:
                work = call(20, "beside")
                rankings = await asyncio.gather(*(each.rerank(*work) for each in (first, second)))
        margins = [[row.margin for row in ranking.results] for ranking in rankings]
        refused = "less than desired GPU memory utilization"
        good = refused in before and refused in without and "kv_cache_gib" in without
        return {"ok": good and margins[0] == margins[1], "before": before, "without_a_size": without}

    return asyncio.run(run())


def server(checkpoints: Checkpoints) -> dict[str, Any]:
    """`whyrank serve` with a cache of a given size, as beside another model, and calls over HTTP."""
    flags = ("--prompt", "prism", "--kv-cache-memory-bytes", str(4 << 30))
    running = server_process.start(checkpoints.folder(CASES[0]), flags, _rehearsal() / "log")
    try:
        engine, process = EngineProcess(running.engine()), psutil.Process(running.process.pid)
        shares = asyncio.run(_call_server(running.url, meter := Meter(engine, process)))
        result = {**engine.facts(), "cached": [round(statistics.median(shares), 3)], **meter.result()}
    finally:
        running.process.terminate()
        running.process.wait(120)
    wrong = differences(
        Case("", "", "", expected={**_GENERATE, "gpu_memory_utilization": 0.01}, min_cached=(0.4, 0.0)), result
    )
    if running.process.pid in cuda_started():
        wrong.append("the server's own process had started CUDA")
    return {"ok": not wrong, "wrong": wrong, **result}


async def _call_server(url: str, meter: Meter) -> list[float]:
    shares = []
    async with httpx.AsyncClient(base_url=url, timeout=300) as http:
        for number in range(_CALLS):
            query, documents = call(_DOCUMENTS, f"{number}")
            body = {"query": query, "documents": documents, "return_documents": False}
            usage = (await meter.measure(http.post("/v1/rerank", json=body))).raise_for_status().json()["usage"]
            shares.append(usage["cached_tokens"] / usage["prompt_tokens"])
    return shares


NO_GPU, TWO_GPUS = "no GPU", "two parallel engines of a hybrid"
OTHERS: dict[str, Callable[[Checkpoints], dict[str, Any]]] = {
    "a process that has started CUDA": in_touched_process,
    NO_GPU: without_gpu,
    "benchmarks": benchmarks_ask_nvml,
    "the cache of benchmarks": benchmark_cache,
    "two engines on one GPU": engines_on_one_gpu,
    TWO_GPUS: parallel_engines,
    "whyrank serve": server,
}


PARTS = [case.name for case in CASES] + [*OTHERS]


def run_here(name: str, checkpoints: Checkpoints, engine_options: Mapping[str, Any]) -> dict[str, Any]:
    case = next((case for case in CASES if case.name == name), None)
    if case is None:
        return OTHERS[name](checkpoints)
    given = {**case.options.get("engine_options", {}), **engine_options}
    return run_case(replace(case, options={**case.options, "engine_options": given}), checkpoints)


def import_engine() -> None:
    """What every start of an engine imports, once for all parts."""
    with environment_restored():
        set_engine_environment(on_cpu=False)
        os.environ |= {"VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_LOGGING_LEVEL": "ERROR"}
        for name in ("AsyncEngineArgs", "AsyncLLM", "tokens_input"):
            vllm_name(name)


def run_in_copy(name: str, folder: Path, engine_options: Mapping[str, Any]) -> dict[str, Any]:
    """In a copy of this process, which has imported everything and done nothing yet."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.environ["REHEARSAL_FOLDER"] = str(own := _own_folder(folder, name))
        with (own / "stderr").open("w") as errors:
            os.dup2(errors.fileno(), 2)
        try:
            (own / "result.json").write_text(json.dumps(run_here(name, Checkpoints(folder), engine_options)))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    own, end = _own_folder(folder, name), time.monotonic() + _PATIENCE_SECONDS
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return {"ok": False, "error": f"not done after {_PATIENCE_SECONDS} s"}
        time.sleep(0.2)
    if not (own / "result.json").exists():
        return {"ok": False, "error": (own / "stderr").read_text()[-2000:]}
    result: dict[str, Any] = json.loads((own / "result.json").read_text())
    return result


def run_alone(name: str, folder: Path, before: Mapping[str, str]) -> dict[str, Any]:
    """In a process that begins anew: how many GPUs there are is asked once, when vLLM is imported."""
    command = [sys.executable, __file__, "--alone", name, "--checkpoints", str(folder)]
    environment = {**before, "REHEARSAL_FOLDER": str(_own_folder(folder, name))}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as running:
        try:
            said, complaints = running.communicate(timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            return {"ok": False, "error": f"not done after {_PATIENCE_SECONDS} s"}
    if running.returncode != 0:
        return {"ok": False, "error": complaints[-2000:]}
    result: dict[str, Any] = json.loads(said.splitlines()[-1])
    return result


def _own_folder(folder: Path, name: str) -> Path:
    """For what the stubs write in this part."""
    own = folder / name.replace(" ", "-")
    own.mkdir(exist_ok=True)
    return own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PART", help="parts with this in their name: " + "; ".join(PARTS)
    )
    parser.add_argument(
        "--engine-options", default="{}", metavar="JSON", help='of every case, to compare runs: {"block_size": 32}'
    )
    parser.add_argument("--alone", choices=OTHERS, help=argparse.SUPPRESS)
    parser.add_argument("--checkpoints", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(OTHERS[args.alone](Checkpoints(args.checkpoints))))
        return
    results, before = {}, dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
        prepare_process()
        import_engine()
        for name in PARTS:
            if args.only and not any(part in name for part in args.only):
                continue
            folder = Path(scratch)
            anew = name in (NO_GPU, TWO_GPUS)
            result = (
                run_alone(name, folder, before) if anew else run_in_copy(name, folder, json.loads(args.engine_options))
            )
            results[name] = result
            print("ok  " if result["ok"] else "FAIL", name, json.dumps(result), file=sys.stderr, flush=True)
    good = all(result["ok"] for result in results.values())
    document = {
        "vllm": importlib.metadata.version("vllm"),
        "ok": good,
        "kernels": "none has run: stub driver and worker",
    }
    print(json.dumps({**document, "results": results}))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
