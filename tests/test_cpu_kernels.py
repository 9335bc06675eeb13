"""What whyrank puts in place of vLLM's own on a CPU: C++ norms equal to PyTorch's, and labels' logits in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from whyrank.runtimes.cpu_kernels import LABEL_IDS, PROVIDER, norm_priorities, register_cpu_kernels
from whyrank.runtimes.cpu_norms import rms_norm, takes
from whyrank.runtimes.vllm_compat import vllm_name

EPSILON = 1e-6
FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16


def heads(tokens: int, count: int, size: int) -> Tensor:
    """As queries and keys come: a view into rows that hold more."""
    return torch.randn(tokens, 3 * count * size)[:, count * size : 2 * count * size].view(tokens, count, size)


INPUTS: dict[str, Callable[[], Tensor]] = {
    "rows": lambda: torch.randn(7, 64),
    "one row": lambda: torch.randn(1, 1024),
    "no rows": lambda: torch.randn(0, 64),
    "three dimensions": lambda: torch.randn(5, 4, 32),
    "queries": lambda: heads(11, 4, 32),
    "every second row": lambda: torch.randn(14, 64)[::2],
    "part of each row": lambda: torch.randn(7, 96)[:, 32:],
    "columns": lambda: torch.randn(64, 7).t(),
    "rows of no vector's size": lambda: torch.randn(7, 60),
    "large and small": lambda: torch.randn(7, 64) * torch.logspace(-4, 4, 7)[:, None],
}
WEIGHTS: dict[str, Callable[[int, torch.dtype], Tensor | None]] = {
    "plain": lambda size, dtype: torch.randn(size).to(dtype),
    "Gemma's": lambda size, dtype: torch.randn(size).to(dtype).float() + 1,
    "none": lambda size, dtype: None,
}


@pytest.fixture(autouse=True)
def registered() -> None:
    torch.manual_seed(5)
    register_cpu_kernels()


@contextmanager
def preferred(name: str) -> Iterator[Any]:
    """The operation as an engine calls it, that was told to prefer ours."""
    with vllm_name(name).set_priority([*norm_priorities()[name], "native"]):
        yield vllm_name(name)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Theirs rounds to bfloat16 before it multiplies by the weight, too; ours does it once."""
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    steps = {FLOAT32: 4, BFLOAT16: 2, FLOAT16: 2}[ours.dtype] * torch.finfo(ours.dtype).eps
    torch.testing.assert_close(ours, theirs, rtol=steps, atol=1e-6)


CASES = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
SHAPES = pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS)
DTYPES = pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16, FLOAT16], ids=str)


def of_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """With the same gaps between its rows: `to` would close them."""
    whole = (x if x._base is None else x._base).to(dtype)
    return whole.as_strided(x.shape, x.stride(), x.storage_offset())


@CASES
@SHAPES
@DTYPES
def test_a_norm_is_pytorchs(
    given: Callable[[], Tensor], weight: Callable[..., Tensor | None], dtype: torch.dtype
) -> None:
    x = of_dtype(given(), dtype)
    scale, before = weight(x.shape[-1], dtype), x.clone()
    with preferred("rms_norm") as norm:
        ours = norm(x, scale, EPSILON)
    assert_close(ours, norm.impls["native"].impl_fn(x, scale, EPSILON))
    assert torch.equal(x, before)


@CASES
@SHAPES
@DTYPES
def test_so_is_one_with_a_residual(
    given: Callable[[], Tensor], weight: Callable[..., Tensor | None], dtype: torch.dtype
) -> None:
    x, residual = of_dtype(given(), dtype), of_dtype(given(), dtype)
    scale, before = weight(x.shape[-1], dtype), (x.clone(), residual.clone())
    theirs = vllm_name("fused_add_rms_norm").impls["native"].impl_fn(x, residual, scale, EPSILON)
    with preferred("fused_add_rms_norm") as norm:
        for ours, wanted in zip(norm(x, residual, scale, EPSILON), theirs, strict=True):
            assert_close(ours, wanted)
        assert torch.equal(x, before[0]) and torch.equal(residual, before[1])
        for ours, wanted in zip(norm.maybe_inplace(x, residual, scale, EPSILON), theirs, strict=True):
            assert_close(ours, wanted)


