"""Causal models on vLLM: one prompt, one token, the labels' log-probabilities at that position."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from whyrank.checkpoints import Plan
from whyrank.fan_out import fan_out
from whyrank.prompting.scoring import LabelRead
from whyrank.prompting.tokens import Ids, LabelIds, common_prefix
from whyrank.runtimes.base import Generation, GenerationParams, TextDelta
from whyrank.runtimes.fair_semaphore import FairSemaphore
from whyrank.runtimes.vllm_compat import vllm_name
from whyrank.runtimes.vllm_engine import Refused, VllmRuntime
from whyrank.types import DocumentError, Usage

__all__ = ["MATCH_UNIT", "GenerateRuntime"]

# Hybrids store their state once per request; hits are possible at multiples of this many tokens. It divides all block sizes.
MATCH_UNIT = 16
# With fewer prompts, warming the prefix is not worth the extra step.
_MIN_PROMPTS_TO_WARM = 8
_MAX_WARMED_PREFIXES = 1024


class GenerateRuntime(VllmRuntime):
    def __init__(self, engine: Any, plan: Plan) -> None:
        super().__init__(engine, plan)
        assert plan.encoder.labels is not None  # formats.py requires labels for this route
        self.labels: LabelIds = plan.encoder.labels
        self.label_params = _label_params(self.labels)
        self._warmed_prefixes: set[tuple[str | None, Ids]] = set()
        self._places = FairSemaphore(max_concurrent_generations(engine.vllm_config))

    @classmethod
    def _options(cls, plan: Plan, on_cpu: bool) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if plan.checkpoint.has_linear_attention:
            options["prefix_match_unit"] = MATCH_UNIT
        if not on_cpu:
            # bf16 logits near 20 come in steps of 0.125: ties, and scores that differ from the card's.
            options["hf_overrides"] = {"head_dtype": "float32"}
        if plan.format.score.rule == "logit":
            # The raw logit cannot be recovered from a log-probability.
            options["logprobs_mode"] = "raw_logits"
        return options

    def _submit(self, prompt: Any, params: Any, request_id: str, priority: int) -> AsyncGenerator[Any, None]:
        outputs: AsyncGenerator[Any, None] = self.engine.generate(prompt, params, request_id, priority=priority)
        return outputs

    def _label_read(self, output: Any) -> LabelRead | DocumentError:
        completion = output.outputs[0]
        values = completion.logprobs[0] if completion.logprobs else {}
        found = {i: values[i].logprob for i in (self.labels.positive, self.labels.negative) if i in values}
        if self.labels.positive not in found or (self.labels.negative is not None and len(found) < 2):
            return DocumentError(
                "no_label", f"the engine gave no value for the label tokens (finish: {completion.finish_reason})"
            )
        return LabelRead(
            found[self.labels.positive],
            None if self.labels.negative is None else found[self.labels.negative],
            len(output.prompt_token_ids),
            output.num_cached_tokens or 0,
        )

    async def warm_prefix(self, prompts: Sequence[Ids], frame: Ids, salt: str | None) -> Usage:
        """A hybrid can hit the cache only where an earlier request ended. So one request ends with the frame and the next with
        the query; the documents then start from there. Each is one token longer than the prefix it warms, because the last
        token is always recomputed."""
        if not self.plan.checkpoint.has_linear_attention or len(prompts) < _MIN_PROMPTS_TO_WARM:
            return Usage()
        usage = Usage()
        if (salt, frame) not in self._warmed_prefixes:
            usage += await self._warm_one(prompts[0][: len(frame) + 1], salt)
            self._warmed_prefixes.add((salt, frame))
        query = await self._warm_one(prompts[0][: len(common_prefix(prompts)) + 1], salt)
        if query.cached_tokens == 0 or len(self._warmed_prefixes) > _MAX_WARMED_PREFIXES:
            self._warmed_prefixes.discard(
                (salt, frame)
            )  # evicted meanwhile, or too many to keep: warm it again next time
        return usage + query

    async def _warm_one(self, ids: Ids, salt: str | None) -> Usage:
        read = await self._read_one(ids, priority=0, salt=salt)
        return Usage(read.prompt_tokens, read.cached_tokens) if isinstance(read, LabelRead) else Usage()

    async def write(
        self, prompts: Sequence[Ids], order: GenerationParams
    ) -> AsyncGenerator[tuple[int, TextDelta | Generation], None]:
        params = {grammar: _generation_params(order, grammar) for grammar in set(order.grammars)}
        call = object()

        async def generate(index: int, emit: Callable[[TextDelta | Generation], None]) -> None:
            prompt, sampling = prompts[index], params[order.grammars[index]]
            ids: list[int] = []
            try:
                async with self._places.place(call):
                    # Ahead of all scoring: the caller is waiting for this text.
                    async for output in self._outputs(prompt, sampling, priority=-1, salt=order.salt):
                        (completion,) = output.outputs
                        ids += completion.token_ids
                        if order.live:
                            emit(TextDelta(completion.text, completion.token_ids))
            except Refused:
                emit(Generation(ids, "error"))
                return
            usage = Usage(len(prompt), output.num_cached_tokens or 0, len(ids))
            emit(Generation(ids, completion.finish_reason or "error", usage))

        async with aclosing(fan_out(generate, len(prompts), self._places.count)) as pieces:
            async for piece in pieces:
                yield piece


def max_concurrent_generations(config: Any) -> int:
    """How many documents this process generates evidence for concurrently. Each occupies its slot for hundreds of steps and
    makes all of them longer, while scores need free slots and short steps: so at most half of the engine's slots. Processes
    that share an engine share its slots."""
    engines, processes = config.parallel_config.data_parallel_size, config.parallel_config._api_process_count
    places: int = config.scheduler_config.max_num_seqs * engines // 2 // processes
    return max(1, places)


def _generation_params(order: GenerationParams, grammar: str) -> Any:
    output_kind = vllm_name("RequestOutputKind")
    return vllm_name("SamplingParams")(
        max_tokens=order.max_tokens,
        temperature=order.temperature,
        output_kind=output_kind.DELTA if order.live else output_kind.FINAL_ONLY,
        structured_outputs=vllm_name("StructuredOutputsParams")(structural_tag=grammar),
        skip_clone=True,
        watermarking=False,
    )


def _label_params(labels: LabelIds) -> Any:
    return vllm_name("SamplingParams")(
        max_tokens=1,
        temperature=0.0,
        # Exact even for ids outside any top-k, and taken before all masks and penalties; `logprobs` must stay unset.
        logprob_token_ids=[i for i in (labels.positive, labels.negative) if i is not None],
        detokenize=False,
        output_kind=vllm_name("RequestOutputKind").FINAL_ONLY,
        skip_clone=True,
        watermarking=False,
    )
