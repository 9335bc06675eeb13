"""A process that computes keeps its memory, whether it was spawned or forked; and a forked one ends with its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from whyrank.process import environment_restored, set_engine_environment

# Where malloc puts a block as large as the activations of one step: into a mapping of its own, which is returned to the
# system as soon as it is freed, or into the heap; and whether the heap keeps its size afterwards. The script
# bench_page_faults.py counts what that is worth.
PLACE = """
from ctypes import CDLL, Structure, c_size_t
SIZE = 1 << 25
class Info(Structure):
    _fields_ = [(name, c_size_t) for name in "heap b c d mapped f g h i j".split()]
mallinfo2 = CDLL(None).mallinfo2
mallinfo2.restype = Info
block = bytes(SIZE)
place = "mapped" if mallinfo2().mapped >= SIZE else "heap"
del block
print(place, "kept" if mallinfo2().heap >= SIZE else "returned")
"""


def place(code: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_without_us_memory_comes_and_goes() -> None:
    assert place(PLACE) == "mapped returned"


def test_a_process_whose_copy_will_compute_keeps_memory() -> None:
    assert place(f"from whyrank.process import prepare_process; prepare_process()\n{PLACE}") == "heap kept"


def test_a_spawned_process_keeps_memory() -> None:
    spawn = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PLACE!r}], check=True)"
    code = f"from whyrank.process import set_engine_environment; set_engine_environment(on_cpu=True)\n{spawn}"
    assert place(code) == "heap kept"


def test_what_the_user_said_of_memory_stands() -> None:
    settings = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_MMAP_THRESHOLD_": "131072"}
    code = f"from whyrank.process import prepare_process; prepare_process()\n{PLACE}"
    assert place(code, **settings) == "mapped returned"


def test_a_copy_ends_when_its_parent_is_killed() -> None:
    code = """
from multiprocessing import get_context
from time import sleep
from whyrank.process import prepare_process
prepare_process()
copy = get_context("fork").Process(target=sleep, args=(600,))
copy.start()
print(copy.pid, flush=True)
sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        copy = psutil.Process(int(parent.stdout.readline()))
        assert copy.is_running()
        parent.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            while copy.status() != psutil.STATUS_ZOMBIE:  # until somebody reads its exit status; else pytest times out
                time.sleep(0.05)


def test_a_process_whose_parent_is_gone_already_ends() -> None:
    code = f"from whyrank.engine_process import end_with_parent\nend_with_parent({os.getpid()} + 1)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL


def test_the_environment_is_as_it_was_before() -> None:
    before = dict(os.environ)
    name = next(iter(before))
    with environment_restored():
        set_engine_environment(on_cpu=True)
        os.environ[name] = "changed"
        assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert dict(os.environ) == before


_PRIORITIES = """
import os, threading
from whyrank.process import lower_priority_of_tokenizers
lower_priority_of_tokenizers()
threads = [int(name) for name in os.listdir("/proc/self/task")]
print(*sorted({os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}), os.getpriority(os.PRIO_PROCESS, 0))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, a thread has no priority of its own")
def test_only_the_tokenizers_threads_get_a_lower_priority() -> None:
    """In a process of its own, as priorities can only be lowered."""
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run(
        [sys.executable, "-c", _PRIORITIES], env=environment, capture_output=True, text=True, timeout=60
    )
    normal = os.getpriority(os.PRIO_PROCESS, 0)
    assert [*map(int, done.stdout.split())] == [*sorted({normal, min(19, normal + 10)}), normal], done.stderr