@pytest.mark.parametrize("name", norm_priorities())
def test_ours_is_taken_where_it_can_be(name: str) -> None:
    x, weight = torch.randn(2, 64), torch.ones(64)
    inputs = (x,) if name == "rms_norm" else (x, x)
    with preferred(name) as norm:
        assert norm.dispatch(*inputs, weight, EPSILON).provider == PROVIDER
        assert norm.dispatch(*(part.bfloat16() for part in inputs), weight, EPSILON).provider == PROVIDER
        assert norm.dispatch(*inputs, weight.bfloat16(), EPSILON).provider == "native"
        assert norm.dispatch(*inputs, weight, EPSILON, 32).provider == "native"
        assert norm.dispatch(*(part[:, :60] for part in inputs), weight[:60], EPSILON).provider == "native"


def test_a_vllm_without_the_kernels_goes_on_with_pytorchs() -> None:
    """As we register them there."""
    norm = vllm_name("rms_norm")
    norm.register_impl("absent", supported=False, supports_args=takes)(rms_norm)
    with norm.set_priority(["absent", "native"]):
        assert norm.dispatch(torch.randn(2, 64), torch.ones(64), EPSILON).provider == "native"


# The head.


@pytest.fixture
def project() -> Callable[..., Tensor]:
    """project(ids, dtype, **of the head): logits of a vocabulary of 100, as the engine that is told these ids computes them."""
    from vllm.config import VllmConfig, set_current_vllm_config

    def of(ids: list[int] | None, dtype: torch.dtype = BFLOAT16, bias: Tensor | None = None, **head: Any) -> Any:
        named = SimpleNamespace(**({LABEL_IDS: ids} if ids else {}))
        config = VllmConfig()
        config.model_config = SimpleNamespace(hf_config=named, head_dtype=dtype)  # type: ignore[assignment]
        with set_current_vllm_config(config):
            processor = vllm_name("LogitsProcessor")(100)
        method = vllm_name("UnquantizedEmbeddingMethod")()
        torch.manual_seed(6)
        weight, hidden = torch.randn(100, 64).to(dtype), torch.randn(5, 64).to(dtype)
        layer = torch.nn.Module()
        layer.weight, layer.quant_method, layer.tp_size = weight, method, 1
        for name, value in head.items():
            setattr(layer, name, value)
        layer.cpu_linear = torch.nn.functional.linear
        exact = torch.nn.functional.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
        return processor._apply_head(layer, hidden, bias), exact

    return of


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 100).bfloat16()], ids=["no bias", "bias"])
def test_labels_have_logits_in_float32(project: Callable[..., Any], bias: Tensor | None) -> None:
    logits, exact = project([17, 3], bias=bias)
    assert logits.dtype == FLOAT32
    assert torch.allclose(logits[:, [17, 3]], exact[:, [17, 3]], atol=1e-5)
    others = [i for i in range(100) if i not in (17, 3)]
    assert (logits[:, others] - exact[:, others]).abs().max() > 1e-3


def test_other_heads_are_vllms(project: Callable[..., Any]) -> None:
    quantised = SimpleNamespace(apply=lambda layer, x, bias: torch.nn.functional.linear(x, layer.weight, bias))
    assert project(None)[0].dtype == BFLOAT16
    assert project([17, 3], quant_method=quantised)[0].dtype == BFLOAT16
    assert project([17, 3], tp_size=2)[0].dtype == BFLOAT16
    logits, exact = project([17, 3], FLOAT32)
    assert torch.equal(logits, exact)
