"""What our vLLM plugin replaces in vLLM on a CPU: norms are computed in C++, the labels' logits in float32, and LoRA correctly.

vLLM's CPU build contains C++ norms and does not use them: it computes a norm by a series of PyTorch calls. And bfloat16 logits
come in steps of up to 1/8, which is too coarse for a difference of two. Float32 for the whole vocabulary would double the cost
of the last layer, so it is used for the labels only.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from whyrank.runtimes.vllm_compat import vllm_name

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LABEL_IDS", "PROVIDER", "norm_priorities", "register_cpu_kernels"]

logger = logging.getLogger(__name__)

PROVIDER = "whyrank"
"""The name of our implementations among those of vLLM's operations."""
LABEL_IDS = "whyrank_label_ids"
"""The entry in the checkpoint's configuration, as vLLM has it, that lists the ids whose logits are wanted in float32."""
_NORMS = ("rms_norm", "fused_add_rms_norm")


def norm_priorities() -> dict[str, list[str]]:
    """For vLLM's `ir_op_priority`. vLLM appends its own implementations, for inputs that ours does not support."""
    return {name: [PROVIDER] for name in _NORMS}


@cache
def register_cpu_kernels() -> None:
    """Call in every process of the engine: one that gets `norm_priorities` does not start otherwise. Only for CPUs; on other
    devices it does nothing."""
    platform = vllm_name("current_platform")
    if platform.is_cpu():
        platform.import_kernels()
        _register_norms()
        _register_head()
        platform.get_punica_wrapper = lambda: "whyrank.runtimes.cpu_lora.CpuLora"


def _register_norms() -> None:
    import torch

    from whyrank.runtimes import cpu_norms

    norm, fused = (vllm_name(name) for name in _NORMS)
    supported = all(hasattr(torch.ops._C, name) for name in _NORMS)
    if not supported:
        logger.warning("this vLLM has no C++ norms for this CPU: it computes them in PyTorch, which is slower")
    norm.register_impl(PROVIDER, supported=supported, supports_args=cpu_norms.takes)(cpu_norms.rms_norm)
    fused.register_impl(PROVIDER, supported=supported, supports_args=cpu_norms.takes_residual, inplace=True)(
        cpu_norms.fused_add_rms_norm
    )


def _register_head() -> None:
    """Replaces vLLM's LogitsProcessor, which multiplies by the last layer."""
    import torch

    if "LogitsProcessor" in vllm_name("op_registry_oot"):
        logger.warning(
            "another plugin of vLLM replaces LogitsProcessor: the labels' logits are as precise as it makes them"
        )
        return

    class LogitsProcessor(vllm_name("LogitsProcessor")):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            model = vllm_name("get_current_vllm_config")().model_config
            self._label_ids: list[int] | None = getattr(model and model.hf_config, LABEL_IDS, None)

        def _apply_head(self, lm_head: Any, hidden_states: Tensor, embedding_bias: Tensor | None) -> Tensor:
            logits: Tensor = super()._apply_head(lm_head, hidden_states, embedding_bias)
            # A quantised head has no plain rows, one that several processes share not all of them.
            plain = isinstance(lm_head.quant_method, vllm_name("UnquantizedEmbeddingMethod")) and lm_head.tp_size == 1
            if self._label_ids is None or logits.dtype == torch.float32 or not plain:
                return logits
            logits, ids = logits.float(), self._label_ids
            bias = None if embedding_bias is None else embedding_bias[ids].float()
            rows = lm_head.weight[ids].float()
            logits[..., ids] = torch.nn.functional.linear(hidden_states.float(), rows, bias)
            return logits

    vllm_name("LogitsProcessor").register_oot(LogitsProcessor, name="LogitsProcessor")
