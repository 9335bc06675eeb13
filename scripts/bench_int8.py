#!/usr/bin/env python3
"""What int8 gives on a CPU, and what it costs: float32, bfloat16 and int8 of one checkpoint take turns on the same queries.

    taskset -c 1 scripts/bench_int8.py                        # the embedded model, on the written exam
    scripts/bench_int8.py SmolLM2-135M-Instruct --prompt chat --queries 40     # a folder that scripts/chat_model.py made
    scripts/bench_int8.py --shape qwen3-0.6b --queries 3 --documents 16        # random weights: speed and memory only

The texts are those of tests/data/demo/held_out, 10 candidates a query; with --shape, pieces of Python's documentation of 300
tokens. Engines run one after the other, each call in the order of a fresh shuffle of the three. `kendall` is the mean over
queries of tau-b between the margins and float32's, `kendall_overall` that of all margins together. `documents_per_second` is of
calls, by the clock; `cpu_ms` is what a document takes of the engine's processor time. The last line of stdout is one JSON
document; the exit status is 1 where int8 has a `kendall` or `kendall_overall` below 0.97, unless weights are random.
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
from pathlib import Path
from typing import Any

from bench_common import SHAPES, Writer, machine, write_model
from bench_engines import MeasuredEngine, spread
from demo_exam import exam
from whyrank import EngineConfig
from whyrank.checkpoints import make_plan
from whyrank.config import DEMO
from whyrank.evaluation.compare import kendall
from whyrank.quantize import quantize

_MIN_KENDALL = 0.97
_PAIR_TOKENS = 300
Call = tuple[str, list[str]]
"""A query with its documents."""


def _calls(args: argparse.Namespace, model: str) -> list[Call]:
    if args.shape is None:
        chosen = random.Random(args.seed).sample(exam(), args.queries)
        return [(one.query, [*one.documents]) for one in chosen]
    writer = Writer(make_plan(EngineConfig(model)), _PAIR_TOKENS)
    work = [writer.work(args.documents, f"{args.seed} {number}") for number in range(args.queries)]
    return [(one.query, one.documents) for one in work]


async def measure(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    model = args.model if args.shape is None else str(write_model(args.shape, scratch))
    out = scratch / "int8" / Path(EngineConfig(model).source).name
    began = time.perf_counter()
    written = quantize(EngineConfig(model), out)
    quantised = time.perf_counter() - began
    sources = {"float32": (model, "float32"), "bfloat16": (model, "bfloat16"), "int8": (str(out), "auto")}
    async with AsyncExitStack() as opened:
        configs = {
            name: EngineConfig(source, prompt=args.prompt, dtype=dtype, kv_cache_gib=0.5, max_length=args.max_length)  # type: ignore[arg-type]
            for name, (source, dtype) in sources.items()
        }
        systems = {name: await MeasuredEngine.start(config, opened) for name, config in configs.items()}
        calls = _calls(args, model)
        for number, (query, documents) in enumerate([calls[0], *calls]):
            for name in random.Random(number).sample([*systems], len(systems)):
                print(f"call {number} of {len(calls)}: {name}", file=sys.stderr)
                # The first one compiles; its query is asked again in other words, so that nothing is cached of it.
                await systems[name].call(query if number else f"first: {query}", documents)
        memory = {name: system.process.memory_info().rss >> 20 for name, system in systems.items()}
    results = {
        name: {**_result(system, systems["float32"]), "rss_mib": memory[name]} for name, system in systems.items()
    }
    weights = {
        "layers": written.layers,
        "before_mib": written.bytes_before >> 20,
        "after_mib": written.bytes_after >> 20,
    }
    enough = min(results["int8"]["kendall"], results["int8"]["kendall_overall"]) >= _MIN_KENDALL
    return {
        "machine": machine(),
        "settings": vars(args),
        "weights": {**weights, "seconds": round(quantised, 2)},
        "systems": results,
        "agree": enough or args.shape is not None,
    }


def _result(system: MeasuredEngine, base: MeasuredEngine) -> dict[str, Any]:
    """Without the first call."""
    documents = [len(margins) for margins in system.margins[1:]]
    pairs = list(zip(base.margins[1:], system.margins[1:], strict=True))
    taus = [kendall(wanted, found) for wanted, found in pairs]
    flat = [[margin for margins in side for margin in margins] for side in zip(*pairs, strict=True)]
    return {
        "dtype": system.facts["dtype"],
        "quantization": system.facts.get("quantization"),
        "documents": sum(documents),
        "documents_per_second": spread([n / s for n, s in zip(documents, system.seconds[1:], strict=True)]),
        "cpu_ms": spread([1000 * s / n for n, s in zip(documents, system.cpu_seconds[1:], strict=True)]),
        "kendall": round(statistics.fmean(taus), 4),
        "kendall_overall": round(kendall(*flat), 4),
        "largest_margin_difference": round(max(abs(a - b) for a, b in zip(*flat, strict=True)), 4),
        "margin_spread": round(statistics.pstdev(flat[0]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=DEMO)
    parser.add_argument("--prompt")
    parser.add_argument("--shape", choices=SHAPES, help="in place of a model: random weights of this shape")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--documents", type=int, default=16, help="with --shape: in a call")
    parser.add_argument(
        "--max-length", type=int, help="of a prompt: a large model's cache must hold one; default: 1536 with --shape"
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.max_length = args.max_length or (1536 if args.shape else None)
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    with tempfile.TemporaryDirectory() as scratch:
        result = asyncio.run(measure(args, Path(scratch)))
    print(json.dumps(result))
    sys.exit(0 if result["agree"] else 1)


if __name__ == "__main__":
    main()
