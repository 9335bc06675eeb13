"""Reads a checkpoint's configuration and plans how to serve it, before any engine starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from whyrank.calibration import read_calibration
from whyrank.checkpoint_files import check_folder
from whyrank.config import EngineConfig, Route
from whyrank.connect import named_options
from whyrank.errors import INSTALL_ENGINE, CheckpointError, EngineNotInstalled
from whyrank.prompting.evidence import budgets, max_new_tokens
from whyrank.prompting.formats import PromptFormat, builtin_formats, fitting_format, formats_that_fit
from whyrank.prompting.listwise import answer_bound, identifier_ids, order_tokens
from whyrank.prompting.templates import CHAT, MAX_LENGTH, chat_formats, shipped_format
from whyrank.prompting.tokens import PromptEncoder
from whyrank.quantization import Quantization, read_quantization
from whyrank.shipped import chat_template, read_recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "Checkpoint",
    "Plan",
    "derived_format",
    "make_claims_plan",
    "make_plan",
    "make_verifier_plan",
    "read_checkpoint",
]

_HEAD = "ForSequenceClassification"
_FAST_TOKENIZER = (
    "whyrank needs tokenizer.json and tokenizer_config.json beside the model; if there is only a slow tokenizer, load it "
    "once with transformers' AutoTokenizer (which may need sentencepiece) and write it there with save_pretrained"
)
_LINEAR_HEAD_SIZES = ("linear_key_head_dim", "linear_value_head_dim")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The parts of config.json that decide how it is served. `has_linear_attention`: has linear-attention layers (Qwen3.5).
    `linear_head_sizes`: their head sizes, for keys and for values. `kv_elements_per_token`: numbers per token in the prefix
    cache, if all layers are of one kind and the config gives it. `stored_dtype`: that of the weights, if the config gives it.
    `head_outputs`: outputs of the classification head, if there is one. `has_vision`: can also read images.
    `quantization`: how the weights are quantised, if they are."""

    architectures: tuple[str, ...]
    has_linear_attention: bool
    max_positions: int | None
    remote_code: bool
    kv_elements_per_token: int | None
    stored_dtype: str | None
    linear_head_sizes: frozenset[int]
    head_outputs: int | None = None
    has_vision: bool = False
    quantization: Quantization | None = None

    @property
    def has_quantized_head(self) -> bool:
        """Whether the last layer, which computes the logits, is quantised, too, by vLLM's reading of the config."""
        return self.quantization is not None and self.quantization.has_head


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything decided before an engine starts. `reserved_tokens`: tokens kept free behind the prompt. `choices`: formats
    that only differ in their labels; the engine's answers decide between them (label_choice.py), by their `label_masses`.
    `identifier_ids`: the tokens that are read to order lists, if any are."""

    config: EngineConfig
    checkpoint: Checkpoint
    format: PromptFormat
    route: Route
    encoder: PromptEncoder
    reserved_tokens: int
    choices: tuple[PromptFormat, ...] = ()
    label_masses: tuple[float, ...] = ()
    identifier_ids: tuple[int, ...] = ()

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest prompt with its answer."""
        return self.encoder.max_length + self.reserved_tokens

    def with_choice(self, fmt: PromptFormat) -> Plan:
        """The plan with one of its choices."""
        return replace(self, format=fmt, encoder=self.encoder.with_labels(fmt))

    def check_calibration(self) -> None:
        if self.config.calibration is not None:
            read_calibration(Path(self.config.calibration)).check_fits(self.config.model, self.format.fingerprint)


