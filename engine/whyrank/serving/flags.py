"""vLLM's flags: those of the user and of a config file, and our defaults for what they leave open."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whyrank.checkpoints import Plan
from whyrank.errors import InvalidRequest
from whyrank.runtimes.engine_options import DECIDE_CAPTURE_SIZES, SHARE_BESIDE_OTHERS

__all__ = [
    "ENGINE_LOG_FLAGS",
    "SERVER_DEFAULTS",
    "config_file_flags",
    "mask_secrets",
    "model_in_config_file",
    "names_of",
    "prompt_flags",
    "vllm_command",
]

# Requests in flight at SIGTERM are worth waiting for; vLLM's default is not to wait. /docs must work without the internet.
SERVER_DEFAULTS = {"shutdown_timeout": 30, "enable_offline_docs": True}
_SCALES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# Whoever gives one of these wants to see vLLM's log, or the second kind: uvicorn's line for each request.
ENGINE_LOG_FLAGS = {"log-level", "log-config-file", "logging-config", "enable-log-requests"}
_ACCESS_LOG_FLAGS = {"uvicorn-log-level", "disable-uvicorn-access-log", "disable-access-log-for-endpoints"}
# With one of these, or -cc, the user decides for which batches CUDA graphs are made; vLLM refuses our list beside it.
_CAPTURE_SIZE_FLAGS = {name.replace("_", "-") for name in DECIDE_CAPTURE_SIZES}
# On a CPU, with several API keys: half as long steps, so that a tenant's short calls wait less for what others have sent.
_TENANTS_STEPS = {"max_num_batched_tokens": 512, "long_prefill_token_threshold": 256}
# vLLM's parser takes beginnings of names, too.
_SECRET_FLAG = re.compile("--(api[-_]k(e(y)?)?|hf[-_]t(o(k(e(n)?)?)?)?)")


def config_file_flags(flags: Sequence[str]) -> list[str]:
    """The settings in the YAML file of vLLM's --config, as flags. They come before the flags of the command line, which take
    precedence."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action="append", default=[])
    paths = _parsed(parser, flags)[0].config
    if len(paths) > 1:
        raise InvalidRequest("--config is given twice: vLLM reads one file, so put all settings into it")
    as_flags: list[str] = []
    for key, value in _settings(Path(paths[0])).items() if paths else ():
        name, dot, rest = str(key).partition(".")
        as_flags += _flag(name.replace("_", "-") + dot + rest, value)
    return as_flags


