"""Requests as JSON: what bodies may contain, derived from the options of RerankRequest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal, cast, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from whyrank.errors import InvalidRequest
from whyrank.options import Option, options_of
from whyrank.request import RerankOptions, RerankRequest
from whyrank.types import (
    Document,
    RankedDocument,
    TruncationPolicy,
)

__all__ = [
    "MODEL",
    "Documents",
    "FieldNames",
    "LenientModel",
    "OptionsRequest",
    "Query",
    "ReadingRequest",
    "Strings",
    "VllmReadingRequest",
    "WireRequest",
    "documents_of",
    "options_body",
    "side_given_up",
    "top_k_options",
]


# Requests. Types are checked here; valid option values are defined in request.py and types.py.

MODEL: Any = Field(
    None, description="Name of the served model. Another name gets a warning, or with --strict-model an error."
)

# Validation stops at the first error: collecting those of a long list of wrong values would take minutes.
Query = Annotated[str, Field(json_schema_extra={"pattern": r"\S"})]
Strings = Annotated[list[str], Field(fail_fast=True, json_schema_extra={"minItems": 1})]
FieldNames = Annotated[list[str], Field(fail_fast=True, max_length=100)]
Documents = Annotated[
    list[str | dict[str, Any]],
    Field(
        fail_fast=True,
        json_schema_extra={"minItems": 1},
        description="Strings, or objects with 'text' and optionally 'id', 'title' and 'metadata'; other keys are metadata too.",
    ),
]

_MAX_NAMED_KEYS = 10
_ZERO_IS_NONE = ("top_n", "max_tokens_per_doc", "max_tokens_per_query")


class LenientModel(BaseModel):
    """Null is the same as absent. Booleans and whole numbers may be written as some clients write them ("true", "2", 2.0);
    everything else is strict."""

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        scalars = _scalars_of(cls)
        return {key: _as_meant(value, scalars.get(key, ())) for key, value in body.items() if value is not None}


@cache
def _scalars_of(model: type[BaseModel]) -> dict[str, tuple[Any, ...]]:
    """The types of a model's fields, including the members of unions."""
    kinds = {name: (field.annotation, *get_args(field.annotation)) for name, field in model.model_fields.items()}
    return {name: tuple(getattr(kind, "__origin__", kind) for kind in each) for name, each in kinds.items()}


def _as_meant(value: Any, kinds: tuple[Any, ...]) -> Any:
    if isinstance(value, str):
        if bool in kinds and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if int in kinds and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            return int(value)
    if int in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


class WireRequest(LenientModel):
    """Keeps unknown keys, so that the response can name them in its warnings."""

    model_config = ConfigDict(extra="allow")

    def unknown_keys(self) -> list[str]:
        """One warning per key."""
        keys = self.model_extra or {}
        more = [f"{len(keys) - _MAX_NAMED_KEYS} more unknown keys were ignored"] if len(keys) > _MAX_NAMED_KEYS else []
        # Cut before quoting: a key may have megabytes, and be named in a thousand responses.
        return [f"unknown key {key[:80]!r} was ignored" for key in islice(keys, _MAX_NAMED_KEYS)] + more


def _documented(option: Option) -> Any:
    """The type of an option, with its bounds for OpenAPI."""
    if option.kind not in (int, float):
        return option.kind
    schema: dict[str, Any] = {"type": "integer" if option.kind is int else "number"}
    if option.minimum is not None:
        schema["minimum"] = 0 if option.name in _ZERO_IS_NONE else option.minimum
    if option.maximum is not None:
        schema["maximum"] = option.maximum
    if option.positive:
        schema["exclusiveMinimum"] = 0
    return Annotated[option.kind, WithJsonSchema(schema)]


def options_body(owner: type, names: Iterable[str]) -> Any:
    """A base class with these options of `owner` as keys of a body, each of which may be null or absent. Types are checked
    here; valid values are checked where the request is made, for all interfaces alike."""
    options = options_of(owner)
    keys: dict[str, Any] = {
        name: (Annotated[_documented(options[name]) | None, Field(description=options[name].help)], None)
        for name in names
    }
    return create_model("Options", __base__=WireRequest, **keys)


_READING = (
    *("instruction", "max_tokens_per_doc", "max_tokens_per_query", "max_prompt_tokens", "truncate_query"),
    *("deadline_ms", "cache_salt"),
)
"""The options that affect how texts are read."""


