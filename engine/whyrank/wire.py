"""The native JSON shapes, one home for the command line's --json and for HTTP. types ↔ wire is a pure mapping."""

from __future__ import annotations

import json
from itertools import islice
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from whyrank.errors import InvalidRequest
from whyrank.events import Event, EvidenceDelta, EvidenceDone, Finished, Ranked, Scored
from whyrank.ranking import Ranking
from whyrank.request import Mode, RerankOptions, RerankRequest
from whyrank.types import Document, RankedDocument, TruncationPolicy

__all__ = [
    "BatchAsk",
    "ErrorBody",
    "FieldNames",
    "GroundingBody",
    "OptionsAsk",
    "RankingBody",
    "ReadingAsk",
    "RerankAsk",
    "ResultBody",
    "ScoreAsk",
    "SpanBody",
    "Strings",
    "TruncationBody",
    "UnsupportedBody",
    "UsageBody",
    "WindowBody",
    "documents_of",
    "event_document",
    "side_given_up",
    "to_json",
]


def to_json(value: Any) -> bytes:
    """A text may hold half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


class _Body(BaseModel):
    # Built straight from the frozen values of types.py: same names, properties included.
    model_config = ConfigDict(from_attributes=True, frozen=True)


class WindowBody(_Body):
    start: int
    end: int


class TruncationBody(_Body):
    original_tokens: int
    used_tokens: int
    policy: str
    truncated: bool
    query_tokens_cut: int
    window: WindowBody | None


class ErrorBody(_Body):
    code: str
    message: str


class SpanBody(_Body):
    evidence_start: int
    evidence_end: int
    start: int
    end: int
    similarity: float


class UnsupportedBody(_Body):
    kind: str
    text: str
    start: int
    end: int
    source_start: int | None = None
    source_end: int | None = None


class SentenceBody(_Body):
    start: int
    end: int
    verdict: str
    reason: str | None
    source_start: int | None
    source_end: int | None


class GroundingBody(_Body):
    supported: float
    spans: list[SpanBody]
    unsupported: list[UnsupportedBody]
    flags: list[str]
    altered: float = 0.0
    unverified: float = 0.0
    sentences: list[SentenceBody] = []
    method: str = "words"


class ResultBody(_Body):
    """One document. The last five keys are there only where evidence was asked for and this document was chosen,
    calibrated_score only where the engine has a calibration for the call's prompt and instruction."""

    index: int
    id: str | None
    rank: int | None
    score: float | None
    margin: float | None
    label_mass: float | None
    truncation: TruncationBody | None
    neutralised: bool
    error: ErrorBody | None
    calibrated_score: float | None = None
    contribution: str = ""
    evidence: str = ""
    finish: str = ""
    output_tokens: int = 0
    grounding: GroundingBody | None = None

    @classmethod
    def of(cls, row: RankedDocument) -> Self:
        own = {name: getattr(row, name) for name in ("index", "id", "rank", "score", "margin", "label_mass")}
        own |= {"truncation": row.truncation, "neutralised": row.neutralised, "error": row.error}
        if row.calibrated_score is not None:
            own["calibrated_score"] = row.calibrated_score
        written = ("contribution", "evidence", "finish", "output_tokens", "grounding") if row.evidence else ()
        return cls.model_validate(own | {name: getattr(row.evidence, name) for name in written})


class UsageBody(_Body):
    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    output_tokens: int


class RankingBody(_Body):
    results: list[ResultBody]
    usage: UsageBody
    evidence_usage: UsageBody
    model: str
    prompt: str
    degraded: bool
    """Time or the network cost a row its score or its evidence."""

    @classmethod
    def of(cls, ranking: Ranking) -> Self:
        return cls(
            results=[ResultBody.of(row) for row in ranking.results],
            usage=UsageBody.model_validate(ranking.usage),
            evidence_usage=UsageBody.model_validate(ranking.evidence_usage),
            model=ranking.model,
            prompt=ranking.prompt,
            degraded=ranking.degraded,
        )

    def document(self) -> dict[str, Any]:
        """For json.dumps. Keys that do not apply are left out; the others are there even when null."""
        return self.model_dump(mode="json", exclude_unset=True)


