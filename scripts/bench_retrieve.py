#!/usr/bin/env python3
"""What a first stage over a large corpus takes, and that one which was killed goes on where it was.

    scripts/bench_retrieve.py                        # 50,000 documents
    scripts/bench_retrieve.py --documents 5000 --embedded 600

dense     exact search over random vectors of 1,024 numbers in a mapped file, in a process of its own
bm25      the index over as many texts of 100 words, and searches in it, likewise
resumed   `whyrank retrieve --method dense` on a tiny checkpoint, killed (SIGKILL) once a part is embedded, then run again: the
          second run embeds only what is missing, and its vectors and run are those of a run that nobody killed

`peak_mib` is the process's largest resident memory, in which the mapped file counts; `own_mib` is what it held at the end
without files, and `before_mib` that before it began. The last line of stdout is one JSON document; the exit status is 1 where
the resumed run is not right.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench_common import machine
from tiny_checkpoint import write_checkpoint

_SIZE = 1024
_TOP_K = 100
_BLOCK = 4096
_PATIENCE_SECONDS = 900


def _memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        name: int(value.split()[0]) >> 10 for name, _, value in (line.partition(":") for line in lines) if "kB" in value
    }


def dense(documents: int, queries: int) -> dict[str, Any]:
    from whyrank.retrieval.dense import exact_search

    dice = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.f32"
        with file.open("wb") as output:
            for start in range(0, documents, _BLOCK):
                rows = dice.standard_normal((min(_BLOCK, documents - start), _SIZE), np.float32)
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
                output.write(rows.tobytes())
        vectors = np.memmap(file, np.float32, "r", shape=(documents, _SIZE))
        asked = dice.standard_normal((queries, _SIZE), np.float32)
        before, began = _memory(), time.perf_counter()
        places, _ = exact_search(vectors, asked, _TOP_K)
        seconds = time.perf_counter() - began
        after = _memory()
        wanted = np.argsort(-(np.asarray(vectors) @ asked[0]), kind="stable")[:_TOP_K]
        same = float((places[0] == wanted).mean())
    return _figures(seconds, queries, before, after) | {"file_mib": documents * _SIZE * 4 >> 20, "as_numpy": same}


def bm25(documents: int, queries: int) -> dict[str, Any]:
    from whyrank.retrieval.bm25 import Bm25

    dice = random.Random(1)
    words = [f"word{n}" for n in range(50_000)]
    weights = [1 / (n + 10) for n in range(50_000)]
    texts = [" ".join(dice.choices(words, weights, k=100)) for _ in range(documents)]
    before, began = _memory(), time.perf_counter()
    index = Bm25(texts)
    indexed = time.perf_counter() - began
    asked = [" ".join(dice.choices(words, weights, k=5)) for _ in range(queries)]
    began = time.perf_counter()
    found = sum(len(row) for row in index.search(asked, _TOP_K))
    seconds = time.perf_counter() - began
    return _figures(seconds, queries, before, _memory()) | {"index_seconds": round(indexed, 2), "found": found}


def _figures(seconds: float, queries: int, before: dict[str, int], after: dict[str, int]) -> dict[str, Any]:
    return {
        "queries": queries,
        "seconds": round(seconds, 3),
        "ms_per_query": round(1000 * seconds / queries, 2),
        "peak_mib": after["VmHWM"],
        "own_mib": after["RssAnon"],
        "before_mib": before["RssAnon"],
    }


_PARTS: dict[str, Callable[[int, int], dict[str, Any]]] = {"dense": dense, "bm25": bm25}


def _write_beir(folder: Path, documents: int) -> None:
    dice = random.Random(2)
    words = [f"word{n}" for n in range(2000)]
    rows = [{"_id": f"d{n}", "title": "", "text": " ".join(dice.choices(words, k=20))} for n in range(documents)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "word1 word7"}\n')
    (folder / "qrels.txt").write_text("q1 0 d1 1\n")


def resumed(documents: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_beir(folder, documents)
        model = write_checkpoint("qwen3", folder / "qwen3")
        killed, whole = folder / "killed.trec", folder / "whole.trec"
        command = [
            sys.executable,
            "-m",
            "whyrank",
            "retrieve",
            str(folder),
            "--method",
            "dense",
            "-m",
            str(model),
            "--out",
        ]
        first = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, start_new_session=True)
        done = _embedded_when_killed(first, killed.with_suffix(".json"))
        seconds = {}
        for name, run in (("resumed", killed), ("whole", whole)):
            began = time.perf_counter()
            subprocess.run([*command, str(run)], stdout=subprocess.DEVNULL, check=True)
            seconds[name] = round(time.perf_counter() - began, 2)
        vectors = [np.fromfile(run.with_suffix(".f32"), np.float32) for run in (killed, whole)]
        difference = float(np.abs(vectors[0] - vectors[1]).max())
        same_run = [[line.split()[2] for line in run.read_text().splitlines()] for run in (killed, whole)]
    return {
        "documents": documents,
        "embedded_when_killed": done,
        "seconds": seconds,
        "largest_difference": difference,
        "same_order": same_run[0] == same_run[1],
        "right": 0 < done < documents and difference < 1e-5 and same_run[0] == same_run[1],
    }


def _embedded_when_killed(process: subprocess.Popen[bytes], state: Path) -> int:
    """Kills the command, with its engine, as soon as a part is embedded."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while not state.exists():
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit(
                f"whyrank retrieve ended ({process.returncode}) or stood still before it embedded anything"
            )
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return int(json.loads(state.read_text())["done"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--embedded", type=int, default=3000, help="documents of the command that is killed")
    parser.add_argument("--part", choices=[*_PARTS, "resumed"], help="only this part, in this process")
    args = parser.parse_args()
    if args.part == "resumed":
        print(json.dumps(resumed(args.embedded)))
        return
    if args.part:
        print(json.dumps(_PARTS[args.part](args.documents, args.queries)))
        return
    result: dict[str, Any] = {"machine": machine(), "settings": vars(args)}
    for part in _PARTS:
        command = [sys.executable, __file__, "--part", part, "--documents", str(args.documents)]
        output = subprocess.run(
            [*command, "--queries", str(args.queries)], stdout=subprocess.PIPE, text=True, check=True
        )
        result[part] = json.loads(output.stdout.splitlines()[-1])
    result["resumed"] = resumed(args.embedded)
    print(json.dumps(result))
    sys.exit(0 if result["resumed"]["right"] else 1)


if __name__ == "__main__":
    main()
