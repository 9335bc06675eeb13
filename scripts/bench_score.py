#!/usr/bin/env python3
"""Documents per second of Reranker.score, compared with the alternatives, on the same prompts of the same checkpoint.

    scripts/bench_score.py                       # two tiny checkpoints with random weights; some minutes on two cores
    scripts/bench_score.py --shape qwen3-0.6b    # the real size, random weights: meant for a GPU
    scripts/bench_score.py --counts 1 100 --repeats 9 | tail -n 1 | python -m json.tool

whyrank                  Reranker.score: text in, scores out, engine in a process of its own
vllm_generate            vllm.LLM.generate on exactly the ids that whyrank makes, with its engine options and label request:
                         the most that the engine can give to somebody who already has the ids
vllm_generate_text       the same from the prompts as text, so that vLLM does the text processing, too
vllm_generative_scoring  on the ids again, with the label request of vLLM's own /generative_scoring
transformers_loop        one prompt at a time, as on the Prism card: the forward pass with which its generate() begins
transformers_batch32     left-padded batches of 32, in the order of the documents
cross_encoder            sentence-transformers' CrossEncoder with its LogitScore, as on the Prism card

Why the comparison is fair:
- All systems are alive at the same time and take turns. Each repeat gives the same fresh query and documents to every system,
  in a new order, and `ratio` is the median over pairs (their seconds / whyrank's). So a busy neighbour on the machine disturbs
  both sides of a pair, which would not be so if one engine ran after the other; and an idle engine disturbs nobody: it
  waits on a socket (we saw 1.6 % of one core). On a GPU, both engines get the same share of the memory.
- Query and documents are new to every cache; the prompt's frame is not: a warm-up has put it into all of them, as in any
  server that has answered before. Three systems share one LLM, with a cache salt for each.
- All systems have all cores, the same dtype and the same texts. On a CPU, LLM runs inside this process: whyrank's environment
  sets VLLM_ENABLE_V1_MULTIPROCESSING=0, which makes the fastest LLM that we know there. How threads wait and what becomes of
  freed memory is as in plain vLLM in this process; whyrank's engine does it in its own way (whyrank/process.py).
- The systems must agree, or the exit status is 1: `largest_margin_difference` is the difference from whyrank's log-odds, whose
  standard deviation over the documents is `margin_spread`.

The last line of stdout is one JSON document; progress goes to stderr. A system that is not installed is null there.
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
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from bench_common import SHAPES, Work, Writer, machine, on_gpu, write_model
from bench_systems import (
    Score,
    SharingClassify,
    SharingGenerate,
    cheapest_request,
    cross_encoder_system,
    from_ids,
    from_texts,
    largest_gap,
    load_causal,
    start_llm,
    transformers_system,
    vllm_system,
    whyrank_system,
)
from whyrank import EngineConfig, Reranker
from whyrank.checkpoints import Plan, make_plan

# The target: whyrank's documents per second divided by theirs.
_TARGETS = {"vllm_generate": 0.95, "transformers_loop": 2.0, "transformers_batch32": 2.0}
# Margins may differ by this much: sums in another order and, in bf16, logits that come in steps of 1/64 to 1/8.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}
_BATCH = 32
# A call with few documents ends soon, so it is repeated until each of --repeats has had this many.
_LEAST_DOCUMENTS = 10

# Measuring.


class Bench:
    """All systems on one checkpoint, started and warm. `missing`: which could not be started, and why."""

    def __init__(self, shape: str, args: argparse.Namespace, opened: ExitStack) -> None:
        self.shape, self.args = shape, args
        scratch = opened.enter_context(tempfile.TemporaryDirectory())
        self._runner = opened.enter_context(asyncio.Runner())
        # On a CPU: room for one prompt of full length, and for all the others besides.
        memory = None if on_gpu() else 2.5
        model = str(write_model(shape, Path(scratch)))
        options = {"route": args.route, "quantization": args.quantization, "engine_options": args.engine_options}
        plan = make_plan(EngineConfig(model, kv_cache_gib=memory, **options))
        kind = SharingClassify if plan.route == "classify" else SharingGenerate
        runtime = self._runner.run(kind.start(plan))
        opened.callback(lambda: self._runner.run(runtime.aclose()))
        self._reranker = Reranker.from_runtime(runtime, plan.encoder, plan.config)
        self._dtype = str(runtime.facts()["dtype"])
        self._writer = Writer(plan, args.pair_tokens)
        self.missing: dict[str, str] = {}
        self._systems = {"whyrank": whyrank_system(self._reranker, self._runner)} | self._others(plan, opened)
        warm_up = self._writer.work(_LEAST_DOCUMENTS, "warm-up")
        for score in self._systems.values():
            score(warm_up)

    def _others(self, plan: Plan, opened: ExitStack) -> dict[str, Score]:
        cheapest = cheapest_request()
        llm = cache(lambda: start_llm(plan, opened))
        causal = cache(lambda: load_causal(plan, self._dtype))
        starts: dict[str, Callable[[], Score]] = {
            "vllm_generate": lambda: vllm_system(llm(), plan, from_ids("ids"), **cheapest),
            "vllm_generate_text": lambda: vllm_system(llm(), plan, from_texts("text"), **cheapest),
            "vllm_generative_scoring": lambda: vllm_system(llm(), plan, from_ids("scoring"), logprobs=2),
            "transformers_loop": lambda: transformers_system(causal(), plan, batch=1),
            "transformers_batch32": lambda: transformers_system(causal(), plan, batch=_BATCH),
            "cross_encoder": lambda: cross_encoder_system(plan, self._dtype),
        }
        systems = {}
        left_out = set(self.args.without)
        if plan.route == "classify":  # one process of vLLM has one way of reading
            left_out |= {name for name in starts if name.startswith("vllm_")}
        for name in [name for name in starts if name not in left_out]:
            try:
                systems[name] = starts[name]()
            except ImportError as cause:
                self.missing[name] = f"{cause}; pip install 'whyrank[bench]'"
        return systems

    def calls(self, documents: int) -> int:
        """How often each system is called for this number of documents."""
        return int(self.args.repeats) * max(1, _LEAST_DOCUMENTS // documents)

    def total(self) -> int:
        """Documents that will be scored, all systems together."""
        counts: list[int] = self.args.counts
        return sum(count * self.calls(count) for count in counts) * len(self._systems)

    def measure(self, documents: int, tell: Callable[[str], None]) -> dict[str, Any]:
        seconds: dict[str, list[float]] = {name: [] for name in self._systems}
        margins: dict[str, list[float]] = {name: [] for name in self._systems}
        names, tokens, began = list(self._systems), 0, time.perf_counter()
        for call in range(self.calls(documents)):
            if call and time.perf_counter() - began > self.args.patience:
                break
            work = self._writer.work(documents, f"{documents} {call}")
            tokens += sum(map(len, work.ids))
            # In a new order each time: a system that always ran after a similar one would always find warm processor caches.
            for name in random.Random(call).sample(names, len(names)):
                tell(name)
                spent, answer = _timed(self._systems[name], work)
                seconds[name].append(spent)
                margins[name] += answer
        return {
            "model": self.shape,
            "dtype": self._dtype,
            "documents": documents,
            "calls": len(seconds["whyrank"]),
            "prompt_tokens_mean": round(tokens / len(margins["whyrank"]), 1),
            "whyrank_cached_share": self._cached_share(documents),
            **_speeds(documents, seconds, self.missing),
            **_agreement(margins, _TOLERANCE[self._dtype]),
        }

    def _cached_share(self, documents: int) -> float:
        """The share of the prompt tokens, by the engine's count. Needs a call of its own: only `rerank` reports the usage."""
        work = self._writer.work(documents, f"{documents} cached")
        usage = self._runner.run(self._reranker.rerank(work.query, work.documents)).usage
        return round(usage.cached_tokens / usage.prompt_tokens, 3)


