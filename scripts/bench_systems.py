"""Systems that score documents with one checkpoint, for the benchmarks that compare them: whyrank, bare vLLM, transformers.

vLLM is imported inside functions, because whyrank has to set its environment first.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from bench_common import Work, chat_template, label_ids, on_gpu
from whyrank import Reranker
from whyrank.checkpoints import Plan
from whyrank.process import set_engine_environment
from whyrank.prompting.tokens import common_prefix
from whyrank.runtimes.classify import ClassifyRuntime
from whyrank.runtimes.generate import GenerateRuntime

__all__ = [
    "Score",
    "SharingClassify",
    "SharingGenerate",
    "cheapest_request",
    "cross_encoder_system",
    "from_ids",
    "from_texts",
    "largest_gap",
    "load_causal",
    "shared_prefix_system",
    "start_llm",
    "transformers_system",
    "vllm_system",
    "whyrank_system",
]

Score = Callable[[Work], list[float]]
"""A system: returns the margins (log-odds) of the work's documents, in order."""


class Sharing:
    """whyrank's engine as it is, but on a GPU it leaves room for the bare one and for transformers."""

    @classmethod
    def _options(cls, plan: Plan, on_cpu: bool) -> dict[str, Any]:
        options: dict[str, Any] = super()._options(plan, on_cpu)  # type: ignore[misc]
        return options | ({} if on_cpu else {"gpu_memory_utilization": 0.35})


class SharingGenerate(Sharing, GenerateRuntime):
    pass


class SharingClassify(Sharing, ClassifyRuntime):
    pass


def whyrank_system(reranker: Reranker, runner: asyncio.Runner) -> Score:
    def score(work: Work) -> list[float]:
        rows = runner.run(reranker.score(work.query, work.documents))
        return [float("nan") if row.margin is None else row.margin for row in rows]

    return score


def start_llm(plan: Plan, opened: ExitStack) -> Any:
    if on_gpu():
        set_engine_environment(on_cpu=False)  # as whyrank's engine has it: needs no compiler
    from vllm import LLM

    llm = LLM(**SharingGenerate.engine_options(plan, on_cpu=not on_gpu()))
    opened.callback(llm.llm_engine.engine_core.shutdown)
    return llm


def from_ids(salt: str) -> Callable[[Work], list[Any]]:
    from vllm.inputs import tokens_input

    return lambda work: [tokens_input(ids, cache_salt=salt) for ids in work.ids]


def from_texts(salt: str) -> Callable[[Work], list[Any]]:
    return lambda work: [{"prompt": text, "cache_salt": salt} for text in work.texts]


def cheapest_request() -> dict[str, Any]:
    """Sampling parameters with which vLLM has the least to do for one label read."""
    from vllm.sampling_params import RequestOutputKind

    once = RequestOutputKind.FINAL_ONLY
    return {"temperature": 0.0, "detokenize": False, "output_kind": once, "skip_clone": True}


def vllm_system(llm: Any, plan: Plan, prompts: Callable[[Work], list[Any]], **request: Any) -> Score:
    from vllm import SamplingParams

    yes, no = label_ids(plan)
    params = SamplingParams(max_tokens=1, logprob_token_ids=[yes, no], watermarking=False, **request)

    def score(work: Work) -> list[float]:
        outputs = llm.generate(prompts(work), params, use_tqdm=False)
        reads = [output.outputs[0].logprobs[0] for output in outputs]
        return [read[yes].logprob - read[no].logprob for read in reads]

    return score


def load_causal(plan: Plan, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(plan.config.model, dtype=getattr(torch, dtype))
    return model.to("cuda" if on_gpu() else "cpu").eval()


def transformers_system(model: Any, plan: Plan, batch: int) -> Score:
    import torch
    from transformers import AutoTokenizer

    yes, no = label_ids(plan)
    tokenizer = AutoTokenizer.from_pretrained(plan.config.model, padding_side="left")

    def score(work: Work) -> list[float]:
        margins: list[float] = []
        for start in range(0, len(work.texts), batch):
            texts = work.texts[start : start + batch]
            inputs = tokenizer(texts, padding=batch > 1, add_special_tokens=False, return_tensors="pt")
            with torch.inference_mode():
                logits = model(**inputs.to(model.device), logits_to_keep=1).logits[:, -1]
            logprobs = logits.float().log_softmax(-1)
            margins += (logprobs[:, yes] - logprobs[:, no]).tolist()
        return margins

    return score


def shared_prefix_system(model: Any, plan: Plan) -> Score:
    """What can be done by hand: the part that all prompts of a call begin with is computed once for them."""
    import torch
    from transformers import DynamicCache

    yes, no = label_ids(plan)

    def read(ids: list[int], cache: Any) -> float:
        inputs = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            output = model(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = output.logits[0, -1].float()
        return float(logits[yes] - logits[no])

    def score(work: Work) -> list[float]:
        shared = len(common_prefix([tuple(ids[:-1]) for ids in work.ids]))
        cache = DynamicCache(config=model.config)
        read(work.ids[0][:shared], cache)
        margins = []
        for ids in work.ids:
            margins.append(read(ids[shared:], cache))
            cache.crop(shared - len(ids))  # negative: removes as many as were added
        return margins

    return score


def cross_encoder_system(plan: Plan, dtype: str) -> Score:
    import torch
    from sentence_transformers import CrossEncoder

    # LogitScore over "yes" and "no" is its own choice for a causal model; a published checkpoint brings the template with it.
    model = CrossEncoder(
        plan.config.model,
        device="cuda" if on_gpu() else "cpu",
        local_files_only=True,
        model_kwargs={"dtype": getattr(torch, dtype)},
        processor_kwargs={"chat_template": chat_template(plan.format)},
        activation_fn=torch.nn.Identity(),
    )

    def score(work: Work) -> list[float]:
        margins = model.predict([(work.query, text) for text in work.documents], show_progress_bar=False)
        return [float(margin) for margin in margins]

    return score


def largest_gap(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Between margins of the same documents. NaN if any of them is, which a bare `max` would skip."""
    gaps = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    return max(gaps, key=lambda gap: math.inf if math.isnan(gap) else gap)
