#!/usr/bin/env python3
"""Has a model with random weights write the orders of a thousand lists, and checks that each is an order of all documents.

    scripts/check_listwise.py [--runs 1000] [--format rankzephyr] [--words 30]

The last line of stdout is JSON: how many answers were complete, and what they cost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from tiny_checkpoint import write_checkpoint
from whyrank import EngineConfig, Ranking, Reranker
from whyrank.process import prepare_process
from whyrank.prompting.formats import builtin_formats, to_toml
from whyrank.request import RerankRequest

# Requests in flight.
_AT_ONCE = 32
WORDS = (
    "water boils at the sea level of one hundred degrees while lunch is served in a car park that closes late".split()
)


def prompt_file(name: str, folder: Path) -> Path:
    """The format, for the tiny Qwen3."""
    fmt = builtin_formats()[name]
    fits = fmt.fits.model_copy(update={"architectures": ["Qwen3ForCausalLM"]})
    path = folder / f"{name}-tiny.toml"
    path.write_text(to_toml(fmt.model_copy(update={"fits": fits})))
    return path


def requests(runs: int, window: int, words: int) -> list[RerankRequest]:
    rng = random.Random(1)

    def text() -> str:
        return " ".join(rng.choices([*WORDS, "[1]", "[2] > [1]"], k=rng.randint(3, words)))

    counts = [rng.randint(2, window) for _ in range(runs)]
    return [RerankRequest.of(text(), [text() for _ in range(count)], method="listwise") for count in counts]


async def measure(runs: int, name: str, words: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint("qwen3", Path(folder) / "tiny")
        config = EngineConfig(str(checkpoint), prompt=str(prompt_file(name, Path(folder))), kv_cache_gib=0.5)
        listwise = builtin_formats()[name].listwise
        assert listwise is not None, f"{name} orders no lists"
        async with Reranker(config) as reranker:
            began = time.perf_counter()
            given = requests(runs, listwise.window, words)
            rankings = []
            for at in range(0, runs, _AT_ONCE):
                rankings += await reranker.rerank_many(given[at : at + _AT_ONCE])
            seconds = time.perf_counter() - began
    outcomes = Counter(_outcome(ranking, len(one.documents)) for ranking, one in zip(rankings, given, strict=True))
    usages = [ranking.usage for ranking in rankings if isinstance(ranking, Ranking)]
    return {
        "format": name,
        "runs": runs,
        **outcomes,
        "output_tokens_per_list": round(sum(usage.output_tokens for usage in usages) / runs, 1),
        "prompt_tokens_per_list": round(sum(usage.prompt_tokens for usage in usages) / runs, 1),
        "cached_tokens_per_list": round(sum(usage.cached_tokens for usage in usages) / runs, 1),
        "lists_per_second": round(runs / seconds, 2),
    }


def _outcome(ranking: object, count: int) -> str:
    if not isinstance(ranking, Ranking):
        return "refused"
    rows = ranking.results
    whole = sorted(row.index for row in rows) == list(range(count)) and not any(row.error for row in rows)
    return "complete" if whole and [row.rank for row in rows] == list(range(1, count + 1)) else "incomplete"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--format", default="rankzephyr")
    parser.add_argument("--words", type=int, default=30, help="of a document, at most")
    args = parser.parse_args()
    prepare_process()
    print(json.dumps(asyncio.run(measure(args.runs, args.format, args.words))))


if __name__ == "__main__":
    main()
