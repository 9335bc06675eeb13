"""LoRA adapters on a CPU, in place of vLLM's own code for it, which gives wrong results there without a word.

vLLM 0.32 marks tokens without an adapter by -1 and then takes adapter -1 for them, the last one: what is computed in the same
step as an adapter's prompt gets that adapter, too (vLLM's pull request 48421; its kernels for GPUs skip such tokens). It also
copies an adapter's weights once for every token. Here each adapter is applied once, to its own tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whyrank.runtimes.vllm_compat import vllm_name

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CpuLora"]


class CpuLora(vllm_name("PunicaWrapperCPU")):  # type: ignore[misc]
    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Adds to `y`: each of its slices has an adapter of its own. The stacks are indexed by adapter."""
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        adapter_of = self.token_lora_indices
        for adapter in adapter_of.unique().tolist():
            if adapter < 0:
                continue
            tokens, start = (adapter_of == adapter).nonzero().flatten(), 0
            inputs = x[tokens].float()
            for down, up, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                added = scale * (inputs @ down[adapter, 0].float().T) @ up[adapter, 0].float().T
                y[tokens, start : start + width] += added.to(y.dtype)
                start += width

    def add_lora_logits(self, y: Tensor, *arguments: Any, **named: Any) -> None:
        self._for_adapters(super().add_lora_logits, self.sampler_indices, y, arguments, named)

    def add_lora_embedding(self, y: Tensor, *arguments: Any, **named: Any) -> None:
        self._for_adapters(super().add_lora_embedding, self.token_lora_indices, y, arguments, named)

    def _for_adapters(self, add: Any, adapter_of: Tensor, y: Tensor, arguments: Any, named: Any) -> None:
        """vLLM's own code, whose results are kept only for rows with an adapter."""
        without = (adapter_of < 0).nonzero().flatten()
        rows = y.view(-1, y.shape[-1])
        before = rows[without]
        add(y, *arguments, **named)
        rows[without] = before
