"""What whyrank uses of vLLM exists, and vLLM's exceptions become errors of ours."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import check_vllm
from whyrank.checkpoints import make_plan
from whyrank.config import EngineConfig
from whyrank.errors import EngineNotInstalled, EnginePaused
from whyrank.runtimes import vllm_compat
from whyrank.runtimes.base import GenerationParams
from whyrank.runtimes.classify import ClassifyRuntime
from whyrank.runtimes.generate import GenerateRuntime
from whyrank.types import DocumentError, Usage

PACKAGE = Path(__file__).parents[1] / "engine" / "whyrank"


def test_the_installed_version_has_everything() -> None:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.origin is not None
    assert check_vllm.missing(Path(spec.origin).parents[1]) == []


def test_what_a_version_lacks_is_named(tmp_path: Path) -> None:
    sources = {
        "vllm/sampling_params.py": "class Base:\n    max_tokens: int\nclass SamplingParams(Base):\n    temperature: float\n",
        "vllm/inputs/engine.py": "def tokens_input(prompt_token_ids): ...\n",
        "vllm/v1/engine/async_llm.py": "class AsyncLLM:\n    def generate(self, prompt, request_id): ...\n",
        "vllm/envs.py": 'import os\nNAMES = ["VLLM_PLUGINS"]\n',
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    lacking = check_vllm.missing(tmp_path)
    assert "EngineDeadError: in none of vllm.v1.engine.exceptions" in lacking
    assert "tokens_input: no argument cache_salt" in lacking
    assert "AsyncLLM.generate: no argument priority" in lacking
    assert "SamplingParams: no argument watermarking" in lacking
    assert 'environment: "VLLM_API_KEY"' in lacking
    assert "error text: max seq len" in lacking
    there = ("argument max_tokens", "argument temperature", "argument prompt_token_ids", '"VLLM_PLUGINS"')
    assert not [line for line in lacking if line.endswith(there)]


@pytest.mark.parametrize(
    ("name", "prompt", "route"),
    [("qwen3", "prism", "generate"), ("qwen3_5", "prism", "generate"), ("qwen3-seq-cls", "qanchor", "classify")],
)
@pytest.mark.parametrize("on_cpu", [True, False])
def test_engine_options_are_among_those_that_are_looked_up(
    checkpoint: Callable[[str], Path], name: str, prompt: str, route: str, on_cpu: bool
) -> None:
    plan = make_plan(EngineConfig(str(checkpoint(name)), prompt=prompt, route=route, kv_cache_gib=1))  # type: ignore[arg-type]
    kind = ClassifyRuntime if route == "classify" else GenerateRuntime
    assert kind.engine_options(plan, on_cpu).keys() <= {*vllm_compat.ARGUMENTS["AsyncEngineArgs"]}


def test_environment_variables_are_among_those_that_are_looked_up() -> None:
    used = {
        name for path in PACKAGE.rglob("*.py") for name in re.findall(r'"(VLLM_[A-Z0-9_]+)"', path.read_text("utf-8"))
    }
    assert used - {"VLLM_ROUTES"} == {*vllm_compat.ENVIRONMENT}  # VLLM_ROUTES is a constant of ours


def test_import_paths_of_vllm_stand_in_one_file() -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r'(from|import) vllm\b|"vllm\.(?!\w+_plugins)\w+\.', path.read_text("utf-8"))
    }
    assert users == {"runtimes/vllm_compat.py"}


def test_a_build_for_gpus_that_finds_none_says_what_is_wrong() -> None:
    vllm_compat.require_device(SimpleNamespace(is_unspecified=lambda: False))
    with pytest.raises(EngineNotInstalled, match=r"nvidia-smi must list it.*whyrank install-engine --cpu"):
        vllm_compat.require_device(SimpleNamespace(is_unspecified=lambda: True))


class FailingEngine:
    """An engine in which every prompt fails in the same way. It accepts no batches."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure
        self.vllm_config = SimpleNamespace(
            scheduler_config=SimpleNamespace(policy="priority", max_num_seqs=4),
            parallel_config=SimpleNamespace(
                data_parallel_size=1,
                data_parallel_size_local=1,
                local_engines_only=False,
                _api_process_rank=0,
                _api_process_count=1,
            ),
            cache_config=SimpleNamespace(
                enable_prefix_caching=True, prefix_match_unit=16, num_gpu_blocks=1000, block_size=16
            ),
            observability_config=SimpleNamespace(otlp_traces_endpoint=None),
        )

    async def generate(self, *arguments: Any, **named: Any) -> AsyncGenerator[Any, None]:
        raise self.failure
        yield  # makes it a generator


