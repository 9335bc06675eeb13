"""The list of attacks, filled by the attack_*.py modules."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from attack_target import Result, Target

__all__ = ["ATTACKS", "Attack", "attack"]

Run = Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Attack:
    """`run(target, result)` is cut off after `limit` seconds. `ends_server`: it kills the server, so it runs without
    tenants."""

    name: str
    limit: float
    run: Callable[[Target, Result], Awaitable[None]]
    help: str
    ends_server: bool = False


ATTACKS: dict[str, Attack] = {}


def attack(name: str, limit: float, ends_server: bool = False, **options: Any) -> Callable[[Run], Run]:
    """Registers a function as an attack; may be applied several times, with different options."""

    def register(run: Run) -> Run:
        summary = (run.__doc__ or "").partition("\n")[0]
        ATTACKS[name] = Attack(name, limit, functools.partial(run, **options), summary, ends_server)
        return run

    return register
