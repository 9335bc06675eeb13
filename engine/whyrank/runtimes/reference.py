"""Plain transformers, one prompt at a time, no padding, no cache: the values that every engine is held against."""

from __future__ import annotations

from typing import Any

from whyrank.checkpoints import Plan
from whyrank.runtimes.encoder import load_classifier, load_whole
from whyrank.scoring import LabelRead
from whyrank.tokens import Ids

__all__ = ["Reference"]


class Reference:
    """Slow and plain on purpose. Loads the model a second time: for tests and `whyrank doctor`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._causal = plan.encoder.labels is not None
        self.model = _load_causal(plan) if self._causal else load_classifier(plan)
        self.model.config.pad_token_id = None  # a lone prompt has no padding to look for

    def read(self, ids: Ids) -> LabelRead:
        """What the route should answer for these ids: log-probabilities of both labels, or the raw logit."""
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


def _load_causal(plan: Plan) -> Any:
    import transformers

    return load_whole(transformers.AutoModelForCausalLM, plan, "bfloat16" if plan.checkpoint.hybrid else "float32")