_EVENT_NAMES: dict[type, Literal["score", "ranking", "delta", "evidence", "done"]] = {
    Scored: "score",
    Ranked: "ranking",
    EvidenceDelta: "delta",
    EvidenceDone: "evidence",
    Finished: "done",
}


def event_document(event: Event) -> dict[str, Any]:
    """One event as one JSON object: `event` names it, `data` is the row, the ranking or the piece of text."""
    match event:
        case Scored(row) | EvidenceDone(row):
            data = ResultBody.of(row).model_dump(mode="json", exclude_unset=True)
        case Ranked(ranking) | Finished(ranking):
            data = RankingBody.of(ranking).document()
        case EvidenceDelta(index, part, text):
            data = {"index": index, "part": part, "text": text}
    return {"event": _EVENT_NAMES[type(event)], "data": data}


# What is asked. Types are checked here; what a value may be is said once, in request.py and types.py.

# The first fault is told, and no more are looked for: a long list of wrong values would take minutes.
Strings = Annotated[list[str], Field(fail_fast=True)]
FieldNames = Annotated[list[str], Field(fail_fast=True, max_length=100)]
Documents = Annotated[
    list[str | dict[str, Any]],
    Field(
        fail_fast=True,
        description="Strings, or objects with 'text' and maybe 'id', 'title' and 'metadata'; other keys are metadata too.",
    ),
]


_MAX_NAMED_KEYS = 10


class _Ask(BaseModel):
    # Keys that nobody knows are kept, to be named in the answer's warnings.
    model_config = ConfigDict(extra="allow", strict=True)

    def unknown(self) -> list[str]:
        keys = self.model_extra or {}
        more = [f"{len(keys) - _MAX_NAMED_KEYS} more unknown keys were ignored"] if len(keys) > _MAX_NAMED_KEYS else []
        # Cut before it is quoted: a key may have megabytes, and be named in a thousand answers.
        return [f"unknown key {key[:80]!r} was ignored" for key in islice(keys, _MAX_NAMED_KEYS)] + more


class ReadingAsk(_Ask):
    """The options that say how texts are read."""

    instruction: str | None = None
    truncation: TruncationPolicy | bool | None = Field(
        None, description="What of an over-long document is given up; true: its tail; false: nothing, it is an error."
    )
    max_tokens_per_doc: int | None = Field(
        None, description="A document with more is cut, or read in windows of so many, as truncation says."
    )
    deadline_ms: float | None = None
    cache_salt: str | None = None

    def options(self) -> RerankOptions:
        """What was said. A null says nothing."""
        given = {name: getattr(self, name) for name in RerankOptions.__annotations__ if name in type(self).model_fields}
        return cast(RerankOptions, {k: v for k, v in given.items() if v is not None and not isinstance(v, bool)})

    @property
    def refuses_truncation(self) -> bool:
        return self.truncation is False


def side_given_up(side: str | None) -> RerankOptions:
    """A policy by the name that vLLM and TEI have for it: the side on which an over-long text is cut."""
    if side is None:
        return {}
    return {"truncation": "head" if side.lower() == "left" else "tail"}


class _SidedAsk(ReadingAsk):
    """Where vLLM's word for the policy is known, too."""

    truncation_side: Literal["left", "right"] | None = Field(
        None, description="vLLM's: left is truncation head, right is tail; truncation wins."
    )

    def options(self) -> RerankOptions:
        return side_given_up(self.truncation_side) | super().options()


class OptionsAsk(ReadingAsk):
    """RerankOptions over the wire; RerankRequest says what each means."""

    top_n: int | None = None
    min_score: float | None = None
    mode: Mode | None = None
    evidence_top_n: int | None = None
    evidence_min_score: float | None = None
    max_contribution_tokens: int | None = None
    max_evidence_tokens: int | None = None
    temperature: float | None = None


