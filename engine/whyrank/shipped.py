"""Reads from a checkpoint how it reranks: its chat template, and the files of sentence-transformers beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whyrank.checkpoint_files import read_own_json
from whyrank.config import EngineConfig
from whyrank.errors import CheckpointError
from whyrank.prompting.formats import Labels
from whyrank.prompting.templates import Message, Template

__all__ = ["Recipe", "chat_template", "read_recipe", "ships_recipe"]

_SIGMOID, _IDENTITY = "Sigmoid", "Identity"
# Of what goes to the template, these are for the tokenizer, or for sentence-transformers itself.
_NO_VARIABLES = {"padding", "truncation", "max_length", "return_tensors", "restore_suffix"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How sentence-transformers' CrossEncoder scores a pair. `labels`: None if a classification head gives the score. `parted`:
    whether the template expects a message's content as a list of parts. `variables`: those of the template."""

    labels: Labels | None
    parted: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)
    instruction: str | None = None
    max_length: int | None = None


_WITH_LABELS, _WITH_HEAD = ["Transformer", "LogitScore"], ["Transformer"]


def ships_recipe(config: EngineConfig) -> bool:
    """Whether sentence-transformers' CrossEncoder finds its parts beside the checkpoint."""
    return _kinds(_read(config, "modules.json")) in (_WITH_LABELS, _WITH_HEAD)


def _kinds(modules: Any) -> list[str]:
    rows = modules if isinstance(modules, list) else []
    return [str(row.get("type", "")).rsplit(".", 1)[-1] for row in rows if isinstance(row, dict)]


def read_recipe(config: EngineConfig, head_outputs: int | None, template: str | None) -> Recipe | None:
    """The recipe, or None if the checkpoint has none. `head_outputs`: outputs of its classification head, if it has one;
    `template`: its chat template. Raises CheckpointError if whyrank does not support a part of the recipe."""
    modules = _read(config, "modules.json")
    kinds = _kinds(modules)
    if kinds == _WITH_LABELS:
        labels = _labels(_read(config, f"{modules[1].get('path', '')}/config.json") or {})
    elif kinds == _WITH_HEAD and head_outputs is not None:
        labels = None
        if head_outputs != 1:
            raise CheckpointError(f"its classification head has {head_outputs} outputs; whyrank reads one")
    else:
        return None
    transformer = _read(config, "sentence_bert_config.json") or {}
    outer = _read(config, "config_sentence_transformers.json") or {}
    modalities = transformer.get("modality_config")
    if not template or (modalities is not None and "message" not in modalities):
        raise CheckpointError("it has no chat template for its texts")
    _require_known_activation(outer.get("activation_fn"))
    wanted = transformer.get("processing_kwargs") or {}
    shape = (modalities or {}).get("message", {}).get("format", "auto")
    return Recipe(
        labels,
        parted=shape == "structured" or (shape == "auto" and _wants_parts(template)),
        variables={k: v for k, v in (wanted.get("chat_template") or {}).items() if k not in _NO_VARIABLES},
        instruction=(outer.get("prompts") or {}).get(outer.get("default_prompt_name")) or None,
        max_length=(wanted.get("text") or {}).get("max_length") or transformer.get("max_seq_length"),
    )


def _labels(table: Mapping[str, Any]) -> Labels:
    positive, negative = table.get("true_token_id"), table.get("false_token_id")
    for name, value in (("true_token_id", positive), ("false_token_id", negative)):
        if type(value) is not int and not (value is None and name == "false_token_id"):
            raise CheckpointError(
                f"its LogitScore has {name} = {value!r:.40}; whyrank reads one token, given by its id"
            )
    return Labels(positive=positive, negative=negative)  # type: ignore[arg-type]


def _require_known_activation(name: str | None) -> None:
    kind = (name or _SIGMOID).rsplit(".", 1)[-1]
    if kind not in (_SIGMOID, _IDENTITY):
        raise CheckpointError(f"its scores go through {name}; whyrank's score is the sigmoid of the margin")


def _wants_parts(template: str) -> bool:
    """sentence-transformers' own way to find it if the checkpoint does not give it."""
    return any(
        sign in template for sign in ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")
    )


def chat_template(tokenizer: Any, parted: bool = False, variables: Mapping[str, Any] | None = None) -> Template:
    """The checkpoint's own, as a function. It runs in jinja's sandbox."""
    from jinja2 import TemplateError

    fixed = dict(variables or {})

    def write(messages: Sequence[Message], **more: Any) -> str:
        shaped = [
            {"role": role, "content": [{"type": "text", "text": text}] if parted else text} for role, text in messages
        ]
        try:
            return str(tokenizer.apply_chat_template(shaped, tokenize=False, **fixed | more))
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as cause:
            roles = ", ".join(role for role, _ in messages)
            raise CheckpointError(f"its chat template refuses messages of {roles}: {cause}") from cause

    return write


def _read(config: EngineConfig, name: str) -> Any:
    return read_own_json(config.source, name, config.revision)
