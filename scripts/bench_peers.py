#!/usr/bin/env python3
"""Documents per second on a CPU: whyrank and what else could score the same documents with the same weights.

    scripts/bench_peers.py                                          # Qwen3-0.6B's shape, random weights; many GiB of memory
    scripts/bench_peers.py --pair-tokens 100 300 1000 --repeats 7 | tail -n 1 | python -m json.tool
    scripts/bench_peers.py --shape tiny-qwen3 --documents 4         # a try

whyrank                     Reranker.score with its own choice of dtype
whyrank_int8                the checkpoint that whyrank.quantize writes
vllm_generate               vllm.LLM.generate on whyrank's ids, with its engine options and norms: the most that vLLM can give
transformers_loop           one prompt at a time, as on the Prism card, in whyrank's dtype, as the next three
transformers_shared_prefix  by hand: the keys and values of frame and query are computed once for a call
transformers_batch          left-padded batches of 32
cross_encoder               sentence-transformers' CrossEncoder with its LogitScore
onnxruntime_fp32            one prompt at a time through a graph of fused operations; ONNX Runtime has no bfloat16 on a CPU
onnxruntime_int8            the same graph through its own quantize_dynamic, a scale for each output
llama_cpp_bf16              one prompt at a time in a slot that keeps what the prompts share, as llama.cpp's server does
llama_cpp_q8_0              the same with 8-bit weights in blocks of 32

All but the first seven need packages, in an environment that has whyrank's engine, too:

    pip install onnx onnxruntime gguf 'whyrank[bench]'
    CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python    # compiles for this processor

Why the comparison is fair:
- Each system has a process of its own, all cores, and the same fresh documents. A group of systems is alive at a time, and
  whyrank with each group; they take turns, in a new order for each call. `ratio` is of such pairs of calls (their seconds /
  whyrank's), so a busy neighbour disturbs both sides. What a system's threads spend while others are measured is
  `idle_cores`: of all cores' time, in cores.
- The frame of the prompts is known to those that keep it; query and documents are new to all.
- Those that take ids get whyrank's for nothing: vLLM, ONNX Runtime, llama.cpp and the shared prefix.
- They must agree, or the exit status is 1: each margin within one `margin_spread` of whyrank's, which is the standard deviation
  of its margins, or two in 8 bits; between unrelated margins the largest difference would be more than three. Random weights
  give nearly the same margin to all documents, so what bfloat16 rounds away is a large part of the spread; `--shape
  tiny-qwen3` has a wider one.

EmbedAnything is left out: it opens ONNX files from the hub alone, and runs them with the same ONNX Runtime.

A system whose call took more than --slow seconds is called only --repeats-of-slow times. The last line of stdout is one JSON
document; progress goes to stderr. A system that is not installed, or whose process died, is null there, and `notes` say why.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from bench_common import Work, Writer, machine, write_model
from bench_engines import spread
from bench_llama_cpp import llama_cpp_facts, llama_cpp_system, write_gguf
from bench_onnx import onnx_system, quantize_onnx, write_onnx
from bench_systems import (
    Score,
    cheapest_request,
    cross_encoder_system,
    from_ids,
    largest_gap,
    load_causal,
    shared_prefix_system,
    start_llm,
    transformers_system,
    vllm_system,
    whyrank_system,
)
from whyrank import EngineConfig, Reranker
from whyrank.checkpoints import Plan, make_plan
from whyrank.dtypes import choose_dtype
from whyrank.engine_process import end_with_parent
from whyrank.process import hide_warnings, set_engine_environment
from whyrank.quantize import quantize
from whyrank.runtimes import start_runtime

_GROUPS = [
    ("whyrank_int8", "vllm_generate"),
    ("transformers_loop", "transformers_shared_prefix", "transformers_batch", "cross_encoder"),
    ("onnxruntime_fp32", "onnxruntime_int8"),
    ("llama_cpp_bf16", "llama_cpp_q8_0"),
]
_OURS = "whyrank"
_BATCH = 32
_WARM_UP = 4
# Difference of margins, in standard deviations of whyrank's.
_TOLERANCE, _TOLERANCE_8_BITS = 1.0, 2.0
_8_BITS = {"whyrank_int8", "onnxruntime_int8", "llama_cpp_q8_0"}


@dataclass(frozen=True, slots=True)
class Setup:
    """What a system is started with."""

    model: Path
    scratch: Path
    kv_cache_gib: float

    def plan(self, model: Path | None = None) -> Plan:
        return make_plan(EngineConfig(str(model or self.model), kv_cache_gib=self.kv_cache_gib))

    @property
    def int8(self) -> Path:
        return self.scratch / "int8" / self.model.name

    def onnx(self, kind: str) -> Path:
        return self.scratch / "onnx" / f"{kind}.onnx"

    def gguf(self, kind: str) -> Path:
        return self.scratch / "gguf" / f"{kind}.gguf"


Started = tuple[Score, dict[str, Any]]
"""A system, and facts about it."""


# How each system is started, in its own process.


def _start_whyrank(setup: Setup, opened: ExitStack, model: Path | None = None) -> Started:
    runner = opened.enter_context(asyncio.Runner())
    plan = setup.plan(model)
    runtime = runner.run(start_runtime(plan))
    opened.callback(lambda: runner.run(runtime.aclose()))
    return whyrank_system(Reranker.from_runtime(runtime, plan.encoder, plan.config), runner), runtime.facts()


def _start_int8(setup: Setup, opened: ExitStack) -> Started:
    return _start_whyrank(setup, opened, setup.int8)


def _start_vllm(setup: Setup, opened: ExitStack) -> Started:
    set_engine_environment(on_cpu=True)  # before torch is imported
    plan = setup.plan()
    score = vllm_system(start_llm(plan, opened), plan, from_ids("ids"), **cheapest_request())
    return score, {"dtype": _dtype(plan)}


def _start_transformers(setup: Setup, opened: ExitStack, batch: int) -> Started:
    plan = setup.plan()
    return transformers_system(load_causal(plan, _dtype(plan)), plan, batch), {"dtype": _dtype(plan)}


def _start_shared_prefix(setup: Setup, opened: ExitStack) -> Started:
    plan = setup.plan()
    return shared_prefix_system(load_causal(plan, _dtype(plan)), plan), {"dtype": _dtype(plan)}


def _start_cross_encoder(setup: Setup, opened: ExitStack) -> Started:
    plan = setup.plan()
    return cross_encoder_system(plan, _dtype(plan)), {"dtype": _dtype(plan)}


def _start_onnx(setup: Setup, opened: ExitStack, kind: str) -> Started:
    return onnx_system(setup.onnx(kind), setup.plan()), {"dtype": kind}


def _start_llama_cpp(setup: Setup, opened: ExitStack, kind: str) -> Started:
    score = llama_cpp_system(setup.gguf(kind), setup.plan(), opened)
    return score, {"dtype": kind, **llama_cpp_facts()}


def _dtype(plan: Plan) -> str:
    return choose_dtype(plan, on_cpu=True).dtype


# What is written for some of them before, each in a process that gives its memory back.


def _write_int8(setup: Setup) -> None:
    quantize(EngineConfig(str(setup.model)), setup.int8)


def _write_onnx(setup: Setup) -> None:
    write_onnx(setup.model, setup.onnx("fp32"))


def _write_onnx_int8(setup: Setup) -> None:
    if not setup.onnx("fp32").exists():
        _write_onnx(setup)
    quantize_onnx(setup.onnx("fp32"), setup.onnx("int8"))


def _write_gguf(setup: Setup, kind: str) -> None:
    write_gguf(setup.model, setup.gguf(kind), kind)


@dataclass(frozen=True, slots=True)
class Peer:
    start: Callable[[Setup, ExitStack], Started]
    write: Callable[[Setup], None] | None = None
    packages: str = "'whyrank[bench]'"


_ONNX, _LLAMA_CPP = "onnx onnxruntime", "gguf llama-cpp-python"
_PEERS = {
    _OURS: Peer(_start_whyrank),
    "whyrank_int8": Peer(_start_int8, _write_int8),
    "vllm_generate": Peer(_start_vllm),
    "transformers_loop": Peer(partial(_start_transformers, batch=1)),
    "transformers_shared_prefix": Peer(_start_shared_prefix),
    "transformers_batch": Peer(partial(_start_transformers, batch=_BATCH)),
    "cross_encoder": Peer(_start_cross_encoder),
    "onnxruntime_fp32": Peer(partial(_start_onnx, kind="fp32"), _write_onnx, _ONNX),
    "onnxruntime_int8": Peer(partial(_start_onnx, kind="int8"), _write_onnx_int8, _ONNX),
    "llama_cpp_bf16": Peer(partial(_start_llama_cpp, kind="bf16"), partial(_write_gguf, kind="bf16"), _LLAMA_CPP),
    "llama_cpp_q8_0": Peer(partial(_start_llama_cpp, kind="q8_0"), partial(_write_gguf, kind="q8_0"), _LLAMA_CPP),
}


class _Here:
    """The one system of a process that was started for it."""

    opened = ExitStack()
    score: Score


def _start(name: str, setup: Setup) -> tuple[int, dict[str, Any]]:
    hide_warnings()
    _Here.score, facts = _PEERS[name].start(setup, _Here.opened)
    return os.getpid(), facts


def _call(work: Work) -> tuple[float, list[float]]:
    began = time.perf_counter()
    margins = _Here.score(work)
    return time.perf_counter() - began, margins


def _stop() -> None:
    _Here.opened.close()


class Dead(Exception):
    """A system's process is gone."""


