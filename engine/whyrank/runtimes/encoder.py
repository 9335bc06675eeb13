"""Plain transformers, in a thread: encoders that vLLM cannot serve (DeBERTa) and checkpoints that run their own code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Self

from whyrank.checkpoints import Plan
from whyrank.dtypes import choose_dtype
from whyrank.engine_process import first_line
from whyrank.errors import CheckpointError
from whyrank.prompting.scoring import LabelRead
from whyrank.prompting.tokens import Ids, LabelIds
from whyrank.runtimes.base import Answer
from whyrank.types import DocumentError, Usage

__all__ = ["EncoderRuntime", "load_classifier", "load_whole", "use_tensor_cores"]

# Tokens in one forward pass, padding included.
_BATCH_TOKENS = 16384


class EncoderRuntime:
    """One model, one worker thread; concurrent calls take turns, batch by batch."""

    def __init__(self, model: Any, plan: Plan, precision_before: str | None = None) -> None:
        """`precision_before`: torch's setting for float32 matrices, to be restored in the end."""
        self.model = model
        self.plan = plan
        self._precision_before = precision_before
        self._worker = ThreadPoolExecutor(1, "whyrank-encoder")

    @classmethod
    async def start(cls, plan: Plan) -> Self:
        model = await asyncio.to_thread(load_classifier, plan, choose_dtype(plan, on_cpu=_device() == "cpu").dtype)
        return cls(model, plan, use_tensor_cores(model, plan))

    async def warm_prefix(self, prompts: Sequence[Ids], frame: Ids, salt: str | None) -> Usage:
        return Usage()

    async def read(
        self, prompts: Sequence[Ids], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[Answer], None]:
        loop = asyncio.get_running_loop()
        for batch in _batches(prompts, alone=self.plan.checkpoint.remote_code):
            reads = await loop.run_in_executor(self._worker, self._read_batch, [prompts[i] for i in batch])
            yield [
                (i, replace(read, prompt_tokens=len(prompts[i])) if isinstance(read, LabelRead) else read)
                for i, read in zip(batch, reads, strict=True)
            ]

    def _read_batch(self, rows: Sequence[Ids]) -> list[LabelRead | DocumentError]:
        """If a batch fails (too large for the memory, or with one bad row), its halves are tried separately."""
        try:
            return self._forward(rows)
        except (RuntimeError, ValueError, IndexError, TypeError) as cause:
            if len(rows) == 1:
                return [DocumentError("engine", f"the model refused this document: {cause}")]
        # Outside the except block, so that the failed pass's tensors are already freed.
        half = len(rows) // 2
        return [*self._read_batch(rows[:half]), *self._read_batch(rows[half:])]

    def _forward(self, rows: Sequence[Ids]) -> list[LabelRead | DocumentError]:
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
        if (classes := self.plan.encoder.labels) is not None:
            return _reads_of_classes(values, classes)
        if values.shape[1] != 1:
            return [DocumentError("no_label", f"the model has {values.shape[1]} outputs; whyrank reads one")] * len(
                rows
            )
        return [LabelRead(value) for value in values[:, 0].tolist()]  # at once: a GPU is waited for each time

    def facts(self) -> dict[str, str | int]:
        import transformers

        return {
            "engine": f"transformers {transformers.__version__}, route encoder",
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            **({"matmul": "TF32 (--dtype float32 for full precision)"} if self._precision_before else {}),
            "prefix_caching": "off (an encoder has none)",
            "max_length": self.plan.encoder.max_length,
        }

    async def aclose(self) -> None:
        await asyncio.to_thread(self._worker.shutdown, cancel_futures=True)
        if self._precision_before is not None:
            import torch

            torch.set_float32_matmul_precision(self._precision_before)


def use_tensor_cores(model: Any, plan: Plan) -> str | None:
    """Lets a GPU multiply float32 matrices in TF32: much faster, and more precise than 16-bit weights. Returns torch's previous
    setting, or None if nothing was changed."""
    import torch

    if plan.config.dtype != "auto" or model.device.type != "cuda" or model.dtype != torch.float32:
        return None
    before: str = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    return before


def _reads_of_classes(values: Any, classes: LabelIds) -> list[LabelRead | DocumentError]:
    """Log-probabilities of the head's classes that the format names."""
    named = classes.ids
    if max(named) >= values.shape[1]:
        error = DocumentError(
            "no_label", f"the model has {values.shape[1]} outputs, and the prompt file names {max(named)}"
        )
        return [error] * len(values)
    return [LabelRead(*row) for row in values.log_softmax(-1)[:, named].tolist()]


def _batches(prompts: Sequence[Ids], alone: bool) -> list[list[int]]:
    """Batches prompts of similar length, to save padding. Remote code gets one prompt at a time: its masks may differ."""
    batches: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        if not batches or alone or (len(batches[-1]) + 1) * len(prompts[i]) > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_classifier(plan: Plan, dtype: str) -> Any:
    """The checkpoint through transformers, as a classifier."""
    import transformers

    # Rerankers with remote code register as a bare model more often than as a classifier.
    runs_own_code = plan.checkpoint.remote_code and plan.route == "encoder"
    return load_whole(
        transformers.AutoModel if runs_own_code else transformers.AutoModelForSequenceClassification, plan, dtype
    )


def load_whole(auto: Any, plan: Plan, dtype: str) -> Any:
    """The checkpoint as one of transformers' Auto classes, on the GPU if there is one. Missing weights are an error here, since
    transformers would initialise them at random."""
    config = plan.config
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
    try:
        return model.to(_device()).eval()
    except RuntimeError as cause:  # torch's own when the memory is full, or the driver does not fit
        raise CheckpointError(
            f"model {config.model!r} cannot be moved to the GPU: {first_line(cause)}; nvidia-smi shows what else is there, and "
            "--dtype bfloat16 halves a float32 model"
        ) from cause
