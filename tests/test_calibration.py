"""Calibrations in use: in the engine, behind a server, in a client; and refused where they do not belong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import StartServer
from inprocess import FakeRuntime, InProcess, prism_plan
from samples import QUERY
from server_process import SMALL_CACHE
from whyrank import AsyncClient
from whyrank.calibration import Calibration, read_calibration, write_calibration
from whyrank.checkpoints import Plan, make_plan
from whyrank.config import EngineConfig
from whyrank.connect import open_server
from whyrank.errors import InvalidRequest
from whyrank.evaluation.data import open_collection
from whyrank.evaluation.run import EvalRequest, evaluate, target_of
from whyrank.events import EvidenceDone, Finished, Ranked, Scored
from whyrank.prompting.rendering import instruction_text
from whyrank.reranker import Reranker
from whyrank.types import RankedDocument

TEXTS = ["Water boils at 100 °C.", "Everest is high.", "Tea wants hot water."]

SOUND = '{"whyrank": "calibration", "version": 1, "method": "temperature", "model": "m", "prompt": "p", "points": []}'


@pytest.fixture(scope="module")
def plan(checkpoint: Callable[[str], Path]) -> Plan:
    return prism_plan(checkpoint("qwen3"))


@pytest.fixture
def calibration(plan: Plan) -> Calibration:
    return Calibration("temperature", plan.config.model, plan.format.fingerprint, scale=0.5, offset=-1.0)


@pytest.fixture
def file(calibration: Calibration, tmp_path: Path) -> str:
    write_calibration(calibration, tmp_path / "calibration.json")
    return str(tmp_path / "calibration.json")


def client(server: InProcess, **options: Any) -> AsyncClient:
    return AsyncClient("http://test", transport=httpx.ASGITransport(server.app), **options)


async def rows_of(asking: AsyncClient) -> list[RankedDocument]:
    """Rows from every way in which a client asks: scores, evidence, and a stream."""
    evidence: Any = {"mode": "evidence", "evidence_top_n": 2, "evidence_min_score": 0.0}
    async with asking:
        rows = [*(await asking.rerank(QUERY, TEXTS)).results, *await asking.score(QUERY, TEXTS)]
        rows += (await asking.rerank(QUERY, TEXTS, **evidence)).results
        async for event in asking.stream(QUERY, TEXTS, **evidence):
            if isinstance(event, Scored | EvidenceDone):
                rows.append(event.row)
            elif isinstance(event, Finished):
                rows += event.ranking.results
    assert len(rows) == 5 * len(TEXTS) + 2
    return rows


@pytest.mark.filterwarnings("ignore:calibration")  # the server gives its model another name
@pytest.mark.parametrize("whose", ["server", "client", "both"])
async def test_calibrated_scores_come_from_the_server_or_the_client(
    whose: str, plan: Plan, calibration: Calibration, file: str, tmp_path: Path
) -> None:
    """If both have one, the client's counts."""
    servers, other = file, str(tmp_path / "other.json")
    if whose == "both":
        servers = other
        write_calibration(replace(calibration, scale=2.0), Path(other))
    config = replace(plan.config, calibration=None if whose == "client" else servers)
    rows = await rows_of(client(InProcess(make_plan(config)), calibration=None if whose == "server" else file))
    for row in rows:
        assert row.margin is not None
        assert row.calibrated_score == pytest.approx(calibration.probability(row.margin))


async def test_without_a_calibration_there_is_no_calibrated_score(plan: Plan) -> None:
    assert {row.calibrated_score for row in await rows_of(client(InProcess(plan)))} == {None}


async def test_the_servers_json_has_the_key(plan: Plan, calibration: Calibration, file: str) -> None:
    async with InProcess(make_plan(replace(plan.config, calibration=file))).client() as http:
        answer = (await http.post("/v1/rerank", json={"query": QUERY, "documents": ["a", "b"]})).json()
    for row in answer["results"]:
        assert row["calibrated_score"] == pytest.approx(calibration.probability(row["margin"]))


async def test_a_real_server_takes_the_file(
    checkpoint: Callable[[str], Path], start_server: StartServer, calibration: Calibration, file: str
) -> None:
    server = start_server(checkpoint("qwen3"), "--prompt", "prism", "--calibration", file, *SMALL_CACHE)
    async with AsyncClient(server.url) as asking:
        for row in (await asking.rerank(QUERY, TEXTS)).results:
            assert row.margin is not None
            assert row.calibrated_score == pytest.approx(calibration.probability(row.margin))


