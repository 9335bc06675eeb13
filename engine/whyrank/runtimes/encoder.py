"""Plain transformers, in a thread: encoders that vLLM cannot serve (DeBERTa) and checkpoints that run their own code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from whyrank.checkpoints import Plan
from whyrank.errors import CheckpointError
from whyrank.prompting.scoring import LabelRead
from whyrank.prompting.tokens import Ids
from whyrank.runtimes.base import Answer
from whyrank.types import DocumentError, Usage

__all__ = ["EncoderRuntime", "load_classifier", "load_whole"]

# Tokens in one forward pass, padding included.
_BATCH_TOKENS = 16384


class EncoderRuntime:
    """One model, one worker thread; concurrent calls take turns, batch by batch."""

    def __init__(self, model: Any, plan: Plan) -> None:
        self.model = model
        self.plan = plan
        self._worker = ThreadPoolExecutor(1, "whyrank-encoder")

    @classmethod
    async def start(cls, plan: Plan) -> Self:
        return cls(await asyncio.to_thread(load_classifier, plan), plan)

    async def warm_prefix(self, prompts: Sequence[Ids], frame: Ids, salt: str | None) -> Usage:
        return Usage()

    async def read(
        self, prompts: Sequence[Ids], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[Answer], None]:
        loop = asyncio.get_running_loop()
        for batch in _batches(prompts, alone=self.plan.checkpoint.remote_code):
            logits = await loop.run_in_executor(self._worker, self._logits, [prompts[i] for i in batch])
            yield [
                (i, LabelRead(logit, None, len(prompts[i])) if isinstance(logit, float) else logit)
                for i, logit in zip(batch, logits, strict=True)
            ]

    def _logits(self, rows: Sequence[Ids]) -> list[float | DocumentError]:
        """Logits of the rows. A batch that fails, for lack of memory or because of one bad row, is retried in halves."""
        try:
            return self._forward(rows)
        except (RuntimeError, ValueError, IndexError, TypeError) as cause:
            if len(rows) == 1:
                return [DocumentError("engine", f"the model refused this document: {cause}")]
        # Outside the except block, so that the failed pass's tensors are already freed.
        half = len(rows) // 2
        return [*self._logits(rows[:half]), *self._logits(rows[half:])]

    def _forward(self, rows: Sequence[Ids]) -> list[float | DocumentError]:
        import torch

        longest = max(map(len, rows))
        padding = getattr(self.model.config, "pad_token_id", None) or 0
        ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows], device=self.model.device)
        inputs = {"input_ids": ids}
        if len(rows) > 1:
            lengths = torch.tensor([len(row) for row in rows], device=ids.device)
            inputs["attention_mask"] = (torch.arange(longest, device=ids.device) < lengths[:, None]).long()
        with torch.inference_mode():
            output = self.model(**inputs)
        values = (output["score"] if "score" in output else output["logits"]).float().reshape(len(rows), -1)
        if values.shape[1] != 1:
            return [DocumentError("no_label", f"the model has {values.shape[1]} outputs; whyrank reads one")] * len(
                rows
            )
        return [float(value) for value in values[:, 0]]

    def facts(self) -> dict[str, str | int]:
        import transformers

        return {
            "engine": f"transformers {transformers.__version__}, route encoder",
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "prefix_caching": "off (an encoder has none)",
            "max_length": self.plan.encoder.max_length,
        }

    async def aclose(self) -> None:
        await asyncio.to_thread(self._worker.shutdown, cancel_futures=True)


def _batches(prompts: Sequence[Ids], alone: bool) -> list[list[int]]:
    """Batches prompts of similar length, to save padding. Remote code gets one prompt at a time: its masks may differ."""
    batches: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        if not batches or alone or (len(batches[-1]) + 1) * len(prompts[i]) > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches


def load_classifier(plan: Plan) -> Any:
    """The checkpoint as a transformers classifier, in fp32 on a CPU unless configured otherwise."""
    import transformers

    # Rerankers with remote code register as a bare model more often than as a classifier.
    runs_own_code = plan.checkpoint.remote_code and plan.route == "encoder"
    return load_whole(
        transformers.AutoModel if runs_own_code else transformers.AutoModelForSequenceClassification, plan, "float32"
    )


def load_whole(auto: Any, plan: Plan, cpu_dtype: str) -> Any:
    """The checkpoint as one of transformers' auto classes, on the GPU if there is one. Missing weights are an error:
    transformers would initialise them at random and go on."""
    import torch

    config = plan.config
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = cpu_dtype if config.dtype == "auto" and device == "cpu" else config.dtype
    try:
        model, loading = auto.from_pretrained(
            config.source,
            revision=config.revision,
            dtype=dtype,
            trust_remote_code=config.trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, RuntimeError) as cause:
        raise CheckpointError(f"model {config.model!r}: transformers cannot load it: {cause}") from cause
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(
            f"model {config.model!r} has no weights for {', '.join(missing[:5])}{', ...' * (len(missing) > 5)}: "
            "give a checkpoint that was trained as a reranker"
        )
    return model.to(device).eval()