class FailingBatches(FailingEngine):
    """The same for an engine that accepts batches: the second prompt fails on its way there, the others once they are there."""

    errored = False

    def __init__(self, failure: Exception) -> None:
        super().__init__(failure)
        self.input_processor, self.aborted = self, list[str]()

    def process_inputs(
        self,
        request_id: str,
        prompt: Any,
        params: Any,
        supported_tasks: Any,
        lora_request: Any = None,
        trace_headers: Any = None,
        data_parallel_rank: int | None = None,
    ) -> Any:
        return SimpleNamespace(data_parallel_rank=data_parallel_rank)

    def _run_output_handler(self) -> None: ...

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    async def _add_request(self, request: Any, prompt: None, parent_req: None, index: int, queue: Any) -> None:
        if request.prompt_token_ids == [2]:
            raise self.failure
        queue.put(self.failure)

    async def abort(self, request_id: list[str]) -> None:
        self.aborted += request_id


ENGINES = pytest.mark.parametrize("kind", [FailingEngine, FailingBatches])


async def answers_of(checkpoint: Callable[[str], Path], engine: FailingEngine) -> dict[int, Any]:
    runtime = GenerateRuntime(engine, make_plan(EngineConfig(str(checkpoint("qwen3")), prompt="prism")))
    return dict([answer async for some in runtime.read([(1,), (2,), (3,)], [0, 0, 0], None) for answer in some])


@ENGINES
async def test_an_error_of_the_engine_costs_its_own_document(
    checkpoint: Callable[[str], Path], kind: type[FailingEngine]
) -> None:
    # vLLM 0.33 has classes for this that 0.32 does not have, with the same base class.
    failure = type("GenerationError", (vllm_compat.vllm_name("VLLMError"),), {"status_code": 500})("block lost")
    engine = kind(failure)
    answers = await answers_of(checkpoint, engine)
    assert answers == dict.fromkeys(range(3), DocumentError("engine", "the engine refused this document: block lost"))
    if isinstance(engine, FailingBatches):
        assert sorted(id[-2:] for id in engine.aborted) == ["-0", "-1", "-2"]


@ENGINES
async def test_a_paused_engine_may_be_asked_again(checkpoint: Callable[[str], Path], kind: type[FailingEngine]) -> None:
    failure = type("RetryableRequestError", (vllm_compat.vllm_name("VLLMError"),), {"status_code": 503})("paused")
    with pytest.raises(EnginePaused, match="accepts no requests now"):
        await answers_of(checkpoint, kind(failure))


@ENGINES
async def test_an_error_that_is_not_vllms_ends_the_call(
    checkpoint: Callable[[str], Path], kind: type[FailingEngine]
) -> None:
    with pytest.raises(TypeError, match="a mistake of ours"):
        await answers_of(checkpoint, kind(TypeError("a mistake of ours")))


class Answering(FailingBatches):
    """Several engines of a hybrid in parallel; each prompt is answered, and noted with the engine that it was for."""

    def __init__(self, **parallel: Any) -> None:
        super().__init__(ValueError())
        vars(self.vllm_config.parallel_config).update(parallel)
        self.read: list[tuple[int, int | None]] = []
        self.written: list[int | None] = []

    async def _add_request(self, request: Any, prompt: None, parent_req: None, index: int, queue: Any) -> None:
        self.read.append((len(request.prompt_token_ids), request.data_parallel_rank))
        queue.put(_output(request.prompt_token_ids))

    async def generate(self, *arguments: Any, **named: Any) -> AsyncGenerator[Any, None]:
        self.written.append(named["data_parallel_rank"])
        yield _output(arguments[0]["prompt_token_ids"])


def _output(ids: Sequence[int]) -> Any:
    values = {i: SimpleNamespace(logprob=-1.0) for i in range(5000)}
    completion = SimpleNamespace(logprobs=[values], finish_reason="length", index=0, token_ids=[1], text="a")
    return SimpleNamespace(outputs=[completion], prompt_token_ids=ids, num_cached_tokens=len(ids) - 1)


