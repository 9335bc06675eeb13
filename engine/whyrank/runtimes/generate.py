"""Causal models on vLLM: one prompt, one token, the labels' log-probabilities at that position."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from whyrank.checkpoints import Plan
from whyrank.dtypes import choose_dtype
from whyrank.fan_out import fan_out
from whyrank.prompting.scoring import LabelRead, yes_and_no
from whyrank.prompting.tokens import Ids
from whyrank.runtimes.base import Generation, GenerationParams, TextDelta, TokenRead
from whyrank.runtimes.cpu_kernels import LABEL_IDS
from whyrank.runtimes.fair_semaphore import FairSemaphore
from whyrank.runtimes.vllm_compat import api_process, parallel_engines, vllm_name
from whyrank.runtimes.vllm_engine import Reading, Refused, VllmRuntime
from whyrank.types import DocumentError, Usage

__all__ = ["GenerateRuntime"]


class GenerateRuntime(VllmRuntime):
    def __init__(self, engine: Any, plan: Plan) -> None:
        super().__init__(engine, plan)
        # A format for lists alone has none.
        self._label_ids = plan.encoder.labels.ids if plan.encoder.labels is not None else []
        self.label_params = _label_params(self._label_ids)
        self._places = FairSemaphore(max_concurrent_generations(engine.vllm_config))
        self._room = FairSemaphore(max_continued_tokens(engine.vllm_config))

    @classmethod
    def _options(cls, plan: Plan, on_cpu: bool) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if plan.checkpoint.has_quantized_head:
            pass  # vLLM can compute such a head in no other dtype
        elif not on_cpu:
            # bf16 logits near 20 come in steps of 0.125: ties, and scores that differ from the card's.
            options["hf_overrides"] = {"head_dtype": "float32"}
        elif choose_dtype(plan, on_cpu).dtype != "float32" and (ids := _all_label_ids(plan)):
            # There vLLM would convert all weights of the head at every step; our plugin does it for those of the labels.
            options["hf_overrides"] = {LABEL_IDS: ids}
        if plan.format.score.rule == "logit":
            # The raw logit cannot be recovered from a log-probability.
            options["logprobs_mode"] = "raw_logits"
        return options

    def _submit(self, prompt: Any, params: Any, request_id: str, priority: int) -> AsyncGenerator[Any, None]:
        outputs: AsyncGenerator[Any, None] = self.engine.generate(
            prompt,
            params,
            request_id,
            priority=priority,
            data_parallel_rank=self._rank,
            **self._request_arguments(),
        )
        return outputs

    def _copy(self, rank: int | None, adapter: Any) -> Self:
        runtime = super()._copy(rank, adapter)
        if rank != self._rank:  # an engine has its own slots and its own cache, whatever adapter uses them
            runtime._places = FairSemaphore(self._places.count)
            runtime._room = FairSemaphore(self._room.count)
        return runtime

    def _label_read(self, output: Any) -> LabelRead | DocumentError:
        logprobs = _values_of(output, self._label_ids)
        if isinstance(logprobs, DocumentError):
            return logprobs
        positive, negative = yes_and_no(logprobs) if len(logprobs) > 1 else (logprobs[0], None)
        return LabelRead(positive, negative, len(output.prompt_token_ids), output.num_cached_tokens or 0)

    def read_tokens(
        self, prompts: Sequence[Ids], tokens: Sequence[int], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[tuple[int, TokenRead | DocumentError]], None]:
        def result(output: Any) -> TokenRead | DocumentError:
            values = _values_of(output, tokens)
            if isinstance(values, DocumentError):
                return values
            return TokenRead(tuple(values), len(output.prompt_token_ids), output.num_cached_tokens or 0)

        return self._read_all(Reading(_label_params([*tokens]), result), prompts, priorities, salt)

    def room(self, call: object, tokens: int) -> AbstractAsyncContextManager[None]:
        return self._room.place(call, tokens)

    async def write(
        self, prompts: Sequence[Ids], order: GenerationParams
    ) -> AsyncGenerator[tuple[int, TextDelta | Generation], None]:
        params = {grammar: _generation_params(order, grammar) for grammar in set(order.grammars)}
        engines, call = [self._reader(prompt) for prompt in prompts], object()

        async def generate(index: int, emit: Callable[[TextDelta | Generation], None]) -> None:
            engine, prompt, sampling = engines[index], prompts[index], params[order.grammars[index]]
            written = [_Sample() for _ in range(order.samples)]
            try:
                async with engine._places.place(call, order.samples):
                    # Ahead of all scoring: the caller is waiting for this text.
                    with engine._working([prompt]):
                        async for output in engine._outputs(prompt, sampling, priority=-1, salt=order.salt):
                            for completion in output.outputs:
                                written[completion.index].add(completion)
                                if order.live and completion.index == 0:
                                    emit(TextDelta(completion.text, completion.token_ids))
            except Refused:
                emit(Generation(written[0].ids, "error"))
                return
            usage = Usage(len(prompt), output.num_cached_tokens or 0, sum(len(sample.ids) for sample in written))
            first, *others = (Generation(sample.ids, sample.reason) for sample in written)
            emit(replace(first, usage=usage, others=tuple(others)))

        places = sum(engine._places.count for engine in self.engines)
        async with aclosing(fan_out(generate, len(prompts), places)) as pieces:
            async for piece in pieces:
                yield piece

    def _reader(self, ids: Ids) -> Self:
        """The engine that has read the prompt which these continue."""
        rank = self._readers.find(ids) if len(self.engines) > 1 else None
        return self.choose() if rank is None else self.engines[rank]


@dataclass(slots=True)
class _Sample:
    """What the engine has generated of one continuation so far."""

    ids: list[int] = field(default_factory=list)
    reason: Literal["stop", "length", "abort", "error"] = "error"

    def add(self, completion: Any) -> None:
        self.ids += completion.token_ids
        self.reason = completion.finish_reason or self.reason


def max_concurrent_generations(config: Any) -> int:
    """How many texts this process generates concurrently as evidence on one engine. Each occupies its slot for hundreds of
    steps and makes all of them longer, while scores need free slots and short steps: so at most half of the engine's slots.
    Processes that share an engine share its slots."""
    _, processes = api_process(config)
    places: int = config.scheduler_config.max_num_seqs // 2 // processes
    return max(1, places)


def max_continued_tokens(config: Any) -> int:
    """Tokens of the prompts that are read again and again, each time with a few tokens more: at most half of an engine's prefix
    cache. With more, they would push each other out of it, and each read would begin anew. Processes share it, too."""
    _, processes = api_process(config)
    cache = config.cache_config
    blocks = (cache.num_gpu_blocks or 0) // parallel_engines(config)  # vLLM adds up those of all engines
    tokens: int = blocks * cache.block_size // 2 // processes
    return max(1, tokens)


def _generation_params(order: GenerationParams, grammar: str) -> Any:
    output_kind = vllm_name("RequestOutputKind")
    return vllm_name("SamplingParams")(
        max_tokens=order.max_tokens,
        temperature=order.temperature,
        n=order.samples,
        output_kind=output_kind.DELTA if order.live else output_kind.FINAL_ONLY,
        structured_outputs=vllm_name("StructuredOutputsParams")(structural_tag=grammar),
        skip_clone=True,
        watermarking=False,
    )


def _values_of(output: Any, tokens: Sequence[int]) -> list[float] | DocumentError:
    """The log-probabilities of these tokens, which the request has named."""
    completion = output.outputs[0]
    values = completion.logprobs[0] if completion.logprobs else {}
    logprobs = [values[i].logprob for i in tokens if i in values]
    if len(logprobs) < len(tokens):
        return DocumentError(
            "no_label", f"the engine gave no value for the label tokens (finish: {completion.finish_reason})"
        )
    return logprobs


def _all_label_ids(plan: Plan) -> list[int]:
    """Those of every choice, because which it will be is not known before the engine runs; and those of lists."""
    encoders = [plan.encoder, *(plan.encoder.with_labels(choice) for choice in plan.choices)]
    ids = [i for encoder in encoders if encoder.labels for i in encoder.labels.ids]
    return list(dict.fromkeys([*ids, *plan.identifier_ids]))


def _label_params(label_ids: list[int]) -> Any:
    return vllm_name("SamplingParams")(
        max_tokens=1,
        temperature=0.0,
        # Exact for ids outside any top-k, and before every mask and penalty; `logprobs` must stay unset.
        logprob_token_ids=label_ids or None,
        detokenize=False,
        output_kind=vllm_name("RequestOutputKind").FINAL_ONLY,
        skip_clone=True,
        watermarking=False,
    )
