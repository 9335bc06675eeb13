"""The flags of a command that are options of RerankRequest or EngineConfig, made from their fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from whyrank.options import Option, options_of

__all__ = ["Flags", "flags_of"]

T = TypeVar("T")

Flags = dict[str, Any]
"""What a command gets of the flags of one class: option name to value."""


def flags_of(
    parameter: str, owner: type, only: Iterable[str] | None = None
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """In place of the command's `parameter` come flags for the options of `owner`; the command gets their values as a dict."""

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        options = options_of(owner)
        chosen = [options[name] for name in only or options if options[name].flag]

        @wraps(command)
        def wrapper(*args: Any, **values: Any) -> T:
            values[parameter] = {option.name: values.pop(option.name) for option in chosen}
            return command(*args, **values)

        signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
        flags = [_flag(option) for option in chosen]
        parameters = []
        for one in signature.parameters.values():
            if one.name == parameter:
                parameters += flags
            else:
                parameters.append(one.replace(annotation=hints.get(one.name, Any)))
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {one.name: one.annotation for one in parameters}
        return wrapper

    return decorate


def _flag(option: Option) -> inspect.Parameter:
    """Values are checked by the option itself, whose errors say what to give instead."""
    kind: Any = str if option.choices else option.kind
    if option.optional:
        kind |= None
    metavar = f"[{'|'.join(option.choices)}]" if option.choices else option.metavar
    name = f"--{option.name.replace('_', '-')}"
    flag = typer.Option(name, help=option.help, metavar=metavar)
    annotation = Annotated[kind, flag]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=annotation)
