#!/usr/bin/env python3
"""Calls per second in evidence mode, compared with continuing every document and with the Prism card's own generate loop.

    scripts/bench_evidence.py                         # a tiny checkpoint with random weights; a few minutes on two cores
    scripts/bench_evidence.py --model Prism-0.8B-dir  # a real one, on a GPU
    scripts/bench_evidence.py | tail -n 1 | python -m json.tool

One call has 50 documents, of which `relevant` are relevant. The card's loop generates for each document in turn: the whole
answer for a relevant one, one token for any other. whyrank scores all 50 and then writes evidence for the best 5.
Random weights do not know what is relevant and never stop writing, so the lengths are forced for all systems: 20 tokens of
contribution and 60 of evidence (and, for the card's loop, about 22 tokens of opening and tags, which its model writes
itself). Every call has a new query and new documents. The systems take turns in each repeat; medians are reported.

The last line of stdout is one JSON document; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pydoc_data.topics
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench_common import on_gpu
from tiny_checkpoint import write_checkpoint
from whyrank import EvidenceDelta, Reranker, Scored
from whyrank.checkpoints import Plan, make_plan
from whyrank.prompting.evidence import render
from whyrank.prompting.tokens import EncodedDocument
from whyrank.types import Document

COUNT, CONTINUED = 50, 5
CONTRIBUTION, EVIDENCE = 20, 60


def fresh_call(seed: int) -> tuple[str, list[str]]:
    dice, words = random.Random(seed), " ".join(pydoc_data.topics.topics.values()).split()
    return f"question {seed}?", [" ".join(dice.choices(words, k=60)) for _ in range(COUNT)]


async def evidence_call(reranker: Reranker, seed: int, continued: int) -> dict[str, float]:
    """Seconds until the first score, the first piece of evidence, and the end."""
    query, documents = fresh_call(seed)
    began, marks = time.perf_counter(), dict[str, float]()
    stream = reranker.stream(
        query,
        documents,
        mode="evidence",
        evidence_top_n=continued,
        evidence_min_score=0.0,
        max_contribution_tokens=CONTRIBUTION,
        max_evidence_tokens=EVIDENCE,
    )
    async for event in stream:
        now = time.perf_counter() - began
        if isinstance(event, Scored):
            marks.setdefault("first_score", now)
        if isinstance(event, EvidenceDelta):
            marks.setdefault("first_evidence", now)
    return marks | {"call": time.perf_counter() - began}


class CardLoop:
    """The recipe of the Prism card: one document at a time through transformers' generate."""

    def __init__(self, plan: Plan) -> None:
        import transformers

        self.plan = plan
        device = "cuda" if on_gpu() else "cpu"
        dtype = "float32" if device == "cpu" and not plan.checkpoint.has_linear_attention else "bfloat16"
        model = transformers.AutoModelForCausalLM.from_pretrained(plan.config.model, dtype=dtype)
        self.model: Any = model.to(device).eval()
        continuation = plan.format.continuation
        if continuation is None:
            sys.exit(f"prompt '{plan.format.name}' has no continuation: evidence cannot be measured on it")
        tags = plan.encoder.encode_frame(render(continuation, {"contribution": "", "evidence": ""}))
        self.answer = len(tags) + CONTRIBUTION + EVIDENCE

    def call(self, seed: int, relevant: int) -> float:
        query, documents = fresh_call(seed)
        began = time.perf_counter()
        for place, row in enumerate(self.plan.encoder.encode(query, [Document(d) for d in documents], None, "tail")):
            assert isinstance(row, EncodedDocument)
            self._generate(row.prompts[0].ids, self.answer if place < relevant else 1)
        return time.perf_counter() - began

    def _generate(self, ids: tuple[int, ...], length: int) -> None:
        import torch

        inputs = torch.tensor([ids], device=self.model.device)
        with torch.inference_mode():
            self.model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=length,
                min_new_tokens=length,
                do_sample=False,
                pad_token_id=self.model.config.eos_token_id,
            )


async def measure(model: str, prompt: str | None, repeats: int, with_card: bool) -> dict[str, Any]:
    async with Reranker(model, prompt=prompt, kv_cache_gib=2) as reranker:
        systems: dict[str, Callable[[int], Awaitable[Any]]] = {
            "whyrank": lambda seed: evidence_call(reranker, seed, CONTINUED),
            "every_document": lambda seed: evidence_call(reranker, seed, COUNT),
        }
        if with_card:
            card = await asyncio.to_thread(CardLoop, make_plan(reranker.config))
            systems["card_loop_10_relevant"] = lambda seed: asyncio.to_thread(card.call, seed, 10)
            systems["card_loop_50_relevant"] = lambda seed: asyncio.to_thread(card.call, seed, COUNT)
        await evidence_call(reranker, 0, CONTINUED)
        taken: dict[str, list[Any]] = {name: [] for name in systems}
        for repeat in range(repeats):
            for place, (name, ask) in enumerate(systems.items()):
                print(f"repeat {repeat + 1} of {repeats}: {name}", file=sys.stderr)
                taken[name].append(await ask(1 + repeat * len(systems) + place))
    return summary(taken)


def summary(taken: dict[str, list[Any]]) -> dict[str, Any]:
    seconds = {name: [run["call"] if isinstance(run, dict) else run for run in runs] for name, runs in taken.items()}
    ours = seconds["whyrank"]
    ratios = {
        name: statistics.median(their / our for their, our in zip(theirs, ours, strict=True))
        for name, theirs in seconds.items()
        if name != "whyrank"
    }
    return {
        "calls_per_second": {name: round(1 / statistics.median(runs), 4) for name, runs in seconds.items()},
        "whyrank_over": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "targets": {"card_loop_10_relevant": 3, "card_loop_50_relevant": 6},
        "milliseconds_to_first_score": milliseconds(taken["whyrank"], "first_score"),
        "milliseconds_to_first_evidence": milliseconds(taken["whyrank"], "first_evidence"),
    }


def milliseconds(runs: list[dict[str, float]], mark: str) -> float:
    return round(1000 * statistics.median(run[mark] for run in runs), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint whose prompt has a continuation; a tiny random one by default")
    parser.add_argument("--prompt", help="the prompt's name or file, where the model's name does not tell")
    parser.add_argument("--kind", default="qwen3", choices=["qwen3", "qwen3_5"], help="of the tiny checkpoint")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without-card", action="store_true", help="leave the card's loop out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or str(write_checkpoint(args.kind, Path(folder) / "prism-tiny"))
        result = asyncio.run(measure(model, args.prompt, args.repeats, not args.without_card))
    settings = {
        "documents": COUNT,
        "continued": CONTINUED,
        "tokens": [CONTRIBUTION, EVIDENCE],
        "repeats": args.repeats,
    }
    machine = {"cores": os.cpu_count(), "model": args.model or f"tiny {args.kind}, random weights"}
    print(json.dumps({"machine": machine, "settings": settings, **result}))


if __name__ == "__main__":
    main()
