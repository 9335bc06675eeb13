"""The protocol between the pipeline and an engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from whyrank.prompting.scoring import LabelRead
from whyrank.prompting.tokens import Ids
from whyrank.types import DocumentError, Usage

__all__ = [
    "Answer",
    "Generation",
    "GenerationParams",
    "GenerativeRuntime",
    "ParallelRuntime",
    "Runtime",
    "TextDelta",
    "TokenRead",
    "TokenRuntime",
    "engines_of",
    "next_engine",
]

Answer = tuple[int, LabelRead | DocumentError]
"""A prompt's position in the call, and its result."""


@dataclass(frozen=True, slots=True)
class TokenRead:
    """The log-probabilities (or raw logits) of requested tokens at the answer position, and the tokens used to read them."""

    logprobs: tuple[float, ...]
    prompt_tokens: int = 0
    cached_tokens: int = 0


class Runtime(Protocol):
    """One running engine. Calls may run concurrently; each raises EngineDead at once if the engine has died."""

    async def warm_prefix(self, prompts: Sequence[Ids], frame: Ids, salt: str | None) -> Usage:
        """Put the prompts' shared prefixes into the cache if that takes requests of its own; returns the tokens these used.

        `frame` is the prefix shared by prompts of every query. Prefixes are shared only within the same `salt`."""
        ...

    def read(
        self, prompts: Sequence[Ids], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[Answer], None]:
        """Results in order of arrival; those that arrive together are yielded together. `priorities`: one per prompt; lower
        numbers go first. Closing the generator aborts the remaining work."""
        ...

    def facts(self) -> dict[str, str | int]:
        """For `whyrank doctor`: engine, dtype, block size and the like."""
        ...

    async def aclose(self) -> None: ...


@runtime_checkable
class ParallelRuntime(Runtime, Protocol):
    """A runtime that may consist of several engines, each with a prefix cache of its own."""

    @property
    def engines(self) -> Sequence[Runtime]:
        """All of them; the runtime itself if there is only one."""
        ...

    def choose(self) -> Runtime:
        """The engine with the least to do: it warms the prefix of the next slice of prompts, and reads them."""
        ...


def engines_of(runtime: Runtime) -> Sequence[Runtime]:
    return runtime.engines if isinstance(runtime, ParallelRuntime) else (runtime,)


def next_engine(runtime: Runtime) -> Runtime:
    """The engine for the next slice of prompts."""
    return runtime.choose() if isinstance(runtime, ParallelRuntime) else runtime


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """How to continue prompts: each within its grammar (a structural tag as JSON), in at most max_tokens tokens.

    live: yield text while it is generated, not only at the end. samples: continuations of each prompt.
    """

    grammars: Sequence[str]
    max_tokens: int
    temperature: float
    live: bool
    salt: str | None
    samples: int = 1


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The new tokens of one continuation, and the text that they complete, which may be empty."""

    text: str
    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Generation:
    """The end of one continuation: its tokens, and why it ended ("stop": the grammar ended it).

    others: further samples of the same prompt; `usage` counts their tokens, too."""

    ids: Sequence[int]
    reason: Literal["stop", "length", "abort", "error"]
    usage: Usage = field(default_factory=Usage)
    others: tuple[Generation, ...] = ()


@runtime_checkable
class GenerativeRuntime(Runtime, Protocol):
    """A runtime that can also continue prompts."""

    def write(
        self, prompts: Sequence[Ids], order: GenerationParams
    ) -> AsyncGenerator[tuple[int, TextDelta | Generation], None]:
        """(position, TextDelta) while text is generated if `order.live`, of first samples; then (position, Generation)."""
        ...


@runtime_checkable
class TokenRuntime(Runtime, Protocol):
    """A runtime that can also read other tokens than the labels."""

    def read_tokens(
        self, prompts: Sequence[Ids], tokens: Sequence[int], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[tuple[int, TokenRead | DocumentError]], None]:
        """`read` for other tokens than the labels: of each prompt the same ones."""
        ...

    def room(self, call: object, tokens: int) -> AbstractAsyncContextManager[None]:
        """Hold room in the prefix cache for prompts of so many tokens that will be continued. `call`: any object, the same for
        all of one call."""
        ...
