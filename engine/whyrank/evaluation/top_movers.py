"""The queries that gained or lost most, out of any number."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Mover", "TopMovers"]

_SHOWN = 5
_KEPT_AT_ONCE = 64 * _SHOWN


@dataclass(frozen=True, slots=True)
class Mover:
    query: str
    text: str
    delta: float


class TopMovers:
    """Forgets, from time to time, all that cannot be among them."""

    def __init__(self) -> None:
        self._kept: list[Mover] = []

    def add(self, query: str, text: str, delta: float) -> None:
        self._kept.append(Mover(query, text, delta))
        if len(self._kept) > _KEPT_AT_ONCE:
            self._kept = [*self.gained(), *self.lost()]

    def gained(self) -> tuple[Mover, ...]:
        return self._most(1)

    def lost(self) -> tuple[Mover, ...]:
        return self._most(-1)

    def _most(self, sign: int) -> tuple[Mover, ...]:
        moved = (extreme for extreme in self._kept if sign * extreme.delta > 0)
        return tuple(sorted(moved, key=lambda extreme: -sign * extreme.delta)[:_SHOWN])
