"""The pipeline: order, selection, duplicates, windows, bad documents, cancellation, and an engine that dies."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from conftest import Serve, Served, newest_engine
from samples import DOCUMENTS, QUERY, hostile_texts
from whyrank import (
    CheckpointError,
    EngineDead,
    Finished,
    InvalidRequest,
    Ranked,
    Ranking,
    Reranker,
    RerankRequest,
    Scored,
)
from whyrank.events import Event, collect_ranking
from whyrank.prompting.scoring import LabelRead, score_of
from whyrank.prompting.tokens import Ids, PromptEncoder
from whyrank.runtimes import Runtime
from whyrank.runtimes.base import Answer
from whyrank.runtimes.vllm_compat import can_batch
from whyrank.types import Document, DocumentError, Usage

TEXTS = list(DOCUMENTS.values())[:8]


@pytest.fixture
async def prism(serve: Serve) -> Served:
    served: Served = await serve("prism")
    return served


class FakeRuntime:
    """Answers each prompt with a function of its ids; counts the prompts."""

    def __init__(self, answer: Callable[[Ids], float]) -> None:
        self.answer = answer
        self.prompts_read: list[Ids] = []
        self.priorities: list[int] = []

    async def warm_prefix(self, prompts: Sequence[Ids], frame: Ids, salt: str | None) -> Usage:
        return Usage()

    async def read(
        self, prompts: Sequence[Ids], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[Answer], None]:
        self.prompts_read += prompts
        self.priorities += priorities
        for i in reversed(range(len(prompts))):  # answers may come in any order
            yield [(i, LabelRead(self.answer(prompts[i]), None, len(prompts[i])))]

    def facts(self) -> dict[str, str | int]:
        return {}

    async def aclose(self) -> None: ...


def over_fake(prism: Served, answer: Callable[[Ids], float]) -> tuple[Reranker, FakeRuntime]:
    fake = FakeRuntime(answer)
    return Reranker.from_runtime(fake, prism.plan.encoder, prism.plan.config), fake


async def test_results_are_ordered_and_carry_everything(prism: Served) -> None:
    ranking = await prism.reranker.rerank(QUERY, [{"text": text, "id": f"d{i}"} for i, text in enumerate(TEXTS)])
    assert [row.rank for row in ranking.results] == list(range(1, len(TEXTS) + 1))
    margins = [row.margin for row in ranking.results if row.margin is not None]
    assert margins == sorted(margins, reverse=True)
    assert len(margins) == len(TEXTS)
    assert all(row.id == f"d{row.index}" and row.document.text == TEXTS[row.index] for row in ranking.results)
    assert all(row.score is not None and 0 < row.score < 1 and row.label_mass for row in ranking.results)
    assert ranking.prompt == prism.plan.format.fingerprint
    assert ranking.usage.prompt_tokens > ranking.usage.cached_tokens > 0


async def test_score_keeps_the_order_of_the_documents(prism: Served) -> None:
    ranking = await prism.reranker.rerank(QUERY, TEXTS)
    rows = await prism.reranker.score(QUERY, TEXTS)
    assert [row.index for row in rows] == list(range(len(TEXTS)))
    assert {row.index: row.margin for row in rows} == pytest.approx(
        {row.index: row.margin for row in ranking.results}, abs=1e-5
    )


async def test_duplicates_are_scored_once(prism: Served) -> None:
    reranker, fake = over_fake(prism, lambda ids: float(len(ids)))
    ranking = await reranker.rerank(QUERY, ["a", "b c d", "a", "a"])
    assert len(fake.prompts_read) == 2
    assert [(row.index, row.margin) for row in ranking.results][1:] == [
        (0, ranking.results[1].margin),
        (2, ranking.results[1].margin),
        (3, ranking.results[1].margin),
    ]


async def test_top_n_and_min_score_shorten_the_answer(prism: Served) -> None:
    reranker, fake = over_fake(prism, lambda ids: 1.0 if len(ids) > 350 else -1.0)
    texts = ["water " * n for n in range(1, 9)]
    everything = await reranker.rerank(QUERY, texts)
    assert len(everything.results) == 8
    best = await reranker.rerank(QUERY, texts, top_n=2)
    assert best.results == everything.results[:2]
    likely = await reranker.rerank(QUERY, texts, min_score=0.5)
    assert likely.results == tuple(row for row in everything.results if row.score and row.score >= 0.5)
    assert 0 < len(likely.results) < 8
    assert len(fake.prompts_read) == 24  # neither reduces the scoring


async def test_a_value_that_is_not_finite_is_that_rows_error(prism: Served) -> None:
    broken = prism.plan.encoder.encode(QUERY, [RerankRequest.of("q", ["bad"]).documents[0]], None, "tail")
    ids = broken[0].prompts[0].ids  # type: ignore[union-attr]
    reranker, _ = over_fake(prism, lambda prompt: math.nan if prompt == ids else 1.0)
    ranking = await reranker.rerank(QUERY, ["good", "bad"], top_n=1)
    good, bad = ranking.results
    assert (good.document.text, good.rank, good.error) == ("good", 1, None)
    assert (bad.rank, bad.score, bad.error and bad.error.code) == (None, None, "not_finite")


async def test_the_best_window_gives_the_score(serve: Serve) -> None:
    served: Served = await serve("multi-hop")
    text = " ".join(f"word{n}" for n in range(900))
    (row,) = await served.reranker.score(QUERY, [text], truncation="windows")
    assert row.truncation is not None and row.truncation.window is not None
    window = row.truncation.window
    assert 0 <= window.start < window.end <= len(text)
    (tail,) = await served.reranker.score(QUERY, [text], truncation="tail")
    assert row.margin is not None and tail.margin is not None
    assert row.margin >= tail.margin - 1e-5


async def test_a_hostile_document_costs_its_neighbours_nothing(prism: Served) -> None:
    hostile = hostile_texts(["<|im_end|>", "<|im_start|>", "</think>", "<|endoftext|>"], count=60)
    alone = [(await prism.reranker.score(QUERY, [text]))[0] for text in TEXTS]
    mixed = await prism.reranker.score(QUERY, [*hostile[:30], *TEXTS, *hostile[30:]])
    assert all(row.error is None and row.score is not None for row in mixed)
    together = mixed[30 : 30 + len(TEXTS)]
    assert [row.score for row in together] == pytest.approx([row.score for row in alone], abs=1e-5)


async def test_a_bad_feature_costs_one_row(serve: Serve) -> None:
    served: Served = await serve("multi-hop")
    ranking = await served.reranker.rerank(QUERY, ["good", {"text": "bad", "hop": "one"}, "also good"])
    assert [row.index for row in ranking.results][-1] == 1
    assert ranking.results[-1].error is not None
    assert "metadata 'hop' is 'one'" in ranking.results[-1].error.message
    assert all(row.score is not None for row in ranking.results[:2])


async def test_rerank_many_gives_each_request_its_answer_or_its_error(prism: Served) -> None:
    answers = await prism.reranker.rerank_many(
        [
            {"query": QUERY, "documents": TEXTS},
            {"query": "", "documents": TEXTS},
            {"query": QUERY, "documents": ["a"], "topn": 3},
            RerankRequest.of("other", ["b"]),
            {"query": QUERY, "documents": ["a"], "instruction": "be kind"},
        ]
    )
    assert isinstance(answers[0], Ranking) and len(answers[0].results) == len(TEXTS)
    assert isinstance(answers[3], Ranking) and len(answers[3].results) == 1
    messages = [str(answer) for answer in answers if isinstance(answer, InvalidRequest)]
    assert messages[0].startswith("requests[1]: query is empty")
    assert messages[1].startswith("requests[2]: ") and "topn" in messages[1]
    assert "instruction: fixed for prompt 'prism'" in messages[2]


async def test_a_grid_equals_its_cells(prism: Served) -> None:
    queries = [QUERY, "How high is Everest?", "水"]
    grid = await prism.reranker.score_grid(queries, TEXTS)
    assert [len(row) for row in grid] == [len(TEXTS)] * 3
    for query, row in zip(queries, grid, strict=True):
        for text, cell in zip(TEXTS[:3], row, strict=False):
            (alone,) = await prism.reranker.score(query, [text])
            assert cell.score == pytest.approx(alone.score, abs=1e-5)
    with pytest.raises(InvalidRequest, match="queries is 'one'"):
        await prism.reranker.score_grid("one", TEXTS)


async def test_the_stream_tells_every_score_then_the_ranking(prism: Served) -> None:
    events = [event async for event in prism.reranker.stream(QUERY, [*TEXTS, TEXTS[0]], top_n=3)]
    scored = [event.row for event in events if isinstance(event, Scored)]
    assert sorted(row.index for row in scored) == list(range(len(TEXTS) + 1))
    assert [type(event) for event in events[-2:]] == [Ranked, Finished]
    ranking = events[-1].ranking  # type: ignore[union-attr]
    assert len(ranking.results) == 3
    assert {row.margin for row in ranking.results} <= {row.margin for row in scored}


async def test_a_stream_that_is_left_early_frees_the_engine(prism: Served) -> None:
    engine: Any = prism.runtime.engine  # type: ignore[attr-defined]
    async with aclosing(prism.reranker.stream(QUERY, long_texts(200))) as events:
        async for _ in events:
            break
        assert engine.get_num_unfinished_requests() > 20
    assert engine.get_num_unfinished_requests() == 0


def long_texts(count: int) -> list[str]:
    return [f"{n} {DOCUMENTS['long'][:6000]}" for n in range(count)]


async def first_score(events: AsyncGenerator[Event, None], came: asyncio.Event) -> None:
    async for _ in events:
        came.set()


async def test_a_cancelled_call_leaves_nothing_running(prism: Served) -> None:
    engine: Any = prism.runtime.engine  # type: ignore[attr-defined]
    first = asyncio.Event()
    call = asyncio.create_task(first_score(prism.reranker.stream(QUERY, long_texts(200)), first))
    await first.wait()
    assert engine.get_num_unfinished_requests() > 20
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert engine.get_num_unfinished_requests() == 0
    (row,) = await asyncio.wait_for(prism.reranker.score(QUERY, ["still here"]), 10)
    assert row.score is not None


class PublicEngine:
    """An engine with only the methods that vLLM guarantees: prompts go to it one by one."""

    def __init__(self, engine: Any) -> None:
        self.vllm_config, self.abort = engine.vllm_config, engine.abort
        self.generate, self.encode = engine.generate, engine.encode


@pytest.mark.parametrize("prompt", ["prism", "qanchor"])
async def test_prompts_are_read_alike_together_and_one_by_one(serve: Serve, prompt: str) -> None:
    served = await serve(prompt)
    engine = served.runtime.engine
    assert can_batch(engine)
    rows = served.plan.encoder.encode(QUERY, [Document(text) for text in TEXTS], None, "tail")
    prompts = [row.prompts[0].ids for row in rows]

    async def read(runtime: Runtime, prompts: Sequence[Ids]) -> dict[int, Any]:
        batches = runtime.read(prompts, range(len(prompts)), None)
        return dict([answer async for answers in batches for answer in answers])

    alone = await read(type(served.runtime)(PublicEngine(engine), served.plan), prompts)
    together = await read(served.runtime, prompts)
    rule, places = served.plan.format.score_rule, range(len(TEXTS))
    margins = [score_of(alone[place], rule).margin for place in places]
    assert [score_of(together[place], rule).margin for place in places] == pytest.approx(margins, abs=1e-4)
    # If the engine refuses a prompt, only that one fails.
    prompts[3] *= 1000
    with_refused = await read(served.runtime, prompts)
    assert isinstance(with_refused[3], DocumentError) and "longer than the maximum" in with_refused[3].message
    assert score_of(with_refused[4], rule).margin == pytest.approx(margins[4], abs=1e-4)
    assert engine.get_num_unfinished_requests() == 0


async def test_the_further_a_call_has_come_the_later_its_turn(prism: Served) -> None:
    reranker, fake = over_fake(prism, len)
    await collect_ranking(reranker.events(RerankRequest.of(QUERY, long_texts(80))))
    before = accumulate(map(len, fake.prompts_read[:-1]), initial=0)
    assert fake.priorities == [tokens // 4096 for tokens in before]
    assert fake.priorities[-1] > fake.priorities[40] > 0


async def test_calls_take_turns(prism: Served) -> None:
    """A small call that comes while a big one is running is answered long before the big one."""
    done: list[str] = []
    started = asyncio.Event()

    async def big() -> None:
        await first_score(prism.reranker.stream(QUERY, long_texts(200)), started)
        done.append("big")

    async def small() -> None:
        await started.wait()
        await prism.reranker.rerank("something else", ["x", "y"])
        done.append("small")

    await asyncio.gather(big(), small())
    assert done == ["small", "big"]


class WatchedEncoder:
    """Counts how many texts it is encoding at once."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder, self._running, self.max_running = encoder, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode(self, *arguments: Any) -> Any:
        self._running += 1
        self.max_running = max(self.max_running, self._running)
        try:
            return self._encoder.encode(*arguments)
        finally:
            self._running -= 1


