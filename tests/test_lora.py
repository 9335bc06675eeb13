"""LoRA adapters: a request chooses one by the model's name, and gets the scores of the checkpoint with the adapter merged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import server_process
from inprocess import FakeRuntime, InProcess, prism_plan
from samples import DOCUMENTS, QUERY
from server_process import SMALL_CACHE, Server
from whyrank import AsyncClient
from whyrank.checkpoints import Plan
from whyrank.prompting.scoring import score_of
from whyrank.prompting.tokens import EncodedDocument
from whyrank.runtimes.reference import Reference
from whyrank.serving.admission import Limits
from whyrank.serving.service import Adapter, Service
from whyrank.types import Document

RANK, ALPHA = 4, 8
TEXTS = [DOCUMENTS["short"], DOCUMENTS["chinese"], DOCUMENTS["long"][:3000]]


@pytest.fixture(scope="module")
def folders(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An adapter as peft saves it, and the checkpoint with the adapter merged into its weights."""
    import torch
    from safetensors.torch import load_file, save_file

    base = checkpoint("qwen3")
    adapter, merged = tmp_path_factory.mktemp("lora") / "legal", tmp_path_factory.mktemp("lora") / "merged"
    adapter.mkdir()
    shutil.copytree(base, merged)
    weights = load_file(merged / "model.safetensors")
    generator, learnt = torch.Generator().manual_seed(3), {}
    for name in [name for name in weights if name.endswith(("q_proj.weight", "v_proj.weight", "gate_proj.weight"))]:
        height, width = weights[name].shape
        down = torch.randn(RANK, width, generator=generator) * 0.2
        up = torch.randn(height, RANK, generator=generator) * 0.2
        module = f"base_model.model.{name.removesuffix('.weight')}"
        learnt |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
        weights[name] = (weights[name].float() + ALPHA / RANK * up @ down).to(weights[name].dtype)
    assert learnt
    save_file(weights, merged / "model.safetensors", {"format": "pt"})
    save_file(learnt, adapter / "adapter_model.safetensors")
    targets = ["q_proj", "v_proj", "gate_proj"]
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": targets, "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return adapter, merged


@pytest.fixture(scope="module")
def adapted(
    checkpoint: Callable[[str], Path], folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Stopped after these tests: no others need it, and a server takes two gigabytes."""
    flags = ("--prompt", "prism", "--lora-modules", f"legal={folders[0]}", "--strict-model", *SMALL_CACHE)
    server = server_process.start(checkpoint("qwen3"), flags, tmp_path_factory.mktemp("server") / "log")
    yield server
    server.process.terminate()
    server.process.wait(60)


def expected(folder: Path) -> list[float]:
    plan = prism_plan(folder)
    reference = Reference(plan, "float32")
    margins = []
    for text in TEXTS:
        (row,) = plan.encoder.encode(QUERY, [Document(text)], None, "tail")
        assert isinstance(row, EncodedDocument)
        margins.append(score_of(reference.read(row.prompts[0].ids), plan.format.score_rule).margin)
    return margins


async def test_a_request_gets_the_scores_of_the_adapter_that_it_names(
    adapted: Server, checkpoint: Callable[[str], Path], folders: tuple[Path, Path]
) -> None:
    plain, merged = expected(checkpoint("qwen3")), expected(folders[1])
    assert max(abs(a - b) for a, b in zip(plain, merged, strict=True)) > 0.1
    ask = {"query": QUERY, "documents": TEXTS}
    async with httpx.AsyncClient(base_url=adapted.url, timeout=240) as http:
        body = {"requests": [ask, ask | {"model": "legal"}, ask | {"model": "other"}, ask]}
        answers = (await http.post("/v1/rerank/batch", json=body)).json()["answers"]
        for answer, margins in ((answers[0], plain), (answers[1], merged), (answers[3], plain)):
            rows = sorted(answer["results"], key=lambda row: row["index"])
            assert [row["margin"] for row in rows] == pytest.approx(margins, abs=1e-3)
        assert answers[0]["model"] != answers[1]["model"] == "legal"
        assert "not served here" in answers[2]["error"]["message"]
        again = (await http.post("/v1/rerank", json=ask | {"model": "legal"})).json()
        assert again["usage"]["cached_tokens"] > 0
        first = [row["margin"] for row in answers[1]["results"]]
        assert [row["margin"] for row in again["results"]] == pytest.approx(first, abs=1e-5)
        scores = (await http.post("/v1/score", json={"queries": QUERY, "documents": TEXTS, "model": "legal"})).json()
        assert scores["model"] == "legal"
        assert [row["margin"] for row in scores["data"]] == pytest.approx(merged, abs=1e-3)
        listed = (await http.get("/v1/models")).json()["data"]
        assert "legal" in [model["id"] for model in listed]


async def test_the_client_may_name_it_and_evidence_is_written_with_it(
    adapted: Server, folders: tuple[Path, Path]
) -> None:
    merged = expected(folders[1])
    async with AsyncClient(adapted.url, model="legal", timeout=240) as client:
        rows = await client.score(QUERY, TEXTS)
        assert [row.margin for row in rows] == pytest.approx(merged, abs=1e-3)
        options = {"mode": "evidence", "evidence_min_score": 0, "max_evidence_tokens": 8, "max_contribution_tokens": 8}
        ranking = await client.rerank(QUERY, TEXTS[:1], **options)  # type: ignore[arg-type]
        assert ranking.model == "legal" and ranking.results[0].evidence is not None
        events = [event async for event in client.stream(QUERY, TEXTS[:1])]
        assert events[-1].ranking.model == "legal"  # type: ignore[union-attr]


def service(plan: Plan, source: str, margin: float = 0.0) -> Service:
    adapted = FakeRuntime(plan.encoder)
    adapted.says_labels = lambda ids: (margin, len(ids) % 7)
    return Service(
        FakeRuntime(plan.encoder), plan, Limits(), [], "tiny", adapters={"me/legal": Adapter(source, adapted)}
    )


async def test_what_an_adapter_changes_about_a_server(
    checkpoint: Callable[[str], Path], folders: tuple[Path, Path]
) -> None:
    plan = prism_plan(checkpoint("qwen3"))
    server = InProcess(plan)
    with_adapter = service(plan, str(folders[0]))
    assert with_adapter.instance_id == service(plan, str(folders[0])).instance_id != server.service.instance_id
    assert with_adapter.serves("me/legal") and with_adapter.serves("legal") and not with_adapter.serves("other")
    server.app.state.whyrank = with_adapter
    async with server.client() as http:
        card = (await http.get("/v1/models/legal")).json()
        assert card["id"] == "me/legal"
        assert (await http.get("/v1/models/tiny")).json()["id"] == "tiny"
        answer = (await http.post("/v1/rerank", json={"query": "q", "documents": ["a"], "model": "legal"})).json()
        assert answer["model"] == "me/legal" and "warnings" not in answer
