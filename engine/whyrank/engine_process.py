"""For the processes that vLLM starts: they end with their parent, and report to it why they failed to start.

`prepare_engine_process` is whyrank's entry point among vLLM's general plugins, which vLLM calls in each of its processes. A
process that is forked from ours inherits both from us.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["EngineErrors", "end_with_parent", "first_line", "prepare_engine_process"]

# Names the file in which engine processes report why they fail, while this process starts an engine.
_ERRORS_FILE = "WHYRANK_ENGINE_ERRORS"
_PR_SET_PDEATHSIG = 1


def prepare_engine_process() -> None:
    from whyrank.runtimes.cpu_kernels import register_cpu_kernels  # which looks for vLLM

    register_cpu_kernels()
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return  # the process that starts the engine, not the engine
    end_with_parent(parent.pid)
    if path := os.environ.get(_ERRORS_FILE):
        _write_errors_to(Path(path))


def end_with_parent(parent: int) -> None:
    """Nothing else ends an engine whose parent was killed (by an MCP host, or by the kernel when out of memory). SIGKILL,
    because on SIGTERM vLLM's engine first finishes its requests, whose answers nobody can receive any more."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before that call
            os.kill(os.getpid(), signal.SIGKILL)


def _write_errors_to(path: Path) -> None:
    """Uses a record factory, not a handler: vLLM removes handlers when it sets up logging in a new process."""
    make = logging.getLogRecordFactory()

    def make_and_write(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        if record.name.startswith("vllm.") and record.exc_info and record.exc_info[1]:
            # The file's folder is there while the engine starts. What fails later is in vLLM's log alone.
            with suppress(FileNotFoundError), path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(first_line(record.exc_info[1]) + "\n")
        return record

    logging.setLogRecordFactory(make_and_write)


class EngineErrors:
    """While an engine starts: raises the error of its process in place of vLLM's "see root cause above"."""

    def __enter__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="whyrank-")
        self._path = Path(self._folder.name) / "engine-errors"
        self._factory = logging.getLogRecordFactory()
        os.environ[_ERRORS_FILE] = str(self._path)
        _write_errors_to(self._path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.setLogRecordFactory(self._factory)
        os.environ.pop(_ERRORS_FILE, None)
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        self._folder.cleanup()
        if lines and isinstance(error, RuntimeError):
            raise RuntimeError(lines[0]) from error


def first_line(cause: BaseException) -> str:
    """The part of the message for people. The first line of pydantic's errors only names the class that was validated."""
    faults = getattr(cause, "errors", None)
    if callable(faults) and (messages := faults()):
        return str(messages[0]["msg"]).removeprefix("Value error, ").splitlines()[0]
    line = (str(cause).strip().splitlines() or [type(cause).__name__])[0].strip()
    return line.removesuffix(" Reasons:")  # which vLLM gives for each kernel, on further lines
