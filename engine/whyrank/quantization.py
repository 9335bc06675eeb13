"""How a checkpoint's weights are quantised, by what its config.json says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["REMEDY", "Quantization", "read_quantization"]

_KEYS = ("quantization_config", "compression_config")
# vLLM multiplies the weights of all other methods in 16 bits only.
_TAKE_FLOAT32 = {"compressed-tensors", "torchao"}
_PER = {"channel": "output channel", "tensor": "matrix"}
_AS_THEY_COME = "scaled as they come"
_MAX_NAMED = 4
REMEDY = "give the checkpoint that it was made from, or on a CPU an int8 one that `whyrank quantize` makes of that"
"""If vLLM has no kernel for quantised weights."""
_CLASSIFIER = "score"  # the last layer of a classifier

_Table = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Quantization:
    """`method`: as config.json names it. `layers`: for people, in what numbers the layers' weights are stored and their inputs
    multiplied. `left_out`: layers that are not quantised, by the names or patterns in config.json. `has_head`: the last layer,
    which computes the logits, is quantised, too; `has_embedding`: so is the first. `is_int8`: weights and inputs are int8.
    `has_fp8_inputs`: inputs are rounded to fp8. `takes_float32`: vLLM can compute all else in float32."""

    method: str
    layers: str
    left_out: tuple[str, ...] = ()
    has_head: bool = False
    has_embedding: bool = False
    is_int8: bool = False
    has_fp8_inputs: bool = False
    takes_float32: bool = False

    def __str__(self) -> str:
        """One line for people."""
        named = [name for name in self.left_out if not _names_head(name) and name != _CLASSIFIER]
        more = [f"and {len(named) - _MAX_NAMED} more"] if len(named) > _MAX_NAMED else []
        parts = {"embeddings": not self.has_embedding, "norms": True, "the last layer": not self.has_head}
        full = ", ".join([*(part for part, is_full in parts.items() if is_full), *named[:_MAX_NAMED], *more])
        return f"{self.method}, {self.layers}; not quantised: {full}"


def read_quantization(config: _Table) -> Quantization | None:
    """`config`: config.json. None if the weights are not quantised."""
    places = (place for place in (config, config.get("text_config")) if isinstance(place, Mapping))
    tables = (place.get(key) for place in places for key in _KEYS)
    table = next((table for table in tables if isinstance(table, Mapping) and table), None)
    if table is None:
        return None
    method = str(table.get("quant_method") or "compressed-tensors")
    match method:
        case "compressed-tensors":
            return _compressed_tensors(table)
        case "fp8":
            return _fp8(table)
        case "awq" | "gptq":
            return _grouped(method, table)
    left_out = _names(table, "ignore", "exclude_modules", "modules_to_not_convert")
    has_head = method.startswith("modelopt") and not _name_head(left_out)
    layers = "of which whyrank knows no details"
    return Quantization(method, layers, left_out, has_head, takes_float32=method in _TAKE_FLOAT32)


def _compressed_tensors(table: _Table) -> Quantization:
    groups = [group for group in (table.get("config_groups") or {}).values() if isinstance(group, Mapping)]
    targets = [str(target) for group in groups for target in group.get("targets") or []]
    left_out = _names(table, "ignore")
    inputs = [group.get("input_activations") for group in groups]
    numbers = [part or {} for group in groups for part in (group.get("weights"), group.get("input_activations"))]
    return Quantization(
        "compressed-tensors",
        " and ".join(dict.fromkeys(map(_group, groups))) or "of which config.json gives no details",
        left_out,
        has_head=_name_head(targets) and not _name_head(left_out),
        has_embedding=any("Embedding" in target or "embed_tokens" in target for target in targets),
        is_int8=bool(numbers) and all(part.get("num_bits") == 8 and part.get("type") == "int" for part in numbers),
        has_fp8_inputs=any(part and part.get("type") == "float" for part in inputs),
        takes_float32=all(inputs),  # the kernels that leave inputs as they are take 16 bits
    )


def _group(group: _Table) -> str:
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    size, block = weights.get("group_size"), weights.get("block_structure")
    strategy = str(weights.get("strategy"))
    if strategy == "group" and size:
        per = f"{size} inputs"
    else:
        per = f"block of {' × '.join(map(str, block))}" if block else _PER.get(strategy, strategy)
    text = f"{_kind(weights)} weights with a scale per {per}"
    if not inputs:
        return f"{text}, inputs not rounded"
    return f"{text}, {_kind(inputs)} inputs {_AS_THEY_COME if inputs.get('dynamic') else 'with fixed scales'}"


def _kind(numbers: _Table) -> str:
    return f"{'fp' if numbers.get('type') == 'float' else 'int'}{numbers.get('num_bits', '')}"


def _fp8(table: _Table) -> Quantization:
    block = table.get("weight_block_size")
    per = f"block of {' × '.join(map(str, block))}" if block else "matrix"
    inputs = "with fixed scales" if table.get("activation_scheme") == "static" else _AS_THEY_COME
    layers = f"fp8 weights with a scale per {per}, fp8 inputs {inputs}"
    return Quantization("fp8", layers, _names(table, "ignored_layers", "modules_to_not_convert"), has_fp8_inputs=True)


def _grouped(method: str, table: _Table) -> Quantization:
    """AWQ and GPTQ."""
    bits, size = (next((table[key] for key in keys if key in table), "?") for keys in _WIDTHS)
    layers = f"int{bits} weights with a scale per {'output channel' if size == -1 else f'{size} inputs'}"
    return Quantization(
        method,
        f"{layers}, inputs not rounded",
        _names(table, "modules_to_not_convert"),
        has_head=table.get("lm_head") is True,
    )


_WIDTHS = (("bits", "w_bit"), ("group_size", "q_group_size"))


def _names(table: _Table, *keys: str) -> tuple[str, ...]:
    """The first of these keys that holds names."""
    return next((tuple(map(str, table[key])) for key in keys if isinstance(table.get(key), list) and table[key]), ())


def _name_head(names: Iterable[str]) -> bool:
    return any(map(_names_head, names))


def _names_head(name: str) -> bool:
    return "lm_head" in name or name == "ParallelLMHead"
