"""An option is an annotated field of a frozen dataclass (RerankRequest, EngineConfig). Its type, default, bounds and help are
defined only there: Python's checks, the command line, the HTTP body, OpenAPI and the MCP tools are derived from them here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache, wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from whyrank.errors import InvalidRequest

__all__ = ["Option", "check_options", "options_of", "spread"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Option:
    """The annotation of a field; `options_of` fills in the rest from the field itself."""

    help: str
    minimum: float | None = None
    maximum: float | None = None
    positive: bool = False
    unit: str = ""
    metavar: str | None = None
    flag: bool = True
    """Whether the command line has it."""
    short_flag: str | None = None
    agent: bool = False
    """Whether tools for agents have it: they get few options, so that a model chooses well."""

    name: str = ""
    kind: Any = str
    """str, int, float, bool, a Literal, or a container; without its None."""
    optional: bool = False
    default: Any = None

    @property
    def choices(self) -> tuple[str, ...]:
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    def check(self, value: Any) -> None:
        if not (self._accepts(value) or (self.optional and value is None)):
            left_out = ", or leave it out" if self.optional and not self.choices and not self.positive else ""
            raise InvalidRequest(f"{self.name} is {value!r:.60}: {self._remedy()}{left_out}")

    def _accepts(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if self.kind not in (int, float):
            return isinstance(value, get_origin(self.kind) or self.kind)
        if type(value) not in ((int,) if self.kind is int else (int, float)):
            return False
        above = value > 0 if self.positive else self.minimum is None or value >= self.minimum
        return bool(above and (self.maximum is None or value <= self.maximum))

    def _remedy(self) -> str:
        if self.choices:
            return f"choose from {', '.join(self.choices)}"
        if self.kind not in (int, float):
            return f"give a {'string' if self.kind is str else (get_origin(self.kind) or self.kind).__name__}"
        if self.positive:
            return f"give a positive number{f' of {self.unit}' if self.unit else ''}"
        noun = "a whole number" if self.kind is int else "a number"
        if self.maximum is not None:
            return f"give {noun} between {self.minimum:g} and {self.maximum:g}"
        return f"give {noun} of at least {self.minimum:g}" if self.minimum is not None else f"give {noun}"


@cache
def options_of(owner: type) -> dict[str, Option]:
    """The options of a dataclass by name, in their order."""
    hints, options = get_type_hints(owner, include_extras=True), dict[str, Option]()
    for field in fields(owner):
        kind, *notes = get_args(hints[field.name]) if get_origin(hints[field.name]) is Annotated else (None,)
        option = next((note for note in notes if isinstance(note, Option)), None)
        if option is None:
            continue
        members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        (bare,) = (member for member in members if member is not NoneType)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        options[field.name] = replace(option, name=field.name, kind=bare, optional=NoneType in members, default=default)
    return options


def spread(function: Callable[..., T], parameter: str, spread_out: Sequence[inspect.Parameter]) -> Callable[..., T]:
    """The function with these keyword parameters in place of `parameter`, which receives their values as a dict: for libraries
    that derive flags or JSON schemas from a signature."""
    hints = get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for one in inspect.signature(function).parameters.values():
        new = spread_out if one.name == parameter else [one.replace(annotation=hints.get(one.name, Any))]
        parameters += new

    def collected(values: dict[str, Any]) -> dict[str, Any]:
        values[parameter] = {one.name: values.pop(one.name, one.default) for one in spread_out}
        return values

    @wraps(function)
    def plain(*args: Any, **values: Any) -> Any:
        return function(*args, **collected(values))

    @wraps(function)
    async def awaited(*args: Any, **values: Any) -> Any:
        return await function(*args, **collected(values))  # type: ignore[misc]

    wrapper: Callable[..., Any] = awaited if inspect.iscoroutinefunction(function) else plain
    wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        parameters, return_annotation=hints.get("return", inspect.Signature.empty)
    )
    wrapper.__annotations__ = {one.name: one.annotation for one in parameters} | {
        name: hint for name, hint in hints.items() if name == "return"
    }
    return wrapper


def check_options(value: Any) -> None:
    """Raises InvalidRequest for the first option of this dataclass with an invalid value."""
    for option in options_of(value.__class__).values():
        option.check(getattr(value, option.name))