def serve_dry(plan: Plan, file: str) -> subprocess.CompletedProcess[str]:
    command = ["serve", plan.config.model, "--prompt", "prism", "--calibration", file, "--dry-run"]
    return subprocess.run(
        [sys.executable, "-m", "whyrank", *command], capture_output=True, text=True, timeout=120, check=False
    )


def test_serve_refuses_the_calibration_of_another_prompt_before_an_engine_starts(
    plan: Plan, calibration: Calibration, file: str
) -> None:
    assert f"WHYRANK_CALIBRATION={file}" in serve_dry(plan, file).stderr
    write_calibration(replace(calibration, prompt="prism@other"), Path(file))
    done = serve_dry(plan, file)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"made for prompt prism@other, and this engine uses {calibration.prompt}: calibrate again" in done.stderr


async def test_a_client_refuses_the_calibration_of_another_prompt(
    plan: Plan, calibration: Calibration, file: str
) -> None:
    write_calibration(replace(calibration, prompt="prism@other"), Path(file))
    async with client(InProcess(plan), calibration=file) as asking:
        with pytest.raises(InvalidRequest, match="made for prompt prism@other"):
            await asking.rerank(QUERY, ["a"])


# Another instruction makes another prompt. `instructed` takes any; the file is for calls with STRICT, which evaluations use.

STRICT, KIND = "Find what answers the question.", "Find anything near it."


@pytest.fixture(scope="module")
def instructed(checkpoint: Callable[[str], Path]) -> Plan:
    return make_plan(EngineConfig(str(checkpoint("qwen3")), prompt="qwen3-reranker"))


@pytest.fixture
async def strict(instructed: Plan, tmp_path: Path) -> str:
    """A calibration made the way users make it, as far as it matters for which calls it is valid."""
    data, results, file = tmp_path / "data.jsonl", tmp_path / "results", tmp_path / "strict.json"
    data.write_text(json.dumps({"query": QUERY, "positive": TEXTS[:1], "negative": TEXTS[1:]}) + "\n")
    reranker = InProcess(instructed).service.reranker
    await evaluate(open_collection(data), reranker, EvalRequest("tiny", options={"instruction": STRICT}), results)
    model, prompt = target_of(results)
    write_calibration(Calibration("temperature", model, prompt, scale=0.5, offset=-1.0), file)
    return str(file)


def fitting(instructed: Plan, file: str | None) -> Plan:
    return make_plan(replace(instructed.config, calibration=file))


OTHERS = pytest.mark.parametrize("instruction", [None, "", KIND])
REFUSAL = r"qwen3-reranker@\w{12}\+\w{12}, and this call's is qwen3-reranker@.*Give the one it was made with"


@pytest.mark.filterwarnings("ignore:calibration")
@OTHERS
async def test_no_score_is_calibrated_for_another_instruction(
    instruction: str | None, instructed: Plan, strict: str
) -> None:
    plan = fitting(instructed, strict)
    runtime = FakeRuntime(plan.encoder)
    reranker = Reranker.from_runtime(runtime, plan.encoder, plan.config)
    for row in await reranker.score(QUERY, TEXTS, instruction=STRICT):
        assert row.margin is not None
        assert row.calibrated_score == pytest.approx(read_calibration(Path(strict)).probability(row.margin))
    runtime.prompts.clear()
    with pytest.raises(InvalidRequest, match=REFUSAL):
        await reranker.rerank(QUERY, TEXTS, instruction=instruction)
    assert runtime.prompts == []


@pytest.mark.filterwarnings("ignore:calibration")
@OTHERS
async def test_a_clients_calibration_is_refused_for_another_instruction(
    instruction: str | None, instructed: Plan, strict: str
) -> None:
    async with client(InProcess(instructed), calibration=strict) as asking:
        assert all(row.calibrated_score is not None for row in await asking.score(QUERY, TEXTS, instruction=STRICT))
        for _ in range(2):  # from the server, and from the client's memory
            with pytest.raises(InvalidRequest, match=REFUSAL):
                await asking.rerank(QUERY, TEXTS, instruction=instruction)
        with pytest.raises(InvalidRequest, match=REFUSAL):
            event = await anext(asking.stream(QUERY, TEXTS, instruction=instruction))
            pytest.fail(f"an event before the refusal: {event}")
        events = [event async for event in asking.stream(QUERY, TEXTS, instruction=STRICT)]
        assert [type(event) for event in events] == [Scored] * 3 + [Ranked, Finished]