def _settings(path: Path) -> dict[str, Any]:
    import yaml

    if path.suffix not in (".yaml", ".yml"):
        raise InvalidRequest(f"--config {path}: vLLM reads only files that end in .yaml or .yml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else " ".join(str(cause).split())
        raise InvalidRequest(f"--config {path}: cannot be read ({reason})") from cause
    if not isinstance(content, dict):
        raise InvalidRequest(f"--config {path}: contains no settings; write one `flag: value` per line")
    return content


def model_in_config_file(flags: Sequence[str]) -> str | None:
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model")
    model: str | None = _parsed(parser, config_file_flags(flags))[0].model
    return model


def prompt_flags(flags: Sequence[str]) -> Namespace:
    """The few vLLM flags that matter to whyrank, too: for prompts, the address, and how many tenants there are."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--revision")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--runner")
    parser.add_argument("--max-model-len", type=_token_count)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--trust-remote-code", action=BooleanOptionalAction, default=False)
    parser.add_argument("--api-key", nargs="+", default=[])
    return _parsed(parser, [flag.replace("_", "-") if flag.startswith("--") else flag for flag in flags])[0]


def _token_count(text: str) -> int | None:
    """vLLM's notation: 16384, 16k (thousands), 16K (units of 1024), and auto."""
    if text in ("auto", "-1"):
        return None
    number, scale = (text[:-1], _SCALES[text[-1]]) if text[-1:] in _SCALES else (text, 1)
    return int(float(number) * scale) if scale > 1 else int(number)


def _parsed(parser: ArgumentParser, flags: Sequence[str]) -> tuple[Namespace, list[str]]:
    try:
        return parser.parse_known_args(flags)
    except SystemExit as cause:
        raise InvalidRequest("invalid vLLM flags: see the line above") from cause


def vllm_command(plan: Plan, flags: Sequence[str], on_cpu: bool, quiet: bool = False) -> list[str]:
    """vLLM's arguments: the user's, and our defaults for what the user did not set. `quiet`: without vLLM's log."""
    from whyrank.runtimes.classify import ClassifyRuntime
    from whyrank.runtimes.generate import GenerateRuntime

    kind = ClassifyRuntime if plan.route == "classify" else GenerateRuntime
    options = kind.engine_options(plan, on_cpu) | SERVER_DEFAULTS
    if plan.config.source != plan.config.model:
        options["served_model_name"] = plan.config.model
    # The server needs its own counters; the model is not a flag; the rest is set by the user's own flags.
    for name in ("model", "disable_log_stats", "use_tqdm_on_load", "revision", "trust_remote_code"):
        options.pop(name, None)
    from_file = config_file_flags(flags)
    # Ours include the config file's overrides: if those came in a flag of their own, vLLM would drop them.
    overrides, _ = _overrides(options.pop("hf_overrides", {}), [*from_file, *flags])
    _, flags = _overrides({}, flags)
    # vLLM ignores --config=FILE written as one word.
    flags = [word for flag in flags for word in (flag.split("=", 1) if flag.startswith("--config=") else [flag])]
    given = names_of([*from_file, *flags])
    if "lora-modules" in given:
        options["enable_lora"] = True
    if "kernel-config" in given:
        options.pop("ir_op_priority", None)  # vLLM may find it there, and takes it in one place only
    if not on_cpu and "kv-cache-memory-bytes" in given:
        options.setdefault("gpu_memory_utilization", SHARE_BESIDE_OTHERS)
    if given & _CAPTURE_SIZE_FLAGS or any(flag.startswith("-cc") for flag in flags):
        options.pop("cudagraph_capture_sizes", None)
    if "long_prefill_token_threshold" in options and len(prompt_flags([*from_file, *flags]).api_key) > 1:
        options |= {name: min(tokens, plan.max_model_len) for name, tokens in _TENANTS_STEPS.items()}
    if quiet:
        options["use_tqdm_on_load"] = False
        if not given & (ENGINE_LOG_FLAGS | _ACCESS_LOG_FLAGS):
            options["uvicorn_log_level"] = "warning"
    command = ["serve", plan.config.source]
    for name, value in options.items():
        flag = name.replace("_", "-")
        if flag not in given:
            command += _flag(flag, value)
    return [*command, *overrides, *flags]


def names_of(flags: Sequence[str]) -> set[str]:
    """The first parts of --first-part.second and --no-first-part=value."""
    words = (re.split("[=.]", flag)[0] for flag in flags if flag.startswith("--"))
    return {word.removeprefix("--no-").lstrip("-").replace("_", "-") for word in words}


def _overrides(ours: Mapping[str, Any], flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the checkpoint's config.json: ours merged below the user's, one flag per key; and the user's other flags.
    vLLM keeps only one of several --hf-overrides, but merges all --hf-overrides.KEY."""
    parser = ArgumentParser("whyrank serve", add_help=False, allow_abbrev=False)
    parser.add_argument("--hf-overrides", "--hf_overrides", type=_json_object, default={})
    parsed, rest = _parsed(parser, flags)
    dotted = {re.split("[.=+]", flag)[1] for flag in rest if re.match(r"--hf[-_]overrides\.", flag)}
    merged = {**ours, **parsed.hf_overrides}
    return [f"--hf-overrides.{key}={json.dumps(value)}" for key, value in merged.items() if key not in dotted], rest


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


def _flag(name: str, value: Any) -> list[str]:
    match value:
        case None | []:
            return []
        case bool():
            return [f"--{name}" if value else f"--no-{name}"]
        case dict():
            return [f"--{name}", json.dumps(value)]
        case list():
            return [f"--{name}", *map(str, value)]
        case _:
            return [f"--{name}", str(value)]


def mask_secrets(command: Sequence[str]) -> list[str]:
    """The command with its keys masked, for the terminal and its logs."""
    shown: list[str] = []
    secret = False
    for word in command:
        flag, equals, _ = word.partition("=")
        if word.startswith("--"):
            secret = _SECRET_FLAG.fullmatch(flag) is not None
            shown.append(f"{flag}=***" if secret and equals else word)
        else:
            shown.append("***" if secret else word)
    return shown
