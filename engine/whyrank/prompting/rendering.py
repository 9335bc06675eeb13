"""Renders a format, a query and a document to text, in spans of known origin; only trusted ones may contain control tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from whyrank.errors import InvalidRequest
from whyrank.prompting.identity import with_instruction
from whyrank.types import Document, DocumentError, Method

if TYPE_CHECKING:
    from whyrank.prompting.formats import FeatureKind, Piece, PromptFormat

__all__ = ["Run", "Span", "instruction_text", "merged", "prompt_identity", "render", "well_formed"]


class Span(NamedTuple):
    """A part of a run's text. Trusted text comes from the format and may contain control tokens; other text never does."""

    text: str
    owner: Literal["frame", "query", "document"]
    trusted: bool


Run = tuple[Span, ...]
"""The spans that are tokenised together."""


def instruction_text(fmt: PromptFormat, instruction: str | None) -> str:
    """The instruction of a call: the caller's if the format allows one, else the format's."""
    known = fmt.instruction
    if known is None:
        if instruction:
            raise InvalidRequest(f"instruction: prompt '{fmt.name}' has no place for one; leave it out")
        return ""
    if instruction is None or instruction == known.default:
        return known.default
    if known.fixed:
        raise InvalidRequest(f"instruction: fixed for prompt '{fmt.name}': {known.fixed}; leave it out")
    return well_formed(instruction)


def prompt_identity(fmt: PromptFormat, instruction: str | None, method: Method = "pointwise") -> str:
    """The fingerprint of format and instruction, as `Ranking.prompt` has it."""
    text, default = instruction_text(fmt, instruction), instruction_text(fmt, None)
    fingerprint = fmt.listwise_fingerprint if method == "listwise" else fmt.fingerprint
    return fingerprint if text == default else with_instruction(fingerprint, text)


def render(fmt: PromptFormat, query: str, document: Document, instruction: str) -> list[Run] | DocumentError:
    """The runs of one prompt. A feature that cannot be used is the document's error."""
    try:
        features = {name: _feature(name, kind, document.metadata.get(name)) for name, kind in fmt.features.items()}
    except ValueError as cause:
        return DocumentError("bad_feature", str(cause))
    values = {**features, "query": well_formed(query), "document": well_formed(document.content)}
    values["instruction"] = instruction
    return [
        merged(_span(fmt, piece, values) for piece in run if piece.when is None or values[piece.when])
        for run in fmt.runs
    ]


def _span(fmt: PromptFormat, piece: Piece, values: Mapping[str, str]) -> Span:
    match piece.field:
        case None:
            return Span(piece.text, "frame", trusted=True)
        case "query" | "document" as owner:
            return Span(values[owner], owner, trusted=False)
        case "instruction":
            # The format's own instruction is trusted, a caller's is not.
            is_own = fmt.instruction is not None and values["instruction"] == fmt.instruction.default
            return Span(values["instruction"], "frame", trusted=is_own)
        case feature:
            return Span(values[feature], "frame", trusted=fmt.features[feature] in ("integer", "word"))


def merged(spans: Iterable[Span]) -> Run:
    """Joins neighbouring trusted spans: a control token of the format may span both."""
    run: list[Span] = []
    for span in spans:
        if run and run[-1].trusted and span.trusted:
            run[-1] = Span(run[-1].text + span.text, "frame", trusted=True)
        else:
            run.append(span)
    return tuple(run)


def well_formed(text: str) -> str:
    """Replaces lone surrogates by U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _feature(name: str, kind: FeatureKind, value: Any) -> str:
    """A metadata value as it appears in the prompt; "" if there is none. Raises ValueError naming key and remedy."""
    if value is None:
        return ""
    if kind == "integer" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if kind == "word" and isinstance(value, str) and value.replace("_", "").isalnum() and value.isascii():
        return value
    if kind == "list" and isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return ",".join(well_formed(part) for part in value)
    if kind == "flag" and isinstance(value, bool):
        return "true" if value else ""
    wanted = {
        "integer": "a whole number",
        "word": "one word of ASCII letters, digits and _",
        "list": "a list of strings",
        "flag": "true or false",
    }[kind]
    raise ValueError(f"metadata '{name}' is {value!r:.60}: it must be {wanted}")
