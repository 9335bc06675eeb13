"""An engine's process tells its parent why it did not start, and ends when its parent is killed, however it was started."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from conftest import StartServer
from whyrank.engine_process import EngineErrors
from whyrank.runtimes.engine_options import start_error_text

LIBRARY = """
import asyncio
from whyrank import CheckpointError, Reranker

async def main():
    try:
        async with Reranker("demo", kv_cache_gib=0.001):
            pass
    except CheckpointError as error:
        print(error)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_spawned_engine_tells_why_it_did_not_start(tmp_path: Path) -> None:
    script = tmp_path / "library.py"
    script.write_text(LIBRARY)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=200, check=True)
    assert "0.04 GiB KV cache is needed" in done.stdout
    assert "with whyrank, that is a larger kv_cache_gib or a smaller max_length" in done.stdout
    assert "root cause" not in done.stdout


def test_what_fails_later_than_at_the_start_is_still_logged() -> None:
    """The engine's process keeps what it was given for its start, and the folder that it was to write into is gone."""
    with EngineErrors():
        make_record = logging.getLogRecordFactory()
    failure = ValueError("the engine's own reason")
    record = make_record("vllm.v1", logging.ERROR, "core.py", 1, "fatal", (), (ValueError, failure, None))
    assert record.exc_info is not None and record.exc_info[1] is failure


def test_memory_that_runs_out_gets_a_remedy() -> None:
    text = start_error_text(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert text.startswith(
        "CUDA out of memory. Tried to allocate 2.00 GiB; with whyrank, a smaller gpu_memory_utilization"
    )
    assert start_error_text(RuntimeError("something else.")) == "something else"


def test_a_process_that_has_used_cuda_is_told_to_spawn() -> None:
    text = start_error_text(
        RuntimeError("Cannot re-initialize CUDA in forked subprocess. To use CUDA, you must 'spawn'")
    )
    assert "; with whyrank, that is VLLM_WORKER_MULTIPROC_METHOD=spawn" in text


def test_the_engine_of_a_server_that_was_killed_ends(
    checkpoint: Callable[[str], Path], start_server: StartServer
) -> None:
    server = start_server(checkpoint("qwen3"), "--prompt", "prism", "--kv-cache-memory-bytes", str(1 << 27))
    engines = [p for p in psutil.Process(server.process.pid).children(recursive=True) if "Engine" in p.name()]
    assert engines
    server.process.kill()
    end = time.monotonic() + 30
    while any(is_alive(engine) for engine in engines) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(is_alive(engine) for engine in engines)


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