async def test_large_texts_become_ids_one_at_a_time(prism: Served) -> None:
    """Each blocks the event loop a little; together they would block it for too long."""
    encoder = WatchedEncoder(prism.plan.encoder)
    reranker = Reranker.from_runtime(FakeRuntime(lambda _: 0.0), encoder, prism.plan.config)  # type: ignore[arg-type]
    text = "Water boils at 100 degrees. " * 12_000
    await asyncio.gather(*(reranker.rerank(f"query {number}", [text]) for number in range(4)))
    assert encoder.max_running == 1


async def test_a_dead_engine_is_a_typed_error_at_once(checkpoint: Callable[[str], Path]) -> None:
    async with Reranker(str(checkpoint("qwen3")), prompt="prism", kv_cache_gib=0.25) as reranker:
        before = asyncio.create_task(reranker.rerank(QUERY, long_texts(300)))
        await reranker.rerank(QUERY, ["a small call, answered while the large one is in progress"])
        assert not before.done()
        newest_engine().kill()
        with pytest.raises(EngineDead, match="engine process has died; start a new Reranker"):
            await asyncio.wait_for(before, 10)
        with pytest.raises(EngineDead):
            await asyncio.wait_for(reranker.rerank(QUERY, ["x"]), 2)


async def test_a_reranker_that_is_not_running_says_so() -> None:
    with pytest.raises(InvalidRequest, match="use `async with Reranker"):
        await Reranker("some/model").rerank(QUERY, ["x"])


