"""Plain transformers, one prompt at a time, no padding, no cache: the reference values for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from whyrank.checkpoints import Plan
from whyrank.prompting.scoring import LabelRead, yes_and_no
from whyrank.prompting.tokens import Ids
from whyrank.runtimes.encoder import load_classifier, load_whole

__all__ = ["Reference", "cross_encoder_margins"]


class Reference:
    """Slow and simple on purpose. Loads the model a second time: for tests and `whyrank doctor`.

    `dtype`: the engine's, which may differ from the checkpoint's. `float32_head`: for engines that compute their last layer in
    float32, whatever the dtype of the other layers."""

    def __init__(self, plan: Plan, dtype: str, float32_head: bool = False) -> None:
        self.plan = plan
        self._causal = plan.route == "generate" or (plan.encoder.labels is not None and plan.route != "encoder")
        self.model = _load_causal(plan, dtype) if self._causal else load_classifier(plan, dtype)
        self.model.config.pad_token_id = None  # a lone prompt has no padding to look for
        if plan.checkpoint.quantization is not None:
            _round_inputs_like_vllm(self.model)
        if float32_head:
            _compute_head_in_float32(self.model)

    @classmethod
    def beside(cls, plan: Plan, facts: Mapping[str, str | int]) -> Self:
        """The reference that computes in the same way as the engine with these facts."""
        in_float32 = "float32" in (facts.get("head_dtype"), facts.get("label_dtype"))
        return cls(plan, str(facts["dtype"]), float32_head=in_float32)

    def logprobs(self, ids: Ids, tokens: Sequence[int]) -> list[float]:
        """Of the next token."""
        import torch

        with torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([ids], device=self.model.device)).logits[0, -1]
        values: list[float] = logits.float().log_softmax(-1)[[*tokens]].tolist()
        return values

    def read(self, ids: Ids) -> LabelRead:
        """The expected result for these ids: log-probabilities of both labels, or the raw logit."""
        import torch

        with torch.inference_mode():
            output = self.model(input_ids=torch.tensor([ids], device=self.model.device))
        labels = self.plan.encoder.labels
        if not self._causal:
            value = (output["score"] if "score" in output else output["logits"]).float().reshape(-1)
            if labels is None:
                return LabelRead(float(value[-1]))
            value = value.log_softmax(-1)
            negative = None if labels.negative is None else float(value[labels.negative])
            return LabelRead(float(value[labels.positive]), negative)
        logits = output.logits[0, -1].float()
        assert labels is not None  # self._causal
        if labels.negative is None:
            return LabelRead(float(logits[labels.positive]))
        if self.plan.route == "classify":
            return LabelRead(float(logits[labels.positive] - logits[labels.negative]))
        logprobs = logits.log_softmax(-1)
        return LabelRead(*yes_and_no(logprobs[labels.ids].tolist()))


def _round_inputs_like_vllm(model: Any) -> None:
    """Where transformers rounds a layer's inputs to int8 as they come, because the checkpoint says so: a token's largest input
    becomes 127.5 there and 127 in vLLM, which moves margins further than any difference between engines."""
    for layer in model.modules():
        inputs = getattr(getattr(layer, "quantization_scheme", None), "input_activations", None)
        if inputs and (inputs.dynamic, inputs.type, inputs.num_bits, inputs.strategy) == (True, "int", 8, "token"):
            layer.quantization_enabled = False  # its weights are plain numbers by then
            layer.register_forward_pre_hook(_round_tokens)


def _round_tokens(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    step = inputs[0].abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
    return ((inputs[0] / step).round() * step,)


def _compute_head_in_float32(model: Any) -> None:
    """Uses a copy of the weight, which may be tied to the embedding."""
    from torch.nn import Linear
    from torch.nn.functional import linear

    *_, head = (layer for layer in model.modules() if isinstance(layer, Linear))
    weight, bias = (None if part is None else part.detach().float() for part in (head.weight, head.bias))
    head.register_forward_hook(lambda head, inputs, output: linear(inputs[0].float(), weight, bias))


def _load_causal(plan: Plan, dtype: str) -> Any:
    """Of a model that can also read images, the text model alone where transformers has it, else all of it."""
    import transformers

    causal, whole = transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText
    source, revision, consent = plan.config.source, plan.config.revision, plan.config.trust_remote_code
    config = transformers.AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=consent)
    has_only_whole = type(config) not in causal._model_mapping and type(config) in whole._model_mapping
    return load_whole(whole if has_only_whole else causal, plan, dtype)


def cross_encoder_margins(plan: Plan, dtype: str, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """The margins of sentence-transformers' CrossEncoder with the checkpoint's own configuration."""
    import torch
    from sentence_transformers import CrossEncoder

    config = plan.config
    model = CrossEncoder(
        config.source,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        activation_fn=torch.nn.Identity(),
        model_kwargs={"dtype": dtype},
    )
    # One by one, because padding changes the order of sums.
    return [float(margin) for margin in model.predict(list(pairs), batch_size=1, show_progress_bar=False)]
