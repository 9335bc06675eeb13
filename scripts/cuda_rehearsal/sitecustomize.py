"""In every process of a rehearsal: torch says of its GPU what the stub driver cannot, and vLLM's GPU worker is the stub one.

Python imports this by itself."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

CAPABILITY = (9, 0)
HOPPER = SimpleNamespace(
    name="stub Hopper",
    major=CAPABILITY[0],
    minor=CAPABILITY[1],
    total_memory=80 << 30,
    multi_processor_count=132,
    is_integrated=0,
    warp_size=32,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65536,
    shared_memory_per_block=48 << 10,
    shared_memory_per_block_optin=227 << 10,
    shared_memory_per_multiprocessor=228 << 10,
    L2_cache_size=50 << 20,
    gcnArchName="",
)


def describe_gpu(torch: Any) -> None:
    """`torch.cuda.is_available` and `device_count` stay as they are: how they ask is a part of the rehearsal."""
    torch.cuda.get_device_properties = lambda device=None: HOPPER
    torch.cuda.get_device_capability = lambda device=None: CAPABILITY
    torch.cuda.get_device_name = lambda device=None: HOPPER.name
    torch.cuda.current_device = lambda: 0
    torch.cuda.synchronize = lambda device=None: None
    torch.accelerator.current_device_index = lambda: 0


def replace_worker(gpu_worker: Any) -> None:
    from stub_worker import StubWorker

    gpu_worker.Worker = StubWorker


class AfterImport(MetaPathFinder):
    """Lets some modules be imported as ever, and then changes them."""

    def __init__(self, changes: dict[str, Callable[[ModuleType], None]]) -> None:
        self._changes = changes

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        change = self._changes.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, AfterImport({"torch": describe_gpu, "vllm.v1.worker.gpu_worker": replace_worker}))
