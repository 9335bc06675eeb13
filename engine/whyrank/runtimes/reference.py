"""Plain transformers, one prompt at a time, no padding, no cache: the reference values for every engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from whyrank.checkpoints import Plan
from whyrank.prompting.scoring import LabelRead
from whyrank.prompting.tokens import Ids
from whyrank.runtimes.encoder import load_classifier, load_whole

__all__ = ["Reference"]


class Reference:
    """Slow and simple on purpose. Loads the model a second time: for tests and `whyrank doctor`.

    `float32_head`: for engines that compute the last layer in float32, whatever the dtype of the others."""

    def __init__(self, plan: Plan, float32_head: bool = False) -> None:
        self.plan = plan
        self._causal = plan.encoder.labels is not None
        self.model = _load_causal(plan) if self._causal else load_classifier(plan)
        self.model.config.pad_token_id = None  # a single prompt has no padding to look for
        if float32_head:
            _compute_head_in_float32(self.model)

    @classmethod
    def beside(cls, plan: Plan, facts: Mapping[str, str | int]) -> Self:
        """The reference for an engine that reports these facts."""
        return cls(plan, float32_head=facts.get("head_dtype") == "float32")

    def read(self, ids: Ids) -> LabelRead:
        """The expected result for these ids: log-probabilities of both labels, or the raw logit."""
        import torch

        with torch.inference_mode():
            output = self.model(input_ids=torch.tensor([ids], device=self.model.device))
        if not self._causal:
            value = (output["score"] if "score" in output else output["logits"]).float().reshape(-1)
            return LabelRead(float(value[-1]))
        labels, logits = self.plan.encoder.labels, output.logits[0, -1].float()
        assert labels is not None  # self._causal
        if labels.negative is None:
            return LabelRead(float(logits[labels.positive]))
        if self.plan.route == "classify":
            return LabelRead(float(logits[labels.positive] - logits[labels.negative]))
        logprobs = logits.log_softmax(-1)
        return LabelRead(float(logprobs[labels.positive]), float(logprobs[labels.negative]))


def _compute_head_in_float32(model: Any) -> None:
    """Uses a copy of the weight, which may be tied to the embedding."""
    from torch.nn import Linear
    from torch.nn.functional import linear

    *_, head = (layer for layer in model.modules() if isinstance(layer, Linear))
    weight, bias = (None if part is None else part.detach().float() for part in (head.weight, head.bias))
    head.register_forward_hook(lambda head, inputs, output: linear(inputs[0].float(), weight, bias))


def _load_causal(plan: Plan) -> Any:
    import transformers

    return load_whole(
        transformers.AutoModelForCausalLM, plan, "bfloat16" if plan.checkpoint.has_linear_attention else "float32"
    )