@dataclass(frozen=True, slots=True)
class Call:
    seconds: float
    cpu_seconds: float
    margins: list[float]


class System:
    """A system in a process of its own, seen from outside. With `with`, it is stopped at the end."""

    def __init__(self, name: str, setup: Setup) -> None:
        self.name = name
        if (write := _PEERS[name].write) is not None:
            with _fresh_process() as process:
                process.submit(write, setup).result()
        self._pool = _fresh_process()
        try:
            pid, self.facts = self._pool.submit(_start, name, setup).result()
        except BaseException:
            self._pool.shutdown()
            raise
        self._process = psutil.Process(pid)
        self._began, self._cpu_at_start = time.perf_counter(), self._cpu_seconds()
        self._busy, self._cpu_busy = 0.0, 0.0

    def __enter__(self) -> System:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._pool.submit(_stop).result()
        except BrokenProcessPool:
            pass  # its death was reported by the call that saw it
        finally:
            self._pool.shutdown()

    def call(self, work: Work) -> Call:
        began, before = time.perf_counter(), self._cpu_seconds()
        try:
            seconds, margins = self._pool.submit(_call, work).result()
        except BrokenProcessPool as cause:
            raise Dead(f"{self.name}: its process died in a call") from cause
        call = Call(seconds, self._cpu_seconds() - before, margins)
        self._busy += time.perf_counter() - began
        self._cpu_busy += call.cpu_seconds
        return call

    def idle_cores(self) -> float:
        """What its threads used of the processor while it had nothing to do."""
        idle = time.perf_counter() - self._began - self._busy
        return round((self._cpu_seconds() - self._cpu_at_start - self._cpu_busy) / idle, 3) if idle > 1 else 0.0

    def _cpu_seconds(self) -> float:
        try:
            processes = [self._process, *self._process.children(recursive=True)]
            return float(sum(sum(process.cpu_times()[:2]) for process in processes))
        except psutil.NoSuchProcess as cause:
            raise Dead(f"{self.name}: its process is gone") from cause


