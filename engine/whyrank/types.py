"""The values passed through whyrank: frozen, plain, and the same in process and over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from whyrank.errors import InvalidRequest

__all__ = [
    "GAP",
    "CheckedSentence",
    "DifferenceKind",
    "Document",
    "DocumentError",
    "DocumentLike",
    "Evidence",
    "Finish",
    "Grounding",
    "GroundingFlag",
    "Method",
    "RankedDocument",
    "ScoredSpan",
    "SourceSpan",
    "Truncation",
    "TruncationPolicy",
    "Unsupported",
    "Usage",
    "Verification",
    "Window",
    "text_between",
]

GAP = " […] "
"""Marks places in quotations where something between two sentences of the document was left out."""


def text_between(document: str, end: int, start: int) -> str:
    """What to put between two quoted stretches: the document's own white space, or GAP if there is more than that."""
    between = document[end:start]
    return GAP if between.strip() else between


TruncationPolicy = Literal["tail", "head", "middle", "windows"]
"""Which part of an over-long document is dropped; `windows` drops none and uses the best window's score."""

Method = Literal["pointwise", "listwise"]
"""pointwise: every document is scored by itself. listwise: the model orders documents, several in one prompt."""


_MEDIA_KEYS = ("image", "image_url", "images", "video", "video_url")
"""Keys with which the APIs of models that can see name what is not text."""


@dataclass(frozen=True, slots=True)
class Document:
    """One candidate. `metadata` feeds prompts that use features (multi-hop) and is returned with the result."""

    text: str
    id: str | None = None
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """What the model reads: title and text joined by a space, as in BEIR's own rerankers."""
        return f"{self.title} {self.text}" if self.title else self.text

    @property
    def media_key(self) -> str | None:
        """The key of its metadata that holds an image or a video, if there is one."""
        return next((key for key in _MEDIA_KEYS if self.metadata.get(key)), None)

    @classmethod
    def of(cls, value: DocumentLike, where: str) -> Document:
        """Accept a string, a mapping with `text`, or a Document; `where` names the item in errors."""
        if isinstance(value, Document):
            document = value
        elif isinstance(value, str):
            return cls(value)
        elif isinstance(value, Mapping):
            document = _document_from_mapping(value, where)
        else:
            raise InvalidRequest(f"{where} is a {type(value).__name__}: give a string or an object with 'text'")
        for name in ("text", "id", "title"):
            part = getattr(document, name)
            if not isinstance(part, str) and (name == "text" or part is not None):
                raise InvalidRequest(f"{where}: '{name}' must be a string, not {type(part).__name__}")
        if not isinstance(document.metadata, Mapping):
            raise InvalidRequest(f"{where}: 'metadata' must be an object, not {type(document.metadata).__name__}")
        return document


DocumentLike = str | Mapping[str, Any] | Document


def _document_from_mapping(value: Mapping[str, Any], where: str) -> Document:
    """Keys other than text, id, title and metadata are metadata too: JSON lines often have them flat."""
    if "text" not in value:
        if key := next((key for key in (*_MEDIA_KEYS, "content") if value.get(key)), None):
            raise InvalidRequest(
                f"{where} has {key!r} and no 'text': whyrank reads texts only; give what is to be read (of an image, a caption "
                "or its text) as 'text'"
            )
        raise InvalidRequest(f"{where} has no 'text': its keys are {sorted(map(str, value))[:10]!r:.400}")
    nested = value.get("metadata") or {}
    if not isinstance(nested, Mapping):
        raise InvalidRequest(f"{where}: 'metadata' must be an object, not {type(nested).__name__}")
    flat = {key: part for key, part in value.items() if key not in ("text", "id", "title", "metadata")}
    ident = value.get("id")
    return Document(
        value["text"],
        id=str(ident) if isinstance(ident, int) else ident,
        title=value.get("title"),
        metadata={**flat, **nested},
    )