def make_plan(config: EngineConfig, positions: int | None = None) -> Plan:
    """Resolve prompt, route, tokenizer, labels and lengths; every mismatch is an error here, not a wrong score later.

    `positions`: tokens of prompt and answer together, if an engine has fewer than its checkpoint.
    """
    checkpoint = read_checkpoint(config)
    if positions is not None:
        checkpoint = replace(checkpoint, max_positions=min(positions, checkpoint.max_positions or positions))
    tokenizer = _tokenizer(config)
    choices = tuple(_formats(config, checkpoint, tokenizer))
    fmt = choices[0]
    route = _route(config, checkpoint, fmt)
    backend = _backend(config, tokenizer)
    reserved_tokens = 1
    if route == "generate" and fmt.continuation:
        reserved_tokens = max_new_tokens(budgets(fmt, {})) + len(backend.encode(fmt.continuation.opening).ids)
    if route == "generate" and fmt.listwise:
        reserved_tokens = max(reserved_tokens, answer_bound(fmt.listwise, fmt.listwise.window))
    max_length = _max_length(config, checkpoint, fmt, reserved_tokens)
    encoder = PromptEncoder(fmt, backend, max_length, reserved_tokens, refuses_media=checkpoint.has_vision)
    identifiers: tuple[int, ...] = ()
    if route == "generate" and fmt.listwise:
        is_read_once = fmt.listwise.readout == "first"
        identifiers = identifier_ids(encoder) if is_read_once else order_tokens(encoder).choices
    plan = Plan(config, checkpoint, fmt, route, encoder, reserved_tokens, choices, identifier_ids=identifiers)
    if len(choices) == 1:
        plan.check_calibration()
    return plan


def _route(config: EngineConfig, checkpoint: Checkpoint, fmt: PromptFormat) -> Route:
    route = config.route or fmt.routes[0]
    if route not in fmt.routes:
        raise CheckpointError(f"route {route}: prompt '{fmt.name}' allows {', '.join(fmt.routes)}")
    if route == "classify" and checkpoint.has_vision and checkpoint.has_linear_attention:
        raise CheckpointError(
            f"route classify: vLLM makes no classifier of {', '.join(checkpoint.architectures)}, which has a vision tower; use "
            "route generate"
        )
    if checkpoint.remote_code and route == "encoder" and not config.trust_remote_code:
        raise CheckpointError(
            f"{config.model} needs the Python code that it ships: read that code, then give --trust-remote-code"
        )
    return route


def derived_format(config: EngineConfig) -> PromptFormat:
    """The format that comes with the checkpoint; of several spellings of the labels, the first."""
    checkpoint, tokenizer = read_checkpoint(config), _tokenizer(config)
    if config.prompt in CHAT:
        return _chat_formats(config, checkpoint, tokenizer)[0]
    fmt = _shipped_format(config, checkpoint, tokenizer)
    if fmt is None:
        raise CheckpointError(
            f"{config.model}: it comes without a prompt (a chat template, and a modules.json with a LogitScore or for a "
            "classification head); --prompt chat shows the one of a chat model"
        )
    return fmt


def _formats(config: EngineConfig, checkpoint: Checkpoint, tokenizer: Any) -> list[PromptFormat]:
    """The requested format, else ours that fits, else the checkpoint's own. Several if the engine's answers are to decide."""
    if config.prompt in CHAT:
        return _chat_formats(config, checkpoint, tokenizer)
    if config.prompt is None and not formats_that_fit(config.source, checkpoint.architectures):
        shipped = _shipped_format(config, checkpoint, tokenizer)
        if shipped is not None:
            return [shipped]
    return [fitting_format(config.source, checkpoint.architectures, config.prompt)]


def _shipped_format(config: EngineConfig, checkpoint: Checkpoint, tokenizer: Any) -> PromptFormat | None:
    try:
        recipe = read_recipe(config, checkpoint.head_outputs, tokenizer.chat_template)
        if recipe is None:
            return None
        return shipped_format(
            chat_template(tokenizer, recipe.parted, recipe.variables),
            config.source,
            checkpoint.architectures,
            recipe.labels,
            recipe.instruction,
            recipe.max_length or min(tokenizer.model_max_length, MAX_LENGTH),
        )
    except CheckpointError as cause:
        raise CheckpointError(
            f"{config.model}: no prompt can be derived from it: {cause}. Describe its prompt in a TOML file "
            "(`whyrank formats --where` shows ours) and pass --prompt FILE, or use --prompt chat"
        ) from cause


