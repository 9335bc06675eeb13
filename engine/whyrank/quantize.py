"""Writes a checkpoint's linear layers in int8: weights per output channel, activations per token when the engine runs.

The result is in compressed-tensors' W8A8 format, which vLLM and transformers read. The largest weight of a channel becomes 127
and activations are measured as they come, so there is nothing to calibrate. Embeddings, norms and the head stay as they are.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whyrank.checkpoint_files import check_folder
from whyrank.config import EngineConfig
from whyrank.errors import INSTALL_ENGINE, CheckpointError, EngineNotInstalled, InvalidRequest
from whyrank.quantization import read_quantization

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Quantized", "has_amx", "int8_instructions", "quantize"]

_LAYER = re.compile(r"(?:^|\.)layers\.\d+\.")
_LINEAR = re.compile(r"\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight$")
_INDEX = "model.safetensors.index.json"
# What vLLM and transformers would read in place of, or beside, the weights that are written.
_OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.onnx", "*.onnx_data", "*.gguf", "*.h5", "*.msgpack")
_INT8: dict[str, Any] = {"num_bits": 8, "type": "int", "symmetric": True}
_FORMAT: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": _INT8 | {"strategy": "channel", "dynamic": False},
            "input_activations": _INT8 | {"strategy": "token", "dynamic": True},
        }
    },
    "ignore": ["lm_head", "score"],
}


@dataclass(frozen=True, slots=True)
class Quantized:
    """What was written: how many layers are in int8 now, and the size of all weights in bytes, before and after."""

    layers: int
    bytes_before: int
    bytes_after: int


@cache
def int8_instructions() -> str | None:
    """Those with which this processor adds up products of int8. Older ones may overflow in between, which changes scores."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    names = {"AMX-INT8": "amx_int8", "AVX512-VNNI": "avx512_vnni", "AVX-VNNI": "avx_vnni"}
    return next((name for name, key in names.items() if capabilities.get(key)), None)


def has_amx() -> bool:
    """Whether this processor multiplies tiles, as vLLM's kernels for fp8 do."""
    import torch

    return bool(torch.cpu.get_capabilities().get("amx_tile"))


def quantize(config: EngineConfig, out: Path) -> Quantized:
    """Raises CheckpointError for a checkpoint that it cannot do, before anything is written."""
    if out.exists():
        raise InvalidRequest(f"{out} already exists: give a folder that does not exist")
    source = _folder(config)
    table = json.loads((source / "config.json").read_text(encoding="utf-8"))
    files = _weight_files(config, source)
    linear = _linear_layers(config, table, files)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
            folder = Path(scratch) / out.name
            shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*_OTHER_WEIGHTS, "*.index.json", ".*"))
            quantized = _write_weights(files, linear, folder)
            text = json.dumps(table | {"quantization_config": _FORMAT}, indent=2, ensure_ascii=False)
            (folder / "config.json").write_text(text + "\n", encoding="utf-8")
            folder.rename(out)
    except OSError as cause:
        raise InvalidRequest(f"{out}: cannot be written ({cause.strerror or cause})") from cause
    return quantized


def _folder(config: EngineConfig) -> Path:
    """The checkpoint's own, or the hub's cache, where it is put if it is not there."""
    folder = Path(config.source)
    if not folder.exists():
        if config.model.startswith(("/", "./", "../", "~")):
            raise CheckpointError(f"model {config.model!r}: no such folder")
        try:
            from huggingface_hub import snapshot_download
            from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
        except ImportError as cause:
            raise EngineNotInstalled(f"the engine is not installed: {INSTALL_ENGINE}") from cause
        unwanted = [pattern for pattern in _OTHER_WEIGHTS if pattern != "*.safetensors"]
        try:
            folder = Path(snapshot_download(config.source, revision=config.revision, ignore_patterns=unwanted))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as cause:
            reason = str(cause).splitlines()[0]
            raise CheckpointError(
                f"model {config.model!r}: neither a folder nor a name known to the hub ({reason:.200})"
            ) from cause
    check_folder(folder)
    return folder


def _weight_files(config: EngineConfig, folder: Path) -> list[Path]:
    """Those that the index names where there is one: some checkpoints have their weights a second time beside it."""
    index = folder / _INDEX
    if index.exists():
        return [folder / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"model {config.model!r}: its weights are not in .safetensors files: load it with transformers and write it "
            "with save_pretrained"
        )
    return files


def _linear_layers(config: EngineConfig, table: Mapping[str, Any], files: list[Path]) -> frozenset[str]:
    """The names of the weights that are multiplied in int8. Layers with other matrices than a decoder's are refused: an engine
    may fuse, transpose or mix those."""
    if (quantization := read_quantization(table)) is not None:
        raise CheckpointError(
            f"model {config.model!r}: it is quantised already ({quantization.method}): give the one that it was made from"
        )
    matrices = [
        name for path in files for name, shape in _shapes(path).items() if _LAYER.search(name) and len(shape) > 1
    ]
    kind = ", ".join(table.get("architectures") or []) or table.get("model_type", "unknown")
    remedy = "`whyrank quantize` does decoders whose layers have only q, k, v, o, gate, up and down projections"
    if not matrices:
        raise CheckpointError(f"model {config.model!r} ({kind}): no decoder layers found; {remedy}")
    if odd := [name for name in matrices if not _LINEAR.search(name)]:
        raise CheckpointError(f"model {config.model!r} ({kind}): it has {odd[0]}; {remedy}")
    return frozenset(matrices)


def _shapes(path: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118


def _write_weights(files: list[Path], linear: frozenset[str], folder: Path) -> Quantized:
    """File by file, so that memory need hold only one of them."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    weight_map, before, after = dict[str, str](), 0, 0
    for path in files:
        tensors: dict[str, Tensor] = {}
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata()
            for name in stored.keys():  # noqa: SIM118
                tensor = stored.get_tensor(name)
                before += tensor.nbytes
                if name in linear:
                    tensors[name], tensors[f"{name}_scale"] = _per_channel(tensor)
                else:
                    tensors[name] = tensor
        save_file(tensors, folder / path.name, metadata or {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, path.name)
        after += sum(tensor.nbytes for tensor in tensors.values())
    if len(files) > 1 or files[0].name != "model.safetensors":
        index = {"metadata": {"total_size": after}, "weight_map": weight_map}
        (folder / _INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    return Quantized(len(linear), before, after)


def _per_channel(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a weight, each divided by its own scale and rounded, and the scales."""
    import torch

    rows = weight.float()
    scale = (rows.abs().amax(dim=1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows / scale).round().to(torch.int8), scale
