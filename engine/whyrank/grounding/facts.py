"""Facts of a sentence that can be checked literally (links, code, dates, numbers, names), and whether the document has them."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Literal, NamedTuple

from whyrank.grounding.source import Source
from whyrank.grounding.tokens import Reading, Token
from whyrank.grounding.words import fold

__all__ = ["Fact", "facts"]


class Fact(NamedTuple):
    kind: Literal["number", "date", "url", "code", "name"]
    start: int
    end: int
    held: bool


def facts(reading: Reading, text: str, source: Source, placed: Container[int]) -> Iterator[Fact]:
    """Facts do not overlap. Numbers in words ("one of them") are ignored; neighbouring words with capitals are one name.

    `placed`: where the tokens begin that the sources say as well."""
    run: list[Token] = []

    def is_held(token: Token) -> bool:
        return token.start in placed or source.knows(token, token.key)

    for token in reading.tokens:
        if run and not (token.named and text[run[-1].end : token.start] in (" ", "-", "\u00a0")):
            yield _name(run, text, source, placed)
            run = []
        if token.named:
            run.append(token)
        elif token.kind == "code":
            link = "@" in token.key or text.startswith(("http", "www."), token.start)
            yield Fact("url" if link else "code", token.start, token.end, is_held(token))
        elif token.kind in ("date", "time"):
            yield Fact("date", token.start, token.end, is_held(token))
        elif token.kind == "amount" and any(map(str.isdigit, text[token.start : token.end])):
            yield Fact("number", token.start, token.end, is_held(token))
    if run:
        yield _name(run, text, source, placed)


def _name(run: Sequence[Token], text: str, source: Source, placed: Container[int]) -> Fact:
    held = all(
        token.start in placed or source.vocabulary.holds_name(fold(text[token.start : token.end])) for token in run
    )
    return Fact("name", run[0].start, run[-1].end, held)
