"""JSON in both directions: rows, rankings and events for HTTP, the command line and files, and the options of a request.

The frozen types define what a row contains, and pydantic's adapters over them read and write it. The `*Response` types define
what differs on the wire: evidence is beside the score, not in an object of its own, and the document is left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal, NotRequired, cast, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from whyrank.errors import InvalidRequest
from whyrank.events import Event, EvidenceDelta, EvidenceDone, Finished, Ranked, Scored
from whyrank.options import Option, options_of
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.types import (
    Document,
    DocumentError,
    Evidence,
    Finish,
    Grounding,
    RankedDocument,
    ScoredSpan,
    TruncationPolicy,
    Usage,
    Window,
)

__all__ = [
    "MODEL",
    "Documents",
    "EvidenceResponse",
    "FieldNames",
    "LenientModel",
    "OptionsRequest",
    "Query",
    "RankingResponse",
    "ReadingRequest",
    "RowResponse",
    "ScoreKeys",
    "Strings",
    "TruncationResponse",
    "UsageResponse",
    "VllmReadingRequest",
    "WireRequest",
    "documents_of",
    "event_from_dict",
    "event_to_dict",
    "evidence_to_dict",
    "options_body",
    "ranking_from_dict",
    "ranking_to_dict",
    "row_to_dict",
    "score_to_dict",
    "side_given_up",
    "to_json",
    "top_k_options",
    "usage_to_dict",
]


def to_json(value: Any) -> bytes:
    """A text may contain lone surrogates, which JSON can express as escapes and UTF-8 cannot."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


# Responses: from the frozen types to values for json.dumps.


class TruncationResponse(TypedDict):
    original_tokens: int
    used_tokens: int
    policy: TruncationPolicy
    truncated: bool
    query_tokens_cut: int
    window: Window | None


class UsageResponse(TypedDict):
    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    output_tokens: int


class _WrittenResponse(TypedDict, total=False):
    contribution: str
    evidence: str
    finish: Finish
    grounding: Grounding | None
    contribution_grounding: Grounding | None


class EvidenceVariant(_WrittenResponse):
    """Another wording of the same evidence."""

    output_tokens: NotRequired[int]


class EvidenceResponse(_WrittenResponse, total=False):
    """Included if evidence was requested and the document was chosen for it. `variants` are included if there are any."""

    variants: list[EvidenceVariant]


class ScoreKeys(TypedDict):
    """How one document was read, and the result."""

    score: float | None
    margin: float | None
    label_mass: float | None
    truncation: TruncationResponse | None
    neutralised: bool
    error: DocumentError | None


class RowResponse(ScoreKeys, EvidenceResponse):
    """One document. `calibrated_score` is included if the engine has a calibration for the call's prompt and instruction."""

    index: int
    id: str | None
    rank: int | None
    calibrated_score: NotRequired[float]
    output_tokens: NotRequired[int]
    spans: NotRequired[list[ScoredSpan]]
    spans_limited: NotRequired[bool]


class RankingResponse(TypedDict):
    """`degraded`: time or the network cost a row its score or its evidence."""

    results: list[RowResponse]
    usage: UsageResponse
    evidence_usage: UsageResponse
    model: str
    prompt: str
    degraded: bool


_ROW, _USAGE, _EVIDENCE = TypeAdapter(RankedDocument), TypeAdapter(Usage), TypeAdapter(Evidence)
_SPANS = TypeAdapter(tuple[ScoredSpan, ...])
_ERROR, _WINDOW = TypeAdapter(DocumentError | None), TypeAdapter(Window | None)


def _pick(shape: Any, value: object) -> Any:
    """The attributes of `value` that are keys of `shape`, in its order."""
    return {name: getattr(value, name) for name in shape.__annotations__}


def row_to_dict(row: RankedDocument) -> RowResponse:
    body = {"index": row.index, "id": row.id, "rank": row.rank, **score_to_dict(row)}
    if row.calibrated_score is not None:
        body["calibrated_score"] = row.calibrated_score
    if row.spans is not None:
        body |= {"spans": _SPANS.dump_python(row.spans, mode="json"), "spans_limited": row.spans_limited}
    return cast(RowResponse, body if row.evidence is None else body | evidence_to_dict(row.evidence))


