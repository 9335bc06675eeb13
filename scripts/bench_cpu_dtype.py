#!/usr/bin/env python3
"""What bfloat16 and C++ norms give on a CPU: three engines on one checkpoint take turns on the same fresh documents.

    scripts/bench_cpu_dtype.py                                # Qwen3-0.6B's shape, random weights; 8 GiB of memory
    scripts/bench_cpu_dtype.py --repeats 9 | tail -n 1 | python -m json.tool

float32     with vLLM's own norms: whyrank's default before it chose the dtype by the processor
bfloat16    the same in bfloat16
norms       bfloat16 with the C++ norms: the default now, where the processor has instructions for bfloat16

`documents_per_second` is by the clock, and worthless beside busy neighbours; `cpu_ms` is what a document takes of the engine's
processor time, all threads together. `of_gemm_limit` is the share of the speed that a large matrix product reaches in this
process, with all threads, measured before each call and in the engine's dtype: 1 would be an engine that only multiplies.
Margins must be within 0.05 of float32's, or the exit status is 1. The last line of stdout is one JSON document.
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
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from bench_common import Work, Writer, machine, write_model
from bench_engines import MeasuredEngine, spread
from whyrank import EngineConfig
from whyrank.checkpoints import make_plan

_VLLMS_NORMS = {"ir_op_priority": {"rms_norm": ["native"], "fused_add_rms_norm": ["native"]}}
_SYSTEMS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32", "engine_options": _VLLMS_NORMS},
    "bfloat16": {"dtype": "bfloat16", "engine_options": _VLLMS_NORMS},
    "norms": {"dtype": "bfloat16"},
}
_TOLERANCE = 0.05
# Rows of the matrix product that is the limit: the tokens of one step.
_ROWS = 2048


@dataclass
class System(MeasuredEngine):
    flops: list[float] = field(default_factory=list)
    """Operations per second in the layers' matrix products."""
    limits: list[float] = field(default_factory=list)

    async def multiply(self, work: Work, flops_per_token: int, limit: float) -> None:
        usage = (await self.call(work.query, work.documents)).usage
        self.flops.append((usage.prompt_tokens - usage.cached_tokens) * flops_per_token / self.seconds[-1])
        self.limits.append(limit)


def _flops_per_token(folder: Path) -> int:
    """Of the matrix products in all layers; attention and the head are not counted."""
    table = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    hidden, head = table["hidden_size"], table["head_dim"]
    queries, keys = table["num_attention_heads"] * head, table["num_key_value_heads"] * head
    weights = hidden * (2 * queries + 2 * keys) + 3 * hidden * table["intermediate_size"]
    return int(2 * table["num_hidden_layers"] * weights)


def _gemm_flops(dtype: str, folder: Path) -> float:
    """Operations per second of the model's largest product, the better of two."""
    import torch

    table = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wide, hidden = 2 * table["intermediate_size"], table["hidden_size"]
    x, weight = (torch.randn(rows, hidden).to(getattr(torch, dtype)) for rows in (_ROWS, wide))
    spent = []
    for _ in range(3):  # the first compiles
        began = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        spent.append(time.perf_counter() - began)
    return float(2 * _ROWS * wide * hidden / min(spent[1:]))


async def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    async with AsyncExitStack() as opened:
        systems = {
            name: await System.start(EngineConfig(str(folder), kv_cache_gib=0.75, **options), opened)
            for name, options in _SYSTEMS.items()
        }
        writer = Writer(make_plan(EngineConfig(str(folder))), args.pair_tokens)
        for system in systems.values():
            work = writer.work(args.documents, "warm-up")
            await system.reranker.rerank(work.query, work.documents)
        flops = _flops_per_token(folder)
        for call in range(args.repeats):
            work = writer.work(args.documents, str(call))
            for name in random.Random(call).sample([*systems], len(systems)):
                print(f"call {call + 1} of {args.repeats}: {name}", file=sys.stderr)
                limit = _gemm_flops(str(systems[name].facts["dtype"]), folder)
                await systems[name].multiply(work, flops, limit)
    results = {name: _result(system, systems["float32"], args.documents) for name, system in systems.items()}
    agree = all(result["largest_margin_difference"] <= _TOLERANCE for result in results.values())
    return {"machine": machine(), "settings": vars(args), "systems": results, "agree": agree}


def _result(system: System, base: System, documents: int) -> dict[str, Any]:
    """Ratios are of pairs of calls, one after the other with the same documents."""
    faster = [theirs / ours for theirs, ours in zip(base.seconds, system.seconds, strict=True)]
    cheaper = [theirs / ours for theirs, ours in zip(base.cpu_seconds, system.cpu_seconds, strict=True)]
    expected, margins = ([*chain.from_iterable(one.margins)] for one in (base, system))
    shares = [reached / limit for reached, limit in zip(system.flops, system.limits, strict=True)]
    return {
        "facts": system.facts,
        "documents_per_second": spread([documents / spent for spent in system.seconds]),
        "cpu_ms": spread([1000 * spent / documents for spent in system.cpu_seconds]),
        "times_float32": spread(faster),
        "times_float32_by_cpu": spread(cheaper),
        "of_gemm_limit": spread(shares),
        "gemm_gflops": spread([limit / 1e9 for limit in system.limits]),
        "largest_margin_difference": max(abs(a - b) for a, b in zip(expected, margins, strict=True)),
        "margin_spread": statistics.pstdev(expected),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["nano-qwen3", "tiny-qwen3", "qwen3-0.6b"], default="qwen3-0.6b")
    parser.add_argument("--documents", type=int, default=16, help="in a call")
    parser.add_argument("--pair-tokens", type=int, default=300, help="query and document; the frame comes on top")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    with tempfile.TemporaryDirectory() as scratch:
        result = asyncio.run(measure(args, write_model(args.shape, Path(scratch))))
    print(json.dumps(result))
    sys.exit(0 if result["agree"] else 1)


if __name__ == "__main__":
    main()
