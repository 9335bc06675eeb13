#!/usr/bin/env python3
"""What whyrank's own evaluation code costs, with generated data and a scorer that costs next to nothing; the rest is real.

Writes a BEIR folder with a TREC run, reranks it into a result file, and makes scorecard, run file and HTML report from it.
With --kills, processes are killed at random moments until one finishes, and the result file is compared with that of an
undisturbed run. Progress goes to stderr; the last line of stdout is one JSON document.

    scripts/bench_eval.py --queries 10000 --depth 100
    scripts/bench_eval.py --queries 2000 --depth 20 --kills 20
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Unpack

from whyrank.evaluation.data import open_collection
from whyrank.evaluation.measures import DEFAULT_MEASURES
from whyrank.evaluation.report import html_report
from whyrank.evaluation.results import RESULTS
from whyrank.evaluation.run import EvalRequest, evaluate, write_run
from whyrank.evaluation.scorecard import make_scorecard
from whyrank.prompting.scoring import LabelRead, ScoreRule, score_of
from whyrank.ranking import Ranking, sort_rows
from whyrank.request import RerankOptions
from whyrank.types import Document, RankedDocument, Usage

_WORDS = ("river", "stone", "bridge", "tower", "garden", "winter", "market", "letter", "copper", "lantern", "harbour")


class HashScorer:
    """A system whose margins come from a hash of query and document, and are higher for documents that name the query."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self._pause_s = pause_s

    async def rerank(self, query: str, documents: list[Document], **options: Unpack[RerankOptions]) -> Ranking:
        await asyncio.sleep(self._pause_s)
        seed = hashlib.blake2b(query.encode())
        rows = [self._row(seed, query, index, document) for index, document in enumerate(documents)]
        return Ranking(tuple(sort_rows(rows)), Usage(64 * len(rows), 32 * len(rows), len(rows)), "hash", "hash@1")

    @staticmethod
    def _row(seed: hashlib.blake2b, query: str, index: int, document: Document) -> RankedDocument:
        mixed = seed.copy()
        mixed.update(document.text.encode())
        margin = int.from_bytes(mixed.digest()[:4], "big") / 2**32 * 8 - 6 + 3 * (query in document.text)
        score = score_of(LabelRead(margin), ScoreRule())
        return RankedDocument(index, document, score=score.score, margin=score.margin)


def write_data(folder: Path, queries: int, depth: int, seed: int = 3) -> None:
    """Every query has five judged documents, three of them relevant; a fifth of those retrieved belong to other queries."""
    dice = random.Random(seed)
    (folder / "qrels").mkdir(parents=True)
    own = max(1, depth * 4 // 5)
    with (
        (folder / "corpus.jsonl").open("w") as corpus,
        (folder / "queries.jsonl").open("w") as queries_file,
        (folder / "qrels" / "test.tsv").open("w") as qrels,
        (folder / "run.trec").open("w") as run,
    ):
        qrels.write("query-id\tcorpus-id\tscore\n")
        for query in range(queries):
            queries_file.write(json.dumps({"_id": f"q{query}", "text": f"question {query}?"}) + "\n")
            for place in range(own):
                words = " ".join(dice.choices(_WORDS, k=24))
                text = f"{words} question {query}? {words}" if place % 7 == 0 else words
                corpus.write(json.dumps({"_id": f"d{query}-{place}", "title": "", "text": text}) + "\n")
            for grade, place in enumerate(dice.sample(range(0, own, 7), k=min(3, len(range(0, own, 7))))):
                qrels.write(f"q{query}\td{query}-{place}\t{grade % 2 + 1}\n")
            qrels.write(f"q{query}\td{query}-{min(1, own - 1)}\t0\n" if own > 1 else "")
            candidates = [f"d{query}-{place}" for place in range(own)]
            others = dice.sample(range(queries), k=min(queries, depth - own + 1))
            candidates += [f"d{other}-0" for other in others if other != query][: depth - own]
            dice.shuffle(candidates)
            run.writelines(f"q{query} Q0 {d} {rank} {1 / rank:.6f} made\n" for rank, d in enumerate(candidates, 1))


def evaluate_all(data: Path, out: Path, depth: int, pause_s: float = 0.0) -> None:
    asyncio.run(evaluate(open_collection(data), HashScorer(pause_s), EvalRequest("hash", depth), out))


def kill_and_go_on(data: Path, out: Path, depth: int, kills: int, seed: int = 5) -> int:
    """Returns how many processes were killed before one finished."""
    dice = random.Random(seed)
    command = [
        sys.executable,
        __file__,
        "--data",
        str(data),
        "--out",
        str(out),
        "--depth",
        str(depth),
        "--pause-s",
        "0.02",
    ]
    killed = 0
    while True:
        size = _size(out / RESULTS)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        if killed < kills:
            while process.poll() is None and _size(out / RESULTS) == size:
                time.sleep(0.002)
            time.sleep(dice.uniform(0, 0.2))
            process.kill()
            killed += 1
        if process.wait() == 0:
            return killed
        print(f"killed {killed} times, {_size(out / RESULTS)} bytes", file=sys.stderr)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def peak_mib() -> int:
    """The peak memory of this program. getrusage would also count what was in memory before exec, which is the parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return round(int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 1024)  # type: ignore[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument(
        "--data", type=Path, help="instead of generated data: only rerank, as --kills does in other processes"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pause-s", type=float, default=0.0)
    args = parser.parse_args()
    if args.data:
        evaluate_all(args.data, args.out, args.depth, args.pause_s)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder / "data", args.queries, args.depth)
        print("data written", file=sys.stderr)
        print(json.dumps(measured(folder, args.depth, args.kills)))


def measured(folder: Path, depth: int, kills: int) -> dict[str, object]:
    began = time.perf_counter()
    evaluate_all(folder / "data", folder / "out", depth)
    reranked = time.perf_counter()
    write_run(folder / "out")
    card = make_scorecard(folder / "out", DEFAULT_MEASURES)
    (folder / "out" / "report.html").write_text(html_report(card), encoding="utf-8")
    ended = time.perf_counter()
    result: dict[str, object] = {
        "pairs": card.costs.pairs,
        "seconds": round(ended - began, 2),
        "reranking_seconds": round(reranked - began, 2),
        "reporting_seconds": round(ended - reranked, 2),
        "peak_mib": peak_mib(),
        "result_mib": round(_size(folder / "out" / RESULTS) / 2**20, 1),
        "report_kib": round(_size(folder / "out" / "report.html") / 2**10),
    }
    if kills:
        result["killed"] = kill_and_go_on(folder / "data", folder / "again", depth, kills)
        result["same_bytes"] = (folder / "out" / RESULTS).read_bytes() == (folder / "again" / RESULTS).read_bytes()
    return result


if __name__ == "__main__":
    main()
