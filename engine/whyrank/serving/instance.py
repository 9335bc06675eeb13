"""The instance id: equal for all processes and replicas that give the same scores, different for any that may not."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from whyrank import __version__
from whyrank.checkpoints import Plan
from whyrank.config import EngineConfig
from whyrank.runtimes.base import Runtime

__all__ = ["instance_id"]

_WEIGHTS = (".safetensors", ".bin", ".pt")
# How the KV cache is organised does not affect scores.
_CACHE_FACTS = ("block_size", "prefix_match_unit", "prefix_caching")
# In the hub's cache, the folder of a commit: its name identifies its content.
_COMMIT_FOLDER = re.compile(r"snapshots/[0-9a-f]{40}")


def instance_id(plan: Plan, runtime: Runtime, model: str, adapters: Mapping[str, str] | None = None) -> str:
    """The id; clients reuse a server's scores as long as it stays the same. `model`: the model's name in responses.
    `adapters`: folders or hub names of LoRA adapters, by their names in responses."""
    config = plan.config
    parts = {
        "whyrank": __version__,
        "model": [model, config.revision],
        "prompt": [plan.format.fingerprint, plan.route, plan.encoder.max_length],
        "calibration": _digest(Path(config.calibration)) if config.calibration else None,
        "engine": {name: fact for name, fact in runtime.facts().items() if name not in _CACHE_FACTS},
        "checkpoint": list(_checkpoint(config)),
        "adapters": {name: list(_content(Path(path))) for name, path in (adapters or {}).items()},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _checkpoint(config: EngineConfig) -> Iterator[Any]:
    """For a checkpoint from the hub, its commit. For a folder, the name, size and time of its weights, and the content of
    the files beside them. If neither is found, a value that equals no other server's."""
    folder = _folder(config)
    if folder is None:
        yield _this_server()
    elif _COMMIT_FOLDER.fullmatch(f"{folder.parent.name}/{folder.name}"):
        yield folder.name
    else:
        yield from _content(folder)


def _content(folder: Path) -> Iterator[Any]:
    if not folder.is_dir():
        yield _this_server()
        return
    for path in sorted(folder.iterdir()):
        if path.suffix in _WEIGHTS:
            yield path.name, path.stat().st_size, path.stat().st_mtime_ns
        elif path.suffix == ".json":
            yield path.name, _digest(path)


def _this_server() -> str:
    """Random, but the same in all HTTP processes of a server: they are started by one process, which gives them its key."""
    return hashlib.sha256(b"whyrank" + multiprocessing.current_process().authkey).hexdigest()


def _folder(config: EngineConfig) -> Path | None:
    if Path(config.source).is_dir():
        return Path(config.source)
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(config.source, "config.json", revision=config.revision)
    return Path(path).parent if isinstance(path, str) else None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
