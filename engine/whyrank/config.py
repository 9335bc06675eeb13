"""The options of an engine. Python, command line and server take options and defaults from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from whyrank.errors import InvalidRequest

__all__ = ["DEMO", "Dtype", "EngineConfig", "Route"]

Route = Literal["generate", "classify", "encoder"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

DEMO = "demo"
"""The name of the small model that comes with whyrank."""
_DEMO_FOLDER = Path(__file__).parent / "models" / "prism-demo"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One engine for one checkpoint.

    model: a folder, a hub name, or "demo". prompt: a format's name or a TOML file, where the name does not tell.
    route: which of the format's routes, the first by default. max_length: prompt tokens, the format's by default.
    kv_cache_gib: memory for the prefix cache; by default nearly all of a GPU's, on a CPU what suits the model, some 4 at most.
    trust_remote_code: run the Python code that some checkpoints bring. calibration: a file that `whyrank calibrate` wrote.
    """

    model: str
    prompt: str | None = None
    route: Route | None = None
    revision: str | None = None
    dtype: Dtype = "auto"
    max_length: int | None = None
    kv_cache_gib: float | None = None
    trust_remote_code: bool = False
    calibration: str | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise InvalidRequest("model is empty: give a folder or a hub name such as Qwen/Qwen3-Reranker-0.6B")
        for name, choices in (("route", (None, *get_args(Route))), ("dtype", get_args(Dtype))):
            if getattr(self, name) not in choices:
                options = ", ".join(str(choice) for choice in choices if choice)
                raise InvalidRequest(f"{name} is {getattr(self, name)!r}: choose from {options}")
        if self.max_length is not None and self.max_length < 1:
            raise InvalidRequest(f"max_length is {self.max_length}: give a positive number of tokens")
        if self.kv_cache_gib is not None and self.kv_cache_gib <= 0:
            raise InvalidRequest(f"kv_cache_gib is {self.kv_cache_gib}: give a positive number of GiB")

    @property
    def source(self) -> str:
        """What is loaded: a folder or a hub name."""
        return str(_DEMO_FOLDER) if self.model == DEMO else self.model