def _timed(score: Score, work: Work) -> tuple[float, list[float]]:
    import torch

    finish = torch.cuda.synchronize if on_gpu() else lambda: None
    finish()
    began = time.perf_counter()
    margins = score(work)
    finish()
    return time.perf_counter() - began, margins


def _speeds(documents: int, seconds: dict[str, list[float]], missing: dict[str, str]) -> dict[str, Any]:
    middle = {name: statistics.median(spent) for name, spent in seconds.items()}
    pairs = {name: zip(seconds["whyrank"], spent, strict=True) for name, spent in seconds.items() if name != "whyrank"}
    ratios = {name: round(statistics.median(theirs / ours for ours, theirs in p), 3) for name, p in pairs.items()}
    nothing = dict.fromkeys(missing)
    return {
        "docs_per_second": {name: round(documents / spent, 2) for name, spent in middle.items()} | nothing,
        "ratio": ratios | nothing,
        "latency_ms": {name: round(1000 * spent, 2) for name, spent in middle.items()} if documents == 1 else None,
    }


def _agreement(margins: dict[str, list[float]], tolerance: float) -> dict[str, Any]:
    ours = margins["whyrank"]
    gaps = {name: largest_gap(ours, theirs) for name, theirs in margins.items() if name != "whyrank"}
    return {
        "largest_margin_difference": {name: round(gap, 6) for name, gap in gaps.items()},
        "margin_spread": round(statistics.pstdev(ours), 4),
        "agree": all(gap <= tolerance for gap in gaps.values()),  # a NaN counts as disagreement
    }


