"""Decides when to retry, which replica to use and when to leave one alone. No I/O: clock and randomness are passed in."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from whyrank.errors import Overloaded, RetryableError

__all__ = ["Breaker", "Replica", "RetryPolicy", "affinity_hash", "in_order_of_affinity", "next_replica"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Makes at most `attempts` attempts. Pauses double from `first_pause` to `longest_pause` seconds; each is drawn at random
    from the upper half of that, so that callers who failed together do not retry together."""

    attempts: int = 4
    first_pause: float = 0.1
    longest_pause: float = 5.0
    waits: Callable[[str, RetryableError], None] = lambda url, error: None
    """Called before each pause with the server that failed and its error."""

    def pause(self, attempt: int, error: RetryableError, chance: Callable[[], float] = random.random) -> float | None:
        """Seconds to wait after attempt number `attempt` (from 1) failed, or None if that was the last.

        A server's Retry-After is respected. An overloaded server is retried for as long as the caller's time allows."""
        if attempt >= self.attempts and not isinstance(error, Overloaded):
            return None
        drawn = chance()
        longest = min(self.longest_pause, self.first_pause * 2.0 ** min(attempt - 1, 30))
        return max(longest * (0.5 + 0.5 * drawn), (error.retry_after or 0) * (1 + 0.1 * drawn))


@dataclass(slots=True)
class Breaker:
    """Opens after `threshold` failures in a row: for `rest` seconds nothing is sent there; then one request may try."""

    clock: Callable[[], float]
    threshold: int = 5
    rest: float = 5.0
    _failures: int = 0
    _open_until: float = 0.0

    @property
    def closed(self) -> bool:
        return self._failures < self.threshold or self.clock() >= self._open_until

    def began(self) -> None:
        """Call before sending. If the breaker was open, other requests wait for this one's outcome, at most another `rest`."""
        if self._failures >= self.threshold:
            self._open_until = self.clock() + self.rest

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._open_until = self.clock() + self.rest


@dataclass(slots=True)
class Replica:
    """One server. `identity`: the instance id in its last response, received at `heard`; None before that."""

    url: str
    breaker: Breaker
    identity: str | None = None
    heard: float = float("-inf")
    auth: tuple[str, str] | None = field(default=None, repr=False)
    """User and password from the URL, which must not appear in any message or log."""


def in_order_of_affinity(replicas: Sequence[Replica], key: str) -> list[Replica]:
    """The replicas in order of preference for this key. A key always has the same order, so that its prefix is cached where
    it goes; the keys of a replica whose breaker is open are spread over the others. Such replicas come last: if all are
    failing, they are still tried."""
    if len(replicas) == 1:
        return list(replicas)

    return sorted(replicas, key=lambda replica: (not replica.breaker.closed, affinity_hash(f"{replica.url}\n{key}")))


def affinity_hash(text: str) -> str:
    """16 hexadecimal digits: where a load balancer may see it, it must not be the text."""
    # backslashreplace keeps lone surrogates distinct; "replace" would turn them all into "?".
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()


def next_replica(replicas: Sequence[Replica], key: str, tried: Mapping[str, int]) -> Replica:
    """The replica to try next: a healthy one first, then the least tried, then by affinity. `tried`: attempts by URL."""
    order = in_order_of_affinity(replicas, key)
    return min(order, key=lambda replica: (not replica.breaker.closed, tried.get(replica.url, 0)))
