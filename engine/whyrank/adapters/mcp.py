"""MCP: reranking as tools for agents. The command `whyrank mcp` serves them on stdin and stdout."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from whyrank import __version__
from whyrank.adapters.base import framework
from whyrank.base import BaseReranker
from whyrank.errors import WhyrankError
from whyrank.options import Option, options_of, spread
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest, Verify
from whyrank.types import RankedDocument

with framework(extra="mcp"):
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import Tool, ToolAnnotations

__all__ = ["tools_over"]

_INSTRUCTIONS = (
    "Orders documents that you have found by how relevant they are to a question. Where you will read or quote them, call "
    "rerank_with_evidence: it also writes down what each of the best says about the question, checked against its document. "
    "Where only the order matters, rerank is many times faster."
)


class Candidate(BaseModel):
    """A document with an id."""

    text: str
    id: str | None = Field(None, description="Returned with the result.")
    title: str | None = None


class Ranked(BaseModel):
    index: int = Field(description="The document's place in the list that was given, from 0.")
    id: str | None
    score: float | None = Field(description="How sure it is that the document is relevant, 0 to 1; null: see error.")
    error: str | None = Field(None, description="Why this document has no score.")


class Explained(Ranked):
    contribution: str = Field("", description="One sentence: what the document contributes to the question.")
    evidence: str = Field("", description="What it says about the question, understandable by itself; may be quoted.")
    supported: float | None = Field(None, description="Share of the evidence that the document backs, 0 to 1.")
    altered: float | None = Field(None, description="Share of the evidence that the document contradicts, 0 to 1.")
    unverified: float | None = Field(
        None, description="Share of the evidence worded too differently to be checked, 0 to 1."
    )
    backed_by_model: float | None = Field(
        None,
        description="Share of the evidence that only a model confirms; with verify 'model'.",
    )
    unsupported: list[str] = Field([], description="Numbers, dates, names and the like that are not in the document.")
    complete: bool = Field(False, description="Whether contribution and evidence are complete.")


class RankedAnswer(BaseModel):
    """Best first."""

    results: Sequence[Ranked]
    degraded: bool = Field(
        description="Something is missing because of the deadline or the network: call again, with more time, if that matters."
    )


class ExplainedAnswer(RankedAnswer):
    results: Sequence[Explained]


Query = Annotated[str, Field(description="The question or search query, as a full sentence where there is one.")]
Documents = Annotated[
    list[str | Candidate], Field(description="The documents: texts, or objects with text and optionally id and title.")
]
TopN = Annotated[int, Field(ge=1, description="How many of the best documents to return.")]


class _StrictServer(MCPServer[Any]):
    """Rejects unknown arguments. The SDK ignores them, so a misspelt top_n would go unnoticed."""

    async def list_tools(self) -> list[Tool]:
        closed = {"additionalProperties": False}
        return [
            tool.model_copy(update={"input_schema": tool.input_schema | closed}) for tool in await super().list_tools()
        ]

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        for tool in await self.list_tools():
            known = tool.input_schema["properties"]
            if tool.name == name and (unknown := arguments.keys() - known.keys()):
                raise ToolError(f"{name} has no argument {', '.join(sorted(unknown))}; it has {', '.join(known)}")
        return await super().call_tool(name, arguments, context)


class _Tools:
    """The tools. Agents see each method's docstring, parameters and result."""

    def __init__(self, reranker: BaseReranker) -> None:
        self._reranker = reranker

    async def rerank_with_evidence(
        self,
        query: Query,
        documents: Documents,
        top_n: TopN = 5,
        min_score: Annotated[
            float, Field(ge=0, le=1, description="Minimum score of a document that gets evidence.")
        ] = 0.5,
        verify: Annotated[
            Verify,
            Field(description="model: a model also judges unverified sentences, if the server has one."),
        ] = "words",
        *,
        options: dict[str, Any],
    ) -> ExplainedAnswer:
        """Order documents by relevance to a query, and say why for the best of them.

        Each of the top_n that is relevant (score of at least min_score) comes with a one-sentence contribution and a short
        evidence passage that can be understood without the document, with the share of it that the document backs. Read
        the evidence instead of the documents: it is much shorter. Writing it takes a second or more; with deadline_ms you
        get what is done by then.
        """
        options |= {"mode": "evidence", "top_n": top_n, "evidence_top_n": top_n, "evidence_min_score": min_score}
        options["verify"] = verify
        ranking = await _rerank(self._reranker, query, documents, options)
        return ExplainedAnswer(results=[_explained(row) for row in ranking.results], degraded=ranking.degraded)

    async def rerank(
        self,
        query: Query,
        documents: Documents,
        top_n: TopN = 10,
        *,
        options: dict[str, Any],
    ) -> RankedAnswer:
        """Order documents by relevance to a query: scores only, and fast.

        Use it to cut many candidates down to a few; rerank_with_evidence also says what each of them contributes.
        """
        ranking = await _rerank(self._reranker, query, documents, options | {"top_n": top_n})
        return RankedAnswer(results=[Ranked(**_ranked(row)) for row in ranking.results], degraded=ranking.degraded)


def tools_over(reranker: BaseReranker, request: type = RerankRequest) -> MCPServer[Any]:
    """`reranker` must be running while the tools are served. `request`: the class whose options for agents the tools have."""
    server = _StrictServer("whyrank", version=__version__, instructions=_INSTRUCTIONS, log_level="WARNING")
    parameters = [_parameter(option) for option in options_of(request).values() if option.agent]
    only_reads = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
    tools = _Tools(reranker)
    for title, method in (("Rerank with evidence", tools.rerank_with_evidence), ("Rerank", tools.rerank)):
        server.tool(title=title, annotations=only_reads)(spread(method, "options", parameters))
    return server


async def _rerank(
    reranker: BaseReranker, query: str, documents: Sequence[str | Candidate], options: dict[str, Any]
) -> Ranking:
    given = [one if isinstance(one, str) else one.model_dump() for one in documents]
    try:
        return await reranker.rerank(query, given, **options)
    except WhyrankError as error:
        raise ToolError(str(error)) from error  # other exceptions reach the agent without their text


def _parameter(option: Option) -> inspect.Parameter:
    field = Field(description=option.help, ge=option.minimum, le=option.maximum, gt=0 if option.positive else None)
    kind: Any = option.kind | None if option.optional else option.kind
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=Annotated[kind, field]
    )


def _ranked(row: RankedDocument) -> dict[str, Any]:
    return {
        "index": row.index,
        "id": row.id,
        "score": row.score,
        "error": row.error.message if row.error else None,
    }


def _explained(row: RankedDocument) -> Explained:
    if row.evidence is None:
        return Explained(**_ranked(row))
    grounding = row.evidence.grounding
    return Explained(
        **_ranked(row),
        contribution=row.evidence.contribution,
        evidence=row.evidence.evidence,
        supported=grounding.supported if grounding else None,
        altered=grounding.altered if grounding else None,
        unverified=grounding.unverified if grounding else None,
        backed_by_model=grounding.verification.backed if grounding and grounding.verification else None,
        unsupported=[item.text for item in grounding.unsupported] if grounding else [],
        complete=row.evidence.finish == "complete",
    )
