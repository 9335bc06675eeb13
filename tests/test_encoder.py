"""The encoder route: what it refuses to load, what it does when memory runs out, and how its server stops."""

from __future__ import annotations

import asyncio
import faulthandler
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

import whyrank
from inprocess import FakeRuntime
from waiting import until
from whyrank.checkpoints import Plan, make_plan
from whyrank.config import EngineConfig
from whyrank.errors import CheckpointError
from whyrank.prompting.scoring import LabelRead
from whyrank.prompting.tokens import Ids
from whyrank.runtimes.encoder import EncoderRuntime, load_classifier, use_tensor_cores
from whyrank.runtimes.reference import Reference
from whyrank.runtimes.vllm_compat import DOCS_FILES
from whyrank.serving.admission import Limits
from whyrank.serving.service import Service
from whyrank.serving.standalone import StandaloneServer
from whyrank.serving.start_lines import Start
from whyrank.types import DocumentError


@pytest.fixture
def plan(checkpoint: Callable[[str], Path]) -> Plan:
    return make_plan(EngineConfig(str(checkpoint("deberta")), prompt="multi-hop"))


# Loading.


@pytest.fixture
def without(checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[[str, str], Path]:
    """without(kind, start): a copy of the checkpoint that lacks the weights whose names begin with `start`."""

    def made(kind: str, start: str) -> Path:
        folder = shutil.copytree(checkpoint(kind), tmp_path / kind)
        weights = load_file(folder / "model.safetensors")
        kept = {name: value for name, value in weights.items() if not name.startswith(start)}
        assert 0 < len(kept) < len(weights)
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
        return folder

    return made


def test_a_checkpoint_without_its_head_is_refused(without: Callable[[str, str], Path]) -> None:
    plan = make_plan(EngineConfig(str(without("deberta", "classifier.")), prompt="multi-hop"))
    with pytest.raises(CheckpointError, match=r"has no weights for classifier\.bias, classifier\.weight: give a check"):
        load_classifier(plan, "float32")


def test_many_missing_weights_are_told_in_short(without: Callable[[str, str], Path]) -> None:
    plan = make_plan(EngineConfig(str(without("deberta", "deberta.encoder.layer.1.")), prompt="multi-hop"))
    with pytest.raises(CheckpointError, match=r"no weights for (deberta\.encoder\.layer\.1\.\S+, ){5}\.\.\.: give"):
        load_classifier(plan, "float32")


def test_what_engines_are_held_against_is_whole_too(without: Callable[[str, str], Path]) -> None:
    plan = make_plan(EngineConfig(str(without("qwen3", "model.layers.2.mlp.")), prompt="prism"))
    with pytest.raises(CheckpointError, match=r"no weights for model\.layers\.2\.mlp"):
        Reference(plan, "float32")


def test_a_gpu_multiplies_in_tf32_unless_all_digits_are_asked_for(
    without: Callable[[str, str], Path], plan: Plan
) -> None:
    def model(device: str, dtype: torch.dtype = torch.float32) -> Any:
        return SimpleNamespace(device=SimpleNamespace(type=device), dtype=dtype)

    before = torch.get_float32_matmul_precision()
    in_float32 = replace(plan, config=replace(plan.config, dtype="float32"))
    assert use_tensor_cores(model("cpu"), plan) is None and use_tensor_cores(model("cuda"), in_float32) is None
    assert use_tensor_cores(model("cuda", torch.bfloat16), plan) is None
    assert torch.get_float32_matmul_precision() == before
    assert use_tensor_cores(model("cuda"), plan) == before and torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision(before)


# When memory runs out.


class SmallMemory:
    """A model whose logit is the sum of a prompt's ids; fails for more than a given number of rows at once, and for the id
    13."""

    device, config = "cpu", SimpleNamespace(pad_token_id=0)

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.took: list[int] = []

    def __call__(self, input_ids: Any, attention_mask: Any = None) -> dict[str, Any]:
        self.took.append(len(input_ids))
        if len(input_ids) > self.rows or bool((input_ids == 13).any()):
            raise torch.OutOfMemoryError("tried to allocate more than there is")
        return {"logits": input_ids.sum(1, keepdim=True).float()}


async def read(model: SmallMemory, plan: Plan, prompts: Sequence[Ids]) -> list[LabelRead | DocumentError]:
    runtime = EncoderRuntime(model, plan)
    answers = {i: answer async for several in runtime.read(prompts, [0] * len(prompts), None) for i, answer in several}
    await runtime.aclose()
    return [answers[i] for i in range(len(prompts))]


@pytest.mark.parametrize("rows", [1, 3, 50])
async def test_a_batch_that_does_not_fit_is_read_in_halves(plan: Plan, rows: int) -> None:
    model, prompts = SmallMemory(rows), [(n + 20,) * (n % 4 + 1) for n in range(40)]
    assert await read(model, plan, prompts) == [LabelRead(sum(ids), None, len(ids)) for ids in prompts]
    assert max(model.took) == 40 and (rows < 40 or model.took == [40])


async def test_a_document_that_never_fits_costs_the_others_nothing(plan: Plan) -> None:
    prompts: list[Ids] = [(n,) for n in range(1, 33)]
    rows = await read(SmallMemory(50), plan, prompts)
    failed = {i: row for i, row in enumerate(rows) if isinstance(row, DocumentError)}
    message = "the model refused this document: tried to allocate more than there is"
    assert failed == {12: DocumentError("engine", message)}


# Its server.


async def test_its_api_page_needs_nothing_from_elsewhere(plan: Plan) -> None:
    async with Running(plan) as running:
        page = (await running.client.get("/docs")).raise_for_status().text
        for name in DOCS_FILES:
            assert f'"/static/{name}"' in page
            assert len((await running.client.get(f"/static/{name}")).raise_for_status().content) > 10_000
        assert (await running.client.get("/openapi.json")).json()["info"]["title"] == "whyrank"
        assert (await running.client.get("/redoc")).status_code == 404


class Running:
    """A server on a local port, over a runtime that holds its answers back."""

    def __init__(self, plan: Plan, *keys: str, start: Start | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.runtime = FakeRuntime(plan.encoder)
        service = Service(self.runtime, plan, Limits(), keys, "tiny")
        self.server = StandaloneServer(service, "127.0.0.1", port, shutdown_seconds=0.2, start=start)
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}")

    async def __aenter__(self) -> Running:
        self.serving = asyncio.create_task(self.server.serve())
        await until(lambda: self.server.started)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.server.should_exit = True
        await asyncio.wait_for(self.serving, 10)
        await self.client.aclose()


async def test_told_to_stop_it_takes_nothing_new_and_answers_with_what_it_has(plan: Plan) -> None:
    ask = {"query": "q", "documents": ["a", "b"]}
    async with Running(plan) as running:
        running.runtime.open.clear()
        call = asyncio.create_task(running.client.post("/v1/rerank", json=ask))
        await running.runtime.reached.wait()
        running.server.should_exit = True  # what its handler of SIGTERM does
        for _ in range(200):  # uvicorn checks it from time to time
            late = await running.client.post("/v1/rerank", json=ask | {"deadline_ms": 1})
            if late.status_code != 200:
                break
        assert (late.status_code, late.json()["error"]["type"]) == (503, "Stopping")
        answer = await asyncio.wait_for(call, 5)
    assert answer.status_code == 200
    assert [row["error"]["code"] for row in answer.json()["results"]] == ["deadline", "deadline"]


async def test_its_start_is_told_in_a_few_lines(plan: Plan, capfd: pytest.CaptureFixture[str]) -> None:
    async with Running(plan, start=Start(time.time(), "because")) as running:
        assert (await running.client.get("/playground")).status_code == 200
        *lines, ready = capfd.readouterr().err.splitlines()
    assert f"playground: {running.client.base_url}/playground" in lines
    assert len(lines) < 10 and ready.startswith("ready in ")


async def test_told_to_stop_by_a_signal_it_ends_as_one_that_has_not_failed(plan: Plan) -> None:
    raised: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: raised.append(number))
    try:
        async with Running(plan) as running:
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(running.serving, 10)
    finally:
        faulthandler.cancel_dump_traceback_later()  # the end by force, of this process
        signal.signal(signal.SIGTERM, before)
    assert raised == []  # uvicorn's own server raises the signal again


async def test_it_names_its_model_as_vllm_does(plan: Plan) -> None:
    async with Running(plan, "secret") as running:
        assert (await running.client.get("/v1/models")).status_code == 401
        answer = await running.client.get("/v1/models", headers={"authorization": "Bearer secret"})
        for path in ("/metrics", "/metrics/"):
            assert (await running.client.get(path)).status_code == 200
        versions = await running.client.get("/version", headers={"authorization": "Bearer secret"})
    assert versions.json() == {"whyrank": whyrank.__version__}
    (model,) = answer.json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("tiny", "model", plan.encoder.max_length)
