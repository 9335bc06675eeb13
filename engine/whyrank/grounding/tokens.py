"""What a sentence is read as: tokens that are compared, marks that govern them, and clauses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from whyrank.grounding.scan import Items
from whyrank.grounding.values import Value

__all__ = ["Clause", "Mark", "Reading", "Token", "TokenKind"]

TokenKind = Literal["word", "amount", "date", "time", "code", "ordinal"]


@dataclass(slots=True)
class Mark:
    """A word that governs others. `token`: the token that it stands beside."""

    kind: Literal["negation", "quantifier", "bound", "degree", "modal", "order"]
    key: str
    start: int
    end: int
    token: Token | None = None
    poles: tuple[str, ...] = ()


@dataclass(slots=True)
class Token:
    """A unit of comparison. Equal meanings have equal `key`s; `before`: the small word before it."""

    kind: TokenKind
    key: str
    start: int
    end: int
    clause: int
    value: Value | None = None
    poles: tuple[str, ...] = ()
    before: str = ""
    named: bool = False
    light: bool = False
    preposition: str = ""
    marks: tuple[Mark, ...] = ()


@dataclass(slots=True)
class Clause:
    """`condition`: "if", "except", "until", "setting" or "else", where a word of that kind opens it.

    `apart`: it does not belong to the clause before it."""

    start: int
    condition: str = ""
    condition_start: int = 0
    condition_end: int = 0
    tokens: list[int] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    passive: bool = False
    apart: bool = False


@dataclass(slots=True)
class Reading:
    """`items`: the words and signs that the tokens were read from."""

    start: int
    end: int
    items: Items
    tokens: list[Token] = field(default_factory=list)
    clauses: list[Clause] = field(default_factory=list)
