"""Checks the files in a checkpoint's folder before anything slow starts.

An engine takes half a minute to notice a file that is missing, truncated or damaged, and then complains of tensors and keys.
Only local folders are checked: the hub's downloader checks its own files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whyrank.errors import CheckpointError

__all__ = ["check_folder", "read_own_json"]

_TOKENIZERS = (
    "tokenizer.json tokenizer.model spiece.model spm.model sentencepiece.bpe.model vocab.json vocab.txt".split()
)
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_NO_GGUF = (
    "vLLM cannot read .gguf files: give the checkpoint that it was converted from, or convert it back with "
    "transformers (from_pretrained(FOLDER, gguf_file=NAME))"
)
_AGAIN = "copy the checkpoint again"


def check_folder(folder: Path) -> None:
    """Raises CheckpointError naming the file and the remedy."""
    try:
        names = {path.name for path in folder.iterdir()}
    except NotADirectoryError as cause:
        what = _NO_GGUF if folder.suffix == ".gguf" else "give the folder that holds config.json"
        raise CheckpointError(f"model '{folder}' is a file: {what}") from cause
    except OSError as cause:
        raise CheckpointError(f"model '{folder}': the folder cannot be read ({cause.strerror})") from cause
    if "config.json" not in names:
        holds_gguf = any(name.endswith(".gguf") for name in names)
        remark = _NO_GGUF if holds_gguf else f"it holds {', '.join(sorted(names)[:5]) or 'nothing'}"
        raise CheckpointError(f"model '{folder}': no config.json in this folder; {remark}")
    _read_object(folder / "config.json")
    if not names.intersection(_TOKENIZERS):
        raise CheckpointError(
            f"model '{folder}': no tokenizer.json in this folder; copy it from the model's source, "
            "with tokenizer_config.json"
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if name in names:
            _read_object(folder / name)
    _check_weights(folder)


def read_own_json(model: str | Path, name: str, revision: str | None = None) -> Any:
    """One of the checkpoint's JSON files, from its folder or the hub. None if there is no such file, or if the hub cannot be
    reached and the file is not in the cache: a model that was opened online before has the file there."""
    from transformers.utils import cached_file

    try:
        path = cached_file(
            str(model),
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as cause:
        raise CheckpointError(f"{name} cannot be read ({str(cause).splitlines()[0]:.200})") from cause
    except ValueError as cause:
        raise CheckpointError(f"{name} is truncated or corrupt: not valid JSON ({cause}); {_AGAIN}") from cause


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as cause:
        raise CheckpointError(f"{path}: cannot be read ({cause.strerror})") from cause
    except ValueError as cause:
        raise CheckpointError(f"{path}: truncated or corrupt: not valid JSON ({cause}); {_AGAIN}") from cause
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is not a JSON object; {_AGAIN}")
    return value


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    wanted = sorted(set(_read_object(index).get("weight_map", {}).values())) if index.exists() else []
    if missing := [name for name in wanted if not (folder / name).exists()]:
        raise CheckpointError(f"model '{folder}': {', '.join(missing[:3])} named in {index.name} is missing; {_AGAIN}")
    if not any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        raise CheckpointError(f"model '{folder}': no weights in this folder (*.safetensors); {_AGAIN}")
    for path in sorted(folder.glob("*.safetensors")):
        _check_header(path)


def _check_header(path: Path) -> None:
    """Reads only the names and offsets of the file's tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as cause:
        raise CheckpointError(f"{path}: truncated or corrupt ({cause}); {_AGAIN}") from cause