def measure_shape(shape: str, args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """Results and notes. Runs in a process of its own: otherwise one model's threads would linger while the next is
    measured."""
    console = Console(stderr=True)
    with ExitStack() as opened, Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task(f"{shape}: starting", total=None)
        bench = Bench(shape, args, opened)
        bar.update(task, total=bench.total())
        results = []
        for count in args.counts:

            def tell(name: str, count: int = count) -> None:
                bar.update(task, advance=count, description=f"{shape}, {count} documents: {name}")

            results.append(bench.measure(count, tell))
            console.print(f"{shape}, {count} documents:", results[-1]["docs_per_second"])
    return results, [f"{name}: {why}" for name, why in bench.missing.items()]


def _missed(result: dict[str, Any]) -> list[str]:
    where = f"{result['model']}, {result['documents']} documents"
    ratios = ((name, result["ratio"].get(name, target), target) for name, target in _TARGETS.items())
    slow = [f"{where}: {ratio} of {name}, target {target}" for name, ratio, target in ratios if ratio < target]
    return slow if result["agree"] else [f"{where}: the systems do not agree", *slow]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["tiny-qwen3", "tiny-qwen3.5"])
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 20, 100, 1000], help="documents in a call")
    parser.add_argument("--pair-tokens", type=int, default=300, help="query and document; the frame comes on top")
    parser.add_argument("--repeats", type=int, default=3, help="paired calls; more where a call has few documents")
    parser.add_argument("--patience", type=float, default=300, help="seconds after which a count is not repeated again")
    parser.add_argument("--without", nargs="+", default=[], metavar="SYSTEM", help="leave these systems out")
    parser.add_argument("--route", choices=["generate", "classify"])
    parser.add_argument("--quantization", help="of whyrank's engine and vLLM's, e.g. fp8_per_tensor")
    parser.add_argument(
        "--engine-options",
        type=json.loads,
        default={},
        metavar="JSON",
        help='of both engines, to compare runs: {"block_size": 32}, {"max_num_seqs": 512}, {"async_scheduling": true}',
    )
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    results: list[dict[str, Any]] = []
    notes: list[str] = []
    for shape in args.shape:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            rows, remarks = fresh.submit(measure_shape, shape, args).result()
        results += rows
        notes += [remark for remark in remarks if remark not in notes]
    notes += [line for result in results for line in _missed(result)]
    print(json.dumps({"machine": machine(), "settings": vars(args), "results": results, "notes": notes}))
    sys.exit(0 if all(result["agree"] for result in results) else 1)


if __name__ == "__main__":
    main()
