"""What a caller may request, and every check that needs no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypedDict, Unpack

from whyrank.errors import InvalidRequest
from whyrank.options import Option, check_options
from whyrank.types import Document, DocumentLike, Method, TruncationPolicy

__all__ = ["EvidenceStyle", "Mode", "RerankOptions", "RerankRequest", "Verify"]

Mode = Literal["score", "evidence", "spans"]
EvidenceStyle = Literal["rewrite", "verbatim"]
Verify = Literal["words", "model"]
# Smaller ones would make thousands of prompts of one document.
_MIN_WINDOW = 128
# The engine takes lower ones for this one, or for none.
_MIN_SAMPLING_TEMPERATURE = 0.01


class RerankOptions(TypedDict, total=False):
    """The options of RerankRequest as keywords, for type checkers, which cannot derive them; a test compares the two."""

    instruction: str | None
    top_n: int | None
    min_score: float | None
    method: Method
    listwise_window: int | None
    listwise_stride: int | None
    listwise_passes: int
    truncation: TruncationPolicy
    max_tokens_per_doc: int | None
    max_tokens_per_query: int | None
    max_prompt_tokens: int | None
    truncate_query: bool
    mode: Mode
    evidence_top_n: int
    evidence_min_score: float
    evidence_style: EvidenceStyle | None
    evidence_samples: int
    verify: Verify
    span_min_score: float
    max_spans: int
    max_contribution_tokens: int | None
    max_evidence_tokens: int | None
    temperature: float
    deadline_ms: float | None
    cache_salt: str | None


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """One query and its candidates. Build it with `of`, which checks it.

    Everything is scored first: `top_n` and `min_score` limit the answer, never the scoring. Calls share cached prefixes only
    with calls of the same `cache_salt`, so that response times tell tenants nothing about each other.
    """

    query: str
    documents: tuple[Document, ...]
    instruction: Annotated[
        str | None, Option('What "relevant" means, for prompts that take an instruction.', agent=True)
    ] = None
    top_n: Annotated[int | None, Option("Return only the best N; all documents are scored.", minimum=1)] = None
    min_score: Annotated[
        float | None, Option("Return only scores of at least this (0 to 1).", minimum=0, maximum=1)
    ] = None
    method: Annotated[
        Method,
        Option(
            "pointwise: score each document by itself. listwise: have the model order the documents, several in one "
            "prompt, with models and prompts that can."
        ),
    ] = "pointwise"
    listwise_window: Annotated[
        int | None, Option("Documents of one listwise prompt; by default the prompt file's number.", minimum=2)
    ] = None
    listwise_stride: Annotated[
        int | None,
        Option("By how many documents the next listwise prompt is further up; by default half a window.", minimum=1),
    ] = None
    listwise_passes: Annotated[
        int,
        Option(
            "How often a listwise call goes through the documents, from the last to the first.", minimum=1, maximum=10
        ),
    ] = 1
    truncation: Annotated[
        TruncationPolicy,
        Option("Which part of an over-long document is dropped; windows: none, the best window's score counts."),
    ] = "tail"
    max_tokens_per_doc: Annotated[
        int | None,
        Option("Maximum tokens of a document; by default what the model accepts.", minimum=1),
    ] = None
    max_tokens_per_query: Annotated[int | None, Option("Maximum tokens of the query.", minimum=1)] = None
    max_prompt_tokens: Annotated[
        int | None,
        Option("Maximum tokens of the whole prompt; the document is cut first, then the query.", minimum=1),
    ] = None
    truncate_query: Annotated[
        bool, Option("Cut the end off a query that is longer than the model reads; otherwise it is an error.")
    ] = False
    mode: Annotated[
        Mode,
        Option("evidence: also explain the best documents. spans: also find the answer's position in them."),
    ] = "score"
    evidence_top_n: Annotated[int, Option("Maximum number of documents that are explained.", minimum=1)] = 5
    evidence_min_score: Annotated[
        float,
        Option("Minimum score of an explained document; below 0.5 the model itself answers no.", minimum=0, maximum=1),
    ] = 0.5
    evidence_style: Annotated[
        EvidenceStyle | None,
        Option(
            "rewrite: in the model's own words, checked. verbatim: sentences of the document, chosen by the model; "
            "the default of the embedded model."
        ),
    ] = None
    evidence_samples: Annotated[
        int,
        Option(
            "Wordings that are sampled of each document's evidence: the first, and its variants. More than one needs a "
            "temperature, such as 0.4.",
            minimum=1,
            maximum=16,
        ),
    ] = 1
    verify: Annotated[
        Verify,
        Option(
            "words: compare the evidence with its document word by word. model: a model also scores the sentences that "
            "are unverified then, those of the contribution included.",
        ),
    ] = "words"
    span_min_score: Annotated[float, Option("Minimum score of a span.", minimum=0, maximum=1)] = 0.5
    max_spans: Annotated[int, Option("Maximum number of spans per document.", minimum=1)] = 3
    max_contribution_tokens: Annotated[int | None, Option("By default the prompt file's limit.", minimum=1)] = None
    max_evidence_tokens: Annotated[int | None, Option("By default the prompt file's limit.", minimum=1)] = None
    temperature: Annotated[
        float, Option("Sampling temperature of the evidence; does not affect scores.", minimum=0, maximum=2)
    ] = 0.0
    deadline_ms: Annotated[
        float | None,
        Option("Answer within this time, with what is ready.", positive=True, unit="milliseconds", agent=True),
    ] = None
    cache_salt: Annotated[str | None, Option("Share cached prefixes only with calls of the same salt.", flag=False)] = (
        None
    )

    @classmethod
    def of(cls, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]) -> RerankRequest:
        if not isinstance(query, str):
            raise InvalidRequest(f"query is a {type(query).__name__}: give a string")
        if not query.strip():
            raise InvalidRequest("query is empty: give the text that documents should be relevant to")
        if isinstance(documents, str | Mapping) or not isinstance(documents, Iterable):
            raise InvalidRequest(f"documents is a {type(documents).__name__}: give a list of documents")
        checked = tuple(Document.of(value, f"documents[{i}]") for i, value in enumerate(documents))
        if not checked:
            raise InvalidRequest("documents is empty: give at least one document")
        request = cls(query, checked, **options)
        check_options(request)
        if request.cache_salt is not None and not _is_salt(request.cache_salt):
            raise InvalidRequest(
                f"cache_salt is {request.cache_salt!r:.60}: give a non-empty string without lone surrogates"
            )
        if request.evidence_samples > 1 and request.temperature < _MIN_SAMPLING_TEMPERATURE:
            raise InvalidRequest(
                f"evidence_samples is {request.evidence_samples} and temperature {request.temperature:g}, at which all samples "
                "are the same: give a temperature as well, such as 0.4"
            )
        if request.truncation == "windows" and (request.max_tokens_per_doc or _MIN_WINDOW) < _MIN_WINDOW:
            raise InvalidRequest(
                f"max_tokens_per_doc is {request.max_tokens_per_doc}: with truncation 'windows' it is the size of a window, "
                f"and at least {_MIN_WINDOW}"
            )
        if request.method == "listwise":
            _check_listwise(request)
        return request

    def to_score(self, documents: Iterable[Document]) -> RerankRequest:
        """The same request for scores only, of these documents, all of them returned."""
        return replace(self, documents=tuple(documents), mode="score", method="pointwise", top_n=None, min_score=None)


def _check_listwise(request: RerankRequest) -> None:
    if request.mode != "score":
        raise InvalidRequest(
            f"mode is {request.mode!r} and method 'listwise', which only orders documents: use method 'pointwise'"
        )
    if request.min_score is not None:
        raise InvalidRequest(
            f"min_score is {request.min_score:g}: method 'listwise' gives an order, not scores for a threshold: give top_n, or "
            "use method 'pointwise'"
        )
    if request.truncation != "tail":
        raise InvalidRequest(
            f"truncation is {request.truncation!r}: method 'listwise' cuts the end of long documents; leave it out"
        )


def _is_salt(value: str) -> bool:
    """The engine gets the salt as UTF-8, which cannot encode lone surrogates."""
    return value != "" and value.encode("utf-8", "ignore").decode() == value