class RerankAsk(OptionsAsk, _SidedAsk):
    """One query or several, over the same documents."""

    query: str | None = None
    queries: Strings | None = None
    documents: Documents
    rank_fields: FieldNames | None = Field(None, description="Cohere's: which fields of objects are read.")
    top_n: int | None = Field(None, description="So many results, the best; 0, as vLLM has it: all.")
    top_k: int | None = Field(None, description="Voyage's top_n; who says it gets Voyage's answer.")
    model: str | None = Field(None, description="Answered by the model that is served, whatever this says.")
    return_documents: bool = True
    stream: bool = False

    @property
    def count(self) -> int:
        """Documents to score, known before anything is made of them."""
        return len(self.documents) * len(self.queries or [""])

    def requests(self) -> list[RerankRequest]:
        if (self.query is None) == (self.queries is None):
            raise InvalidRequest("give either 'query' or 'queries'")
        if self.queries is not None and not self.queries:
            raise InvalidRequest("queries is empty: give at least one")
        documents = documents_of(self.documents, self.rank_fields)
        options = self.options() | ({} if self.top_k is None else RerankOptions(top_n=self.top_k))
        if options.get("top_n") == 0:
            options["top_n"] = None
        return [
            RerankRequest.of(query, documents, **options)
            for query in ([self.query] if self.query is not None else self.queries or [])
        ]


class BatchAsk(_Ask):
    """Requests that have nothing to do with each other, in one body. Each has its own answer or error."""

    requests: Annotated[list[RerankAsk], Field(fail_fast=True, max_length=1000)]

    @property
    def count(self) -> int:
        return sum(one.count for one in self.requests)


def documents_of(values: Documents, fields: list[str] | None = None) -> list[Document]:
    """With `fields`, objects are read as Cohere's v1 does: these fields alone, as "name: value" lines."""
    if fields is None or fields == ["text"]:
        return [Document.of(value, f"documents[{i}]") for i, value in enumerate(values)]
    return [
        Document(value) if isinstance(value, str) else _fielded(value, fields, f"documents[{i}]")
        for i, value in enumerate(values)
    ]


def _fielded(value: dict[str, Any], fields: list[str], where: str) -> Document:
    chosen = {name: value[name] for name in fields if value.get(name) is not None}
    if not chosen:
        raise InvalidRequest(
            f"{where} has none of the rank_fields {', '.join(fields[:10]):.400}: its keys are {sorted(value)[:10]!r:.400}"
        )
    return Document("\n".join(f"{name}: {part}" for name, part in chosen.items()), metadata=value)


class ScoreAsk(_SidedAsk):
    """Texts to score against texts: one with one, one with many, or pair by pair; with `grid`, each with each."""

    queries: str | Strings = Field(validation_alias=AliasChoices("queries", "text_1", "data_1", "query"))
    documents: str | dict[str, Any] | Documents = Field(
        validation_alias=AliasChoices("documents", "text_2", "data_2", "items")
    )
    grid: bool = False
    model: str | None = Field(None, description="Answered by the model that is served, whatever this says.")

    @property
    def count(self) -> int:
        queries, documents = _listed(self.queries), _listed(self.documents)
        return len(queries) * len(documents) if self.grid else max(len(queries), len(documents))

    def pairs(self) -> tuple[list[str], list[Document], list[tuple[int, int]]]:
        """Queries, documents, and which are scored together."""
        queries, documents = _listed(self.queries), documents_of(_listed(self.documents))
        if not queries or not documents:
            raise InvalidRequest(f"{'documents' if queries else 'queries'} is empty: give at least one")
        if self.grid:
            return queries, documents, [(q, d) for q in range(len(queries)) for d in range(len(documents))]
        if len(queries) == 1:
            return queries, documents, [(0, d) for d in range(len(documents))]
        if len(queries) == len(documents):
            return queries, documents, [(i, i) for i in range(len(queries))]
        raise InvalidRequest(
            f"{len(queries)} queries and {len(documents)} documents: give one query, as many as documents, or grid: true"
        )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