def _fresh_process() -> ProcessPoolExecutor:
    """It ends with this one, also if this one is killed."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent, initargs=(os.getpid(),))


Turn = dict[str, Call]
"""One query's documents, scored by each system whose turn it was."""


@dataclass
class Bench:
    """`turns`: by the length of the pairs."""

    args: argparse.Namespace
    setup: Setup
    turns: dict[int, list[Turn]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: bool = False

    def run(self) -> None:
        plan = self.setup.plan()
        with System(_OURS, self.setup) as ours:
            for group in _GROUPS:
                with ExitStack() as opened:
                    systems = {name: found for name in group if (found := self._opened(name, opened)) is not None}
                    for tokens in self.args.pair_tokens if systems else []:
                        self._measure({_OURS: ours, **systems}, Writer(plan, tokens), tokens)
                    self._remember(systems.values())
            self._remember([ours])

    def _opened(self, name: str, opened: ExitStack) -> System | None:
        if name in self.args.without:
            return None
        began = time.perf_counter()
        try:
            system = opened.enter_context(System(name, self.setup))
        except ImportError as cause:
            self.notes.append(f"{name}: {cause}; pip install {_PEERS[name].packages}")
        except Exception as cause:  # one that cannot start must not cost what was measured of the others
            self._fail(f"{name}: cannot start: {type(cause).__name__}: {cause}")
        else:
            _tell(f"{name}: started in {time.perf_counter() - began:.0f} s")
            return system
        _tell(self.notes[-1])
        return None

    def _measure(self, systems: dict[str, System], writer: Writer, tokens: int) -> None:
        """Calls all of them in turn until each has had its number of calls; whyrank takes part in every turn."""
        left = {name: self.args.repeats for name in systems if name != _OURS}
        for name in systems:
            self._called(name, systems[name], writer.work(_WARM_UP, f"warm-up {tokens}"), left)
        first, turns = True, self.turns.setdefault(tokens, [])
        while names := [name for name, calls in left.items() if calls]:
            work = writer.work(self.args.documents, f"{tokens} {len(turns)}")
            order = random.Random(len(turns)).sample([_OURS, *names], len(names) + 1)
            calls = {name: self._called(name, systems[name], work, left) for name in order}
            turn = {name: call for name, call in calls.items() if call is not None}
            turns.append(turn)
            for name in turn.keys() & left.keys():
                slow = first and turn[name].seconds > self.args.slow
                left[name] = (self.args.repeats_of_slow if slow else left[name]) - 1
            first = False
            seconds = ", ".join(f"{name} {call.seconds:.1f} s" for name, call in turn.items())
            _tell(f"{tokens} tokens: {seconds}")

    def _called(self, name: str, system: System, work: Work, left: dict[str, int]) -> Call | None:
        """None, with a note, from a system whose process died: it gets no more turns."""
        try:
            return system.call(work)
        except Dead as cause:
            if name == _OURS:
                raise
            if left[name]:
                self._fail(str(cause))
            left[name] = 0
            return None

    def _remember(self, systems: Iterable[System]) -> None:
        for system in systems:
            try:
                self.facts[system.name] = system.facts | {"idle_cores": system.idle_cores()}
            except Dead:
                self.facts[system.name] = system.facts

    def _fail(self, note: str) -> None:
        self.notes.append(note)
        self.failed = True

    def result(self, tokens: int) -> dict[str, Any]:
        turns = self.turns.get(tokens, [])
        ours = [margin for turn in turns for margin in turn[_OURS].margins]
        deviation = statistics.pstdev(ours) if ours else 0.0
        systems = {name: _figures(name, turns, deviation) for name in _PEERS if name not in self.args.without}
        return {
            "pair_tokens": tokens,
            "documents": self.args.documents,
            "margin_spread": round(deviation, 4),
            "systems": systems,
            "agree": all(found is None or found["agrees"] for found in systems.values()),
        }


def _figures(name: str, turns: list[Turn], deviation: float) -> dict[str, Any] | None:
    pairs = [(turn[name], turn[_OURS]) for turn in turns if name in turn]
    if not pairs:
        return None
    documents = len(pairs[0][0].margins)
    theirs, ours = ([margin for pair in pairs for margin in pair[side].margins] for side in (0, 1))
    gap = largest_gap(ours, theirs)
    tolerance = _TOLERANCE_8_BITS if name in _8_BITS else _TOLERANCE
    return {
        "calls": len(pairs),
        "documents_per_second": spread([documents / call.seconds for call, _ in pairs]),
        "cpu_ms": spread([1000 * call.cpu_seconds / documents for call, _ in pairs]),
        "ratio": spread([call.seconds / own.seconds for call, own in pairs]),
        "largest_margin_difference": round(gap, 4),
        "agrees": gap <= tolerance * deviation,  # a NaN counts as disagreement
    }


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["nano-qwen3", "tiny-qwen3", "qwen3-0.6b", "qwen3-4b"], default="qwen3-0.6b")
    parser.add_argument("--documents", type=int, default=20, help="in a call")
    parser.add_argument(
        "--pair-tokens", nargs="+", type=int, default=[300], help="query and document; the frame comes on top"
    )
    parser.add_argument("--repeats", type=int, default=5, help="calls of each system")
    parser.add_argument("--slow", type=float, default=45, help="seconds above which a system's first call is slow")
    parser.add_argument("--repeats-of-slow", type=int, default=2, help="calls of a system that is slow")
    parser.add_argument("--without", nargs="+", default=[], choices=list(_PEERS)[1:], metavar="SYSTEM")
    parser.add_argument("--kv-cache-gib", type=float, default=2.5, help="of each of whyrank's and vLLM's engines")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    with tempfile.TemporaryDirectory() as scratch:
        with _fresh_process() as process:
            model = process.submit(write_model, args.shape, Path(scratch)).result()
        bench = Bench(args, Setup(model, Path(scratch), args.kv_cache_gib))
        bench.run()
    results = [bench.result(tokens) for tokens in args.pair_tokens]
    facts = {"machine": machine(), "settings": vars(args), "facts": bench.facts}
    print(json.dumps({**facts, "results": results, "notes": bench.notes}))
    sys.exit(0 if not bench.failed and all(result["agree"] for result in results) else 1)


if __name__ == "__main__":
    main()
