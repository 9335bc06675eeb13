"""When to try again, where to send what, and when to leave a server alone. No I/O: time and chance come from outside."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from whyrank.errors import Overloaded, RetryableError

__all__ = ["Breaker", "Replica", "RetryPolicy", "in_order_of_affinity", "next_replica"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` in all at what fails. Pauses double from `first_pause` to `longest_pause` seconds, each drawn anew between
    half and all of it, so that callers who failed together do not come back together."""

    attempts: int = 4
    first_pause: float = 0.1
    longest_pause: float = 5.0
    waits: Callable[[str, RetryableError], None] = lambda url, error: None
    """Called before each pause with the server that failed and what it said."""

    def pause(self, attempt: int, error: RetryableError, chance: Callable[[], float] = random.random) -> float | None:
        """Seconds to wait after attempt number `attempt` (from 1) failed, or None: that was the last.

        A server that says when to come back is believed; one that has too much to do, as often as the caller's time allows."""
        if attempt >= self.attempts and not isinstance(error, Overloaded):
            return None
        drawn = chance()
        longest = min(self.longest_pause, self.first_pause * 2.0 ** min(attempt - 1, 30))
        return max(longest * (0.5 + 0.5 * drawn), (error.retry_after or 0) * (1 + 0.1 * drawn))


@dataclass(slots=True)
class Breaker:
    """Opens after `threshold` failures in a row: for `rest` seconds nobody is sent there; then one may try."""

    clock: Callable[[], float]
    threshold: int = 5
    rest: float = 5.0
    _failures: int = 0
    _open_until: float = 0.0

    @property
    def closed(self) -> bool:
        return self._failures < self.threshold or self.clock() >= self._open_until

    def began(self) -> None:
        """Somebody is sent there. Where it rested, the others wait for what becomes of that one, at most another rest."""
        if self._failures >= self.threshold:
            self._open_until = self.clock() + self.rest

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._open_until = self.clock() + self.rest


@dataclass(slots=True)
class Replica:
    """One server. `identity`: the instance id that it sent when it was last `heard`; None before that."""

    url: str
    breaker: Breaker
    identity: str | None = None
    heard: float = float("-inf")
    auth: tuple[str, str] | None = field(default=None, repr=False)
    """User and password, which came in the URL and must stand in no message and no log."""


def in_order_of_affinity(replicas: Sequence[Replica], key: str) -> list[Replica]:
    """The same key has the same order every time, so that its prefix is cached where it goes; the keys of a replica that is
    resting are spread over the others. Those that rest come last: if all do, they are tried all the same."""
    if len(replicas) == 1:
        return list(replicas)

    def weight(replica: Replica) -> bytes:
        # Lone surrogates are replaced by their names, not by one mark for all.
        return hashlib.blake2b(f"{replica.url}\n{key}".encode("utf-8", "backslashreplace"), digest_size=8).digest()

    return sorted(replicas, key=lambda replica: (not replica.breaker.closed, weight(replica)))


def next_replica(replicas: Sequence[Replica], key: str, tried: Mapping[str, int]) -> Replica:
    """The best one for this key of those that are well and were tried least; `tried`: how often, by URL."""
    order = in_order_of_affinity(replicas, key)
    return min(order, key=lambda replica: (not replica.breaker.closed, tried.get(replica.url, 0)))
