"""vLLM's pooling runner: one logit from a classification head, either the checkpoint's or one made from its label rows."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from whyrank.checkpoints import Plan
from whyrank.prompting.scoring import LabelRead
from whyrank.runtimes.vllm_compat import vllm_name
from whyrank.runtimes.vllm_engine import VllmRuntime
from whyrank.types import DocumentError

__all__ = ["ClassifyRuntime"]

_GENERATIVE = ("ForCausalLM", "ForConditionalGeneration")


class ClassifyRuntime(VllmRuntime):
    @classmethod
    def _options(cls, plan: Plan, on_cpu: bool) -> dict[str, Any]:
        return {"runner": "pooling", "hf_overrides": _conversion(plan)}

    def __init__(self, engine: Any, plan: Plan) -> None:
        super().__init__(engine, plan)
        # The raw logit: the score rule applies the sigmoid, once.
        self.label_params = vllm_name("PoolingParams")(task="classify", use_activation=False)

    def _submit(self, prompt: Any, params: Any, request_id: str, priority: int) -> AsyncGenerator[Any, None]:
        outputs: AsyncGenerator[Any, None] = self.engine.encode(
            prompt, params, request_id, priority=priority, **self._request_arguments()
        )
        return outputs

    def _label_read(self, output: Any) -> LabelRead | DocumentError:
        values = output.outputs.data.float().flatten().tolist()
        if len(values) != 1:
            return DocumentError("no_label", f"the classification head has {len(values)} outputs; whyrank reads one")
        return LabelRead(values[0], None, len(output.prompt_token_ids), output.num_cached_tokens or 0)


def _conversion(plan: Plan) -> dict[str, Any]:
    """A generative checkpoint becomes a classifier whose row is W[positive] - W[negative], or W[positive] alone."""
    (architecture,) = plan.checkpoint.architectures[:1]
    labels = plan.encoder.labels
    kind = next((kind for kind in _GENERATIVE if architecture.endswith(kind)), None)
    if labels is None or kind is None:
        return {}
    ids = [i for i in (labels.negative, labels.positive) if i is not None]
    return {
        "architectures": [architecture.replace(kind, "ForSequenceClassification")],
        "classifier_from_token": [plan.encoder.token_text(i) for i in ids],
        "method": "from_2_way_softmax" if len(ids) == 2 else "no_post_processing",
    }