@pytest.mark.filterwarnings("ignore:calibration")
async def test_a_server_gives_what_its_calibration_fits_and_says_where_it_does_not(
    instructed: Plan, strict: str
) -> None:
    """Callers did not choose the server's calibration. A calibration of their own counts, whatever the server has."""
    default = str(Path(strict).with_name("default.json"))
    write_calibration(Calibration("temperature", "tiny", instructed.format.fingerprint), Path(default))
    server = InProcess(fitting(instructed, default))
    await server.service.warm_up()
    async with server.client() as http:
        answers = [
            (
                await http.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS, "instruction": instruction})
            ).json()
            for instruction in (None, instruction_text(instructed.format, None), STRICT)
        ]
    calibrated = [["calibrated_score" in row for row in answer["results"]] for answer in answers]
    assert calibrated == [[True] * 3, [True] * 3, [False] * 3]
    warning = "no calibrated_score: the server's calibration was made with another instruction or model"
    assert [answer.get("warnings") for answer in answers] == [None, None, [warning]]
    async with client(server, calibration=strict) as asking:
        assert all(row.calibrated_score is not None for row in await asking.score(QUERY, TEXTS, instruction=STRICT))


@pytest.mark.filterwarnings("ignore:calibration")
async def test_a_servers_limits_hold_where_its_calibration_does_not_fit(instructed: Plan, strict: str) -> None:
    server = InProcess(fitting(instructed, strict), characters=100)
    async with server.client() as http:
        for instruction in (None, STRICT):
            body = {"query": QUERY, "documents": ["x" * 101, "y"], "instruction": instruction}
            rows = (await http.post("/v1/rerank", json=body)).json()["results"]
            assert [row["error"] and row["error"]["code"] for row in rows] == [None, "too_large"]


@pytest.mark.filterwarnings("ignore:calibration")
async def test_a_server_whose_calibration_is_for_one_instruction_starts_and_is_well(
    instructed: Plan, strict: str
) -> None:
    server = InProcess(fitting(instructed, strict))
    await server.service.warm_up()
    assert (await server.service.health()).status == "ok"
    async with client(server) as asking:
        assert all(row.calibrated_score is not None for row in await asking.score(QUERY, TEXTS, instruction=STRICT))
        assert all(row.calibrated_score is None for row in await asking.score(QUERY, TEXTS))


async def test_commands_give_the_file_to_the_client(file: str) -> None:
    async with open_server("http://localhost:1", None, EngineConfig("m", calibration=file)) as asking:
        assert isinstance(asking, AsyncClient)
    with pytest.raises(InvalidRequest, match=r"gone\.json: No such file"):
        open_server("http://localhost:1", None, EngineConfig("m", calibration="gone.json"))


def test_another_models_name_is_a_warning_and_another_path_to_it_is_none(plan: Plan, calibration: Calibration) -> None:
    with pytest.warns(UserWarning, match=r"it was made for org/large, and this is /models/small; unless they are one"):
        replace(calibration, model="org/large").check_fits("/models/small", calibration.prompt)
    with warnings.catch_warnings(action="error"):
        replace(calibration, model="org/small").check_fits("/models/small/", calibration.prompt)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[]", "was not written by this version of `whyrank calibrate`"),
        ('{"whyrank": "calibration", "version": 9}', "by this version"),
        (SOUND.replace('"points": []', '"dots": []'), "points"),
        (SOUND.replace("temperature", "isotonic"), "are not a valid calibration"),
        (SOUND.replace("[]", "[[1, 0], [0, 1]]").replace("temperature", "isotonic"), "are not a valid calibration"),
        (SOUND.replace("[]", "[[1, NaN]]").replace("temperature", "isotonic"), "are not a valid calibration"),
        (SOUND.replace("temperature", "platt"), "are not a valid calibration"),
    ],
)
def test_a_broken_calibration_is_told_before_an_engine_starts(
    content: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "calibration.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        Reranker("m", calibration=str(path))
