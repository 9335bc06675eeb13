"""vLLM's data-parallel ranks, engines that run side by side: which one reads a slice of prompts, and which one has read one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from whyrank.prompting.tokens import Ids

__all__ = ["Ranks", "Readers", "remember"]

K = TypeVar("K")
T = TypeVar("T")

_MAX_READERS = 1 << 16
# What is written continues a prompt behind an opening of at most so many tokens.
_LONGEST_OPENING = 64


class Ranks:
    """What each engine has to do for this process. Other processes of the same server spread their own work."""

    def __init__(self, count: int, process: int = 0, processes: int = 1) -> None:
        """`process`: which of the server's processes this is; they begin with different engines."""
        self._tokens = [0] * count
        self._next = count * process // processes

    def choose(self) -> int:
        """The engine with the fewest tokens; those that have equally many take turns."""
        count = len(self._tokens)
        rank = min(range(count), key=lambda one: (self._tokens[one], (one - self._next) % count))
        self._next = (rank + 1) % count
        return rank

    @contextmanager
    def working(self, rank: int, tokens: int) -> Iterator[None]:
        self._tokens[rank] += tokens
        try:
            yield
        finally:
            self._tokens[rank] -= tokens


def remember(known: dict[K, T], key: K, value: T, max_size: int) -> None:
    """The oldest of `known` is forgotten where there are too many."""
    known.pop(key, None)
    known[key] = value
    if len(known) > max_size:
        del known[next(iter(known))]


class Readers(Generic[T]):
    """Who has read which prompt, for the latest of them. Whatever continues a prompt belongs there, because its prefix cache
    still has the prompt."""

    def __init__(self) -> None:
        self._readers: dict[int, T] = {}

    def remember(self, prompts: Iterable[Ids], reader: T) -> None:
        for ids in prompts:
            remember(self._readers, hash(ids), reader, _MAX_READERS)

    def find(self, ids: Ids) -> T | None:
        """Who has read the prompt that `ids` continue."""
        ends = range(len(ids), max(0, len(ids) - _LONGEST_OPENING), -1)
        return next((self._readers[part] for end in ends if (part := hash(ids[:end])) in self._readers), None)
