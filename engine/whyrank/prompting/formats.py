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
from string import ascii_uppercase
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from whyrank.config import Route
from whyrank.errors import CheckpointError, PromptFileError
from whyrank.prompting.scoring import ScoreRule
from whyrank.types import Method

__all__ = [
    "FeatureKind",
    "Listwise",
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


class Listwise(_Table):
    """A prompt with several passages, which the model orders: `start`, `head`, `passage` for each, and `tail`, tokenised as one
    string but for `start`. An identifier stands between `open` and `close`, in the prompt as in the answer, where `between`
    separates them.

    `readout`: "first" reads the probabilities of all identifiers at the first one's position; with "permutation" the model
    writes them all. `window`, `stride`: passages of a prompt, and by how many the next prompt is further up. `title`: what
    precedes the text of a document that has a title. `one_line`, `max_words`: white space becomes single blanks; words beyond
    are left out."""

    identifiers: Literal["letters", "numbers"]
    readout: Literal["first", "permutation"]
    window: int = Field(ge=2)
    stride: int = Field(ge=1)
    start: str = ""
    head: list[Piece] = Field(min_length=1)
    passage: list[Piece] = Field(min_length=1)
    tail: list[Piece] = Field(min_length=1)
    open: str = Field(default="[", min_length=1)
    close: str = Field(default="]", min_length=1)
    between: str = Field(default=" > ", min_length=1)
    title: str = "{title} "
    one_line: bool = False
    max_words: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        around, within = _fields(self.head + self.tail), _fields(self.passage)
        if unknown := (set(around) - {"query", "instruction", "count"}) | (set(within) - {"identifier", "document"}):
            raise ValueError(
                f"no such field {sorted(unknown)}; known are query, instruction and count, in passage identifier and document"
            )
        if "query" not in around or sorted(within) != ["document", "identifier"]:
            raise ValueError("head or tail has the field 'query', and passage 'identifier' and 'document', each once")
        if not self.tail[-1].text:
            raise ValueError("tail ends with a literal text, behind which the answer follows")
        if self.stride > self.window:
            raise ValueError(f"stride is {self.stride}: it would leave passages out; at most the window, {self.window}")
        if self.readout == "first" and self.identifiers != "letters":
            raise ValueError("readout 'first' needs identifiers of one token: letters")
        if self.window > len(self.all_identifiers):
            raise ValueError(f"window is {self.window}: there are only {len(self.all_identifiers)} {self.identifiers}")
        return self

    @property
    def all_identifiers(self) -> tuple[str, ...]:
        """From the first passage on: as many as a window may have."""
        return tuple(ascii_uppercase) if self.identifiers == "letters" else _NUMBERS

    @property
    def pieces(self) -> list[Piece]:
        return [*self.head, *self.passage, *self.tail]


_NUMBERS = tuple(str(number) for number in range(1, 101))


def _fields(pieces: Iterable[Piece]) -> list[str]:
    return [piece.field for piece in pieces if piece.field]


class PromptFormat(_Table):
    """One prompt file, checked. `fingerprint` changes when anything that can change a score does.

    `runs` is the prompt for one document, `listwise` that for several; a format has one of them, or both.

    `judges`: what a score means. With "claims", the query is a claim, and the score says whether the document backs it."""

    name: str
    summary: str
    judges: Literal["relevance", "claims"] = "relevance"
    fits: Fits
    routes: list[Route] = Field(min_length=1)
    max_length: int = Field(ge=16)
    runs: list[Annotated[list[Piece], Field(min_length=1)]] = []
    instruction: Instruction | None = None
    labels: Labels | None = None
    score: Rule = Rule()
    budget: Budget = Budget()
    features: dict[str, FeatureKind] = {}
    continuation: Continuation | None = None
    listwise: Listwise | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.listwise is not None:
            self._check_listwise(self.listwise)
        if self.runs:
            self._check_runs()
        elif self.listwise is None:
            raise ValueError("runs: Field required, or the table listwise")
        return self

    def _check_listwise(self, listwise: Listwise) -> None:
        if "generate" not in self.routes:
            raise ValueError('listwise: needs "generate" in routes')
        if "instruction" in _fields(listwise.pieces) and self.instruction is None:
            raise ValueError("listwise: the field 'instruction' needs the table instruction")
        if not self.runs and (self.labels or self.continuation or self.features or self.routes != ["generate"]):
            raise ValueError(
                'listwise: without runs, there are no labels, features or continuation, and routes = ["generate"]'
            )

    def _check_runs(self) -> None:
        fields = [field for run in self.runs for field in _fields(run)]
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

    @property
    def methods(self) -> tuple[Method, ...]:
        """How it can rank documents: each by itself, or in lists."""
        return (*(("pointwise",) if self.runs else ()), *(("listwise",) if self.listwise else ()))

    @property
    def frame_texts(self) -> list[str]:
        """All its literal texts."""
        listwise = [] if self.listwise is None else [self.listwise.start, *(one.text for one in self.listwise.pieces)]
        return [text for text in [*(piece.text for run in self.runs for piece in run), *listwise] if text]

    @property
    def can_judge_claims(self) -> bool:
        """Whether its scores can say that a document backs a claim: by design, or with an instruction for that."""
        can_ask = self.instruction is not None and not self.instruction.fixed
        return bool(self.runs) and (self.judges == "claims" or can_ask)

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
        if not self.runs:
            return self.listwise_fingerprint
        scored = self.model_dump_json(include={"runs", "instruction", "labels", "score", "features", "budget"})
        return f"{self.name}@{hashlib.sha256(scored.encode()).hexdigest()[:12]}"

    @cached_property
    def listwise_fingerprint(self) -> str:
        """That of the prompt for several documents."""
        read = self.model_dump_json(include={"listwise", "instruction"})
        return f"{self.name}-listwise@{hashlib.sha256(read.encode()).hexdigest()[:12]}"

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The copy computes its own fingerprint: pydantic copies cached values, too."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("fingerprint", "listwise_fingerprint"):
            vars(copied).pop(name, None)
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
