"""The queries that gained or lost most, out of any number."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Extreme", "Extremes"]

_SHOWN = 5
_KEPT_AT_ONCE = 64 * _SHOWN


@dataclass(frozen=True, slots=True)
class Extreme:
    query: str
    text: str
    delta: float


class Extremes:
    """Forgets, from time to time, all that cannot be among them."""

    def __init__(self) -> None:
        self._kept: list[Extreme] = []

    def add(self, query: str, text: str, delta: float) -> None:
        self._kept.append(Extreme(query, text, delta))
        if len(self._kept) > _KEPT_AT_ONCE:
            self._kept = [*self.gained(), *self.lost()]

    def gained(self) -> tuple[Extreme, ...]:
        return self._most(1)

    def lost(self) -> tuple[Extreme, ...]:
        return self._most(-1)

    def _most(self, sign: int) -> tuple[Extreme, ...]:
        moved = (extreme for extreme in self._kept if sign * extreme.delta > 0)
        return tuple(sorted(moved, key=lambda extreme: -sign * extreme.delta)[:_SHOWN])
