"""When to try again, where to send what, and when to leave a server alone. No I/O: time and chance come from outside."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from whyrank.errors import Overloaded, RetryableError

__all__ = ["Breaker", "Replica", "RetryPolicy", "in_order_of_affinity"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` in all at what fails. Pauses double from `first_pause` to `longest_pause` seconds, each drawn anew between
    half and all of it, so that callers who failed together do not come back together."""

    attempts: int = 4
    first_pause: float = 0.1
    longest_pause: float = 5.0

    def pause(self, attempt: int, error: RetryableError, chance: Callable[[], float] = random.random) -> float | None:
        """Seconds to wait after attempt number `attempt` (from 1) failed, or None: that was the last.

        A server that says when to come back is believed, as often as the caller's time allows."""
        if isinstance(error, Overloaded):
            return float(error.retry_after)
        if attempt >= self.attempts:
            return None
        longest = min(self.longest_pause, self.first_pause * 2 ** (attempt - 1))
        return float(longest * (0.5 + 0.5 * chance()))


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

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._open_until = self.clock() + self.rest


@dataclass(slots=True)
class Replica:
    """One server. `identity`: of its model, prompt and start, as it said when it was last `heard`; None before that."""

    url: str
    breaker: Breaker
    identity: str | None = None
    heard: float = 0.0


def in_order_of_affinity(replicas: Sequence[Replica], key: str) -> list[Replica]:
    """The same key has the same order every time, so that its prefix is cached where it goes; the keys of a replica that is
    resting are spread over the others. Those that rest come last: if all do, they are tried all the same."""

    def weight(replica: Replica) -> bytes:
        return hashlib.blake2b(f"{replica.url}\n{key}".encode("utf-8", "replace"), digest_size=8).digest()

    return sorted(replicas, key=lambda replica: (not replica.breaker.closed, weight(replica)))