HybridRuntime = Callable[..., tuple[Answering, GenerateRuntime]]


@pytest.fixture
def hybrid(checkpoint: Callable[[str], Path]) -> HybridRuntime:
    def made(**parallel: Any) -> tuple[Answering, GenerateRuntime]:
        engine = Answering(**parallel)
        return engine, GenerateRuntime(engine, make_plan(EngineConfig(str(checkpoint("qwen3_5")), prompt="prism")))

    return made


FRAME = tuple(range(40))
PROMPTS = [(*FRAME, 50, 51, n) for n in range(8)]


@pytest.mark.parametrize(
    ("parallel", "ranks"),
    [
        ({}, [None]),
        ({"data_parallel_size": 3}, [0, 1, 2]),
        ({"data_parallel_size": 8, "data_parallel_size_local": 2, "local_engines_only": True}, [0, 1]),
        ({"data_parallel_size": 2, "_api_process_rank": 1, "_api_process_count": 2}, [1, 0]),
    ],
)
async def test_every_engine_is_warmed_when_it_gets_its_first_slice(
    hybrid: HybridRuntime, parallel: dict[str, Any], ranks: list[int | None]
) -> None:
    """Which begins is another one in each of the server's processes."""
    engine, runtime = hybrid(**parallel)
    for rank in ranks:
        chosen = runtime.choose()
        usage = await chosen.warm_prefix(PROMPTS, FRAME, None)
        assert engine.read == [(41, rank), (43, rank)]
        assert usage.prompt_tokens == 41 + 43
        await chosen.warm_prefix(PROMPTS[:2], FRAME, None)  # the frame is warm, and two prompts are too few
        assert len(engine.read) == 2
        engine.read.clear()
    assert await runtime.choose().warm_prefix(PROMPTS[:2], FRAME, None) == Usage()
    assert (await runtime.choose().warm_prefix(PROMPTS[:2], FRAME, "tenant")).prompt_tokens == 41


async def test_a_slice_is_read_by_one_engine_and_continued_there(hybrid: HybridRuntime) -> None:
    engine, runtime = hybrid(data_parallel_size=2)
    slices = [[(*FRAME, 50 + call, n) for n in range(4)] for call in range(6)]
    readers = {}
    for prompts in slices:
        before = len(engine.read)
        async for _ in runtime.choose().read(prompts, [0] * len(prompts), None):
            pass
        (readers[prompts[0]],) = {rank for _, rank in engine.read[before:]}
    assert [*readers.values()].count(0) == [*readers.values()].count(1) == 3
    chosen = [prompts[0] for prompts in slices]
    order = GenerationParams(["{}"] * len(chosen), max_tokens=8, temperature=0.0, live=False, salt=None)
    async for _ in runtime.write([(*ids, 7, 8, 9) for ids in chosen], order):  # behind an opening
        pass
    assert engine.written == [readers[ids] for ids in chosen]


async def test_an_engine_with_much_to_do_gets_less(hybrid: HybridRuntime) -> None:
    _, runtime = hybrid(data_parallel_size=2)
    first, second = runtime.engines
    long = first.read([tuple(range(3000))], [0], None)
    await anext(long)
    assert [runtime.choose() for _ in range(3)] == [second] * 3
    await long.aclose()
    assert {id(runtime.choose()) for _ in range(2)} == {id(first), id(second)}


async def test_an_adapter_has_the_same_engines_and_their_load(hybrid: HybridRuntime) -> None:
    engine, runtime = hybrid(data_parallel_size=2)
    adapted = runtime.with_adapter("legal")
    reading = runtime.engines[0].read([tuple(range(3000))], [0], None)
    await anext(reading)
    assert adapted.choose() is adapted.engines[1]
    await adapted.engines[1].warm_prefix(PROMPTS, FRAME, None)
    assert engine.read[-2:] == [(41, 1), (43, 1)]
    await reading.aclose()


def test_an_engine_of_another_make_gets_its_prompts_one_by_one() -> None:
    """All methods that `Batch` calls are looked up first, with their arguments."""
    engine = FailingBatches(ValueError())
    assert vllm_compat.can_batch(engine)
    assert not vllm_compat.can_batch(FailingEngine(ValueError()))
    engine.process_inputs = lambda request_id, prompt, params: None  # type: ignore[assignment,misc]
    assert not vllm_compat.can_batch(engine)
