"""The C++ norms of vLLM's CPU build, with the signatures of its operations `rms_norm` and `fused_add_rms_norm`.

vLLM compares the parameters of these functions, and their types, with those of its own implementations.
"""

import torch
from torch import Tensor

__all__ = ["fused_add_rms_norm", "rms_norm", "takes", "takes_residual"]

# What the kernels read at once: they refuse rows of any other size.
_VECTOR = 8


def takes(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    known = weight is None or weight.dtype in (x.dtype, torch.float32)
    return known and variance_size is None and x.shape[-1] % _VECTOR == 0


def takes_residual(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return takes(x, weight, epsilon, variance_size)


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    # The kernel assumes contiguous rows: in a view with gaps between rows, such as queries and keys, it silently reads the
    # gaps, too. Gemma and Qwen3.5 have float32 weights with other activations, which are multiplied in float32.
    rows = x.reshape(-1, x.shape[-1]).to(x.dtype if weight is None else weight.dtype).contiguous()
    out = torch.empty_like(rows)
    torch.ops._C.rms_norm(out, rows, weight, epsilon)
    return out.to(x.dtype).view(x.shape)


def fused_add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """May write into its inputs."""
    if weight is None or weight.dtype == x.dtype:
        x, x_residual = x.contiguous(), x_residual.contiguous()
        torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
        return x, x_residual
    total = x.float() + x_residual.float()
    return rms_norm(total, weight, epsilon).to(x.dtype), total.to(x.dtype)
