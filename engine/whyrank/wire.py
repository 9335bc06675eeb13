"""The native JSON shapes, one home for the command line's --json and for HTTP. types ↔ wire is a pure mapping."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from whyrank.types import Ranking

__all__ = ["ErrorBody", "RankingBody", "ResultBody", "TruncationBody", "UsageBody", "WindowBody"]


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


class ResultBody(_Body):
    index: int
    id: str | None
    rank: int | None
    score: float | None
    margin: float | None
    label_mass: float | None
    truncation: TruncationBody | None
    error: ErrorBody | None


class UsageBody(_Body):
    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int


class RankingBody(_Body):
    results: list[ResultBody]
    usage: UsageBody
    model: str
    prompt: str

    @classmethod
    def of(cls, ranking: Ranking) -> RankingBody:
        return cls.model_validate(ranking)

    def json_document(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
