"""Reads a checkpoint's configuration and plans how to serve it, before any engine starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from whyrank.calibration import read_calibration
from whyrank.checkpoint_files import check_folder
from whyrank.config import EngineConfig, Route
from whyrank.errors import INSTALL_ENGINE, CheckpointError, EngineNotInstalled
from whyrank.prompting.evidence import budgets, max_new_tokens
from whyrank.prompting.formats import PromptFormat, fitting_format
from whyrank.prompting.tokens import PromptEncoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Checkpoint", "Plan", "make_plan", "read_checkpoint"]

_FAST_TOKENIZER = (
    "whyrank needs tokenizer.json and tokenizer_config.json as they are beside the model; where only a slow tokenizer is, "
    "load it once with transformers' AutoTokenizer (it may want sentencepiece) and save_pretrained it into the folder"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The parts of config.json that determine how it is served. `has_linear_attention`: has such layers (Qwen3.5).
    `kv_elements_per_token`: size of a token in the prefix cache, if all layers are of one kind and config.json gives it."""

    architectures: tuple[str, ...]
    has_linear_attention: bool
    max_positions: int | None
    remote_code: bool
    kv_elements_per_token: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything decided before an engine starts. `reserved_tokens`: tokens after the prompt reserved for the answer."""

    config: EngineConfig
    checkpoint: Checkpoint
    format: PromptFormat
    route: Route
    encoder: PromptEncoder
    reserved_tokens: int


def make_plan(config: EngineConfig, positions: int | None = None) -> Plan:
    """Resolve prompt, route, tokenizer, labels and lengths; every mismatch is an error here, not a wrong score later.

    `positions`: tokens of prompt and answer together, if an engine has fewer than its checkpoint.
    """
    checkpoint = read_checkpoint(config)
    if positions is not None:
        checkpoint = replace(checkpoint, max_positions=min(positions, checkpoint.max_positions or positions))
    fmt = fitting_format(config.source, checkpoint.architectures, config.prompt)
    route = config.route or fmt.routes[0]
    if route not in fmt.routes:
        raise CheckpointError(f"route {route}: prompt '{fmt.name}' allows {', '.join(fmt.routes)}")
    if checkpoint.remote_code and route == "encoder" and not config.trust_remote_code:
        raise CheckpointError(
            f"{config.model} brings Python code of its own and runs only with it: "
            "read that code, then say --trust-remote-code"
        )
    if config.calibration is not None:
        read_calibration(Path(config.calibration)).check_fits(config.model, fmt.fingerprint)
    reserved_tokens = 1
    if route == "generate" and fmt.continuation:
        reserved_tokens = max_new_tokens(budgets(fmt, {}))
    max_length = _max_length(config, checkpoint, fmt, reserved_tokens)
    encoder = PromptEncoder(fmt, _tokenizer(config), max_length, reserved_tokens)
    return Plan(config, checkpoint, fmt, route, encoder, reserved_tokens)


def _max_length(config: EngineConfig, checkpoint: Checkpoint, fmt: PromptFormat, reserved_tokens: int) -> int:
    room = checkpoint.max_positions - reserved_tokens if checkpoint.max_positions else None
    if room is not None and room < 1:
        raise CheckpointError(
            f"{config.model} has {checkpoint.max_positions} positions (or a --max-model-len of so many): {reserved_tokens} are "
            "kept for the answer, and none is left for the prompt; give more"
        )
    if config.max_length and room and config.max_length > room:
        raise CheckpointError(
            f"max_length {config.max_length}: {config.model} has {checkpoint.max_positions} positions, of which "
            f"{reserved_tokens} are kept for the answer; at most {room}"
        )
    wanted = config.max_length or fmt.max_length
    return min(wanted, room) if room else wanted


def read_checkpoint(config: EngineConfig) -> Checkpoint:
    """Read config.json, from a folder or the hub, without running any of the checkpoint's code."""
    table = _config_table(config)
    text = table.get("text_config") or table
    architectures = table.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise CheckpointError(
            f"model {config.model!r}: config.json: architectures is {architectures!r:.60}, not a list of names"
        )
    hybrid = "linear_attention" in (text.get("layer_types") or ()) or "linear_num_value_heads" in text
    return Checkpoint(
        tuple(architectures),
        hybrid,
        max_positions=_positions(config.model, text),
        remote_code="auto_map" in table,
        kv_elements_per_token=None if hybrid else _kv_elements_per_token(text),
    )


def _kv_elements_per_token(table: dict[str, Any]) -> int | None:
    """Number of keys and values over all layers."""
    layers, heads = table.get("num_hidden_layers"), table.get("num_attention_heads")
    if not layers or not heads:
        return None
    head_size = table.get("head_dim") or table.get("hidden_size", 0) // heads
    return int(2 * layers * (table.get("num_key_value_heads") or heads) * head_size) or None


def _positions(model: str, table: dict[str, Any]) -> int | None:
    """The longest sequence that the model accepts, or None if its config sets no limit."""
    # DeBERTa's positions are relative: max_position_embeddings limits its tokenizer, not the model; the format has the limit.
    positions: int | None = table.get("max_position_embeddings")
    if positions is not None and type(positions) is not int:
        raise CheckpointError(f"model {model!r}: config.json: max_position_embeddings is {positions!r:.60}, no number")
    if positions and "roberta" in table.get("model_type", ""):
        return positions - int(table.get("pad_token_id", 1)) - 1  # they are counted from after the padding id
    return positions


def _config_table(config: EngineConfig) -> dict[str, Any]:
    transformers = _transformers()
    folder = Path(config.source)
    if folder.exists():
        check_folder(folder)
    elif config.model.startswith(("/", "./", "../", "~")):
        raise CheckpointError(f"model {config.model!r}: no such folder")
    try:
        table, _ = transformers.PretrainedConfig.get_config_dict(config.source, revision=config.revision)
    except (OSError, ValueError) as cause:
        raise CheckpointError(
            f"model {config.model!r}: neither a folder with a config.json nor a name that the hub answers for "
            f"({str(cause).splitlines()[0]:.200})"
        ) from cause
    if not table:
        raise CheckpointError(f"model {config.model!r}: no config.json there")
    return dict(table)


def _tokenizer(config: EngineConfig) -> Tokenizer:
    transformers = _transformers()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            config.source, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, ImportError, KeyError) as cause:
        (reason, *_) = str(cause).strip().splitlines() or [""]
        raise CheckpointError(
            f"model {config.model!r}: its tokenizer does not load ({type(cause).__name__}: {reason}). {_FAST_TOKENIZER}"
        ) from cause
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(f"model {config.model!r}: its tokenizer has no tokenizer.json. {_FAST_TOKENIZER}")
    return cast("Tokenizer", backend)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as cause:
        raise EngineNotInstalled(f"the engine is not installed: {INSTALL_ENGINE}") from cause
    return transformers