async def test_starting_an_engine_leaves_nothing_in_the_environment(serve: Serve) -> None:
    await serve("prism")
    assert {"VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_STREAM", "TORCHDYNAMO_DISABLE"}.isdisjoint(os.environ)


# What is refused before an engine is started.


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("qwen3", {}, "no prompt fits this name"),
        ("qwen3", {"prompt": "prism", "route": "encoder"}, "route encoder: prompt 'prism' allows generate, classify"),
        ("qwen3", {"prompt": "prism", "max_length": 50}, "max_length 50 is too short: the frame"),
        ("qwen3", {"prompt": "prism", "max_length": 20000}, "has 16384 positions"),
        ("qwen3_5", {"prompt": "prism", "dtype": "float32"}, "whose CPU kernels support only bfloat16"),
        ("querit", {"prompt": "querit"}, "needs the Python code that it ships"),
        (
            "qwen3_5-vision",
            {"prompt": "prism", "route": "classify"},
            "vLLM makes no classifier of Qwen3_5ForConditionalGen",
        ),
        ("gemma", {"prompt": "zerank"}, "its architecture is GemmaForCausalLM"),
    ],
)
async def test_what_cannot_be_served_is_refused_with_a_remedy(
    kind: str, options: dict[str, Any], message: str, checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(CheckpointError) as refused:
        async with Reranker(str(checkpoint(kind)), **options):
            pass
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [("/no/such/folder", "no such folder"), ("acme/not-there", "neither a folder with a config.json nor a name")],
)
async def test_an_unknown_model_is_named(model: str, message: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        async with Reranker(model):
            pass
    assert model in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "fp32"}, "dtype is 'fp32': choose from auto, float32"),
        ({"route": "score"}, "route is 'score': choose from generate, classify, encoder"),
        ({"max_length": 0}, "max_length is 0"),
        ({"kv_cache_gib": -1}, "kv_cache_gib is -1"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Reranker("some/model", **options)
    assert message in str(refused.value)


class SilentRuntime(FakeRuntime):
    """Answers the first prompt and then nothing more."""

    async def read(
        self, prompts: Sequence[Ids], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[Answer], None]:
        yield [(0, LabelRead(1.0, None, len(prompts[0])))]
        await asyncio.Event().wait()


async def test_winding_up_answers_with_what_there_is(prism: Served) -> None:
    reranker = Reranker.from_runtime(SilentRuntime(len), prism.plan.encoder, prism.plan.config)
    calls = [asyncio.create_task(reranker.rerank(f"{QUERY} {n}", TEXTS)) for n in range(3)]
    done, _ = await asyncio.wait(calls, timeout=0.5)
    assert not done
    reranker.finish_early()
    for ranking in await asyncio.wait_for(asyncio.gather(*calls), 5):
        assert [row.error.code if row.error else "scored" for row in ranking.results] == ["scored"] + ["deadline"] * 7


async def test_the_same_text_in_two_slices_is_asked_once(prism: Served) -> None:
    reranker, fake = over_fake(prism, len)
    ranking = await reranker.rerank(QUERY, ["the same"] * 100)
    assert len(fake.prompts_read) == 1
    assert [row.score is not None for row in ranking.results] == [True] * 100
