"""prompts/*.toml → PromptFormat: everything whyrank knows about a model family, as data.

A prompt is a list of *runs*. Each run is tokenised in one go and the ids are joined, because that is how the model cards
differ: Prism tokenises one string, Qwen3-Reranker three, mxbai one per segment. A run is a list of pieces: literal frame
text, or `{ field = "..." }` for the caller's values.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from whyrank.config import Route
from whyrank.errors import CheckpointError, PromptFileError
from whyrank.prompting.scoring import ScoreRule

__all__ = [
    "FeatureKind",
    "Piece",
    "PromptFormat",
    "SectionName",
    "builtin_formats",
    "fitting_format",
    "load_format",
    "to_toml",
]

_PACKAGE = Path(__file__).parents[1]
# A wheel has prompts/ inside the package; a checkout has it beside engine/.
PROMPTS = next(p for p in (_PACKAGE / "prompts", _PACKAGE.parents[1] / "prompts") if p.is_dir())

FeatureKind = Literal["integer", "word", "list", "flag"]
"""How a document's metadata enters the prompt. Integers and single words may form control tokens with the frame around
them ("[HOP:" + 2 + "]"); lists are free text and never do; flags only switch pieces on."""


_CLAIM_INSTRUCTION = "Judge whether the Document states or directly implies the Query"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Piece(_Table):
    """Literal `text` or a `field`. A piece with `when` is included only if that field has a value."""

    text: str = ""
    field: str | None = None
    when: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _literal(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _text_or_field(self) -> Self:
        if bool(self.text) == (self.field is not None):
            raise ValueError("a piece is either a non-empty text or a field")
        return self


class Fits(_Table):
    """Shell patterns for the last part of the model's name and for config.json's architectures; both must match."""

    names: list[str]
    architectures: list[str] = Field(min_length=1)


class Instruction(_Table):
    """The text of the field `instruction`. `fixed`, if set, is the reason why callers may not change it."""

    default: str = ""
    fixed: str | None = None


class Labels(_Table):
    """The answer tokens, as text or id; for an encoder's head, the numbers of its classes. Without a negative one, the positive
    label's raw logit is the margin.

    `between`: grades between the two, from the more to the less relevant; the score is then the expected grade."""

    positive: str | int
    negative: str | int | None = None
    # Where there are none they are not written, so that fingerprints from before there were any still hold.
    between: list[str | int] = Field(default=[], exclude_if=lambda grades: not grades)


class Rule(_Table):
    """score = sigmoid(scale * (margin - offset)); margin: difference of two labels, logit: one raw value."""

    rule: Literal["margin", "logit"] = "margin"
    scale: float = Field(default=1.0, gt=0)
    offset: float = 0.0


class Budget(_Table):
    """The maximum number of tokens of a field, if the model was trained with one; the rest of max_length is shared."""

    query: int | None = Field(default=None, ge=1)
    document: int | None = Field(default=None, ge=1)


SectionName = Literal["contribution", "evidence"]


class Section(_Table):
    """One tagged part of the model's generated answer. `max_tokens` is both the default and the maximum."""

    name: SectionName
    open: str = Field(min_length=1)
    close: str = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    one_line: bool = False


class Continuation(_Table):
    """What follows a positive answer: the opening, then the sections joined by `between`."""

    opening: str
    between: str = "\n"
    sections: list[Section] = Field(min_length=1)


class PromptFormat(_Table):
    """One prompt file, checked. `fingerprint` changes when anything that can change a score does.

    `judges`: what a score means. With "claims", the query is a claim, and the score says whether the document backs it."""

    name: str
    summary: str
    judges: Literal["relevance", "claims"] = "relevance"
    fits: Fits
    routes: list[Route] = Field(min_length=1)
    max_length: int = Field(ge=16)
    runs: list[Annotated[list[Piece], Field(min_length=1)]] = Field(min_length=1)
    instruction: Instruction | None = None
    labels: Labels | None = None
    score: Rule = Rule()
    budget: Budget = Budget()
    features: dict[str, FeatureKind] = {}
    continuation: Continuation | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        fields = [piece.field for run in self.runs for piece in run if piece.field]
        known = {"query", "document", "instruction", *self.features}
        named = {*fields, *(piece.when for run in self.runs for piece in run if piece.when)}
        if unknown := named - known:
            raise ValueError(f"runs: no such field {sorted(unknown)}; known are {sorted(known)}")
        for once in ("query", "document"):
            if fields.count(once) != 1:
                raise ValueError(f"runs: the field '{once}' must occur exactly once, not {fields.count(once)} times")
        if ("instruction" in fields) != (self.instruction is not None):
            raise ValueError("instruction: the table and the field in runs must come together")
        two_labels = self.labels is not None and self.labels.negative is not None
        if two_labels != (self.score.rule == "margin"):
            raise ValueError(
                "score.rule: 'margin' needs labels.positive and labels.negative, 'logit' only the positive"
            )
        if self.labels is not None and self.labels.between and (not two_labels or self.routes != ["generate"]):
            raise ValueError('labels.between: grades need labels.negative, and routes = ["generate"]')
        if self.labels is None and "generate" in self.routes:
            raise ValueError("labels: the generate route reads label tokens; name them")
        return self

    @property
    def can_judge_claims(self) -> bool:
        """Whether its scores can say that a document backs a claim: by design, or with an instruction for that."""
        return self.judges == "claims" or (self.instruction is not None and not self.instruction.fixed)

    @property
    def claim_instruction(self) -> str | None:
        """The instruction under which the query is a claim; None: the format's own."""
        return None if self.judges == "claims" else _CLAIM_INSTRUCTION

    @property
    def score_rule(self) -> ScoreRule:
        return ScoreRule(self.score.scale, self.score.offset)

    @cached_property
    def fingerprint(self) -> str:
        """`name@` and 12 hex digits of a hash over all that reaches the model or turns its answer into a score."""
        scored = self.model_dump_json(include={"runs", "instruction", "labels", "score", "features", "budget"})
        return f"{self.name}@{hashlib.sha256(scored.encode()).hexdigest()[:12]}"

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The copy computes its own fingerprint: pydantic copies cached values, too."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("fingerprint", None)
        return copied

    def fits_name(self, model: str) -> bool:
        last = model.rstrip("/").rsplit("/", 1)[-1].lower()
        return any(fnmatch.fnmatchcase(last, pattern.lower()) for pattern in self.fits.names)

    def fits_architecture(self, architectures: Iterable[str]) -> bool:
        return any(fnmatch.fnmatchcase(have, want) for have in architectures for want in self.fits.architectures)


