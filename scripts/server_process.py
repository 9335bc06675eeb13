"""`whyrank serve` in a process of its own, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

__all__ = ["SMALL_CACHE", "Server", "free_port", "start"]

SMALL_CACHE = ("--kv-cache-memory-bytes", str(512 << 20))
_PATIENCE_SECONDS = 900  # 30 on an idle machine; on a GPU the first start compiles for minutes


@dataclass
class Server:
    """A server started as users start it."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def engine(self) -> psutil.Process:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if "EngineCore" in " ".join(child.cmdline()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(
    folder: Path, flags: Sequence[str], log: Path, patience: float = _PATIENCE_SECONDS, **environment: str
) -> Server:
    """On a free port; returns when /health says that it is well, and gives up after `patience` seconds."""
    port = free_port()
    command = [*(sys.executable, "-m", "whyrank", "serve"), str(folder), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *flags], stdout=output, stderr=subprocess.STDOUT, env=os.environ | environment
        )
    server = Server(f"http://127.0.0.1:{port}", process, log)
    end = time.monotonic() + patience
    with httpx.Client() as client:  # one for all tries: to make one costs more than to ask
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                if client.get(f"{server.url}/health").status_code == 200:
                    return server
            time.sleep(0.2)
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for child in [*children, process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-4000:]}")