@dataclass(frozen=True, slots=True)
class Window:
    """The part of an over-long document that was read: character offsets into title + text as the model saw them."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Truncation:
    """How much of the document and of the query the model read. Tokens of the frame are not counted."""

    original_tokens: int
    used_tokens: int
    policy: TruncationPolicy
    query_tokens_cut: int = 0
    window: Window | None = None

    @property
    def truncated(self) -> bool:
        return self.used_tokens < self.original_tokens or self.query_tokens_cut > 0


@dataclass(frozen=True, slots=True)
class DocumentError:
    """Why one document has no score. `code` is for programs, `message` names item and remedy for people."""

    code: Literal["bad_feature", "deadline", "engine", "media", "no_label", "not_finite", "too_large", "unreachable"]
    message: str


@dataclass(frozen=True, slots=True)
class SourceSpan:
    """A sentence of the evidence and the stretch of the document that supports it. Character offsets into both.

    A sentence that joins two distant stretches has two of these."""

    evidence_start: int
    evidence_end: int
    start: int
    end: int
    similarity: float


DifferenceKind = Literal[
    "negation",
    "quantifier",
    "modality",
    "comparative",
    "number",
    "unit",
    "date",
    "name",
    "role",
    "url",
    "code",
    "inserted",
    "dropped",
    "joined",
]


@dataclass(frozen=True, slots=True)
class ScoredSpan:
    """A stretch of the document that was scored on its own: character offsets into title and text as the model saw them."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Something in the evidence that its document does not say, or says differently. Character offsets into the evidence.

    source_start, source_end: what the document says in its place, if that is known."""

    kind: DifferenceKind
    text: str
    start: int
    end: int
    source_start: int | None = None
    source_end: int | None = None


Verdict = Literal["supported", "altered", "unverified"]
"""altered: it says something else than its source. unverified: it shares too little wording with the document to be compared
word by word, so it may be true or false."""


@dataclass(frozen=True, slots=True)
class CheckedSentence:
    """A sentence of the evidence, its verdict, and the position of its source. Character offsets into both texts.

    `reason`: what differs, or "wording" if an unverified sentence is only worded differently; None if it is supported.
    `model_score`: how sure a model is that the document says this, from 0 to 1, if it was asked (see Verification). It is a
    guess and does not change the verdict."""

    start: int
    end: int
    verdict: Verdict
    reason: DifferenceKind | Literal["wording"] | None = None
    source_start: int | None = None
    source_end: int | None = None
    model_score: float | None = None


GroundingFlag = Literal["unsupported_entities", "repetition", "too_long", "language", "reduced"]
"""reduced: the document has more sentences than the model was given to choose from."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What a model said about the unverified sentences. It may be wrong, so the verdicts stay as they are.

    `backed`: share of all characters in unverified sentences with a `model_score` of at least `threshold`, from 0 to 1.
    `error`: why some sentences have no score."""

    model: str
    prompt: str
    threshold: float
    backed: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Grounding:
    """How far a generated text is backed by its document.

    `supported`, `altered`, `unverified`: shares of the characters in sentences of that verdict, from 0 to 1. `method`: how it
    was checked. `verification`: with verify "model", the model's judgement of the unverified sentences."""

    supported: float
    spans: tuple[SourceSpan, ...] = ()
    unsupported: tuple[Unsupported, ...] = ()
    flags: tuple[GroundingFlag, ...] = ()
    altered: float = 0.0
    unverified: float = 0.0
    sentences: tuple[CheckedSentence, ...] = ()
    method: Literal["words", "verbatim"] = "words"
    """words: the evidence was compared with the document word by word. verbatim: it consists of sentences of the document,
    each of which is there; a sentence that was left out between them may still matter."""
    verification: Verification | None = None

    def is_backed(self, sentence: CheckedSentence) -> bool:
        """Whether the sentence is unverified and the verifier considers it backed by the document."""
        score, verification = sentence.model_score, self.verification
        return score is not None and verification is not None and score >= verification.threshold


Finish = Literal["complete", "budget", "repetition", "aborted", "deadline", "error"]
"""How a continuation ended. budget: a text was cut at its token limit; its tags are still closed."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the model wrote about one document, and how far the document backs it. Texts may be empty if it is unfinished.

    `grounding` is that of the evidence; `contribution_grounding` that of the contribution, which is only checked with verify
    "model". `variants`: with `evidence_samples`, other wordings, each compared with the document; one that repeats an earlier
    one is left out."""

    contribution: str
    evidence: str
    finish: Finish
    output_tokens: int = 0
    grounding: Grounding | None = None
    contribution_grounding: Grounding | None = None
    variants: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One row of the answer.

    `margin` is the log-odds (or raw logit) by which results are sorted; `score` is its sigmoid, scaled by the format, from 0 to
    1; `label_mass` is P(yes) + P(no), if the route provides it. `rank` starts at 1. `calibrated_score`, if the engine has a
    calibration for the call's prompt, is the share of such documents that are relevant. A document in error has none of them.
    With method "listwise" there is only a rank, except where one prompt held all documents and the model's probabilities of
    their identifiers were read: then `score` is the probability that this document comes first, `margin` its log-odds.
    `neutralised`: query or document contained what the model would have read as control tokens; it was read as plain text.
    """

    index: int
    document: Document
    rank: int | None = None
    score: float | None = None
    margin: float | None = None
    label_mass: float | None = None
    truncation: Truncation | None = None
    neutralised: bool = False
    error: DocumentError | None = None
    evidence: Evidence | None = None
    calibrated_score: float | None = None
    spans: tuple[ScoredSpan, ...] | None = None
    """In mode "spans", for a chosen document: the passages that answer the query, best first; empty if there are none."""
    spans_limited: bool = False
    """Whether the document has more sentences than were scored."""

    @property
    def id(self) -> str | None:
        return self.document.id

    @property
    def span_text(self) -> str:
        """The text of the spans, in the document's order."""
        content, text, at = self.document.content, "", None
        for span in sorted(self.spans or (), key=lambda span: span.start):
            if at is not None:
                text += text_between(content, at, span.start)
            text += content[span.start : span.end]
            at = span.end
        return text


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as counted by the engine. computed = prompt - cached, including requests that warm the cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    @property
    def computed_tokens(self) -> int:
        return self.prompt_tokens - self.cached_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
        )