class ReadingRequest(options_body(RerankRequest, _READING)):  # type: ignore[misc]
    zero_is_none: ClassVar[tuple[str, ...]] = _ZERO_IS_NONE
    """Bounds for which 0 means no bound, as in vLLM."""

    truncation: TruncationPolicy | bool | None = Field(
        None,
        description="Which part of an over-long document is dropped; true: its tail, and the query's; false: none, it is an "
        "error.",
    )

    def options(self) -> RerankOptions:
        """The options that were set."""
        named = {name: getattr(self, name) for name in options_of(RerankRequest) if name in type(self).model_fields}
        given = {k: v for k, v in named.items() if v is not None and not (v == 0 and k in self.zero_is_none)}
        if isinstance(self.truncation, bool):
            del given["truncation"]
        return cast(RerankOptions, {"truncate_query": True} | given if self.truncation is True else given)

    @property
    def refuses_truncation(self) -> bool:
        return self.truncation is False


class VllmReadingRequest(ReadingRequest):
    """Also accepts vLLM's own names for how texts are read. Ours take precedence."""

    truncation_side: Literal["left", "right"] | None = Field(
        None, description="vLLM's: left is truncation head, right is tail; truncation wins."
    )
    truncate_prompt_tokens: int | None = Field(
        None, description="vLLM's max_prompt_tokens; -1: what the model takes. Either way the query may be cut, too."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="vLLM's: its 'instruction' is the instruction; nothing else of the prompt can be set."
    )
    use_activation: bool | None = Field(None, description="vLLM's: false gives log-odds in place of scores.")

    @field_validator("query", "queries", "documents", mode="before", check_fields=False)
    @classmethod
    def _texts(cls, value: Any, info: ValidationInfo) -> Any:
        """vLLM accepts one text in place of a list, and texts as the content of messages."""
        if info.field_name == "documents" and isinstance(value, str | dict):
            value = [value]
        return [_text_of_content(item) for item in value] if isinstance(value, list) else _text_of_content(value)

    def options(self) -> RerankOptions:
        options = side_given_up(self.truncation_side)
        match self.truncate_prompt_tokens:
            case None:
                pass
            case -1:
                options["truncate_query"] = True
            case bound if bound > 0:
                options |= {"truncate_query": True, "max_prompt_tokens": bound}
            case bound:
                raise InvalidRequest(
                    f"truncate_prompt_tokens is {bound}: give the maximum tokens of a prompt, or -1 for the "
                    "model's maximum"
                )
        return options | super().options() | self._instruction_for_template()

    def shown_score(self, row: RankedDocument) -> float | None:
        """The score in the form that this request asks for."""
        return row.margin if self.use_activation is False else row.score

    def _instruction_for_template(self) -> RerankOptions:
        given = {key: value for key, value in (self.chat_template_kwargs or {}).items() if value is not None}
        other = next((key for key in given if key != "instruction"), None)
        if other is not None:
            raise InvalidRequest(
                f"chat_template_kwargs: {other[:80]!r} cannot be set, because the prompt is the model's own; give "
                "'instruction' or nothing"
            )
        return RerankOptions(instruction=given["instruction"]) if given else {}


def _text_of_content(value: Any) -> Any:
    """The text of {"content": [{"type": "text", "text": ...}, ...]}; other values are returned as they are."""
    if not isinstance(value, dict) or "text" in value or not isinstance(value.get("content"), list):
        return value
    texts: list[str] = []
    for part in value["content"]:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise PydanticCustomError("content", "content: only parts of type text can be read")
        texts.append(text)
    return "\n".join(texts)


def top_k_options(top_k: int | None) -> RerankOptions:
    """Voyage's name for top_n; 0 means no bound."""
    return RerankOptions(top_n=top_k) if top_k else {}


def side_given_up(side: str | None) -> RerankOptions:
    """The truncation policy from vLLM's and TEI's name for it: the side on which an over-long text is cut."""
    if side is None:
        return {}
    return {"truncation": "head" if side.lower() == "left" else "tail"}


_OTHERS = [name for name in options_of(RerankRequest) if name not in (*_READING, "truncation")]


class OptionsRequest(options_body(RerankRequest, _OTHERS), ReadingRequest):  # type: ignore[misc]
    """All options of RerankRequest as keys of a body."""


def documents_of(values: Documents, fields: list[str] | None = None) -> list[Document]:
    """With `fields`, objects are read as Cohere's v1 does: these alone, as "name: value" lines, or bare if it is the text."""
    if fields is None or fields == ["text"]:
        documents = [Document.of(value, f"documents[{i}]") for i, value in enumerate(values)]
        return documents if fields is None else [replace(one, title=None) for one in documents]
    return [
        Document(value) if isinstance(value, str) else _with_fields(value, fields, f"documents[{i}]")
        for i, value in enumerate(values)
    ]


def _with_fields(value: dict[str, Any], fields: list[str], where: str) -> Document:
    chosen = {name: value[name] for name in fields if value.get(name) is not None}
    if not chosen:
        raise InvalidRequest(
            f"{where} has none of the rank_fields {', '.join(fields[:10]):.400}: its keys are {sorted(value)[:10]!r:.400}"
        )
    return Document("\n".join(f"{name}: {part}" for name, part in chosen.items()), metadata=value)
