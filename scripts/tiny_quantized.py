#!/usr/bin/env python3
"""Writes a checkpoint's layers in a quantised format in which checkpoints are published, simply rounded, not calibrated.

Tests and trials find out with it which formats an engine takes, and what it computes.

    scripts/tiny_checkpoint.py qwen3 /tmp/prism-tiny
    scripts/tiny_quantized.py awq /tmp/prism-tiny /tmp/prism-tiny-awq
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FORMATS", "GROUP", "in_groups", "write_quantized"]

GROUP = 32
_LINEAR = re.compile(r"layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight$")
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def write_quantized(name: str, source: Path, folder: Path) -> Path:
    """`source`: a folder with one file of weights. `folder` must not exist."""
    from safetensors.torch import load_file, save_file

    config, convert, dtype = FORMATS[name]
    shutil.copytree(source, folder)
    tensors: dict[str, Tensor] = {}
    for key, tensor in load_file(source / "model.safetensors").items():
        if _LINEAR.search(key):
            tensors |= {f"{key.removesuffix('weight')}{part}": value for part, value in convert(tensor.float()).items()}
        else:
            tensors[key] = tensor.to(_dtype(dtype))
    save_file(
        {key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(table | {"dtype": dtype, "quantization_config": config}))
    return folder


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def in_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from 0 to 15, where 8 stands for zero, with a scale for each group of a row's columns."""
    rows, columns = weight.shape
    groups = weight.reshape(rows, columns // GROUP, GROUP)
    scale = groups.abs().amax(dim=2, keepdim=True) / 7
    numbers = (groups / scale).round().clamp(-8, 7) + 8
    return numbers.reshape(rows, columns).int(), scale.squeeze(2)


def _packed(numbers: Tensor, order: list[int] | None = None) -> Tensor:
    """Eight neighbours of the last dimension in each int32."""
    eights = numbers.reshape(*numbers.shape[:-1], -1, 8)
    parts = [eights[..., place].long() << (4 * bit) for bit, place in enumerate(order or range(8))]
    whole: Any = sum(parts)
    return (whole - ((whole >> 31) << 32)).int()  # as signed numbers


def _awq(weight: Tensor) -> dict[str, Tensor]:
    import torch

    numbers, scale = in_groups(weight)
    zeros = torch.full_like(scale.t(), 8).int()
    return {
        "qweight": _packed(numbers.t(), _AWQ_ORDER),
        "qzeros": _packed(zeros, _AWQ_ORDER),
        "scales": scale.t().half(),
    }


def _gptq(weight: Tensor) -> dict[str, Tensor]:
    import torch

    numbers, scale = in_groups(weight)
    zeros = torch.full_like(scale.t(), 7).int()  # the format stores one less
    g_idx = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
    return {"qweight": _packed(numbers).t(), "qzeros": _packed(zeros), "scales": scale.t().half(), "g_idx": g_idx}


def _w4a16(weight: Tensor) -> dict[str, Tensor]:
    import torch

    numbers, scale = in_groups(weight)
    return {
        "weight_packed": _packed(numbers),
        "weight_scale": scale.bfloat16(),
        "weight_shape": torch.tensor(weight.shape),
    }


def _fp8_per_matrix(weight: Tensor) -> dict[str, Tensor]:
    import torch

    scale = weight.abs().max() / 448
    return {"weight": (weight / scale).to(torch.float8_e4m3fn), "weight_scale": scale.reshape(1)}


def _fp8_per_channel(weight: Tensor) -> dict[str, Tensor]:
    import torch

    scale = weight.abs().amax(dim=1, keepdim=True) / 448
    return {"weight": (weight / scale).to(torch.float8_e4m3fn), "weight_scale": scale}


def _compressed(form: str, weights: Mapping[str, Any], inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, "dynamic": False, **weights}}
    if inputs:
        group["input_activations"] = {"symmetric": True, **inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


_FP8, _INT4 = {"num_bits": 8, "type": "float"}, {"num_bits": 4, "type": "int"}
FORMATS: dict[str, tuple[dict[str, Any], Callable[[Tensor], dict[str, Tensor]], str]] = {
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True}, _awq, "float16"),
    "gptq": (
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True, "lm_head": False},
        _gptq,
        "float16",
    ),
    "fp8": ({"quant_method": "fp8", "activation_scheme": "dynamic"}, _fp8_per_matrix, "bfloat16"),
    "fp8-compressed": (
        _compressed(
            "float-quantized",
            {**_FP8, "strategy": "channel"},
            {**_FP8, "strategy": "token", "dynamic": True},
        ),
        _fp8_per_channel,
        "bfloat16",
    ),
    "w4a16": (
        _compressed("pack-quantized", {**_INT4, "strategy": "group", "group_size": GROUP}),
        _w4a16,
        "bfloat16",
    ),
}
"""By name: the quantization_config, what is stored of a weight, and the dtype of all else."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    print(write_quantized(args.format, args.source, args.folder))


if __name__ == "__main__":
    main()
