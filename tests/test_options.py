"""Every option is defined in one place: what is derived from the fields of RerankRequest and EngineConfig."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

import httpx
import pytest
import typer
from fastapi import FastAPI
from mcp import Client
from typer.testing import CliRunner

from whyrank.adapters.mcp import tools_over
from whyrank.cli.flags import Flags, flags_of
from whyrank.config import EngineConfig
from whyrank.errors import InvalidRequest
from whyrank.options import Option, check_options, options_of
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.types import Usage
from whyrank.wire.requests import options_body


@dataclass(frozen=True)
class Extended(RerankRequest):
    """A copy of the request with one additional option."""

    max_adjectives: Annotated[int | None, Option("Adjectives in an answer, at most.", minimum=2, agent=True)] = 7


class Body(options_body(Extended, options_of(Extended))):  # type: ignore[misc]
    query: str


def test_every_field_but_the_texts_is_an_option() -> None:
    assert list(options_of(RerankRequest)) == [field.name for field in fields(RerankRequest)][2:]
    assert list(options_of(EngineConfig)) == [field.name for field in fields(EngineConfig)][1:]


def test_the_keywords_for_type_checkers_are_those_of_the_request() -> None:
    request = get_type_hints(RerankRequest)
    assert get_type_hints(RerankOptions) == {name: request[name] for name in options_of(RerankRequest)}


def test_a_new_option_is_checked_in_python() -> None:
    assert options_of(Extended)["max_adjectives"].default == 7
    check_options(Extended("q", ()))
    with pytest.raises(InvalidRequest, match="max_adjectives is 1: give a whole number of at least 2, or leave it out"):
        check_options(Extended("q", (), max_adjectives=1))


def test_a_new_option_is_a_flag() -> None:
    app, seen = typer.Typer(), []

    @app.command()
    @flags_of("options", Extended)
    def command(*, options: Flags) -> None:
        seen.append(options)

    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert "--max-adjectives" in shown and "Adjectives in an answer, at most." in shown
    assert CliRunner().invoke(app, ["--max-adjectives", "3", "--mode", "evidence"]).exit_code == 0
    assert (seen[0]["max_adjectives"], seen[0]["mode"], seen[0]["evidence_top_n"]) == (3, "evidence", 5)


async def test_a_new_option_is_a_key_of_http_bodies_and_in_openapi() -> None:
    app = FastAPI()

    @app.post("/")
    async def answer(body: Body) -> Any:
        return body.max_adjectives

    shown = app.openapi()["components"]["schemas"]["Body"]["properties"]["max_adjectives"]
    assert shown["description"] == "Adjectives in an answer, at most."
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        assert (await http.post("/", json={"query": "q", "max_adjectives": 4})).json() == 4
        assert (await http.post("/", json={"query": "q", "max_adjectives": "4"})).json() == 4
        assert (await http.post("/", json={"query": "q", "max_adjectives": "four"})).status_code == 422
        assert (await http.post("/", json={"query": "q", "max_adjectives": None})).json() is None


async def test_a_new_option_is_an_argument_of_the_tools_for_agents() -> None:
    calls: list[Any] = []

    class Recorder:
        async def rerank(self, query: str, documents: Any, **options: Any) -> Ranking:
            calls.append(options)
            return Ranking((), Usage(), "m", "p")

    async with Client(tools_over(Recorder(), Extended)) as client:  # type: ignore[arg-type]
        tools = {tool.name: tool.input_schema["properties"] for tool in (await client.list_tools()).tools}
        assert tools["rerank"]["max_adjectives"]["description"] == "Adjectives in an answer, at most."
        assert "max_adjectives" in tools["rerank_with_evidence"] and "temperature" not in tools["rerank"]
        await client.call_tool("rerank", {"query": "q", "documents": ["d"], "max_adjectives": 3})
    assert calls == [{"instruction": None, "deadline_ms": None, "max_adjectives": 3, "top_n": 10}]


@pytest.mark.parametrize(
    ("value", "accepted"),
    [(True, False), (1, False), ("1", False), (2, True), (2.5, False), (None, True)],
)
def test_whole_numbers(value: Any, accepted: bool) -> None:
    option = options_of(Extended)["max_adjectives"]
    if accepted:
        option.check(value)
    else:
        with pytest.raises(InvalidRequest):
            option.check(value)


def test_engine_options_may_not_change_what_scores_depend_on() -> None:
    config = EngineConfig("m", engine_options={"max_num_seqs": 8})
    assert config.engine_options == {"max_num_seqs": 8}
    with pytest.raises(InvalidRequest, match="engine_options may not hold 'logprobs_mode': whyrank sets it"):
        EngineConfig("m", engine_options={"logprobs_mode": "raw_logits"})
    with pytest.raises(
        InvalidRequest, match="engine_options may not hold 'dtype': EngineConfig has an option of its own"
    ):
        EngineConfig("m", engine_options={"dtype": "float16"})
    with pytest.raises(InvalidRequest, match="gpu_memory_utilization is 2: give a number between 0 and 1"):
        EngineConfig("m", gpu_memory_utilization=2)