def _chat_formats(config: EngineConfig, checkpoint: Checkpoint, tokenizer: Any) -> list[PromptFormat]:
    try:
        if checkpoint.head_outputs is not None:
            raise CheckpointError("it has a classification head and writes no text")
        if not tokenizer.chat_template:
            raise CheckpointError("it has no chat template")
        question, backend = CHAT[str(config.prompt)], _backend(config, tokenizer)
        return chat_formats(question, chat_template(tokenizer), config.source, checkpoint.architectures, backend)
    except CheckpointError as cause:
        raise CheckpointError(
            f"{config.model}: it cannot be used as a chat model: {cause}. Describe its prompt in a TOML file "
            "(`whyrank formats --where` shows ours) and pass --prompt FILE"
        ) from cause


def make_verifier_plan(served: Plan) -> Plan | None:
    """The plan of the verifier, the second checkpoint that the config may name to judge evidence."""
    name = served.config.verifier
    if name is None:
        return None
    if served.route != "generate" or served.format.continuation is None:
        raise CheckpointError(
            f"verifier {name!r}: {served.config.model} with prompt '{served.format.name}' on route {served.route} writes no "
            "evidence for it to judge; leave it out"
        )
    return make_claims_plan(name, {})


def make_claims_plan(name: str, options: Mapping[str, Any]) -> Plan:
    """The plan of a model that judges claims. Options that follow its name take precedence over `options`."""
    model, named = named_options(name)
    plan = make_plan(EngineConfig(model, **{**options, **named}))
    if not plan.format.can_judge_claims:
        able = ", ".join(fmt.name for fmt in builtin_formats().values() if fmt.can_judge_claims)
        raise CheckpointError(
            f"verifier {plan.config.model!r}: prompt '{plan.format.name}' can judge only relevance; prompts that can "
            f"judge claims: {able}"
        )
    return plan


def _max_length(config: EngineConfig, checkpoint: Checkpoint, fmt: PromptFormat, reserved_tokens: int) -> int:
    room = checkpoint.max_positions - reserved_tokens if checkpoint.max_positions else None
    if room is not None and room < 1:
        raise CheckpointError(
            f"{config.model} has {checkpoint.max_positions} positions (or --max-model-len allows no more): {reserved_tokens} "
            "are reserved for the answer, which leaves none for the prompt; give more"
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
    if table.get("is_encoder_decoder"):
        raise CheckpointError(
            f"model {config.model!r} is an encoder-decoder model like T5, which whyrank cannot run; give a "
            "decoder or an encoder"
        )
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
        stored_dtype=_stored_dtype(table, text),
        linear_head_sizes=frozenset(text[key] for key in _LINEAR_HEAD_SIZES if key in text),
        head_outputs=_head_outputs(table) if any(name.endswith(_HEAD) for name in architectures) else None,
        has_vision="vision_config" in table,
        quantization=read_quantization(table),
    )


def _stored_dtype(*tables: dict[str, Any]) -> str | None:
    """Older checkpoints call it torch_dtype."""
    named = (table.get(key) for table in tables for key in ("dtype", "torch_dtype"))
    return next((name for name in named if isinstance(name, str)), None)


def _head_outputs(table: dict[str, Any]) -> int:
    """As transformers counts them: two if the config does not give the number."""
    return int(table.get("num_labels") or len(table.get("id2label") or "01"))


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
        raise CheckpointError(
            f"model {model!r}: config.json: max_position_embeddings is {positions!r:.60}, not a number"
        )
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
            f"model {config.model!r}: neither a folder with a config.json nor a name known to the hub "
            f"({str(cause).splitlines()[0]:.200})"
        ) from cause
    if not table:
        raise CheckpointError(f"model {config.model!r}: no config.json there")
    return dict(table)


def _tokenizer(config: EngineConfig) -> Any:
    transformers = _transformers()
    try:
        return transformers.AutoTokenizer.from_pretrained(
            config.source, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, ImportError, KeyError) as cause:
        (reason, *_) = str(cause).strip().splitlines() or [""]
        raise CheckpointError(
            f"model {config.model!r}: its tokenizer cannot be loaded ({type(cause).__name__}: {reason}). {_FAST_TOKENIZER}"
        ) from cause


def _backend(config: EngineConfig, tokenizer: Any) -> Tokenizer:
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
