#!/usr/bin/env python3
"""A Ray Data job that is killed again and again: is each row answered once, and with the scores of one process?

    scripts/ray_data_rehearsal.py                             # ten minutes on two cores
    scripts/ray_data_rehearsal.py --queries 500 --kills 1

The job reranks `--queries` rows of `--documents` documents with one engine and a checkpoint by the column `id`. Its process
is killed when a part of the rows is written, `--kills` times, and started again. The model has random weights and one layer
of size 64: the rows matter here, not the model.

Needs Ray: pip install 'whyrank[ray]'. The last line of stdout is one JSON document: rows written, missing and written twice,
the largest difference from one process's scores in `--checked` rows, and the most memory that the engine's actor took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bench_common import machine, write_model
from whyrank import Reranker

_ROWS_OF_A_BLOCK = 50
_JOB_SECONDS = 1800.0
_KV_GIB = 0.25
_COLOURS = ("red", "green", "blue", "white", "black", "yellow", "brown")


def row(number: int, documents: int) -> dict[str, Any]:
    colour = _COLOURS[number % len(_COLOURS)]
    texts = [f"Door {at} of house {number} is {_COLOURS[at * number % len(_COLOURS)]}." for at in range(documents)]
    return {"id": number, "query": f"Which door of house {number} is {colour}?", "documents": texts}


def write_rows(folder: Path, queries: int, documents: int) -> None:
    import pyarrow
    from pyarrow import parquet

    folder.mkdir()
    rows = [row(number, documents) for number in range(queries)]
    for start in range(0, queries, _ROWS_OF_A_BLOCK):
        part = pyarrow.Table.from_pylist(rows[start : start + _ROWS_OF_A_BLOCK])
        parquet.write_table(part, folder / f"{start:08}.parquet")


def job(folder: Path, address: str) -> None:
    """What a user's own program does."""
    import ray
    from ray.data.checkpoint import CheckpointConfig

    from whyrank.cluster.ray_data import rerank

    ray.init(address=address, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=str(folder / "checkpoint"), delete_checkpoint_on_success=False
    )
    dataset = ray.data.read_parquet(str(folder / "queries"))
    (model,) = folder.glob("prism-*")
    rankings = rerank(dataset, str(model), engine={"kv_cache_gib": _KV_GIB}, block_rows=_ROWS_OF_A_BLOCK)
    rankings.write_parquet(str(folder / "rankings"))


def written(folder: Path, *columns: str) -> list[dict[str, Any]]:
    from pyarrow import parquet

    files = sorted((folder / "rankings").glob("*.parquet"))
    return [one for file in files for one in parquet.ParquetFile(file).read(list(columns)).to_pylist()]


def blocks_done(folder: Path) -> int:
    """By the checkpoint: rankings may be half written."""
    return sum(".pending" not in file.name for file in (folder / "checkpoint").rglob("*.parquet"))


def run_and_kill(folder: Path, address: str, options: argparse.Namespace) -> int:
    """Until the job is done. Returns the most memory of the actor, in bytes, its engine's process included."""
    most, kills = 0, 0
    command = [sys.executable, __file__, "--job", str(folder), address]
    end = time.monotonic() + _JOB_SECONDS
    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("ab"))
        while process.poll() is None:
            time.sleep(0.5)
            most = max(most, _memory_of_the_actor())
            if time.monotonic() > end:
                os.kill(process.pid, signal.SIGKILL)
                raise RuntimeError(f"the job was not done in {_JOB_SECONDS:.0f} s: {folder / 'log'}")
            done = blocks_done(folder) * _ROWS_OF_A_BLOCK
            if kills < options.kills and done > options.queries * (kills + 1) // (options.kills + 2):
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                print(f"killed at {done} rows", file=sys.stderr, flush=True)
                break
        if process.wait() == 0:
            return most
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"the job failed:\n{(folder / 'log').read_text()[-4000:]}")


def _memory_of_the_actor() -> int:
    def size(process: psutil.Process) -> int:
        try:
            return int(process.memory_info().rss) + sum(size(child) for child in process.children())
        except psutil.NoSuchProcess:
            return 0

    actors = [one for one in psutil.process_iter(["name"]) if (one.info["name"] or "").startswith("ray::MapWorker")]
    return sum(map(size, actors))


async def difference(model: Path, rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> float:
    largest = 0.0
    async with Reranker(str(model), kv_cache_gib=_KV_GIB) as reranker:
        for one in rows:
            given = row(one["id"], options.documents)
            for scored in await reranker.score(given["query"], given["documents"]):
                largest = max(largest, abs(one["scores"][scored.index] - scored.score))
    return largest


def rehearse(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    import ray

    model = write_model("nano-qwen3", folder)
    write_rows(folder / "queries", options.queries, options.documents)
    began = time.monotonic()
    context = ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        most = run_and_kill(folder, context.address_info["gcs_address"], options)
    finally:
        ray.shutdown()
    seconds = time.monotonic() - began
    counts = Counter(one["id"] for one in written(folder, "id"))
    rows = written(folder, "id", "scores", "reject")
    checked = rows[:: max(1, len(rows) // options.checked)]
    return {
        "rows": len(rows),
        "missing": options.queries - len(counts),
        "written_twice": sum(count > 1 for count in counts.values()),
        "rejected": sum(one["reject"] is not None for one in rows),
        "checked_rows": len(checked),
        "largest_difference": asyncio.run(difference(model, checked, options)),
        "most_memory_of_the_actor_mib": most >> 20,
        "seconds": round(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--documents", type=int, default=20, help="of a query")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--checked", type=int, default=200, help="rows that one process scores, too")
    parser.add_argument("--job", nargs=2, metavar=("FOLDER", "ADDRESS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job(Path(options.job[0]), options.job[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        results = rehearse(Path(folder), options)
    settings = {name: value for name, value in vars(options).items() if name != "job"}
    print(json.dumps({"machine": machine(), "settings": settings, "results": results}))


if __name__ == "__main__":
    main()
