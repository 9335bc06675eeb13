"""The flags of a command that are options of RerankRequest or EngineConfig, made from their fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

import typer

from whyrank.cli.common import choice
from whyrank.options import Option, options_of, spread

__all__ = ["Flags", "flags_of"]

T = TypeVar("T")

Flags = dict[str, Any]
"""The values of one class's flags: option name to value."""


def flags_of(
    parameter: str, owner: type, only: Iterable[str] | None = None
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Replaces the command's `parameter` by flags for the options of `owner`, whose values the command gets as a dict."""
    options = options_of(owner)
    chosen = [options[name] for name in only or options if options[name].flag]
    return lambda command: spread(command, parameter, [_flag(option) for option in chosen])


def _flag(option: Option) -> inspect.Parameter:
    """Values are checked by the option itself; its errors say which values are valid."""
    kind: Any = str if option.choices else option.kind
    if option.optional:
        kind |= None
    metavar = choice(option.kind) if option.choices else option.metavar
    names = [f"--{option.name.replace('_', '-')}", *([option.short_flag] if option.short_flag else [])]
    flag = typer.Option(*names, help=option.help, metavar=metavar)
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=Annotated[kind, flag]
    )