def score_to_dict(row: RankedDocument) -> ScoreKeys:
    body: ScoreKeys = _pick(ScoreKeys, row)
    if row.truncation is not None:
        window = _WINDOW.dump_python(row.truncation.window)
        body["truncation"] = _pick(TruncationResponse, row.truncation) | {"window": window}
    body["error"] = _ERROR.dump_python(row.error)
    return body


def evidence_to_dict(evidence: Evidence, *excluded: str) -> EvidenceResponse:
    body: EvidenceResponse = _EVIDENCE.dump_python(evidence, mode="json", exclude={"variants", *excluded})
    if evidence.variants:
        body["variants"] = [cast(EvidenceVariant, evidence_to_dict(one, *excluded)) for one in evidence.variants]
    return body


def usage_to_dict(usage: Usage) -> UsageResponse:
    body: UsageResponse = _pick(UsageResponse, usage)
    return body


def ranking_to_dict(ranking: Ranking) -> RankingResponse:
    body: RankingResponse = _pick(RankingResponse, ranking)
    body["results"] = [row_to_dict(row) for row in ranking.results]
    body["usage"], body["evidence_usage"] = usage_to_dict(ranking.usage), usage_to_dict(ranking.evidence_usage)
    return body


def event_to_dict(event: Event) -> dict[str, Any]:
    """`event` is the event's name, `data` the row, the ranking or the piece of text."""
    match event:
        case Scored(row):
            return {"event": "score", "data": row_to_dict(row)}
        case Ranked(ranking):
            return {"event": "ranking", "data": ranking_to_dict(ranking)}
        case EvidenceDelta(index, part, text):
            return {"event": "delta", "data": {"index": index, "part": part, "text": text}}
        case EvidenceDone(row):
            return {"event": "evidence", "data": row_to_dict(row)}
        case Finished(ranking):
            return {"event": "done", "data": ranking_to_dict(ranking)}


# Responses, read by the client. Keys that a newer server adds are ignored.


def ranking_from_dict(body: Mapping[str, Any], documents: Sequence[Document]) -> Ranking:
    """Raises KeyError, TypeError, ValueError or AttributeError if the body is not one that whyrank's server sends."""
    rows = tuple(_row_from_dict(row, documents) for row in body["results"])
    if len({row.index for row in rows}) < len(rows):
        raise ValueError("a document has two rows")
    usage, evidence_usage = (_USAGE.validate_python(body[name]) for name in ("usage", "evidence_usage"))
    return Ranking(rows, usage, str(body["model"]), str(body["prompt"]), evidence_usage)


def _row_from_dict(body: Mapping[str, Any], documents: Sequence[Document]) -> RankedDocument:
    index = body["index"]
    if type(index) is not int or not 0 <= index < len(documents):
        raise ValueError(f"no document has the index {index!r:.20}")
    scored = _is_finite(body["score"]) and _is_finite(body["margin"])
    # An order may come without scores.
    placed = type(body["rank"]) is int and body["score"] is None and body["margin"] is None
    if body["error"] is None and not (scored or placed):
        raise ValueError(f"documents[{index}] has neither a score nor an error")
    evidence = body if "finish" in body else None
    return _ROW.validate_python({**body, "document": documents[index], "evidence": evidence})


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def event_from_dict(name: str, data: Mapping[str, Any], documents: Sequence[Document]) -> Event:
    match name:
        case "score":
            return Scored(_row_from_dict(data, documents))
        case "ranking":
            return Ranked(ranking_from_dict(data, documents))
        case "delta":
            return EvidenceDelta(data["index"], data["part"], data["text"])
        case "evidence":
            return EvidenceDone(_row_from_dict(data, documents))
        case "done":
            return Finished(ranking_from_dict(data, documents))
    raise ValueError(f"no event is called {name!r}")


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