def load_format(path: Path) -> PromptFormat:
    """Read one prompt file; every error names the file and the key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise PromptFileError(f"{path}: cannot be read ({cause.strerror})") from cause
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise PromptFileError(f"{path}: not TOML: {cause}") from cause
    try:
        return PromptFormat.model_validate({"name": path.stem, **table})
    except ValidationError as cause:
        raise PromptFileError("\n".join(f"{path}: {_say(error)}" for error in cause.errors())) from cause


def to_toml(fmt: PromptFormat) -> str:
    """The prompt file that `load_format` reads as this format, but for its name, which is the file's."""
    table = fmt.model_dump(exclude={"name"}, exclude_defaults=True, exclude_none=True)
    plain = [f"{key} = {_toml(value)}" for key, value in table.items() if not isinstance(value, dict)]
    tables = [
        "\n".join([f"[{key}]", *(f"{name} = {_toml(inner)}" for name, inner in value.items())])
        for key, value in table.items()
        if isinstance(value, dict)
    ]
    return "\n\n".join(["\n".join(plain), *tables]) + "\n"


def _toml(value: Any) -> str:
    match value:
        case str():
            # JSON's strings are TOML's but for this character.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            if len(value) < 3:
                return f"[{', '.join(map(_toml, value))}]"
            return "\n".join(["[", *(f"  {_toml(item)}," for item in value), "]"])
        case {"text": str() as text, **more} if not more:
            return _toml(text)
        case dict():
            return f"{{ {', '.join(f'{key} = {_toml(inner)}' for key, inner in value.items())} }}"
        case _:
            return json.dumps(value)


def _say(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


@cache
def builtin_formats() -> dict[str, PromptFormat]:
    """The formats included in whyrank, by name."""
    return {path.stem: load_format(path) for path in sorted(PROMPTS.glob("*.toml"))}


def fitting_format(model: str, architectures: Iterable[str], name: str | None = None) -> PromptFormat:
    """The format for a checkpoint: the requested one (a name or a file), else the only one that fits name and architecture.

    We never guess from the architecture alone: a Qwen3 model with the wrong reranker's prompt gives plausible scores.
    """
    have = sorted(architectures)
    if name is not None:
        fmt = _named_format(name)
        if not fmt.fits_architecture(have):
            raise CheckpointError(
                f"{model}: its architecture is {', '.join(have) or 'unknown'}, "
                f"but prompt '{fmt.name}' is for {', '.join(fmt.fits.architectures)}"
            )
        return fmt
    fitting = formats_that_fit(model, have)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " or ".join(f"--prompt {f.name}" for f in fitting)
        raise CheckpointError(f"{model}: several prompts fit its name and architecture; choose with {names}")
    # A format for any architecture ("*") is no hint for this one.
    hints = [
        f.name for f in builtin_formats().values() if f.fits_architecture(have) and "*" not in f.fits.architectures
    ]
    raise CheckpointError(
        f"{model}: no prompt fits this name with architecture {', '.join(have) or 'unknown'}. "
        + (f"If it was trained with one of {', '.join(hints)}, give --prompt NAME; otherwise " if hints else "")
        + "describe its prompt in a TOML file (`whyrank formats --where` shows ours) and pass --prompt FILE; "
        "for a chat model that was not trained to rerank there is --prompt chat"
    )


def formats_that_fit(model: str, architectures: Iterable[str]) -> list[PromptFormat]:
    """Ours for this name and architecture."""
    have = sorted(architectures)
    return [f for f in builtin_formats().values() if f.fits_architecture(have) and f.fits_name(model)]


def _named_format(name: str) -> PromptFormat:
    if name in builtin_formats():
        return builtin_formats()[name]
    if name.endswith(".toml") or Path(name).exists():
        return load_format(Path(name))
    raise PromptFileError(
        f"--prompt {name}: neither a .toml file nor one of {', '.join(builtin_formats())}, chat, chat-grades"
    )
